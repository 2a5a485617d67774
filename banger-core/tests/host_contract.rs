//! What the engine relies on of a host, asked of the fake one and of the real one: a fake that lies makes
//! every other proof worthless. What needs root is asked in the lab.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]
#![allow(missing_docs)]

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use banger_core::{
    Delivery, Detached, FakeHost, FileAct, Host, HostError, LinuxHost, LinuxHostConfig, ProcessEnd,
    ProcessIdentity, ProcessSignal, Program, ProgramOutput, ScopeSpec,
};

fn fake() -> Arc<dyn Host> {
    let host = FakeHost::new();
    host.set_scopes(Ok(()));
    for (program, status) in [("tail", 0), ("false", 1)] {
        let answer = move |_: &Program| {
            Ok(ProgramOutput {
                status,
                stdout: Vec::new(),
                stderr: Vec::new(),
            })
        };
        host.answer(program, Some(answer));
    }
    Arc::new(host)
}

fn linux() -> Arc<dyn Host> {
    Arc::new(LinuxHost::new(LinuxHostConfig::default()))
}

/// Makes a test of each contract, on each host.
macro_rules! contracts {
    ($($contract:ident),* $(,)?) => {
        mod on_the_fake_host {
            $(#[tokio::test]
            async fn $contract() {
                let dir = tempfile::tempdir().unwrap();
                super::$contract(&*super::fake(), dir.path()).await;
            })*
        }

        mod on_linux {
            $(#[tokio::test]
            async fn $contract() {
                let dir = tempfile::tempdir().unwrap();
                super::$contract(&*super::linux(), dir.path()).await;
            })*
        }
    };
}

contracts! {
    a_write_replaces_the_whole_file_and_leaves_nothing_beside_it,
    what_is_missing_is_none_or_empty_and_what_cannot_be_read_is_an_error,
    folders_are_made_with_those_above_them_and_listed_in_order,
    a_rename_takes_the_place_of_a_file_but_never_of_a_folder_with_something_in_it,
    removing_what_is_not_there_is_success,
    a_file_is_grown_and_never_shrunk_and_truncated_and_never_grown,
    a_clone_has_the_same_bytes_and_never_overwrites,
    a_clone_reaches_a_file_system_of_another_kind,
    the_head_of_a_file_is_no_longer_than_asked_and_a_missing_one_is_none,
    a_lock_is_held_once_until_it_is_dropped,
    a_stat_tells_files_folders_and_sockets_apart,
    a_folder_is_synced_with_what_is_in_it,
    a_process_is_found_by_what_is_on_its_command_line_until_it_is_killed,
    a_process_that_heeds_sigterm_ends_by_it,
    the_end_of_a_child_is_told_once_and_then_it_is_only_gone,
    everybody_who_waits_for_an_end_learns_of_it,
    a_number_that_was_used_again_is_neither_signalled_nor_waited_for,
    what_is_started_appends_to_its_log_and_needs_a_folder_for_it,
    a_program_that_is_not_installed_is_named,
    a_program_that_fails_has_a_status_and_is_no_error,
    a_socket_is_connected_to_only_if_somebody_listens,
    a_process_that_listens_nowhere_or_is_gone_has_no_ports,
    the_boot_has_an_id_that_stays,
    a_process_in_a_scope_is_listed_with_it_and_ends_with_it,
    a_scope_that_cannot_be_made_is_told_as_such_and_nothing_is_started,
}

async fn a_write_replaces_the_whole_file_and_leaves_nothing_beside_it(host: &dyn Host, dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join("file");
    host.write_file(&path, b"one and more", 0o644)
        .await
        .unwrap();
    host.write_file(&path, b"two", 0o600).await.unwrap();
    assert_eq!(host.read_file(&path).await.unwrap().unwrap(), b"two");
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(host.list_dir(dir).await.unwrap(), ["file"]);
    // What a kill has left is no obstacle.
    std::fs::write(dir.join("file.tmp"), "half").unwrap();
    host.write_file(&path, b"three", 0o600).await.unwrap();
    assert_eq!(host.list_dir(dir).await.unwrap(), ["file"]);

    let nowhere = dir.join("none").join("file");
    let error = host.write_file(&nowhere, b"", 0o600).await.unwrap_err();
    assert_eq!(told(&error), (FileAct::Write, ErrorKind::NotFound));
}

