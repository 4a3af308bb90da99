//! What happened in a run of [`Mesh`](super::Mesh), as data, for those who draw or read it.

use crate::commit::Commit;
use crate::identity::DeviceId;
use crate::statement::Statement;
use crate::store::Batch;

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

/// The commits of a batch in one line. `letter` names devices.
pub fn describe_batch(batch: &Batch, letter: impl Fn(&DeviceId) -> char) -> String {
    let commits = batch.commits.iter();
    let commits = commits.map(|(commit, _)| describe_commit(commit, &letter));
    commits.collect::<Vec<_>>().join("; ")
}

fn describe_commit(commit: &Commit, letter: impl Fn(&DeviceId) -> char) -> String {
    let ops: Vec<String> = commit
        .ops
        .iter()
        .map(|op| {
            let fields: Vec<String> =
                op.fields.iter().map(|(field, value)| format!("{field}={value:?}")).collect();
            format!("{:?} {} {}", op.kind, op.row, fields.join(" ")).trim_end().to_owned()
        })
        .collect();
    if let Some(statement) = &commit.statement {
        return match &**statement {
            Statement::Certify(cert) => format!("certificate of {}", letter(&cert.device())),
            Statement::Revoke(revocation) => format!("revocation of {}", letter(&revocation.device)),
            Statement::Fork(proof) => format!("proof of a fork of {}", letter(&proof.author.device())),
        };
    }
    let what = if commit.introduces.is_some() { "introduction".to_owned() } else { ops.join(", ") };
    format!("{}:{} {what}", letter(&commit.dot.replica.device), commit.dot.seq)
}
