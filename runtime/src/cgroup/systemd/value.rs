//! Values as D-Bus marshals them: aligned, little-endian, with a signature that names their type.

/// A value of one of the types that systemd's calls and properties have.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Byte(u8),
    Bool(bool),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    F64(f64),
    Text(String),
    ObjectPath(String),
    Signature(String),
    /// The signature of the elements, which an empty array has too, and the elements.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    Variant(Box<Value>),
}

impl Value {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub(super) fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self::Array("s".to_owned(), texts.into_iter().map(Self::text).collect())
    }

    pub(super) fn bytes(bytes: Vec<u8>) -> Self {
        Self::Array("y".to_owned(), bytes.into_iter().map(Self::Byte).collect())
    }

    pub(super) fn signature(&self) -> String {
        let letter = match self {
            Self::Byte(_) => "y",
            Self::Bool(_) => "b",
            Self::I32(_) => "i",
            Self::U32(_) => "u",
            Self::I64(_) => "x",
            Self::U64(_) => "t",
            Self::F64(_) => "d",
            Self::Text(_) => "s",
            Self::ObjectPath(_) => "o",
            Self::Signature(_) => "g",
            Self::Variant(_) => "v",
            Self::Array(element, _) => return format!("a{element}"),
            Self::Struct(fields) => {
                let fields: String = fields.iter().map(Self::signature).collect();
                return format!("({fields})");
            }
        };
        letter.to_owned()
    }

    /// Appends it to bytes that begin where alignment does.
    pub(super) fn marshal(&self, to: &mut Vec<u8>) {
        align(to, alignment(&self.signature()));
        match self {
            Self::Byte(value) => to.push(*value),
            Self::Bool(value) => to.extend(u32::from(*value).to_le_bytes()),
            Self::I32(value) => to.extend(value.to_le_bytes()),
            Self::U32(value) => to.extend(value.to_le_bytes()),
            Self::I64(value) => to.extend(value.to_le_bytes()),
            Self::U64(value) => to.extend(value.to_le_bytes()),
            Self::F64(value) => to.extend(value.to_le_bytes()),
            Self::Text(text) | Self::ObjectPath(text) => {
                to.extend((text.len() as u32).to_le_bytes());
                to.extend(text.bytes().chain([0]));
            }
            Self::Signature(signature) => marshal_signature(signature, to),
            Self::Array(element, values) => marshal_array(element, values, to),
            Self::Struct(fields) => fields.iter().for_each(|field| field.marshal(to)),
            Self::Variant(value) => {
                marshal_signature(&value.signature(), to);
                value.marshal(to);
            }
        }
    }
}

fn marshal_signature(signature: &str, to: &mut Vec<u8>) {
    to.push(signature.len() as u8);
    to.extend(signature.bytes().chain([0]));
}

/// The length counts the elements, but not the padding before the first.
fn marshal_array(element: &str, values: &[Value], to: &mut Vec<u8>) {
    let length_at = to.len();
    to.extend([0; 4]);
    align(to, alignment(element));
    let start = to.len();
    for value in values {
        value.marshal(to);
    }
    let length = ((to.len() - start) as u32).to_le_bytes();
    for (to, from) in to.iter_mut().skip(length_at).zip(length) {
        *to = from;
    }
}

pub(super) fn align(to: &mut Vec<u8>, alignment: usize) {
    to.resize(to.len().next_multiple_of(alignment), 0);
}

/// The alignment of a type, by its signature's first letter.
pub(super) fn alignment(signature: &str) -> usize {
    match signature.bytes().next() {
        Some(b'y' | b'g' | b'v') => 1,
        Some(b'n' | b'q') => 2,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marshalled(value: Value) -> Vec<u8> {
        let mut bytes = Vec::new();
        value.marshal(&mut bytes);
        bytes
    }

    #[test]
    fn types_are_named_by_their_signatures() {
        let property = Value::Struct(vec![
            Value::text("Delegate"),
            Value::Variant(Box::new(Value::Bool(true))),
        ]);
        assert_eq!(property.signature(), "(sv)");
        let list = Value::Array("(sv)".to_owned(), vec![property]);
        assert_eq!(list.signature(), "a(sv)");
        assert_eq!(Value::bytes(vec![]).signature(), "ay");
    }

    #[test]
    fn texts_have_a_length_and_a_null() {
        assert_eq!(
            marshalled(Value::text("foo")),
            [3, 0, 0, 0, b'f', b'o', b'o', 0]
        );
        assert_eq!(
            marshalled(Value::Signature("a(sv)".to_owned())),
            [5, b'a', b'(', b's', b'v', b')', 0]
        );
    }

    #[test]
    fn an_arrays_length_leaves_out_the_padding_before_its_first_element() {
        let array = Value::Array("t".to_owned(), vec![Value::U64(5)]);
        let want = [8, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(marshalled(array), want);
        // The padding is there without elements, too.
        let empty = Value::Array("(sv)".to_owned(), vec![]);
        assert_eq!(marshalled(empty), [0; 8]);
    }

    #[test]
    fn a_variant_carries_its_signature_and_aligns_its_value() {
        let variant = Value::Variant(Box::new(Value::U32(7)));
        assert_eq!(marshalled(variant), [1, b'u', 0, 0, 7, 0, 0, 0]);
        let variant = Value::Variant(Box::new(Value::Bool(true)));
        assert_eq!(marshalled(variant), [1, b'b', 0, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn fields_of_a_struct_are_each_aligned() {
        let fields = Value::Struct(vec![Value::Byte(1), Value::U32(2), Value::text("x")]);
        let want = [1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, b'x', 0];
        assert_eq!(marshalled(fields), want);
    }
}
