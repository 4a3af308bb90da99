//! Notices what nothing else tells: that a network interface went down or came up, that the way to a peer changed,
//! that the machine has slept.
//!
//! libp2p's listeners report addresses that come and go; a cable that is pulled and plugged changes none.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

/// Time between two looks.
pub(crate) const EVERY: Duration = Duration::from_secs(2);
/// After so long without a look, the machine must have slept; peers have given its connections up by then.
const ASLEEP: Duration = Duration::from_secs(15);

/// What changed between two looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// An interface went down or came up.
    Links,
    /// The machine has slept.
    Slept,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Watch {
    mono: Instant,
    wall: SystemTime,
    links: Vec<(String, String)>,
}

impl Watch {
    pub(crate) fn new(mono: Instant, wall: SystemTime, links: Vec<(String, String)>) -> Watch {
        Watch { mono, wall, links }
    }

    /// When to look next.
    pub(crate) fn next(&self) -> Instant {
        self.mono + EVERY
    }

    /// Looks, if it is time. The monotonic clock may stand still while the machine sleeps, and the wall clock may be
    /// set; a sleep is what moves either ahead by long.
    pub(crate) fn look(
        &mut self,
        mono: Instant,
        wall: SystemTime,
        links: impl FnOnce() -> Vec<(String, String)>,
    ) -> Option<Change> {
        if mono < self.next() {
            return None;
        }
        let passed = mono.saturating_duration_since(self.mono);
        let passed_wall = wall.duration_since(self.wall).unwrap_or_default();
        let links = links();
        let changed = links != self.links;
        *self = Watch { mono, wall, links };
        if passed.max(passed_wall) >= ASLEEP { Some(Change::Slept) } else { changed.then_some(Change::Links) }
    }
}

/// The network interfaces and whether each is up; empty where the system does not say so in `/sys`.
pub(crate) fn links() -> Vec<(String, String)> {
    let Ok(folder) = fs::read_dir("/sys/class/net") else { return Vec::new() };
    let state = |entry: fs::DirEntry| {
        let state = fs::read_to_string(entry.path().join("operstate")).ok()?;
        Some((entry.file_name().to_string_lossy().into_owned(), state))
    };
    // More than a thousand interfaces are not a device of a person.
    let mut links: Vec<_> = folder.take(1000).filter_map(|entry| state(entry.ok()?)).collect();
    links.sort();
    links
}

/// The address of ours from which the system would now send to this one; `None` if there is no way, or if the address
/// has a name. Sends nothing.
pub(crate) fn source(address: &Multiaddr) -> Option<IpAddr> {
    let to: IpAddr = match address.iter().next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    socket.connect(SocketAddr::new(to, 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links_of(state: &str) -> Vec<(String, String)> {
        vec![("eth0".to_owned(), state.to_owned())]
    }

    #[test]
    fn a_sleep_shows_in_either_clock_and_an_interface_in_its_state() {
        let (mono, wall) = (Instant::now(), SystemTime::UNIX_EPOCH);
        let after = |mono_s: u64, wall_s: u64, state: &str| {
            let mut watch = Watch::new(mono, wall, links_of("up"));
            let at = (mono + Duration::from_secs(mono_s), wall + Duration::from_secs(wall_s));
            watch.look(at.0, at.1, || links_of(state))
        };
        assert_eq!(after(1, 1, "down"), None, "not yet");
        assert_eq!(after(2, 2, "up"), None);
        assert_eq!(after(2, 2, "down"), Some(Change::Links));
        assert_eq!(after(2, 600, "up"), Some(Change::Slept), "suspended");
        assert_eq!(after(600, 600, "up"), Some(Change::Slept), "stopped");
        assert_eq!(after(2, 0, "up"), None, "the wall clock was set back");
    }

    #[test]
    fn the_way_to_loopback_begins_at_loopback() {
        let to = |text: &str| source(&text.parse().expect(text));
        assert_eq!(to("/ip4/127.0.0.1/tcp/1"), Some(IpAddr::from([127, 0, 0, 1])));
        assert_eq!(to("/dns4/example.org/tcp/1"), None);
    }
}
