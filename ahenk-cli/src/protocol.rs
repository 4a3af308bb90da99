//! What a command asks of the service and what comes back: the same types whether the daemon
//! answers over its socket or the service runs within the command's own process.
//!
//! On the socket each line is one JSON document `{"v":2,"body":…}`. The service begins with `Welcome`: from then on a
//! call on this connection is carried out, even if the daemon is told to stop meanwhile. A connection carries one call:
//! the client sends a [`ToService::Request`], perhaps [`ToService::Answer`]s when it is asked
//! something; the service sends [`Reply`]s, the last of which is `Done` or `Error`. Closing the
//! connection cancels the call.
//!
//! Invariants: a line is at most [`LINE_BYTES_MAX`] long; lines of another version are refused
//! before their body is looked at.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::data::DataRequest;
use crate::error::{CliError, Kind, Result};

/// The version of this protocol.
pub(crate) const VERSION: u32 = 2;
/// Longest line either way, in bytes.
pub(crate) const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// One call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", content = "with", rename_all = "kebab-case")]
pub(crate) enum Request {
    /// How things stand. One [`crate::report::Status`].
    Status,
    /// Sync in numbers. One [`crate::report::Stats`].
    Stats,
    /// Space that the database takes, as it counts against the limit. One number of bytes.
    DiskBytes,
    /// The account's devices. One list of [`crate::report::Device`].
    Devices,
    /// The other devices and the ways to them. One list of [`crate::report::Peer`].
    Peers,
    /// Measure a round trip to a device. One [`crate::report::Pong`].
    Ping {
        /// Its name, or how its id starts.
        device: String,
    },
    /// How this device stands in the network. One [`crate::report::NetCheck`].
    NetCheck {
        /// How long to wait until relays and other devices have had their say, in milliseconds.
        within_ms: u64,
    },
    /// Remember an address and connect to it. One [`crate::report::Added`].
    PeerAdd {
        /// A multiaddr, with or without `/p2p/` id.
        address: String,
    },
    /// Compare with the connected devices until all know the same. One [`crate::report::Synced`].
    Sync {
        /// How long to wait, in milliseconds.
        within_ms: u64,
    },
    /// Wait until this device is connected, or in sync. One [`crate::report::Waited`].
    Wait {
        /// Until it is in sync.
        synced: bool,
        /// With these devices: names, or how ids start. With all that are connected, if there are none.
        peers: Vec<String>,
        /// How long to wait, in milliseconds.
        within_ms: u64,
    },
    /// Log something else from now on, if it is said what. One [`crate::commands::log::Logging`].
    Log {
        /// As in the setting `log.level`.
        level: Option<String>,
    },
    /// Offer to admit a device. A stream of [`crate::pairing::InviteStep`].
    Invite {
        /// Ask before admitting.
        ask: bool,
        /// Make it an administrator.
        #[serde(default)]
        admin: bool,
        /// Addresses for the long form of the code; where we listen, if there are none.
        addresses: Vec<String>,
        /// How long the code is good for, in milliseconds, if less than usual.
        #[serde(default)]
        lifetime_ms: Option<u64>,
    },
    /// Close all connections and make no more, or make them again. One [`crate::report::Paused`].
    Pause {
        /// To pause, or to go on.
        paused: bool,
    },
    /// Ends the daemon. Nothing is returned; the daemon's lock is free when it has ended.
    Stop,
    /// Rows, log and conflicts.
    Data(DataRequest),
}

impl Request {
    /// Whether a call goes on until the client has enough of it. A daemon that stops does not wait for such.
    pub(crate) fn lasts(&self) -> bool {
        match self {
            Request::Sync { .. }
            | Request::Wait { .. }
            | Request::Invite { .. }
            | Request::NetCheck { .. } => true,
            Request::Data(DataRequest::Watch { follow, .. }) => *follow,
            _ => false,
        }
    }
}

/// What a client says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ToService {
    /// The call.
    Request(Request),
    /// The user's answer to a question that the call asked.
    Answer(bool),
}

/// What the service says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reply {
    /// The service is ready for the call.
    Welcome,
    /// One result. With `--json` it is printed as it is.
    Item(Json),
    /// The call succeeded and has ended.
    Done,
    /// The call failed and has ended.
    Error(CliError),
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    v: u32,
    body: T,
}

#[derive(Deserialize)]
struct Versioned {
    v: u32,
}

/// Sends a line.
pub(crate) async fn write<T: Serialize>(to: &mut (impl AsyncWrite + Unpin), body: T) -> Result<()> {
    let mut line = serde_json::to_vec(&Envelope { v: VERSION, body }).map_err(CliError::internal)?;
    if line.len() >= LINE_BYTES_MAX {
        return Err(CliError::usage(format!("a message of {} bytes is too long", line.len()))
            .hint("ask for less at a time"));
    }
    line.push(b'\n');
    let write = async {
        to.write_all(&line).await?;
        to.flush().await
    };
    write.await.map_err(|error| lost(&error))
}

