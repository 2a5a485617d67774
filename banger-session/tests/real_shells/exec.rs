//! `exec`: bytes, statuses and signals of one command.

use std::io::{Read, Write};
use std::process::{Child, ChildStderr, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use banger_session::exec::{
    Event, ExecRequest, ExecStage, ExecStdin, MarkerDecoder, Nonce, StreamEnd, exec_script,
    signal_script,
};
use banger_session::{ProcessGroup, Signal};

use crate::shell::{Shell, shellcheck};

const NONCE: Nonce = Nonce(*b"\x01\x23\x45\x67\x89\xab\xcd\xefbanger!?");

/// One stream as read up to its marker.
#[derive(Debug)]
struct Seen {
    data: Vec<u8>,
    group: Option<ProcessGroup>,
    failed: Option<ExecStage>,
    status: Option<i32>,
    end: StreamEnd,
}

fn read_stream(mut from: impl Read) -> Seen {
    let mut decoder = MarkerDecoder::new(&NONCE);
    let mut seen = Seen {
        data: Vec::new(),
        group: None,
        failed: None,
        status: None,
        end: StreamEnd::Lost { held: Vec::new() },
    };
    let mut buffer = vec![0; 32 << 10];
    while !decoder.is_over() {
        let length = from.read(&mut buffer).unwrap();
        if length == 0 {
            break;
        }
        let mut events = Vec::new();
        decoder.push(&buffer[..length], &mut events);
        for event in events {
            match event {
                Event::Data(data) => seen.data.extend(data),
                Event::Started { group } => seen.group = Some(group),
                Event::Failed { stage } => seen.failed = Some(stage),
                Event::Ended { status } => seen.status = Some(status),
            }
        }
    }
    seen.end = decoder.finish();
    seen
}

fn start(shell: &Shell, request: &ExecRequest) -> Child {
    let script = exec_script(request, &NONCE).unwrap();
    shell
        .command(&script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs a command to the end of both its streams: (stdout, stderr).
fn run_with_input(shell: &Shell, request: &ExecRequest, input: &[u8]) -> (Seen, Seen) {
    let mut child = start(shell, request);
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A command may end without having read its input.
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let stderr = child.stderr.take().unwrap();
    let stderr = thread::spawn(move || read_stream(stderr));
    let stdout = read_stream(child.stdout.take().unwrap());
    let stderr = stderr.join().unwrap();
    writer.join().unwrap();
    child.wait().unwrap();
    (stdout, stderr)
}

fn run(shell: &Shell, request: &ExecRequest) -> (Seen, Seen) {
    run_with_input(shell, request, b"")
}

/// By its path: busybox runs its own applet for a bare `sh`, and that one
/// ignores QUIT.
fn sh(script: &str) -> ExecRequest {
    ExecRequest::new(["/bin/sh", "-c", script])
}

/// Reads stderr until the process group is known.
fn wait_for_start(stderr: &mut ChildStderr, decoder: &mut MarkerDecoder) -> ProcessGroup {
    let mut byte = [0];
    let mut events = Vec::new();
    loop {
        assert_eq!(stderr.read(&mut byte).unwrap(), 1, "ended before it began");
        decoder.push(&byte, &mut events);
        if let Some(Event::Started { group }) = events.pop() {
            return group;
        }
    }
}

#[test]
fn the_status_is_the_commands_own() {
    for shell in Shell::all() {
        for (script, status) in [
            ("exit 0", 0),
            ("exit 1", 1),
            ("exit 42", 42),
            ("exit 126", 126),
            ("exit 127", 127),
            ("exit 255", 255),
            ("kill -9 $$", 137),
            ("kill -TERM $$", 143),
            ("kill -INT $$", 130),
            ("kill -PIPE $$", 141),
            ("kill -SEGV $$", 139),
        ] {
            let (stdout, stderr) = run(&shell, &sh(script));
            assert_eq!(stdout.status, Some(status), "{shell:?} {script}");
            assert_eq!(stderr.status, Some(status), "{shell:?} {script}");
            // Nor does the shell add a "Killed" of its own.
            assert_eq!(stdout.data, b"", "{shell:?} {script}");
            assert_eq!(stderr.data, b"", "{shell:?} {script}");
            assert!(stderr.group.is_some() && stdout.group.is_none());
        }
    }
}

#[test]
fn a_command_that_is_not_there_or_not_a_program_is_127_or_126() {
    for shell in Shell::all() {
        for (name, status) in [
            ("no-such-command", 127),
            ("/no/such/command", 127),
            // A builtin of every shell, and a program of no system.
            ("unset", 127),
            ("-no-such-command", 127),
            ("/", 126),
            ("/etc/passwd", 126),
        ] {
            let (stdout, stderr) = run(&shell, &ExecRequest::new([name]));
            assert_eq!(stdout.status, Some(status), "{shell:?} {name}");
            assert!(!stderr.data.is_empty(), "{shell:?} {name}: no message");
        }
    }
}

#[test]
fn arguments_arrive_byte_for_byte() {
    let arguments: [&[u8]; 12] = [
        b"",
        b"it's",
        b"\"double\"",
        b"two\nlines\n",
        b"$x `id` $(id) \\",
        "übergrößenträger 語".as_bytes(),
        b"\xff\xfe\x80",
        b"-n",
        b"--",
        b"*",
        b"a;b&c|d>e<f#g!h~",
        b"\x1ebanger-\x01\x7f\r\t",
    ];
    for shell in Shell::all() {
        let mut argv = vec![b"printf".to_vec(), b"<%s>".to_vec()];
        argv.extend(arguments.iter().map(|argument| argument.to_vec()));
        let (stdout, stderr) = run(&shell, &ExecRequest::new(argv));
        let expected: Vec<u8> = arguments
            .iter()
            .flat_map(|argument| [b"<", *argument, b">"].concat())
            .collect();
        assert_eq!(stdout.data, expected, "{shell:?}");
        assert_eq!(stdout.status, Some(0), "{shell:?}");
        assert_eq!(stderr.data, b"", "{shell:?}");
    }
}

#[test]
fn a_program_whose_name_looks_like_an_option_or_an_assignment_is_run() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    for shell in Shell::all() {
        for name in ["-x", "--help", "-a=b", "a=b", "cd", "with space"] {
            let program = folder.path().join(name);
            std::fs::write(&program, "#!/bin/sh\necho \"ran $1 $UID\"\n").unwrap();
            std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
            let mut request = ExecRequest::new([name, "it"]);
            let path = format!("{}:/usr/bin:/bin", folder.path().display());
            request.env = vec![
                ("PATH".to_owned(), path.into_bytes()),
                ("UID".to_owned(), b"as told".to_vec()),
            ];
            let (stdout, stderr) = run(&shell, &request);
            assert_eq!(
                String::from_utf8_lossy(&stdout.data),
                "ran it as told\n",
                "{shell:?} {name}: {}",
                String::from_utf8_lossy(&stderr.data)
            );
            std::fs::remove_file(program).unwrap();
        }
    }
}

#[test]
fn the_environment_arrives_even_where_the_shell_has_its_own_ideas() {
    let wanted: [(&str, &[u8]); 8] = [
        ("PLAIN", b"value"),
        ("BYTES", b"it's\n\xff$x"),
        ("EMPTY", b""),
        ("UID", b"nobody"),
        ("RANDOM", b"four"),
        ("OPTIND", b"not a number"),
        ("LC_ALL", b"no_SUCH.locale"),
        ("IFS", b"x"),
    ];
    for shell in Shell::all() {
        let mut request = ExecRequest::new(["env", "-0"]);
        for (name, value) in wanted {
            request.env.push((name.to_owned(), value.to_vec()));
        }
        let (stdout, stderr) = run(&shell, &request);
        assert_eq!(stderr.data, b"", "{shell:?}");
        for (name, value) in wanted {
            let entry = [name.as_bytes(), b"=", value].concat();
            assert!(
                stdout
                    .data
                    .split(|&byte| byte == 0)
                    .any(|seen| seen == entry),
                "{shell:?}: {name} is missing"
            );
        }
    }
}

#[test]
fn it_runs_in_the_folder_asked_for_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let odd = folder.path().join("it's\n-odd");
    std::fs::create_dir(&odd).unwrap();
    for shell in Shell::all() {
        let mut request = ExecRequest::new(["pwd"]);
        let path = odd.to_str().unwrap();
        request.cwd = Some(path.as_bytes().to_vec());
        let (stdout, _) = run(&shell, &request);
        assert_eq!(stdout.data, format!("{path}\n").into_bytes(), "{shell:?}");

        // A login shell begins in the home folder, and so does this.
        request.cwd = None;
        let home = run(&shell, &request).0.data;
        for at_home in ["~", "~/", "~/."] {
            request.cwd = Some(at_home.as_bytes().to_vec());
            assert_eq!(run(&shell, &request).0.data, home, "{shell:?} {at_home}");
        }

        for missing in ["/no/such/folder", "/etc/passwd", "-", "--", "", "~x", "./~"] {
            request.cwd = Some(missing.as_bytes().to_vec());
            if missing.is_empty() {
                continue;
            }
            let (stdout, stderr) = run(&shell, &request);
            for stream in [&stdout, &stderr] {
                assert_eq!(stream.failed, Some(ExecStage::Cwd), "{shell:?} {missing:?}");
                assert_eq!(stream.status, None, "{shell:?} {missing:?}");
                assert_eq!(stream.data, b"", "{shell:?} {missing:?}");
            }
            assert_eq!(stderr.group, None);
        }
    }
}

#[test]
fn ten_megabytes_of_binary_go_in_and_out_unharmed() {
    // Plenty of marker edges and beginnings of markers in it.
    let beginning = format!("\x1ebanger-{NONCE} ").into_bytes();
    let mut state = 1_u64;
    let mut data = Vec::with_capacity(10 << 20);
    while data.len() < 10 << 20 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
        data.push((state >> 56) as u8);
        if state >> 40 & 0xfff == 0 {
            data.extend_from_slice(&beginning[..(state >> 33) as usize % beginning.len()]);
        }
    }
    for shell in Shell::all() {
        let (stdout, stderr) = run_with_input(&shell, &ExecRequest::new(["cat"]), &data);
        assert_eq!(stdout.status, Some(0), "{shell:?}");
        assert!(stdout.data == data, "{shell:?}: not what went in");
        assert_eq!(stderr.data, b"", "{shell:?}");
    }
}

