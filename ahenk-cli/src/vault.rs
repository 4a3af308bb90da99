//! The vault of an encrypted home: the data key, wrapped by a passphrase, and where the passphrase comes from.
//!
//! `vault.key` is text (`docs/format.md`, "The vault"): the data key under XChaCha20-Poly1305 with a key that Argon2id makes
//! of the passphrase. Backups carry the same text, so that the passphrase of their time opens them.
//!
//! Invariants: a passphrase is never an argument nor the value of an environment variable, and is wiped from memory; what a
//! vault asks of the machine is bounded, because a backup may come from anybody.

use std::io::{self, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::AeadInPlace as _;
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305};
use engine::identity::{SecretKey, hex};
use store::DataKey;
use zeroize::Zeroizing;

use crate::error::{CliError, Kind, Result};
use crate::home::environment;
use crate::secrets::{self, unhex};

const TITLE: &str = "ahenk vault 1";
/// Names a file with the passphrase, for when nobody is there to type it.
pub(crate) const PASSPHRASE_FILE: &str = "AHENK_PASSPHRASE_FILE";
/// What systemd calls the folder of a service's credentials, and what ours is called there.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
const CREDENTIAL: &str = "ahenk-passphrase";
/// Shortest passphrase that is taken for a new vault, and longest at all, in bytes.
const PASSPHRASE_BYTES_MIN: usize = 8;
const PASSPHRASE_BYTES_MAX: u64 = 4096;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

pub(crate) type Passphrase = Zeroizing<String>;

/// What Argon2id takes: the second of the choices that RFC 9106 recommends, in one lane.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 1;
/// The most that is spent on a vault, whoever wrote it.
const MEMORY_KIB_MAX: u32 = 1024 * 1024;
const PASSES_MAX: u32 = 32;
const LANES_MAX: u32 = 16;

/// What a vault says of how its key is made.
struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: Vec<u8>,
}

impl Cost {
    fn line(&self) -> String {
        let Cost { memory_kib, passes, lanes, salt } = self;
        format!("argon2id memory_kib={memory_kib} passes={passes} lanes={lanes} salt={}", hex(salt))
    }

    fn parse(line: &str) -> Option<Cost> {
        let mut words = line.strip_prefix("argon2id ")?.split(' ');
        let mut number = |name: &str, max: u32| {
            let number = words.next()?.strip_prefix(name)?.strip_prefix('=')?.parse::<u32>().ok()?;
            (1..=max).contains(&number).then_some(number)
        };
        let memory_kib = number("memory_kib", MEMORY_KIB_MAX)?;
        let passes = number("passes", PASSES_MAX)?;
        let lanes = number("lanes", LANES_MAX)?;
        let salt = unhex(words.next()?.strip_prefix("salt=")?)?.to_vec();
        ((8..=64).contains(&salt.len()) && words.next().is_none()).then_some(Cost {
            memory_kib,
            passes,
            lanes,
            salt,
        })
    }

    fn key(&self, passphrase: &str) -> Option<Zeroizing<[u8; 32]>> {
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(32)).ok()?;
        let mut key = Zeroizing::new([0; 32]);
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        argon2.hash_password_into(passphrase.as_bytes(), &self.salt, &mut key[..]).ok()?;
        Some(key)
    }
}

/// Nonce, ciphertext and tag of a small secret.
pub(crate) fn seal(key: &[u8; 32], about: &[u8], secret: &[u8]) -> Result<Vec<u8>> {
    let mut sealed = secrets::random::<NONCE_BYTES>()?.to_vec();
    let mut text = Zeroizing::new(secret.to_vec());
    let cipher = XChaCha20Poly1305::new(key.into());
    let tag = cipher.encrypt_in_place_detached(sealed.as_slice().into(), about, &mut text);
    let tag = tag.map_err(|error| CliError::internal(format!("it cannot be encrypted: {error}")))?;
    sealed.extend_from_slice(&text);
    sealed.extend_from_slice(&tag);
    Ok(sealed)
}

/// The secret in what [`seal`] made of it; `None` if it is another key, or was changed.
pub(crate) fn unseal(key: &[u8; 32], about: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, rest) = sealed.split_at_checked(NONCE_BYTES)?;
    let (text, tag) = rest.split_at_checked(rest.len().checked_sub(TAG_BYTES)?)?;
    let mut text = Zeroizing::new(text.to_vec());
    let cipher = XChaCha20Poly1305::new(key.into());
    cipher.decrypt_in_place_detached(nonce.into(), about, &mut text, tag.into()).ok()?;
    Some(text)
}

