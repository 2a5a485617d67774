//! Dies at every call of every verb, before and after the call's effect, and looks at what the next
//! engine makes of it. The calls are those that the verb makes, so that a new step cannot be forgotten.
//!
//! `docs/crash-matrix.md` is what this prints; the test fails when that file is stale. To write it anew:
//! `BANGER_BLESS=1 cargo test -p banger-core --test crash_matrix`.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use banger_core::{
    Condition, Crash, CreateRequest, Engine, EngineConfig, Error, ErrorKind, FakeHost, Progress,
    VmName,
};

/// A verb, what has been done before it, and what may be true after a crash in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Create,
    Start,
    Stop,
    Kill,
    Restart,
    Delete,
    Reconcile,
}

const VERBS: [Verb; 7] = [
    Verb::Create,
    Verb::Start,
    Verb::Stop,
    Verb::Kill,
    Verb::Restart,
    Verb::Delete,
    Verb::Reconcile,
];

impl Verb {
    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// Does it to the VM `box`.
    async fn run(self, engine: &Engine) -> Result<(), Error> {
        let silent = Progress::silent();
        match self {
            Verb::Create => engine.create(request("box"), &silent).await.map(drop),
            Verb::Start => engine.start("box", &silent).await.map(drop),
            Verb::Stop => engine.stop("box").await.map(drop),
            Verb::Kill => engine.kill("box").await.map(drop),
            Verb::Restart => engine.restart("box", &silent).await.map(drop),
            Verb::Delete => engine.delete("box").await.map(drop),
            Verb::Reconcile => engine.reconcile().await.map(drop),
        }
    }

    /// What the VM may be afterwards: the wish, or what it was. None means that it does not exist.
    fn allowed(self) -> &'static [Option<Condition>] {
        match self {
            Verb::Create => &[None, Some(Condition::Created)],
            Verb::Start => &[Some(Condition::Created), Some(Condition::Running)],
            Verb::Stop | Verb::Kill => &[Some(Condition::Running), Some(Condition::Stopped)],
            Verb::Restart => &[Some(Condition::Running), Some(Condition::Stopped)],
            Verb::Delete => &[Some(Condition::Running), Some(Condition::Stopped), None],
            Verb::Reconcile => &[Some(Condition::Stopped)],
        }
    }
}

/// A host with one VM that has nothing to do with the verb and must live through it all, and `box` as
/// the verb wants it.
struct Rig {
    host: Arc<FakeHost>,
    config: EngineConfig,
    bystander: u32,
    _scratch: tempfile::TempDir,
}

impl Rig {
    async fn before(verb: Verb) -> (Self, Engine) {
        let scratch = tempfile::tempdir().unwrap();
        let mut config =
            EngineConfig::new(scratch.path().join("state"), scratch.path().join("run"));
        // The monitor is ended by signals alone: what a guest does of its own accord is tested elsewhere.
        config.limits.power_off = Duration::ZERO;
        config.limits.ctrl_alt_del = Duration::ZERO;
        let host = Arc::new(FakeHost::new());
        let (engine, _) = Engine::sim_over(&host, config.clone()).await.unwrap();
        let silent = Progress::silent();
        engine.create(request("bystander"), &silent).await.unwrap();
        engine.start("bystander", &silent).await.unwrap();
        let bystander = host.living()[0].identity.pid;
        let rig = Rig {
            host,
            config,
            bystander,
            _scratch: scratch,
        };
        if verb != Verb::Create {
            engine.create(request("box"), &silent).await.unwrap();
        }
        let engine = match verb {
            Verb::Create | Verb::Start => engine,
            Verb::Reconcile => {
                // Something to reconcile: it ended while no engine was watching. The engine that is to
                // crash is one that has not seen it yet.
                engine.start("box", &silent).await.unwrap();
                rig.abandon_with_a_dead_box(engine).await
            }
            _ => {
                engine.start("box", &silent).await.unwrap();
                engine
            }
        };
        rig.host.revive();
        (rig, engine)
    }

