//! Whether this device's rows are what they should be, and the same as other devices'.

use std::time::Duration;

use ahenk::{Comparison, Verdict};
use engine::audit::page;
use engine::identity::DeviceId;
use serde::{Deserialize, Serialize};

use super::log::Names;
use crate::error::{CliError, Kind, Result, closed};
use crate::network::{digest_text, forks_of};
use crate::report::Fork;
use crate::service::Context;

/// How long a device may take to answer one question.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// Times a comparison is made again because somebody wrote meanwhile.
const ATTEMPTS_MAX: usize = 5;

/// This device's rows against its own record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Local {
    /// Rows looked at, deleted ones included.
    pub(crate) rows: u64,
    /// The digest of the rows as they are.
    pub(crate) digest: String,
    /// The digest on record.
    pub(crate) recorded: String,
    pub(crate) equal: bool,
}

/// A row that is not the same on both sides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DifferingRow {
    pub(crate) table: String,
    pub(crate) row: String,
    /// Its digest here; `null` if this device never heard of it.
    pub(crate) ours: Option<String>,
    /// Its digest there; `null` if that device never heard of it.
    pub(crate) theirs: Option<String>,
}

/// How a comparison ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    Equal,
    Differing,
    /// The two did not come to know the same.
    NotInSync,
    /// It is not connected, or does not answer.
    Silent,
}

/// A comparison with another device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Compared {
    pub(crate) device: String,
    pub(crate) device_id: String,
    pub(crate) outcome: Outcome,
    /// Rows compared, deleted ones included.
    pub(crate) rows: u64,
    /// Rows that differ, the first thousand.
    pub(crate) differences: Vec<DifferingRow>,
}

/// What `verify` has found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Verified {
    pub(crate) local: Local,
    /// The devices that were asked for, or all.
    pub(crate) peers: Vec<Compared>,
    /// Devices whose database was found to run twice: what is equal now was cut back to before that.
    #[serde(default)]
    pub(crate) forks: Vec<Fork>,
}

/// Looks at this device's rows, and at those of one device or of all that can be reached. With `within` 0 at no other's.
pub(super) async fn verify(context: &Context, peer: Option<&str>, within: Duration) -> Result<Verified> {
    let names = Names::read(context).await?;
    let own = context.identity.device();
    let mut devices: Vec<DeviceId> = match peer {
        Some(peer) => names.matching(peer)?.into_iter().collect(),
        None => names.iter().map(|(device, _)| *device).collect(),
    };
    devices.retain(|device| *device != own);
    if devices.is_empty() && peer.is_some() {
        return Err(
            CliError::usage("that is this device itself").hint("leave --peer out to check this device")
        );
    }
    let local = local(context).await?;
    if within.is_zero() {
        return Ok(Verified { local, peers: Vec::new(), forks: forks(context).await? });
    }
    let mut peers = Vec::new();
    if !devices.is_empty() {
        context.net()?.network_changed().await?;
        // Devices that are not reached, or not in sync by then, are found out one by one.
        let _ = context.db.sync(within).await;
    }
    for device in devices {
        let mut compared = context.db.verify(device, ANSWER_TIME_MAX).await?;
        for _ in 1..ATTEMPTS_MAX {
            if compared.verdict != Verdict::NotInSync {
                break;
            }
            let _ = context.db.sync(within).await;
            compared = context.db.verify(device, ANSWER_TIME_MAX).await?;
        }
        peers.push(document(&names, device, compared));
    }
    Ok(Verified { local, peers, forks: forks(context).await? })
}

async fn forks(context: &Context) -> Result<Vec<Fork>> {
    Ok(forks_of(&context.db.status().await.ok_or_else(closed)?))
}

fn document(names: &Names, device: DeviceId, compared: Comparison) -> Compared {
    let row = |difference: ahenk::Difference| DifferingRow {
        table: difference.table.to_string(),
        row: difference.row.to_string(),
        ours: difference.ours.map(digest_text),
        theirs: difference.theirs.map(digest_text),
    };
    Compared {
        device: names.name(device),
        device_id: device.to_string(),
        outcome: match compared.verdict {
            Verdict::Equal => Outcome::Equal,
            Verdict::Differing => Outcome::Differing,
            Verdict::NotInSync => Outcome::NotInSync,
            Verdict::Silent => Outcome::Silent,
        },
        rows: compared.rows,
        differences: compared.differences.into_iter().map(row).collect(),
    }
}

/// Adds up the digests of all rows, and compares with what is on record.
async fn local(context: &Context) -> Result<Local> {
    for _ in 0..ATTEMPTS_MAX {
        let before = context.db.status().await.ok_or_else(closed)?;
        let (mut rows, mut digest, mut after) = (0, 0_u128, None);
        loop {
            let next = page(&**context.db.store(), after.as_ref(), None)?;
            rows += next.rows.len() as u64;
            digest = digest.wrapping_add(next.digest);
            after = next.rows.last().map(|last| (last.table.clone(), last.row.clone()));
            if next.ended || after.is_none() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let status = context.db.status().await.ok_or_else(closed)?;
        if status.position == before.position {
            let (digest, recorded) = (digest_text(digest), digest_text(status.digest));
            return Ok(Local { rows, equal: digest == recorded, digest, recorded });
        }
    }
    Err(CliError::new(Kind::Conflict, "rows kept changing while they were looked at")
        .hint("try again when less is written"))
}