/// The text of a vault for a data key.
pub(crate) fn wrap(key: &DataKey, passphrase: &str) -> Result<String> {
    let salt = secrets::random::<16>()?.to_vec();
    let cost = Cost { memory_kib: MEMORY_KIB, passes: PASSES, lanes: LANES, salt };
    let about = format!("{TITLE}\n{}\n", cost.line());
    let wrapping =
        cost.key(passphrase).ok_or_else(|| CliError::internal("Argon2id refused its parameters"))?;
    let sealed = seal(&wrapping, about.as_bytes(), key.bytes())?;
    Ok(format!("{about}key {}\n", hex(&sealed)))
}

/// The data key in a vault. `what` is what the passphrase opens, for errors.
pub(crate) fn unwrap(text: &str, passphrase: &str, what: &str) -> Result<DataKey> {
    let damaged = || {
        CliError::new(Kind::Storage, format!("the vault of {what} is damaged"))
            .hint("restore the file vault.key from a copy; without it the data cannot be read")
    };
    let mut lines = text.strip_suffix('\n').ok_or_else(damaged)?.split('\n');
    let (Some(TITLE), Some(second), Some(third), None) =
        (lines.next(), lines.next(), lines.next(), lines.next())
    else {
        return Err(damaged());
    };
    let cost = Cost::parse(second).ok_or_else(damaged)?;
    let sealed = third.strip_prefix("key ").and_then(unhex).ok_or_else(damaged)?;
    let wrapping = cost.key(passphrase).ok_or_else(damaged)?;
    let about = format!("{TITLE}\n{second}\n");
    let key = unseal(&wrapping, about.as_bytes(), &sealed).ok_or_else(|| {
        CliError::new(Kind::Locked, format!("the passphrase of {what} is wrong"))
            .hint("try again; nothing was changed")
    })?;
    key_of(&key).ok_or_else(damaged)
}

/// A data key of its bytes.
pub(crate) fn key_of(bytes: &[u8]) -> Option<DataKey> {
    let bytes: &[u8; 32] = bytes.try_into().ok()?;
    Some(DataKey::new(Zeroizing::new(*bytes)))
}

/// A new data key.
pub(crate) fn new_key() -> Result<DataKey> {
    secrets::random::<32>().map(DataKey::new)
}

/// A file of the home that holds a signing key, as what the cipher is told that it is.
fn about_file(path: &Path) -> Vec<u8> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!("ahenk vault 1 key file {name}").into_bytes()
}

const KEY_FILES: &str = "ahenk vault 1 key files";

/// A signing key as an encrypted home keeps it in a file.
pub(crate) fn seal_key(data: &DataKey, path: &Path, key: &SecretKey) -> Result<Vec<u8>> {
    seal(&data.derive(KEY_FILES), &about_file(path), &key.to_bytes()[..])
}

/// The signing key in such a file.
pub(crate) fn unseal_key(data: &DataKey, path: &Path, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    unseal(&data.derive(KEY_FILES), &about_file(path), sealed)
}

/// The passphrase of what is there, from where it can be had.
pub(crate) fn passphrase_of(what: &str) -> Result<Passphrase> {
    if let Some(found) = unattended()? {
        return Ok(found);
    }
    prompt(&format!("Passphrase of {what}: "))
}

/// A passphrase for a new vault, from where one can be had.
pub(crate) fn new_passphrase() -> Result<Passphrase> {
    unattended()?.map_or_else(typed_passphrase, long_enough)
}

/// A passphrase for a new vault, typed twice.
pub(crate) fn typed_passphrase() -> Result<Passphrase> {
    let first = prompt("New passphrase: ")?;
    if *first != *prompt("The same again: ")? {
        return Err(CliError::usage("the two are not the same").hint("nothing was changed; try again"));
    }
    long_enough(first)
}

/// A passphrase for a new vault, or why it cannot be that.
pub(crate) fn long_enough(passphrase: Passphrase) -> Result<Passphrase> {
    if passphrase.len() < PASSPHRASE_BYTES_MIN {
        return Err(CliError::usage(format!("a passphrase has {PASSPHRASE_BYTES_MIN} characters or more"))
            .hint("several words are easier to remember, and harder to guess"));
    }
    Ok(passphrase)
}

