//! Deaths while an image is made, registered, booted, published or deleted: then it is there whole, or
//! not at all, and so is the VM of its test boot gone.

use std::sync::Arc;

use banger_core::{
    Crash, Engine, EngineConfig, Error, FakeHost, ImageName, ImageSpec, Progress, Registration,
    TestBoot,
};

use crate::parts::Parts;
use crate::{names, readable, rig};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Build,
    /// With its test boot.
    Register,
    RegisterUnchecked,
    Delete,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Verb::Build => "image build",
            Verb::Register => "image register",
            Verb::RegisterUnchecked => "image register --no-check",
            Verb::Delete => "image delete",
        }
    }

    async fn run(self, engine: &Engine) -> Result<(), Error> {
        match self {
            Verb::Build => build(engine, "mine").await,
            Verb::Register => register(engine, TestBoot::Wanted).await,
            Verb::RegisterUnchecked => register(engine, TestBoot::Skipped).await,
            Verb::Delete => engine.delete_image(&image("mine")).await,
        }
    }
}

/// Whether the image is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Whole,
    Absent,
}

/// An engine with another image, which has nothing to do with it, and with the image that is to be deleted.
struct Rig {
    host: Arc<FakeHost>,
    config: EngineConfig,
    _scratch: tempfile::TempDir,
}

impl Rig {
    async fn before(verb: Verb) -> (Self, Engine) {
        let scratch = rig::scratch();
        let rig = Rig {
            host: Arc::new(FakeHost::new()),
            config: rig::config(scratch.path(), "state"),
            _scratch: scratch,
        };
        let engine = rig.open().await;
        build(&engine, "other").await.unwrap();
        if verb == Verb::Delete {
            build(&engine, "mine").await.unwrap();
        }
        rig.host.revive();
        (rig, engine)
    }

    async fn open(&self) -> Engine {
        let opened = Engine::sim_over(&self.host, self.config.clone()).await;
        opened.unwrap().0
    }

    /// What is in the folders in which images are made.
    fn on_disk(&self) -> Vec<String> {
        let folders = ["images", "scratch"].map(|name| self.config.state_dir.join(name));
        let there = folders.iter().filter(|folder| folder.exists());
        there.flat_map(|folder| names(folder)).collect()
    }
}

/// The lines of the table.
pub(crate) async fn lines() -> String {
    let mut lines = Vec::new();
    for verb in [
        Verb::Build,
        Verb::Register,
        Verb::RegisterUnchecked,
        Verb::Delete,
    ] {
        let (rig, engine) = Rig::before(verb).await;
        verb.run(&engine).await.unwrap();
        let in_steps = rig.host.calls_in_steps();
        for (index, call) in rig.host.calls().into_iter().enumerate() {
            let in_steps = in_steps.contains(&(index + 1));
            lines.push(tokio::spawn(line(verb, index + 1, call, in_steps)));
        }
    }
    let mut text = String::new();
    for line in lines {
        text.push_str(&line.await.unwrap());
    }
    text
}

async fn line(verb: Verb, number: usize, call: String, in_steps: bool) -> String {
    let before = shown(outcome(verb, Crash::Before(number), &call).await);
    let during = match in_steps {
        true => shown(outcome(verb, Crash::During(number), &call).await),
        false => "—",
    };
    let after = shown(outcome(verb, Crash::After(number), &call).await);
    let call = match call.split_once("banger-image-") {
        Some((act, _)) => format!("{act}banger-image-ID"),
        None => readable(&call),
    };
    let verb = verb.name();
    format!("| {verb} | {call} | {before} | {during} | {after} |\n")
}

async fn outcome(verb: Verb, crash: Crash, call: &str) -> Outcome {
    let what = format!("{verb:?} of an image, {crash:?} ({call})");
    let (rig, engine) = Rig::before(verb).await;
    rig.host.die(crash);
    // It may even succeed: what dies last of all may be a clean-up that only logs.
    let _ = verb.run(&engine).await;
    assert!(rig.host.is_dead(), "{what}: it did not come to that call");
    drop(engine);
    rig.host.revive();

    let engine = rig.open().await;
    let views = engine.images().await.unwrap();
    let damaged = views.iter().find(|view| view.problem.is_some());
    assert!(damaged.is_none(), "{what}: {damaged:?}");
    let there: Vec<String> = views.iter().map(|view| view.name.to_string()).collect();
    assert!(there.contains(&"other".to_owned()), "{what}: the other one");
    assert_eq!(rig.on_disk(), there, "{what}: something is left");
    let inventory = engine.prove().await.unwrap();
    assert!(inventory.is_clean(), "{what}: strays:\n{inventory}");
    // The VM of its test boot has gone with it.
    let views = engine.list().await.unwrap();
    assert!(views.is_empty(), "{what}: {views:?}");
    let living = rig.host.living();
    assert!(living.is_empty(), "{what}: a monitor leaked: {living:?}");
    for folder in [engine.places().vms(), engine.places().runs()] {
        let left = names(&folder);
        assert!(
            left.is_empty(),
            "{what}: left in {}: {left:?}",
            folder.display()
        );
    }

    let outcome = match there.contains(&"mine".to_owned()) {
        true => Outcome::Whole,
        false => Outcome::Absent,
    };
    let again = verb.run(&engine).await;
    let done_already = outcome
        == match verb {
            Verb::Build | Verb::Register | Verb::RegisterUnchecked => Outcome::Whole,
            Verb::Delete => Outcome::Absent,
        };
    assert_eq!(again.is_err(), done_already, "{what}: again: {again:?}");
    outcome
}

fn shown(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Whole => "whole",
        Outcome::Absent => "does not exist",
    }
}

async fn build(engine: &Engine, name: &str) -> Result<(), Error> {
    let spec = ImageSpec::new(image(name));
    engine
        .build_image(spec, &Progress::silent())
        .await
        .map(drop)
}

async fn register(engine: &Engine, test_boot: TestBoot) -> Result<(), Error> {
    let parts = Parts::new();
    let registration = Registration {
        name: image("mine"),
        rootfs: parts.rootfs.clone(),
        kernel: parts.kernel.clone(),
        initrd: None,
        test_boot,
    };
    engine
        .register_image(registration, &Progress::silent())
        .await
        .map(drop)
}

fn image(name: &str) -> ImageName {
    name.parse().unwrap()
}
