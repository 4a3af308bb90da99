//! The JSON Schemas of what commands print with `--json`: `docs/schema/v1.json`, which is part of the program.
//!
//! Invariant: within a version, fields are added and never renamed or removed; tests compare the schemas with what every
//! command prints.

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json, json};

/// The version of the documents, in the schemas' `$id` and in `info`.
pub(crate) const VERSION: u64 = 1;

const TEXT: &str = include_str!("../../docs/schema/v1.json");

/// The whole file.
pub(crate) fn all() -> Json {
    // A test reads it.
    serde_json::from_str(TEXT).unwrap_or_default()
}

/// A schema that stands alone, of what one command prints; `None` if it prints no JSON.
pub(crate) fn of(command: &str) -> Option<Json> {
    let all = all();
    let entry = all["commands"].get(command)?;
    let mut schema = Map::new();
    schema.insert("$schema".to_owned(), all["$schema"].clone());
    schema.insert(
        "$id".to_owned(),
        json!(format!("urn:ahenk:cli-json:{VERSION}:{}", command.replace(' ', "-"))),
    );
    schema.insert("title".to_owned(), json!(format!("ahenk-cli --json {command}")));
    schema.insert(
        "$comment".to_owned(),
        json!(format!("Documents on stdout: {}", entry["documents"].as_str()?)),
    );
    schema.extend(entry["schema"].as_object()?.clone());
    let mut named = BTreeSet::new();
    let mut open = names(&entry["schema"]);
    while let Some(name) = open.pop_first() {
        if named.insert(name.clone()) {
            open.extend(names(&all["$defs"][&name]));
        }
    }
    if !named.is_empty() {
        let defs: Map<String, Json> =
            named.into_iter().map(|name| (name.clone(), all["$defs"][&name].clone())).collect();
        schema.insert("$defs".to_owned(), Json::Object(defs));
    }
    Some(Json::Object(schema))
}

/// The definitions that a schema names.
fn names(schema: &Json) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    match schema {
        Json::Object(members) => {
            if let Some(name) = members.get("$ref").and_then(Json::as_str) {
                found.extend(name.strip_prefix("#/$defs/").map(str::to_owned));
            }
            members.values().for_each(|member| found.extend(names(member)));
        }
        Json::Array(items) => items.iter().for_each(|item| found.extend(names(item))),
        _ => {}
    }
    found
}

/// The commands that print JSON.
pub(crate) fn commands() -> Vec<String> {
    all()["commands"].as_object().map(|commands| commands.keys().cloned().collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_of_this_version_and_each_schema_stands_alone() {
        let all = all();
        assert_eq!(all["version"], VERSION);
        assert_eq!(all["$id"], format!("urn:ahenk:cli-json:{VERSION}"));
        assert!(jsonschema::draft202012::meta::is_valid(&all));
        let mut used = BTreeSet::from(["error".to_owned()]);
        for command in commands() {
            let schema = of(&command).expect("a schema");
            used.extend(schema["$defs"].as_object().into_iter().flatten().map(|(name, _)| name.clone()));
            if let Err(error) = jsonschema::draft202012::new(&schema) {
                panic!("{command}: {error}");
            }
        }
        let defined: BTreeSet<String> =
            all["$defs"].as_object().expect("definitions").keys().cloned().collect();
        assert_eq!(used, defined, "definitions that are used, and those that are there");
    }
}
