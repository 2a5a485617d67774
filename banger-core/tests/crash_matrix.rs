//! Dies at every call of every verb, before and after the call's effect, and looks at what the next
//! engine makes of it. The calls are those that the verb makes, so that a new step cannot be forgotten.
//!
//! `docs/crash-matrix.md` is what this prints; the test fails when that file is stale. To write it anew:
//! `BANGER_BLESS=1 cargo test -p banger-core --test crash_matrix`.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::sync::Arc;

use banger_core::{
    Condition, Crash, CreateRequest, DiskKind, Engine, EngineConfig, Error, ErrorKind, FakeHost,
    Fault, Internet, Mebibytes, NetworkKind, Progress, SetRequest, VmName,
};

#[path = "crash_matrix/images.rs"]
mod images;
#[path = "images/parts.rs"]
mod parts;
#[path = "proof/rig.rs"]
#[allow(dead_code, reason = "shared with the other proofs")]
mod rig;

/// A verb, what has been done before it, and what may be true after a crash in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Create,
    Start,
    Stop,
    Kill,
    Restart,
    Delete,
    Set,
    Reconcile,
}

const VERBS: [Verb; 8] = [
    Verb::Create,
    Verb::Start,
    Verb::Stop,
    Verb::Kill,
    Verb::Restart,
    Verb::Delete,
    Verb::Set,
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
            Verb::Set => engine.set("box", larger()).await.map(drop),
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
            Verb::Set => &[Some(Condition::Created)],
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
        let scratch = rig::scratch();
        let config = rig::config(scratch.path(), "state");
        let host = Arc::new(FakeHost::new());
        host.set_scopes(Ok(()));
        // Simulated images need no file, but a snapshot lies over one.
        let image = config.state_dir.join("images/debian-12");
        std::fs::create_dir_all(&image).unwrap();
        std::fs::write(image.join("rootfs"), [0; 4096]).unwrap();
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
            Verb::Create | Verb::Start | Verb::Set => engine,
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
        let held = self.host.held();
        // The bystander has its scope, as `box` has beside its snapshot and its namespace.
        let expected = match condition {
            // A target, a namespace, a way out of it, its rules and its own scope.
            Some(Condition::Running) => 6,
            _ => 1,
        };
        assert_eq!(held.len(), expected, "{what}: the host holds {held:?}");
        let inventory = engine.prove().await.unwrap();
        assert!(inventory.is_clean(), "{what}: strays:\n{inventory}");
        (engine, condition)
    }
}

/// `box` holds all that a VM can hold in the kernel: its disk and its network are the real backends', over
/// the fake host.
fn request(name: &str) -> CreateRequest {
    let request = CreateRequest::named(name.parse::<VmName>().unwrap());
    match name {
        "box" => CreateRequest {
            disk: Some(DiskKind::DmSnapshot),
            network: Some(NetworkKind::Tap),
            internet: Some(Internet::Open),
            ..request
        },
        _ => request,
    }
}

/// A processor more, and a larger disk.
fn larger() -> SetRequest {
    SetRequest {
        vcpus: Some(3),
        work_disk: Some(Mebibytes(64 << 10)),
        ..SetRequest::default()
    }
}

