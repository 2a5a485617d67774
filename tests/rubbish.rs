//! A monitor that answers rubbish, over a stand-in that runs nothing: its own VM's verb fails with the reason,
//! and can be killed and deleted; nobody else notices.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use banger_core::{
    Condition, CreateRequest, DiskKind, Engine, EngineConfig, LinuxHost, LinuxHostConfig,
    Mebibytes, NetworkKind, Progress, StopOutcome, StopRung, VMRecord, VmmKind,
};
use banger_tests::folder_with_a_stand_in;

const KINDS: [(VmmKind, &str); 2] = [
    (VmmKind::Qemu, "qemu-system-x86_64"),
    (VmmKind::Firecracker, "firecracker"),
];

const WORDS: [&str; 6] = ["garbage", "half", "endless", "shape", "hangs-up", "flood"];

/// How long a monitor's answer is waited for here.
const LIMIT: Duration = Duration::from_millis(500);

/// Longer than a limit or two, whatever else this machine does; shorter than for ever.
const SOON: Duration = Duration::from_secs(20);

/// An engine's folders, an image of nothing, and monitors that babble when they are told to.
struct Stage {
    kind: VmmKind,
    folder: tempfile::TempDir,
}

impl Stage {
    fn new((kind, program): (VmmKind, &str)) -> Self {
        let folder = folder_with_a_stand_in("babbling_monitor", program);
        Stage { kind, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn open(&self) -> Engine {
        let mut config = EngineConfig::new(self.path("state"), self.path("run"));
        let mut host = LinuxHostConfig::default();
        host.program_folders.insert(0, self.path("bin"));
        // Nothing here runs a guest.
        host.kvm = Some(Ok(()));
        config.host = Arc::new(LinuxHost::new(host));
        config.limits.control = LIMIT;
        config.limits.power_off = Duration::ZERO;
        config.limits.ctrl_alt_del = Duration::ZERO;
        soon("opening", Engine::open(config))
            .await
            .expect("it opens")
            .0
    }

    async fn create(&self, engine: &Engine, name: &str) {
        let request = CreateRequest {
            vmm: Some(self.kind),
            disk: Some(DiskKind::File),
            network: Some(NetworkKind::None),
            work_disk: Some(Mebibytes(16)),
            ..CreateRequest::named(name.parse().expect("a valid name"))
        };
        let made = engine.create(request, &Progress::silent()).await;
        made.expect("it is created");
    }

    /// What those monitors say that are started from now on.
    fn all_babble(&self, word: Option<&str>) {
        let file = self.path("bin/babble");
        match word {
            Some(word) => std::fs::write(file, word).expect("a file"),
            None => std::fs::remove_file(file).expect("a file"),
        }
    }
}

/// What a VM's monitor says from now on.
fn babbles(vm: &VMRecord, word: &str) {
    let file = vm.runtime.api_sock_path.with_file_name("babble");
    // In one step: it is read at any time.
    let aside = file.with_extension("aside");
    std::fs::write(&aside, word).expect("a file");
    std::fs::rename(aside, file).expect("it is ours");
}

async fn soon<T>(what: &str, act: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, act).await {
        Ok(done) => done,
        Err(_) => panic!("{what} hangs"),
    }
}

async fn start(engine: &Engine, name: &str) -> VMRecord {
    let silent = Progress::silent();
    let started = soon("start", engine.start(name, &silent)).await;
    started.expect("it starts").vm().clone()
}

async fn condition(engine: &Engine, name: &str) -> Condition {
    let shown = soon("show", engine.show(name)).await;
    shown.expect("it is there").condition
}

async fn becomes(engine: &Engine, name: &str, wanted: Condition) {
    let deadline = Instant::now() + SOON;
    loop {
        let now = condition(engine, name).await;
        if now == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{name} stays {now}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn is_clean(engine: &Engine) {
    let inventory = soon("prove", engine.prove()).await.expect("it proves");
    assert!(inventory.is_clean(), "{inventory}");
}

#[tokio::test]
async fn a_start_whose_monitor_babbles_fails_in_time_with_the_reason_and_is_undone() {
    for kind in KINDS {
        let stage = Stage::new(kind);
        let engine = stage.open().await;
        stage.create(&engine, "beside").await;
        stage.create(&engine, "box").await;
        start(&engine, "beside").await;
        for word in WORDS {
            let what = format!("{} {word}", kind.0);
            stage.all_babble(Some(word));
            let (silent, asked) = (Progress::silent(), Instant::now());
            let failed = soon(&what, engine.start("box", &silent)).await;
            let error = failed.expect_err("a monitor that babbles is none");
            let chain = error.chain().join(": ");
            println!("{what} {:?}: {chain}", asked.elapsed());
            assert!(chain.contains("box"), "{what}: {chain}");
            assert!(chain.contains(kind.0.as_str()), "{what}: {chain}");
            assert!(chain.len() < 500, "{what}: {chain}");
            assert_eq!(condition(&engine, "box").await, Condition::Created);
            assert_eq!(condition(&engine, "beside").await, Condition::Running);
            is_clean(&engine).await;
        }
        stage.all_babble(None);
        start(&engine, "box").await;
        for name in ["box", "beside"] {
            soon("delete", engine.delete(name)).await.expect("it goes");
        }
    }
}

#[tokio::test]
async fn a_vm_whose_monitor_begins_to_babble_is_unresponsive_and_never_gone_and_can_be_ended() {
    for kind in KINDS {
        let stage = Stage::new(kind);
        let engine = stage.open().await;
        stage.create(&engine, "beside").await;
        start(&engine, "beside").await;
        for (number, word) in ["garbage", "endless", "hangs-up"].into_iter().enumerate() {
            let what = format!("{} {word}", kind.0);
            let name = format!("box{number}");
            stage.create(&engine, &name).await;
            let vm = start(&engine, &name).await;
            babbles(&vm, word);
            becomes(&engine, &name, Condition::Unresponsive).await;
            // It lives: what reconcile and proof see of it is as it was.
            let report = soon("reconcile", engine.reconcile()).await;
            assert!(!report.expect("it reconciles").changed(), "{what}");
            is_clean(&engine).await;
            assert_eq!(condition(&engine, &name).await, Condition::Unresponsive);
            assert_eq!(condition(&engine, "beside").await, Condition::Running);
            let ended = match number {
                0 => soon("kill", engine.kill(&name)).await,
                _ => soon("stop", engine.stop(&name)).await,
            };
            let Ok(StopOutcome::Stopped { by, .. }) = ended else {
                panic!("{what}: {ended:?}");
            };
            assert_eq!(by == StopRung::Killed, number == 0, "{what}: {by:?}");
            start(&engine, &name).await;
            assert_eq!(condition(&engine, &name).await, Condition::Running);
            soon("delete", engine.delete(&name)).await.expect("it goes");
            is_clean(&engine).await;
        }
        soon("delete", engine.delete("beside"))
            .await
            .expect("it goes");
    }
}

#[tokio::test]
async fn an_engine_opens_over_a_monitor_that_babbles_and_deletes_its_vm() {
    for kind in KINDS {
        let stage = Stage::new(kind);
        for word in WORDS {
            let what = format!("{} {word}", kind.0);
            let engine = stage.open().await;
            stage.create(&engine, "box").await;
            let vm = start(&engine, "box").await;
            engine.close().await;
            babbles(&vm, word);
            let engine = stage.open().await;
            becomes(&engine, "box", Condition::Unresponsive).await;
            is_clean(&engine).await;
            println!("{what}: unresponsive");
            soon("delete", engine.delete("box")).await.expect("it goes");
            is_clean(&engine).await;
            engine.close().await;
        }
    }
}

#[tokio::test]
async fn a_monitor_that_has_come_to_its_senses_is_spoken_to_again() {
    for kind in KINDS {
        let stage = Stage::new(kind);
        let engine = stage.open().await;
        stage.create(&engine, "box").await;
        let vm = start(&engine, "box").await;
        babbles(&vm, "hangs-up");
        becomes(&engine, "box", Condition::Unresponsive).await;
        let file = vm.runtime.api_sock_path.with_file_name("babble");
        std::fs::remove_file(file).expect("it is there");
        becomes(&engine, "box", Condition::Running).await;
        soon("delete", engine.delete("box")).await.expect("it goes");
    }
}
