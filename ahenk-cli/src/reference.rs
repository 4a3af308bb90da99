//! The generated parts of `docs/cli.md`: commands with their flags and documents, settings, environment, exit codes.
//!
//! The page holds prose by hand, and between `<!-- begin NAME -->` and `<!-- end NAME -->` what this module writes from
//! the definitions. A test fails when the page is stale; with `UPDATE_DOCS=1` it writes the page anew instead:
//! `UPDATE_DOCS=1 cargo test -p ahenk-cli --bin ahenk-cli reference`.

use std::fmt::Write as _;
use std::path::Path;

use clap::{Arg, Command, CommandFactory as _};
use serde_json::Value as Json;

use crate::cli::Cli;
use crate::config::{Config, KEYS, Value};
use crate::error::Kind;
use crate::schema;

/// The command line as a user meets it.
pub(crate) fn command_line() -> Command {
    let mut command = Cli::command().term_width(100);
    command.build();
    command
}

/// Every command that does something, by its words, and its definition.
pub(crate) fn leaves(command: &Command) -> Vec<(String, &Command)> {
    fn walk<'a>(words: &str, command: &'a Command, found: &mut Vec<(String, &'a Command)>) {
        let subcommands =
            || command.get_subcommands().filter(|one| !one.is_hide_set() && one.get_name() != "help");
        if !words.is_empty() && (!command.is_subcommand_required_set() || subcommands().count() == 0) {
            found.push((words.to_owned(), command));
        }
        for one in subcommands() {
            walk(format!("{words} {}", one.get_name()).trim_start(), one, found);
        }
    }
    let mut found = Vec::new();
    walk("", command, &mut found);
    found
}

/// The flags and arguments that are a command's own.
pub(crate) fn own_arguments(command: &Command) -> impl Iterator<Item = &Arg> {
    let generic = |arg: &Arg| matches!(arg.get_id().as_str(), "help" | "version");
    command.get_arguments().filter(move |arg| !arg.is_global_set() && !arg.is_hide_set() && !generic(arg))
}

fn argument(arg: &Arg) -> String {
    let values: Vec<String> =
        arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect();
    let takes = arg.get_action().takes_values();
    let value = if takes && !arg.is_positional() { format!(" {}", values.join(" ")) } else { String::new() };
    let mut names: Vec<String> = Vec::new();
    names.extend(arg.get_long().map(|long| format!("`--{long}{value}`")));
    names.extend(arg.get_short().map(|short| format!("`-{short}{value}`")));
    if arg.is_positional() {
        names.push(format!("`{}`", values.join(" ")));
    }
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default().replace('\n', " ");
    let mut line = format!("- {}: {help}", names.join(", "));
    let choices = arg.get_possible_values();
    let choices: Vec<&str> = choices.iter().filter(|_| takes).map(|choice| choice.get_name()).collect();
    if !choices.is_empty() && choices != ["true", "false"] {
        let _ = write!(line, " [one of {}]", choices.join(", "));
    }
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if takes && !defaults.is_empty() && !arg.is_hide_default_value_set() {
        let _ = write!(line, " [default: {}]", defaults.join(" "));
    }
    if let Some(variable) = arg.get_env() {
        let _ = write!(line, " [env: {}]", variable.to_string_lossy());
    }
    line
}

fn commands() -> String {
    let mut text = String::from("Options of every command:\n\n");
    let root = command_line();
    for arg in root.get_arguments().filter(|arg| arg.is_global_set()) {
        let _ = writeln!(text, "{}", argument(arg));
    }
    for (words, command) in leaves(&root) {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let usage = command.clone().render_usage().to_string().replace("Usage: ", "");
        let _ = write!(text, "\n### {words}\n\n{about}.\n\n```text\n{}\n```\n", usage.trim());
        let arguments: Vec<String> = own_arguments(command).map(argument).collect();
        if !arguments.is_empty() {
            let _ = write!(text, "\n{}\n", arguments.join("\n"));
        }
        if let Some(more) = command.get_after_help() {
            let _ = write!(text, "\n```text\n{}\n```\n", more.to_string().trim_end());
        }
        if let Some(entry) = schema::all()["commands"].get(&words) {
            let documents = entry["documents"].as_str().unwrap_or_default();
            let _ = write!(text, "\nJSON ({documents}): {}\n", described(&entry["schema"]));
            members(&entry["schema"], 0, &mut text);
        }
    }
    text
}