fn names(folder: &Path) -> BTreeSet<String> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// The calls that a verb makes, and which of them are done in several steps.
async fn calls_of(verb: Verb) -> (Vec<String>, Vec<usize>) {
    let (rig, engine) = Rig::before(verb).await;
    verb.run(&engine).await.unwrap();
    (rig.host.calls(), rig.host.calls_in_steps())
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

/// Does the verb under a crash, opens the next engine, and returns what the VM is then.
async fn outcome(verb: Verb, crash: Crash, call: &str) -> Option<Condition> {
    let what = format!("{verb:?}, {crash:?} ({call})");
    let (rig, engine) = Rig::before(verb).await;
    rig.host.die(crash);
    // It may even succeed: what dies last of all may be a clean-up that only logs.
    let _ = verb.run(&engine).await;
    assert!(rig.host.is_dead(), "{what}: it did not come to that call");
    rig.is_written_ahead(&what);
    drop(engine);
    let (engine, condition) = rig.check(verb, &what).await;
    if condition.is_some() || verb == Verb::Create {
        let again = verb.run(&engine).await;
        let already = verb == Verb::Create && condition.is_some();
        if verb == Verb::Set {
            let spec = engine.lookup("box").await.unwrap().spec;
            let wished = (spec.vcpus, spec.work_disk);
            assert_eq!(
                wished,
                (3, Mebibytes(64 << 10)),
                "{what}: all of it or none, and then all"
            );
        }
        assert_eq!(again.is_err(), already, "{what}: again: {again:?}");
    }
    condition
}

/// One line of the table: what becomes of the VM when the engine dies before, in and after a call.
async fn line(verb: Verb, number: usize, call: String, in_steps: bool) -> String {
    let before = outcome(verb, Crash::Before(number), &call).await;
    let during = match in_steps {
        true => shown(outcome(verb, Crash::During(number), &call).await),
        false => "—".to_owned(),
    };
    let after = outcome(verb, Crash::After(number), &call).await;
    format!(
        "| {} | {} | {} | {during} | {} |\n",
        verb.name(),
        readable(&call),
        shown(before),
        shown(after)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_at_any_call_of_any_verb_loses_nothing_and_leaks_nothing() {
    let mut table = String::from(
        "# The crash matrix\n\n\
         The engine is killed at each call that changes something on the host or in the database: before\n\
         the call's effect, in the middle of it (where the system does not do it in a single step: a write\n\
         has left half a temporary file, a folder is removed in part) and after it. Then another engine is\n\
         opened over what is left. In every line: no process, folder, row or scratch file is left over and\n\
         `prove` finds no stray, another VM that runs is not touched, a second reconcile does nothing, and\n\
         the verb can be done again.\n\n\
         Written by `banger-core/tests/crash_matrix.rs`, which fails when this page is stale.\n\n\
         | verb | call | killed before it: the VM then | in it | after it |\n\
         | --- | --- | --- | --- | --- |\n",
    );
    let mut lines = Vec::new();
    for verb in VERBS {
        let (calls, in_steps) = calls_of(verb).await;
        assert!(!calls.is_empty(), "{verb:?} changes nothing?");
        for (index, call) in calls.into_iter().enumerate() {
            let in_steps = in_steps.contains(&(index + 1));
            lines.push(tokio::spawn(line(verb, index + 1, call, in_steps)));
        }
    }
    for line in lines {
        let _ = write!(table, "{}", line.await.unwrap());
    }
    table.push_str(
        "\nThe same for images, made by programs that leave in small what the real ones leave. Nothing is\n\
         left in the folders in which they are made, another image is not touched, and no VM of a test\n\
         boot is there any more.\n\n\
         | verb | call | killed before it: the image then | in it | after it |\n\
         | --- | --- | --- | --- | --- |\n",
    );
    table.push_str(&images::lines().await);
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

/// Does the verb on a host that fails, and returns whether the error was told as what it is.
async fn fails_well(verb: Verb, fault: Fault, kind: io::ErrorKind, call: String) {
    let what = format!("{verb:?}, {fault:?} at {call}");
    let (rig, engine) = Rig::before(verb).await;
    rig.host.fail(fault);
    if let Err(error) = verb.run(&engine).await {
        let expected = match kind {
            io::ErrorKind::StorageFull => ErrorKind::NoSpace,
            _ => ErrorKind::Denied,
        };
        let system = io::Error::from(kind).to_string();
        let told = error.kind() == expected || error.chain().iter().any(|t| t.contains(&system));
        assert!(told, "{what}: {error:?}");
        if error.kind() == expected {
            assert!(error.hint().is_some(), "{what}: {error} has no hint");
        }
        // Whoever lists is served while it lasts.
        let views = engine.list().await.unwrap();
        let failed = |view: &banger_core::VmView| view.condition == Condition::Error;
        let undoable = matches!(fault, Fault::Once(..)) && !call.starts_with("remove");
        if undoable && !views.iter().any(failed) {
            // What could be undone was, by the verb itself: nobody had to open another engine. (What
            // could not be removed is there still, and that was the error.)
            let inventory = engine.prove().await.unwrap();
            assert!(inventory.is_clean(), "{what}: strays:\n{inventory}");
        }
        if verb == Verb::Create && engine.list().await.unwrap().len() == 1 {
            // The name is free again at once, not only after a restart.
            rig.host.revive();
            verb.run(&engine).await.unwrap();
        }
    }
    drop(engine);
    rig.check_after_fault(verb, &what).await;
}

/// The order in which these calls come first.
fn in_order(calls: &[String], expected: &[&str]) {
    let mut rest = calls.iter();
    for wanted in expected {
        let there = rest.any(|call| readable(call) == *wanted);
        assert!(there, "{wanted:?} does not come in this order: {calls:#?}");
    }
}

#[tokio::test]
async fn the_row_is_last_on_the_way_up_and_before_the_file_on_the_way_down() {
    const ROW: &str = "database: update the VM";
    let (start, _) = calls_of(Verb::Start).await;
    let up = [
        "write handles.json",
        "spawn banger-sim-vmm",
        "write handles.json",
        ROW,
    ];
    in_order(&start, &up);
    assert_eq!(
        start.last().map(String::as_str),
        Some(ROW),
        "the promise comes last"
    );
    for verb in [Verb::Stop, Verb::Kill] {
        let (down, _) = calls_of(verb).await;
        in_order(&down, &["remove folder ID", ROW, "remove handles.json"]);
        assert_eq!(down.last().map(String::as_str), Some("remove handles.json"));
    }
    let (delete, _) = calls_of(Verb::Delete).await;
    let end = [
        "rename to .trash-ID",
        "database: delete the VM",
        "remove folder .trash-ID",
    ];
    in_order(&delete, &end);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_or_read_only_or_forbidden_disk_at_any_call_is_told_and_leaves_nothing_behind() {
    let kinds = [
        io::ErrorKind::StorageFull,
        io::ErrorKind::ReadOnlyFilesystem,
        io::ErrorKind::PermissionDenied,
    ];
    let mut cases = Vec::new();
    for verb in VERBS {
        for (index, call) in calls_of(verb).await.0.into_iter().enumerate() {
            for kind in kinds {
                let fault = Fault::Lasting(index + 1, kind);
                cases.push(tokio::spawn(fails_well(verb, fault, kind, call.clone())));
            }
            // Room that is there again at once: what the undo then does must be right too.
            let full = io::ErrorKind::StorageFull;
            let fault = Fault::Once(index + 1, full);
            cases.push(tokio::spawn(fails_well(verb, fault, full, call)));
        }
    }
    for case in cases {
        case.await.unwrap();
    }
}

impl Rig {
    /// At the instant of death: whatever the host holds of a VM's run, the VM's folder holds a file that
    /// names the run. What is planned is written before it is acquired, and forgotten after it is gone.
    fn is_written_ahead(&self, what: &str) {
        let vms = self.config.state_dir.join("vms");
        for held in self.host.held() {
            let names_it = |vm: &String| {
                let file = vms.join(vm).join("handles.json");
                std::fs::read_to_string(file).is_ok_and(|text| text.contains(&held))
            };
            assert!(
                names(&vms).iter().any(names_it),
                "{what}: {held} is held, unwritten"
            );
        }
        for monitor in self.host.living() {
            let mut words = monitor.command_line.split([' ', ':']);
            let (vm, run) = (words.nth(3).unwrap(), words.next().unwrap());
            let file = vms.join(vm).join("handles.json");
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            assert!(
                text.contains(run),
                "{what}: {} runs, unwritten",
                monitor.command_line
            );
        }
        for engine in names(&self.config.runtime_dir) {
            for run in names(&self.config.runtime_dir.join(engine)) {
                let of_run = |vm: &&String| vm.starts_with(&run);
                let vm = names(&vms).iter().find(of_run).cloned();
                let vm = vm.unwrap_or_else(|| panic!("{what}: {run} is of no VM"));
                let file = vms.join(vm).join("handles.json");
                assert!(
                    file.exists(),
                    "{what}: the folder {run} is there, unwritten"
                );
            }
        }
    }

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
                let held = self.host.held();
                assert_eq!(held.len(), 1, "{what}: the host holds {held:?}");
                let inventory = engine.prove().await.unwrap();
                assert!(inventory.is_clean(), "{what}: strays:\n{inventory}");
            }
            _ => {
                drop(engine);
                self.check(verb, what).await;
            }
        }
    }
}
