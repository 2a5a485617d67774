//! Programs that run for us end when they must, with all that they started, and parsers reach nothing.

// clippy.toml allows it in `#[test]` functions only, not in what they share.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use banger_core::{Host, HostError, LinuxHost, LinuxHostConfig, Program, ProgramLimits};
use tokio::io::AsyncReadExt;

fn linux() -> LinuxHost {
    LinuxHost::new(LinuxHostConfig::default())
}

fn sh(script: &str) -> Program {
    Program::new("sh").args(["-c", script])
}

/// Starts a family that is hard to get hold of, whose members bear `$0`: in a group and a session of their
/// own, orphaned, deaf to TERM. Says when all are there.
const FAMILY: &str = r#"
deaf='trap "" TERM HUP INT; touch "$1.$2"; while :; do sleep 0.05; done'
sh -c "$deaf" "$0" "$0" group &
setsid sh -c "$deaf" "$0" "$0" session &
(setsid sh -c "($deaf) & exit" "$0" "$0" orphan &)
for name in group session orphan; do
    while [ ! -e "$0.$name" ]; do sleep 0.01; done
done
echo ready
"#;

async fn nobody_bears(host: &LinuxHost, token: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let left = host.find_processes(token).await.unwrap();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "something runs on: {left:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn token(dir: &Path) -> String {
    dir.join("family").to_string_lossy().into_owned()
}

#[tokio::test]
async fn what_a_program_leaves_behind_ends_with_it() {
    let (host, dir) = (linux(), tempfile::tempdir().unwrap());
    let token = token(dir.path());
    let output = host.run(&sh(FAMILY).arg(&token)).await.unwrap();
    assert_eq!(output.stdout, b"ready\n");
    nobody_bears(&host, &token).await;
}

#[tokio::test]
async fn a_program_whose_time_is_over_ends_with_all_that_it_started() {
    let (host, dir) = (linux(), tempfile::tempdir().unwrap());
    let token = token(dir.path());
    let program = sh(&format!("{FAMILY} sleep 1000"))
        .arg(&token)
        .timeout(Duration::from_secs(2));
    let error = host.run(&program).await.unwrap_err();
    assert!(matches!(error, HostError::ProgramTimeout { .. }), "{error}");
    nobody_bears(&host, &token).await;
}

#[tokio::test]
async fn a_program_that_nobody_waits_for_any_more_ends_with_all_that_it_started() {
    let (host, dir) = (linux(), tempfile::tempdir().unwrap());
    let token = token(dir.path());
    let program = sh(&format!("{FAMILY} exec sleep 1000")).arg(&token);
    let mut piped = host.pipe(&program).await.unwrap();
    let mut ready = [0; 6];
    piped.stdout.read_exact(&mut ready).await.unwrap();
    assert!(host.find_processes(&token).await.unwrap().len() >= 3);
    drop(piped);
    nobody_bears(&host, &token).await;
}

/// The process that is killed below: it starts a family and waits.
#[tokio::test]
async fn the_victim_of_a_kill() {
    let Ok(token) = std::env::var("BANGER_TEST_VICTIM") else {
        return;
    };
    let program = sh(&format!("{FAMILY} exec sleep 1000")).arg(token);
    let _ = linux().run(&program).await;
}