/// What a schema allows, in a few words, and what it says about that.
fn described(schema: &Json) -> String {
    match schema["description"].as_str() {
        Some(about) if schema.get("properties").is_some() || schema.get("anyOf").is_some() => {
            format!("{about}.")
        }
        Some(about) => format!("{}. {about}.", kind(schema)),
        None => format!("{}.", kind(schema)),
    }
}

fn kind(schema: &Json) -> String {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.trim_start_matches("#/$defs/");
        return format!("[{name}](#json-{name})");
    }
    if let Some(value) = schema.get("const") {
        return format!("`{value}`");
    }
    if let Some(choices) = schema["enum"].as_array() {
        let choices: Vec<String> = choices
            .iter()
            .map(|choice| choice.as_str().map_or_else(|| format!("`{choice}`"), |text| format!("`{text}`")))
            .collect();
        return choices.join(", ");
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        return choices.iter().map(kind).collect::<Vec<_>>().join(" or ");
    }
    let name = |name: &str| match name {
        "string" => "text".to_owned(),
        "array" => match schema.get("items") {
            Some(items) => format!("list of {}", kind(items)),
            None => "list".to_owned(),
        },
        other => other.to_owned(),
    };
    match &schema["type"] {
        Json::String(one) => name(one),
        Json::Array(several) => {
            several.iter().filter_map(Json::as_str).map(name).collect::<Vec<_>>().join(" or ")
        }
        _ => "any JSON".to_owned(),
    }
}

/// The fields of an object, of the objects in a list, or of the forms that a document can have.
fn members(schema: &Json, depth: usize, text: &mut String) {
    let schema = schema.get("items").unwrap_or(schema);
    let pad = "  ".repeat(depth);
    if let Some(forms) =
        schema["anyOf"].as_array().filter(|forms| forms.iter().any(|form| form.get("properties").is_some()))
    {
        for form in forms {
            let _ = writeln!(text, "{}{pad}- {}", if depth == 0 { "\n" } else { "" }, described(form));
            members(form, depth + 1, text);
        }
        return;
    }
    let Some(required) = schema["required"].as_array() else { return };
    if depth == 0 {
        text.push('\n');
    }
    // The list of required fields has their order; objects of JSON have none.
    for field in required.iter().filter_map(Json::as_str) {
        let member = &schema["properties"][field];
        let about = member["description"].as_str().map(|about| format!(": {about}")).unwrap_or_default();
        let _ = writeln!(text, "{pad}- `{field}` ({}){about}", kind(member));
        members(member, depth + 1, text);
    }
}

fn objects() -> String {
    let mut text = String::new();
    for (name, schema) in schema::all()["$defs"].as_object().expect("definitions") {
        let _ = write!(text, "\n<a id=\"json-{name}\"></a>**{name}**: {}\n", described(schema));
        members(schema, 0, &mut text);
    }
    text.trim_start().to_owned()
}

fn settings() -> String {
    let mut text = String::from("| key | what it may be | default | what it does |\n|---|---|---|---|\n");
    for key in KEYS {
        let default = match key.get(&Config::default()) {
            Value::List(items) => items.iter().map(|item| format!("`{item}`")).collect::<Vec<_>>().join(", "),
            Value::Text(text) if text.is_empty() => String::new(),
            other => format!("`{}`", other.text()),
        };
        let _ = writeln!(text, "| `{}` | {} | {default} | {} |", key.name, key.allowed(), key.about);
    }
    text
}

