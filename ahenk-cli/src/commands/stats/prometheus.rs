//! Counters in the text form of Prometheus, version 0.0.4:
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::{Display, Write as _};

use crate::report::{PeerStat, Stats};

/// The text being made.
#[derive(Default)]
pub(crate) struct Text(String);

impl Text {
    /// The page.
    pub(crate) fn finish(self) -> String {
        self.0
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into memory does not fail.
        let _ = writeln!(self.0, "# HELP ahenk_{name} {help}\n# TYPE ahenk_{name} {kind}");
    }

    /// A number without labels.
    pub(crate) fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        let _ = writeln!(self.0, "ahenk_{name} {value}");
    }

    /// One sample for each peer that has the value.
    fn peers<V: Display>(
        &mut self,
        stats: &Stats,
        (name, kind, help): (&str, &str, &str),
        value: impl Fn(&PeerStat) -> Option<V>,
    ) {
        self.family(name, kind, help);
        for peer in &stats.peers {
            if let Some(value) = value(peer) {
                let (called, id) = (escaped(&peer.name), escaped(&peer.id));
                let _ = writeln!(self.0, "ahenk_{name}{{peer=\"{called}\",id=\"{id}\"}} {value}");
            }
        }
    }
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

/// The whole page.
pub(crate) fn text(stats: &Stats) -> String {
    let mut text = Text::default();
    text.family("info", "gauge", "What this device is; always 1.");
    let version = env!("CARGO_PKG_VERSION");
    let (name, id) = (escaped(&stats.name), escaped(&stats.device));
    let _ = writeln!(text.0, "ahenk_info{{version=\"{version}\",device=\"{name}\",id=\"{id}\"}} 1");
    text.one("up", "gauge", "Whether the daemon runs.", u8::from(stats.up_ms.is_some()));
    if let Some(up_ms) = stats.up_ms {
        text.one("uptime_seconds", "gauge", "Since the daemon started.", seconds(up_ms as i64));
    }
    if let Some(ms) = stats.last_sync_ms {
        text.one(
            "last_sync_timestamp_seconds",
            "gauge",
            "When this device last knew the same as some peer.",
            seconds(ms as i64),
        );
    }
    text.one("commits_applied", "gauge", "Commits in the log.", stats.position);
    text.one("commits_waiting", "gauge", "Commits that wait for what they depend on.", stats.waiting_commits);
    text.one("waiting_bytes", "gauge", "Memory that those take.", stats.waiting_bytes);
    text.one(
        "conflicts_total",
        "counter",
        "Values that lost a true conflict, since the database was made.",
        stats.conflicts,
    );
    text.one("database_bytes", "gauge", "Size of the database file.", stats.database_bytes);
    let total = &stats.total;
    for (name, help, value) in [
        ("ops_sent_total", "Operations sent.", total.ops_sent),
        ("ops_received_total", "New operations received.", total.ops_received),
        ("commits_sent_total", "Commits sent.", total.commits_sent),
        ("commits_received_total", "New commits received.", total.commits_received),
        ("commits_doubled_total", "Commits received that were known already.", total.commits_doubled),
        ("bytes_sent_total", "Bytes of frames sent.", total.bytes_sent),
        ("bytes_received_total", "Bytes of frames received.", total.bytes_received),
        ("frames_sent_total", "Frames sent.", total.frames_sent),
        ("frames_received_total", "Frames received.", total.frames_received),
        (
            "frames_dropped_total",
            "Frames that were damaged, of an old session, or unknown.",
            total.frames_dropped,
        ),
    ] {
        text.one(name, "counter", help, value);
    }
    text.peers(stats, ("peer_connected", "gauge", "Whether a session with the device is open."), |peer| {
        Some(u8::from(peer.connected))
    });
    text.peers(stats, ("peer_in_sync", "gauge", "Whether both know the same."), |peer| {
        peer.in_sync.map(u8::from)
    });
    text.peers(
        stats,
        ("peer_rows_equal", "gauge", "Whether its rows are ours at equal knowledge."),
        |peer| peer.rows_equal.map(u8::from),
    );
    text.peers(
        stats,
        ("peer_lacks_commits", "gauge", "Commits that the device is not known to have."),
        |peer| peer.peer_lacks,
    );
    text.peers(stats, ("peer_ahead_commits", "gauge", "Commits of the device that we lack."), |peer| {
        peer.we_lack
    });
    text.peers(stats, ("peer_round_trip_seconds", "gauge", "Round trip to the device."), |peer| {
        peer.round_trip_micros.map(|micros| micros as f64 / 1e6)
    });
    text.peers(stats, ("peer_clock_offset_seconds", "gauge", "Its clock minus ours."), |peer| {
        peer.clock_offset_ms.map(seconds)
    });
    text.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices_cannot_break_the_form() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
