//! `verify`: are the rows of this device what they should be, and the same on all devices?

use super::Env;
use crate::backend::Need;
use crate::data::{Compared, DataRequest, Outcome, Verified};
use crate::error::{CliError, Kind, Result};
use crate::output::printable;
use crate::progress::Progress;
use crate::protocol::Request;

/// Arguments of `verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Devices that know the same must hold the same rows. First the rows of this
device are compared with the digest on record, then with each device that can be
reached, down to the rows that differ.

Exit codes: 0 all equal; 6 rows differ; 7 a device that was asked for could not
be compared, or none could be; 8 this device's rows are not what its record
says.

Examples:
  ahenk-cli verify                  this device, and all that can be reached
  ahenk-cli verify --peer phone     and the one called phone, which must answer
  ahenk-cli verify --local          this device only")]
pub(crate) struct Args {
    /// Compare with the device of this name, or with an id that starts so
    #[arg(long, value_name = "NAME|ID", add = super::complete::peers())]
    peer: Option<String>,
    /// Ask no other device
    #[arg(long, conflicts_with = "peer")]
    local: bool,
    /// How long to try to reach other devices, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    let within_ms = if args.local { 0 } else { args.timeout * 1000 };
    let asked = args.peer.is_some();
    let need = if args.local { Need::Store } else { Need::Network };
    env.with_backend(need, async |backend| {
        let request = Request::Data(DataRequest::Verify { peer: args.peer, within_ms });
        let progress = Progress::waiting(&env.out, "Comparing rows");
        let verified: Verified = backend.one(request).await?;
        drop(progress);
        env.out.show(&verified, human)?;
        judge(&verified, asked)
    })
    .await
}

fn judge(verified: &Verified, asked: bool) -> Result<()> {
    if !verified.local.equal {
        return Err(CliError::new(Kind::Storage, "the rows of this device are not what its record says")
            .hint("its file was changed from outside, or this is a bug; `ahenk-cli bugreport` gathers what helps"));
    }
    let is = |outcome: Outcome| move |peer: &&Compared| peer.outcome == outcome;
    let differing: Vec<&str> =
        verified.peers.iter().filter(is(Outcome::Differing)).map(|peer| peer.device.as_str()).collect();
    if !differing.is_empty() {
        let message = format!("rows differ from those of {}", differing.join(", "));
        return Err(CliError::new(Kind::Conflict, message)
            .hint("`ahenk-cli explain TABLE ROW` on both devices shows why; please report it: this should never happen"));
    }
    let equal = verified.peers.iter().filter(is(Outcome::Equal)).count();
    if !verified.peers.is_empty() && (equal == 0 || asked && equal < verified.peers.len()) {
        return Err(CliError::new(Kind::Network, "no other device could be compared with")
            .hint("is it on and reachable? `ahenk-cli peer list --verbose` shows what was tried"));
    }
    Ok(())
}

fn human(verified: &Verified) -> String {
    let local = &verified.local;
    let sound = if local.equal { "as recorded" } else { "NOT as recorded" };
    let mut lines = vec![format!("this device  {} rows, {sound}, digest {}", local.rows, local.digest)];
    for peer in &verified.peers {
        let what = match peer.outcome {
            Outcome::Equal => format!("{} rows, all equal", peer.rows),
            Outcome::Differing => format!("{} rows, {} differ", peer.rows, peer.differences.len()),
            Outcome::NotInSync => "knows other commits; not compared".to_owned(),
            Outcome::Silent => "not reachable; not compared".to_owned(),
        };
        lines.push(format!("{:<11}  {what}", printable(&peer.device)));
        for row in &peer.differences {
            let side = match (&row.ours, &row.theirs) {
                (Some(_), None) => "only here",
                (None, Some(_)) => "only there",
                _ => "differs",
            };
            lines.push(format!("    {side:<10}  {}/{}", printable(&row.table), printable(&row.row)));
        }
    }
    lines.extend(verified.forks.iter().map(|fork| format!("forked       {}", super::status::told(fork))));
    lines.join("\n")
}