fn environment() -> String {
    let mut text = String::from("| variable | what it sets |\n|---|---|\n");
    let root = command_line();
    let mut rows: Vec<(String, String)> = Vec::new();
    for arg in root.get_arguments().filter(|arg| arg.is_global_set()) {
        let variable = arg.get_env().map(|name| name.to_string_lossy().into_owned());
        rows.extend(variable.map(|name| (name, format!("`--{}`", arg.get_long().unwrap_or_default()))));
    }
    for (words, command) in leaves(&root) {
        for arg in own_arguments(command) {
            let variable = arg.get_env().map(|name| name.to_string_lossy().into_owned());
            rows.extend(
                variable.map(|name| (name, format!("`{words} --{}`", arg.get_long().unwrap_or_default()))),
            );
        }
    }
    for key in KEYS {
        rows.extend(key.variables().into_iter().map(|name| (name, format!("the setting `{}`", key.name))));
    }
    let file = "a file whose first line is the passphrase of an encrypted home".to_owned();
    rows.push((crate::vault::PASSPHRASE_FILE.to_owned(), file));
    for (name, what) in rows {
        let _ = writeln!(text, "| `{name}` | {what} |");
    }
    text
}

fn example(kind: Kind) -> &'static str {
    match kind {
        Kind::Internal => "a bug",
        Kind::Usage => "a mistyped command, a name that no row can have, a wrong setting",
        Kind::NotFound => "no such row, no device in the folder, no invitation of that number",
        Kind::NotRunning => "`stop` without a daemon",
        Kind::NotAuthorised => "a wrong code, a declined device, a device of another account",
        Kind::Conflict => {
            "a second daemon, a folder that is taken, a code that has expired; `verify`: rows differ"
        }
        Kind::Network => "the other device cannot be reached, or not in time",
        Kind::Storage => "a full disk, a damaged file",
        Kind::Locked => "a wrong passphrase, or none where nobody can be asked",
        Kind::OutputClosed => "",
    }
}

fn exit_codes() -> String {
    let mut text = String::from("| code | kind | for example |\n|---|---|---|\n");
    text.push_str("| 0 | | success; also when the reader of the output went away |\n");
    for kind in Kind::ALL {
        let name = serde_json::to_value(kind).expect("a name");
        let name = name.as_str().expect("a text").to_owned();
        let _ = writeln!(text, "| {} | `{name}` | {} |", kind.exit_code(), example(kind));
    }
    text
}

/// The page with its generated parts as they should be.
fn generated(page: &str) -> String {
    let mut page = page.to_owned();
    let parts = [
        ("settings", settings()),
        ("environment", environment()),
        ("exit codes", exit_codes()),
        ("objects", objects()),
        ("commands", commands()),
    ];
    for (name, text) in parts {
        let (begin, end) = (format!("<!-- begin {name} -->\n"), format!("<!-- end {name} -->"));
        let from = page.find(&begin).unwrap_or_else(|| panic!("docs/cli.md has no {begin}")) + begin.len();
        let to = from + page[from..].find(&end).unwrap_or_else(|| panic!("docs/cli.md has no {end}"));
        page.replace_range(from..to, &format!("\n{}\n\n", text.trim_end()));
    }
    page
}

#[test]
fn the_reference_is_what_the_definitions_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    let page = std::fs::read_to_string(&path).expect("the page");
    let right = generated(&page);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &right).expect("written");
        return;
    }
    let differs = page.lines().zip(right.lines()).find(|(is, should)| is != should);
    assert!(
        page == right,
        "docs/cli.md is stale; UPDATE_DOCS=1 with this test writes it anew. It first differs here: {differs:#?}"
    );
}

#[test]
fn every_command_has_a_schema_and_every_schema_a_command() {
    let root = command_line();
    let leaves = leaves(&root);
    // What draws on the screen prints no documents.
    let missing: Vec<&str> = leaves
        .iter()
        .map(|(words, _)| words.as_str())
        .filter(|words| *words != "tui" && schema::of(words).is_none())
        .collect();
    assert!(missing.is_empty(), "docs/schema/v1.json says nothing of {missing:?}");
    let unknown: Vec<String> = schema::commands()
        .into_iter()
        .filter(|words| words != "error" && !leaves.iter().any(|(known, _)| known == words))
        .filter(|words| cfg!(feature = "query") || words != "query")
        .collect();
    assert!(unknown.is_empty(), "docs/schema/v1.json has {unknown:?}, which are no commands");
}
