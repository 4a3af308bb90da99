//! The file `config.toml`, as the user wrote it.
//!
//! Invariants: a change keeps comments, order and spacing of everything else; the file is replaced as a whole, and
//! only by a text that is right.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml_edit::{Array, DocumentMut, Item, Table, value};

use super::keys::find_in;
use super::{Config, KEYS, Key, Value, in_file};
use crate::error::{CliError, Result};

/// Longest configuration file that is read, in bytes.
const CONFIG_BYTES_MAX: u64 = 64 * 1024;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct File {
    path: PathBuf,
    document: DocumentMut,
}

impl File {
    /// The file at a path; an empty one if there is none.
    pub(crate) fn read(path: &Path) -> Result<File> {
        let text = match fs::metadata(path) {
            Ok(metadata) if metadata.len() > CONFIG_BYTES_MAX => {
                return Err(CliError::usage(format!("{} is too long", path.display())));
            }
            Ok(_) => fs::read_to_string(path).map_err(|error| CliError::io("read", path, &error))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(CliError::io("read", path, &error)),
        };
        File::parse(path, &text)
    }

    /// The file that a path would hold with this text.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<File> {
        let document = text.parse().map_err(|error: toml_edit::TomlError| {
            CliError::usage(format!("{} is not right: {}", path.display(), error.to_string().trim_end()))
                .hint("correct it in an editor; `ahenk-cli config edit` opens a device's, and checks it")
        })?;
        Ok(File { path: path.to_owned(), document })
    }

    /// The settings of a new device.
    pub(crate) fn of(path: &Path, config: &Config) -> Result<File> {
        let comment = "# Settings of this device; `ahenk-cli config list` shows all that there are.\n\
                       # The daemon reads them when it starts.\n";
        let mut file = File::parse(path, comment)?;
        let default = Config::default();
        for key in KEYS.iter().filter(|key| key.get(config) != key.get(&default)) {
            file.set(key, &key.get(config))?;
        }
        Ok(file)
    }

    pub(crate) fn text(&self) -> String {
        self.document.to_string()
    }

    /// All that is set in it, not checked but for names and sorts.
    pub(crate) fn values(&self) -> Result<Vec<(&'static Key, Value)>> {
        self.values_of(KEYS, "`ahenk-cli config list` shows all")
    }

    /// The same for another table of keys, which `all` says how to see.
    pub(super) fn values_of<C>(
        &self,
        keys: &'static [Key<C>],
        all: &str,
    ) -> Result<Vec<(&'static Key<C>, Value)>> {
        let find = |name: &str| find_in(keys, name, all);
        let mut values = Vec::new();
        for (section, item) in self.document.iter() {
            let Some(table) = item.as_table_like() else {
                find(section).map_err(|error| in_file(&self.path, &error))?;
                continue;
            };
            for (name, item) in table.iter() {
                let key = find(&format!("{section}.{name}")).map_err(|error| in_file(&self.path, &error))?;
                let read = read(item).ok_or_else(|| in_file(&self.path, &key.wrong("it cannot be that")))?;
                values.push((key, read));
            }
        }
        Ok(values)
    }

    /// One key, if it is set.
    pub(crate) fn value(&self, key: &Key) -> Result<Option<Value>> {
        let (section, name) = split(key);
        let item = self.document.get(section).and_then(|item| item.as_table_like()?.get(name));
        item.map(|item| read(item).ok_or_else(|| in_file(&self.path, &key.wrong("it cannot be that"))))
            .transpose()
    }

    /// Sets a key.
    pub(crate) fn set<C>(&mut self, key: &Key<C>, given: &Value) -> Result<()> {
        let (section, name) = split(key);
        let table = self.document.entry(section).or_insert_with(|| Item::Table(Table::new()));
        let table = table.as_table_like_mut().ok_or_else(|| key.wrong("its section is no table"))?;
        let new = match given {
            Value::Bool(set) => value(*set),
            Value::Integer(set) => value(i64::try_from(*set).map_err(CliError::internal)?),
            Value::Text(set) => value(set),
            Value::List(items) => value(items.iter().collect::<Array>()),
        };
        match table.get_mut(name) {
            // What stands beside the value, a comment perhaps, stays.
            Some(Item::Value(old)) => {
                let decor = old.decor().clone();
                let mut new = new.into_value().map_err(|_| CliError::internal("a value is a value"))?;
                *new.decor_mut() = decor;
                *old = new;
            }
            _ => {
                table.insert(name, new);
            }
        }
        Ok(())
    }

    /// Takes a key out. Whether it was there.
    pub(crate) fn unset(&mut self, key: &Key) -> bool {
        let (section, name) = split(key);
        let Some(table) = self.document.get_mut(section).and_then(Item::as_table_like_mut) else {
            return false;
        };
        table.remove(name).is_some()
    }

    /// Replaces the file on the disk.
    pub(crate) fn save(&self) -> Result<()> {
        crate::home::replace(&self.path, self.text().as_bytes())
    }
}

fn split<C>(key: &Key<C>) -> (&'static str, &'static str) {
    key.name.split_once('.').unwrap_or(("", key.name))
}

/// A value of one of the sorts that keys have.
fn read(item: &Item) -> Option<Value> {
    let item = item.as_value()?;
    if let Some(list) = item.as_array() {
        let items = list.iter().map(|item| item.as_str().map(str::to_owned));
        return Some(Value::List(items.collect::<Option<_>>()?));
    }
    let number = item.as_integer().and_then(|number| u64::try_from(number).ok()).map(Value::Integer);
    item.as_bool()
        .map(Value::Bool)
        .or(number)
        .or_else(|| item.as_str().map(|text| Value::Text(text.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::super::find;
    use super::*;

    #[test]
    fn comments_and_order_survive_a_change() {
        let text = "# mine\n[log]\nlevel = \"warn\" # quiet\n\n[network]\n# at home\nmdns = true\n";
        let mut file = File::parse(Path::new("config.toml"), text).expect("right");
        file.set(find("log.level").expect("a key"), &Value::Text("debug".to_owned())).expect("set");
        file.set(find("network.mdns").expect("a key"), &Value::Bool(false)).expect("set");
        assert_eq!(file.text(), text.replace("\"warn\"", "\"debug\"").replace("true", "false"));
        file.set(find("sync.enabled").expect("a key"), &Value::Bool(false)).expect("set");
        assert!(file.text().contains("# at home") && file.text().ends_with("[sync]\nenabled = false\n"));
        assert!(file.unset(find("sync.enabled").expect("a key")));
        assert!(!file.unset(find("sync.enabled").expect("a key")));
    }
}
