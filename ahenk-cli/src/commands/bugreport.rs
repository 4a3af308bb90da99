//! `bugreport`: what helps to understand a bug, in one file that its user can read before sending it.
//!
//! Invariant: no rows, keys, names or addresses are in it. What could hold one goes through [`Redactor`], which knows
//! the names of this account's devices and masks whatever looks like an address or an identity.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use serde_json::json;

use super::export::{Partial, outside_homes};
use super::{Env, doctor, init_logging};
use crate::backend::{Backend, Need};
use crate::data::time;
use crate::error::{CliError, Kind, Result};
use crate::home::Home;
use crate::protocol::Request;
use crate::report::{Device, Stats};

/// How much of the end of the log is taken, in bytes.
const LOG_BYTES: u64 = 64 * 1024;

/// Arguments of `bugreport`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The file holds versions, settings, what `doctor` and `stats` say, and the end of
the daemon's log. Names of devices are replaced by device-1, device-2 and so on;
identities, addresses and paths are masked; rows, keys and table names are not
looked at. Read it before you send it.

Example:
  ahenk-cli bugreport --output report.txt")]
pub(crate) struct Args {
    /// Write to this file [default: ahenk-bugreport-TIME.txt here]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    env.home.require()?;
    init_logging("error");
    let now = time::format(time::now_ms()).replace([' ', ':'], "-");
    let path = args.output.unwrap_or_else(|| PathBuf::from(format!("ahenk-bugreport-{}.txt", &now[..19])));
    outside_homes(env, &path)?;
    if path.exists() {
        return Err(CliError::new(Kind::Conflict, format!("{} is there already", path.display()))
            .hint("choose another name with --output"));
    }
    let text = gather(&env.home).await?;
    let mut file = Partial::create(&path)?;
    file.line(&text)?;
    file.finish()?;
    let document = json!({ "file": path.display().to_string(), "bytes": text.len() + 1 });
    env.out.show(&document, |_| format!("{} written. Read it before you send it.", path.display()))
}

async fn gather(home: &Home) -> Result<String> {
    let mut redactor = Redactor::new(home);
    let mut parts = vec![(
        "what",
        format!(
            "ahenk-cli {} on {} {}, file format {}, at {} UTC",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::OS,
            std::env::consts::ARCH,
            store::FORMAT,
            time::format(time::now_ms())
        ),
    )];
    // A database that does not open is a finding, not an obstacle.
    let opened = match Backend::open(home, Need::Store).await {
        Ok(backend) => {
            let devices = backend.one::<Vec<Device>>(Request::Devices).await;
            let stats = backend.one::<Stats>(Request::Stats).await;
            let closed = backend.close().await;
            devices.and_then(|devices| Ok((devices, stats?))).and_then(|read| closed.map(|()| read))
        }
        Err(error) => Err(error),
    };
    match opened {
        Ok((devices, stats)) => {
            redactor.know(devices.iter().map(|device| device.name.as_str()));
            parts.push(("stats", serde_json::to_string_pretty(&stats).map_err(CliError::internal)?));
        }
        Err(error) => parts.push(("database", error.to_string())),
    }
    let checks = doctor::checks(home).await?;
    parts.push(("doctor", serde_json::to_string_pretty(&checks).map_err(CliError::internal)?));
    parts
        .push(("config.toml", std::fs::read_to_string(home.config_path()).unwrap_or_else(|e| e.to_string())));
    parts.push(("the end of the log", log_end(home)));
    let mut text = String::new();
    for (title, part) in parts {
        let _ = writeln!(text, "== {title} ==\n{}\n", redactor.redact(&part));
    }
    Ok(text.trim_end().to_owned())
}

fn log_end(home: &Home) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(home.log_path())?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("there is none: {error}"),
    }
}

/// Replaces what says who or where.
struct Redactor {
    /// Texts and what stands for them; the longest first.
    known: Vec<(String, String)>,
    /// Identities met so far: the same one is replaced by the same word.
    identities: BTreeMap<String, usize>,
}

