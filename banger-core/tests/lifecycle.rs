//! The verbs, on the simulator: the real engine over a host that keeps its state in memory.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::sync::Arc;
use std::time::Duration;

use banger_core::{
    Condition, CreateRequest, Engine, EngineConfig, Error, ErrorKind, ExecEnd, ExecEvent,
    ExecRequest, FakeHost, ImageName, Internet, Lifetime, Mebibytes, ProcessEnd, Progress,
    PruneOutcome, Signal, StartOutcome, StopOutcome, StopRung, VmName,
};

fn name(text: &str) -> VmName {
    text.parse().unwrap()
}

async fn create(engine: &Engine, text: &str) -> banger_core::VMRecord {
    engine
        .create(CreateRequest::named(name(text)), &Progress::silent())
        .await
        .unwrap()
}

async fn start(engine: &Engine, text: &str) -> StartOutcome {
    engine.start(text, &Progress::silent()).await.unwrap()
}

async fn condition(engine: &Engine, text: &str) -> Condition {
    engine.show(text).await.unwrap().condition
}

/// Waits for what another task brings about.
async fn becomes(engine: &Engine, text: &str, wanted: Condition) {
    let reached = async {
        while condition(engine, text).await != wanted {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reached)
        .await
        .unwrap_or_else(|_| panic!("{text} never became {wanted}"));
}

struct Rig {
    host: Arc<FakeHost>,
    config: EngineConfig,
    _scratch: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mut config =
            EngineConfig::new(scratch.path().join("state"), scratch.path().join("run"));
        config.limits.signal = Duration::from_millis(200);
        // There is nobody in it to be asked.
        config.limits.power_off = Duration::ZERO;
        config.limits.ctrl_alt_del = Duration::ZERO;
        Rig {
            host: Arc::new(FakeHost::new()),
            config,
            _scratch: scratch,
        }
    }

    async fn open(&self) -> Engine {
        Engine::sim_over(&self.host, self.config.clone())
            .await
            .unwrap()
            .0
    }

    fn vm_folders(&self) -> Vec<String> {
        let folder = std::fs::read_dir(self.config.state_dir.join("vms")).unwrap();
        folder
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

#[tokio::test]
async fn a_vm_goes_through_its_life_and_verbs_say_what_they_changed() {
    let rig = Rig::new();
    let engine = rig.open().await;
    create(&engine, "box").await;
    assert_eq!(condition(&engine, "box").await, Condition::Created);

    assert!(matches!(
        start(&engine, "box").await,
        StartOutcome::Started(_)
    ));
    assert_eq!(condition(&engine, "box").await, Condition::Running);
    assert!(matches!(
        start(&engine, "box").await,
        StartOutcome::AlreadyRunning(_)
    ));
    assert_eq!(
        rig.host.living().len(),
        1,
        "one monitor, however often it is started"
    );

    let stopped = engine.stop("box").await.unwrap();
    assert!(
        matches!(stopped, StopOutcome::Stopped { .. }),
        "{stopped:?}"
    );
    assert_eq!(condition(&engine, "box").await, Condition::Stopped);
    assert!(matches!(
        engine.stop("box").await.unwrap(),
        StopOutcome::AlreadyStopped(_)
    ));

    start(&engine, "box").await;
    let StopOutcome::Stopped { by, .. } = engine.kill("box").await.unwrap() else {
        panic!("it ran");
    };
    assert_eq!(by, StopRung::Killed);

    engine.delete("box").await.unwrap();
    assert_eq!(engine.list().await.unwrap(), []);
    assert_eq!(rig.host.living().len(), 0);
    assert_eq!(rig.vm_folders(), Vec::<String>::new());
    let error = engine.delete("box").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_running_vm_is_deleted_with_everything_it_held() {
    let rig = Rig::new();
    let engine = rig.open().await;
    create(&engine, "box").await;
    start(&engine, "box").await;
    engine.delete("box").await.unwrap();
    assert_eq!(rig.host.living().len(), 0);
    assert_eq!(rig.vm_folders(), Vec::<String>::new());
}

#[tokio::test]
async fn restart_gives_it_another_process_and_start_after_it_changes_nothing() {
    let rig = Rig::new();
    let engine = rig.open().await;
    create(&engine, "box").await;
    start(&engine, "box").await;
    let before = rig.host.living()[0].identity.clone();
    engine.restart("box", &Progress::silent()).await.unwrap();
    let after = rig.host.living();
    assert_eq!(after.len(), 1);
    assert_ne!(after[0].identity, before);
    assert!(matches!(
        start(&engine, "box").await,
        StartOutcome::AlreadyRunning(_)
    ));
}

#[tokio::test]
async fn of_twenty_creations_of_one_name_at_once_exactly_one_wins() {
    let engine = Engine::sim().await.unwrap();
    let mut creations = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let engine = engine.clone();
        creations.spawn(async move {
            let request = CreateRequest::named(name("box"));
            engine.create(request, &Progress::silent()).await
        });
    }
    let done = creations.join_all().await;
    assert_eq!(done.iter().filter(|made| made.is_ok()).count(), 1);
    for error in done.into_iter().filter_map(Result::err) {
        assert_eq!(error.kind(), ErrorKind::NameTaken, "{error}");
        assert!(error.hint().unwrap().contains("banger vm delete box"));
    }
    assert_eq!(engine.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_request_that_makes_no_sense_is_refused_and_names_the_range() {
    let engine = Engine::sim().await.unwrap();
    let requests = [
        CreateRequest {
            vcpus: Some(0),
            ..CreateRequest::default()
        },
        CreateRequest {
            memory: Some(Mebibytes(0)),
            ..CreateRequest::default()
        },
        CreateRequest {
            memory: Some("10T".parse().unwrap()),
            ..CreateRequest::default()
        },
        CreateRequest {
            work_disk: Some(Mebibytes(1)),
            ..CreateRequest::default()
        },
    ];
    for request in requests {
        let error = engine
            .create(request, &Progress::silent())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(" must be "), "{error}");
    }
    assert_eq!(engine.list().await.unwrap(), []);
}

#[tokio::test]
async fn a_monitor_that_dies_at_once_fails_the_start_and_leaves_the_vm_as_it_was() {
    let rig = Rig::new();
    let engine = rig.open().await;
    create(&engine, "box").await;
    rig.host.spawned_processes_end_at_once(true);
    let error = engine.start("box", &Progress::silent()).await.unwrap_err();
    let Error::Start { undo_failures, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(undo_failures, &[] as &[String]);
    let view = engine.show("box").await.unwrap();
    assert_eq!(view.condition, Condition::Created);
    assert!(view.vm.runtime.last_error.is_some());
    assert!(!view.vm.runtime.vm_dir.join("handles.json").exists());

    rig.host.spawned_processes_end_at_once(false);
    start(&engine, "box").await;
    let view = engine.show("box").await.unwrap();
    assert_eq!(view.vm.runtime.last_error, None);
}

#[tokio::test]
async fn a_vm_that_ends_by_itself_is_noticed_and_shown_with_the_reason() {
    let rig = Rig::new();
    let engine = rig.open().await;
    create(&engine, "box").await;
    start(&engine, "box").await;
    let pid = rig.host.living()[0].identity.pid;
    rig.host.end(pid, ProcessEnd::Signaled(11));
    becomes(&engine, "box", Condition::Stopped).await;
    let reason = engine.show("box").await.unwrap().vm.runtime.stop_reason;
    assert!(reason.unwrap().contains("signal 11"));
    start(&engine, "box").await;
}

#[tokio::test]
async fn a_monitor_whose_guest_is_not_to_be_asked_is_terminated_and_one_that_will_not_is_killed() {
    for (ignores_term, expected) in [(false, StopRung::Terminated), (true, StopRung::Killed)] {
        let rig = Rig::new();
        rig.host.spawned_processes_ignore_term(ignores_term);
        let engine = rig.open().await;
        create(&engine, "box").await;
        start(&engine, "box").await;
        let StopOutcome::Stopped { by, .. } = engine.stop("box").await.unwrap() else {
            panic!("it ran");
        };
        assert_eq!(by, expected);
    }
}

/// A guest that is asked, and does nothing: the simulator's has no keys.
async fn deaf(limit: Duration) -> (Rig, Engine) {
    let mut rig = Rig::new();
    rig.config.limits.ctrl_alt_del = limit;
    let engine = rig.open().await;
    create(&engine, "box").await;
    start(&engine, "box").await;
    (rig, engine)
}

#[tokio::test]
async fn a_stop_whose_guest_does_not_end_fails_and_the_vm_runs_on() {
    let (rig, engine) = deaf(Duration::from_millis(50)).await;
    let pid = rig.host.living()[0].identity.pid;
    for error in [
        engine.stop("box").await.unwrap_err(),
        engine
            .restart("box", &Progress::silent())
            .await
            .unwrap_err(),
    ] {
        assert!(matches!(error, Error::DoesNotEnd { .. }), "{error:?}");
        let hint = error.hint().unwrap();
        assert!(hint.contains("banger vm kill box"), "{hint}");
    }
    assert_eq!(condition(&engine, "box").await, Condition::Running);
    assert_eq!(rig.host.living()[0].identity.pid, pid);
}

#[tokio::test]
async fn a_guest_that_has_halted_is_ended_because_nothing_is_lost_by_it() {
    let (_rig, engine) = deaf(Duration::from_millis(50)).await;
    let log = engine.show("box").await.unwrap().vm.runtime.log_path;
    std::fs::write(log, "[   12.3] reboot: System halted\r\n").unwrap();
    let StopOutcome::Stopped { by, .. } = engine.stop("box").await.unwrap() else {
        panic!("it ran");
    };
    assert_eq!(by, StopRung::Terminated);
}

#[tokio::test]
async fn a_kill_and_a_delete_cut_a_stop_in_progress_short() {
    // Longer than any test: whoever waits for the stop waits for ever.
    let (_rig, engine) = deaf(Duration::from_secs(1 << 20)).await;
    let mut cut = 0;
    while cut < 2 {
        start(&engine, "box").await;
        let stopping = tokio::spawn({
            let engine = engine.clone();
            async move { engine.stop("box").await }
        });
        // Which of the two comes first is not ours to say.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let ended = async {
            if cut == 1 {
                engine.delete("box").await.unwrap();
                return;
            }
            let StopOutcome::Stopped { by, vm } = engine.kill("box").await.unwrap() else {
                panic!("it ran");
            };
            assert_eq!(by, StopRung::Killed);
            let reason = vm.runtime.stop_reason.unwrap();
            assert!(reason.contains("killed"), "{reason}");
        };
        tokio::time::timeout(Duration::from_secs(60), ended)
            .await
            .expect("it waited for the stop");
        match stopping.await.unwrap() {
            Err(Error::StopCutShort { .. }) => cut += 1,
            // It came too late: once more.
            Ok(StopOutcome::AlreadyStopped(_)) => {}
            Err(Error::NoSuchVm { .. }) => drop(create(&engine, "box").await),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_second_engine_on_one_state_folder_is_refused_until_the_first_is_gone() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let error = Engine::sim_over(&rig.host, rig.config.clone())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    drop(engine);
    rig.open().await;
}

#[tokio::test]
async fn a_vm_outlives_its_engine_and_is_taken_up_by_the_next() {
    let rig = Rig::new();
    let engine = rig.open().await;
    create(&engine, "box").await;
    start(&engine, "box").await;
    drop(engine);
    assert_eq!(rig.host.living().len(), 1, "dropping the engine ends no VM");

    let (engine, report) = Engine::sim_over(&rig.host, rig.config.clone())
        .await
        .unwrap();
    assert_eq!(report.lines.len(), 1, "{report}");
    assert_eq!(report.lines[0].action, "kept");
    assert_eq!(condition(&engine, "box").await, Condition::Running);
    let pid = rig.host.living()[0].identity.pid;
    rig.host.end(pid, ProcessEnd::Exited(0));
    becomes(&engine, "box", Condition::Stopped).await;
}

#[tokio::test]
async fn a_lost_handles_file_costs_no_truth() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let vm = create(&engine, "box").await;
    start(&engine, "box").await;
    drop(engine);
    let file = vm.runtime.vm_dir.join("handles.json");
    let before = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let engine = rig.open().await;
    assert_eq!(condition(&engine, "box").await, Condition::Running);
    let pid = |bytes: &[u8]| {
        let json: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        json["pid"].as_u64().unwrap()
    };
    assert_eq!(
        pid(&std::fs::read(&file).unwrap()),
        pid(&before),
        "found again from the host"
    );
}

#[tokio::test]
async fn a_handles_file_that_names_an_innocent_process_never_harms_it() {
    let rig = Rig::new();
    let engine = rig.open().await;
    create(&engine, "box").await;
    start(&engine, "box").await;
    let monitor = rig.host.living()[0].identity.clone();
    drop(engine);
    rig.host.end(monitor.pid, ProcessEnd::Exited(0));
    let innocent = rig.host.add_stranger(monitor.pid, "/usr/bin/somebody-else");
    let engine = rig.open().await;
    assert_eq!(condition(&engine, "box").await, Condition::Stopped);
    engine.delete("box").await.unwrap();
    let living = rig.host.living();
    assert_eq!(living.len(), 1);
    assert_eq!(living[0].identity, innocent);
}

#[tokio::test]
async fn after_the_host_was_restarted_nothing_is_running_and_the_reason_says_so() {
    let rig = Rig::new();
    let engine = rig.open().await;
    create(&engine, "box").await;
    start(&engine, "box").await;
    drop(engine);
    rig.host.reboot();
    let engine = rig.open().await;
    let view = engine.show("box").await.unwrap();
    assert_eq!(view.condition, Condition::Stopped);
    assert_eq!(
        view.vm.runtime.stop_reason.as_deref(),
        Some("the host was restarted")
    );
    start(&engine, "box").await;
}

#[tokio::test]
async fn an_ephemeral_vm_does_not_outlive_the_engine_that_held_it() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let request = CreateRequest {
        lifetime: Some(Lifetime::Ephemeral),
        ..CreateRequest::named(name("box"))
    };
    engine.create(request, &Progress::silent()).await.unwrap();
    let asked = engine.reconcile().await.unwrap();
    assert!(!asked.changed(), "its client has yet to start it: {asked}");
    start(&engine, "box").await;
    assert!(!engine.reconcile().await.unwrap().changed(), "it is held");
    drop(engine);
    let engine = rig.open().await;
    assert_eq!(engine.list().await.unwrap(), []);
    assert_eq!(rig.host.living().len(), 0);
}

#[tokio::test]
async fn a_folder_without_a_record_is_shown_and_never_removed() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let vm = create(&engine, "box").await;
    engine.close().await;
    for file in ["banger.db", "banger.db-wal", "banger.db-shm"] {
        let _ = std::fs::remove_file(rig.config.state_dir.join(file));
    }
    let (engine, report) = Engine::sim_over(&rig.host, rig.config.clone())
        .await
        .unwrap();
    assert_eq!(report.lines[0].action, "orphan", "{report}");
    assert!(vm.runtime.vm_dir.join("work.ext4").exists());
    assert_eq!(engine.list().await.unwrap(), []);
}

#[tokio::test]
async fn a_record_whose_files_are_gone_is_an_error_and_can_be_deleted() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let vm = create(&engine, "box").await;
    drop(engine);
    std::fs::remove_dir_all(&vm.runtime.vm_dir).unwrap();
    let engine = rig.open().await;
    assert_eq!(condition(&engine, "box").await, Condition::Error);
    assert!(!engine.reconcile().await.unwrap().changed(), "said once");
    engine.delete("box").await.unwrap();
    create(&engine, "box").await;
}

#[tokio::test]
async fn a_vm_is_found_by_the_beginning_of_its_id() {
    let engine = Engine::sim().await.unwrap();
    let vm = create(&engine, "box").await;
    let found = engine.lookup(&vm.id.as_str()[..6]).await.unwrap();
    assert_eq!(found.name, vm.name);
    let error = engine.lookup("nobody").await.unwrap_err();
    assert_eq!(error.to_string(), "there is no VM \"nobody\"");
}

#[tokio::test]
async fn an_unknown_image_is_named_on_a_real_engine_before_anything_is_made() {
    let scratch = tempfile::tempdir().unwrap();
    let config = EngineConfig::new(scratch.path().join("state"), scratch.path().join("run"));
    let (engine, _) = Engine::open(config).await.unwrap();
    let request = CreateRequest {
        image: Some("nothing".parse::<ImageName>().unwrap()),
        ..CreateRequest::named(name("box"))
    };
    match engine.create(request, &Progress::silent()).await {
        Err(Error::NoSuchImage { name }) => assert_eq!(name.as_str(), "nothing"),
        // Without QEMU the request is refused earlier, and as clearly.
        Err(Error::Unusable { .. }) => {}
        other => panic!("{other:?}"),
    }
}

fn sh(script: &str) -> ExecRequest {
    ExecRequest::new(["sh", "-c", script])
}

#[tokio::test]
async fn a_command_runs_in_the_guest_with_its_own_status_and_streams() {
    let engine = Engine::sim().await.unwrap();
    create(&engine, "box").await;
    start(&engine, "box").await;
    let run = async |script: &str| engine.exec_output("box", &sh(script)).await.unwrap();

    let output = run("echo out; echo err >&2; exit 42").await;
    assert_eq!(output.end, ExecEnd::Exited(42));
    assert_eq!(
        (&output.stdout[..], &output.stderr[..]),
        (&b"out\n"[..], &b"err\n"[..])
    );
    assert_eq!(run("kill -9 $$").await.end, ExecEnd::Exited(137));
    assert_eq!(run("exit 255").await.end, ExecEnd::Exited(255));
    let missing = ExecRequest::new(["no-such-program"]);
    let missing = engine.exec_output("box", &missing).await.unwrap();
    assert_eq!(missing.end, ExecEnd::Exited(127));
    let mut nowhere = sh("true");
    nowhere.cwd = Some(b"/nowhere".to_vec());
    let nowhere = engine.exec_output("box", &nowhere).await.unwrap();
    assert_eq!(nowhere.end, ExecEnd::NoSuchFolder);
}

#[tokio::test]
async fn a_background_child_that_keeps_the_streams_open_delays_nothing() {
    let engine = Engine::sim().await.unwrap();
    create(&engine, "box").await;
    start(&engine, "box").await;
    let request = sh("sleep 60 & echo hi");
    let output = tokio::time::timeout(Duration::from_secs(20), engine.exec_output("box", &request));
    let output = output
        .await
        .expect("it does not wait for the child")
        .unwrap();
    assert_eq!(output.stdout, b"hi\n");
}

#[tokio::test]
async fn a_signal_reaches_the_whole_group_and_is_the_status() {
    let engine = Engine::sim().await.unwrap();
    create(&engine, "box").await;
    start(&engine, "box").await;
    for (signal, status) in [(Signal::TERM, 143), (Signal::KILL, 137)] {
        let mut execution = engine
            .exec("box", &sh("sleep 600 & echo ready; wait; sleep 600"))
            .await
            .unwrap();
        let signaller = execution.signaller();
        loop {
            match execution.next().await {
                ExecEvent::Stdout(_) => signaller.send(signal).await.unwrap(),
                ExecEvent::Ended(end) => {
                    assert_eq!(end, ExecEnd::Exited(status));
                    break;
                }
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn what_is_written_to_a_command_arrives_whole_and_its_end_too() {
    let engine = Engine::sim().await.unwrap();
    create(&engine, "box").await;
    start(&engine, "box").await;
    let mut execution = engine.exec("box", &sh("sha256sum")).await.unwrap();
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    execution.write_stdin(&bytes).await.unwrap();
    execution.close_stdin();
    let mut printed = Vec::new();
    loop {
        match execution.next().await {
            ExecEvent::Stdout(piece) => printed.extend(piece),
            ExecEvent::Ended(end) => {
                assert_eq!(end, ExecEnd::Exited(0));
                break;
            }
            _ => {}
        }
    }
    let direct = std::process::Command::new("sha256sum")
        .stdin({
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("bytes");
            std::fs::write(&path, &bytes).unwrap();
            std::fs::File::open(path).unwrap()
        })
        .output()
        .unwrap();
    assert_eq!(printed, direct.stdout);
}

#[tokio::test]
async fn a_guest_that_powers_itself_off_is_stopped_and_one_that_reboots_runs_again() {
    let engine = Engine::sim().await.unwrap();
    create(&engine, "box").await;
    start(&engine, "box").await;
    let run_before = engine.lookup("box").await.unwrap().runtime.run_id;
    let _ = engine.exec_output("box", &sh("reboot")).await;
    let again = async {
        loop {
            let vm = engine.show("box").await.unwrap();
            let run = &vm.vm.runtime.run_id;
            if vm.condition == Condition::Running && run.is_some() && *run != run_before {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), again)
        .await
        .expect("it runs again");

    let _ = engine.exec_output("box", &sh("poweroff")).await;
    becomes(&engine, "box", Condition::Stopped).await;
    let reason = engine.show("box").await.unwrap().vm.runtime.stop_reason;
    assert_eq!(reason.as_deref(), Some("the guest powered itself off"));
}

#[tokio::test]
async fn a_stop_asks_the_guest_first_and_what_it_wrote_is_there_after_start() {
    let engine = Engine::sim().await.unwrap();
    create(&engine, "box").await;
    start(&engine, "box").await;
    engine
        .exec_output("box", &sh("echo precious > /root/file"))
        .await
        .unwrap();
    let StopOutcome::Stopped { by, .. } = engine.stop("box").await.unwrap() else {
        panic!("it ran");
    };
    assert_eq!(by, StopRung::PoweredOff);
    start(&engine, "box").await;
    let output = engine
        .exec_output("box", &sh("cat /root/file"))
        .await
        .unwrap();
    assert_eq!(output.stdout, b"precious\n");
}

#[tokio::test]
async fn a_command_in_a_vm_that_does_not_run_is_refused_with_the_next_step() {
    let engine = Engine::sim().await.unwrap();
    create(&engine, "box").await;
    let error = engine.exec_output("box", &sh("true")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotRunning);
    assert_eq!(error.to_string(), "VM box is not running (created)");
    assert_eq!(error.hint().unwrap(), "start it: banger vm start box");
}

#[tokio::test]
async fn only_a_vm_that_is_stopped_when_its_turn_comes_is_pruned() {
    let engine = Engine::sim().await.unwrap();
    for vm in ["made", "runs", "over"] {
        create(&engine, vm).await;
    }
    start(&engine, "runs").await;
    start(&engine, "over").await;
    engine.kill("over").await.unwrap();
    for (vm, outcome) in [
        ("made", PruneOutcome::Left(name("made"))),
        ("runs", PruneOutcome::Left(name("runs"))),
        ("over", PruneOutcome::Deleted(name("over"))),
    ] {
        assert_eq!(engine.delete_stopped(vm).await.unwrap(), outcome);
    }
    let left: Vec<_> = engine.list().await.unwrap();
    assert_eq!(left.len(), 2);
}

#[tokio::test]
async fn a_guest_reaches_the_internet_only_if_it_or_the_configuration_says_so() {
    let scratch = tempfile::tempdir().unwrap();
    let mut config = EngineConfig::new(scratch.path().join("state"), scratch.path().join("run"));
    for (default, asked, got) in [
        (Internet::Closed, None, Internet::Closed),
        (Internet::Closed, Some(Internet::Open), Internet::Open),
        (Internet::Open, None, Internet::Open),
        (Internet::Open, Some(Internet::Closed), Internet::Closed),
    ] {
        config.defaults.internet = default;
        let host = Arc::new(FakeHost::new());
        let (engine, _) = Engine::sim_over(&host, config.clone()).await.unwrap();
        let request = CreateRequest {
            internet: asked,
            ..CreateRequest::named(name("box"))
        };
        let vm = engine.create(request, &Progress::silent()).await.unwrap();
        assert_eq!(vm.spec.internet, got, "{default:?} {asked:?}");
        engine.delete("box").await.unwrap();
        engine.close().await;
    }
}

#[tokio::test]
async fn a_state_folder_of_another_user_s_is_refused_and_stays_as_it_is() {
    use std::os::unix::fs::{MetadataExt, chown};
    let scratch = tempfile::tempdir().unwrap();
    let state = scratch.path().join("state");
    std::fs::create_dir(&state).unwrap();
    if chown(&state, Some(65534), None).is_err() {
        eprintln!("skipped: only root can give a folder to somebody else");
        return;
    }
    let before = std::fs::metadata(&state).unwrap().mode();
    let config = banger_core::EngineConfig::new(&state, scratch.path().join("run"));
    let error = banger_core::Engine::open(config).await.unwrap_err();
    assert_eq!(error.kind(), banger_core::ErrorKind::Denied, "{error}");
    assert!(
        error.to_string().contains("belongs to user 65534"),
        "{error}"
    );
    assert_eq!(std::fs::metadata(&state).unwrap().mode(), before);
    assert_eq!(std::fs::read_dir(&state).unwrap().count(), 0);
}

#[tokio::test]
async fn what_an_engine_keeps_is_nobody_else_s_to_read_also_where_it_was() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = tempfile::tempdir().unwrap();
    let state = scratch.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let open = async || {
        let config = banger_core::EngineConfig::new(&state, scratch.path().join("run"));
        let host = std::sync::Arc::new(banger_core::FakeHost::new());
        banger_core::Engine::sim_over(&host, config)
            .await
            .unwrap()
            .0
    };
    let widened = |path: &std::path::Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    widened(&state);
    let engine = open().await;
    let database = std::fs::read_dir(&state)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            path.extension()
                .is_some_and(|end| end == "db" || end == "sqlite")
        })
        .expect("a database");
    assert_eq!((mode(&state), mode(&database)), (0o700, 0o600));
    engine.close().await;
    // As an older one left it.
    widened(&state);
    widened(&database);
    let engine = open().await;
    assert_eq!((mode(&state), mode(&database)), (0o700, 0o600));
    engine.close().await;
}

#[tokio::test]
async fn a_command_that_prints_without_end_is_given_up_and_named() {
    let engine = Engine::sim().await.unwrap();
    create(&engine, "box").await;
    start(&engine, "box").await;
    let request = banger_core::ExecRequest::new(["cat", "/dev/zero"]);
    let error = engine.exec_output("box", &request).await.unwrap_err();
    assert!(error.to_string().contains("64 MiB"), "{error}");
    engine.delete("box").await.unwrap();
}
