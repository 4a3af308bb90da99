//! JSON as people and programs meet it, and the engine's values: one way there and one way back, nothing lost.
//!
//! Null, booleans, integers, floats, texts, lists and maps stand for themselves. What JSON has no word for is an
//! object with one key: `{"$bytes":"<base64>"}` for bytes, `{"$float":"NaN"}` (or `"inf"`, `"-inf"`, or
//! `"bits:<16 hex digits>"` for an unusual NaN) for floats. A map that itself has one of these keys is written inside
//! `{"$map":{…}}`.
//! Invariants: every value that is written reads back equal; nothing is read approximately. Integers that do not fit
//! 64 bits, a key twice in one object, and nesting deeper than a value may have are refused.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use engine::config::VALUE_DEPTH_MAX;
use engine::value::Value;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, SerializeSeq, Serializer};
use serde::{Deserialize, Serialize};

const BYTES: &str = "$bytes";
const FLOAT: &str = "$float";
const MAP: &str = "$map";

/// Fields of a row by name; names are not checked yet.
pub(crate) type RawFields = BTreeMap<String, Value>;

/// Why a text is not a value.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JsonError {
    /// Not JSON, or not JSON that means a value.
    #[error("{0}")]
    Text(#[from] serde_json::Error),
    /// An integer that no field can hold.
    #[error("the integer {0} does not fit 64 bits; write it as text, or with a decimal point")]
    Integer(String),
}

/// A value that is written and read as JSON in this module's form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Json(pub(crate) Value);

/// Fields of a row, written and read as one object. A field may have any name, `$bytes` included.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct JsonFields(pub(crate) RawFields);

/// Reads a document in which values stand.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, JsonError> {
    integers_fit(text)?;
    Ok(serde_json::from_str(text)?)
}

/// Reads one value.
pub(crate) fn parse_value(text: &str) -> Result<Value, JsonError> {
    Ok(parse::<Json>(text)?.0)
}

/// Reads one object as the fields of a row.
pub(crate) fn parse_fields(text: &str) -> Result<RawFields, JsonError> {
    Ok(parse::<JsonFields>(text)?.0)
}

/// The JSON text of a value, on one line.
pub(crate) fn to_text(value: &Value) -> String {
    // Writing into memory fails only for maps with keys that are not text, and there are none.
    serde_json::to_string(&Written(value)).unwrap_or_default()
}

/// The reader below sees an integer of more than 64 bits as a float, so look at the digits first.
fn integers_fit(text: &str) -> Result<(), JsonError> {
    let bytes = text.as_bytes();
    let (mut at, mut quoted) = (0, false);
    while let Some(byte) = bytes.get(at) {
        let start = at;
        at += 1;
        match byte {
            b'"' => quoted = !quoted,
            b'\\' if quoted => at += 1,
            b'-' | b'0'..=b'9' if !quoted => {
                let part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
                at += bytes[at..].iter().take_while(|byte| part(byte)).count();
                let number = &text[start..at];
                let digits = number.strip_prefix('-').unwrap_or(number);
                let whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
                if whole && number.parse::<i64>().is_err() {
                    return Err(JsonError::Integer(number.to_owned()));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

struct Written<'a>(&'a Value);

struct WrittenMap<'a>(&'a BTreeMap<String, Value>);

impl Serialize for WrittenMap<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in self.0 {
            map.serialize_entry(key, &Written(value))?;
        }
        map.end()
    }
}

fn one_entry<S: Serializer>(serializer: S, key: &str, value: &impl Serialize) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry(key, value)?;
    map.end()
}

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Int(value) => serializer.serialize_i64(*value),
            Value::Float(value) if value.is_finite() => serializer.serialize_f64(*value),
            Value::Float(value) => one_entry(serializer, FLOAT, &float_name(*value)),
            Value::Text(text) => serializer.serialize_str(text),
            Value::Bytes(bytes) => one_entry(serializer, BYTES, &BASE64.encode(bytes)),
            Value::List(items) => {
                let mut seq = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    seq.serialize_element(&Written(item))?;
                }
                seq.end()
            }
            Value::Map(entries) if [BYTES, FLOAT, MAP].iter().any(|key| entries.contains_key(*key)) => {
                one_entry(serializer, MAP, &WrittenMap(entries))
            }
            Value::Map(entries) => WrittenMap(entries).serialize(serializer),
        }
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Written(&self.0).serialize(serializer)
    }
}

