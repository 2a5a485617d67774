//! What the engine relies on of the real kernel and only root can ask: network namespaces, taps, loop
//! devices, device-mapper, systemd's scopes. The names say so, and what this host does not have is skipped with its reason.
//! `make lab` runs all of it, in a VM of its own.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_core::{
    Detached, DeviceRemoval, Devices, Host, HostError, LinuxHost, LinuxHostConfig, ProcessEnd,
    ProcessIdentity, ProcessSignal, ScopeSpec, Scopes, SnapshotSpec, SnapshotState, Spaces,
    TapSpec, Walls,
};

fn host() -> LinuxHost {
    LinuxHost::new(LinuxHostConfig::default())
}

/// A name that no other run of these tests uses, and that says whose it is.
fn name(what: &str) -> String {
    format!("banger-test-{}-{what}", std::process::id())
}

fn tap() -> TapSpec {
    TapSpec {
        name: "tap0".to_owned(),
        address: [10, 0, 2, 2].into(),
        prefix: 24,
        peer: [10, 0, 2, 15].into(),
        peer_mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56],
    }
}

async fn no_taps(host: &LinuxHost) -> bool {
    let why = host.tap_support().await.err();
    why.inspect(|why| println!("SKIP: {why}")).is_some()
}

async fn no_scopes(host: &LinuxHost) -> bool {
    let why = host.scope_support().await.err();
    why.inspect(|why| println!("SKIP: {why}")).is_some()
}

async fn no_snapshots(host: &LinuxHost) -> bool {
    let why = host.snapshot_support().await.err();
    why.inspect(|why| println!("SKIP: {why}")).is_some()
}

#[tokio::test]
async fn as_root_a_namespace_is_dialled_into_and_nothing_of_it_is_seen_outside() {
    let host = host();
    if no_taps(&host).await {
        return;
    }
    let space = name("dial");
    host.make_namespace(&space).await.unwrap();
    host.make_tap(&space, &tap()).await.unwrap();
    assert_eq!(
        host.list_namespaces(&space).await.unwrap(),
        std::slice::from_ref(&space)
    );
    assert!(!Path::new("/sys/class/net/tap0").exists());
    let pin = Path::new("/run/netns").join(&space);
    assert_eq!(host.list_pins(&space).await.unwrap(), [pin]);

    // Somebody in there listens on the tap's own address, and greets.
    let inside = space.clone();
    let (tell, told) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || {
        let pin = std::fs::File::open(format!("/run/netns/{inside}")).unwrap();
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&pin), Some(kind))
            .unwrap();
        let listener = TcpListener::bind("10.0.2.2:0").unwrap();
        tell.send(listener.local_addr().unwrap().port()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"hello").unwrap();
    });
    let there = SocketAddrV4::new([10, 0, 2, 2].into(), told.recv().unwrap());
    let limit = Duration::from_secs(5);
    let stream = host.connect_in(&space, there, limit).await.unwrap();
    let mut stream = stream.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    let mut greeting = String::new();
    stream.read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, "hello");
    server.join().unwrap();

    let nobody = SocketAddrV4::new([10, 0, 2, 2].into(), 1);
    let refused = host.connect_in(&space, nobody, limit).await.unwrap_err();
    let source = std::error::Error::source(&refused).unwrap().to_string();
    assert!(source.contains("refused"), "{source}");

    // A guest that is not there yet costs the time given and no more.
    let guest = SocketAddrV4::new([10, 0, 2, 15].into(), 22);
    let asked = std::time::Instant::now();
    let short = Duration::from_millis(100);
    host.connect_in(&space, guest, short).await.unwrap_err();
    assert!(asked.elapsed() < limit, "it took {:?}", asked.elapsed());

    host.remove_namespace(&space).await.unwrap();
    host.remove_namespace(&space).await.unwrap();
    assert_eq!(host.list_namespaces(&space).await.unwrap(), [""; 0]);
    assert_eq!(host.list_pins(&space).await.unwrap().len(), 0);
    host.connect_in(&space, there, limit).await.unwrap_err();
}

