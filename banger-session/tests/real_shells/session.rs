//! Sessions: start, run, end, and what goes wrong between.

use banger_session::session::{
    DEFAULT_STATE_ROOT, Folder, Liveness, Process, Refusal, SessionDir, SessionStatus, Stage,
    StdinMode, command_preflight_script, cwd_preflight_script, inspect_script, launch_command,
    parse_command_preflight, remove_script, script, signal_script,
};
use banger_session::session::{
    attach_input_command, attach_tail_command, close_stdin_script, log_offset_command,
    log_tail_command, send_command, until_input_ends,
};
use banger_session::{ProcessGroup, Signal, exec, mux::Stream};

use crate::guest::{Guest, wait_until};
use crate::shell::{Shell, shellcheck};

const LONG: &str = "echo up; exec sleep 600";

#[test]
fn a_session_runs_when_its_start_returns() {
    for guest in Guest::all() {
        let seen = guest.start_sh(LONG, StdinMode::Closed);
        assert_eq!(
            seen.status,
            Some(SessionStatus::Running),
            "{:?}",
            guest.shell
        );
        assert_eq!(
            seen.liveness,
            Liveness::Seen {
                monitor: Process::Alive,
                command: Process::Alive,
                group: Process::Alive
            }
        );
        let pid = seen.pid.unwrap().get();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        let pid = pid.to_string();
        assert_eq!(fields[2], pid, "not the leader of its group");
        assert_eq!(fields[3], pid, "not the leader of its session");
        assert_eq!(fields[19], seen.start_time.unwrap().to_string());
        guest.wait_for_output(b"up\n");
    }
}

#[test]
fn the_command_holds_nothing_but_its_own_three_streams() {
    for guest in Guest::all() {
        for stdin in [StdinMode::Closed, StdinMode::Pipe] {
            let guest = Guest::new(guest.shell.clone());
            let seen = guest.start_sh(LONG, stdin);
            guest.wait_for_output(b"up\n");
            let open = |pid: u32| -> Vec<String> {
                let mut open: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
                    .unwrap()
                    .filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok())
                    .map(|to| to.to_string_lossy().into_owned())
                    .filter(|to| to.starts_with(guest.dir.root()) || to.starts_with("pipe:"))
                    .collect();
                open.sort();
                open
            };
            // Pipes that this test itself was started with are not ours.
            let inherited = open(std::process::id());
            let left: Vec<String> = open(seen.pid.unwrap().get())
                .into_iter()
                .filter(|to| !inherited.contains(to))
                .collect();
            let mut expected = vec![guest.dir.stderr_log(), guest.dir.stdout_log()];
            if stdin == StdinMode::Pipe {
                expected.insert(1, guest.dir.stdin_pipe());
            }
            expected.sort();
            assert_eq!(left, expected, "{:?} {stdin:?}", guest.shell);
        }
    }
}

#[test]
fn it_ends_with_the_status_and_the_logs_of_its_command() {
    for guest in Guest::all() {
        for (command, status) in [
            ("exit 0", 0),
            ("exit 42", 42),
            ("exit 127", 127),
            ("exit 255", 255),
            ("kill -9 $$", 137),
            ("kill -INT $$", 130),
        ] {
            let guest = Guest::new(guest.shell.clone());
            guest.start_sh(
                &format!("echo out; echo err >&2; {command}"),
                StdinMode::Closed,
            );
            let state = guest.wait_for_end();
            assert_eq!(state.status, SessionStatus::Exited, "{:?}", guest.shell);
            assert_eq!(state.exit_code, Some(status), "{:?} {command}", guest.shell);
            assert_eq!(guest.stdout(), b"out\n");
            assert_eq!(std::fs::read(guest.dir.stderr_log()).unwrap(), b"err\n");
        }
    }
}

#[test]
fn arguments_environment_and_folder_arrive_byte_for_byte() {
    for guest in Guest::all() {
        let mut launch = guest.launch(
            &[
                "printf",
                "<%s>",
                "",
                "it's",
                "two\nlines",
                "$x`id`",
                "-n",
                "語",
            ],
            StdinMode::Closed,
        );
        launch.argv.push(b"\xff\xfe".to_vec());
        guest.start(&launch);
        guest.wait_for_end();
        let expected = "<><it's><two\nlines><$x`id`><-n><語><".as_bytes();
        assert_eq!(guest.stdout(), [expected, b"\xff\xfe>"].concat());

        let guest = Guest::new(guest.shell.clone());
        let mut launch = guest.launch(
            &["/bin/sh", "-c", "pwd; env | grep -e ^BANGER_ -e ^UID="],
            StdinMode::Closed,
        );
        launch.cwd = b"/usr/bin".to_vec();
        launch.env = vec![
            ("BANGER_A".to_owned(), b"it's $b".to_vec()),
            ("UID".to_owned(), b"7".to_vec()),
        ];
        guest.start(&launch);
        guest.wait_for_end();
        let mut lines: Vec<String> = String::from_utf8(guest.stdout())
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect();
        lines.sort();
        assert_eq!(lines, ["/usr/bin", "BANGER_A=it's $b", "UID=7"]);
    }
}

