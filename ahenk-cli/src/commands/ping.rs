//! `ping`: round trips to another device, and the way they take.

use std::time::{Duration, Instant};

use super::Env;
use crate::backend::{Backend, Need};
use crate::error::{CliError, Kind, Result};
use crate::netcheck::round_trip;
use crate::output::printable;
use crate::protocol::Request;
use crate::report::Pong;

/// Time between two pings.
const EVERY: Duration = Duration::from_secs(1);

/// Arguments of `ping`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints one line for each ping: its time and its way, or why there was no answer.
While the two are not connected it goes on trying until the time is up. Without
a daemon this device connects by itself, for as long as it takes.

Exit codes: 0 when there was an answer (with --until-direct: over a direct
path), 7 when the time is up.

Examples:
  ahenk-cli ping phone
  ahenk-cli ping phone --until-direct      until the path is a direct one
  ahenk-cli --json ping phone --count 1 | jq .round_trip_micros")]
pub(crate) struct Args {
    /// The device: its name, or how its id starts
    #[arg(value_name = "DEVICE", add = super::complete::peers())]
    device: String,
    /// How many answers; with --until-direct, as many as it takes
    #[arg(long, short = 'c', value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Go on until an answer comes over a direct path, QUIC or TCP
    #[arg(long, conflicts_with = "count")]
    until_direct: bool,
    /// How long to try, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    timeout: u64,
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    env.with_backend(Need::Network, async |backend| ping(env, backend, &args).await).await
}

async fn ping(env: &Env, backend: &Backend, args: &Args) -> Result<()> {
    let (started, within) = (Instant::now(), Duration::from_secs(args.timeout));
    let (mut answers, mut shown) = (0, None);
    loop {
        let pong: Pong = backend.one(Request::Ping { device: args.device.clone() }).await?;
        // That it is still not connected, for the same reason, is said once.
        if pong.error.is_none() || shown.as_ref() != Some(&pong) {
            env.out.show(&pong, human)?;
        }
        let direct = pong.path.as_ref().is_some_and(|path| path.starts_with("direct"));
        answers += u64::from(pong.error.is_none());
        let done = if args.until_direct { direct } else { answers >= args.count };
        if done {
            return Ok(());
        }
        if started.elapsed() + EVERY > within {
            return verdict(args, answers, &pong);
        }
        shown = Some(pong);
        tokio::time::sleep(EVERY).await;
    }
}

/// The time is up.
fn verdict(args: &Args, answers: u64, last: &Pong) -> Result<()> {
    if answers > 0 && !args.until_direct {
        return Ok(());
    }
    let (what, hint) = if answers > 0 {
        let what =
            format!("the path to {} is still {}", last.name, last.path.as_deref().unwrap_or("not there"));
        (what, "`ahenk-cli netcheck` here and there says what kind of NAT is between")
    } else {
        (format!("{} did not answer", last.name), "`ahenk-cli netcheck` says why two devices do not meet")
    };
    Err(CliError::new(Kind::Network, what).hint(hint))
}

fn human(pong: &Pong) -> String {
    let name = printable(&pong.name);
    match (pong.round_trip_micros, &pong.path, &pong.address) {
        (Some(micros), Some(path), Some(address)) => {
            format!("{name}: {}, {path}, {}", round_trip(micros), printable(address))
        }
        _ => format!("{name}: {}", printable(pong.error.as_deref().unwrap_or("no answer"))),
    }
}
