//! The home folder of a device: where its files are, and the lock on them.
//!
//! Invariants: the folder is for its owner only; it appears as a whole or not at all (it is built
//! beside its place and renamed); whoever has the database open holds `daemon.lock` for as long.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use engine::identity::{Identity, SecretKey, hex};
use store::DataKey;

use crate::backend::in_use;
use crate::config::{self, Config, Settings};
use crate::error::{CliError, Kind, Result};
use crate::{conversion, secrets, vault};

/// Longest path of a Unix socket that every system takes, in bytes.
const SOCKET_PATH_BYTES_MAX: usize = 100;

/// Longest vault that is read, in bytes.
const VAULT_BYTES_MAX: u64 = 2048;

/// What the daemon calls itself in the lock's note.
pub(crate) const DAEMON: &str = "the daemon";

/// A variable of the environment.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The platform's usual place.
fn usual_dir() -> Result<PathBuf> {
    let platform = etcetera::base_strategy::choose_native_strategy()
        .map_err(|_| CliError::usage("this user has no home folder").hint("name a folder with --home DIR"))?;
    Ok(etcetera::BaseStrategy::data_dir(&platform).join("ahenk"))
}

/// A device's home folder. It may not exist yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Home {
    dir: PathBuf,
    /// The data key of an encrypted home, once it was asked for; shared by all that name this home.
    key: Arc<OnceLock<Option<DataKey>>>,
}

/// Held by whichever process has the database open.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The lock goes with the file handle; the note in it would only mislead.
        let _ = self.file.set_len(0);
    }
}

impl Home {
    /// The folder that was named, or the platform's usual place.
    pub(crate) fn choose(named: Option<PathBuf>) -> Result<Home> {
        let dir = match named {
            Some(dir) => std::path::absolute(&dir).map_err(|error| CliError::io("find", &dir, &error))?,
            None => usual_dir()?,
        };
        Ok(Home { dir, key: Arc::default() })
    }