#[test]
fn an_environment_that_would_break_the_monitor_does_not() {
    for guest in Guest::all() {
        let mut launch = guest.launch(&["/bin/sh", "-c", "exit 9"], StdinMode::Pipe);
        launch.env = vec![
            ("PATH".to_owned(), b"/nowhere".to_vec()),
            ("LD_LIBRARY_PATH".to_owned(), b"/nowhere".to_vec()),
        ];
        guest.start(&launch);
        assert_eq!(guest.wait_for_end().exit_code, Some(9));
    }
}

#[test]
fn a_missing_folder_or_command_fails_the_start_and_is_named() {
    for guest in Guest::all() {
        let mut launch = guest.launch(&["true"], StdinMode::Pipe);
        launch.cwd = b"/no/such\nfolder".to_vec();
        guest.start(&launch);
        let failure = guest.wait_for_end().failure.unwrap();
        assert_eq!(failure.stage, Stage::PreflightCwd);
        assert!(
            failure.message.contains(r#""/no/such\nfolder""#),
            "{failure}"
        );

        for name in ["no-such-command", "/no/such/command", "/tmp", "-x"] {
            let guest = Guest::new(guest.shell.clone());
            guest.start(&guest.launch(&[name], StdinMode::Closed));
            let failure = guest.wait_for_end().failure.unwrap();
            assert_eq!(failure.stage, Stage::PreflightCommand);
            assert!(failure.message.contains(name), "{failure}");
        }
    }
}

#[test]
fn a_second_session_of_the_same_id_is_refused_and_harms_none() {
    for guest in Guest::all() {
        guest.start_sh(LONG, StdinMode::Closed);
        let again = guest.try_start(&guest.launch(&["true"], StdinMode::Closed));
        let refusal = Refusal::from_status(again.status.code().unwrap());
        assert_eq!(refusal, Some(Refusal::Exists));
        assert_eq!(guest.refresh().status, SessionStatus::Running);
    }
}

#[test]
fn a_launch_that_is_cut_off_leaves_nothing() {
    for guest in Guest::all() {
        let run_sh = script(&guest.launch(&["true"], StdinMode::Closed)).unwrap();
        let command = launch_command(&guest.dir, run_sh.len());
        let cut = &run_sh[..run_sh.len() - 1];
        assert_eq!(guest.refused(&command, cut), Some(Refusal::Truncated));
        assert_eq!(guest.inspect().folder, Folder::Missing);
    }
}

#[test]
fn a_disk_that_takes_nothing_is_told() {
    for shell in Shell::all() {
        // Below a file no folder can be made, whoever asks.
        let dir = SessionDir::new("/proc/version/sessions", "id").unwrap();
        let status = shell.command(&launch_command(&dir, 0)).status().unwrap();
        assert_eq!(status.code(), Some(Refusal::CannotWrite.status()));
    }
}

#[test]
fn a_signal_reaches_the_group_and_spares_the_monitor() {
    for guest in Guest::all() {
        for signal in ["TERM", "INT", "HUP", "QUIT", "KILL", "USR1", "SEGV"] {
            let signal: Signal = signal.parse().unwrap();
            let guest = Guest::new(guest.shell.clone());
            // Once the line is there all three processes run; only a signal to
            // the group ends them.
            let file = guest.dir.script();
            let command = format!(r#"tail -n 1 -f "{file}" | cat; echo not reached"#);
            guest.start_sh(&command, StdinMode::Closed);
            guest.wait_for_output(b"done\n");
            guest.ok(&signal_script(&guest.dir, signal));
            let state = guest.wait_for_end();
            assert_eq!(
                state.exit_code,
                Some(signal.exit_status()),
                "{:?} {signal}",
                guest.shell
            );
            assert_eq!(guest.stdout(), b"done\n");
        }
    }
}

#[test]
fn a_signal_to_a_session_that_has_ended_is_refused() {
    for guest in Guest::all() {
        let term = signal_script(&guest.dir, Signal::TERM);
        assert_eq!(guest.refused(&term, b""), Some(Refusal::NoSession));
        guest.start_sh(LONG, StdinMode::Closed);
        guest.ok(&term);
        guest.wait_for_end();
        assert_eq!(guest.refused(&term, b""), Some(Refusal::NotRunning));
    }
}

#[test]
fn children_that_outlive_their_leader_are_seen_and_can_be_ended() {
    for guest in Guest::all() {
        // The child ignores what a first stop would send.
        guest.start_sh(
            "(trap '' TERM; echo up; sleep 600) & exit 3",
            StdinMode::Closed,
        );
        guest.wait_for_output(b"up\n");
        assert_eq!(guest.wait_for_end().exit_code, Some(3));
        let group_is = |wanted: Process| matches!(guest.inspect().liveness, Liveness::Seen { group, .. } if group == wanted);
        assert!(group_is(Process::Alive));
        guest.ok(&signal_script(&guest.dir, Signal::KILL));
        wait_until("the group's end", || group_is(Process::Gone));
    }
}

#[test]
fn a_process_that_was_given_the_number_later_is_left_alone() {
    for guest in Guest::all() {
        guest.start_sh(LONG, StdinMode::Closed);
        let start_time = std::fs::read(guest.dir.start_time()).unwrap();
        std::fs::write(guest.dir.start_time(), "1\n").unwrap();
        let refusal = guest.refused(&signal_script(&guest.dir, Signal::KILL), b"");
        assert_eq!(refusal, Some(Refusal::NotRunning));
        let Liveness::Seen { command, .. } = guest.inspect().liveness else {
            panic!("rebooted?")
        };
        assert_eq!(command, Process::Gone);
        std::fs::write(guest.dir.start_time(), start_time).unwrap();
        assert_eq!(guest.refresh().status, SessionStatus::Running);
    }
}

#[test]
fn a_guest_that_was_rebooted_fails_the_session_and_says_so() {
    for guest in Guest::all() {
        guest.start_sh(LONG, StdinMode::Closed);
        let boot_id = std::fs::read(guest.dir.boot_id()).unwrap();
        let other = "00000000-0000-4000-8000-000000000000\n";
        std::fs::write(guest.dir.boot_id(), other).unwrap();
        let failure = guest.refresh().failure.unwrap();
        assert_eq!(failure.stage, Stage::Guest);
        assert!(failure.message.contains("rebooted"), "{failure}");
        let refusal = guest.refused(&signal_script(&guest.dir, Signal::KILL), b"");
        assert_eq!(refusal, Some(Refusal::NotRunning));
        std::fs::write(guest.dir.boot_id(), boot_id).unwrap();
    }
}

#[test]
fn a_folder_that_is_being_made_is_no_session_yet() {
    for guest in Guest::all() {
        std::fs::create_dir_all(guest.dir.path()).unwrap();
        std::fs::write(guest.dir.script(), "half of").unwrap();
        assert_eq!(guest.inspect().folder, Folder::Missing);
    }
}

#[test]
fn a_killed_monitor_is_told_from_an_end() {
    for guest in Guest::all() {
        guest.start_sh(LONG, StdinMode::Closed);
        let monitor = guest.number(guest.dir.monitor_pid()) as u32;
        let monitor = ProcessGroup::new(monitor).unwrap();
        guest.ok(&exec::signal_script(monitor, Signal::KILL));
        wait_until("the monitor's end", || {
            matches!(
                guest.inspect().liveness,
                Liveness::Seen {
                    monitor: Process::Gone,
                    command: Process::Alive,
                    ..
                }
            )
        });
        assert_eq!(guest.refresh().status, SessionStatus::Running);
        guest.ok(&signal_script(&guest.dir, Signal::KILL));
        wait_until("the command's end", || guest.refresh().status.is_final());
        assert_eq!(guest.refresh().failure.unwrap().stage, Stage::Monitor);
    }
}

#[test]
fn a_session_is_removed_once_it_has_ended() {
    for guest in Guest::all() {
        guest.start_sh(LONG, StdinMode::Closed);
        let remove = remove_script(&guest.dir);
        assert_eq!(guest.refused(&remove, b""), Some(Refusal::StillRunning));
        guest.ok(&signal_script(&guest.dir, Signal::TERM));
        guest.wait_for_end();
        guest.ok(&remove);
        assert_eq!(guest.inspect().folder, Folder::Missing);
        guest.ok(&remove);
    }
}

#[test]
fn nothing_is_left_of_a_session_that_was_removed() {
    let runs = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    };
    for guest in Guest::all() {
        guest.start_sh(LONG, StdinMode::Pipe);
        wait_until("the keepalive", || {
            std::fs::read(guest.dir.stdin_keepalive_pid()).is_ok_and(|pid| !pid.is_empty())
        });
        let keepalive = guest.number(guest.dir.stdin_keepalive_pid());
        assert!(runs(keepalive));
        guest.ok(&signal_script(&guest.dir, Signal::TERM));
        guest.wait_for_end();
        wait_until("the keepalive's end", || !runs(keepalive));

        // Nor if the monitor could not tidy up.
        let guest = Guest::new(guest.shell.clone());
        guest.start_sh(LONG, StdinMode::Pipe);
        let keepalive = guest.number(guest.dir.stdin_keepalive_pid());
        let monitor = guest.number(guest.dir.monitor_pid()) as u32;
        let monitor = ProcessGroup::new(monitor).unwrap();
        let kill = format!("kill -KILL {monitor}");
        guest.ok(kill.as_bytes());
        guest.ok(&signal_script(&guest.dir, Signal::KILL));
        wait_until("the command's end", || guest.refresh().status.is_final());
        assert!(runs(keepalive));
        guest.ok(&remove_script(&guest.dir));
        wait_until("the keepalive's end", || !runs(keepalive));
    }
}

#[test]
fn a_full_disk_is_told_and_nothing_half_written_stays() {
    // No file may grow: what a full disk does, and needs no disk for.
    let full = |script: &[u8]| [b"ulimit -f 0\n", script].concat();
    for guest in Guest::all() {
        let run_sh = script(&guest.launch(&["true"], StdinMode::Closed)).unwrap();
        let launch = full(&launch_command(&guest.dir, run_sh.len()));
        assert_eq!(guest.refused(&launch, &run_sh), Some(Refusal::CannotWrite));
        assert_eq!(guest.inspect().folder, Folder::Missing);

        guest.start_sh("exec cat", StdinMode::Pipe);
        let send = send_command(&guest.dir, 4, std::time::Duration::from_secs(5));
        assert_eq!(
            guest.refused(&full(&send), b"text"),
            Some(Refusal::CannotWrite)
        );
        guest.ok(&close_stdin_script(&guest.dir));
        guest.wait_for_end();
        assert_eq!(guest.stdout(), b"");
    }
}

#[test]
fn preflights_name_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    for guest in Guest::all() {
        guest.ok(&cwd_preflight_script(b"/tmp").unwrap());
        for (cwd, refusal) in [
            ("/no/such", Refusal::CwdMissing),
            (file, Refusal::CwdNotAFolder),
        ] {
            let script = cwd_preflight_script(cwd.as_bytes()).unwrap();
            assert_eq!(guest.refused(&script, b""), Some(refusal), "{cwd}");
        }
        let commands: Vec<Vec<u8>> = [
            "sh",
            "no-such",
            "/bin/sh",
            "/no/such",
            file,
            "it's; true",
            "-x",
        ]
        .map(|name| name.into())
        .to_vec();
        let script = command_preflight_script(b"/tmp", &[], &commands).unwrap();
        let missing = parse_command_preflight(&guest.ok(&script), &commands).unwrap();
        let expected: Vec<Vec<u8>> = [1, 3, 4, 5, 6]
            .map(|at: usize| commands[at].clone())
            .to_vec();
        assert_eq!(missing.0, expected);

        let path = ("PATH".to_owned(), b"/no/such".to_vec());
        let script = command_preflight_script(b"/tmp", &[path], &commands[..1]).unwrap();
        let missing = parse_command_preflight(&guest.ok(&script), &commands[..1]).unwrap();
        assert_eq!(missing.to_string(), r#""sh""#);
    }
}

#[test]
fn every_script_is_clean_in_every_shell() {
    let guest = Guest::new(Shell::all().remove(0));
    let dir = SessionDir::new(DEFAULT_STATE_ROOT, "id").unwrap();
    let mut scripts = Vec::new();
    for dir in [&dir, &guest.dir] {
        for stdin in [StdinMode::Closed, StdinMode::Pipe] {
            let mut launch = guest.launch(&["-x=y", "it's\n", ""], stdin);
            launch.dir = dir.clone();
            launch.env = vec![
                ("A".to_owned(), b"'\n".to_vec()),
                ("UID".to_owned(), Vec::new()),
            ];
            scripts.push(script(&launch).unwrap());
        }
        scripts.extend([
            launch_command(dir, 4711),
            inspect_script(dir),
            signal_script(dir, Signal::TERM),
            close_stdin_script(dir),
            remove_script(dir),
            send_command(dir, 5, std::time::Duration::from_secs(3)),
            attach_input_command(dir),
            attach_tail_command(dir, Stream::Stdout, 0),
            until_input_ends(&attach_tail_command(dir, Stream::Stdout, 0)),
            log_tail_command(dir, Stream::Stderr, Some(200)),
            log_tail_command(dir, Stream::Stdout, None),
            log_offset_command(dir, Stream::Stdout, 200),
        ]);
    }
    scripts.push(cwd_preflight_script(b"it's").unwrap());
    let commands = [b"git".to_vec(), b"/it's".to_vec()];
    scripts.push(command_preflight_script(b"-", &[], &commands).unwrap());
    for script in scripts {
        for shell in Shell::all() {
            shell.check_syntax(&script);
        }
        shellcheck(&script);
    }
}
