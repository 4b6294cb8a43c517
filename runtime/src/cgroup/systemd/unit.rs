//! What systemd is asked about a scope: to start it, to change it, to remove it.

use std::path::Path;

use nix::sys::signal::Signal;
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use super::bus::{BusError, Connection};
use super::message::Cursor;
use super::name::Scope;
use super::place::Manager;
use super::placeholder::Placeholder;
use super::properties;
use super::value::Value;
use crate::cgroup::{Cgroup, Error, Mark, limits};

/// What a container's scope is described as, where whoever removes it can tell whose it is.
pub(super) fn description(id: &str, mark: Option<&Mark>) -> String {
    match mark {
        None => format!("container {id}"),
        // A mark begins with the id.
        Some(mark) => format!("container {mark}"),
    }
}

/// A description that an annotation asks for keeps the mark.
pub(super) fn keep_mark(asked: Value, mark: Option<&Mark>) -> Value {
    const NAME: &str = "Description";
    match (&asked, mark) {
        (Value::Struct(fields), Some(mark)) => match fields.as_slice() {
            [Value::Text(name), Value::Variant(value)] if name == NAME => match &**value {
                Value::Text(text) => {
                    properties::property(NAME, Value::text(format!("{text} ({mark})")))
                }
                _ => asked,
            },
            _ => asked,
        },
        _ => asked,
    }
}

/// Description and load state of the first unit of a list, `a(ssssssouso)`.
fn first_listed(reply: &[u8]) -> Option<(String, String)> {
    let mut fields = Cursor::new(reply);
    let _length = fields.u32()?;
    // A structure begins at a multiple of eight.
    let _padding = fields.u32()?;
    let _name = fields.text()?;
    Some((fields.text()?, fields.text()?))
}

/// A container's scope, as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    pub(super) manager: Manager,
    pub(super) name: String,
}

impl Unit {
    /// The scope that [`Driver::Systemd`] makes for a container of this id and `cgroupsPath`. Nobody is
    /// asked, so it can be put on record before it is made.
    ///
    /// [`Driver::Systemd`]: crate::cgroup::Driver::Systemd
    pub fn of(path: Option<&Path>, id: &str) -> Result<Self, Error> {
        let manager = Manager::ours();
        let name = Scope::of(path, id, manager)?.unit;
        Ok(Self { manager, name })
    }

    /// The unit's name, `….scope`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts it, and returns when systemd has done so.
    pub(super) fn start(&self, properties: Vec<Value>) -> Result<(), Error> {
        let mut connection = self.connect()?;
        let arguments = vec![
            Value::text(&self.name),
            Value::text("fail"),
            properties::list(properties),
            Value::Array("(sa(sv))".to_owned(), Vec::new()),
        ];
        const DOING: &str = "start the scope";
        let mut start = || connection.manager_call(DOING, "StartTransientUnit", arguments.clone());
        let reply = match start() {
            // One that failed may be left from before.
            Err(error) if error.is_named("org.freedesktop.systemd1.UnitExists") => {
                self.reset_failed(&mut connection)?;
                connection.manager_call(DOING, "StartTransientUnit", arguments)
            }
            other => other,
        };
        // Refused: nothing was made, and a unit of this name is another's. No answer: if the scope is
        // made after all, it ends with the placeholder.
        let job = self.checked(reply)?;
        let done = self.await_job(&mut connection, DOING, &job);
        if done.is_err() {
            let _removed = self.remove().is_ok();
        }
        done
    }

    /// systemd alone knows where it put the scope.
    pub(super) fn cgroup_of(&self, placeholder: &Placeholder) -> Result<Cgroup, Error> {
        let cgroup = Cgroup::of(placeholder.pid())?;
        // All that is in a container's cgroup is killed in the end: it must never be the caller's.
        let name = cgroup.path().file_name().unwrap_or_default();
        match name.to_string_lossy().ends_with(&self.name) {
            true => Ok(cgroup),
            false => Err(Error::NotInScope {
                unit: self.name.clone(),
                at: cgroup.path().to_owned(),
            }),
        }
    }

    /// Kills what is in the scope, stops it, and has systemd forget it. One that is gone already is as
    /// wanted.
    pub fn remove(&self) -> Result<(), Error> {
        const DOING: &str = "stop the scope";
        let mut connection = self.connect()?;
        // Stopping would ask first, by SIGTERM, and wait: a container's first process may ignore that.
        let everything = vec![
            Value::text(&self.name),
            Value::text("all"),
            Value::I32(Signal::SIGKILL as i32),
        ];
        match connection.manager_call("kill the scope", "KillUnit", everything) {
            Err(error) if error.is_named("org.freedesktop.systemd1.NoSuchUnit") => return Ok(()),
            reply => drop(self.checked(reply)?),
        }
        let arguments = vec![Value::text(&self.name), Value::text("replace")];
        match connection.manager_call(DOING, "StopUnit", arguments) {
            Err(error) if error.is_named("org.freedesktop.systemd1.NoSuchUnit") => return Ok(()),
            reply => {
                let job = self.checked(reply)?;
                self.await_job(&mut connection, DOING, &job)?;
            }
        }
        self.reset_failed(&mut connection)
    }

