//! Values as JSON. Bytes are written `{"$bytes":"<hexadecimal>"}`; the rest is what it looks like.

use ahenk::Row;
use engine::identity::hex;
use engine::value::Value;
use serde_json::{Map, Value as Json, json};

use crate::error::{CliError, Result};
use crate::secrets::unhex;

const BYTES: &str = "$bytes";

/// Reads a value.
pub(crate) fn from_json(json: Json) -> Result<Value> {
    Ok(match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(value),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(value), _) => Value::Int(value),
            (None, Some(value)) => Value::Float(value),
            (None, None) => {
                return Err(CliError::usage(format!("{number} is not a number that can be kept")));
            }
        },
        Json::String(text) => Value::Text(text),
        Json::Array(items) => Value::List(items.into_iter().map(from_json).collect::<Result<_>>()?),
        Json::Object(entries) => match bytes(&entries) {
            Some(value) => value?,
            None => Value::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| Ok((key, from_json(value)?)))
                    .collect::<Result<_>>()?,
            ),
        },
    })
}

fn bytes(entries: &Map<String, Json>) -> Option<Result<Value>> {
    let digits = entries.get(BYTES).filter(|_| entries.len() == 1)?.as_str()?;
    let bytes = unhex(digits).map(|bytes| Value::Bytes(bytes.to_vec()));
    Some(bytes.ok_or_else(|| CliError::usage(format!("{BYTES} holds an even number of hexadecimal digits"))))
}

/// A value as JSON.
pub(crate) fn to_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(value) => json!(value),
        Value::Int(value) => json!(value),
        Value::Float(value) => json!(value),
        Value::Text(text) => json!(text),
        Value::Bytes(bytes) => json!({ BYTES: hex(bytes) }),
        Value::List(items) => items.iter().map(to_json).collect(),
        Value::Map(entries) => entries.iter().map(|(key, value)| (key.clone(), to_json(value))).collect(),
    }
}

/// A row as a JSON object of its fields.
pub(crate) fn row_json(row: &Row) -> Json {
    row.fields.iter().map(|(name, value)| (name.to_string(), to_json(value))).collect()
}
