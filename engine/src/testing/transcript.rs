//! Conversations as text: what a message says in one line, without what differs from run to run.

use crate::identity::AccountId;
use crate::wire::message::{Message, parse};

/// A frame in one line: its message, without what differs from run to run.
pub fn describe_frame(bytes: &[u8], account: &AccountId) -> String {
    match parse(bytes, account) {
        Ok((_, message)) => describe(&message),
        Err(error) => format!("({error})"),
    }
}

/// A message in one line, without what differs from run to run.
fn describe(message: &Message) -> String {
    match message {
        Message::Hello(hello) => format!("Hello {} echo={}", hello.cert.name, hello.echo != 0),
        Message::Have(have) => format!("Have {} commits, reply={}", have.knowledge.commits(), have.reply),
        Message::Summary(summary) => format!("Summary reply={}", summary.reply),
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
        Message::Grant(_) => "Grant".into(),
        Message::Audit(audit) => format!("Audit #{} after {:?}", audit.id, audit.after),
        Message::Audited(audited) => format!("Audited #{} {} rows", audited.id, audited.rows.len()),
        Message::Unknown(kind) => format!("unknown kind {kind}"),
    }
}