async fn what_is_missing_is_none_or_empty_and_what_cannot_be_read_is_an_error(
    host: &dyn Host,
    dir: &Path,
) {
    let none = dir.join("none");
    assert_eq!(host.read_file(&none).await.unwrap(), None);
    assert_eq!(host.read_tail(&none, 9).await.unwrap(), b"");
    assert_eq!(host.stat(&none).await.unwrap(), None);
    assert_eq!(host.list_dir(&none).await.unwrap(), [] as [&str; 0]);
    assert_eq!(
        told(&host.read_file(dir).await.unwrap_err()).0,
        FileAct::Read
    );
    let file = dir.join("file");
    host.write_file(&file, b"0123456789", 0o600).await.unwrap();
    assert_eq!(host.read_tail(&file, 3).await.unwrap(), b"789");
    assert_eq!(host.read_tail(&file, 99).await.unwrap(), b"0123456789");
}

async fn folders_are_made_with_those_above_them_and_listed_in_order(host: &dyn Host, dir: &Path) {
    let deep = dir.join("b").join("c");
    host.create_dir(&deep).await.unwrap();
    host.create_dir(&deep).await.unwrap();
    host.create_dir(&dir.join("a")).await.unwrap();
    host.write_file(&dir.join("0"), b"", 0o600).await.unwrap();
    assert_eq!(host.list_dir(dir).await.unwrap(), ["0", "a", "b"]);
    assert!(host.stat(&deep).await.unwrap().unwrap().is_dir);
    let error = host.create_dir(&dir.join("0")).await.unwrap_err();
    assert_eq!(told(&error).0, FileAct::CreateDir);
}

async fn a_rename_takes_the_place_of_a_file_but_never_of_a_folder_with_something_in_it(
    host: &dyn Host,
    dir: &Path,
) {
    let (from, to) = (dir.join("from"), dir.join("to"));
    host.write_file(&from, b"new", 0o600).await.unwrap();
    host.write_file(&to, b"old", 0o600).await.unwrap();
    host.rename(&from, &to).await.unwrap();
    assert_eq!(host.read_file(&to).await.unwrap().unwrap(), b"new");
    let error = host.rename(&from, &to).await.unwrap_err();
    assert_eq!(told(&error), (FileAct::Rename, ErrorKind::NotFound));

    let (one, two) = (dir.join("one"), dir.join("two"));
    for folder in [&one, &two] {
        host.create_dir(folder).await.unwrap();
        host.write_file(&folder.join("disk"), b"", 0o600)
            .await
            .unwrap();
    }
    host.rename(&one, &two).await.unwrap_err();
    assert!(host.stat(&one.join("disk")).await.unwrap().is_some());
    assert!(host.stat(&two.join("disk")).await.unwrap().is_some());
}

async fn removing_what_is_not_there_is_success(host: &dyn Host, dir: &Path) {
    let path = dir.join("it");
    host.create_dir(&path.join("below")).await.unwrap();
    host.remove_file(&path).await.unwrap_err();
    for _ in 0..2 {
        host.remove_tree(&path).await.unwrap();
    }
    host.write_file(&path, b"", 0o600).await.unwrap();
    for _ in 0..2 {
        host.remove_file(&path).await.unwrap();
    }
    assert_eq!(host.list_dir(dir).await.unwrap(), [] as [&str; 0]);
}

