//! `demo`: three devices on this machine, as real processes that talk over loopback. Each sentence it prints is
//! checked first; the exit code says whether all of them hold.
//!
//! Invariant: whatever happens (an error, a panic, an interrupt), the processes that it started are ended and their
//! homes removed, unless --keep was given.

mod stage;
mod story;

use std::sync::Arc;
use std::time::Instant;

use tokio::signal::unix::{SignalKind, signal};

use super::Env;
use crate::error::{CliError, Kind, Result};
use stage::Stage;
use story::Story;

const AFTER_HELP: &str = "\
The devices live in a temporary folder, listen on 127.0.0.1 only, and do not
look for others, so nothing of this machine and its network is touched. The data
is the tz database's table of time zones (public domain).

Example:
  ahenk-cli demo --keep";

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// Keep the three homes, and say where they are
    #[arg(long)]
    keep: bool,
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    env.init_logging();
    let started = Instant::now();
    let stage = Arc::new(Stage::new()?);
    let (playing, out) = (Arc::clone(&stage), env.out);
    let mut play = tokio::task::spawn_blocking(move || Story::new(&playing, out).play());
    let mut signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
    let [interrupt, terminate, hangup] = &mut signals;
    let interrupted = async {
        tokio::select! {
            () = next(interrupt) => {}
            () = next(terminate) => {}
            () = next(hangup) => {}
        }
    };
    let played = tokio::select! {
        played = &mut play => played,
        () = interrupted => {
            stage.interrupt();
            play.await
        }
    };
    let result =
        played.unwrap_or_else(|error| Err(CliError::internal(format!("the demo panicked: {error}"))));
    let homes = stage.close(args.keep);
    let mut report = match result {
        _ if stage.interrupted() => {
            return Err(CliError::new(Kind::Conflict, "interrupted").hint("everything was tidied up"));
        }
        other => other?,
    };
    homes?;
    report.took_ms = started.elapsed().as_millis() as u64;
    report.homes = args.keep.then(|| stage.dir().display().to_string());
    env.out.show(&report, |report| {
        let kept = match &report.homes {
            Some(homes) => format!("The homes are in {homes}."),
            None => "Processes ended, homes removed.".to_owned(),
        };
        format!("\nAll of this was checked; it took {:.1} s. {kept}", report.took_ms as f64 / 1000.0)
    })
}

async fn next(signal: &mut std::io::Result<tokio::signal::unix::Signal>) {
    match signal {
        Ok(signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}
