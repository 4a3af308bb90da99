//! What is remembered about the network from run to run, in `addresses.json`: where other devices
//! were found, what they say of that themselves, and on which ports we listened, so that others find us there again.
//!
//! Invariant: nothing depends on this file; if it is missing or damaged, it is written anew.

use std::collections::BTreeMap;
use std::fs;

use engine::identity::{PeerKey, hex};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::error::{CliError, Result};
use crate::home::{self, Home};
use crate::secrets::unhex;

/// Longest file that is read, in bytes: 256 peers with 16 addresses of 512 bytes and records of 10 KiB fit.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Addresses {
    #[serde(default)]
    tcp_port: u16,
    #[serde(default)]
    udp_port: u16,
    /// Over IPv6, where the system chooses for itself.
    #[serde(default)]
    tcp6_port: u16,
    #[serde(default)]
    udp6_port: u16,
    /// Device keys in hexadecimal.
    #[serde(default)]
    peers: BTreeMap<String, Vec<String>>,
    /// What devices said of where they are found, in hexadecimal; each is signed by its device.
    #[serde(default)]
    records: Vec<String>,
}

impl Addresses {
    pub(crate) fn load(home: &Home) -> Addresses {
        let path = home.addresses_path();
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > FILE_BYTES_MAX) {
            return Addresses::default();
        }
        let Ok(text) = fs::read(&path) else { return Addresses::default() };
        serde_json::from_slice(&text).unwrap_or_else(|error| {
            warn!(%error, path = %path.display(), "not readable; starting afresh");
            Addresses::default()
        })
    }

    pub(crate) fn save(&self, home: &Home) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(CliError::internal)?;
        home::replace(&home.addresses_path(), &text)
    }

    /// Where peers were found, for the transport.
    pub(crate) fn peers(&self) -> Vec<(PeerKey, Vec<String>)> {
        let key = |digits: &str| Some(PeerKey(unhex(digits)?.as_slice().try_into().ok()?));
        let peers = self.peers.iter();
        peers.filter_map(|(digits, addresses)| Some((key(digits)?, addresses.clone()))).collect()
    }

    /// What devices said of where they are found, for the transport.
    pub(crate) fn records(&self) -> Vec<Vec<u8>> {
        self.records.iter().filter_map(|digits| Some(unhex(digits)?.to_vec())).collect()
    }

    /// Takes over the records that the transport has; true if anything is new.
    pub(crate) fn keep_records(&mut self, records: &[Vec<u8>]) -> bool {
        let records = records.iter().map(|record| hex(record)).collect();
        std::mem::replace(&mut self.records, records) != self.records
    }

    /// Takes over what the transport knows; true if anything is new.
    pub(crate) fn know(&mut self, known: Vec<(PeerKey, Vec<String>)>) -> bool {
        let mut peers = self.peers.clone();
        // A device that the transport has nothing to say about keeps what was known before.
        let said = known.into_iter().filter(|(_, addresses)| !addresses.is_empty());
        peers.extend(said.map(|(key, addresses)| (hex(&key.0), addresses)));
        std::mem::replace(&mut self.peers, peers) != self.peers
    }

    /// Notes the ports that we listen on.
    pub(crate) fn listening(&mut self, addresses: &[String]) {
        // Addresses at a relay have the relay's port.
        let own = addresses.iter().filter(|address| !address.contains("/p2p-circuit"));
        let (six, four): (Vec<String>, Vec<String>) = own.cloned().partition(|address| over_ipv6(address));
        self.tcp_port = port(&four, "tcp").unwrap_or(self.tcp_port);
        self.udp_port = port(&four, "udp").unwrap_or(self.udp_port);
        self.tcp6_port = port(&six, "tcp").unwrap_or(self.tcp6_port);
        self.udp6_port = port(&six, "udp").unwrap_or(self.udp6_port);
    }

    /// The configured addresses, with the ports of last time where any port will do.
    pub(crate) fn same_ports(&self, listen: &[String]) -> Vec<String> {
        let fixed = |address: &String| {
            let (tcp, udp) = match over_ipv6(address) {
                true => (self.tcp6_port, self.udp6_port),
                false => (self.tcp_port, self.udp_port),
            };
            with_port(&with_port(address, "tcp", tcp), "udp", udp)
        };
        listen.iter().map(fixed).collect()
    }
}

/// Whether a multiaddr is of IPv6.
pub(crate) fn over_ipv6(address: &str) -> bool {
    address.starts_with("/ip6/")
}

/// An address with a port where it leaves that open with port 0.
pub(crate) fn with_port(address: &str, protocol: &str, port: u16) -> String {
    let mut parts: Vec<String> = address.split('/').map(str::to_owned).collect();
    for at in 1..parts.len() {
        if parts[at - 1] == protocol && parts[at] == "0" {
            parts[at] = port.to_string();
        }
    }
    parts.join("/")
}

fn port(addresses: &[String], protocol: &str) -> Option<u16> {
    addresses.iter().find_map(|address| {
        let mut parts = address.split('/');
        parts.by_ref().find(|part| *part == protocol)?;
        parts.next()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_last_time_stand_in_for_port_0_only() {
        let mut addresses = Addresses::default();
        let relayed = "/ip4/127.0.0.1/tcp/9/p2p/R/p2p-circuit/p2p/X";
        let heard = [
            relayed,
            "/ip6/::1/tcp/4003/p2p/X",
            "/ip4/127.0.0.1/udp/4001/quic-v1/p2p/X",
            "/ip4/127.0.0.1/tcp/4002/p2p/X",
        ];
        addresses.listening(&heard.map(str::to_owned));
        let [udp6, tcp6] = ["/ip6/::/udp/0/quic-v1", "/ip6/::/tcp/0"];
        let listen =
            ["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1", "/ip4/0.0.0.0/tcp/7000", udp6, tcp6];
        let expected = [
            "/ip4/0.0.0.0/tcp/4002",
            "/ip4/0.0.0.0/udp/4001/quic-v1",
            "/ip4/0.0.0.0/tcp/7000",
            udp6,
            "/ip6/::/tcp/4003",
        ];
        assert_eq!(addresses.same_ports(&listen.map(str::to_owned)), expected.map(str::to_owned));
    }

    #[test]
    fn what_is_learnt_is_added_and_nothing_new_is_told_so() {
        let mut addresses = Addresses::default();
        let (a, b) = (PeerKey([1; 32]), PeerKey([2; 32]));
        assert!(addresses.know(vec![(a, vec!["/ip4/192.0.2.1/tcp/1".to_owned()])]));
        assert!(!addresses.know(vec![(a, vec!["/ip4/192.0.2.1/tcp/1".to_owned()])]));
        assert!(addresses.know(vec![(a, Vec::new()), (b, vec!["/ip4/192.0.2.2/tcp/1".to_owned()])]));
        assert_eq!(addresses.peers().len(), 2);
    }
}
