//! Space-time diagrams: one page that needs nothing else, and a log with vector clocks for ShiViz.
//!
//! Devices are vertical lines, time runs downwards, messages are arrows. Idle time is compressed: between two things
//! that happen no more than [`GAP_MAX`] points are left, and what was left out is written beside. Invariant: all text
//! that comes from a run is escaped.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use engine::testing::{Happened, Moment};

use crate::plan::letter;

/// Points between two devices' lines, left of the first, and above all.
const COLUMN: f64 = 190.0;
const LEFT: f64 = 420.0;
const TOP: f64 = 60.0;
/// Fewest and most points between two different times, and points of a millisecond.
const GAP_MIN: f64 = 4.0;
const GAP_MAX: f64 = 34.0;
const POINTS_PER_MS: f64 = 0.6;
/// Idle time from which on it is written how much was left out, in microseconds.
const IDLE_MICROS: u64 = 300_000;
/// Lines of the plan's text must not overlap, in points.
const LINE: f64 = 15.0;

/// A frame's way.
struct Arrow<'a> {
    from: usize,
    to: usize,
    sent: u64,
    ended: Option<(u64, bool)>,
    text: &'a str,
}

/// Draws what happened to so many devices.
pub fn html(title: &str, nodes: usize, moments: &[Moment]) -> String {
    let places = Places::new(moments);
    let mut svg = String::new();
    let x = |node: usize| LEFT + COLUMN * node as f64;
    lines(&mut svg, nodes, moments, &places);
    for arrow in arrows(moments) {
        draw_arrow(&mut svg, &arrow, &places);
    }
    let mut last_text_y = 0.0;
    for moment in moments {
        let y = places.y(moment.at_micros);
        let at = time(moment.at_micros);
        match &moment.what {
            Happened::Planned(text) => {
                let text_y = (last_text_y + LINE).max(y + 4.0);
                last_text_y = text_y;
                let kind = if is_fault(text) { "fault" } else { "plan" };
                let short = shortened(text, 52);
                let _ = writeln!(
                    svg,
                    r#"<g class="{kind}" data-text="{at}: {0}"><line x1="{1}" y1="{y:.1}" x2="{2}" y2="{y:.1}"/><path d="M{1} {y:.1} L{3} {4:.1}"/><text x="70" y="{text_y:.1}">{5}</text></g>"#,
                    escaped(text),
                    LEFT - 30.0,
                    x(nodes - 1) + 20.0,
                    LEFT - 44.0,
                    text_y - 4.0,
                    escaped(&short),
                );
            }
            Happened::Applied { node, text } if !text.is_empty() => {
                let kind = if text.starts_with("not taken") { "refused" } else { "commit" };
                let _ = writeln!(
                    svg,
                    r#"<circle class="{kind}" cx="{}" cy="{y:.1}" r="5" data-text="{at}: {} commits {}"/>"#,
                    x(*node),
                    letter(*node),
                    escaped(text)
                );
            }
            Happened::Told { node, text } if !text.starts_with("Applied") => {
                let kind =
                    if ["PeerFault", "Fork", "Diverged", "Rewound"].iter().any(|it| text.starts_with(it)) {
                        "alarm"
                    } else {
                        "told"
                    };
                let _ = writeln!(
                    svg,
                    r#"<rect class="{kind}" x="{}" y="{:.1}" width="6" height="6" data-text="{at}: {} reports {}"/>"#,
                    x(*node) + 8.0,
                    y - 3.0,
                    letter(*node),
                    escaped(text)
                );
            }
            Happened::Started { node } | Happened::Stopped { node } => {
                let (kind, word) = if matches!(moment.what, Happened::Started { .. }) {
                    ("started", "starts")
                } else {
                    ("stopped", "stops")
                };
                let _ = writeln!(
                    svg,
                    r#"<rect class="{kind}" x="{}" y="{:.1}" width="16" height="4" data-text="{at}: {} {word}"/>"#,
                    x(*node) - 8.0,
                    y - 2.0,
                    letter(*node),
                );
            }
            _ => {}
        }
    }
    let height = (places.end + 60.0).max(last_text_y + 30.0);
    let width = x(nodes - 1) + 120.0;
    let mut heads = String::new();
    for node in 0..nodes {
        let _ = write!(heads, r#"<text class="host" x="{}" y="24">{}</text>"#, x(node), letter(node));
    }
    include_str!("diagram.html")
        .replace("{title}", &escaped(title))
        .replace("{width}", &format!("{width:.0}"))
        .replace("{height}", &format!("{height:.0}"))
        .replace("{heads}", &heads)
        .replace("{svg}", &svg)
}

/// Where times are drawn.
struct Places {
    y: BTreeMap<u64, f64>,
    end: f64,
    /// Idle stretches that were compressed: where, and how long they were.
    idle: Vec<(f64, u64)>,
}

impl Places {
    fn new(moments: &[Moment]) -> Places {
        let times: BTreeSet<u64> = moments.iter().map(|moment| moment.at_micros).chain([0]).collect();
        let (mut y, mut idle, mut at, mut before) = (BTreeMap::new(), Vec::new(), TOP, 0);
        for micros in times {
            let passed = micros - before;
            let gap = (passed as f64 / 1000.0 * POINTS_PER_MS).clamp(GAP_MIN, GAP_MAX);
            if passed >= IDLE_MICROS {
                idle.push((at + gap / 2.0, passed));
            }
            at += if micros == 0 { 0.0 } else { gap };
            y.insert(micros, at);
            before = micros;
        }
        Places { y, end: at, idle }
    }

    fn y(&self, micros: u64) -> f64 {
        self.y.get(&micros).copied().unwrap_or(self.end)
    }
}

/// The devices' lines, thin where a device is stopped, and what idle time was left out.
fn lines(svg: &mut String, nodes: usize, moments: &[Moment], places: &Places) {
    for node in 0..nodes {
        let x = LEFT + COLUMN * node as f64;
        let (mut from, mut up) = (TOP, true);
        let mut stretch = |from: f64, to: f64, up: bool| {
            let kind = if up { "up" } else { "down" };
            let _ = writeln!(svg, r#"<line class="{kind}" x1="{x}" y1="{from:.1}" x2="{x}" y2="{to:.1}"/>"#);
        };
        for moment in moments {
            let now_up = match moment.what {
                Happened::Started { node: other } if other == node => true,
                Happened::Stopped { node: other } if other == node => false,
                _ => continue,
            };
            let y = places.y(moment.at_micros);
            stretch(from, y, up);
            (from, up) = (y, now_up);
        }
        stretch(from, places.end + 30.0, up);
    }
    for (y, micros) in &places.idle {
        let _ = writeln!(svg, r#"<text class="idle" x="8" y="{:.1}">{}</text>"#, y + 3.0, pause(*micros));
    }
}

fn arrows(moments: &[Moment]) -> Vec<Arrow<'_>> {
    let mut arrows: BTreeMap<u64, Arrow<'_>> = BTreeMap::new();
    for moment in moments {
        match &moment.what {
            Happened::Sent { frame, from, to, text } => {
                let sent = moment.at_micros;
                arrows.insert(*frame, Arrow { from: *from, to: *to, sent, ended: None, text });
            }
            Happened::Arrived { frame } | Happened::Vanished { frame } => {
                let arrived = matches!(moment.what, Happened::Arrived { .. });
                if let Some(arrow) = arrows.get_mut(frame) {
                    arrow.ended = Some((moment.at_micros, arrived));
                }
            }
            _ => {}
        }
    }
    arrows.into_values().collect()
}

fn draw_arrow(svg: &mut String, arrow: &Arrow<'_>, places: &Places) {
    let x = |node: usize| LEFT + COLUMN * node as f64;
    let word = arrow.text.split(' ').next().unwrap_or_default();
    let kind = match word {
        "Hello" | "Have" | "Summary" | "Want" | "Ops" | "Ack" | "Announce" => word.to_lowercase(),
        "Ping" | "Pong" => "ping".to_owned(),
        _ => "other".to_owned(),
    };
    let (x1, y1) = (x(arrow.from), places.y(arrow.sent));
    let (ended, arrived) = arrow.ended.unwrap_or((arrow.sent, false));
    let (mut x2, mut y2) = (x(arrow.to), places.y(ended));
    let fate = if arrived { "" } else { " lost" };
    if !arrived {
        x2 = x1 + (x2 - x1) * 0.45;
        y2 = y1 + (y2 - y1).max(10.0) * 0.45;
    }
    let what = escaped(arrow.text);
    let (from, to) = (letter(arrow.from), letter(arrow.to));
    let end = if arrived { format!("arrives {}", time(ended)) } else { "never arrives".to_owned() };
    let text = format!("{}: {from} to {to}: {what} ({end})", time(arrow.sent));
    // A wide line that cannot be seen is easy to point at.
    let _ = writeln!(
        svg,
        r##"<g class="frame {kind}{fate}" data-text="{text}"><path class="wide" d="M{x1} {y1:.1} L{x2:.1} {y2:.1}"/><path class="thin" d="M{x1} {y1:.1} L{x2:.1} {y2:.1}" marker-end="url(#{})"/></g>"##,
        if arrived { "tip" } else { "cross" },
    );
}

/// Whether a plan's event breaks something.
fn is_fault(text: &str) -> bool {
    let marks =
        ["disconnect", "cut ", "loses power", "fails", "restored", "frames are lost", "clock is", "FAILED"];
    marks.iter().any(|mark| text.contains(mark))
}

fn shortened(text: &str, chars_max: usize) -> String {
    if text.chars().count() <= chars_max {
        return text.to_owned();
    }
    text.chars().take(chars_max - 1).chain(['…']).collect()
}

fn time(micros: u64) -> String {
    format!("{}.{:03} ms", micros / 1000, micros % 1000)
}

fn pause(micros: u64) -> String {
    format!("+{:.1} s", micros as f64 / 1e6)
}

fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut whole, it| {
        match it {
            '&' => whole.push_str("&amp;"),
            '<' => whole.push_str("&lt;"),
            '>' => whole.push_str("&gt;"),
            '"' => whole.push_str("&quot;"),
            '{' => whole.push_str("&#123;"),
            it => whole.push(it),
        }
        whole
    })
}

