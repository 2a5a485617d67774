//! `vm console` as a person has it: on a terminal, which is theirs again whatever ends it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use banger_daemon::protocol::Status;
use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{InputModes, LocalModes, OutputModes, Termios, tcgetattr};

use crate::sessions::terminal;
use crate::simulator::Simulated;

/// Somebody at the console of `box`: all three streams are one terminal.
struct Sitting {
    ours: File,
    /// Kept open, so that the terminal outlives the command.
    theirs: OwnedFd,
    before: Termios,
    child: Child,
    shown: String,
}

impl Sitting {
    fn begin(world: &Simulated) -> Self {
        let (ours, theirs) = terminal();
        let before = tcgetattr(&theirs).unwrap();
        let stream = || Stdio::from(theirs.try_clone().unwrap());
        let child = world
            .command(&["vm", "console", "box"])
            .stdin(stream())
            .stdout(stream())
            .stderr(stream())
            .spawn()
            .unwrap();
        let mut sitting = Sitting {
            ours,
            theirs,
            before,
            child,
            shown: String::new(),
        };
        sitting.shows("the console of box; Enter opens a shell, Ctrl-] leaves\r\n");
        sitting.shows("simulated console\r\n");
        sitting
    }

    fn types(&mut self, keys: &str) {
        self.ours.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the screen ends with this; what stood there before is forgotten.
    fn shows(&mut self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.shown.contains(text) {
            assert!(
                Instant::now() < deadline,
                "{text:?} never came: {:?}",
                self.shown
            );
            self.look();
        }
        let end = self.shown.find(text).unwrap() + text.len();
        self.shown.drain(..end);
    }

    /// Takes what is on the screen now, waiting a moment for something.
    fn look(&mut self) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut readable = [PollFd::new(&self.ours, PollFlags::IN)];
        let moment = Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        };
        if poll(&mut readable, Some(&moment)).unwrap() > 0 {
            let mut bytes = [0; 4096];
            let count = self.ours.read(&mut bytes).unwrap();
            self.shown += &String::from_utf8_lossy(&bytes[..count]);
        }
    }

    fn settings(&self) -> Termios {
        tcgetattr(&self.theirs).unwrap()
    }

    /// Waits for the command's end, and returns its status and what it said last.
    fn ended(&mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            thread::sleep(Duration::from_millis(5));
        };
        self.look();
        (status.code(), std::mem::take(&mut self.shown))
    }

    fn assert_terminal_is_as_before(&self) {
        let (before, after) = (&self.before, self.settings());
        assert_eq!(before.input_modes, after.input_modes);
        assert_eq!(before.output_modes, after.output_modes);
        assert_eq!(before.local_modes, after.local_modes);
        assert_eq!(before.control_modes, after.control_modes);
        for key in [
            rustix::termios::SpecialCodeIndex::VMIN,
            rustix::termios::SpecialCodeIndex::VTIME,
            rustix::termios::SpecialCodeIndex::VINTR,
        ] {
            assert_eq!(before.special_codes[key], after.special_codes[key]);
        }
    }
}

impl Drop for Sitting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn every_key_but_one_is_the_guests_and_that_one_leaves() {
    let world = Simulated::with_box();
    let mut sitting = Sitting::begin(&world);
    let raw = sitting.settings();
    let cooked = LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG | LocalModes::IEXTEN;
    assert!(!raw.local_modes.intersects(cooked), "{:?}", raw.local_modes);
    assert!(
        !raw.input_modes
            .intersects(InputModes::ICRNL | InputModes::IXON)
    );
    assert!(!raw.output_modes.contains(OutputModes::OPOST));
    // Ctrl-C, Ctrl-Z, Ctrl-D, Ctrl-S and Enter, as the guest gets them; its echo shows each once.
    sitting.types("who\x03\x1a\x04\x13\r");
    sitting.shows("who\x03\x1a\x04\x13\r");
    sitting.types("not sent after it\x1dnever sent");
    let (status, said) = sitting.ended();
    assert_eq!(status, Some(0), "{said}");
    assert!(
        said.contains("left the console; box runs on\r\n"),
        "{said:?}"
    );
    assert!(!said.contains("never sent"), "{said:?}");
    sitting.assert_terminal_is_as_before();
    let run = world.banger(&["vm", "list", "--json"]);
    assert!(String::from_utf8_lossy(&run.stdout).contains("\"running\""));
}

#[test]
fn a_daemon_that_is_killed_is_told_of_on_a_terminal_that_is_as_before() {
    let world = Simulated::with_box();
    let mut sitting = Sitting::begin(&world);
    let status: Status =
        serde_json::from_slice(&world.banger(&["daemon", "status", "--json"]).stdout).unwrap();
    let daemon = Pid::from_raw(i32::try_from(status.pid).unwrap()).unwrap();
    kill_process(daemon, Signal::KILL).unwrap();
    let (status, said) = sitting.ended();
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("error: lost the console\r\n"), "{said:?}");
    // Each line begins at the left: the terminal was itself again when it was written.
    assert!(said.ends_with("\r\n"), "{said:?}");
    sitting.assert_terminal_is_as_before();
}

#[test]
fn a_signal_gives_the_terminal_back_too() {
    let world = Simulated::with_box();
    let mut sitting = Sitting::begin(&world);
    kill_process(Pid::from_child(&sitting.child), Signal::TERM).unwrap();
    assert_eq!(sitting.ended().0, Some(143));
    sitting.assert_terminal_is_as_before();
}

#[test]
fn a_vm_that_ends_gives_the_terminal_back_too() {
    let world = Simulated::with_box();
    let mut sitting = Sitting::begin(&world);
    let run = world.banger(&["vm", "kill", "box"]);
    assert_eq!(run.status, Some(0), "{run}");
    let (status, said) = sitting.ended();
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("box has ended\r\n"), "{said:?}");
    sitting.assert_terminal_is_as_before();
}