#[tokio::test]
async fn nothing_of_ours_outlives_a_kill_of_the_process_that_started_it() {
    let (host, dir) = (linux(), tempfile::tempdir().unwrap());
    let token = token(dir.path());
    let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_victim_of_a_kill"])
        .env("BANGER_TEST_VICTIM", &token)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !Path::new(&format!("{token}.orphan")).exists() {
        assert!(Instant::now() < deadline, "the family is not there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    victim.kill().unwrap();
    victim.wait().unwrap();
    nobody_bears(&host, &token).await;
}

#[tokio::test]
async fn a_limit_that_is_reached_ends_a_program_and_is_named() {
    let (host, dir) = (linux(), tempfile::tempdir().unwrap());
    let small = ProgramLimits {
        time: Duration::from_secs(60),
        cpu: Duration::from_secs(1),
        output_bytes: 1 << 20,
        memory_bytes: 64 << 20,
        file_bytes: 1 << 20,
        ..ProgramLimits::SMALL
    };
    let file = dir.path().join("file");
    for (script, named) in [
        ("exec cat /dev/zero", "1 MiB of output"),
        ("while :; do :; done", "1 s of processor time"),
        ("exec head -c 9999999 /dev/zero >\"$0\"", "files of 1 MiB"),
    ] {
        let begun = Instant::now();
        let program = sh(script).arg(&file).limits(small);
        let error = host.run(&program).await.unwrap_err();
        assert!(error.to_string().contains(named), "{script}: {error}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{script}");
    }
    assert!(std::fs::metadata(&file).unwrap().len() <= 1 << 20);
    // Memory is refused rather than taken: what a program makes of that is its own.
    let hungry = Program::new("perl").args(["-e", "my $x = 'x' x 300_000_000; print 'had it'"]);
    let output = host.run(&hungry.limits(small)).await.unwrap();
    assert!(!output.success() && output.stdout.is_empty(), "{output:?}");
}

#[tokio::test]
async fn a_program_inherits_neither_raised_file_limits_nor_core_dumps() {
    let config = LinuxHostConfig {
        open_files: Some((321, 4096)),
        ..LinuxHostConfig::default()
    };
    let host = LinuxHost::new(config);
    let script = "ulimit -Sn; ulimit -Hn; ulimit -c";
    let output = host.run(&sh(script)).await.unwrap();
    assert_eq!(output.stdout, b"321\n4096\n0\n");
}

/// Everything that a parser might reach for; each that it gets is printed.
const REACH: &str = r#"
for file in /etc/shadow /etc/passwd "$0" "$0/secret" /proc/1/environ /root/.bashrc; do
    if cat "$file" >/dev/null 2>&1; then echo "read $file"; fi
done
for place in /tmp /var/tmp /dev/shm "$0" /run /usr; do
    if echo x >"$place/banger-parser-was-here" 2>/dev/null; then echo "wrote $place"; fi
done
if kill -0 "$1" 2>/dev/null; then echo "sees process $1"; fi
if mount -t tmpfs none /mnt 2>/dev/null; then echo "mounts"; fi
if unshare --user true 2>/dev/null; then echo "makes namespaces"; fi
if exec 7<>"/dev/tcp/127.0.0.1/$2"; then echo "connects"; fi 2>/dev/null
"#;

#[tokio::test]
async fn a_parser_reaches_nothing_but_what_it_is_handed() {
    use std::os::unix::fs::PermissionsExt;
    let (host, dir) = (linux(), tempfile::tempdir().unwrap());
    let open = |path: &Path| Arc::new(std::fs::File::open(path).unwrap());
    std::fs::write(dir.path().join("secret"), "secret").unwrap();
    let input = dir.path().join("input");
    std::fs::write(&input, "handed in").unwrap();
    std::fs::set_permissions(&input, std::fs::Permissions::from_mode(0o444)).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let reach = |parser: bool| {
        let script = Program::new("bash").args(["-c", REACH]).arg(dir.path());
        let script = script.arg(std::process::id().to_string()).arg(&port);
        match parser {
            true => script.as_parser(),
            false => script,
        }
    };
    // Or the script would prove nothing.
    let free = host.run(&reach(false)).await.unwrap();
    let free = String::from_utf8_lossy(&free.stdout).into_owned();
    for reached in ["read /etc/passwd", "sees process", "connects"] {
        assert!(free.contains(reached), "{reached}: {free}");
    }
    listener.set_nonblocking(true).unwrap();
    while listener.accept().is_ok() {}
    let shut_in = host.run(&reach(true)).await.unwrap();
    let said = String::from_utf8_lossy(&shut_in.stderr).into_owned();
    assert_eq!(String::from_utf8_lossy(&shut_in.stdout), "", "{said}");
    assert!(listener.accept().is_err());

    let read = host
        .run(&Program::new("cat").input_file(open(&input)))
        .await
        .unwrap();
    assert_eq!(read.stdout, b"handed in", "{}", read.last_lines(2));
    for place in ["/tmp", "/var/tmp", "/dev/shm", "/run", "/usr"] {
        let _ = std::fs::remove_file(Path::new(place).join("banger-parser-was-here"));
    }
}

#[tokio::test]
async fn a_parser_is_nobody_in_namespaces_of_its_own_and_without_capabilities() {
    let (host, dir) = (linux(), tempfile::tempdir().unwrap());
    let token = token(dir.path());
    // From outside: in there not even its own state can be read.
    let program = sh("echo ready; read -r line").arg(&token).as_parser();
    let mut piped = host.pipe(&program).await.unwrap();
    let mut ready = [0; 6];
    piped.stdout.read_exact(&mut ready).await.unwrap();
    // Nobody's, and so none that the host finds by itself.
    let bears = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.windows(token.len())
            .any(|part| part == token.as_bytes())
    };
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let pid: u32 = pids.find(bears).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let words: Vec<&str> = status.split_whitespace().collect();
    let value = |key: &str| words[words.iter().position(|word| *word == key).unwrap() + 1];
    let ours = our_uid().to_string();
    assert_eq!(value("Uid:"), if ours == "0" { "65534" } else { &ours });
    assert_eq!(value("NoNewPrivs:"), "1");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(value(set), "0000000000000000", "{set}");
    }
    if !has_namespaces() {
        return;
    }
    for kind in ["net", "pid", "mnt", "user", "ipc", "uts"] {
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_ne!(of(&pid.to_string()), of("self"), "{kind}");
    }
}

fn has_namespaces() -> bool {
    let most = std::fs::read_to_string("/proc/sys/user/max_user_namespaces");
    let has = most.is_ok_and(|most| most.trim() != "0");
    if !has {
        println!("SKIP: no user namespaces are to be had here");
    }
    has
}

fn our_uid() -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid()
}

#[tokio::test]
async fn a_parser_that_starts_processes_without_end_is_held_to_its_limit() {
    let host = linux();
    if !has_namespaces() {
        return;
    }
    let limits = ProgramLimits {
        processes: 8,
        ..ProgramLimits::SMALL
    };
    let script = "n=0; while [ $n -lt 50 ]; do sleep 5 & n=$((n + 1)); done; echo $n";
    let output = host
        .run(&sh(script).as_parser().limits(limits))
        .await
        .unwrap();
    assert_ne!(output.stdout, b"50\n", "{}", output.last_lines(3));
}

#[tokio::test]
async fn a_parser_that_reaches_a_limit_is_ended_like_any_other() {
    let host = linux();
    let small = ProgramLimits {
        time: Duration::from_secs(2),
        cpu: Duration::from_secs(1),
        output_bytes: 1 << 20,
        ..ProgramLimits::SMALL
    };
    for (script, named) in [
        (
            "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done",
            "1 MiB of output",
        ),
        ("sleep 1000", "within 2 s"),
    ] {
        let program = sh(script).as_parser().limits(small);
        let done = tokio::time::timeout(Duration::from_secs(20), host.run(&program)).await;
        let error = done.expect("it runs on").unwrap_err();
        assert!(error.to_string().contains(named), "{script}: {error}");
    }
}
