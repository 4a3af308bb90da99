//! Requests of an administrator: revoking devices, certifying them anew, and what became of retracted commits.
//!
//! Invariant: a retracted commit leaves the quarantine only when it was written anew, or on request.

use std::collections::BTreeSet;

use ahenk::{OrderFailed, RestoreError};
use engine::commit::OpKind;
use engine::identity::{DeviceId, Dot};
use engine::store::Quarantined;
use serde::{Deserialize, Serialize};

use super::json::JsonFields;
use super::log::{Names, Writer, raw};
use crate::error::{CliError, Kind, Result, closed};
use crate::service::{Caller, Context};
use crate::suggest::by_prefix;

/// What is in the quarantine, and where to see it.
pub(crate) const RETRACTED: &str = "retracted commit";
pub(crate) const NO_RETRACTED: &str = "`ahenk-cli quarantine list` shows what is in the quarantine";

/// Retracted commits read at a time.
const PAGE: usize = 256;

/// A request of an administrator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", content = "with", rename_all = "kebab-case")]
pub(crate) enum AdminRequest {
    /// A device is one of the account's no longer. One [`Administered`].
    Revoke {
        /// Its name, or how its id starts.
        device: String,
        /// Why, in words.
        reason: String,
    },
    /// A new certificate for a device. One [`Administered`].
    Certify {
        /// Its name, or how its id starts.
        device: String,
        /// Its new name.
        name: Option<String>,
        /// It is to administer.
        admin: bool,
    },
    /// Retracted commits. A stream of [`Retracted`].
    Quarantine,
    /// Write retracted commits anew; all, if none is named. One [`Moved`].
    Restore {
        /// Their names.
        commits: Vec<String>,
    },
    /// Forget retracted commits. One [`Moved`].
    Drop {
        /// Their names.
        commits: Vec<String>,
    },
}

/// An order that was carried out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Administered {
    /// The device's id.
    pub(crate) device: String,
    /// Its name.
    pub(crate) name: String,
    /// The commit that says so to the others.
    pub(crate) commit: String,
}

/// A commit that was applied and then retracted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Retracted {
    #[serde(flatten)]
    pub(crate) by: Writer,
    /// The commit that retracted it.
    pub(crate) because: String,
    /// What it did.
    pub(crate) operations: Vec<Operation>,
}

/// One operation of a retracted commit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Operation {
    pub(crate) kind: OpKind,
    pub(crate) table: String,
    pub(crate) row: String,
    pub(crate) fields: JsonFields,
}

/// Retracted commits that left the quarantine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Moved {
    /// Their names.
    pub(crate) commits: Vec<String>,
}

pub(super) async fn call(context: &Context, request: AdminRequest, caller: &Caller) -> Result<()> {
    match request {
        AdminRequest::Revoke { device, reason } => {
            let (id, name) = the_one(context, &device).await?;
            let commit = context.db.revoke(id, &reason).await?;
            caller.item(Administered { device: id.to_string(), name, commit: commit.to_string() }).await
        }
        AdminRequest::Certify { device, name, admin } => {
            let (id, old) = the_one(context, &device).await?;
            let commit = context.db.certify(id, name.clone(), admin.then_some(true)).await?;
            let name = name.unwrap_or(old);
            caller.item(Administered { device: id.to_string(), name, commit: commit.to_string() }).await
        }
        AdminRequest::Quarantine => list(context, caller).await,
        AdminRequest::Restore { commits } => {
            let mut done = Vec::new();
            for dot in named(context, &commits)? {
                match context.db.restore(dot).await {
                    Ok(_) => done.push(dot.to_string()),
                    // Nothing to write anew; when all were asked for, it is no reason to stop.
                    Err(RestoreError::Empty(_)) if commits.is_empty() => {}
                    Err(error) => return Err(after(&done, error.into())),
                }
            }
            caller.item(Moved { commits: done }).await
        }
        AdminRequest::Drop { commits } => {
            let dots = named(context, &commits)?;
            context.db.drop_quarantined(dots.clone()).await?;
            caller.item(Moved { commits: dots.iter().map(ToString::to_string).collect() }).await
        }
    }
}