impl Redactor {
    fn new(home: &Home) -> Redactor {
        let mut known = vec![(home.dir().display().to_string(), "<home>".to_owned())];
        let user = std::env::var("HOME").ok().filter(|path| path.len() > 1);
        known.extend(user.map(|path| (path, "<user>".to_owned())));
        known.extend(
            std::env::var("USER").ok().filter(|name| name.len() > 2).map(|name| (name, "<user>".to_owned())),
        );
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        known.extend((host.len() > 2).then_some((host, "<host>".to_owned())));
        Redactor { known, identities: BTreeMap::new() }
    }

    /// Names of devices.
    fn know<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        self.known.extend(names.enumerate().map(|(n, name)| (name.to_owned(), format!("device-{}", n + 1))));
        self.known.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
    }

    fn redact(&mut self, text: &str) -> String {
        let mut words = String::new();
        let part = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            if let Some((known, instead)) = self.known_at(words.chars().next_back(), rest) {
                words.push_str(&instead);
                rest = &rest[known..];
            } else if part(first) {
                let end = rest.find(|c: char| !part(c)).unwrap_or(rest.len());
                // A colon or full stop at the end belongs to the sentence.
                let word = rest[..end].trim_end_matches([':', '.']);
                let taken = word.len().max(first.len_utf8());
                let word = self.word(&rest[..taken]);
                words.push_str(&word);
                rest = &rest[taken..];
            } else {
                words.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
        words
    }

    /// What is known and stands at the beginning, as words of their own: its length and its replacement.
    fn known_at(&self, before: Option<char>, text: &str) -> Option<(usize, String)> {
        let whole = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
        let found = self.known.iter().find(|(known, _)| {
            !known.is_empty() && text.starts_with(known.as_str()) && whole(text[known.len()..].chars().next())
        });
        found.filter(|_| whole(before)).map(|(known, instead)| (known.len(), instead.clone()))
    }

    fn word(&mut self, word: &str) -> String {
        let hexadecimal = word.len() >= 16
            && word.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'-' | b':'));
        let base58 = word.len() >= 40 && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let date = word.len() >= 10
            && word.as_bytes()[4] == b'-'
            && word[..4].bytes().all(|byte| byte.is_ascii_digit())
            && word.contains('T');
        let address =
            word.parse::<std::net::IpAddr>().is_ok() || word.parse::<std::net::SocketAddr>().is_ok();
        let colons = word.matches(':').count() >= 2
            && word.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':');
        if (hexadecimal || base58) && !date {
            let next = self.identities.len() + 1;
            return format!("<id-{}>", self.identities.entry(word.to_owned()).or_insert(next));
        }
        if address || colons && !looks_like_time(word) {
            return "<address>".to_owned();
        }
        word.to_owned()
    }
}

/// `13:05:59`
fn looks_like_time(word: &str) -> bool {
    let parts: Vec<&str> = word.split(':').collect();
    parts.len() == 3
        && parts.iter().all(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_identities_addresses_and_paths_are_replaced_and_the_rest_stays() {
        let mut redactor = Redactor {
            known: vec![("/srv/ada/.ahenk".to_owned(), "<home>".to_owned())],
            identities: BTreeMap::new(),
        };
        redactor.know(["laptop", "Ada's phone"].into_iter());
        let text = "2026-01-31T13:05:59.123456Z  INFO laptop at /ip4/192.168.1.20/udp/4001 fe80::1 [::1]:80: \
                    Ada's phone, 147e7f72-2d6a-8d69-b3ae-bf04e6289387/20cfab3caaf781df:3; laptops, \
                    147e7f72-2d6a-8d69-b3ae-bf04e6289387 in /srv/ada/.ahenk/x at 13:05:59. 12D3KooWGCzHnDYYfzAQg6YpzQjVYV3oRHtqP6wJ9ZVcY4LbZ8dN";
        let clean = redactor.redact(text);
        assert_eq!(
            clean,
            "2026-01-31T13:05:59.123456Z  INFO device-1 at /ip4/<address>/udp/4001 <address> [<address>]:80: \
             device-2, <id-1>/<id-2>; laptops, \
             <id-1> in <home>/x at 13:05:59. <id-3>"
        );
    }
}