    /// Whether it is there and the scope of the container of this mark, rather than another's of the same
    /// name.
    pub fn is_marked(&self, mark: &Mark) -> Result<bool, Error> {
        let found = self.description()?;
        Ok(found.is_some_and(|found| found.contains(&mark.to_string())))
    }

    /// What it is described as; none if systemd doesn't know it.
    fn description(&self) -> Result<Option<String>, Error> {
        const DOING: &str = "look at the scope";
        let mut connection = self.connect()?;
        let names = vec![Value::Array("s".to_owned(), vec![Value::text(&self.name)])];
        // The one call that answers for a unit that isn't there without loading it.
        let reply = connection.manager_call(DOING, "ListUnitsByNames", names);
        let reply = self.checked(reply)?;
        let found = first_listed(&reply).ok_or(BusError::Form { doing: DOING });
        let (text, load_state) = self.checked(found)?;
        Ok((load_state != "not-found").then_some(text))
    }

    /// Tells systemd of other limits, so that it doesn't set the old ones again. The cgroup's own files
    /// are to be written afterwards ([`Cgroup::apply`]): they have what systemd has no property for.
    pub fn update(&self, cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), Error> {
        limits::check(resources)?;
        if let Some(memory) = resources.memory() {
            limits::check_usage(memory, cgroup)?;
        }
        let properties = properties::of(resources)?;
        if properties.is_empty() {
            return Ok(());
        }
        let arguments = vec![
            Value::text(&self.name),
            // As long as the unit lives.
            Value::Bool(true),
            properties::list(properties),
        ];
        let mut connection = self.connect()?;
        let reply = connection.manager_call("set properties", "SetUnitProperties", arguments);
        self.checked(reply)?;
        // systemd answers first and writes the files then, before it takes up another call. Once that
        // is answered, what we write to the files stays.
        let name = vec![Value::text(&self.name)];
        let reply = connection.manager_call("look at the scope", "GetUnit", name);
        self.checked(reply).map(drop)
    }

    fn reset_failed(&self, connection: &mut Connection) -> Result<(), Error> {
        let arguments = vec![Value::text(&self.name)];
        match connection.manager_call("reset the scope", "ResetFailedUnit", arguments) {
            Err(error) if error.is_named("org.freedesktop.systemd1.NoSuchUnit") => Ok(()),
            reply => self.checked(reply).map(drop),
        }
    }

    fn connect(&self) -> Result<Connection, Error> {
        self.checked(Connection::open(self.manager))
    }

    fn checked<T>(&self, result: Result<T, BusError>) -> Result<T, Error> {
        result.map_err(|source| Error::Systemd {
            unit: self.name.clone(),
            source,
        })
    }

    /// Waits for the job of a reply to be over, and fails unless it is done.
    fn await_job(
        &self,
        connection: &mut Connection,
        doing: &'static str,
        reply: &[u8],
    ) -> Result<(), Error> {
        let malformed = || BusError::Form { doing };
        let job = self.checked(Cursor::new(reply).text().ok_or_else(malformed))?;
        loop {
            let body = self.checked(connection.signal(doing, "JobRemoved"))?;
            let mut fields = Cursor::new(&body);
            let (_id, path) = (fields.u32(), fields.text());
            if path.as_ref() != Some(&job) {
                continue;
            }
            let (_unit, result) = (fields.text(), fields.text());
            return match result.as_deref() {
                Some("done") => Ok(()),
                result => Err(Error::Job {
                    unit: self.name.clone(),
                    doing,
                    result: result.unwrap_or("nothing").to_owned(),
                }),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::systemd::value::Value;

    #[test]
    fn a_units_description_is_read_from_the_list() {
        let text = Value::text;
        let unit = Value::Struct(vec![
            text("a.scope"),
            text("container a a 00ff"),
            text("loaded"),
            text("active"),
        ]);
        let mut reply = Vec::new();
        Value::Array("(ssss)".to_owned(), vec![unit]).marshal(&mut reply);
        let found = first_listed(&reply);
        assert_eq!(
            found,
            Some(("container a a 00ff".to_owned(), "loaded".to_owned()))
        );
        for length in 0..40 {
            assert_eq!(first_listed(reply.get(..length).unwrap()), None, "{length}");
        }
    }

    #[test]
    fn a_scope_is_described_by_its_mark_whatever_annotations_say() {
        let mark = Mark::of("web 0123456789abcdef");
        assert_eq!(
            description("web", Some(&mark)),
            "container web 0123456789abcdef"
        );
        assert_eq!(description("web", None), "container web");
        let asked = properties::property("Description", Value::text("mine"));
        let kept = format!("{:?}", keep_mark(asked, Some(&mark)));
        assert!(kept.contains("mine (web 0123456789abcdef)"), "{kept}");
        let other = properties::property("CPUWeight", Value::U64(5));
        assert_eq!(keep_mark(other.clone(), Some(&mark)), other);
    }
}
