//! The verbs, on the simulator: the real engine over a host that keeps its state in memory.

use std::sync::Arc;
use std::time::Duration;

use banger_core::{
    Condition, CreateRequest, Engine, EngineConfig, Error, ErrorKind, FakeHost, ImageName,
    Lifetime, Mebibytes, ProcessEnd, Progress, StartOutcome, StopOutcome, StopRung, VmName,
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
        config.limits.power_off = Duration::from_millis(200);
        config.limits.ctrl_alt_del = Duration::from_millis(50);
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
async fn a_guest_that_does_not_answer_is_terminated_and_one_that_will_not_is_killed() {
    for (ignores_term, expected) in [(false, StopRung::Terminated), (true, StopRung::Killed)] {
        let rig = Rig::new();
        rig.host.spawned_processes_ignore_term(ignores_term);
        let mut config = rig.config.clone();
        config.limits.power_off = Duration::ZERO;
        let (engine, _) = Engine::sim_over(&rig.host, config).await.unwrap();
        create(&engine, "box").await;
        start(&engine, "box").await;
        // A guest without a way in: nothing but its monitor is left to talk to.
        let StopOutcome::Stopped { by, .. } = engine.stop("box").await.unwrap() else {
            panic!("it ran");
        };
        assert_eq!(by, expected);
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