/// Exactly one device, and its name.
async fn the_one(context: &Context, text: &str) -> Result<(DeviceId, String)> {
    let names = Names::read(context).await?;
    let one = names.one(text)?;
    Ok((one, names.name(one)))
}

fn pages(context: &Context) -> impl Iterator<Item = Result<Vec<Quarantined>>> {
    let mut after: Option<Dot> = None;
    std::iter::from_fn(move || {
        let page = context.db.quarantine(after.as_ref(), PAGE);
        match page {
            Ok(page) if page.is_empty() => None,
            Ok(page) => {
                after = page.last().map(|one| one.stored.dot());
                Some(Ok(page))
            }
            Err(error) => Some(Err(error.into())),
        }
    })
}

async fn list(context: &Context, caller: &Caller) -> Result<()> {
    let names = Names::read(context).await?;
    for page in pages(context) {
        for one in page? {
            let commit = one.stored.commit;
            let operation = |op: engine::commit::Op| Operation {
                kind: op.kind,
                table: op.table.to_string(),
                row: op.row.to_string(),
                fields: JsonFields(raw(op.fields)),
            };
            let retracted = Retracted {
                by: names.writer(commit.stamp()),
                because: one.because.to_string(),
                operations: commit.ops.into_iter().map(operation).collect(),
            };
            caller.item(retracted).await?;
        }
    }
    Ok(())
}

/// The retracted commits of these names, or all, in the order in which this device had applied them.
fn named(context: &Context, commits: &[String]) -> Result<Vec<Dot>> {
    let mut found = Vec::new();
    for page in pages(context) {
        let page = page?;
        found.extend(page.into_iter().map(|one| (one.stored.position, one.stored.dot())));
    }
    found.sort_unstable();
    let all = found.into_iter().map(|(_, dot)| dot);
    if commits.is_empty() {
        return Ok(all.collect());
    }
    let (all, ids): (Vec<Dot>, Vec<String>) = all.map(|dot| (dot, dot.to_string())).unzip();
    let asked = commits.iter().map(|text| by_prefix(text, &ids, RETRACTED, NO_RETRACTED));
    let asked: BTreeSet<&str> = asked.collect::<Result<_>>()?;
    Ok(all.into_iter().zip(&ids).filter(|(_, id)| asked.contains(id.as_str())).map(|(dot, _)| dot).collect())
}

/// Says what stays done.
fn after(done: &[String], error: CliError) -> CliError {
    match done.len() {
        0 => error,
        count => CliError { message: format!("{} ({count} were restored before)", error.message), ..error },
    }
}

impl From<OrderFailed> for CliError {
    fn from(error: OrderFailed) -> CliError {
        use engine::io::AdminError;
        match error {
            OrderFailed::Storage(error) => error.into(),
            OrderFailed::Closed => closed(),
            OrderFailed::Refused(error) => {
                let (kind, hint) = match &error {
                    AdminError::NotAdministrator => (
                        Kind::NotAuthorised,
                        "run this on an administrator (`ahenk-cli device list`), or make this device one with \
                         `ahenk-cli account recover` and the recovery phrase",
                    ),
                    AdminError::UnknownDevice(_) => (Kind::NotFound, "`ahenk-cli device list` shows them"),
                    AdminError::Revoked(_) => {
                        (Kind::Conflict, "it comes back only by pairing anew, as a new device")
                    }
                    _ => (Kind::Usage, "nothing was changed"),
                };
                CliError::new(kind, error).hint(hint)
            }
            other => CliError::internal(other),
        }
    }
}

impl From<RestoreError> for CliError {
    fn from(error: RestoreError) -> CliError {
        match error {
            RestoreError::Read(error) => error.into(),
            RestoreError::Write(error) => error.into(),
            RestoreError::Empty(_) => CliError::usage(error).hint("`ahenk-cli quarantine drop` forgets it"),
            other => CliError::new(Kind::NotFound, other)
                .hint("`ahenk-cli quarantine list` shows what is in the quarantine"),
        }
    }
}
