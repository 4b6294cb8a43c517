//! Reading the members of a JSON object that somebody else wrote.
//!
//! ECS clients send more than we know, and people write definitions by hand, so each member is
//! taken by name and type, and what is left over is refused by its full path: a field is never
//! silently ignored. Null, `""`, `[]` and `{}` count as absent everywhere, and so do `false` and
//! `0` in members that nobody takes: that is how ECS itself fills in a description, and what it
//! describes must be good to register again.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::{ApiError, Code};

/// The members of one JSON object, and where in the request it stands.
#[derive(Debug)]
pub struct Members {
    path: String,
    map: Map<String, Value>,
}

impl Members {
    /// The object at the top of a request.
    pub fn root(value: Value) -> Result<Self, ApiError> {
        Self::at(String::new(), value)
    }

    fn at(path: String, value: Value) -> Result<Self, ApiError> {
        match value {
            Value::Object(map) => Ok(Self { path, map }),
            other => Err(wrong_type(&path, &other, "an object")),
        }
    }

    /// Where `name` stands, for a message: `containerDefinitions[1].image`.
    pub fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    fn take(&mut self, name: &str) -> Option<(String, Value)> {
        let value = self.map.remove(name)?;
        (!is_empty(&value)).then(|| (self.path_of(name), value))
    }

