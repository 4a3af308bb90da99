//! Draws the dashboard.
//!
//! Invariants: colours only where they are wanted, and nothing is told by colour alone; text from other devices and from
//! the log is drawn with its control characters made visible.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Clear, List, ListState, Paragraph, Row, Sparkline, Table, TableState};

use super::model::{Model, Pane};
use super::source::Look as Seen;
use crate::commands::conflicts::why;
use crate::commands::{inline, operation_inline, peer};
use crate::data::time;
use crate::output::printable;
use crate::report::{Peer, Status};

/// Longest text that is made of one line, in characters; screens are narrower.
const LINE_CHARS_MAX: usize = 512;

const KEYS: &str = "Tab pane  ↑↓ choose  s sync  p pause  r revoke  w write anew  ? help  q quit";

const HELP: &str = "\
Tab, Shift-Tab   the next pane, the one before
Up, Down, PgUp, PgDn   choose a line in it
s   sync now with all that can be reached
p   pause sync, or let it go on
r   revoke the chosen device; asks first
w   write the value that lost the chosen
    conflict anew; asks first
q, Esc   leave; the daemon goes on

SYNC says how many commits are behind.
Any key closes this.";

/// What may be used to draw.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub(super) colour: bool,
}

impl Look {
    fn colour(self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }
}

pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, look: Look) {
    let devices = model.look().map_or(1, |seen| seen.status.peers.len().clamp(1, 6)) as u16;
    let [title, top, rates, changes, conflicts, log, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(devices + 3),
        Constraint::Length(3),
        Constraint::Fill(3),
        Constraint::Fill(2),
        Constraint::Fill(2),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let Some(seen) = model.look() else {
        let text = model.gone().map_or_else(|| "asking the daemon…".to_owned(), printable);
        frame.render_widget(Paragraph::new(text), frame.area());
        return;
    };
    frame.render_widget(Paragraph::new(heading(model, seen, look)), title);
    draw_devices(frame, top, model, seen, look);
    draw_rates(frame, rates, model, look);
    let lines = seen.changes.iter().map(|entry| {
        let (when, who) = (clock(entry.by.time_ms), printable(&entry.by.device));
        let what = operation_inline(entry.kind, &entry.table, &entry.row, &entry.fields);
        format!("{when}  {who}  {what}")
    });
    draw_lines(frame, changes, model, Pane::Changes, "Changes", lines.collect());
    let lines = seen.conflicts.iter().map(|one| {
        let place = printable(&format!("{}/{} {}", one.table, one.row, one.field));
        let side = |side: &crate::data::Side| {
            let value = if side.deleted { "a delete".to_owned() } else { inline(&side.value.0) };
            format!("{value} ({})", printable(&side.by.device))
        };
        format!("{:>4}  {place}  lost: {}  won: {}, {}", one.id, side(&one.lost), side(&one.won), why(one))
    });
    draw_lines(frame, conflicts, model, Pane::Conflicts, "Conflicts", lines.collect());
    draw_lines(frame, log, model, Pane::Log, "Log", seen.log.iter().map(|line| printable(line)).collect());
    frame.render_widget(Paragraph::new(footer(model, look)), foot);
    if model.help() {
        draw_help(frame);
    }
}

fn heading(model: &Model, seen: &Seen, look: Look) -> Text<'static> {
    let status = &seen.status;
    let (state, style) = match model.gone() {
        Some(why) => (printable(why), look.colour(Color::Red)),
        None => state(status, look),
    };
    let first = Line::from(vec![
        Span::styled(format!("ahenk  {}", printable(&status.name)), Modifier::BOLD),
        Span::raw("  "),
        Span::styled(state, style.add_modifier(Modifier::BOLD)),
    ]);
    let waiting = match status.waiting_commits {
        0 => String::new(),
        count => format!(", {count} waiting"),
    };
    let digest = status.digest.get(..8).unwrap_or_default();
    let second =
        format!("{} commits{waiting}, digest {digest}, {} conflicts", status.position, seen.stats.conflicts);
    Text::from(vec![first, Line::from(second)])
}

/// The device's state in a few words.
fn state(status: &Status, look: Look) -> (String, Style) {
    let connected = status.peers.iter().filter(|peer| peer.connected).count();
    let all = status.peers.len();
    if status.revoked.is_some() {
        ("revoked".to_owned(), look.colour(Color::Red))
    } else if status.paused {
        ("paused".to_owned(), look.colour(Color::Yellow))
    } else if !status.sync_enabled {
        ("sync is off".to_owned(), look.colour(Color::Yellow))
    } else if connected == 0 {
        (format!("alone (0 of {all} connected)"), look.colour(Color::Yellow))
    } else if status.peers.iter().all(|peer| peer.in_sync != Some(false)) {
        (format!("in sync ({connected} of {all} connected)"), look.colour(Color::Green))
    } else {
        (format!("syncing ({connected} of {all} connected)"), look.colour(Color::Cyan))
    }
}

