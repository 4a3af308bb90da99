//! `put`: write fields of a row.

use engine::value::Value;

use super::Env;
use crate::backend::Need;
use crate::data::json::{JsonFields, RawFields, parse_fields, parse_value};
use crate::data::{DataRequest, Wrote};
use crate::error::{CliError, Result};
use crate::protocol::Request;

const AFTER_HELP: &str = "\
Values:
  done=false count=3 note=null      true, false, numbers and null, as in JSON
  title='Buy tea' id='\"007\"'      all else is text; quotes make sure of it
  tags:='[\"a\",\"b\"]'             always JSON, lists and objects included
  photo:='{\"$bytes\":\"<base64>\"}'  bytes; likewise {\"$float\":\"NaN\"},
                                    and {\"$map\":{…}} around such an object
  --json '{\"title\":\"Buy tea\"}'  all fields as one object, as with --fields;
                                    --json without an object is the global flag

Examples:
  ahenk-cli put tasks t1 title='Buy tea' done=false
  ahenk-cli put tasks t1 --json '{\"tags\":[\"shop\"]}'";

/// Arguments of `put`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// The table
    #[arg(add = super::complete::tables())]
    table: String,
    /// The row's key
    row: String,
    /// Fields to write; others stay as they are
    #[arg(value_name = "FIELD=VALUE")]
    fields: Vec<String>,
    /// Fields to write, as one JSON object
    #[arg(long = "fields", value_name = "OBJECT")]
    object: Option<String>,
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    let mut fields = match &args.object {
        Some(object) => parse_fields(object).map_err(|error| bad_json("--fields", &error))?,
        None => RawFields::new(),
    };
    for field in &args.fields {
        let (name, value) = parse(field)?;
        if fields.contains_key(&name) {
            return Err(CliError::usage(format!("the field {name:?} is given twice")).hint("give it once"));
        }
        fields.insert(name, value);
    }
    if fields.is_empty() && args.object.is_none() {
        return Err(CliError::usage("there are no fields to write").hint(
            "as in: put tasks t1 title='Buy tea' done=false; --json '{}' writes a row without fields",
        ));
    }
    let request = DataRequest::Put { table: args.table, row: args.row, fields: JsonFields(fields) };
    env.with_backend(Need::Store, async |backend| {
        let wrote: Wrote = backend.one(Request::Data(request)).await?;
        if env.out.json() { env.out.document(&wrote) } else { Ok(()) }
    })
    .await
}

fn bad_json(what: &str, error: &dyn std::fmt::Display) -> CliError {
    CliError::usage(format!("the value of {what} cannot be used: {error}")).hint(
        "nothing was written; mind the shell's quotes: put them around the whole of it, as in '{\"a\":1}'",
    )
}

fn parse(field: &str) -> Result<(String, Value)> {
    let (name, text) = field.split_once('=').ok_or_else(|| {
        CliError::usage(format!("{field:?} is not FIELD=VALUE"))
            .hint("as in: put tasks t1 title='Buy tea' done=false")
    })?;
    if let Some(name) = name.strip_suffix(':') {
        let value = parse_value(text).map_err(|error| bad_json(name, &error))?;
        return Ok((name.to_owned(), value));
    }
    let value = match parse_value(text) {
        Ok(value)
            if !matches!(value, Value::List(_) | Value::Map(_) | Value::Bytes(_))
                && !text.starts_with('{') =>
        {
            value
        }
        _ => Value::Text(text.to_owned()),
    };
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_they_look_like_and_else_text() {
        let list = [
            ("a=1", Value::Int(1)),
            ("a=-1.5", Value::Float(-1.5)),
            ("a=true", Value::Bool(true)),
            ("a=null", Value::Null),
            ("a=", "".into()),
            ("a=007", "007".into()),
            ("a=\"007\"", "007".into()),
            ("a=x=y", "x=y".into()),
            ("a=[1]", "[1]".into()),
            ("a={\"$float\":\"NaN\"}", "{\"$float\":\"NaN\"}".into()),
            ("a=99999999999999999999", "99999999999999999999".into()),
            ("a:=[1]", Value::List(vec![Value::Int(1)])),
            ("a:={\"$bytes\":\"AA==\"}", Value::Bytes(vec![0])),
        ];
        for (text, value) in list {
            assert_eq!(parse(text).expect("a field"), ("a".to_owned(), value), "{text}");
        }
        assert!(parse("a").is_err());
        assert!(parse("a:=[").expect_err("not JSON").message.contains("EOF"));
    }
}
