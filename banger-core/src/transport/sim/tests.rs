use std::path::{Path, PathBuf};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::*;
use crate::host::{FakeHost, LinuxHost, LinuxHostConfig};

const LIMIT: Duration = Duration::from_secs(20);

/// A transport, a VM, and what its power switch said.
struct Lab {
    transport: SimTransport,
    target: GuestTarget,
    words: mpsc::UnboundedReceiver<(VmId, PowerWord)>,
    folder: tempfile::TempDir,
}

struct Output {
    stdout: Vec<u8>,
    stderr: String,
    end: GuestEnd,
}

impl Output {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap().trim()
    }
}

fn target(folder: &Path) -> GuestTarget {
    let mut id = [0; 16];
    getrandom::fill(&mut id).unwrap();
    GuestTarget {
        id: VmId::from_random(id),
        name: "box".parse().unwrap(),
        endpoint: Some(crate::network::Endpoint::Sim),
        vm_dir: folder.join("a vm's folder"),
        run_dir: folder.join("run"),
        ssh_config: folder.join("run/ssh_config"),
        ssh_control: folder.join("run/ssh"),
    }
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (tell, words) = mpsc::unbounded_channel();
        Lab {
            transport: SimTransport::new(Arc::new(move |vm, word| {
                let _ = tell.send((vm, word));
            })),
            target: target(folder.path()),
            words,
            folder,
        }
    }

    async fn try_connect(&self) -> Result<Box<dyn GuestConnection>, TransportError> {
        let host = FakeHost::new();
        let connected = self.transport.connect(&host, &self.target, LIMIT).await;
        assert_eq!(
            host.calls(),
            [""; 0],
            "a scratch guest is none of the host's"
        );
        connected
    }

    /// Connects, or says why this host cannot simulate.
    async fn connect(&self) -> Option<Box<dyn GuestConnection>> {
        match self.try_connect().await {
            Ok(connection) => Some(connection),
            Err(error @ TransportError::NotIsolated { .. }) => {
                eprintln!("SKIP: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    async fn resume(&self) -> Option<Box<dyn GuestConnection>> {
        self.transport.resume(&FakeHost::new(), &self.target).await
    }

    async fn disconnect(&self) {
        let host = FakeHost::new();
        let gone = self.transport.disconnect(&host, &self.target).await;
        gone.unwrap();
    }
}

async fn run(connection: &dyn GuestConnection, script: &str, input: &[u8]) -> Output {
    let process = connection.run(script.as_bytes()).await.unwrap();
    finish(process, input).await
}

async fn finish(process: GuestProcess, input: &[u8]) -> Output {
    let GuestProcess {
        mut stdin,
        mut stdout,
        mut stderr,
        end,
    } = process;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let feed = async move {
        // A script that does not read is within its rights.
        let _ = stdin.write_all(input).await;
    };
    let (_, read, read_err, end) = tokio::time::timeout(LIMIT, async {
        tokio::join!(
            feed,
            stdout.read_to_end(&mut out),
            stderr.read_to_end(&mut err),
            end
        )
    })
    .await
    .expect("the script hangs");
    read.unwrap();
    read_err.unwrap();
    Output {
        stdout: out,
        stderr: String::from_utf8(err).unwrap(),
        end,
    }
}

/// Runs a script and returns its output; it must succeed.
async fn ask(connection: &dyn GuestConnection, script: &str) -> String {
    let output = run(connection, script, b"").await;
    assert_eq!(output.end, GuestEnd::Exited(0), "{}", output.stderr);
    output.text().to_owned()
}

async fn line(stdout: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut line = Vec::new();
    let read = async {
        loop {
            match stdout.read_u8().await {
                Ok(b'\n') | Err(_) => break,
                Ok(byte) => line.push(byte),
            }
        }
    };
    tokio::time::timeout(LIMIT, read).await.expect("no line");
    String::from_utf8(line).unwrap()
}

async fn processes_with(token: &str) -> usize {
    let host = LinuxHost::new(LinuxHostConfig::default());
    host.find_processes(token).await.unwrap().len()
}

async fn until_no_process_has(token: &str) {
    let deadline = Instant::now() + LIMIT;
    while processes_with(token).await > 0 {
        assert!(Instant::now() < deadline, "{token} is still there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_script_says_its_two_outputs_and_its_status() {
    let lab = Lab::new();
    let Some(guest) = lab.connect().await else {
        return;
    };
    let output = run(&*guest, "echo out; echo err >&2; exit 7", b"").await;
    assert_eq!(output.text(), "out");
    assert_eq!(output.stderr, "err\n");
    assert_eq!(output.end, GuestEnd::Exited(7));
    for status in [1, 127, 255] {
        let output = run(&*guest, &format!("exit {status}"), b"").await;
        assert_eq!(output.end, GuestEnd::Exited(status));
    }
    let output = run(&*guest, "kill -TERM $$", b"").await;
    assert_eq!(output.end, GuestEnd::Exited(143));
    let output = run(&*guest, "kill -KILL $$", b"").await;
    assert_eq!(output.end, GuestEnd::Exited(137));
}

#[tokio::test]
async fn a_script_finds_the_surroundings_of_a_login() {
    let lab = Lab::new();
    let Some(guest) = lab.connect().await else {
        return;
    };
    let said = ask(
        &*guest,
        "echo $HOME $USER $PWD; id -un; uname -n; cat /etc/machine-id; set -- 'a b' c; echo $#",
    )
    .await;
    let id = lab.target.id.as_str();
    assert_eq!(said, format!("/root root /root\nroot\nbox\n{id}\n2"));
    // Leader of its group and of its session: proc(5), fields 1, 5 and 6 of stat.
    let leads = ask(
        &*guest,
        "read -r pid _ _ _ group session _ </proc/$$/stat; echo $((pid - $$)) $((group - $$)) $((session - $$))",
    )
    .await;
    assert_eq!(leads, "0 0 0");
}

#[tokio::test]
async fn stdin_ends_when_it_is_dropped() {
    let lab = Lab::new();
    let Some(guest) = lab.connect().await else {
        return;
    };
    let output = run(&*guest, "read -r first; echo got $first; cat", b"1\nrest").await;
    assert_eq!(output.text(), "got 1\nrest");
}

#[tokio::test]
async fn five_megabytes_go_through_byte_for_byte() {
    let lab = Lab::new();
    let Some(guest) = lab.connect().await else {
        return;
    };
    let mut bytes = vec![0; 5_000_000];
    getrandom::fill(&mut bytes).unwrap();
    let output = run(&*guest, "cat", &bytes).await;
    assert!(output.stdout == bytes);
    assert_eq!(output.end, GuestEnd::Exited(0));
}

#[tokio::test]
async fn scripts_run_side_by_side() {
    let lab = Lab::new();
    let Some(guest) = lab.connect().await else {
        return;
    };
    let mut waiting = Vec::new();
    for _ in 0..50 {
        waiting.push(guest.run(b"read -r word; echo $word").await.unwrap());
    }
    for (n, process) in waiting.into_iter().enumerate().rev() {
        let output = finish(process, format!("{n}\n").as_bytes()).await;
        assert_eq!(output.text(), n.to_string());
    }
}

#[tokio::test]
async fn a_script_that_closes_its_output_early_still_ends_with_its_status() {
    let lab = Lab::new();
    let Some(guest) = lab.connect().await else {
        return;
    };
    let output = run(&*guest, "echo x; exec >&- 2>&-; exit 3", b"").await;
    assert_eq!(output.text(), "x");
    assert_eq!(output.end, GuestEnd::Exited(3));
}

#[tokio::test]
async fn a_child_in_the_background_does_not_hold_the_end_of_its_script() {
    let lab = Lab::new();
    let Some(guest) = lab.connect().await else {
        return;
    };
    let mut process = guest.run(b"sleep 1000 & echo hi").await.unwrap();
    assert_eq!(line(&mut process.stdout).await, "hi");
    let end = tokio::time::timeout(LIMIT, process.end).await;
    assert_eq!(end.unwrap(), GuestEnd::Exited(0));
}

#[tokio::test]
async fn a_script_that_is_let_go_of_runs_on() {
    let lab = Lab::new();
    let Some(guest) = lab.connect().await else {
        return;
    };
    ask(&*guest, "mkfifo /run/done").await;
    drop(guest.run(b"echo still here >/run/done").await.unwrap());
    assert_eq!(ask(&*guest, "cat /run/done").await, "still here");
}

#[tokio::test]
async fn connections_of_one_vm_share_its_guest_and_another_vm_has_its_own() {
    let lab = Lab::new();
    let (first, second) = tokio::join!(lab.connect(), lab.connect());
    let (Some(first), Some(second)) = (first, second) else {
        return;
    };
    ask(&*first, "echo shared >/run/mark").await;
    assert_eq!(ask(&*second, "cat /run/mark").await, "shared");
    let resumed = lab.resume().await.expect("it runs");
    assert_eq!(ask(&*resumed, "cat /run/mark").await, "shared");
    let other = GuestTarget {
        vm_dir: lab.folder.path().join("other"),
        ..target(lab.folder.path())
    };
    let host = FakeHost::new();
    let other = lab.transport.connect(&host, &other, LIMIT).await.unwrap();
    assert_eq!(ask(&*other, "ls /run /root").await.find("mark"), None);
}

#[tokio::test]
async fn root_outlives_the_guest_and_nothing_else_does() {
    let lab = Lab::new();
    assert!(lab.resume().await.is_none());
    let Some(guest) = lab.connect().await else {
        return;
    };
    let boot = ask(&*guest, "cat /proc/sys/kernel/random/boot_id").await;
    ask(
        &*guest,
        "echo kept >/root/a; echo lost >/tmp/b; echo lost >/run/c; echo lost >/d",
    )
    .await;
    lab.disconnect().await;
    assert!(!guest.is_up().await);
    assert!(lab.resume().await.is_none());
    assert!(matches!(
        guest.run(b"true").await,
        Err(TransportError::Start { .. })
    ));
    lab.disconnect().await;

    let guest = lab.connect().await.unwrap();
    assert_eq!(ask(&*guest, "cat /root/a").await, "kept");
    let gone = "ls /tmp/b /run/c /d 2>&1 | grep -c 'No such file'";
    assert_eq!(ask(&*guest, gone).await, "3");
    let again = ask(&*guest, "cat /proc/sys/kernel/random/boot_id").await;
    assert_ne!(again, boot, "every start of a guest is a boot");
    let left = std::fs::read_dir(lab.target.vm_dir.join("guest/mnt")).unwrap();
    assert_eq!(left.count(), 0, "its mounts are its own");
}

#[tokio::test]
async fn the_hosts_files_are_out_of_sight_or_read_only() {
    let lab = Lab::new();
    let Some(guest) = lab.connect().await else {
        return;
    };
    let outside = lab.folder.path().join("precious");
    std::fs::write(&outside, "precious").unwrap();
    let script = format!(
        "ls '{}' '{}'",
        outside.display(),
        env!("CARGO_MANIFEST_DIR")
    );
    let output = run(&*guest, &script, b"").await;
    assert_eq!(
        output.stderr.matches("No such file").count(),
        2,
        "{}",
        output.stderr
    );
    // Not even root on the host, who is the owner of all these, may change them from in there.
    for write in [
        "touch /usr/banger-sim-was-here",
        "touch /usr/bin/banger-sim-was-here",
        "chmod 666 /dev/null",
        "echo 1 >/proc/sys/vm/drop_caches",
        "echo h >/proc/sysrq-trigger",
        "touch /etc/alternatives/banger-sim-was-here",
    ] {
        let output = run(&*guest, write, b"").await;
        assert_ne!(output.end, GuestEnd::Exited(0), "{write}");
    }
    ask(
        &*guest,
        "echo x >/dev/null; head -c 9 /dev/urandom | wc -c; : >/tmp/f; : >/f; git --version || :",
    )
    .await;
    // The sum of the above, as a script in a guest might do it.
    let swept = run(
        &*guest,
        "rm -rf /root/* /home /tmp /var /etc /usr/bin 2>/dev/null; ls /usr/bin/env",
        b"",
    )
    .await;
    assert_eq!(swept.text(), "/usr/bin/env");
    assert_eq!(std::fs::read(&outside).unwrap(), b"precious");
}

#[tokio::test]
async fn the_hosts_network_is_out_of_reach() {
    let lab = Lab::new();
    let Some(guest) = lab.connect().await else {
        return;
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!("bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}'");
    let output = run(&*guest, &script, b"").await;
    assert_ne!(output.end, GuestEnd::Exited(0));
}

#[tokio::test]
async fn killing_everything_kills_nothing_outside_and_leaves_the_guest_up() {
    let lab = Lab::new();
    let Some(guest) = lab.connect().await else {
        return;
    };
    let mut outside = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let mut inside = guest.run(b"echo up; sleep 1000").await.unwrap();
    assert_eq!(line(&mut inside.stdout).await, "up");
    // It spares the one that asks and the first process (kill(2)).
    ask(&*guest, "kill -9 -1; kill -9 1; kill -STOP 1").await;
    assert_eq!(inside.end.await, GuestEnd::Exited(137));
    assert!(guest.is_up().await);
    assert_eq!(ask(&*guest, "echo up").await, "up");
    assert!(outside.try_wait().unwrap().is_none());
    outside.kill().unwrap();
    outside.wait().unwrap();
}

#[tokio::test]
async fn a_second_script_signals_the_group_of_the_first() {
    let lab = Lab::new();
    let Some(guest) = lab.connect().await else {
        return;
    };
    let script = b"trap 'echo bye; exit 5' TERM; echo $$; sleep 1000 & wait";
    let mut first = guest.run(script).await.unwrap();
    let group = line(&mut first.stdout).await;
    ask(&*guest, &format!("kill -TERM -- -{group}")).await;
    let output = finish(first, b"").await;
    assert_eq!(output.text(), "bye");
    assert_eq!(output.end, GuestEnd::Exited(5));
}

#[tokio::test]
async fn orphans_are_reaped() {
    let lab = Lab::new();
    let Some(guest) = lab.connect().await else {
        return;
    };
    let orphan = ask(&*guest, "(sh -c 'echo $$; exec sleep 1000 >&- 2>&-' &)").await;
    // `kill -0` finds zombies too: it fails when the orphan has been reaped.
    let script = format!("kill -9 {orphan}; while kill -0 {orphan} 2>/dev/null; do :; done");
    ask(&*guest, &script).await;
}

#[tokio::test]
async fn every_power_switch_ends_the_guest_and_is_told_once() {
    let mut lab = Lab::new();
    for (switch, word) in [
        ("systemctl poweroff", PowerWord::Off),
        ("systemctl --no-block reboot", PowerWord::Reboot),
        ("poweroff", PowerWord::Off),
        ("halt -p", PowerWord::Off),
        ("reboot", PowerWord::Reboot),
        ("shutdown -r now", PowerWord::Reboot),
        ("shutdown -h now", PowerWord::Off),
    ] {
        let Some(guest) = lab.connect().await else {
            return;
        };
        let other = guest.run(b"sleep 1000").await.unwrap();
        let pressed = run(&*guest, switch, b"").await;
        assert_eq!(
            pressed.end,
            GuestEnd::Exited(0),
            "{switch}: {}",
            pressed.stderr
        );
        let told = tokio::time::timeout(LIMIT, lab.words.recv()).await.unwrap();
        assert_eq!(told, Some((lab.target.id.clone(), word)), "{switch}");
        assert!(!guest.is_up().await, "it is off before that is told");
        assert!(matches!(other.end.await, GuestEnd::Lost(_)));
        assert!(lab.resume().await.is_none());
    }
    assert!(lab.words.try_recv().is_err());
    let guest = lab.connect().await.unwrap();
    let output = run(&*guest, "systemctl restart nginx", b"").await;
    assert_eq!(output.end, GuestEnd::Exited(1));
    assert!(guest.is_up().await);
}

#[tokio::test]
async fn nothing_is_left_after_a_disconnect_nor_after_a_drop() {
    let lab = Lab::new();
    let id = lab.target.id.as_str().to_owned();
    let script = format!("sh -c 'echo up; sleep 1000; :' {id}; :");
    let Some(guest) = lab.connect().await else {
        return;
    };
    let mut process = guest.run(script.as_bytes()).await.unwrap();
    assert_eq!(line(&mut process.stdout).await, "up");
    assert!(processes_with(&id).await >= 3);
    lab.disconnect().await;
    assert!(matches!(process.end.await, GuestEnd::Lost(_)));
    assert_eq!(processes_with(&id).await, 0, "disconnect has waited for it");

    let guest = lab.connect().await.unwrap();
    let mut process = guest.run(script.as_bytes()).await.unwrap();
    assert_eq!(line(&mut process.stdout).await, "up");
    drop((guest, lab));
    until_no_process_has(&id).await;
}

#[tokio::test]
async fn a_vm_without_the_simulators_network_has_no_way_in() {
    let mut lab = Lab::new();
    lab.target.endpoint = None;
    assert!(matches!(
        lab.try_connect().await,
        Err(TransportError::NoWayIn { .. })
    ));
}

#[tokio::test]
async fn a_guest_that_is_not_up_in_time_is_not_ready_and_leaves_nothing() {
    let lab = Lab::new();
    if lab.connect().await.is_none() {
        return;
    }
    lab.disconnect().await;
    let host = FakeHost::new();
    let limit = Duration::from_millis(1);
    let refused = lab.transport.connect(&host, &lab.target, limit).await;
    assert!(matches!(refused, Err(TransportError::NotReady { .. })));
    until_no_process_has(lab.target.id.as_str()).await;
}

/// Set in the processes in which a test stands in for something that has to be a process of its own.
const STAND_IN: &str = "BANGER_SIM_STAND_IN";

fn stand_in(test: &str, wrapper: &[&str]) -> tokio::process::Command {
    let us = std::env::current_exe().unwrap();
    let test = format!("transport::sim::tests::{test}");
    let mut words = wrapper.iter().map(PathBuf::from).collect::<Vec<_>>();
    words.push(us);
    let mut command = tokio::process::Command::new(&words[0]);
    command
        .args(&words[1..])
        .args(["--exact", &test, "--nocapture"])
        .env(STAND_IN, "1")
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true);
    command
}

fn stands_in() -> bool {
    std::env::var_os(STAND_IN).is_some()
}

#[tokio::test]
async fn a_guest_dies_with_an_engine_that_is_killed() {
    let lab = Lab::new();
    if lab.connect().await.is_none() {
        return;
    }
    let mut engine = stand_in("stand_in_for_an_engine_that_is_killed", &[])
        // Who is killed tidies nothing up.
        .env("TMPDIR", lab.folder.path())
        .spawn()
        .unwrap();
    let mut stdout = engine.stdout.take().unwrap();
    let token = loop {
        let said = line(&mut stdout).await;
        if let Some((_, token)) = said.split_once("token ") {
            break token.to_owned();
        }
    };
    assert!(processes_with(&token).await > 0);
    engine.kill().await.unwrap();
    until_no_process_has(&token).await;
}

#[tokio::test]
async fn stand_in_for_an_engine_that_is_killed() {
    if !stands_in() {
        return;
    }
    let lab = Lab::new();
    let guest = lab.connect().await.unwrap();
    let id = &lab.target.id;
    let script = format!("sh -c 'echo up; sleep 1000; :' {id}; :");
    let mut process = guest.run(script.as_bytes()).await.unwrap();
    assert_eq!(line(&mut process.stdout).await, "up");
    println!("token {id}");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_host_without_user_namespaces_refuses_with_the_next_step() {
    let lab = Lab::new();
    if lab.connect().await.is_none() {
        return;
    }
    // The limit holds in the namespace in which it is set, and so not for anybody else.
    let forbid = "echo 0 >/proc/sys/user/max_user_namespaces && exec \"$@\"";
    let wrapper = [
        "unshare",
        "--user",
        "--map-root-user",
        "sh",
        "-c",
        forbid,
        "sh",
    ];
    let output = stand_in("stand_in_for_a_host_without_user_namespaces", &wrapper)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

#[tokio::test]
async fn stand_in_for_a_host_without_user_namespaces() {
    if !stands_in() {
        return;
    }
    let lab = Lab::new();
    let Err(error) = lab.try_connect().await else {
        panic!("it ran scripts without isolation");
    };
    assert!(matches!(error, TransportError::NotIsolated { .. }));
    let text = error.to_string();
    assert!(text.contains("unshare failed"), "{text}");
    assert!(text.contains("sysctl user.max_user_namespaces"), "{text}");
}
