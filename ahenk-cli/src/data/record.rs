//! From a record of a file to a row.

use engine::codec::Writer;
use engine::config::COMMIT_BYTES_MAX;
use engine::name::{FieldName, NameError, RowKey, TableName};
use engine::value::Value;

use super::json::{JsonError, JsonFields, RawFields, parse, parse_fields};
use super::source::{Content, Unusable};
use super::transfer::Exported;

/// Room in a commit for what is not the row: its name, what its author had seen, its certificate; in bytes.
const AROUND_BYTES: usize = 48 * 1024;
/// Room for an operation and each field besides names and values, in bytes.
const EACH_BYTES: usize = 16;

/// How records become rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Each record is a row of this table, named by this field, which stays a field of the row too.
    Rows {
        /// The table.
        table: TableName,
        /// The field.
        key: FieldName,
    },
    /// Each record is a line of an export: it says itself which row it is.
    Exported {
        /// Leave out other tables.
        only: Option<TableName>,
    },
}

/// A row to import and about how many bytes it takes in a commit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sized {
    pub(crate) row: Exported,
    pub(crate) bytes: usize,
}

impl Shape {
    /// The row; `None` if it is of a table that was not asked for.
    pub(crate) fn row(&self, content: Content) -> Result<Option<Sized>, Unusable> {
        let row = match self {
            Shape::Rows { table, key } => {
                let fields = match content {
                    Content::Fields(fields) => fields,
                    Content::Json(text) => parse_fields(&text)?,
                };
                let row = key_of(&fields, key.as_str())?;
                Exported { table: table.to_string(), row, fields: JsonFields(fields) }
            }
            Shape::Exported { only } => {
                let row = exported(content)?;
                if only.as_ref().is_some_and(|only| only.as_str() != row.table) {
                    return Ok(None);
                }
                row
            }
        };
        let bytes = check(&row)?;
        if bytes > COMMIT_BYTES_MAX - AROUND_BYTES {
            return Err(Unusable::TooLarge { bytes });
        }
        Ok(Some(Sized { row, bytes }))
    }
}

fn key_of(fields: &RawFields, key: &str) -> Result<String, Unusable> {
    match fields.get(key) {
        None => Err(Unusable::NoKey(key.to_owned())),
        Some(Value::Text(text)) => Ok(text.clone()),
        Some(Value::Int(number)) => Ok(number.to_string()),
        Some(_) => Err(Unusable::KeyKind(key.to_owned())),
    }
}

fn exported(content: Content) -> Result<Exported, Unusable> {
    let Content::Json(text) = content else { return Err(Unusable::NotExported("not JSON".to_owned())) };
    parse(&text).map_err(|error| match error {
        JsonError::Text(error) if error.is_data() => Unusable::NotExported(error.to_string()),
        error => error.into(),
    })
}

/// Checks all names; gives the row's size.
fn check(row: &Exported) -> Result<usize, NameError> {
    let (table, key) = (TableName::new(&row.table)?, RowKey::new(&row.row)?);
    let mut writer = Writer::new();
    for (name, value) in &row.fields.0 {
        writer.bytes(FieldName::new(name)?.as_str().as_bytes());
        value.encode(&mut writer);
    }
    let each = (row.fields.0.len() + 1) * EACH_BYTES;
    Ok(writer.len() + table.as_str().len() + key.as_str().len() + each)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Shape {
        Shape::Rows {
            table: TableName::new("t").expect("a name"),
            key: FieldName::new("id").expect("a name"),
        }
    }

    fn reason(shape: &Shape, text: &str) -> String {
        shape.row(Content::Json(text.to_owned())).expect_err("unusable").to_string()
    }

    #[test]
    fn the_key_field_names_the_row_and_stays_in_it() {
        for (text, key) in [(r#"{"id":"a","b":1}"#, "a"), (r#"{"id":-7}"#, "-7")] {
            let fields = parse_fields(text).expect("reads");
            let sized = rows().row(Content::Json(text.to_owned())).expect("usable").expect("asked for");
            assert_eq!(
                sized.row,
                Exported { table: "t".into(), row: key.into(), fields: JsonFields(fields) }
            );
        }
    }

    #[test]
    fn a_record_that_is_no_row_says_why() {
        let list = [
            (r#"{"b":1}"#, "no field \"id\""),
            (r#"{"id":""}"#, "must not be empty"),
            (r#"{"id":null}"#, "text or an integer"),
            (r#"{"id":1.5}"#, "text or an integer"),
            (r#"{"id":"a","":1}"#, "must not be empty"),
        ];
        for (text, says) in list {
            assert!(reason(&rows(), text).contains(says), "{text}");
        }
        let long = format!(r#"{{"id":"{}"}}"#, "k".repeat(513));
        assert!(reason(&rows(), &long).contains("at most 512"));
        let large = format!(r#"{{"id":"a","text":"{}"}}"#, "x".repeat(COMMIT_BYTES_MAX));
        assert!(reason(&rows(), &large).contains("one transaction at most"));
    }

    #[test]
    fn a_line_of_an_export_names_its_own_row() {
        let all = Shape::Exported { only: None };
        let deepest = format!("{}{}", "[".repeat(32), "]".repeat(32));
        let fields = format!(r#"{{"$bytes":"a field's name","a":[1,{{"$bytes":"AP8="}}],"b":{deepest}}}"#);
        let text = &format!(r#"{{"table":"t","row":"r","fields":{fields}}}"#);
        let sized = all.row(Content::Json(text.to_owned())).expect("usable").expect("asked for");
        assert_eq!(serde_json::to_string(&sized.row).expect("writes"), *text);
        let other = Shape::Exported { only: Some(TableName::new("u").expect("a name")) };
        assert_eq!(other.row(Content::Json(text.to_owned())).expect("usable"), None);
        for text in [
            r#"{"table":"t","row":"r"}"#,
            r#"{"table":"t","row":1,"fields":{}}"#,
            r#"{"table":"t","row":"r","fields":[]}"#,
            r#"{"table":"t","row":"r","fields":{},"more":1}"#,
        ] {
            assert!(reason(&all, text).contains("\"table\""), "{text}");
        }
    }
}