    /// Opens an engine whose own first reconcile has nothing to do, and only then lets `box` end, with
    /// its watcher gone.
    async fn abandon_with_a_dead_box(&self, engine: Engine) -> Engine {
        drop(engine);
        let (engine, _) = Engine::sim_over(&self.host, self.config.clone())
            .await
            .unwrap();
        let pids = self.host.living().into_iter().map(|p| p.identity.pid);
        let of_box = pids.max().unwrap();
        self.host.end_unnoticed(of_box);
        engine
    }

    /// Opens the next engine and checks everything that must hold whatever happened before.
    async fn check(&self, verb: Verb, what: &str) -> (Engine, Option<Condition>) {
        self.host.revive();
        let (engine, _) = Engine::sim_over(&self.host, self.config.clone())
            .await
            .unwrap_or_else(|error| panic!("{what}: the next engine does not open: {error}"));
        let again = engine.reconcile().await.unwrap();
        assert!(
            !again.changed(),
            "{what}: a second reconcile still changes things: {again}"
        );

        let views = engine.list().await.unwrap();
        let condition = views
            .iter()
            .find(|view| view.vm.name.as_str() == "box")
            .map(|view| view.condition);
        assert!(
            verb.allowed().contains(&condition),
            "{what}: box is {condition:?}"
        );
        let running: BTreeSet<String> = views
            .iter()
            .filter(|view| view.condition == Condition::Running)
            .map(|view| view.vm.id.to_string())
            .collect();

        let living = self.host.living();
        assert!(
            living.iter().any(|p| p.identity.pid == self.bystander),
            "{what}: the bystander was killed"
        );
        assert_eq!(
            living.len(),
            running.len(),
            "{what}: a monitor leaked: {living:?}"
        );

        let folders = names(&self.config.state_dir.join("vms"));
        let rows: BTreeSet<String> = views.iter().map(|view| view.vm.id.to_string()).collect();
        assert_eq!(folders, rows, "{what}: folders and rows differ");
        for view in &views {
            let file = view.vm.runtime.vm_dir.join("handles.json");
            let runs = running.contains(view.vm.id.as_str());
            assert_eq!(file.exists(), runs, "{what}: {} is wrong", file.display());
        }
        let runs = names(&engine.places().runs());
        let expected: BTreeSet<String> = running.iter().map(|id| id[..12].to_owned()).collect();
        assert_eq!(runs, expected, "{what}: a runtime folder leaked");
        (engine, condition)
    }
}

fn request(name: &str) -> CreateRequest {
    CreateRequest::named(name.parse::<VmName>().unwrap())
}

fn names(folder: &Path) -> BTreeSet<String> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

async fn calls_of(verb: Verb) -> Vec<String> {
    let (rig, engine) = Rig::before(verb).await;
    verb.run(&engine).await.unwrap();
    rig.host.calls()
}

fn shown(condition: Option<Condition>) -> String {
    condition.map_or_else(|| "does not exist".to_owned(), |c| c.to_string())
}

