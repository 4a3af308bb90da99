//! From a record of a file to a row, in parts that one transaction holds.

use engine::codec::Writer;
use engine::config::{COMMIT_BYTES_MAX, ROW_FIELDS_MAX};
use engine::name::{FieldName, NameError, RowKey, TableName};
use engine::value::Value;

use super::json::{JsonError, JsonFields, RawFields, parse, parse_fields};
use super::source::{Content, Unusable};
use super::transfer::Exported;

/// Room in a commit for what is not the row: its name, what its author had seen, its certificate; in bytes.
const AROUND_BYTES: usize = 48 * 1024;
/// Room for an operation and each field besides names and values, in bytes.
const EACH_BYTES: usize = 16;
/// Most of a row in one transaction of any device, in bytes.
pub(crate) const PART_BYTES_MAX: usize = part_bytes_max(COMMIT_BYTES_MAX);

/// Most of a row in one transaction of a device that makes commits of at most so many bytes.
pub(crate) const fn part_bytes_max(commit_bytes_max: usize) -> usize {
    commit_bytes_max.saturating_sub(AROUND_BYTES)
}

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

/// A row, or a part of its fields, and about how many bytes it takes in a commit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sized {
    pub(crate) row: Exported,
    pub(crate) bytes: usize,
}

impl Shape {
    /// The row in its parts of at most so many bytes, at least one; `None` if it is of a table that was not asked for.
    pub(crate) fn row(
        &self,
        content: Content,
        part_bytes_max: usize,
    ) -> Result<Option<Vec<Sized>>, Unusable> {
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
        parts(row, part_bytes_max).map(Some)
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

/// Checks all names, and divides the fields so that each part fits a transaction. A row can have outgrown that by
/// several writes; a single field cannot have.
pub(crate) fn parts(row: Exported, part_bytes_max: usize) -> Result<Vec<Sized>, Unusable> {
    let Exported { table, row, fields: JsonFields(fields) } = row;
    let around = TableName::new(&table)?.as_str().len() + RowKey::new(&row)?.as_str().len() + EACH_BYTES;
    let part = || Exported { table: table.clone(), row: row.clone(), fields: JsonFields::default() };
    let (mut parts, mut next) = (Vec::new(), Sized { row: part(), bytes: around });
    for (name, value) in fields {
        let bytes = field_bytes(&name, &value)?;
        if around + bytes > part_bytes_max {
            return Err(Unusable::TooLarge { field: name, bytes, max: part_bytes_max });
        }
        if next.bytes + bytes > part_bytes_max || next.row.fields.0.len() >= ROW_FIELDS_MAX {
            parts.push(std::mem::replace(&mut next, Sized { row: part(), bytes: around }));
        }
        next.bytes += bytes;
        next.row.fields.0.insert(name, value);
    }
    parts.push(next);
    Ok(parts)
}

fn field_bytes(name: &str, value: &Value) -> Result<usize, NameError> {
    let mut writer = Writer::new();
    writer.bytes(FieldName::new(name)?.as_str().as_bytes());
    value.encode(&mut writer);
    Ok(writer.len() + EACH_BYTES)
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
        shape.row(Content::Json(text.to_owned()), PART_BYTES_MAX).expect_err("unusable").to_string()
    }

    #[test]
    fn the_key_field_names_the_row_and_stays_in_it() {
        for (text, key) in [(r#"{"id":"a","b":1}"#, "a"), (r#"{"id":-7}"#, "-7")] {
            let fields = parse_fields(text).expect("reads");
            let parts = rows()
                .row(Content::Json(text.to_owned()), PART_BYTES_MAX)
                .expect("usable")
                .expect("asked for");
            assert_eq!(parts.len(), 1);
            assert_eq!(
                parts[0].row,
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
        assert!(reason(&rows(), &large).contains("one transaction holds at most"));
    }

    #[test]
    fn a_row_beyond_one_transaction_comes_in_parts_that_fit_and_lose_nothing() {
        let large = (0..5).map(|n| (format!("large-{n}"), Value::Text("x".repeat(400_000))));
        let many = (0..ROW_FIELDS_MAX + 1).map(|n| (format!("field-{n}"), Value::Int(n as i64)));
        for fields in [large.collect::<RawFields>(), many.collect()] {
            let row = Exported { table: "t".into(), row: "r".into(), fields: JsonFields(fields.clone()) };
            let parts = parts(row, PART_BYTES_MAX).expect("usable");
            assert!(parts.len() > 1);
            let mut together = RawFields::new();
            for Sized { row, bytes } in parts {
                assert!(bytes <= PART_BYTES_MAX && row.fields.0.len() <= ROW_FIELDS_MAX);
                together.extend(row.fields.0);
            }
            assert_eq!(together, fields);
        }
        let empty = Exported { table: "t".into(), row: "r".into(), fields: JsonFields::default() };
        assert_eq!(parts(empty, PART_BYTES_MAX).expect("usable").len(), 1, "a row without fields is a row");
    }

    #[test]
    fn a_line_of_an_export_names_its_own_row() {
        let all = Shape::Exported { only: None };
        let deepest = format!("{}{}", "[".repeat(32), "]".repeat(32));
        let fields = format!(r#"{{"$bytes":"a field's name","a":[1,{{"$bytes":"AP8="}}],"b":{deepest}}}"#);
        let text = &format!(r#"{{"table":"t","row":"r","fields":{fields}}}"#);
        let parts =
            all.row(Content::Json(text.to_owned()), PART_BYTES_MAX).expect("usable").expect("asked for");
        assert_eq!(serde_json::to_string(&parts[0].row).expect("writes"), *text);
        let other = Shape::Exported { only: Some(TableName::new("u").expect("a name")) };
        assert_eq!(other.row(Content::Json(text.to_owned()), PART_BYTES_MAX).expect("usable"), None);
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