    /// Whether it is the one that is used when none is named.
    pub(crate) fn is_usual(&self) -> bool {
        usual_dir().is_ok_and(|usual| usual == self.dir)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn config_path(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    pub(crate) fn device_key_path(&self) -> PathBuf {
        self.dir.join("device.key")
    }

    pub(crate) fn cert_path(&self) -> PathBuf {
        self.dir.join("device.cert")
    }

    pub(crate) fn vault_path(&self) -> PathBuf {
        self.dir.join("vault.key")
    }

    pub(crate) fn account_key_path(&self) -> PathBuf {
        self.dir.join("account.key")
    }

    /// The database, where the settings say that it is.
    pub(crate) fn database_path(&self) -> Result<PathBuf> {
        self.place("database.path", |config| config.database_path)
    }

    pub(crate) fn addresses_path(&self) -> PathBuf {
        self.dir.join("addresses.json")
    }

    pub(crate) fn lock_path(&self) -> PathBuf {
        self.dir.join("daemon.lock")
    }

    /// Where the database is unless the settings say otherwise.
    pub(crate) fn usual_database_path(&self) -> PathBuf {
        self.dir.join(Config::default().database_path)
    }

    /// The log; where it usually is, if the settings cannot be read.
    pub(crate) fn log_path(&self) -> PathBuf {
        let usual = |_| self.dir.join(Config::default().log_file);
        self.place("log.file", |config| config.log_file).unwrap_or_else(usual)
    }

    /// A file that a setting names.
    fn place(&self, key: &str, text: impl FnOnce(Config) -> String) -> Result<PathBuf> {
        let config = Settings::load_one(&self.config_path(), config::find(key)?, environment)?;
        Ok(self.dir.join(text(config)))
    }

    /// The daemon's socket. Unix limits the length of its path.
    pub(crate) fn socket_path(&self) -> Result<PathBuf> {
        let path = self.dir.join("daemon.sock");
        if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return Err(CliError::usage(format!("the path {} is too long for a socket", path.display()))
                .hint("choose a home folder with a shorter path"));
        }
        Ok(path)
    }

    /// Whether there is a device here; an error if that cannot be seen.
    pub(crate) fn initialised(&self) -> Result<bool> {
        let path = self.cert_path();
        path.try_exists().map_err(|error| CliError::io("read", &path, &error))
    }

    /// An error unless there is a device here. A change to an encrypted home or back that was cut off is ended first.
    pub(crate) fn require(&self) -> Result<()> {
        if conversion::pending(self)? {
            let _lock = self.try_lock("another command")?.ok_or_else(|| in_use(self))?;
            conversion::recover(self)?;
        }
        if self.initialised()? {
            return Ok(());
        }
        Err(CliError::new(Kind::NotFound, format!("there is no device in {}", self.dir.display())).hint(
            "`ahenk-cli init` begins a new account; `ahenk-cli device join` joins one; --home DIR names another folder",
        ))
    }

    /// An error if a new device cannot be put here.
    pub(crate) fn require_vacant(&self) -> Result<()> {
        // A home in which no daemon could answer is refused before anything is made.
        self.socket_path()?;
        if self.initialised()? {
            let message = format!("there is already a device in {}", self.dir.display());
            return Err(CliError::new(Kind::Conflict, message)
                .hint("`ahenk-cli device list` shows it; --home DIR names a folder for another one"));
        }
        match fs::read_dir(&self.dir) {
            Ok(mut entries) => match entries.next() {
                None => Ok(()),
                Some(_) => Err(CliError::new(
                    Kind::Conflict,
                    format!("{} is not empty and holds no device", self.dir.display()),
                )
                .hint("name a new or empty folder with --home DIR")),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(CliError::io("read", &self.dir, &error)),
        }
    }

    /// Who this device is.
    pub(crate) fn identity(&self) -> Result<Identity> {
        let cert = secrets::read_cert(&self.cert_path())?;
        let secret = secrets::read_key(&self.device_key_path(), self.key()?.as_ref())?;
        Identity::new(secret, cert).map_err(|error| {
            CliError::new(Kind::Storage, format!("the key and the certificate do not fit: {error}"))
                .hint("restore device.key and device.cert from one backup")
        })
    }

    /// Whether keys and database are encrypted.
    pub(crate) fn encrypted(&self) -> Result<bool> {
        let path = self.vault_path();
        path.try_exists().map_err(|error| CliError::io("read", &path, &error))
    }

    /// The text of the vault of an encrypted home.
    pub(crate) fn vault(&self) -> Result<Option<String>> {
        if !self.encrypted()? {
            return Ok(None);
        }
        let path = self.vault_path();
        let mut text = String::new();
        let read = File::open(&path).and_then(|file| file.take(VAULT_BYTES_MAX).read_to_string(&mut text));
        read.map(|_| Some(text)).map_err(|error| CliError::io("read", &path, &error))
    }

    /// The data key; `None` if the home is not encrypted. Asks for the passphrase the first time.
    pub(crate) fn key(&self) -> Result<Option<DataKey>> {
        if let Some(known) = self.key.get() {
            return Ok(known.clone());
        }
        let what = self.dir.display().to_string();
        let key = match self.vault()? {
            Some(text) => Some(vault::unwrap(&text, &vault::passphrase_of(&what)?, &what)?),
            None => None,
        };
        Ok(self.key.get_or_init(|| key).clone())
    }

    /// Takes the data key from a process that has asked for it.
    pub(crate) fn adopt(&self, key: DataKey) {
        // One that is known already is the same, or opens nothing.
        let _ = self.key.set(Some(key));
    }

    /// The account's root key, if this device is an administrator.
    pub(crate) fn root(&self) -> Result<Option<SecretKey>> {
        let path = self.account_key_path();
        let there = path.try_exists().map_err(|error| CliError::io("read", &path, &error))?;
        if there { secrets::read_key(&path, self.key()?.as_ref()).map(Some) } else { Ok(None) }
    }

    /// What is set here, in the file and in the environment.
    pub(crate) fn settings(&self) -> Result<Settings> {
        Settings::load(&self.config_path(), environment)
    }

    pub(crate) fn config(&self) -> Result<Config> {
        self.settings().map(|settings| settings.config)
    }

    /// Tries to become the one that has the database open. `None` if another process is.
    pub(crate) fn try_lock(&self, what: &str) -> Result<Option<Lock>> {
        let path = self.lock_path();
        let failed = |error: io::Error| CliError::io("lock", &path, &error);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        writeln!(file, "{} {what}", std::process::id()).map_err(failed)?;
        Ok(Some(Lock { file }))
    }

    /// The note that the holder of the lock left: its process id, and what it is doing.
    pub(crate) fn lock_holder(&self) -> Option<(u32, String)> {
        let mut text = String::new();
        File::open(self.lock_path()).ok()?.take(256).read_to_string(&mut text).ok()?;
        let (pid, what) = text.trim_end().split_once(' ')?;
        Some((pid.parse().ok()?, what.to_owned()))
    }

    /// A folder beside this one in which a new device is put together.
    pub(crate) fn begin(&self) -> Result<Building> {
        let parent =
            self.dir.parent().ok_or_else(|| CliError::usage("the home folder cannot be the root folder"))?;
        fs::create_dir_all(parent).map_err(|error| CliError::io("create", parent, &error))?;
        let name = format!(".ahenk-new-{}", hex(&secrets::random::<8>()?[..]));
        let dir = parent.join(name);
        DirBuilder::new().mode(0o700).create(&dir).map_err(|error| CliError::io("create", &dir, &error))?;
        Ok(Building { home: Home { dir, key: Arc::clone(&self.key) }, target: self.clone(), done: false })
    }
}

/// A home folder in the making. Unless finished, it is removed again.
#[derive(Debug)]
pub(crate) struct Building {
    home: Home,
    target: Home,
    done: bool,
}

impl Building {
    /// The folder under its temporary name.
    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// Makes it an encrypted home. To be called first.
    pub(crate) fn encrypt(&self, passphrase: &str) -> Result<()> {
        let key = vault::new_key()?;
        secrets::write_private(&self.home.vault_path(), vault::wrap(&key, passphrase)?.as_bytes())?;
        self.home.adopt(key);
        Ok(())
    }

    /// Writes keys, certificate and configuration.
    pub(crate) fn write(&self, identity: &Identity, root: Option<&SecretKey>, config: &Config) -> Result<()> {
        let key = self.home.key()?;
        secrets::write_key(&self.home.device_key_path(), &identity.secret, key.as_ref())?;
        if let Some(root) = root {
            secrets::write_key(&self.home.account_key_path(), root, key.as_ref())?;
        }
        let path = self.home.config_path();
        secrets::write_private(&path, config::File::of(&path, config)?.text().as_bytes())?;
        // Last, for it is what makes the folder a device's.
        secrets::write_cert(&self.home.cert_path(), &identity.cert)
    }

    /// Puts the folder in its place.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.target.require_vacant()?;
        let target = &self.target.dir;
        fs::rename(&self.home.dir, target).map_err(|error| CliError::io("create", target, &error))?;
        self.done = true;
        if let Some(parent) = target.parent() {
            let synced = File::open(parent).and_then(|folder| folder.sync_all());
            synced.map_err(|error| CliError::io("write", parent, &error))?;
        }
        Ok(())
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        if !self.done {
            // What is left behind holds nothing that anybody was promised.
            let _ = fs::remove_dir_all(&self.home.dir);
        }
    }
}

/// Replaces a file as a whole: readers see the old text or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let write = || -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(|error| CliError::io("write", path, &error))
}