#[test]
fn no_newline_is_added_or_eaten() {
    for shell in Shell::all() {
        for text in ["", "x", "x\n", "\n\n"] {
            let (stdout, stderr) = run(
                &shell,
                &ExecRequest::new(["sh", "-c", r#"printf %s "$0"; printf %s "$0" >&2"#, text]),
            );
            assert_eq!(stdout.data, text.as_bytes(), "{shell:?}");
            assert_eq!(stderr.data, text.as_bytes(), "{shell:?}");
        }
    }
}

#[test]
fn closed_stdin_is_at_its_end_and_open_stdin_is_the_channel() {
    for shell in Shell::all() {
        let mut request = ExecRequest::new(["cat"]);
        let (stdout, _) = run_with_input(&shell, &request, b"input");
        assert_eq!(stdout.data, b"input", "{shell:?}");
        request.stdin = ExecStdin::Closed;
        let (stdout, _) = run_with_input(&shell, &request, b"input");
        assert_eq!(stdout.data, b"", "{shell:?}");
        assert_eq!(stdout.status, Some(0), "{shell:?}");
    }
}

#[test]
fn no_descriptor_of_the_wrapper_reaches_the_command() {
    for shell in Shell::all() {
        let list = "ls /proc/$$/fd; :";
        let (stdout, _) = run(&shell, &sh(list));
        // Whatever runs the tests may leave some open too.
        let bare = shell
            .command(list.as_bytes())
            .stdin(Stdio::piped())
            .output();
        assert_eq!(
            String::from_utf8_lossy(&stdout.data),
            String::from_utf8_lossy(&bare.unwrap().stdout),
            "{shell:?}"
        );
    }
}

#[test]
fn a_child_left_in_the_background_delays_nothing() {
    for shell in Shell::all() {
        let began = Instant::now();
        let mut child = start(&shell, &sh("sleep 60 & echo hi"));
        let stderr = child.stderr.take().unwrap();
        let stderr = thread::spawn(move || read_stream(stderr));
        let stdout = read_stream(child.stdout.take().unwrap());
        let group = stderr.join().unwrap().group.unwrap();
        child.wait().unwrap();
        assert!(began.elapsed() < Duration::from_secs(30), "{shell:?}");
        assert_eq!(stdout.data, b"hi\n", "{shell:?}");
        assert_eq!(stdout.status, Some(0), "{shell:?}");
        let kill = shell.command(&signal_script(group, Signal::KILL)).status();
        assert!(
            kill.unwrap().success(),
            "{shell:?}: the child was not found"
        );
    }
}

#[test]
fn a_signal_reaches_the_whole_group_and_its_status_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ready");
    std::fs::write(&file, "ready\n").unwrap();
    // Three processes that only a signal to the group ends. Once the line has
    // come through, each has begun to run: a shell loses signals while it
    // starts its children.
    let mut request = sh(r#"tail -f "$0" | cat; echo not reached"#);
    request.argv.push(file.to_str().unwrap().into());
    for shell in Shell::all() {
        for signal in [
            "TERM", "INT", "HUP", "QUIT", "USR1", "ALRM", "PIPE", "ABRT", "SYS",
        ] {
            let signal: Signal = signal.parse().unwrap();
            let mut child = start(&shell, &request);
            let mut stderr = child.stderr.take().unwrap();
            let mut decoder = MarkerDecoder::new(&NONCE);
            let group = wait_for_start(&mut stderr, &mut decoder);
            assert_eq!(group.get(), child.id(), "{shell:?}");
            let mut stdout = child.stdout.take().unwrap();
            let mut ready = [0; 6];
            stdout.read_exact(&mut ready).unwrap();
            let kill = shell.command(&signal_script(group, signal)).status();
            assert!(kill.unwrap().success(), "{shell:?} {signal}");
            let stdout = read_stream(stdout);
            assert_eq!(
                stdout.status,
                Some(signal.exit_status()),
                "{shell:?} {signal}"
            );
            assert_eq!(stdout.data, b"", "{shell:?} {signal}");
            child.wait().unwrap();
        }
    }
}

#[test]
fn a_command_that_handles_a_signal_reports_as_it_likes() {
    // The shell itself gets the INT; its short naps may lose theirs.
    for shell in Shell::all() {
        let request = sh("trap 'exit 7' INT; echo ready; while :; do sleep 0.05; done");
        let mut child = start(&shell, &request);
        let mut stderr = child.stderr.take().unwrap();
        let mut decoder = MarkerDecoder::new(&NONCE);
        let group = wait_for_start(&mut stderr, &mut decoder);
        let mut stdout = child.stdout.take().unwrap();
        let mut ready = [0; 6];
        stdout.read_exact(&mut ready).unwrap();
        shell
            .command(&signal_script(group, Signal::INT))
            .status()
            .unwrap();
        assert_eq!(read_stream(stdout).status, Some(7), "{shell:?}");
        child.wait().unwrap();
    }
}

#[test]
fn a_kill_ends_both_streams_without_a_marker() {
    for shell in Shell::all() {
        let mut child = start(&shell, &ExecRequest::new(["sleep", "60"]));
        let mut stderr = child.stderr.take().unwrap();
        let mut decoder = MarkerDecoder::new(&NONCE);
        let group = wait_for_start(&mut stderr, &mut decoder);
        shell
            .command(&signal_script(group, Signal::KILL))
            .status()
            .unwrap();
        let stdout = read_stream(child.stdout.take().unwrap());
        assert_eq!(
            stdout.end,
            StreamEnd::Lost { held: Vec::new() },
            "{shell:?}"
        );
        assert!(Signal::KILL.ends_wrapper());
        child.wait().unwrap();
    }
}

#[test]
fn a_signal_to_nobody_is_told() {
    for shell in Shell::all() {
        let nobody = ProcessGroup::new(i32::MAX as u32).unwrap();
        let status = shell.command(&signal_script(nobody, Signal::TERM)).status();
        assert!(!status.unwrap().success(), "{shell:?}");
    }
}

#[test]
fn the_longest_script_is_one_the_kernel_takes() {
    use banger_session::exec::MAX_SCRIPT_BYTES;

    let bare = exec_script(&ExecRequest::new(["true", ""]), &NONCE).unwrap();
    let mut request = ExecRequest::new(["true", ""]);
    request.argv[1] = vec![b'x'; MAX_SCRIPT_BYTES - bare.len()];
    for shell in Shell::all() {
        assert_eq!(run(&shell, &request).0.status, Some(0), "{shell:?}");
    }
    request.argv[1].push(b'x');
    assert!(exec_script(&request, &NONCE).is_err());
}

#[test]
fn every_script_is_clean_in_every_shell() {
    let mut request = ExecRequest::new(["-x=y", "it's", ""]);
    request.cwd = Some(b"-odd 'folder".to_vec());
    request.stdin = ExecStdin::Closed;
    request.env = vec![
        ("A".to_owned(), b"b\n$c".to_vec()),
        ("UID".to_owned(), b"'".to_vec()),
    ];
    for script in [
        exec_script(&request, &NONCE).unwrap(),
        exec_script(&ExecRequest::new(["true"]), &NONCE).unwrap(),
        signal_script(ProcessGroup::new(42).unwrap(), Signal::TERM),
    ] {
        for shell in Shell::all() {
            shell.check_syntax(&script);
        }
        shellcheck(&script);
    }
}
