//! What a real monitor is started within, read from `/proc`, and how long its logs become with nobody there to
//! shorten them.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use banger_core::LOG_BYTES;
use banger_tests::{Home, alone, eventually, kill, text, why_not_real};

fn real(test: impl FnOnce(&Home)) {
    if let Some(reason) = why_not_real() {
        println!("SKIP: {reason}");
        return;
    }
    let _turn = alone();
    let home = Home::new();
    home.ok(&["ps"]);
    test(&home);
    home.assert_proven("at the end");
}

fn read(path: impl AsRef<Path>) -> String {
    text(&std::fs::read(path).unwrap_or_default())
}

fn bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |facts| facts.len())
}

/// A field of a file in which each line has a name and what is said of it.
fn field(file: &str, name: &str) -> String {
    let all = read(file);
    let line = all.lines().find_map(|line| line.strip_prefix(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in {file}: {all}"));
    line.trim_start_matches(':').trim().to_owned()
}

/// Says whether this QEMU has a sandbox; prints why not. The doctor must say the same.
fn has_sandbox(home: &Home) -> bool {
    let asked = Command::new("qemu-system-x86_64")
        .args(["-sandbox", "on", "-cpu", "help"])
        .output()
        .expect("it is installed");
    let doctor = home.banger(&["doctor", "--json"]);
    let doctor: serde_json::Value = serde_json::from_slice(&doctor.stdout).expect("it is JSON");
    let candidates = doctor["candidates"].as_array().expect("an array");
    let qemu = candidates.iter().find(|one| one["name"] == "qemu");
    let reason = qemu.expect("it is told")["reason"]
        .as_str()
        .expect("a text");
    let has = asked.status.success();
    assert_eq!(has, !reason.contains("without its sandbox"), "{reason}");
    if !has {
        println!("SKIP: no sandbox: {}", text(&asked.stderr));
    }
    has
}

#[test]
fn a_real_monitor_has_no_privilege_few_system_calls_no_core_dump_and_goes_before_its_daemon() {
    real(|home| {
        home.boot("box");
        let (daemon, monitor) = (home.daemon(), home.monitor("box"));
        let of = |pid: u32, file: &str| format!("/proc/{pid}/{file}");
        let status = of(monitor, "status");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(field(&status, set), "0000000000000000", "{set}");
        }
        if rustix::process::geteuid().is_root() {
            assert_eq!(field(&status, "CapBnd"), "0000000000000000");
        }
        assert_eq!(field(&status, "NoNewPrivs"), "1");
        if has_sandbox(home) {
            assert_eq!(field(&status, "Seccomp"), "2", "a filter");
        }
        let limits = of(monitor, "limits");
        let core = field(&limits, "Max core file size");
        assert_eq!(
            core.split_whitespace().collect::<Vec<_>>(),
            ["0", "0", "bytes"]
        );
        // The command had what this test has, and the daemon has raised it.
        let soft = |limits: &str| {
            let files = field(limits, "Max open files");
            files
                .split_whitespace()
                .next()
                .expect("a number")
                .to_owned()
        };
        assert_eq!(soft(&limits), soft("/proc/self/limits"));
        let hard = field("/proc/self/limits", "Max open files");
        let hard = hard.split_whitespace().nth(1).expect("a number").to_owned();
        assert_eq!(soft(&of(daemon, "limits")), hard);
        let score = |pid| {
            let score = read(of(pid, "oom_score_adj"));
            score.trim().parse::<i32>().expect("a number")
        };
        assert_eq!(score(monitor), (score(daemon) + 300).min(1000));
        home.ok(&["vm", "kill", "box"]);
        home.ok(&["vm", "delete", "box"]);
    });
}

#[test]
fn with_no_daemon_a_guest_and_a_monitor_that_write_for_ever_fill_no_disk_and_their_last_words_are_kept()
 {
    real(|home| {
        home.create("box");
        home.ok(&["vm", "start", "box"]);
        let talk = "(while :; do echo guest-talks; done) >/dev/ttyS0 2>/dev/null </dev/null &";
        home.ok(&["vm", "exec", "box", "--", "sh", "-c", talk]);
        let shown = home.vm("box").expect("it is there");
        let console = PathBuf::from(shown["console_log"].as_str().expect("a path"));
        let complaints = console.with_file_name("monitor.log");
        let monitor = home.monitor("box");
        kill(home.daemon());

        // What the monitor writes to are these; a device that complains does it the same way.
        for (number, log) in [(2, &complaints), (3, &console)] {
            let path = format!("/proc/{monitor}/fd/{number}");
            let mut pipe = OpenOptions::new()
                .write(true)
                .open(path)
                .expect("it is a pipe");
            let (piece, mut most, mut written) = (vec![b'x'; 64 << 10], 0, 0);
            while written < 4 * LOG_BYTES {
                pipe.write_all(&piece).expect("its keeper reads");
                written += piece.len() as u64;
                most = most.max(bytes(log));
            }
            pipe.write_all(b"\nlast words\n").expect("its keeper reads");
            drop(pipe);
            assert!(most > LOG_BYTES / 2 && most <= LOG_BYTES, "{most}");
        }
        eventually("they are kept", || {
            read(&complaints).ends_with("last words\n")
        });
        // And the guest talks on.
        eventually("it is kept", || {
            let log = read(&console);
            log.rfind("guest-talks") > log.rfind("last words")
        });
        assert!(bytes(&console) <= LOG_BYTES && bytes(&complaints) <= LOG_BYTES);
        let told = home.ok(&["vm", "logs", "box", "-n", "3"]);
        assert!(told.contains("guest-talks"), "{told}");
        assert_eq!(home.monitor("box"), monitor, "it is the same run");

        // With nobody there when it ends, too.
        kill(home.daemon());
        kill(monitor);
        home.becomes("box", "stopped");
        assert!(home.ok(&["vm", "logs", "box"]).contains("guest-talks"));
        home.ok(&["vm", "delete", "box"]);
    });
}
