//! Fresh randomness from the operating system, and the files that hold keys.
//!
//! Invariants: key files are readable by their owner only from the moment they exist; their text is
//! wiped from memory; keys never reach a log or `Debug`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use bip39::{Language, Mnemonic};
use engine::identity::{DeviceCert, SecretKey, hex};
use rand::TryRng as _;
use store::DataKey;
use zeroize::Zeroizing;

use crate::error::{CliError, Kind, Result};
use crate::vault;

const SECRET_TITLE: &str = "ahenk key 1 ";
const SEALED_TITLE: &str = "ahenk sealed key 1 ";
const CERT_TITLE: &str = "ahenk certificate 1 ";
/// Longest key or certificate file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 4096;

/// Random bytes of the operating system.
pub(crate) fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0; N]);
    rand::rngs::SysRng.try_fill_bytes(&mut bytes[..]).map_err(|error| {
        CliError::new(Kind::Internal, format!("the operating system has no random numbers: {error}"))
    })?;
    Ok(bytes)
}

/// A new key.
pub(crate) fn new_key() -> Result<SecretKey> {
    Ok(SecretKey::from_bytes(&*random::<32>()?))
}

/// The 24 words that a root key can be restored from.
pub(crate) fn recovery_phrase(root: &SecretKey) -> Result<Zeroizing<String>> {
    let bytes = root.to_bytes();
    let mnemonic = Mnemonic::from_entropy_in(Language::English, &bytes[..])
        .map_err(|error| CliError::internal(format!("no recovery phrase: {error}")))?;
    let mut phrase = Zeroizing::new(String::with_capacity(24 * 9));
    for (at, word) in mnemonic.words().enumerate() {
        if at > 0 {
            phrase.push(' ');
        }
        phrase.push_str(word);
    }
    Ok(phrase)
}

/// The root key that a recovery phrase stands for.
pub(crate) fn root_of_phrase(phrase: &str) -> Result<SecretKey> {
    // Extra spaces and capitals are slips of the hand, not another phrase.
    let words = Zeroizing::new(phrase.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase());
    let bad = |why: &dyn std::fmt::Display| {
        CliError::usage(format!("this is no recovery phrase: {why}"))
            .hint("it is the 24 words that `ahenk-cli init` showed; check spelling and order")
    };
    let mnemonic = Mnemonic::parse_in_normalized(Language::English, &words).map_err(|error| bad(&error))?;
    let (entropy, len) = mnemonic.to_entropy_array();
    let entropy = Zeroizing::new(entropy);
    let key: &[u8; 32] =
        entropy[..len].try_into().map_err(|_| bad(&format!("it has {} words", mnemonic.word_count())))?;
    Ok(SecretKey::from_bytes(key))
}

/// Writes a new file that only its owner may read, durably. Fails if it exists.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|error| CliError::io("write", path, &error))
}

/// Writes a signing key to a new file, sealed if there is a key for that.
pub(crate) fn write_key(path: &Path, key: &SecretKey, data: Option<&DataKey>) -> Result<()> {
    write_key_beside(path, path, key, data)
}

/// Writes what is to stand in the file `path` to the new file `beside`.
pub(crate) fn write_key_beside(
    path: &Path,
    beside: &Path,
    key: &SecretKey,
    data: Option<&DataKey>,
) -> Result<()> {
    if let Some(data) = data {
        let sealed = hex(&vault::seal_key(data, path, key)?);
        return write_private(beside, format!("{SEALED_TITLE}{sealed}\n").as_bytes());
    }
    let digits = Zeroizing::new(hex(&key.to_bytes()[..]));
    write_private(beside, Zeroizing::new(format!("{SECRET_TITLE}{}\n", *digits)).as_bytes())
}