/// The sender's clock when a frame left, from, to, and the message.
type UnderWay<'a> = (BTreeMap<usize, u64>, usize, usize, &'a str);

/// The same as a log for ShiViz: read it there with the expression
/// `(?<host>\S*) (?<clock>{.*})\n(?<event>.*)`.
pub fn shiviz(nodes: usize, moments: &[Moment]) -> String {
    let mut clocks = vec![BTreeMap::<usize, u64>::new(); nodes];
    let mut under_way: BTreeMap<u64, UnderWay<'_>> = BTreeMap::new();
    let mut log = String::new();
    let mut tick = |clocks: &mut Vec<BTreeMap<usize, u64>>, node: usize, text: &str| {
        *clocks[node].entry(node).or_default() += 1;
        let clock: Vec<String> =
            clocks[node].iter().map(|(node, count)| format!("\"{}\": {count}", letter(*node))).collect();
        let text = text.replace('\n', " ");
        let _ = writeln!(log, "{} {{{}}}\n{text}", letter(node), clock.join(", "));
    };
    for moment in moments {
        let at = time(moment.at_micros);
        match &moment.what {
            Happened::Sent { frame, from, to, text } => {
                tick(&mut clocks, *from, &format!("{at} sends {text} to {}", letter(*to)));
                under_way.insert(*frame, (clocks[*from].clone(), *from, *to, text));
            }
            Happened::Arrived { frame } => {
                let Some((clock, from, to, text)) = under_way.remove(frame) else { continue };
                for (node, count) in clock {
                    let mine = clocks[to].entry(node).or_default();
                    *mine = (*mine).max(count);
                }
                tick(&mut clocks, to, &format!("{at} gets {text} from {}", letter(from)));
            }
            Happened::Applied { node, text } if !text.is_empty() => {
                tick(&mut clocks, *node, &format!("{at} commits {text}"));
            }
            Happened::Told { node, text } => tick(&mut clocks, *node, &format!("{at} reports {text}")),
            Happened::Started { node } => tick(&mut clocks, *node, &format!("{at} starts")),
            Happened::Stopped { node } => tick(&mut clocks, *node, &format!("{at} stops")),
            Happened::Applied { .. } | Happened::Vanished { .. } | Happened::Planned(_) => {}
        }
    }
    log
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments() -> Vec<Moment> {
        let at = |at_micros, what| Moment { at_micros, what };
        let sent = |frame, from, to| Happened::Sent { frame, from, to, text: "Ops <1>".into() };
        vec![
            at(0, Happened::Planned("connect A B".into())),
            at(1_000, sent(1, 0, 1)),
            at(2_000, sent(2, 1, 0)),
            at(2_000, Happened::Vanished { frame: 2 }),
            at(60_000_000, Happened::Arrived { frame: 1 }),
        ]
    }

    #[test]
    fn a_page_needs_nothing_else_and_lets_no_text_become_markup() {
        let page = html("a \"title\" <b>", 2, &moments());
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("src="));
        assert!(page.contains("Ops &lt;1&gt;") && !page.contains("Ops <1>") && !page.contains("<b>"));
        assert!(page.contains("frame ops lost") && page.contains("never arrives"));
        assert!(page.contains("+60.0 s"), "idle time is left out, and it is said how much");
        assert!(!page.contains("{svg}") && !page.contains("{title}"));
    }

    #[test]
    fn clocks_of_a_log_follow_the_messages() {
        let log = shiviz(2, &moments());
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines[0], r#"A {"A": 1}"#);
        assert_eq!(lines[2], r#"B {"B": 1}"#);
        assert_eq!(lines[4], r#"B {"A": 1, "B": 2}"#);
        assert_eq!(lines.len(), 6, "what never arrives has no second end");
    }
}