    /// A string, or nothing where it is absent or empty.
    pub fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some((_, Value::String(text))) => Ok(Some(text)),
            Some((path, other)) => Err(wrong_type(&path, &other, "a string")),
        }
    }

    /// A string without which the request makes no sense.
    pub fn required_string(&mut self, name: &str) -> Result<String, ApiError> {
        let path = self.path_of(name);
        self.string(name)?.ok_or_else(|| {
            ApiError::client(format!("{path} is missing or empty; it must be a string"))
        })
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some((_, Value::Bool(value))) => Ok(Some(value)),
            Some((path, other)) => Err(wrong_type(&path, &other, "true or false")),
        }
    }

    /// A whole number within `range`.
    pub fn integer(
        &mut self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, ApiError> {
        let Some((path, value)) = self.take(name) else {
            return Ok(None);
        };
        let Value::Number(number) = &value else {
            return Err(wrong_type(&path, &value, "a whole number"));
        };
        if !number.is_i64() && !number.is_u64() {
            return Err(wrong_type(&path, &value, "a whole number"));
        }
        match number.as_i64().filter(|n| range.contains(n)) {
            Some(n) => Ok(Some(n)),
            None => Err(ApiError::client(format!(
                "{path} is {number}; it must be between {} and {}",
                range.start(),
                range.end()
            ))),
        }
    }

    /// A list of strings; absent is empty.
    pub fn strings(&mut self, name: &str) -> Result<Vec<String>, ApiError> {
        self.list(name)?
            .into_iter()
            .map(|(path, value)| match value {
                Value::String(text) => Ok(text),
                other => Err(wrong_type(&path, &other, "a string")),
            })
            .collect()
    }

    /// A list of objects; absent is empty.
    pub fn objects(&mut self, name: &str) -> Result<Vec<Members>, ApiError> {
        self.list(name)?
            .into_iter()
            .map(|(path, value)| Self::at(path, value))
            .collect()
    }

    fn list(&mut self, name: &str) -> Result<Vec<(String, Value)>, ApiError> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some((path, Value::Array(values))) => Ok(values
                .into_iter()
                .enumerate()
                .map(|(i, value)| (format!("{path}[{i}]"), value))
                .collect()),
            Some((path, other)) => Err(wrong_type(&path, &other, "a list")),
        }
    }

    /// An object, or nothing.
    pub fn object(&mut self, name: &str) -> Result<Option<Members>, ApiError> {
        self.take(name)
            .map(|(path, value)| Self::at(path, value))
            .transpose()
    }

    /// An object whose values are all strings, in its order.
    pub fn string_map(&mut self, name: &str) -> Result<Vec<(String, String)>, ApiError> {
        let Some(members) = self.object(name)? else {
            return Ok(Vec::new());
        };
        let path = members.path;
        members
            .map
            .into_iter()
            .map(|(key, value)| match value {
                Value::String(text) => Ok((key, text)),
                other => Err(wrong_type(&format!("{path}.{key}"), &other, "a string")),
            })
            .collect()
    }

    /// One of a few words, by `parse`; `allowed` is for the message.
    pub fn word<T>(
        &mut self,
        name: &str,
        allowed: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let path = self.path_of(name);
        let Some(text) = self.string(name)? else {
            return Ok(None);
        };
        match parse(&text) {
            Some(value) => Ok(Some(value)),
            None => Err(ApiError::client(format!(
                "{path} is '{}'; it must be {allowed}",
                text.escape_debug()
            ))),
        }
    }

    /// Whether a member is there that says something.
    pub fn says(&self, name: &str) -> bool {
        let value = self.map.get(name);
        value.is_some_and(|value| !is_empty(value) && !is_default(value))
    }

    /// Passes over members that only an answer has.
    pub fn pass_over(&mut self, names: &[&str]) {
        for name in names {
            self.map.remove(*name);
        }
    }

    /// Refuses whatever has not been taken and says something.
    pub fn finish(self) -> Result<(), ApiError> {
        self.refuse(self.map.keys().find(|name| self.says(name)))
    }

    /// Refuses whatever has not been taken: for what only people write, so that nobody fills in what isn't set.
    pub fn finish_strictly(self) -> Result<(), ApiError> {
        self.refuse(self.map.keys().next())
    }

    fn refuse(&self, name: Option<&String>) -> Result<(), ApiError> {
        match name {
            None => Ok(()),
            Some(name) => Err(ApiError::client(format!(
                "{} is not supported by this version of Berth; remove it",
                self.path_of(name)
            ))),
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn is_default(value: &Value) -> bool {
    match value {
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        _ => false,
    }
}

fn wrong_type(path: &str, value: &Value, wanted: &str) -> ApiError {
    let is = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    let path = if path.is_empty() { "the request" } else { path };
    ApiError::new(
        Code::Serialization,
        format!("{path} is {is}; it must be {wanted}"),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn members(value: Value) -> Members {
        Members::root(value).unwrap()
    }

    #[test]
    fn empty_members_count_as_absent() {
        let mut m = members(json!({"a": "", "b": [], "c": {}, "d": null}));
        assert_eq!(m.string("a"), Ok(None));
        assert_eq!(m.strings("b"), Ok(vec![]));
        assert!(m.object("c").unwrap().is_none());
        assert_eq!(m.integer("d", 0..=1), Ok(None));
        assert_eq!(m.finish(), Ok(()));
    }

    #[test]
    fn what_nobody_took_is_refused_by_its_path_unless_it_says_nothing() {
        let mut m = members(json!({"list": [{"privileged": false, "links": [], "gpu": 0}]}));
        for inner in m.objects("list").unwrap() {
            assert_eq!(inner.finish(), Ok(()));
        }
        let mut m = members(json!({"list": [{}, {"privileged": true}]}));
        let error = m
            .objects("list")
            .unwrap()
            .pop()
            .unwrap()
            .finish()
            .unwrap_err();
        assert_eq!(error.code, Code::Client);
        assert!(
            error
                .message
                .starts_with("list[1].privileged is not supported"),
            "{error}"
        );
    }

    #[test]
    fn strictly_a_member_that_says_nothing_is_refused_too() {
        for value in [json!(""), json!(0), json!(false), json!(null), json!([])] {
            let error = members(json!({ "x": value })).finish_strictly();
            assert!(error.unwrap_err().message.starts_with("x is not"));
        }
        assert_eq!(members(json!({})).finish_strictly(), Ok(()));
    }

    #[test]
    fn a_wrong_type_is_a_serialization_exception_that_names_the_member() {
        let mut m = members(json!({"cpu": "much", "on": 1, "n": 1.5}));
        for error in [
            m.integer("cpu", 0..=1).unwrap_err(),
            m.boolean("on").unwrap_err(),
            m.integer("n", 0..=9).unwrap_err(),
        ] {
            assert_eq!(error.code, Code::Serialization, "{error}");
        }
        assert_eq!(
            Members::root(json!([])).unwrap_err().code,
            Code::Serialization
        );
    }

    #[test]
    fn a_number_out_of_range_names_the_range() {
        let mut m = members(json!({"n": -4, "huge": 18446744073709551615u64}));
        assert_eq!(
            m.integer("n", 0..=10).unwrap_err().message,
            "n is -4; it must be between 0 and 10"
        );
        assert_eq!(m.integer("huge", 0..=10).unwrap_err().code, Code::Client);
    }
}