impl Serialize for JsonFields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        WrittenMap(&self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        Nested { left: VALUE_DEPTH_MAX, plain: false }.deserialize(deserializer).map(Json)
    }
}

impl<'de> Deserialize<'de> for JsonFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<JsonFields, D::Error> {
        // One level more: the row itself is an object, and each field's value may be nested as deep as any.
        match (Nested { left: VALUE_DEPTH_MAX + 1, plain: true }).deserialize(deserializer)? {
            Value::Map(fields) => Ok(JsonFields(fields)),
            _ => Err(D::Error::custom("expected an object with the fields of a row")),
        }
    }
}

/// Reads one value that may be nested `left` levels deep. If `plain`, an object is a map whatever its keys.
#[derive(Clone, Copy)]
struct Nested {
    left: usize,
    plain: bool,
}

impl Nested {
    fn inner<E: serde::de::Error>(self) -> Result<Nested, E> {
        match self.left.checked_sub(1) {
            Some(left) => Ok(Nested { left, plain: false }),
            None => Err(E::custom(format_args!("lists and objects nested more than {VALUE_DEPTH_MAX} deep"))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Nested {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Nested {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        let fits = i64::try_from(value);
        fits.map(Value::Int).map_err(|_| E::custom(JsonError::Integer(value.to_string())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut entries = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            if !self.plain && [BYTES, FLOAT, MAP].contains(&key.as_str()) {
                let meant = Nested { plain: true, ..self };
                let value =
                    if key == MAP { map.next_value_seed(meant)? } else { map.next_value_seed(inner)? };
                return match (special(&key, value), entries.is_empty() && map.next_key::<String>()?.is_none())
                {
                    (Some(value), true) => Ok(value),
                    _ => Err(A::Error::custom(format_args!(
                        "an object with the key {key} that does not mean what {key} means; \
                         a map with such a key is written {{\"{MAP}\":{{…}}}}"
                    ))),
                };
            }
            let value = map.next_value_seed(inner)?;
            if entries.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key {key:?} occurs twice in one object")));
            }
            entries.insert(key, value);
        }
        Ok(Value::Map(entries))
    }
}

/// What an object with one of the special keys means.
fn special(key: &str, value: Value) -> Option<Value> {
    match (key, value) {
        (MAP, Value::Map(entries)) => Some(Value::Map(entries)),
        (BYTES, Value::Text(text)) => BASE64.decode(text).ok().map(Value::Bytes),
        (FLOAT, Value::Text(text)) => float_named(&text).map(Value::Float),
        _ => None,
    }
}

fn float_name(value: f64) -> String {
    if value == f64::INFINITY {
        "inf".to_owned()
    } else if value == f64::NEG_INFINITY {
        "-inf".to_owned()
    } else if value.to_bits() == f64::NAN.to_bits() {
        "NaN".to_owned()
    } else {
        format!("bits:{:016x}", value.to_bits())
    }
}

fn float_named(name: &str) -> Option<f64> {
    match name {
        "inf" => Some(f64::INFINITY),
        "-inf" => Some(f64::NEG_INFINITY),
        "NaN" => Some(f64::NAN),
        _ => {
            let digits = name.strip_prefix("bits:")?;
            let plain = digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !plain {
                return None;
            }
            u64::from_str_radix(digits, 16).ok().map(f64::from_bits)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::testing::any_value;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_value_comes_back_equal(value in any_value()) {
            let text = to_text(&value);
            prop_assert_eq!(parse_value(&text).map_err(|error| error.to_string()), Ok(value.clone()));
            let fields = RawFields::from([("$map".to_owned(), value)]);
            let text = serde_json::to_string(&JsonFields(fields.clone())).expect("writes");
            prop_assert_eq!(parse_fields(&text).map_err(|error| error.to_string()), Ok(fields));
        }

        #[test]
        fn every_float_comes_back_to_the_bit(bits in any::<u64>()) {
            let value = Value::Float(f64::from_bits(bits));
            prop_assert_eq!(parse_value(&to_text(&value)).map_err(|error| error.to_string()), Ok(value));
        }
    }

    fn refused(text: &str) -> String {
        parse_value(text).expect_err("it should be refused").to_string()
    }

    #[test]
    fn json_reads_as_what_it_says() {
        let list = [
            ("null", Value::Null),
            ("true", Value::Bool(true)),
            ("-9223372036854775808", Value::Int(i64::MIN)),
            ("9223372036854775807", Value::Int(i64::MAX)),
            ("1.0", Value::Float(1.0)),
            ("1e30", Value::Float(1e30)),
            ("12345678901234567890.0", Value::Float(12345678901234567890.0)),
            (r#""12345678901234567890""#, Value::from("12345678901234567890")),
            (r#""a \" 12345678901234567890""#, Value::from("a \" 12345678901234567890")),
            (r#"{"$bytes":"AP8="}"#, Value::Bytes(vec![0, 255])),
            (r#"{"$float":"-inf"}"#, Value::Float(f64::NEG_INFINITY)),
            (r#"{"$other":1}"#, Value::Map(BTreeMap::from([("$other".to_owned(), Value::Int(1))]))),
            (r#"{"$map":{"$map":1}}"#, Value::Map(BTreeMap::from([("$map".to_owned(), Value::Int(1))]))),
        ];
        for (text, value) in list {
            assert_eq!(parse_value(text).map_err(|error| error.to_string()), Ok(value), "{text}");
        }
    }

    #[test]
    fn what_would_lose_something_is_refused() {
        for integer in ["9223372036854775808", "-9223372036854775809", "123456789012345678901234567890"] {
            assert!(refused(&format!("[{integer}]")).contains(integer));
        }
        assert!(refused(r#"{"a":1,"b":2,"a":3}"#).contains("\"a\" occurs twice"));
        assert!(refused("1e400").contains("out of range"));
        for text in [
            r#"{"$bytes":"?"}"#,
            r#"{"$bytes":1}"#,
            r#"{"$float":"one"}"#,
            r#"{"$float":"bits:+00000000000001"}"#,
            r#"{"$map":1}"#,
            r#"{"$map":{},"b":1}"#,
            r#"{"b":1,"$bytes":"AP8="}"#,
        ] {
            assert!(refused(text).contains("$map"), "{text}");
        }
    }

    #[test]
    fn nesting_is_bounded_and_a_field_may_use_all_of_it() {
        let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse_value(&nested(VALUE_DEPTH_MAX)).is_ok());
        assert!(refused(&nested(VALUE_DEPTH_MAX + 1)).contains("nested more than 32"));
        assert!(refused(&nested(1_000_000)).contains("nested more than 32"));
        let row = |levels| format!(r#"{{"a":{}}}"#, nested(levels));
        assert!(parse_fields(&row(VALUE_DEPTH_MAX)).is_ok_and(|fields| fields["a"].depth_ok()));
        assert!(parse_fields(&row(VALUE_DEPTH_MAX + 1)).is_err());
    }

    #[test]
    fn fields_are_an_object_with_any_names() {
        let fields = parse_fields(r#"{"$bytes":"x","$map":null}"#).expect("reads");
        assert_eq!(fields["$bytes"], Value::from("x"));
        for text in ["[1]", "1", "", "{", r#"{"a":1"#, r#"{"a":1} x"#] {
            assert!(parse_fields(text).is_err(), "{text}");
        }
    }
}