async fn a_file_is_grown_and_never_shrunk_and_truncated_and_never_grown(
    host: &dyn Host,
    dir: &Path,
) {
    let path = dir.join("disk");
    let bytes = async || host.stat(&path).await.unwrap().unwrap().bytes;
    host.grow_file(&path, 1 << 30).await.unwrap();
    assert_eq!(bytes().await, 1 << 30);
    let facts = host.stat(&path).await.unwrap().unwrap();
    assert!(facts.allocated_bytes < 1 << 20, "it is sparse");
    host.grow_file(&path, 1 << 20).await.unwrap();
    assert_eq!(bytes().await, 1 << 30);
    host.truncate_file(&path, 5).await.unwrap();
    assert_eq!(bytes().await, 5);
    host.truncate_file(&dir.join("none"), 5).await.unwrap_err();
}

async fn a_clone_has_the_same_bytes_and_never_overwrites(host: &dyn Host, dir: &Path) {
    let (from, to) = (dir.join("from"), dir.join("to"));
    host.write_file(&from, b"image", 0o600).await.unwrap();
    host.clone_file(&from, &to).await.unwrap();
    assert_eq!(host.read_file(&to).await.unwrap().unwrap(), b"image");
    host.clone_file(&dir.join("none"), &dir.join("other"))
        .await
        .unwrap_err();
    assert_eq!(host.stat(&dir.join("other")).await.unwrap(), None);
    host.write_file(&to, b"written since", 0o600).await.unwrap();
    host.clone_file(&from, &to).await.unwrap_err();
    assert_eq!(
        host.read_file(&to).await.unwrap().unwrap(),
        b"written since"
    );
}

async fn a_clone_reaches_a_file_system_of_another_kind(host: &dyn Host, dir: &Path) {
    // In memory, where the folder of the tests is on a disk.
    let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") else {
        return println!("skipped: there is no /dev/shm");
    };
    let from = dir.join("from");
    // A hole, some data that is more than one buffer, and a hole.
    let mut contents = vec![0; 6 << 20];
    contents[(2 << 20) + 3..(4 << 20) + 5].fill(7);
    host.write_file(&from, &contents, 0o600).await.unwrap();
    let (there, back) = (elsewhere.path().join("to"), dir.join("back"));
    host.clone_file(&from, &there).await.unwrap();
    host.clone_file(&there, &back).await.unwrap();
    assert!(host.read_file(&there).await.unwrap().unwrap() == contents);
    assert!(host.read_file(&back).await.unwrap().unwrap() == contents);
}

async fn the_head_of_a_file_is_no_longer_than_asked_and_a_missing_one_is_none(
    host: &dyn Host,
    dir: &Path,
) {
    let path = dir.join("file");
    host.write_file(&path, b"12345", 0o600).await.unwrap();
    let head = async |limit| host.read_head(&path, limit).await.unwrap().unwrap();
    assert_eq!(head(3).await, b"123");
    assert_eq!(head(99).await, b"12345");
    assert_eq!(host.read_head(&dir.join("none"), 9).await.unwrap(), None);
}

