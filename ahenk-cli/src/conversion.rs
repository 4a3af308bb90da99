//! Making a plain home an encrypted one, and the other way round.
//!
//! Everything that changes is written anew beside its place, whole and synced, and then put in place at one go. A note
//! in the home says how far that is: `staging` while the new files are written, `placing` from when all of them are there.
//! After a power cut in the first, whoever comes next removes what is new; in the second, they finish it. So at any moment
//! the home is whole, in its old form or in its new one.
//!
//! Invariants: the lock of the home is held all the while; nothing old is touched before the note says `placing`, and
//! that is written only when all that is new is durable; placing is done by names alone, needs no key, and may be begun
//! again anywhere. The database that comes out is a new life, like a restored one.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use store::{Backup, DataKey, RedbStore, guard_path};

use crate::error::{CliError, Kind, Result};
use crate::home::{self, Home};
use crate::secrets;

const TITLE: &str = "ahenk conversion 1";
const STAGING: &str = "staging";
const PLACING: &str = "placing";
/// What stands behind the name of a file that is to take another's place.
const NEXT: &str = ".next";

/// What a home is to be: a data key, and the text of the vault that holds it; none for a plain one.
pub(crate) type Form = Option<(DataKey, String)>;

fn next(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(NEXT);
    PathBuf::from(name)
}

fn note_path(home: &Home) -> PathBuf {
    home.dir().join("conversion")
}

/// What a conversion has written down: how far it is, whether the home will be encrypted, and where the database is.
struct Note {
    placing: bool,
    encrypted: bool,
    database: PathBuf,
}

impl Note {
    fn read(home: &Home) -> Result<Option<Note>> {
        let path = note_path(home);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CliError::io("read", &path, &error)),
        };
        let damaged = || {
            CliError::new(Kind::Storage, format!("{} is damaged", path.display()))
                .hint("the home was being encrypted or decrypted; restore the folder from a copy")
        };
        let mut lines = text.strip_suffix('\n').ok_or_else(damaged)?.splitn(4, '\n');
        let (Some(TITLE), Some(stage), Some(form), Some(database)) =
            (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(damaged());
        };
        let placing = [STAGING, PLACING].iter().position(|name| *name == stage).ok_or_else(damaged)? == 1;
        let encrypted =
            ["plain", "encrypted"].iter().position(|name| *name == form).ok_or_else(damaged)? == 1;
        Ok(Some(Note { placing, encrypted, database: PathBuf::from(database) }))
    }

    fn write(&self, home: &Home) -> Result<()> {
        let stage = if self.placing { PLACING } else { STAGING };
        let form = if self.encrypted { "encrypted" } else { "plain" };
        let database = self.database.to_str().ok_or_else(|| {
            CliError::usage("the path of the database is not UTF-8")
                .hint("`config set database.path` moves it")
        })?;
        home::replace(&note_path(home), format!("{TITLE}\n{stage}\n{form}\n{database}\n").as_bytes())?;
        sync(home.dir())
    }

    /// The files of which there may be a new form, but for the database.
    fn small(home: &Home) -> [PathBuf; 3] {
        [home.device_key_path(), home.account_key_path(), home.vault_path()]
    }
}

fn sync(folder: &Path) -> Result<()> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| CliError::io("write", folder, &error))
}

fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CliError::io("remove", path, &error)),
        _ => Ok(()),
    }
}

/// Puts a new file in its place, if there is one.
fn place(path: &Path) -> Result<()> {
    match fs::rename(next(path), path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CliError::io("write", path, &error)),
        _ => Ok(()),
    }
}