/// Receives a line; `None` at the end.
pub(crate) async fn read<T: DeserializeOwned>(from: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<T>> {
    let mut line = Vec::new();
    let mut limited = from.take(LINE_BYTES_MAX as u64);
    limited.read_until(b'\n', &mut line).await.map_err(|error| lost(&error))?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        let what = if line.len() >= LINE_BYTES_MAX { "is too long" } else { "was cut off" };
        return Err(malformed(what));
    }
    let versioned: Versioned = serde_json::from_slice(&line).map_err(|_| malformed("is not one"))?;
    if versioned.v != VERSION {
        return Err(CliError::new(Kind::Conflict, "the daemon is of another version than this command")
            .hint("restart it: `ahenk-cli stop`, then `ahenk-cli start --daemon`"));
    }
    let envelope: Envelope<T> = serde_json::from_slice(&line).map_err(|_| malformed("is not understood"))?;
    Ok(Some(envelope.body))
}

fn malformed(what: &str) -> CliError {
    CliError::new(Kind::Usage, format!("a message on the daemon's socket {what}"))
        .hint("use the same version of ahenk-cli for the daemon and for commands")
}

fn lost(error: &std::io::Error) -> CliError {
    CliError::new(Kind::NotRunning, format!("the connection to the daemon was lost: {error}"))
        .hint("`ahenk-cli status` says whether it still runs; then run the command again")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_bytes(bytes: &[u8]) -> Result<Option<ToService>> {
        read(&mut &*bytes).await
    }

    #[tokio::test]
    async fn a_line_comes_back_and_hostile_lines_are_errors() {
        let mut line = Vec::new();
        write(&mut line, ToService::Request(Request::Sync { within_ms: 5 })).await.expect("written");
        let back = read_bytes(&line).await.expect("read");
        assert_eq!(back, Some(ToService::Request(Request::Sync { within_ms: 5 })));
        assert_eq!(read_bytes(b"").await.expect("the end"), None);
        let not_understood = format!("{{\"v\":{VERSION},\"body\":{{\"request\":7}}}}\n");
        for bad in [&line[..line.len() - 1], b"\n", b"{}\n", b"[true]\n", not_understood.as_bytes()] {
            assert_eq!(read_bytes(bad).await.expect_err("refused").kind, Kind::Usage);
        }
        let other = read_bytes(b"{\"v\":1,\"body\":{\"anything\":true}}\n").await.expect_err("refused");
        assert_eq!(other.kind, Kind::Conflict);
        let endless = vec![b'1'; LINE_BYTES_MAX + 1];
        assert!(read_bytes(&endless).await.expect_err("refused").message.contains("too long"));
    }

    /// The fuzz targets do not reach this program, so here are many damaged lines, the same each time.
    #[tokio::test]
    async fn of_damaged_lines_what_is_understood_comes_back_the_same() {
        const LINES: usize = 20_000;
        let requests = [
            Request::Status,
            Request::PeerAdd { address: "/ip4/127.0.0.1/tcp/1".into() },
            Request::Sync { within_ms: 5 },
            Request::Invite {
                ask: true,
                admin: false,
                addresses: vec!["/dns4/a.example/tcp/1".into()],
                lifetime_ms: Some(1),
            },
        ];
        let mut seeds = vec![ToService::Answer(true)];
        seeds.extend(requests.map(ToService::Request));
        let data = [
            r#"{"do":"get","with":{"table":"t","row":"r"}}"#,
            r#"{"do":"put","with":{"table":"t","row":"r","fields":{"a":[1,{"$bytes":"AA=="}]}}}"#,
        ];
        let mut lines = Vec::new();
        for seed in seeds {
            let mut line = Vec::new();
            write(&mut line, seed).await.expect("written");
            lines.push(line);
        }
        for body in data {
            let request = format!(r#"{{"do":"data","with":{body}}}"#);
            lines.push(format!("{{\"v\":{VERSION},\"body\":{{\"request\":{request}}}}}\n").into_bytes());
        }
        let mut random = engine::prng::Prng::new([3; 32]);
        let mut understood = 0;
        for n in 0..LINES {
            let mut line = lines[n % lines.len()].clone();
            for _ in 0..random.below(4) {
                let at = random.below(line.len() as u64) as usize;
                match random.below(4) {
                    0 => line[at] ^= 1 << random.below(8),
                    1 => line[at] = b"{}[]\",:0-9ntf\\"[random.below(14) as usize],
                    2 => drop(line.remove(at)),
                    _ => line.insert(at, b"{}[]\",:0-9e \n"[random.below(13) as usize]),
                }
                if line.is_empty() {
                    line.push(b'\n');
                }
            }
            let Ok(Some(said)) = read_bytes(&line).await else { continue };
            understood += 1;
            let mut again = Vec::new();
            write(&mut again, said.clone()).await.expect("what was read is short");
            assert_eq!(read_bytes(&again).await.expect("what was written is read"), Some(said));
        }
        assert!((LINES / 8..LINES).contains(&understood), "{understood} of {LINES} were understood");
    }
}