#[tokio::test]
async fn a_program_that_takes_too_long_is_ended_with_all_that_it_has_started() {
    let dir = tempfile::tempdir().unwrap();
    let host = linux();
    let token = dir.path().to_string_lossy().into_owned();
    let script = "sh -c 'trap \"\" TERM; while :; do sleep 0.05; done' \"$0\" & wait";
    let program = Program::new("sh")
        .args(["-c", script, &token])
        .timeout(Duration::from_millis(300));
    let error = host.run(&program).await.unwrap_err();
    assert!(
        matches!(error, HostError::ProgramTimeout { .. }),
        "{error:?}"
    );
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !host.find_processes(&token).await.unwrap().is_empty() {
        assert!(std::time::Instant::now() < deadline, "something runs on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn a_lock_is_held_once_until_it_is_dropped(host: &dyn Host, dir: &Path) {
    let path = dir.join("lock");
    let held = host.lock_file(&path).await.unwrap();
    assert!(held.is_some());
    assert!(host.lock_file(&path).await.unwrap().is_none());
    drop(held);
    assert!(host.lock_file(&path).await.unwrap().is_some());
}

async fn a_stat_tells_files_folders_and_sockets_apart(host: &dyn Host, dir: &Path) {
    host.write_file(&dir.join("file"), b"12345", 0o600)
        .await
        .unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap();
    let kind = async |name: &str| {
        let facts = host.stat(&dir.join(name)).await.unwrap().unwrap();
        (facts.is_dir, facts.is_socket)
    };
    assert_eq!(kind("file").await, (false, false));
    assert_eq!(kind(".").await, (true, false));
    assert_eq!(kind("socket").await, (false, true));
    assert_eq!(
        host.stat(&dir.join("file")).await.unwrap().unwrap().bytes,
        5
    );
    assert!(host.free_bytes(dir).await.unwrap() > 0);
}

async fn a_folder_is_synced_with_what_is_in_it(host: &dyn Host, dir: &Path) {
    host.write_file(&dir.join("file"), b"", 0o600)
        .await
        .unwrap();
    host.create_dir(&dir.join("folder")).await.unwrap();
    host.sync_dir(dir).await.unwrap();
    let error = host.sync_dir(&dir.join("none")).await.unwrap_err();
    assert_eq!(told(&error), (FileAct::Sync, ErrorKind::NotFound));
}

async fn a_process_is_found_by_what_is_on_its_command_line_until_it_is_killed(
    host: &dyn Host,
    dir: &Path,
) {
    let (process, token) = sleeper(host, dir).await;
    let found = host.find_processes(&token).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].identity, process);
    assert!(found[0].command_line.contains(&token));
    let facts = host.process(process.pid).await.unwrap().unwrap();
    assert_eq!(facts, found[0]);
    assert_eq!(
        host.find_processes("no such token at all").await.unwrap(),
        []
    );

    kill(host, &process).await;
    // It is a zombie now, on a real host, and that is gone.
    assert_eq!(
        host.wait_end(&process).await.unwrap(),
        ProcessEnd::Signaled(9)
    );
    assert_eq!(host.process(process.pid).await.unwrap(), None);
    assert_eq!(host.find_processes(&token).await.unwrap(), []);
    let again = host.signal(&process, ProcessSignal::Kill).await.unwrap();
    assert_eq!(again, Delivery::AlreadyGone);
}

async fn a_process_that_heeds_sigterm_ends_by_it(host: &dyn Host, dir: &Path) {
    let (process, _) = sleeper(host, dir).await;
    let sent = host.signal(&process, ProcessSignal::Term).await.unwrap();
    assert_eq!(sent, Delivery::Sent);
    // Whether it then exits (as QEMU does) or lets the signal end it is its own affair.
    let end = host.wait_end(&process).await.unwrap();
    assert_ne!(end, ProcessEnd::Unknown);
    assert_eq!(host.process(process.pid).await.unwrap(), None);
}

async fn the_end_of_a_child_is_told_once_and_then_it_is_only_gone(host: &dyn Host, dir: &Path) {
    let (process, _) = sleeper(host, dir).await;
    kill(host, &process).await;
    assert_eq!(
        host.wait_end(&process).await.unwrap(),
        ProcessEnd::Signaled(9)
    );
    assert_eq!(host.wait_end(&process).await.unwrap(), ProcessEnd::Unknown);
}

async fn everybody_who_waits_for_an_end_learns_of_it(host: &dyn Host, dir: &Path) {
    let (process, _) = sleeper(host, dir).await;
    let killed = async {
        // Both wait before it is killed: a wait that came later would be another contract.
        tokio::task::yield_now().await;
        kill(host, &process).await;
    };
    let limit = Duration::from_secs(10);
    let waits = async { tokio::join!(host.wait_end(&process), host.wait_end(&process), killed) };
    let (one, two, ()) = tokio::time::timeout(limit, waits)
        .await
        .expect("both learn of it");
    let mut ends = [one.unwrap(), two.unwrap()];
    ends.sort_by_key(|end| *end == ProcessEnd::Unknown);
    assert_eq!(ends, [ProcessEnd::Signaled(9), ProcessEnd::Unknown]);
}

