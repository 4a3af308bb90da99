//! The dashboard on a terminal, and what shows that something takes long: the real program on a pseudo-terminal, read as a
//! terminal emulator reads it.

mod support;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use support::{Device, World, until, until_status};

const ROWS: NonZeroU16 = NonZeroU16::new(30).unwrap();
const COLUMNS: NonZeroU16 = NonZeroU16::new(80).unwrap();

/// A terminal with the dashboard on it.
struct Screen {
    child: Child,
    keyboard: File,
    /// Kept open, to see how the program leaves the terminal.
    terminal: OwnedFd,
    picture: Arc<Mutex<vt100::Parser>>,
}

impl Screen {
    /// The dashboard.
    fn open(device: &Device) -> Screen {
        Screen::run(device, &["tui", "--interval", "100"])
    }

    fn run(device: &Device, args: &[&str]) -> Screen {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&master).expect("granted");
        unlockpt(&master).expect("unlocked");
        let name = ptsname(&master, Vec::new()).expect("a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = rustix::fs::open(name, flags, Mode::empty()).expect("opened");
        let size = Winsize { ws_row: ROWS.get(), ws_col: COLUMNS.get(), ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&terminal, size).expect("a size");
        assert!(cooked(&terminal));
        let end = || Stdio::from(terminal.try_clone().expect("another handle"));
        let mut command = device.command(args);
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("it starts");
        let picture = Arc::new(Mutex::new(vt100::Parser::new(ROWS, COLUMNS, 0)));
        let (seen, mut output) =
            (Arc::clone(&picture), File::from(master.try_clone().expect("another handle")));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // It ends with an error when nobody has the terminal open any more.
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                seen.lock().expect("not poisoned").process(&bytes[..count]);
            }
        });
        Screen { child, keyboard: File::from(master), terminal, picture }
    }

    fn text(&self) -> String {
        self.picture.lock().expect("not poisoned").screen().contents()
    }

    fn until_shown(&self, text: &str) {
        let mut last = String::new();
        let deadline = std::time::Instant::now() + support::WAIT_MAX;
        while !last.contains(text) {
            assert!(std::time::Instant::now() < deadline, "it never showed {text:?}:\n{last}");
            std::thread::sleep(std::time::Duration::from_millis(20));
            last = self.text();
        }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("typed");
    }

    /// Waits for the end, and checks that the terminal is as it was.
    fn ended(mut self) {
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "{status}\n{}", self.text());
        until("the terminal shows what was there before", || {
            !self.picture.lock().expect("not poisoned").screen().alternate_screen()
        });
        assert!(!self.picture.lock().expect("not poisoned").screen().hide_cursor(), "the cursor shows");
        assert!(cooked(&self.terminal), "the terminal echoes and reads lines");
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // It has ended already, or it must.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a terminal is as shells leave it.
fn cooked(terminal: &OwnedFd) -> bool {
    let modes = tcgetattr(terminal).expect("a terminal").local_modes;
    modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
}

