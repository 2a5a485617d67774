//! The test boot of an image that is being registered, on the simulator: what each broken clause is told
//! as, and that nothing is left of it however it ends. For real: `tests/real_images.rs`.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use banger_core::{
    Clause, CreateRequest, Engine, Error, ErrorKind, Fault, ImageError, ImageSpec, ImageView,
    NetworkKind, ProcessEnd, Progress, Registration, Stage, TestBoot, VmmKind,
};

#[path = "images/parts.rs"]
mod parts;
#[path = "proof/rig.rs"]
#[allow(dead_code, reason = "shared with the other proofs")]
mod rig;

use parts::Parts;
use rig::Rig;

/// An engine with an image that brings the busybox which a registered one starts with.
async fn open(rig: &Rig) -> Engine {
    let engine = rig.open().await;
    if engine.images().await.unwrap().is_empty() {
        let spec = ImageSpec::new("debian-12".parse().unwrap());
        let built = engine.build_image(spec, &Progress::silent()).await;
        built.unwrap();
    }
    engine
}

/// A host whose guests are asked to switch off before they are made to.
fn asking() -> Rig {
    let mut rig = Rig::new();
    rig.config.limits.power_off = Duration::from_secs(20);
    rig
}

/// Asks for an image `theirs` of these files.
fn registration(parts: &Parts, test_boot: TestBoot) -> Registration {
    Registration {
        name: "theirs".parse().unwrap(),
        rootfs: parts.rootfs.clone(),
        kernel: parts.kernel.clone(),
        initrd: None,
        test_boot,
    }
}

async fn register(
    engine: &Engine,
    test_boot: TestBoot,
    progress: &Progress,
) -> Result<ImageView, Error> {
    let parts = Parts::new();
    let asked = registration(&parts, test_boot);
    engine.register_image(asked, progress).await
}

/// The clause that was broken, with how that is told.
fn broken(registered: Result<ImageView, Error>) -> (Clause, String) {
    let error = registered.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.hint().unwrap().contains("--no-check"));
    let text = error.chain().join(": ");
    match error {
        Error::Image(ImageError::TestBoot { clause, .. }) => (clause, text),
        error => panic!("{error:?}"),
    }
}

/// No image but the first, no VM, no process, no folder, nothing in the kernel.
async fn assert_nothing_left(rig: &Rig, engine: &Engine) {
    let images = rig.config.state_dir.join("images");
    let names: Vec<_> = fs::read_dir(images)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["debian-12"]);
    assert!(engine.list().await.unwrap().is_empty());
    assert!(rig.host.living().is_empty(), "{:?}", rig.host.living());
    for folder in [engine.places().vms(), engine.places().runs()] {
        let left = rig::contents(&folder);
        assert!(left.is_empty(), "{:?}", left.keys());
    }
    let inventory = engine.prove().await.unwrap();
    assert!(inventory.is_clean(), "{inventory}");
}

/// Does something to the rig's one VM when it has come to a stage.
fn at(rig: &Rig, stage: &'static str, act: impl Fn(&Rig) + Send + Sync + 'static) -> Progress {
    let (host, config) = (rig.host.clone(), rig.config.clone());
    let rig = Rig {
        host,
        config,
        scratch: tempfile::tempdir().unwrap(),
    };
    Progress::new(move |told: Stage| {
        if told.name == stage {
            act(&rig);
        }
    })
}

/// Ends the monitor, as a guest that switches itself off does.
fn end(rig: &Rig) {
    for process in rig.host.living() {
        rig.host.end(process.identity.pid, ProcessEnd::Exited(0));
    }
}

/// Writes to the console of the one VM.
fn console(rig: &Rig, text: &str) {
    let vms = rig.config.state_dir.join("vms");
    for vm in fs::read_dir(vms).unwrap() {
        fs::write(vm.unwrap().path().join("console.log"), text).unwrap();
    }
}

#[tokio::test]
async fn an_image_that_boots_is_published_and_says_when_and_by_what_it_was_booted() {
    let rig = asking();
    let engine = open(&rig).await;
    let stages = Arc::new(Mutex::new(Vec::new()));
    let told = stages.clone();
    let progress = Progress::new(move |stage| told.lock().unwrap().push(stage.name));
    let view = register(&engine, TestBoot::Wanted, &progress)
        .await
        .unwrap();
    assert_eq!(view.problem, None);
    let manifest = view.manifest.unwrap();
    assert!(!manifest.is_untried());
    assert_eq!(manifest.booted.unwrap().vmm, "sim");
    assert!(view.used_by.is_empty());
    let stages = stages.lock().unwrap().clone();
    let expected = [
        "image-check",
        "image",
        "image-boot",
        "disk",
        "network",
        "vmm",
        "kernel",
        "image-look",
        "image-publish",
    ];
    assert_eq!(stages, expected);
    assert!(engine.list().await.unwrap().is_empty());
    engine
        .delete_image(&"theirs".parse().unwrap())
        .await
        .unwrap();
    assert_nothing_left(&rig, &engine).await;
}