fn block(model: &Model, pane: Pane, title: String) -> Block<'static> {
    let chosen = model.pane() == pane;
    let title = if chosen { Span::styled(format!("[{title}]"), Modifier::BOLD) } else { Span::raw(title) };
    Block::bordered().title(title)
}

fn draw_devices(frame: &mut Frame<'_>, area: Rect, model: &Model, seen: &Seen, look: Look) {
    let row = |peer: &Peer| {
        let style = match (peer.connected, peer.in_sync) {
            (true, Some(true)) => look.colour(Color::Green),
            (true, _) => look.colour(Color::Cyan),
            (false, _) => Style::new(),
        };
        let round_trip = peer.round_trip_micros.map(|micros| format!("{:.1} ms", micros as f64 / 1000.0));
        Row::new(vec![
            printable(&peer.name),
            peer.path.clone().unwrap_or_else(|| "not connected".to_owned()),
            round_trip.unwrap_or_default(),
            peer::standing(peer),
            format!("{}/{}", bytes(peer.bytes_sent), bytes(peer.bytes_received)),
        ])
        .style(style)
    };
    let widths = [
        Constraint::Fill(2),
        Constraint::Length(13),
        Constraint::Length(10),
        Constraint::Fill(3),
        Constraint::Length(13),
    ];
    let heading = Row::new(["NAME", "PATH", "ROUND TRIP", "SYNC", "SENT/RECEIVED"]);
    let table = Table::new(seen.status.peers.iter().map(row), widths)
        .header(heading.style(Modifier::DIM))
        .block(block(model, Pane::Devices, "Devices".to_owned()))
        .row_highlight_style(Modifier::REVERSED);
    let chosen = (model.pane() == Pane::Devices).then(|| model.chosen(Pane::Devices));
    frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(chosen));
}

fn draw_rates(frame: &mut Frame<'_>, area: Rect, model: &Model, look: Look) {
    let halves = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas::<2>(area);
    let now = model.rates().back().copied().unwrap_or_default();
    let sent: Vec<u64> = model.rates().iter().map(|rate| rate.sent).collect();
    let received: Vec<u64> = model.rates().iter().map(|rate| rate.received).collect();
    let parts = [("Sent", now.sent, sent), ("Received", now.received, received)];
    for (area, (name, rate, mut data)) in halves.into_iter().zip(parts) {
        let width = usize::from(area.width.saturating_sub(2));
        // The newest that fit.
        data.drain(..data.len().saturating_sub(width));
        let title = format!("{name} {}/s", bytes(rate));
        let picture = Sparkline::default().data(data).style(look.colour(Color::Blue));
        frame.render_widget(picture.block(Block::bordered().title(title)), area);
    }
}

/// Lines of which the newest, at the end, shows first.
fn draw_lines(frame: &mut Frame<'_>, area: Rect, model: &Model, pane: Pane, title: &str, lines: Vec<String>) {
    let count = lines.len();
    let short = lines.into_iter().map(|line| match line.char_indices().nth(LINE_CHARS_MAX) {
        Some((at, _)) => line[..at].to_owned(),
        None => line,
    });
    let list = List::new(short)
        .block(block(model, pane, format!("{title} ({count})")))
        .highlight_style(if model.pane() == pane { Modifier::REVERSED } else { Modifier::empty() });
    let chosen = count.checked_sub(1 + model.chosen(pane));
    frame.render_stateful_widget(list, area, &mut ListState::default().with_selected(chosen));
}

fn footer(model: &Model, look: Look) -> Line<'static> {
    if let Some(question) = model.question() {
        return Line::styled(
            format!("{question} [y/N]"),
            look.colour(Color::Yellow).add_modifier(Modifier::BOLD),
        );
    }
    match model.said() {
        Some(Ok(text)) => Line::raw(printable(text)),
        Some(Err(text)) => Line::styled(format!("error: {}", printable(text)), look.colour(Color::Red)),
        None => Line::styled(KEYS, Modifier::DIM),
    }
}

fn draw_help(frame: &mut Frame<'_>) {
    let lines = HELP.lines().count() as u16;
    let width = HELP.lines().map(|line| line.chars().count()).max().unwrap_or(0) as u16;
    let area = frame.area().centered(Constraint::Length(width + 4), Constraint::Length(lines + 2));
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(HELP).block(Block::bordered().title("Keys")), area);
}

/// The time of day, in UTC.
fn clock(ms: u64) -> String {
    time::format(ms).get(11..19).unwrap_or_default().to_owned()
}

/// A number of bytes in few characters.
pub(super) fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{:.1} K", count as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} M", count as f64 / 1_048_576.0),
        _ => format!("{:.1} G", count as f64 / 1_073_741_824.0),
    }
}