/// The passphrase from the file that the environment names, or from systemd.
fn unattended() -> Result<Option<Passphrase>> {
    let credential = |folder: String| PathBuf::from(folder).join(CREDENTIAL);
    let file = match environment(PASSPHRASE_FILE) {
        Some(file) if !file.is_empty() => Some(PathBuf::from(file)),
        _ => environment(CREDENTIALS).map(credential).filter(|file| file.exists()),
    };
    file.map(|file| read(&file)).transpose()
}

/// The first line of a file.
pub(crate) fn read(path: &Path) -> Result<Passphrase> {
    let read = || -> io::Result<Passphrase> {
        let mut text = Zeroizing::new(String::with_capacity(PASSPHRASE_BYTES_MAX as usize));
        std::fs::File::open(path)?.take(PASSPHRASE_BYTES_MAX).read_to_string(&mut text)?;
        Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
    };
    read().map_err(|error| {
        CliError::new(Kind::Locked, format!("the passphrase cannot be read from {}: {error}", path.display()))
            .hint(format!("{PASSPHRASE_FILE} names a file whose first line it is"))
    })
}

fn prompt(text: &str) -> Result<Passphrase> {
    let nobody = || {
        CliError::new(Kind::Locked, "this needs the passphrase, and there is no terminal to ask for it")
            .hint(format!("{PASSPHRASE_FILE}=FILE has it read from a file; /dev/stdin is one, too"))
    };
    if !io::stderr().is_terminal() {
        return Err(nobody());
    }
    rpassword::prompt_password(text).map(Zeroizing::new).map_err(|_| nobody())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vault_opens_with_its_passphrase_only_and_any_change_to_it_is_noticed() {
        let key = new_key().expect("randomness");
        let text = wrap(&key, "correct horse").expect("wrapped");
        assert!(unwrap(&text, "correct horse", "it").expect("its own") == key);
        assert_ne!(text, wrap(&key, "correct horse").expect("wrapped"), "another salt and nonce each time");
        assert_eq!(unwrap(&text, "correct horsf", "it").expect_err("wrong").kind, Kind::Locked);
        for (from, to) in
            [("passes=3", "passes=4"), ("memory_kib=65536", "memory_kib=65537"), ("key ", "key 00")]
        {
            let changed = text.replace(from, to);
            assert!(unwrap(&changed, "correct horse", "it").is_err(), "{to}");
        }
    }

    #[test]
    fn what_a_vault_asks_for_is_bounded_and_nonsense_is_an_error() {
        let text =
            format!("{TITLE}\nargon2id memory_kib=64 passes=1 lanes=1 salt={}\nkey 00\n", "00".repeat(16));
        assert_eq!(unwrap(&text, "x", "it").expect_err("no key").kind, Kind::Locked);
        for (from, to) in [
            ("memory_kib=64", "memory_kib=1048577"),
            ("memory_kib=64", "memory_kib=0"),
            ("passes=1", "passes=33"),
            ("lanes=1", "lanes=17"),
            ("lanes=1", "lanes=9"),
            ("salt=00", "salt="),
            ("key 00\n", "key 00"),
            ("key 00\n", "key 0g\n"),
            ("vault 1", "vault 2"),
            ("lanes=1 ", "lanes=1 more "),
        ] {
            let changed = text.replacen(from, to, 1);
            let error = unwrap(&changed, "x", "it").expect_err(to);
            assert!(matches!(error.kind, Kind::Storage) || to == "salt=", "{to}: {error}");
        }
    }

    #[test]
    fn a_sealed_key_file_is_of_its_name_and_data_key() {
        let (data, other) = (new_key().expect("randomness"), new_key().expect("randomness"));
        let key = secrets::new_key().expect("randomness");
        let (device, account) = (Path::new("/a/device.key"), Path::new("/a/account.key"));
        let sealed = seal_key(&data, device, &key).expect("sealed");
        let found = unseal_key(&data, Path::new("/elsewhere/device.key"), &sealed).expect("its own");
        assert_eq!(found[..], key.to_bytes()[..]);
        assert!(unseal_key(&data, account, &sealed).is_none());
        assert!(unseal_key(&other, device, &sealed).is_none());
        assert!((0..sealed.len()).all(|len| unseal_key(&data, device, &sealed[..len]).is_none()));
    }
}