/// Reads a signing key. Where keys are sealed, one that is not was put there by somebody else.
pub(crate) fn read_key(path: &Path, data: Option<&DataKey>) -> Result<SecretKey> {
    let text = read(path)?;
    let title = if data.is_some() { SEALED_TITLE } else { SECRET_TITLE };
    let bytes = text.trim_end().strip_prefix(title).and_then(unhex);
    let bytes = match data {
        Some(data) => bytes.and_then(|sealed| vault::unseal_key(data, path, &sealed)),
        None => bytes,
    };
    let bytes = bytes.ok_or_else(|| damaged(path))?;
    let key: &[u8; 32] = bytes.as_slice().try_into().map_err(|_| damaged(path))?;
    Ok(SecretKey::from_bytes(key))
}

pub(crate) fn write_cert(path: &Path, cert: &DeviceCert) -> Result<()> {
    let bytes = postcard::to_stdvec(cert).map_err(CliError::internal)?;
    write_private(path, format!("{CERT_TITLE}{}\n", hex(&bytes)).as_bytes())
}

pub(crate) fn read_cert(path: &Path) -> Result<DeviceCert> {
    let text = read(path)?;
    let bytes = text.trim_end().strip_prefix(CERT_TITLE).and_then(unhex).ok_or_else(|| damaged(path))?;
    postcard::from_bytes(&bytes).map_err(|_| damaged(path))
}

fn read(path: &Path) -> Result<Zeroizing<String>> {
    let read = || -> io::Result<Zeroizing<String>> {
        if fs::metadata(path)?.len() > FILE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
        }
        fs::read_to_string(path).map(Zeroizing::new)
    };
    read().map_err(|error| CliError::io("read", path, &error))
}

pub(crate) fn damaged(path: &Path) -> CliError {
    CliError::new(Kind::Storage, format!("{} is damaged", path.display()))
        .hint("restore the file from a backup, or pair this device anew into another home folder")
}

/// Reads lower- or upper-case hexadecimal.
pub(crate) fn unhex(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() / 2));
    for pair in text.as_bytes().chunks_exact(2) {
        bytes.push((digit(pair[0])? * 16 + digit(pair[1])?) as u8);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_reads_back_is_private_and_damage_is_an_error() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        let key = new_key().expect("randomness");
        write_key(&path, &key, None).expect("written");
        assert_eq!(read_key(&path, None).expect("read").public(), key.public());
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(write_key(&path, &key, None).is_err(), "a key is never overwritten");
        let text = fs::read_to_string(&path).expect("text");
        for bad in ["", "ahenk key 2 00", &text[..text.len() - 3], "ahenk key 1 zz"] {
            fs::write(&path, bad).expect("written");
            assert_eq!(read_key(&path, None).expect_err("damaged").kind, Kind::Storage);
        }
    }

    #[test]
    fn a_sealed_key_file_reads_back_with_its_data_key_and_no_plain_one_passes_for_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let (sealed, plain) = (folder.path().join("device.key"), folder.path().join("plain.key"));
        let (data, key) = (vault::new_key().expect("randomness"), new_key().expect("randomness"));
        write_key(&sealed, &key, Some(&data)).expect("written");
        write_key(&plain, &key, None).expect("written");
        assert_eq!(read_key(&sealed, Some(&data)).expect("read").public(), key.public());
        let text = fs::read_to_string(&sealed).expect("text");
        assert!(!text.contains(&hex(&key.to_bytes()[..])));
        let other = vault::new_key().expect("randomness");
        for (path, data) in [(&sealed, Some(&other)), (&sealed, None), (&plain, Some(&data))] {
            assert_eq!(read_key(path, data).expect_err("refused").kind, Kind::Storage);
        }
    }

    #[test]
    fn a_recovery_phrase_has_24_words_and_gives_the_key_back() {
        let root = new_key().expect("randomness");
        let phrase = recovery_phrase(&root).expect("a phrase");
        assert_eq!(phrase.split(' ').count(), 24);
        let typed = format!("  {}\n", phrase.to_uppercase().replace(' ', "  "));
        assert_eq!(root_of_phrase(&typed).expect("valid").to_bytes()[..], root.to_bytes()[..]);
        let (first, rest) = phrase.split_once(' ').expect("words");
        for bad in ["", "abandon", rest, &format!("{rest} {first}x")] {
            assert_eq!(root_of_phrase(bad).expect_err("no phrase").kind, Kind::Usage, "{bad}");
        }
    }
}