/// Converts a home, whose lock the caller holds, from what opens with `old`. `reached` is told of each step that is
/// durable, and may stop it there, as a power cut would.
pub(crate) fn convert(
    home: &Home,
    old: Option<&DataKey>,
    new: &Form,
    reached: &mut dyn FnMut(&'static str) -> Result<()>,
) -> Result<()> {
    let mut note = Note { placing: false, encrypted: new.is_some(), database: home.database_path()? };
    note.write(home)?;
    reached("the note")?;
    stage(home, old, new, &note.database, reached)?;
    note.placing = true;
    note.write(home)?;
    reached("all is there")?;
    finish(home, &note, reached)
}

fn stage(
    home: &Home,
    old: Option<&DataKey>,
    new: &Form,
    database: &Path,
    reached: &mut dyn FnMut(&'static str) -> Result<()>,
) -> Result<()> {
    let key = new.as_ref().map(|(key, _)| key);
    let identity = home.identity()?;
    secrets::write_key_beside(
        &home.device_key_path(),
        &next(&home.device_key_path()),
        &identity.secret,
        key,
    )?;
    reached("the device's key")?;
    if let Some(root) = home.root()? {
        secrets::write_key_beside(&home.account_key_path(), &next(&home.account_key_path()), &root, key)?;
        reached("the account's key")?;
    }
    if let Some((_, vault)) = new {
        secrets::write_private(&next(&home.vault_path()), vault.as_bytes())?;
        reached("the vault")?;
    }
    let source = Backup { path: database, key: old };
    RedbStore::restore(&source, &next(database), identity.account(), key, false)?;
    reached("the database")?;
    sync(home.dir())?;
    sync(folder(database))
}

/// Puts what is new in its place. Begun again after a power cut, it goes on where it was.
fn finish(home: &Home, note: &Note, reached: &mut dyn FnMut(&'static str) -> Result<()>) -> Result<()> {
    let database = &note.database;
    if next(database).exists() {
        // First: it must not vouch for the new file.
        remove(&guard_path(database))?;
        sync(folder(database))?;
        reached("the guard is gone")?;
        place(database)?;
        sync(folder(database))?;
        reached("the database is in place")?;
    }
    for path in Note::small(home) {
        place(&path)?;
        reached("a key is in place")?;
    }
    if !note.encrypted {
        remove(&home.vault_path())?;
        reached("the vault is gone")?;
    }
    sync(home.dir())?;
    end(home)
}

fn end(home: &Home) -> Result<()> {
    remove(&note_path(home))?;
    sync(home.dir())
}

/// Removes what a conversion has staged that did not get as far as to place it.
fn give_up(home: &Home, note: &Note) -> Result<()> {
    for path in Note::small(home) {
        remove(&next(&path))?;
    }
    // The copy has temporary names of its own while it is made.
    for path in beside(&note.database, NEXT)? {
        remove(&path)?;
    }
    sync(folder(&note.database))?;
    sync(home.dir())?;
    end(home)
}

/// Files beside a database whose names begin with its own and `suffix`.
fn beside(database: &Path, suffix: &str) -> Result<Vec<PathBuf>> {
    let mut start = database.file_name().map_or_else(OsString::new, OsString::from);
    start.push(suffix);
    let failed = |error: io::Error| CliError::io("read", folder(database), &error);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder(database)).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().as_encoded_bytes().starts_with(start.as_encoded_bytes()) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Databases that were put aside earlier, by `restore` or because they were damaged: they stay as they are.
pub(crate) fn put_aside(home: &Home) -> Result<Vec<PathBuf>> {
    let database = home.database_path()?;
    let mut found = beside(&database, ".replaced-")?;
    found.extend(beside(&database, ".damaged-")?);
    Ok(found)
}

/// Whether a conversion was cut off, or goes on.
pub(crate) fn pending(home: &Home) -> Result<bool> {
    let path = note_path(home);
    path.try_exists().map_err(|error| CliError::io("read", &path, &error))
}

/// Ends a conversion that was cut off, one way or the other. The caller holds the lock.
pub(crate) fn recover(home: &Home) -> Result<()> {
    match Note::read(home)? {
        Some(note) if note.placing => finish(home, &note, &mut |_| Ok(())),
        Some(note) => give_up(home, &note),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use engine::identity::{DeviceCert, Identity, PeerKey};

    use super::*;
    use crate::config::Config;
    use crate::{session, vault};

    /// A home of a new account, in a folder.
    fn made(dir: &Path, form: &Form) -> Home {
        let home = Home::choose(Some(dir.join("home"))).expect("a path");
        let (root, secret) = (secrets::new_key().expect("a key"), secrets::new_key().expect("a key"));
        let cert = DeviceCert::issue(&root, PeerKey(secret.public()), "a", 1, true).expect("a certificate");
        let identity = Identity::new(secret, cert).expect("an identity");
        let building = home.begin().expect("a folder");
        if let Some((key, text)) = form {
            secrets::write_private(&building.home().vault_path(), text.as_bytes()).expect("written");
            building.home().adopt(key.clone());
        }
        session::create_store(building.home(), &identity, Vec::new()).expect("a store");
        building.write(&identity, Some(&root), &Config::default()).expect("written");
        building.finish().expect("in place");
        opened(dir, form)
    }

    /// The same home as another process finds it, with the key if it is encrypted.
    fn opened(dir: &Path, form: &Form) -> Home {
        let home = Home::choose(Some(dir.join("home"))).expect("a path");
        if let (Some((key, _)), true) = (form, home.encrypted().expect("seen")) {
            home.adopt(key.clone());
        }
        home
    }

    fn names(home: &Home) -> BTreeSet<String> {
        let names = fs::read_dir(home.dir()).expect("a folder");
        names.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    }

    /// Whether it is encrypted; all of it must be of one form, and of the same device.
    fn whole(dir: &Path, form: &Form, device: &PeerKey) -> bool {
        let home = opened(dir, form);
        let identity = home.identity().expect("the device's key");
        assert_eq!(identity.peer_key(), *device);
        assert!(home.root().expect("the account's key").is_some());
        let path = home.database_path().expect("a path");
        let key = home.key().expect("the key");
        RedbStore::check(&path, identity.account(), key.as_ref()).expect("a whole database");
        home.encrypted().expect("seen")
    }

    /// Converts, cut off after each step in turn, and gives after how many of them the home was in its new form.
    fn cut_off_everywhere(encrypt: bool) -> (usize, usize) {
        let key = vault::new_key().expect("a key");
        let form: Form = Some((key.clone(), vault::wrap(&key, "a long passphrase").expect("wrapped")));
        let (old, new) = if encrypt { (&None, &form) } else { (&form, &None) };
        let (mut converted, mut cut) = (0, 0);
        for step in 0.. {
            let dir = tempfile::tempdir().expect("a folder");
            let home = made(dir.path(), old);
            let device = home.identity().expect("an identity").peer_key();
            let before = names(&home);
            let mut left = step;
            let mut stop = |_: &'static str| {
                left -= 1;
                if left < 0 { Err(CliError::internal("cut off")) } else { Ok(()) }
            };
            let ended = convert(&home, home.key().expect("the key").as_ref(), new, &mut stop).is_ok();
            assert_eq!(pending(&home).expect("seen"), !ended);
            // Whoever comes next needs no key for it.
            let found = Home::choose(Some(dir.path().join("home"))).expect("a path");
            found.require().expect("recovered");
            assert!(!pending(&found).expect("seen"));
            let now = whole(dir.path(), &form, &device) == encrypt;
            let mut after = names(&found);
            after.remove("daemon.lock");
            let mut expected = before;
            expected.remove("daemon.lock");
            if now {
                converted += 1;
                expected.remove("ahenk.redb.guard");
                let changed =
                    if encrypt { expected.insert("vault.key".into()) } else { expected.remove("vault.key") };
                assert!(changed);
            }
            after.remove("ahenk.redb.guard");
            expected.remove("ahenk.redb.guard");
            assert_eq!(after, expected, "step {step}");
            if ended {
                break;
            }
            cut += 1;
        }
        (cut, converted)
    }

    #[test]
    fn a_home_whose_encryption_is_cut_off_anywhere_is_whole_and_plain_or_encrypted() {
        let (cut, converted) = cut_off_everywhere(true);
        // From when all of it was there on.
        assert_eq!((cut, converted), (11, 7));
    }

    #[test]
    fn a_home_whose_decryption_is_cut_off_anywhere_is_whole_and_encrypted_or_plain() {
        let (cut, converted) = cut_off_everywhere(false);
        assert_eq!((cut, converted), (11, 8));
    }
}
