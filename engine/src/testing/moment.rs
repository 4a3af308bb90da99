//! What happened in a run of [`Mesh`](super::Mesh), as data, for those who draw or read it.

use crate::commit::Commit;
use crate::wire::message::Message;

/// One thing that happened, for those who draw a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// Microseconds since the start.
    pub at_micros: u64,
    /// What.
    pub what: Happened,
}

/// What happened. Devices are numbered from 0; each copy of a frame has its own number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// The plan did something.
    Planned(String),
    /// A frame left a device.
    Sent {
        /// Its number.
        frame: u64,
        /// From which device.
        from: usize,
        /// To which.
        to: usize,
        /// The message.
        text: String,
    },
    /// A frame arrived.
    Arrived {
        /// Its number.
        frame: u64,
    },
    /// A frame vanished.
    Vanished {
        /// Its number.
        frame: u64,
    },
    /// A device's store took a batch.
    Applied {
        /// The device.
        node: usize,
        /// Its commits.
        text: String,
    },
    /// A device's engine reported something.
    Told {
        /// The device.
        node: usize,
        /// What.
        text: String,
    },
    /// A device started.
    Started {
        /// The device.
        node: usize,
    },
    /// A device stopped.
    Stopped {
        /// The device.
        node: usize,
    },
}

/// A commit in one line. `letter` names devices.
pub(super) fn describe_commit(commit: &Commit, letter: char) -> String {
    let ops: Vec<String> = commit
        .ops
        .iter()
        .map(|op| {
            let fields: Vec<String> =
                op.fields.iter().map(|(field, value)| format!("{field}={value:?}")).collect();
            format!("{:?} {} {}", op.kind, op.row, fields.join(" ")).trim_end().to_owned()
        })
        .collect();
    let what = if commit.introduces.is_some() { "introduction".to_owned() } else { ops.join(", ") };
    format!("{letter}:{} {what}", commit.dot.seq)
}

/// A message in one line, without what differs from run to run.
pub(super) fn describe(message: &Message) -> String {
    match message {
        Message::Hello(hello) => format!("Hello {} echo={}", hello.cert.name, hello.echo != 0),
        Message::Have(have) => match &have.knowledge {
            Some(knowledge) => format!("Have {} commits, reply={}", knowledge.commits(), have.reply),
            None => format!("Have digest, reply={}", have.reply),
        },
        Message::Want(want) => format!("Want #{} {} commits", want.id, want.ranges.commits()),
        Message::Ops(ops) => {
            let commits: usize = ops.runs.iter().map(|run| run.commits.len()).sum();
            format!(
                "Ops #{} {} runs, {commits} commits{}",
                ops.want,
                ops.runs.len(),
                if ops.done { ", done" } else { "" }
            )
        }
        Message::Ack(ack) => format!("Ack #{} {} heads", ack.want, ack.heads.len()),
        Message::Announce(announce) => format!("Announce {} heads", announce.heads.len()),
        Message::Ping(_) => "Ping".into(),
        Message::Pong(_) => "Pong".into(),
        Message::Error(error) => format!("Error {:?}", error.fault),
        Message::Bye(_) => "Bye".into(),
        Message::Audit(audit) => format!("Audit #{} after {:?}", audit.id, audit.after),
        Message::Audited(audited) => format!("Audited #{} {} rows", audited.id, audited.rows.len()),
        Message::Grant(_) => "Grant".into(),
        Message::Unknown(kind) => format!("unknown kind {kind}"),
    }
}
