//! `tui`: a dashboard in the terminal, over the daemon's socket.
//!
//! `source` asks the daemon, `model` holds what is known and decides what a key does, `view` draws it; this file owns
//! the terminal and joins them.
//! Invariants: whatever happens (an error, a panic, a signal), the terminal is left as it was found; nothing that cannot
//! be taken back is done without a question; the daemon may come and go while the dashboard runs.

mod model;
mod source;
mod view;

#[cfg(test)]
mod tests;

use std::io::IsTerminal as _;
use std::time::Duration;

use ratatui::crossterm::event::{self, Event as Input, KeyEventKind};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::Env;
use crate::backend::Backend;
use crate::error::{CliError, Result};
use model::{Action, Model};
use source::News;
use view::Look;

/// Longest wait for a key before it is looked whether anybody still wants one.
const KEY_WAIT: Duration = Duration::from_millis(200);
/// News and keys that may wait to be taken in.
const QUEUE_MAX: usize = 64;

/// Arguments of `tui`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Keys:
  Tab, arrows   choose a pane, and a line in it
  s             sync now
  p             pause sync, or let it go on
  r             revoke the chosen device, after a question
  w             write the value that lost the chosen conflict anew, after a
                question
  ?             what the keys do
  q, Esc        leave

It needs the daemon, and goes on by itself when the daemon comes back. In a
script, use `status`, `stats` and `watch`.

Example:
  ahenk-cli tui")]
pub(crate) struct Args {
    /// Milliseconds between two looks
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    interval: u64,
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    if env.out.json() {
        return Err(CliError::usage("`tui` draws on a terminal and prints no JSON")
            .hint("`ahenk-cli --json status --watch` prints how things stand, again and again"));
    }
    // An error that is there from the start is told in words, before anything is drawn.
    Backend::daemon(&env.home).await?;
    if !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
        return Err(CliError::usage("`tui` needs a terminal").hint("`ahenk-cli status --watch` needs none"));
    }
    let mut signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
        .map(|kind| signal(kind).map_err(CliError::internal));
    let [interrupt, terminate, hangup] = &mut signals;
    let (interrupt, terminate, hangup) = (as_mut(interrupt)?, as_mut(terminate)?, as_mut(hangup)?);
    let screen = Screen::take()?;
    let playing = play(env, Duration::from_millis(args.interval), screen);
    tokio::select! {
        ended = playing => ended,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = hangup.recv() => Ok(()),
    }
}

fn as_mut<T>(result: &mut Result<T>) -> Result<&mut T> {
    result.as_mut().map_err(|error| error.clone())
}

/// The terminal, while it is ours.
struct Screen(ratatui::DefaultTerminal);

impl Screen {
    fn take() -> Result<Screen> {
        let failed = |error: std::io::Error| CliError::usage(format!("the terminal cannot be used: {error}"));
        // A panic puts the terminal back before it says what happened.
        let terminal = ratatui::try_init().map_err(failed)?;
        Ok(Screen(terminal))
    }

    fn draw(&mut self, model: &Model, look: Look) -> Result<()> {
        let drawn = self.0.draw(|frame| view::draw(frame, model, look));
        drawn.map(|_| ()).map_err(|error| CliError::internal(format!("the terminal: {error}")))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Draws, takes in news and keys, and does what they ask for, until it is to end.
async fn play(env: &Env, every: Duration, mut screen: Screen) -> Result<()> {
    let (news, mut arriving) = mpsc::channel(QUEUE_MAX);
    let (keys, mut pressed) = mpsc::channel(QUEUE_MAX);
    let (again, wanted) = mpsc::channel(1);
    let reading = tokio::spawn(source::read(env.home.clone(), every, news.clone(), wanted));
    std::thread::spawn(move || read_keys(&keys));
    let mut model = Model::default();
    let look = Look { colour: env.out.colour() };
    let result = loop {
        if let Err(error) = screen.draw(&model, look) {
            break Err(error);
        }
        let action = tokio::select! {
            Some(one) = arriving.recv() => {
                let done = matches!(one, News::Done(_));
                model.learn(one);
                if done {
                    // What was done should show at once. If a look is due already, that is soon enough.
                    let _ = again.try_send(());
                }
                None
            }
            key = pressed.recv() => match key {
                Some(Input::Key(key)) if key.kind == KeyEventKind::Press => model.press(key),
                Some(_) => None,
                None => break Ok(()),
            },
        };
        match action {
            None => {}
            Some(Action::Quit) => break Ok(()),
            Some(action) => drop(tokio::spawn(source::perform(env.home.clone(), action, news.clone()))),
        }
    };
    reading.abort();
    result
}

/// Reads the keyboard until nobody wants it, or it is gone.
fn read_keys(keys: &mpsc::Sender<Input>) {
    while !keys.is_closed() {
        match event::poll(KEY_WAIT) {
            Ok(false) => {}
            Ok(true) => {
                let Ok(input) = event::read() else { return };
                if keys.blocking_send(input).is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}