#[test]
fn the_dashboard_shows_two_devices_and_does_what_keys_ask_for() {
    let world = World::new();
    let (laptop, phone) = (world.founder("laptop"), world.device("phone"));
    laptop.run(&["put", "tasks", "t1", "title=tea"]).ok();
    laptop.admit(&phone);
    // Apart, both write the same field: one value loses.
    laptop.run(&["put", "tasks", "t1", "title=green"]).ok();
    phone.run(&["put", "tasks", "t1", "title=black"]).ok();
    for device in [&laptop, &phone] {
        device.start();
    }
    laptop.run(&["sync", "--timeout", "60"]).ok();
    let mut screen = Screen::open(&laptop);
    for text in
        ["ahenk  laptop  in sync (1 of 1 connected)", "phone", "direct-tcp", "lost: green", "[Devices]"]
    {
        screen.until_shown(text);
    }
    screen.until_shown("the daemon is running");
    screen.press("p");
    until_status(&laptop, "it is paused", |status| status["paused"] == true);
    screen.until_shown("ahenk  laptop  paused");
    until_status(&phone, "the connection is gone", |status| status["peers"][0]["connected"] == false);
    // What is written meanwhile stays here, and travels afterwards.
    laptop.run(&["put", "tasks", "t2", "title=later"]).ok();
    screen.until_shown("tasks/t2");
    laptop.json(&["sync", "--timeout", "1"]).error(6, "conflict");
    phone.json(&["get", "tasks", "t2"]).error(3, "not-found");
    screen.press("p");
    until("it arrives", || phone.run(&["get", "tasks", "t2"]).code == 0);
    screen.until_shown("in sync (1 of 1 connected)");
    // Nothing happens without a yes.
    screen.press("w");
    screen.until_shown("Write the value that lost anew to tasks/t1 title? [y/N]");
    screen.press("n");
    screen.until_shown("nothing was changed");
    screen.press("wy");
    screen.until_shown("written anew");
    assert_eq!(laptop.run(&["get", "tasks", "t1", "title"]).ok().stdout, "green\n");
    screen.press("s");
    screen.until_shown("in sync with 1 of 1 devices");
    screen.press("r");
    screen.until_shown("Revoke phone? It cannot be undone. [y/N]");
    screen.press("y");
    screen.until_shown("phone is revoked");
    until_status(&phone, "it knows", |status| status["revoked"].is_string());
    // The daemon may come and go.
    laptop.run(&["stop"]).ok();
    screen.until_shown("the daemon is not running");
    laptop.start();
    screen.until_shown("alone (0 of 0 connected)");
    screen.press("q");
    screen.ended();
}

#[test]
fn the_interval_is_the_time_between_two_looks() {
    let world = World::new();
    let laptop = world.founder("laptop");
    laptop.start();
    let often = Screen::open(&laptop);
    let rarely = Screen::run(&laptop, &["tui", "--interval", "60000"]);
    [&often, &rarely].into_iter().for_each(|screen| screen.until_shown("ahenk  laptop  alone"));
    laptop.run(&["pause"]).ok();
    often.until_shown("ahenk  laptop  paused");
    assert!(rarely.text().contains("ahenk  laptop  alone"), "{}", rarely.text());
}

#[test]
fn a_signal_ends_it_and_the_terminal_is_as_it_was() {
    let world = World::new();
    let laptop = world.founder("laptop");
    laptop.json(&["tui"]).error(2, "usage");
    assert_eq!(laptop.run(&["tui"]).code, 4, "there is no daemon");
    laptop.start();
    assert!(laptop.run(&["tui"]).stderr.contains("needs a terminal"));
    for signal in ["-TERM", "-HUP"] {
        let screen = Screen::open(&laptop);
        screen.until_shown("ahenk  laptop");
        let pid = screen.child.id().to_string();
        assert!(
            std::process::Command::new("kill").args([signal, &pid]).status().expect("kill runs").success()
        );
        screen.ended();
    }
    // Ctrl-C is a key like others there.
    let mut screen = Screen::open(&laptop);
    screen.until_shown("ahenk  laptop");
    screen.press("\u{3}");
    screen.ended();
}

#[test]
fn what_waits_for_others_shows_on_a_terminal_that_it_does_and_leaves_nothing_there() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    a.admit(&b);
    // Its daemon does not run, so it cannot be reached.
    for (args, shown) in [
        (&["wait", "--peer", "b", "--timeout", "3"][..], "Waiting ("),
        (&["sync", "--timeout", "3"][..], "Comparing with the other devices ("),
    ] {
        let mut screen = Screen::run(&a, args);
        screen.until_shown(shown);
        assert!(!screen.child.wait().expect("it ends").success(), "{args:?}");
        until("only the error is there", || !screen.text().contains(shown));
        screen.until_shown("error: ");
    }
}
