//! What commands print with `--json`, against `docs/schema/v1.json`. Stricter than the schema: a field that it does not
//! list is an error here.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};

use jsonschema::Validator;
use serde_json::{Value as Json, json};

/// The whole file.
pub(crate) fn all() -> &'static Json {
    static ALL: OnceLock<Json> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all = serde_json::from_str(include_str!("../../../docs/schema/v1.json")).expect("JSON");
        forbid_other_fields(&mut all);
        all
    })
}

fn forbid_other_fields(schema: &mut Json) {
    match schema {
        Json::Object(members) => {
            members.values_mut().for_each(forbid_other_fields);
            if members.get("type") == Some(&json!("object")) && members.contains_key("required") {
                members.insert("additionalProperties".to_owned(), json!(false));
            }
        }
        Json::Array(items) => items.iter_mut().for_each(forbid_other_fields),
        _ => {}
    }
}

/// The command that a line calls, in the words of the schemas.
pub(crate) fn command_of(args: &[&str]) -> Option<String> {
    let known = |words: &str| all()["commands"].get(words).is_some().then(|| words.to_owned());
    (0..args.len()).find_map(|at| {
        args.get(at + 1).and_then(|next| known(&format!("{} {next}", args[at]))).or_else(|| known(args[at]))
    })
}

/// Whether a line asks for JSON. `put` may be given its fields behind a `--json` of its own.
fn wants_json(args: &[&str]) -> bool {
    let object = |at: usize| args.get(at + 1).is_some_and(|next| next.trim_start().starts_with('{'));
    args.iter().enumerate().any(|(at, arg)| *arg == "--json" && !object(at))
}

/// Panics unless the document is as the schema has it.
pub(crate) fn check_document(command: &str, document: &Json) {
    static VALIDATORS: Mutex<BTreeMap<String, Validator>> = Mutex::new(BTreeMap::new());
    let mut validators = VALIDATORS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let validator = validators.entry(command.to_owned()).or_insert_with(|| {
        let mut schema = all()["commands"][command]["schema"].clone();
        assert!(schema.is_object(), "docs/schema/v1.json says nothing of {command}");
        schema["$defs"] = all()["$defs"].clone();
        jsonschema::draft202012::new(&schema).expect("a schema")
    });
    let errors: Vec<String> =
        validator.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{command} prints what its schema does not allow: {errors:#?}\n{document:#}");
}

/// Checks what a command line has printed, if that was to be JSON.
pub(crate) fn check(args: &[&str], code: i32, stdout: &str, stderr: &str) {
    if !wants_json(args) {
        return;
    }
    let line = args.join(" ");
    let read = |text: &str| -> Json {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{line}: not JSON: {error}: {text}"))
    };
    // The text of metrics is what Prometheus reads, and help is for people.
    let text = args.contains(&"metrics") && !args.contains(&"--serve");
    let help = args.contains(&"--help") || args.contains(&"help") || args.contains(&"--version");
    if let (Some(command), false) = (command_of(args), text || help) {
        stdout.lines().for_each(|document| check_document(&command, &read(document)));
    }
    if code != 0 {
        check_document("error", &read(stderr.lines().last().unwrap_or_default()));
    }
}