#[tokio::test]
async fn as_root_a_namespace_or_tap_that_exists_is_refused_and_never_adopted() {
    let host = host();
    if no_taps(&host).await {
        return;
    }
    let space = name("twice");
    host.make_namespace(&space).await.unwrap();
    host.make_namespace(&space).await.unwrap_err();
    host.make_tap(&space, &tap()).await.unwrap();
    let taken = host.make_tap(&space, &tap()).await.unwrap_err();
    let source = std::error::Error::source(&taken).unwrap().to_string();
    assert!(source.contains("busy"), "{source}");
    host.remove_namespace(&space).await.unwrap();
    let error = host.make_tap(&space, &tap()).await.unwrap_err();
    assert!(error.to_string().contains(&space), "{error}");

    // What a make that was killed half way leaves is a file, and is removed like a namespace.
    std::fs::write(format!("/run/netns/{space}"), "").unwrap();
    host.remove_namespace(&space).await.unwrap();
    assert_eq!(host.list_namespaces(&space).await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn as_root_a_program_is_started_inside_a_namespace_and_ours_stays_where_it_was() {
    let host = host();
    if no_taps(&host).await {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let space = name("spawn");
    let ours = std::fs::read_link("/proc/self/ns/net").unwrap();
    host.make_namespace(&space).await.unwrap();
    let process = host
        .spawn(&Detached {
            program: "sleep".to_owned(),
            arguments: vec!["1000".into()],
            log: dir.path().join("log"),
            walls: None,
            namespace: Some(space.clone()),
            scope: None,
        })
        .await
        .unwrap();
    let theirs = std::fs::read_link(format!("/proc/{}/ns/net", process.pid)).unwrap();
    assert_ne!(theirs, ours);
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let here = std::fs::read_link(task.unwrap().path().join("ns/net"));
        assert!(
            here.is_err() || here.unwrap() == ours,
            "a thread was left in a namespace"
        );
    }
    // Its name can be given back while it lives: the kernel keeps the namespace until it ends.
    host.remove_namespace(&space).await.unwrap();
    host.signal(&process, ProcessSignal::Kill).await.unwrap();
    let end = host.wait_end(&process).await.unwrap();
    assert_eq!(end, ProcessEnd::Signaled(9));
}

/// A snapshot over an image of zeros, in a folder of its own.
struct Snapshot {
    spec: SnapshotSpec,
    dir: tempfile::TempDir,
}

impl Snapshot {
    fn new(what: &str, image: u64, layer: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sized = |file: &str, bytes: u64| -> PathBuf {
            let path = dir.path().join(file);
            std::fs::File::create(&path)
                .unwrap()
                .set_len(bytes)
                .unwrap();
            path
        };
        let name = name(what);
        let spec = SnapshotSpec {
            uuid: name.to_uppercase(),
            base: sized("image", image),
            base_label: format!("{name}:base"),
            layer: sized("layer", layer),
            layer_label: format!("{name}:cow"),
            name,
        };
        Snapshot { spec, dir }
    }

    async fn remove(&self, host: &LinuxHost) -> DeviceRemoval {
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            match host.remove_snapshot(&self.spec.name).await.unwrap() {
                // udev looks at every device that changes.
                DeviceRemoval::Busy if std::time::Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                removal => return removal,
            }
        }
    }

    /// Counts what is there of it and of its loop devices, until it is what it should be: those are
    /// released when udev, which looks at every device that changes, has let go of them too.
    async fn leaves(&self, host: &LinuxHost, wanted: usize) {
        let label = self.spec.base_label.trim_end_matches("base");
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            let found = host.list_devices(&self.spec.name, label).await.unwrap();
            if found.snapshots.len() + found.loops.len() == wanted {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{found:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn as_root_a_snapshot_takes_writes_keeps_them_and_leaves_its_image_alone() {
    let host = host();
    if no_snapshots(&host).await {
        return;
    }
    let snapshot = Snapshot::new("keeps", 8 * MIB, 9 * MIB);
    let spec = &snapshot.spec;
    let made = host.make_snapshot(spec).await.unwrap();
    let found = host
        .list_devices(&spec.name, &spec.base_label)
        .await
        .unwrap();
    assert_eq!(found.snapshots[0].uuid, spec.uuid);
    assert_eq!(found.snapshots[0].device, made.device);
    assert_eq!(found.loops[0].device, made.base_loop);
    assert_ne!(made.base_loop, made.layer_loop);

    let written = vec![0x5a; 64 << 10];
    let mut device = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&made.device)
        .unwrap();
    device.write_all(&written).unwrap();
    device.sync_all().unwrap();
    assert_eq!(
        host.remove_snapshot(&spec.name).await.unwrap(),
        DeviceRemoval::Busy
    );
    drop(device);
    assert!(matches!(
        host.snapshot_state(&spec.name).await.unwrap(),
        Some(SnapshotState::Healthy { used: 1.., .. })
    ));
    assert_eq!(snapshot.remove(&host).await, DeviceRemoval::Removed);
    assert_eq!(snapshot.remove(&host).await, DeviceRemoval::AlreadyGone);
    // The loop devices went with it, by themselves.
    snapshot.leaves(&host, 0).await;

    let made = host.make_snapshot(spec).await.unwrap();
    let mut device = std::fs::File::open(&made.device).unwrap();
    let mut back = vec![0; written.len()];
    device.read_exact(&mut back).unwrap();
    drop(device);
    assert!(
        back == written,
        "what was written is there after it was made anew"
    );
    snapshot.remove(&host).await;
    let image = std::fs::read(&spec.base).unwrap();
    assert!(
        image.iter().all(|byte| *byte == 0),
        "the image was written to"
    );
    drop(snapshot.dir);
}

#[tokio::test]
async fn as_root_a_snapshot_of_that_name_is_refused_and_nothing_is_left_of_the_attempt() {
    let host = host();
    if no_snapshots(&host).await {
        return;
    }
    let snapshot = Snapshot::new("taken", MIB, 2 * MIB);
    host.make_snapshot(&snapshot.spec).await.unwrap();
    let attempt = Snapshot::new("attempt", MIB, 2 * MIB);
    let mut spec = SnapshotSpec {
        name: snapshot.spec.name.clone(),
        uuid: snapshot.spec.uuid.clone(),
        ..attempt.spec.clone()
    };
    host.make_snapshot(&spec).await.unwrap_err();
    attempt.leaves(&host, 0).await;
    snapshot.remove(&host).await;
    snapshot.leaves(&host, 0).await;

    // An image that is not there, and one that is no whole number of sectors' worth of anything.
    spec.base = attempt.dir.path().join("none");
    host.make_snapshot(&spec).await.unwrap_err();
    snapshot.leaves(&host, 0).await;
    attempt.leaves(&host, 0).await;
}

#[tokio::test]
async fn as_root_two_snapshots_of_one_image_are_told_apart() {
    let host = host();
    if no_snapshots(&host).await {
        return;
    }
    let (one, mut two) = (
        Snapshot::new("one", MIB, 2 * MIB),
        Snapshot::new("two", MIB, 2 * MIB),
    );
    two.spec.base.clone_from(&one.spec.base);
    let first = host.make_snapshot(&one.spec).await.unwrap();
    let second = host.make_snapshot(&two.spec).await.unwrap();
    assert_ne!(first.base_loop, second.base_loop);
    one.remove(&host).await;
    one.leaves(&host, 0).await;
    two.leaves(&host, 3).await;
    two.remove(&host).await;
}

#[tokio::test]
async fn as_root_a_layer_that_is_full_is_noticed_and_stays_lost() {
    let host = host();
    if no_snapshots(&host).await {
        return;
    }
    // Room for its own tables and a few chunks.
    let snapshot = Snapshot::new("full", 8 * MIB, 64 << 10);
    let made = host.make_snapshot(&snapshot.spec).await.unwrap();
    let mut device = std::fs::File::options()
        .write(true)
        .open(&made.device)
        .unwrap();
    let _ = device.write_all(&vec![1; 4 << 20]);
    let _ = device.sync_all();
    drop(device);
    let state = host.snapshot_state(&snapshot.spec.name).await.unwrap();
    assert_eq!(state, Some(SnapshotState::Lost));
    snapshot.remove(&host).await;
    host.make_snapshot(&snapshot.spec).await.unwrap();
    let state = host.snapshot_state(&snapshot.spec.name).await.unwrap();
    assert_eq!(state, Some(SnapshotState::Lost), "its file remembers");
    snapshot.remove(&host).await;
    snapshot.leaves(&host, 0).await;
}

/// Runs a script of `sh` in a scope.
async fn in_scope(
    host: &LinuxHost,
    scope: &str,
    script: &str,
    log: &Path,
) -> Result<ProcessIdentity, HostError> {
    host.spawn(&Detached {
        program: "sh".to_owned(),
        arguments: ["-c", script].map(Into::into).into(),
        log: log.to_owned(),
        walls: None,
        namespace: None,
        scope: Some(scope_named(scope)),
    })
    .await
}

fn signals_of(pid: u32) -> Vec<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let lines = status.lines();
    let masks = lines.filter(|line| ["SigBlk", "SigIgn"].iter().any(|it| line.starts_with(it)));
    masks.map(str::to_owned).collect()
}

async fn ended_by_sigkill(host: &LinuxHost, process: &ProcessIdentity) {
    let end = tokio::time::timeout(Duration::from_secs(20), host.wait_end(process)).await;
    assert_eq!(end.unwrap().unwrap(), ProcessEnd::Signaled(9));
}

#[tokio::test]
async fn as_root_a_program_is_in_its_scope_before_it_runs_and_ends_with_it() {
    let host = host();
    if no_scopes(&host).await {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (log, scope) = (dir.path().join("log"), format!("{}.scope", name("ends")));
    let script = "cat /proc/self/cgroup; echo $$; exec sleep 1000";
    let process = in_scope(&host, &scope, script, &log).await.unwrap();
    let facts = host.process(process.pid).await.unwrap().unwrap();
    assert_eq!(
        facts.identity, process,
        "the number and the start time stay"
    );
    assert!(!facts.command_line.contains("systemd-run"), "{facts:?}");
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let said = loop {
        let said = std::fs::read_to_string(&log).unwrap();
        if said.lines().count() == 2 {
            break said;
        }
        assert!(std::time::Instant::now() < deadline, "{said}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let mut lines = said.lines();
    assert!(
        lines.next().unwrap().ends_with(&format!("/{scope}")),
        "{said}"
    );
    assert_eq!(lines.next().unwrap(), process.pid.to_string());
    let plain = host
        .spawn(&Detached {
            program: "sleep".to_owned(),
            arguments: vec!["1000".into()],
            log: log.clone(),
            walls: None,
            namespace: None,
            scope: None,
        })
        .await
        .unwrap();
    assert_eq!(signals_of(process.pid), signals_of(plain.pid));
    host.signal(&plain, ProcessSignal::Kill).await.unwrap();
    host.wait_end(&plain).await.unwrap();
    assert_eq!(
        host.list_scopes(&scope).await.unwrap(),
        std::slice::from_ref(&scope)
    );

    // A second one of that name is refused in systemd's own words, and the first is not touched.
    let refused = in_scope(&host, &scope, "exec sleep 1000", &log).await;
    let Err(HostError::Scope { scope: of, said }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(of, scope);
    let said = said.unwrap();
    assert!(said.contains("scope") && said.contains("already"), "{said}");
    assert!(host.process(process.pid).await.unwrap().is_some());

    host.remove_scope(&scope).await.unwrap();
    ended_by_sigkill(&host, &process).await;
    assert_eq!(host.list_scopes(&scope).await.unwrap(), [""; 0]);
    host.remove_scope(&scope).await.unwrap();
}

#[tokio::test]
async fn as_root_the_name_of_a_scope_is_free_as_soon_as_it_is_removed_however_its_program_ended() {
    let host = host();
    if no_scopes(&host).await {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (log, scope) = (dir.path().join("log"), format!("{}.scope", name("again")));
    for script in [
        "exec sleep 1000",
        "kill -9 $$",
        "read -r line; exit 3",
        "exit 0",
    ] {
        // What ends at once may end before anybody has seen that it is in its scope.
        match in_scope(&host, &scope, script, &log).await {
            Ok(process) => {
                host.remove_scope(&scope).await.unwrap();
                let end = host.wait_end(&process);
                tokio::time::timeout(Duration::from_secs(20), end)
                    .await
                    .unwrap()
                    .unwrap();
            }
            Err(HostError::Scope { said, .. }) => {
                assert_eq!(said, None, "{script}");
                host.remove_scope(&scope).await.unwrap();
            }
            Err(error) => panic!("{script}: {error:?}"),
        }
        assert_eq!(host.list_scopes(&scope).await.unwrap(), [""; 0], "{script}");
    }
    let units = std::process::Command::new("systemctl")
        .args(["list-units", "--all", "--plain", "--no-legend", &scope])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&units.stdout), "");
}

#[tokio::test]
async fn as_root_a_program_may_have_both_a_scope_and_a_namespace() {
    let host = host();
    if no_scopes(&host).await || no_taps(&host).await {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (space, scope) = (name("both"), format!("{}.scope", name("both")));
    host.make_namespace(&space).await.unwrap();
    let process = host
        .spawn(&Detached {
            program: "sleep".to_owned(),
            arguments: vec!["1000".into()],
            log: dir.path().join("log"),
            walls: None,
            namespace: Some(space.clone()),
            scope: Some(scope_named(&scope)),
        })
        .await
        .unwrap();
    let theirs = std::fs::read_link(format!("/proc/{}/ns/net", process.pid)).unwrap();
    assert_ne!(theirs, std::fs::read_link("/proc/self/ns/net").unwrap());
    let group = std::fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).unwrap();
    assert!(group.trim_end().ends_with(&scope), "{group}");
    host.remove_scope(&scope).await.unwrap();
    ended_by_sigkill(&host, &process).await;
    host.remove_namespace(&space).await.unwrap();
}

/// What an ordinary user finds, run by the test below as one, in a service of that user's own systemd.
#[tokio::test]
#[ignore = "run by a test of root's, as somebody else"]
async fn an_ordinary_user_s_program_is_in_a_scope_of_their_own_systemd() {
    let host = host();
    host.scope_support().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (log, scope) = (dir.path().join("log"), format!("{}.scope", name("user")));
    let process = in_scope(&host, &scope, "exec sleep 1000", &log)
        .await
        .unwrap();
    let group = std::fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).unwrap();
    let own = format!("/user@{}.service/", host.user_id());
    assert!(group.contains(&own), "{group}");
    assert!(group.trim_end().ends_with(&scope), "{group}");
    assert_eq!(
        host.list_scopes(&scope).await.unwrap(),
        std::slice::from_ref(&scope)
    );
    let taken = in_scope(&host, &scope, "exec sleep 1000", &log).await;
    assert!(matches!(taken, Err(HostError::Scope { .. })), "{taken:?}");
    host.remove_scope(&scope).await.unwrap();
    ended_by_sigkill(&host, &process).await;
    assert_eq!(host.list_scopes(&scope).await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn as_root_an_ordinary_user_s_own_systemd_makes_scopes_too() {
    let host = host();
    if no_scopes(&host).await {
        return;
    }
    if std::env::var_os("BANGER_TESTS_ARE_BUILT").is_none() {
        return println!("SKIP: it makes a user, and does so only in the lab");
    }
    let run = |script: &str| {
        let output = std::process::Command::new("sh")
            .args(["-c", script])
            .arg(std::env::current_exe().unwrap())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    };
    let (made, said) =
        run("useradd --create-home --uid 4242 somebody && systemctl start user@4242");
    assert!(made, "{said}");
    // In a service of that user's: who is outside of what ends with the last login stays there.
    let (passed, said) = run(r#"
        cp "$0" /home/somebody/tests && cd /home/somebody || exit
        cat >run <<'END'
./tests --ignored --nocapture an_ordinary_user >said 2>&1
echo $? >status
END
        setpriv --reuid=4242 --regid=4242 --clear-groups \
            env XDG_RUNTIME_DIR=/run/user/4242 HOME=/home/somebody \
            systemd-run --user --quiet --collect --working-directory=/home/somebody sh run || exit
        for i in $(seq 300); do
            [ -e status ] && break
            sleep 0.1
        done
        cat said
        exit "$(cat status)"
    "#);
    println!("{said}");
    assert!(passed, "{said}");
    let (ended, said) = run("systemctl stop user@4242 && userdel --remove somebody");
    assert!(ended, "{said}");
}

/// What systemd says of a unit.
fn property(unit: &str, name: &str) -> String {
    let show = std::process::Command::new("systemctl")
        .args(["show", "--value", "--property", name, "--", unit])
        .output();
    String::from_utf8(show.unwrap().stdout)
        .unwrap()
        .trim()
        .to_owned()
}

#[tokio::test]
async fn as_root_what_is_within_walls_and_a_scope_has_its_limits_and_its_keepers_beside_it() {
    let host = host();
    if no_scopes(&host).await {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let scope = format!("{}.scope", name("walls"));
    let console = dir.path().join("console.log");
    let walled = |script: &str| Detached {
        program: "sh".to_owned(),
        arguments: ["-c", script].map(Into::into).into(),
        log: dir.path().join("log"),
        walls: Some(Walls {
            opens: Vec::new(),
            logs: vec![console.clone()],
        }),
        namespace: None,
        scope: Some(scope_named(&scope)),
    };
    let process = host
        .spawn(&walled("echo guest >&3; exec sleep 1000"))
        .await
        .unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
    for line in [
        "CapPrm:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "{line}: {status}");
    }
    assert_eq!(property(&scope, "MemoryMax"), (256 << 20).to_string());
    assert_eq!(property(&scope, "TasksMax"), "32");
    assert_eq!(property(&scope, "CPUWeight"), "50");
    let group = property(&scope, "ControlGroup");
    let members = PathBuf::from(format!("/sys/fs/cgroup{group}/cgroup.procs"));
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    // The program, and a shell and a `cat` for each of two logs.
    while std::fs::read_to_string(&members).unwrap().lines().count() != 5 {
        assert!(
            std::time::Instant::now() < deadline,
            "they are not beside it"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    // A second one of that name is refused, in words that go through a pipe too.
    let refused = host.spawn(&walled("exec sleep 1000")).await;
    let Err(HostError::Scope { said, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert!(said.clone().unwrap().contains("already"), "{said:?}");

    host.signal(&process, ProcessSignal::Kill).await.unwrap();
    host.wait_end(&process).await.unwrap();
    assert_eq!(std::fs::read_to_string(&console).unwrap(), "guest\n");
    host.remove_scope(&scope).await.unwrap();
    assert_eq!(host.list_scopes(&scope).await.unwrap(), [""; 0]);
}

fn scope_named(name: &str) -> ScopeSpec {
    ScopeSpec {
        name: name.to_owned(),
        memory_bytes: 256 << 20,
        tasks: 32,
        cpu_weight: 50,
    }
}