#[tokio::test]
async fn without_a_test_boot_an_image_is_known_as_untried() {
    let rig = Rig::new();
    let engine = open(&rig).await;
    let silent = Progress::silent();
    let view = register(&engine, TestBoot::Skipped, &silent).await.unwrap();
    assert!(view.manifest.unwrap().is_untried());
    let built = engine.image(&"debian-12".parse().unwrap()).await.unwrap();
    assert!(!built.manifest.unwrap().is_untried(), "ours is known");
}

#[tokio::test]
async fn while_it_is_booted_an_image_has_no_name_and_its_vm_reaches_nothing() {
    let rig = asking();
    let engine = open(&rig).await;
    let seen = Arc::new(Mutex::new(None));
    let (told, state) = (seen.clone(), rig.config.state_dir.clone());
    let progress = Progress::new(move |stage| {
        if stage.name == "image-look" {
            *told.lock().unwrap() = Some(state.join("images/theirs").exists());
        }
    });
    let (looking, other) = (engine.clone(), rig.config.state_dir.join("vms"));
    let look = async move {
        loop {
            let views = looking.list().await.unwrap();
            if let Some(view) = views.first() {
                assert!(other.exists());
                return view.vm.clone();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let (registered, vm) = tokio::join!(register(&engine, TestBoot::Wanted, &progress), look);
    registered.unwrap();
    assert!(vm.name.as_str().starts_with("check-"), "{}", vm.name);
    assert_eq!(vm.image.as_str(), "theirs");
    assert_eq!(vm.spec.internet, banger_core::Internet::Closed);
    assert_eq!(vm.spec.lifetime, banger_core::Lifetime::Ephemeral);
    assert_eq!(*seen.lock().unwrap(), Some(false));
}

#[tokio::test]
async fn a_guest_that_never_answers_is_told_by_how_far_its_console_came() {
    let silence = "nothing answered within 0 s";
    for (said, expected, reason) in [
        ("", Clause::Kernel, silence),
        ("Linux\nbanger: starting\n", Clause::RootDisk, silence),
        (
            "banger: starting\nbanger: handing over to /sbin/init\n",
            Clause::Ssh,
            silence,
        ),
        (
            "banger: starting\nbanger: handing over to /sbin/init\nKernel panic - not syncing\n",
            Clause::Init,
            "run on: Kernel panic - not syncing; ",
        ),
    ] {
        let mut rig = Rig::new();
        rig.config.limits.ready = Duration::ZERO;
        let engine = open(&rig).await;
        let progress = at(&rig, "kernel", move |rig| console(rig, said));
        let (clause, text) = broken(register(&engine, TestBoot::Wanted, &progress).await);
        assert_eq!(clause, expected);
        assert!(text.contains(reason), "{text}");
        assert!(
            said.is_empty() || text.contains("banger: starting"),
            "{text}"
        );
        assert_nothing_left(&rig, &engine).await;
    }
}

#[tokio::test]
async fn a_guest_that_gives_up_or_ends_is_told_with_its_own_reason() {
    for (said, expected, reason) in [
        (
            "banger: starting\nbanger: cannot boot: there is no root disk /dev/vda\n",
            Clause::Drivers,
            "there is no root disk /dev/vda",
        ),
        (
            "banger: cannot boot: the root disk has no /sbin/init\n",
            Clause::Init,
            "the root disk has no /sbin/init",
        ),
        (
            "banger: starting\nbanger: handing over to /sbin/init\n",
            Clause::Init,
            "its monitor exited with status 0",
        ),
    ] {
        let rig = Rig::new();
        let engine = open(&rig).await;
        // It ends before anybody has been let in.
        let progress = at(&rig, "kernel", move |rig| {
            console(rig, said);
            end(rig);
        });
        let (clause, text) = broken(register(&engine, TestBoot::Wanted, &progress).await);
        assert_eq!(clause, expected, "{text}");
        assert!(text.contains(reason), "{text}");
        assert_nothing_left(&rig, &engine).await;
    }
}

#[tokio::test]
async fn a_guest_that_does_not_switch_off_when_it_is_told_to_is_refused() {
    let mut rig = Rig::new();
    // The simulator has no keys that could be pressed.
    rig.config.limits.ctrl_alt_del = Duration::from_millis(1);
    let engine = open(&rig).await;
    let silent = Progress::silent();
    let (clause, text) = broken(register(&engine, TestBoot::Wanted, &silent).await);
    assert_eq!(clause, Clause::SwitchOff);
    assert!(text.contains("did not end within"), "{text}");
    assert_nothing_left(&rig, &engine).await;
}

#[tokio::test]
async fn a_monitor_that_does_not_start_is_the_hosts_matter_and_told_as_that() {
    let rig = Rig::new();
    let engine = open(&rig).await;
    rig.host.spawned_processes_end_at_once(true);
    let silent = Progress::silent();
    let error = register(&engine, TestBoot::Wanted, &silent).await;
    let error = error.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the image theirs cannot be booted here to be checked"
    );
    assert!(
        error
            .chain()
            .join(": ")
            .contains("ended while it was starting")
    );
    assert!(error.hint().unwrap().contains("--no-check"));
    rig.host.spawned_processes_end_at_once(false);
    assert_nothing_left(&rig, &engine).await;
}

#[tokio::test]
async fn where_no_vm_can_run_nothing_is_copied_and_no_check_is_offered() {
    let mut rig = Rig::new();
    rig.config.choice.vmm = Some(VmmKind::Firecracker);
    rig.config.choice.network = Some(NetworkKind::Sim);
    let engine = open(&rig).await;
    rig.host.revive();
    let silent = Progress::silent();
    let error = register(&engine, TestBoot::Wanted, &silent).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let hint = error.hint().unwrap();
    assert!(hint.contains("--no-check"), "{hint}");
    assert!(!rig.host.calls().iter().any(|call| call.contains("clone")));
    assert_nothing_left(&rig, &engine).await;
    register(&engine, TestBoot::Skipped, &silent).await.unwrap();
}

#[tokio::test]
async fn whoever_goes_away_during_the_boot_leaves_nothing() {
    for stage in ["image-boot", "disk", "vmm", "kernel", "image-look"] {
        let rig = asking();
        let engine = open(&rig).await;
        let reached = Arc::new(tokio::sync::Notify::new());
        let tell = reached.clone();
        let progress = Progress::new(move |told| {
            if told.name == stage {
                tell.notify_one();
            }
        });
        let mut registering = Box::pin(register(&engine, TestBoot::Wanted, &progress));
        tokio::select! {
            biased;
            () = reached.notified() => {}
            done = &mut registering => panic!("{done:?}"),
        }
        drop(registering);
        // Whoever holds its turn is still at it; a name that is free again shows the end of that.
        engine.give_up_images().await;
        let views = engine.images().await.unwrap();
        if views.len() == 1 {
            assert_nothing_left(&rig, &engine).await;
        } else {
            // It was nearly done, and is whole.
            assert_eq!(stage, "image-look");
            assert_eq!(views[1].problem, None);
        }
    }
}

#[tokio::test]
async fn a_disk_that_is_full_at_any_call_of_it_leaves_nothing() {
    let rig = Rig::new();
    let engine = open(&rig).await;
    let silent = Progress::silent();
    rig.host.revive();
    register(&engine, TestBoot::Wanted, &silent).await.unwrap();
    let calls = rig.host.calls();
    let name = "theirs".parse().unwrap();
    engine.delete_image(&name).await.unwrap();
    for n in 1..=calls.len() {
        let fault = Fault::Lasting(n, io::ErrorKind::StorageFull);
        rig.host.fail(fault);
        let made = register(&engine, TestBoot::Wanted, &silent).await;
        rig.host.revive();
        match made {
            // Nothing that was left to do needed room.
            Ok(_) => engine.delete_image(&name).await.unwrap(),
            Err(error) => assert!(error.hint().is_some(), "{error:?} at {}", calls[n - 1]),
        }
        engine.reconcile().await.unwrap();
        assert_nothing_left(&rig, &engine).await;
    }
}

#[tokio::test]
async fn an_ephemeral_vm_whose_creation_was_cut_short_is_gone_after_the_next_start() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let request = CreateRequest {
        lifetime: Some(banger_core::Lifetime::Ephemeral),
        ..CreateRequest::named("box".parse().unwrap())
    };
    let vm = engine.create(request, &Progress::silent()).await.unwrap();
    let aside: PathBuf = engine.places().vm_new(&vm.id);
    fs::rename(&vm.runtime.vm_dir, &aside).unwrap();
    drop(engine);
    let engine = rig.open().await;
    assert!(engine.list().await.unwrap().is_empty());
    assert!(rig::contents(&engine.places().vms()).is_empty());
}