async fn a_number_that_was_used_again_is_neither_signalled_nor_waited_for(
    host: &dyn Host,
    dir: &Path,
) {
    let (process, _) = sleeper(host, dir).await;
    let earlier = ProcessIdentity {
        pid: process.pid,
        start_time: process.start_time - 1,
    };
    for signal in [ProcessSignal::Term, ProcessSignal::Kill] {
        let sent = host.signal(&earlier, signal).await.unwrap();
        assert_eq!(sent, Delivery::AlreadyGone);
    }
    assert_eq!(host.wait_end(&earlier).await.unwrap(), ProcessEnd::Unknown);
    assert_eq!(
        host.listening_ports(&earlier).await.unwrap(),
        [] as [u16; 0]
    );
    assert!(
        host.process(process.pid).await.unwrap().is_some(),
        "it lives"
    );
    kill(host, &process).await;
}

async fn what_is_started_appends_to_its_log_and_needs_a_folder_for_it(host: &dyn Host, dir: &Path) {
    let log = dir.join("log");
    host.write_file(&log, b"before\n", 0o600).await.unwrap();
    let (process, _) = sleeper(host, dir).await;
    kill(host, &process).await;
    let text = host.read_file(&log).await.unwrap().unwrap();
    assert!(text.starts_with(b"before\n"));

    let nowhere = Detached {
        program: "tail".to_owned(),
        arguments: Vec::new(),
        log: dir.join("none").join("log"),
        walls: None,
        namespace: None,
        scope: None,
    };
    let error = host.spawn(&nowhere).await.unwrap_err();
    assert_eq!(told(&error), (FileAct::Write, ErrorKind::NotFound));
    std::fs::remove_file(&log).unwrap();
    let (process, _) = sleeper(host, dir).await;
    kill(host, &process).await;
    assert!(log.exists(), "it is made where it is missing");
}

async fn a_program_that_is_not_installed_is_named(host: &dyn Host, dir: &Path) {
    const NAME: &str = "no-such-program-anywhere";
    assert_eq!(host.find_program(NAME).await, None);
    assert!(host.find_program("tail").await.is_some());
    let detached = Detached {
        program: NAME.to_owned(),
        arguments: Vec::new(),
        log: dir.join("log"),
        walls: None,
        namespace: None,
        scope: None,
    };
    let errors = [
        host.run(&Program::new(NAME)).await.unwrap_err(),
        host.spawn(&detached).await.unwrap_err(),
    ];
    for error in errors {
        assert!(error.to_string().starts_with(NAME), "{error}");
        assert!(
            matches!(error, HostError::ProgramMissing { .. }),
            "{error:?}"
        );
        assert!(error.hint().is_some());
    }
}

async fn a_program_that_fails_has_a_status_and_is_no_error(host: &dyn Host, _dir: &Path) {
    let output = host.run(&Program::new("false")).await.unwrap();
    assert_eq!(output.status, 1);
    assert!(!output.success());
}

async fn a_socket_is_connected_to_only_if_somebody_listens(host: &dyn Host, dir: &Path) {
    let path = dir.join("socket");
    let limit = Duration::from_secs(5);
    let error = host.connect_unix(&path, limit).await.unwrap_err();
    assert_eq!(told(&error), (FileAct::Connect, ErrorKind::NotFound));
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    host.connect_unix(&path, limit).await.unwrap();
    listener.accept().await.unwrap();
    drop(listener);
    let error = host.connect_unix(&path, limit).await.unwrap_err();
    assert_eq!(
        told(&error),
        (FileAct::Connect, ErrorKind::ConnectionRefused)
    );
}

async fn a_process_that_listens_nowhere_or_is_gone_has_no_ports(host: &dyn Host, dir: &Path) {
    let (process, _) = sleeper(host, dir).await;
    assert_eq!(
        host.listening_ports(&process).await.unwrap(),
        [] as [u16; 0]
    );
    kill(host, &process).await;
    host.wait_end(&process).await.unwrap();
    assert_eq!(
        host.listening_ports(&process).await.unwrap(),
        [] as [u16; 0]
    );
}

