//! Progress bars, on stderr: for what takes longer than a second, if a person looks.
//!
//! Invariants: none without a terminal on stderr, and none with `--quiet`; a bar is gone from the screen when its
//! [`Progress`] is dropped, so results and errors stand where they would without it.

use std::io::IsTerminal as _;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::Output;

/// The bar shows when the work takes longer than this.
const SHOWN_AFTER: Duration = Duration::from_secs(1);
/// Time between two pictures of the bar.
const DRAWN_EVERY: Duration = Duration::from_millis(100);

/// How far some work has come. Cheap to tell, whether it shows or not.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    /// Shows the bar when it is time; ends when the sender is dropped.
    clock: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Progress {
    /// Of work whose size is known, in bytes.
    pub(crate) fn of_bytes(out: &Output, bytes: u64) -> Progress {
        Progress::begin(wanted(out), SHOWN_AFTER, ProgressDrawTarget::stderr, bar(bytes))
    }

    /// Of work that goes through things one by one, nobody knows how many.
    pub(crate) fn counting(out: &Output, what: &'static str) -> Progress {
        Progress::begin(wanted(out), SHOWN_AFTER, ProgressDrawTarget::stderr, counter(what))
    }

    /// Of work that says nothing until it is done.
    pub(crate) fn waiting(out: &Output, what: &'static str) -> Progress {
        Progress::begin(wanted(out), SHOWN_AFTER, ProgressDrawTarget::stderr, spinner(what))
    }

    fn begin(
        wanted: bool,
        after: Duration,
        target: impl FnOnce() -> ProgressDrawTarget + Send + 'static,
        bar: ProgressBar,
    ) -> Progress {
        let shown = bar.clone();
        let clock = wanted.then(|| {
            let (ended, ending) = mpsc::channel();
            let clock = std::thread::spawn(move || {
                if ending.recv_timeout(after) == Err(RecvTimeoutError::Timeout) {
                    shown.set_draw_target(target());
                    shown.enable_steady_tick(DRAWN_EVERY);
                }
            });
            (ended, clock)
        });
        Progress { bar, clock }
    }

    /// So much is done, of the whole.
    pub(crate) fn at(&self, done: u64) {
        self.bar.set_position(done);
    }

    /// One more is done.
    pub(crate) fn one_more(&self) {
        self.bar.inc(1);
    }

    /// Something to say beside the bar.
    pub(crate) fn say(&self, text: impl FnOnce() -> String) {
        if !self.bar.is_hidden() {
            self.bar.set_message(text());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((ended, clock)) = self.clock.take() {
            drop(ended);
            // It only waits; should it have panicked, there is no bar.
            let _ = clock.join();
        }
        self.bar.finish_and_clear();
    }
}

fn wanted(out: &Output) -> bool {
    out.remarks() && std::io::stderr().is_terminal()
}

fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    bar.set_draw_target(ProgressDrawTarget::hidden());
    // A template that is wrong fails the test below; at worst the bar looks plain.
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn bar(bytes: u64) -> ProgressBar {
    styled(ProgressBar::new(bytes), "{bar:30} {percent:>3} %  {msg}  {eta} left")
}

fn counter(what: &'static str) -> ProgressBar {
    styled(ProgressBar::new_spinner(), "{spinner} {prefix}: {human_pos}, {per_sec}").with_prefix(what)
}

fn spinner(what: &'static str) -> ProgressBar {
    styled(ProgressBar::new_spinner(), "{spinner} {prefix} ({elapsed})").with_prefix(what)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use indicatif::TermLike;

    use super::*;

    /// A terminal that keeps what is drawn since it was cleared last.
    #[derive(Debug, Clone, Default)]
    struct Screen(Arc<Mutex<(String, usize)>>);

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            80
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            let mut screen = self.0.lock().expect("not poisoned");
            screen.0.push_str(text);
            screen.1 += text.trim().len();
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            self.0.lock().expect("not poisoned").0.clear();
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn on(screen: &Screen, wanted: bool, after: Duration, bar: ProgressBar) -> Progress {
        let screen = screen.clone();
        Progress::begin(wanted, after, move || ProgressDrawTarget::term_like(Box::new(screen)), bar)
    }

    fn wait_for(screen: &Screen, text: &str) {
        while !screen.0.lock().expect("not poisoned").0.contains(text) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_bar_shows_when_its_time_has_come_and_leaves_nothing_behind() {
        for (bar, text) in
            [(bar(200), "50 %"), (counter("Rows"), "Rows: 100"), (spinner("Comparing"), "Comparing (")]
        {
            let screen = Screen::default();
            let progress = on(&screen, true, Duration::ZERO, bar);
            progress.at(99);
            progress.one_more();
            wait_for(&screen, text);
            drop(progress);
            assert_eq!(screen.0.lock().expect("not poisoned").0.trim(), "");
        }
    }

    #[test]
    fn what_is_quick_or_not_looked_at_has_no_bar() {
        for (wanted, after) in [(true, Duration::from_secs(3600)), (false, Duration::ZERO)] {
            let screen = Screen::default();
            let progress = on(&screen, wanted, after, counter("Rows"));
            progress.one_more();
            drop(progress);
            assert_eq!(screen.0.lock().expect("not poisoned").1, 0, "nothing was ever drawn");
        }
    }
}
