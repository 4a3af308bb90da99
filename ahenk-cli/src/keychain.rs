//! The data key of an encrypted home in the keychain of the operating system, which opens with the user's session.
//!
//! A file of the home, `keychain`, says under which name; the key itself is in the keychain only (Secret Service on Linux,
//! the login keychain on macOS). It opens the home like the passphrase, which goes on to open it.
//!
//! Invariants: a key from the keychain counts only if it opens this home's own key file; whatever the keychain does, the
//! passphrase is asked for as if there were none. Without the feature `keychain` none is ever asked.

use std::fs;
use std::io;
use std::path::PathBuf;

use engine::identity::hex;
use store::DataKey;

use crate::error::{CliError, Kind, Result};
use crate::home::{self, Home};
use crate::secrets;

const TITLE: &str = "ahenk keychain 1 ";

fn path(home: &Home) -> PathBuf {
    home.dir().join("keychain")
}

/// The name under which the home's key is kept, if it is.
pub(crate) fn name(home: &Home) -> Result<Option<String>> {
    let path = path(home);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let name = text.strip_prefix(TITLE).map(|name| name.trim_end().to_owned());
            name.map(Some).ok_or_else(|| secrets::damaged(&path))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CliError::io("read", &path, &error)),
    }
}

/// The home's key, if the keychain has it. An error says why it does not.
pub(crate) fn key(home: &Home) -> Result<Option<DataKey>> {
    let Some(name) = name(home)? else { return Ok(None) };
    let key = system::get(&name)?;
    if secrets::read_key(&home.device_key_path(), Some(&key)).is_err() {
        return Err(CliError::new(Kind::Locked, "what it has is not the key of this home")
            .hint("`vault keychain on` puts the right one there"));
    }
    Ok(Some(key))
}

/// Puts the key of the home into the keychain.
pub(crate) fn keep(home: &Home, key: &DataKey) -> Result<()> {
    let name = match name(home)? {
        Some(name) => name,
        None => hex(&secrets::random::<16>()?[..]),
    };
    system::set(&name, key)?;
    home::replace(&path(home), format!("{TITLE}{name}\n").as_bytes())
}

/// Takes it out again, if it is there.
pub(crate) fn forget(home: &Home) -> Result<()> {
    let Some(name) = name(home)? else { return Ok(()) };
    system::remove(&name)?;
    fs::remove_file(path(home)).map_err(|error| CliError::io("remove", &path(home), &error))
}

#[cfg(feature = "keychain")]
mod system {
    use keyring_core::{Entry, Error, get_default_store, set_default_store};
    use store::DataKey;
    use zeroize::Zeroizing;

    use crate::error::{CliError, Kind, Result};
    use crate::vault;

    const SERVICE: &str = "ahenk";

    fn failed(error: &Error) -> CliError {
        CliError::new(Kind::Locked, format!("the keychain cannot be used: {error}"))
            .hint("unlock it, or use the passphrase")
    }

    /// The store of the platform, unless there is one already.
    fn entry(name: &str) -> Result<Entry> {
        let open = || -> keyring_core::Result<Entry> {
            if get_default_store().is_none() {
                #[cfg(target_os = "macos")]
                set_default_store(apple_native_keyring_store::keychain::Store::new()?);
                #[cfg(not(target_os = "macos"))]
                set_default_store(zbus_secret_service_keyring_store::Store::new()?);
            }
            Entry::new(SERVICE, name)
        };
        open().map_err(|error| failed(&error))
    }

    pub(super) fn get(name: &str) -> Result<DataKey> {
        let bytes = Zeroizing::new(entry(name)?.get_secret().map_err(|error| failed(&error))?);
        vault::key_of(&bytes).ok_or_else(|| CliError::new(Kind::Locked, "what the keychain has is no key"))
    }

    pub(super) fn set(name: &str, key: &DataKey) -> Result<()> {
        entry(name)?.set_secret(key.bytes()).map_err(|error| failed(&error))
    }

    pub(super) fn remove(name: &str) -> Result<()> {
        match entry(name)?.delete_credential() {
            Ok(()) | Err(Error::NoEntry) => Ok(()),
            Err(error) => Err(failed(&error)),
        }
    }
}

#[cfg(not(feature = "keychain"))]
mod system {
    use store::DataKey;

    use crate::error::{CliError, Result};

    fn none() -> CliError {
        CliError::usage("this program was built without the system's keychain")
            .hint("build it with `--features keychain`, or use the passphrase")
    }

    pub(super) fn get(_: &str) -> Result<DataKey> {
        Err(none())
    }

    pub(super) fn set(_: &str, _: &DataKey) -> Result<()> {
        Err(none())
    }

    pub(super) fn remove(_: &str) -> Result<()> {
        Err(none())
    }
}

#[cfg(all(test, feature = "keychain"))]
mod tests {
    use engine::identity::{DeviceCert, Identity, PeerKey};
    use keyring_core::{mock, set_default_store};

    use super::*;
    use crate::config::Config;
    use crate::vault;

    /// As another process finds it, which nobody tells the passphrase.
    fn again(home: &Home) -> Home {
        Home::choose(Some(home.dir().to_owned())).expect("a path")
    }

    #[test]
    fn the_keychain_opens_a_home_until_it_forgets_it_and_no_other_key_counts() {
        set_default_store(mock::Store::new().expect("a store"));
        let dir = tempfile::tempdir().expect("a folder");
        let home = Home::choose(Some(dir.path().join("home"))).expect("a path");
        let (root, secret) = (secrets::new_key().expect("a key"), secrets::new_key().expect("a key"));
        let cert = DeviceCert::issue(&root, PeerKey(secret.public()), "a", 1, true).expect("a certificate");
        let identity = Identity::new(secret, cert).expect("an identity");
        let building = home.begin().expect("a folder");
        building.encrypt("a long passphrase").expect("encrypted");
        building.write(&identity, None, &Config::default()).expect("written");
        building.finish().expect("in place");
        let right = home.key().expect("known").expect("a key");

        assert_eq!(again(&home).key().expect_err("nobody to ask").kind, Kind::Locked);
        keep(&home, &right).expect("kept");
        assert!(again(&home).key().expect("from the keychain") == Some(right.clone()));
        // The key is nowhere in the home.
        let text = fs::read_to_string(path(&home)).expect("the name");
        assert!(!text.contains(&hex(right.bytes())));

        keep(&home, &vault::new_key().expect("a key")).expect("kept");
        let stale = again(&home).key().expect_err("not its key");
        assert!(
            stale.kind == Kind::Locked && stale.to_string().contains("not the key of this home"),
            "{stale}"
        );
        keep(&home, &right).expect("kept");
        forget(&home).expect("forgotten");
        forget(&home).expect("nothing to forget");
        assert_eq!(again(&home).key().expect_err("nobody to ask").kind, Kind::Locked);
        assert_eq!(name(&home).expect("read"), None);
    }
}