/// Ids are random; which of a VM's files it is, is not.
fn readable(call: &str) -> String {
    call.split(' ')
        .map(|word| {
            match word
                .trim_start_matches(".new-")
                .trim_start_matches(".trash-")
            {
                bare if bare.len() >= 12 && bare.bytes().all(|b| b.is_ascii_hexdigit()) => {
                    word.replace(bare, "ID")
                }
                _ => word.to_owned(),
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

#[tokio::test]
async fn a_death_at_any_call_of_any_verb_loses_nothing_and_leaks_nothing() {
    let mut table = String::from(
        "# The crash matrix\n\n\
         The engine is killed at each call that changes something on the host or in the database, before\n\
         the call's effect and after it. Then another engine is opened over what is left. In every line:\n\
         no process, folder, row or scratch file is left over, another VM that runs is not touched, a\n\
         second reconcile does nothing, and the verb can be done again.\n\n\
         Written by `banger-core/tests/crash_matrix.rs`, which fails when this page is stale.\n\n\
         | verb | call | killed before it: the VM then | killed after it: the VM then |\n\
         | --- | --- | --- | --- |\n",
    );
    for verb in VERBS {
        let calls = calls_of(verb).await;
        assert!(!calls.is_empty(), "{verb:?} changes nothing?");
        for (index, call) in calls.iter().enumerate() {
            let mut outcomes = Vec::new();
            for crash in [Crash::Before(index + 1), Crash::After(index + 1)] {
                let what = format!("{verb:?}, {crash:?} ({call})");
                let (rig, engine) = Rig::before(verb).await;
                rig.host.die(crash);
                // It may even succeed: what dies last of all may be a clean-up that only logs.
                let _ = verb.run(&engine).await;
                assert!(rig.host.is_dead(), "{what}: it did not come to that call");
                drop(engine);
                let (engine, condition) = rig.check(verb, &what).await;
                outcomes.push(shown(condition));
                if condition.is_some() || verb == Verb::Create {
                    let again = verb.run(&engine).await;
                    let already = verb == Verb::Create && condition.is_some();
                    assert_eq!(again.is_err(), already, "{what}: again: {again:?}");
                }
            }
            let (verb, call) = (verb.name(), readable(call));
            let _ = writeln!(
                table,
                "| {verb} | {call} | {} | {} |",
                outcomes[0], outcomes[1]
            );
        }
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/crash-matrix.md");
    if std::env::var_os("BANGER_BLESS").is_some() {
        std::fs::write(&page, &table).unwrap();
    }
    let kept = std::fs::read_to_string(&page).unwrap_or_default();
    assert!(
        kept == table,
        "docs/crash-matrix.md is stale; it should read:\n{table}"
    );
}

#[tokio::test]
async fn a_full_disk_at_any_call_of_any_verb_is_told_and_leaves_nothing_behind() {
    for verb in VERBS {
        for (index, call) in calls_of(verb).await.iter().enumerate() {
            let what = format!("{verb:?}, full disk at {call}");
            let (rig, engine) = Rig::before(verb).await;
            rig.host.fail(index + 1, std::io::ErrorKind::StorageFull);
            if let Err(error) = verb.run(&engine).await {
                let told = matches!(error.kind(), ErrorKind::NoSpace)
                    || error
                        .chain()
                        .iter()
                        .any(|text| text.contains("no storage space"));
                assert!(told, "{what}: {error:?}");
                if verb == Verb::Create && error.kind() == ErrorKind::NoSpace {
                    // The name is free again at once, not only after a restart.
                    let views = engine.list().await.unwrap();
                    if views.len() == 1 {
                        verb.run(&engine).await.unwrap();
                    }
                }
            }
            drop(engine);
            rig.check_after_fault(verb, &what).await;
        }
    }
}

impl Rig {
    /// As after a crash, but an undo that met the full disk may have left the VM in the error state,
    /// from which it can be deleted.
    async fn check_after_fault(&self, verb: Verb, what: &str) {
        self.host.revive();
        let (engine, _) = Engine::sim_over(&self.host, self.config.clone())
            .await
            .unwrap();
        let view = engine.show("box").await;
        match view {
            Ok(view) if view.condition == Condition::Error => {
                engine.delete("box").await.unwrap();
                drop(engine);
                let (engine, _) = Engine::sim_over(&self.host, self.config.clone())
                    .await
                    .unwrap();
                assert_eq!(engine.list().await.unwrap().len(), 1, "{what}");
                assert_eq!(self.host.living().len(), 1, "{what}: a monitor leaked");
            }
            _ => {
                drop(engine);
                self.check(verb, what).await;
            }
        }
    }
}
