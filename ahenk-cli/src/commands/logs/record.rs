//! Records of a log, in whichever of its formats. A record is its first line, which has a time and a level, and the lines
//! that belong to it.

use serde_json::{Value as Json, json};

use super::Level;

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    /// What no logger wrote (the last words of a process) counts as an error.
    pub(crate) level: Level,
    /// As the log has it.
    time: Option<String>,
    target: Option<String>,
    /// All lines as they are in the log.
    pub(crate) text: String,
    /// What is said, without time, level and target.
    message: String,
}

/// Puts records together from lines.
#[derive(Debug, Default)]
pub(crate) struct Records(Vec<Record>);

fn level(word: &str) -> Option<Level> {
    let levels = [
        ("ERROR", Level::Error),
        ("WARN", Level::Warn),
        ("INFO", Level::Info),
        ("DEBUG", Level::Debug),
        ("TRACE", Level::Trace),
    ];
    levels.into_iter().find(|(name, _)| *name == word).map(|(_, level)| level)
}

impl Records {
    pub(crate) fn line(&mut self, line: &str) {
        if let Some(record) = first_line(line) {
            return self.0.push(record);
        }
        if let Some(last) = self.0.last_mut().filter(|last| last.time.is_some() && is_continuation(line)) {
            for text in [&mut last.text, &mut last.message] {
                text.push('\n');
                text.push_str(line);
            }
        } else if !line.trim().is_empty() {
            let text = line.to_owned();
            self.0.push(Record {
                level: Level::Error,
                time: None,
                target: None,
                message: text.clone(),
                text,
            });
        }
    }

    /// The records so far.
    pub(crate) fn finish(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.0)
    }
}

/// `pretty` says below, indented, where a record comes from.
fn is_continuation(line: &str) -> bool {
    line.starts_with("    ")
}

fn first_line(line: &str) -> Option<Record> {
    if line.starts_with('{') {
        return from_json(line);
    }
    let mut rest = line.trim_start();
    let mut word = || {
        let end = rest.find(char::is_whitespace)?;
        let word;
        (word, rest) = rest.split_at(end);
        rest = rest.trim_start();
        Some(word)
    };
    let time = word()?;
    if !(time.starts_with(|c: char| c.is_ascii_digit()) && time.contains('T') && time.ends_with('Z')) {
        return None;
    }
    let (time, level) = (time.to_owned(), level(word()?)?);
    let (target, message) = rest.split_once(": ").unwrap_or(("", rest));
    Some(Record {
        level,
        time: Some(time),
        target: Some(target.to_owned()).filter(|target| !target.is_empty()),
        text: line.to_owned(),
        message: message.to_owned(),
    })
}

fn from_json(line: &str) -> Option<Record> {
    let json: Json = serde_json::from_str(line).ok()?;
    let text = |value: &Json| value.as_str().map(str::to_owned);
    let mut fields = json["fields"].as_object().cloned().unwrap_or_default();
    let message = fields.remove("message").as_ref().and_then(text).unwrap_or_default();
    let rest = fields.iter().map(|(name, value)| match value {
        Json::String(text) => format!(" {name}={text}"),
        value => format!(" {name}={value}"),
    });
    Some(Record {
        level: level(json["level"].as_str()?)?,
        time: text(&json["timestamp"]),
        target: text(&json["target"]),
        text: line.to_owned(),
        message: message + &rest.collect::<String>(),
    })
}

impl Record {
    /// For `--json`.
    pub(crate) fn document(&self) -> Json {
        let level = format!("{:?}", self.level).to_lowercase();
        json!({ "time": self.time, "level": level, "target": self.target, "message": self.message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Vec<Record> {
        let mut records = Records::default();
        lines.iter().for_each(|line| records.line(line));
        records.finish()
    }

    #[test]
    fn the_same_record_is_read_from_every_format() {
        let time = "2026-11-27T14:00:00.123456Z";
        let full = format!("{time}  WARN ahenk::node: it is so n=1");
        let pretty = [
            format!("  {time}  WARN ahenk::node: it is so, n: 1"),
            "    at ahenk/src/node.rs:7".to_owned(),
            String::new(),
        ];
        let pretty: Vec<&str> = pretty.iter().map(String::as_str).collect();
        let json = format!(
            "{{\"timestamp\":\"{time}\",\"level\":\"WARN\",\"fields\":{{\"message\":\"it is so\",\"n\":1}},\
             \"target\":\"ahenk::node\"}}"
        );
        for (lines, message) in [
            (vec![full.as_str()], "it is so n=1"),
            (pretty, "it is so, n: 1\n    at ahenk/src/node.rs:7"),
            (vec![json.as_str()], "it is so n=1"),
        ] {
            let records = read(&lines);
            assert_eq!(records.len(), 1, "{records:?}");
            let document = records[0].document();
            assert_eq!(
                (&document["time"], &document["level"], &document["target"], &document["message"]),
                (&time.into(), &"warn".into(), &"ahenk::node".into(), &message.into())
            );
        }
    }

    #[test]
    fn what_no_logger_wrote_is_an_error_of_its_own() {
        let records =
            read(&["2026-11-27T14:00:00Z  INFO a: b", "error: the disk is full", "hint: make room", ""]);
        let levels: Vec<Level> = records.iter().map(|record| record.level).collect();
        assert_eq!(levels, [Level::Info, Level::Error, Level::Error]);
        assert_eq!(records[1].text, "error: the disk is full");
    }
}
