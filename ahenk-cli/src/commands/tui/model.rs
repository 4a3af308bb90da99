//! What the dashboard knows and shows, and what a key does. Knows nothing of terminals and sockets.
//!
//! Invariant: revoking and restoring are asked about first, and only `y` means yes.

use std::collections::VecDeque;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::source::{Look, News};
use crate::output::printable;

/// Rates that are kept for the picture of the throughput.
const RATES_MAX: usize = 240;

/// A part of the dashboard whose lines can be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Pane {
    #[default]
    Devices,
    Changes,
    Conflicts,
    Log,
}

impl Pane {
    const ALL: [Pane; 4] = [Pane::Devices, Pane::Changes, Pane::Conflicts, Pane::Log];
}

/// What the daemon is to do, or that it is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Quit,
    Sync,
    /// Pause, or go on.
    Pause(bool),
    /// The device with this id is one of the account's no longer.
    Revoke {
        id: String,
        name: String,
    },
    /// Write the value that lost this conflict anew.
    Restore {
        id: u64,
        what: String,
    },
}

/// Bytes a second, at one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Rate {
    pub(super) sent: u64,
    pub(super) received: u64,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Model {
    look: Option<Look>,
    /// Why the daemon cannot be asked now.
    gone: Option<String>,
    rates: VecDeque<Rate>,
    pane: Pane,
    /// How far from its end the chosen line of a pane is; from the beginning with devices.
    chosen: [usize; 4],
    /// What waits for a yes.
    asked: Option<Action>,
    /// How the last action ended, or that it is under way.
    said: Option<Result<String, String>>,
    help: bool,
}

impl Model {
    /// Takes news in.
    pub(super) fn learn(&mut self, news: News) {
        match news {
            News::Gone(why) => self.gone = Some(why),
            News::Done(how) => self.said = Some(how),
            News::Look(look) => {
                if let Some(before) = self.look.as_ref().filter(|_| self.gone.is_none()) {
                    self.rates.push_back(rate(before, &look));
                    if self.rates.len() > RATES_MAX {
                        self.rates.pop_front();
                    }
                }
                self.gone = None;
                self.look = Some(*look);
                for pane in Pane::ALL {
                    self.chosen[pane as usize] = self.chosen(pane).min(self.lines(pane).saturating_sub(1));
                }
            }
        }
    }

    /// What a key asks for.
    pub(super) fn press(&mut self, key: KeyEvent) -> Option<Action> {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Some(Action::Quit);
        }
        if let Some(action) = self.asked.take() {
            if key.code == KeyCode::Char('y') {
                self.said = Some(Ok("…".to_owned()));
                return Some(action);
            }
            self.said = Some(Ok("nothing was changed".to_owned()));
            return None;
        }
        if self.help {
            self.help = false;
            return None;
        }
        self.said = None;
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Some(Action::Quit),
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Tab => self.turn(1),
            KeyCode::BackTab => self.turn(Pane::ALL.len() - 1),
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::PageUp => self.step(-10),
            KeyCode::PageDown => self.step(10),
            KeyCode::Char('s') => return self.begin(Action::Sync),
            KeyCode::Char('p') => {
                let paused = self.look.as_ref().is_some_and(|look| look.status.paused);
                return self.begin(Action::Pause(!paused));
            }
            KeyCode::Char('r') => self.ask_to_revoke(),
            KeyCode::Char('w') => self.ask_to_restore(),
            _ => {}
        }
        None
    }

    fn begin(&mut self, action: Action) -> Option<Action> {
        let what = match action {
            Action::Sync => "syncing…",
            _ => "…",
        };
        self.said = Some(Ok(what.to_owned()));
        Some(action)
    }

    fn turn(&mut self, by: usize) {
        self.pane = Pane::ALL[(self.pane as usize + by) % Pane::ALL.len()];
    }

    /// Chooses another line. In panes that show the newest last, up is further from the end.
    fn step(&mut self, by: isize) {
        let by = if self.pane == Pane::Devices { by } else { -by };
        let last = self.lines(self.pane).saturating_sub(1);
        let chosen = &mut self.chosen[self.pane as usize];
        *chosen = chosen.saturating_add_signed(by).min(last);
    }

    fn ask_to_revoke(&mut self) {
        let device = self.look.as_ref().and_then(|look| look.status.peers.get(self.chosen(Pane::Devices)));
        match device {
            Some(peer) => {
                self.asked = Some(Action::Revoke { id: peer.id.clone(), name: printable(&peer.name) });
            }
            None => self.said = Some(Err("there is no other device".to_owned())),
        }
    }

    fn ask_to_restore(&mut self) {
        let conflicts = self.look.as_ref().map(|look| look.conflicts.as_slice()).unwrap_or_default();
        let conflict = conflicts.iter().rev().nth(self.chosen(Pane::Conflicts));
        match conflict {
            Some(one) => {
                let what = printable(&format!("{}/{} {}", one.table, one.row, one.field));
                self.asked = Some(Action::Restore { id: one.id, what });
            }
            None => self.said = Some(Err("there is no conflict".to_owned())),
        }
    }

    fn lines(&self, pane: Pane) -> usize {
        self.look.as_ref().map_or(0, |look| match pane {
            Pane::Devices => look.status.peers.len(),
            Pane::Changes => look.changes.len(),
            Pane::Conflicts => look.conflicts.len(),
            Pane::Log => look.log.len(),
        })
    }

    pub(super) fn look(&self) -> Option<&Look> {
        self.look.as_ref()
    }

    pub(super) fn gone(&self) -> Option<&str> {
        self.gone.as_deref()
    }

    pub(super) fn pane(&self) -> Pane {
        self.pane
    }

    /// Of devices, which one is chosen; of the others, how far the chosen line is from the end.
    pub(super) fn chosen(&self, pane: Pane) -> usize {
        self.chosen[pane as usize]
    }

    /// The rates so far, the newest last.
    pub(super) fn rates(&self) -> &VecDeque<Rate> {
        &self.rates
    }

    pub(super) fn help(&self) -> bool {
        self.help
    }

    /// The question that waits for an answer.
    pub(super) fn question(&self) -> Option<String> {
        self.asked.as_ref().map(|action| match action {
            Action::Revoke { name, .. } => format!("Revoke {name}? It cannot be undone."),
            Action::Restore { what, .. } => format!("Write the value that lost anew to {what}?"),
            Action::Quit | Action::Sync | Action::Pause(_) => String::new(),
        })
    }

    /// How the last action ended.
    pub(super) fn said(&self) -> Option<&Result<String, String>> {
        self.said.as_ref()
    }
}

fn rate(before: &Look, now: &Look) -> Rate {
    let seconds = now.at.saturating_duration_since(before.at).as_secs_f64().max(0.001);
    let per_second = |before: u64, now: u64| {
        // A daemon that has started anew counts from zero.
        (now.saturating_sub(before) as f64 / seconds) as u64
    };
    Rate {
        sent: per_second(before.stats.total.bytes_sent, now.stats.total.bytes_sent),
        received: per_second(before.stats.total.bytes_received, now.stats.total.bytes_received),
    }
}