async fn the_boot_has_an_id_that_stays(host: &dyn Host, _dir: &Path) {
    let id = host.boot_id().await.unwrap();
    assert!(!id.0.is_empty());
    assert_eq!(host.boot_id().await.unwrap(), id);
}

async fn a_process_in_a_scope_is_listed_with_it_and_ends_with_it(host: &dyn Host, dir: &Path) {
    if let Err(why) = host.scope_support().await {
        return println!("SKIP: {why}");
    }
    let scope = format!("banger-test-{}.scope", std::process::id());
    let (process, token) = sleeper_in(host, dir, Some(&scope)).await;
    let found = host.find_processes(&token).await.unwrap();
    assert_eq!(found[0].identity, process, "it is the very process");
    let listed = host.list_scopes(&scope[..12]).await.unwrap();
    assert!(listed.contains(&scope), "{listed:?}");
    assert_eq!(host.list_scopes("nobody-").await.unwrap(), [""; 0]);
    // A name is given once.
    let again = host.spawn(&sleeping(dir, Some(&scope))).await;
    assert!(matches!(again, Err(HostError::Scope { .. })), "{again:?}");
    assert!(host.process(process.pid).await.unwrap().is_some());
    for _ in 0..2 {
        host.remove_scope(&scope).await.unwrap();
        assert!(!host.list_scopes("").await.unwrap().contains(&scope));
    }
    let end = host.wait_end(&process).await.unwrap();
    assert_eq!(end, ProcessEnd::Signaled(9));
    // And then it is free.
    let (process, _) = sleeper_in(host, dir, Some(&scope)).await;
    kill(host, &process).await;
    host.remove_scope(&scope).await.unwrap();
}

async fn a_scope_that_cannot_be_made_is_told_as_such_and_nothing_is_started(
    host: &dyn Host,
    dir: &Path,
) {
    // No unit has such a name.
    let refused = host.spawn(&sleeping(dir, Some("no/such/unit"))).await;
    let error = refused.unwrap_err();
    assert!(matches!(error, HostError::Scope { .. }), "{error:?}");
    assert!(error.to_string().contains("no/such/unit"), "{error}");
    let token = dir.join("followed").to_string_lossy().into_owned();
    assert_eq!(host.find_processes(&token).await.unwrap(), []);
}

/// Starts a process that sleeps until it is ended, and returns what is found on its command line.
async fn sleeper(host: &dyn Host, dir: &Path) -> (ProcessIdentity, String) {
    sleeper_in(host, dir, None).await
}

fn sleeping(dir: &Path, scope: Option<&str>) -> Detached {
    Detached {
        program: "tail".to_owned(),
        arguments: vec!["-f".into(), dir.join("followed").into()],
        log: dir.join("log"),
        walls: None,
        namespace: None,
        scope: scope.map(scope_named),
    }
}

async fn sleeper_in(host: &dyn Host, dir: &Path, scope: Option<&str>) -> (ProcessIdentity, String) {
    let followed = dir.join("followed");
    host.write_file(&followed, b"", 0o600).await.unwrap();
    let process = host.spawn(&sleeping(dir, scope)).await.unwrap();
    let token = followed.to_string_lossy().into_owned();
    // The kernel fills the command line in a moment after `exec` has let the parent go on.
    while host.find_processes(&token).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    (process, token)
}

async fn kill(host: &dyn Host, process: &ProcessIdentity) {
    let sent = host.signal(process, ProcessSignal::Kill).await.unwrap();
    assert_eq!(sent, Delivery::Sent);
}

fn told(error: &HostError) -> (FileAct, ErrorKind) {
    match error {
        HostError::File { act, source, .. } => (*act, source.kind()),
        other => panic!("{other:?}"),
    }
}

fn scope_named(name: &str) -> ScopeSpec {
    ScopeSpec {
        name: name.to_owned(),
        memory_bytes: 256 << 20,
        tasks: 32,
        cpu_weight: 50,
    }
}
