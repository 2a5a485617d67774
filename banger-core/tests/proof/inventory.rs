//! `Engine::prove` names every object and its owner; `Engine::remove_strays` removes what it named.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use banger_core::{
    Condition, Engine, EngineId, Grip, Marks, ObjectKind, Owner, RemovalOutcome, VmId,
};

use crate::rig::{Rig, condition, contents, create, running, start, strays};

fn nobody() -> VmId {
    VmId::from_random([0xee; 16])
}

/// Proves that the planted thing, and only what is named here, is a stray; that removing strays removes
/// it; and that the VM `box` has lived through it.
async fn is_found_and_removed(rig: &Rig, engine: &Engine, expected: &[String]) {
    let calls = rig.host.calls().len();
    let inventory = engine.prove().await.unwrap();
    assert_eq!(rig.host.calls().len(), calls, "a proof changes nothing");
    let mut expected = expected.to_vec();
    expected.sort();
    let mut found = strays(&inventory);
    found.sort();
    assert_eq!(found, expected, "{inventory}");

    let removal = engine.remove_strays(&inventory).await.unwrap();
    for line in &removal.lines {
        assert_eq!(line.outcome, RemovalOutcome::Removed, "{line:?}");
    }
    assert_eq!(removal.lines.len(), expected.len());
    let after = engine.prove().await.unwrap();
    assert!(after.is_clean(), "{after}");
    assert_eq!(condition(engine, "box").await, Condition::Running);
    assert!(!engine.reconcile().await.unwrap().changed());
}

fn path(kind: &str, path: &Path) -> String {
    format!("{kind} {}", path.display())
}

#[tokio::test]
async fn everything_that_an_engine_holds_has_an_owner() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let vm = running(&engine, "box").await;
    create(&engine, "resting").await;
    rig.host.listen(rig.pid_of(&vm), 46519);
    let _socket = UnixListener::bind(engine.places().api_socket(&vm.id)).unwrap();
    let inventory = engine.prove().await.unwrap();
    assert!(inventory.is_clean(), "{inventory}");

    let of = |kind: ObjectKind| -> Vec<String> {
        let of_kind = inventory
            .objects
            .iter()
            .filter(|object| object.kind == kind);
        of_kind.map(|object| object.owner.to_string()).collect()
    };
    assert_eq!(of(ObjectKind::Monitor), ["VM box"]);
    assert_eq!(of(ObjectKind::CgroupScope), ["VM box"]);
    assert_eq!(of(ObjectKind::Port), ["VM box"]);
    assert_eq!(of(ObjectKind::Socket), ["VM box"]);
    assert_eq!(of(ObjectKind::HandlesFile), ["VM box"]);
    assert_eq!(of(ObjectKind::RuntimeFolder), ["VM box"]);
    let mut folders = of(ObjectKind::VmFolder);
    folders.sort();
    assert_eq!(folders, ["VM box", "VM resting"]);
    assert!(of(ObjectKind::EngineFile).len() >= 3, "{inventory}");

    assert_eq!(inventory.kinds.len(), ObjectKind::ALL.len());
}

#[tokio::test]
async fn after_every_verb_there_is_no_stray_and_after_delete_nothing_at_all() {
    let rig = Rig::new();
    let engine = rig.open().await;
    create(&engine, "box").await;
    for _ in 0..2 {
        start(&engine, "box").await;
        assert!(engine.prove().await.unwrap().is_clean());
        engine.stop("box").await.unwrap();
        assert!(engine.prove().await.unwrap().is_clean());
    }
    engine.delete("box").await.unwrap();
    let inventory = engine.prove().await.unwrap();
    let left = |kind: ObjectKind| kind != ObjectKind::EngineFile;
    assert!(
        !inventory.objects.iter().any(|o| left(o.kind)),
        "{inventory}"
    );
}

#[tokio::test]
async fn a_monitor_of_a_vm_that_is_no_more_is_a_stray_with_its_port() {
    let rig = Rig::new();
    let engine = rig.open().await;
    running(&engine, "box").await;
    let line = format!(
        "qemu-system-x86_64 -name guest=banger:{}:{}:0123456789abcdef",
        engine.id(),
        nobody()
    );
    rig.host.add_stranger(5000, &line);
    rig.host.listen(5000, 40000);
    let expected = ["monitor process 5000".to_owned(), "port 40000".to_owned()];
    is_found_and_removed(&rig, &engine, &expected).await;
    assert_eq!(rig.host.living().len(), 1);
}

#[tokio::test]
async fn a_scope_of_a_vm_that_is_no_more_is_a_stray_and_one_of_another_engine_is_not() {
    let rig = Rig::new();
    let engine = rig.open().await;
    running(&engine, "box").await;
    let scope = Marks::of(engine.id(), &nobody()).scope();
    let other = EngineId::from_random([0xff; 4]);
    for (pid, scope) in [
        (6000, &scope),
        (6001, &Marks::of(&other, &nobody()).scope()),
    ] {
        rig.host.add_stranger(pid, "sleep 1000");
        rig.host.add_scope(scope, pid);
    }
    is_found_and_removed(&rig, &engine, &[format!("scope {scope}")]).await;
    let left = rig.host.living();
    let left: Vec<u32> = left.iter().map(|process| process.identity.pid).collect();
    assert!(left.contains(&6001) && !left.contains(&6000), "{left:?}");
}

#[tokio::test]
async fn a_second_monitor_of_a_vm_that_runs_is_a_stray_and_the_first_is_not_touched() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let vm = running(&engine, "box").await;
    let first = rig.pid_of(&vm);
    let line = format!(
        "qemu-system-x86_64 banger:{}:{}:0123456789abcdef",
        engine.id(),
        vm.id
    );
    rig.host.add_stranger(900, &line);
    is_found_and_removed(&rig, &engine, &["monitor process 900".to_owned()]).await;
    assert_eq!(rig.host.living()[0].identity.pid, first);
}

#[tokio::test]
async fn an_ssh_master_without_its_vm_is_a_stray_and_one_who_only_reads_our_files_is_not() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let vm = running(&engine, "box").await;
    let runs = engine.places().runs();
    let (gone, own) = (engine.places().run(&nobody()), engine.places().run(&vm.id));
    rig.host
        .add_stranger(5001, &format!("ssh: {}/ssh [mux]", gone.display()));
    rig.host
        .add_stranger(5002, &format!("ssh: {}/ssh [mux]", own.display()));
    rig.host
        .add_stranger(5003, &format!("less {}/ssh_config", gone.display()));
    rig.host
        .add_stranger(5004, &format!("ls {}", runs.display()));
    is_found_and_removed(&rig, &engine, &["ssh process process 5001".to_owned()]).await;
    let left = rig.host.living();
    let left: Vec<u32> = left
        .iter()
        .map(|p| p.identity.pid)
        .filter(|pid| *pid >= 5000)
        .collect();
    assert_eq!(left, [5002, 5003, 5004]);
}

#[tokio::test]
async fn a_runtime_folder_of_no_vm_is_a_stray_with_the_sockets_in_it() {
    let rig = Rig::new();
    let engine = rig.open().await;
    running(&engine, "box").await;
    let folder = engine.places().run(&nobody());
    fs::create_dir(&folder).unwrap();
    let socket = folder.join("api.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    fs::write(folder.join("initrd.tmp"), "half").unwrap();
    let expected = [
        path("runtime folder", &folder),
        path("socket", &socket),
        path("temporary file", &folder.join("initrd.tmp")),
    ];
    is_found_and_removed(&rig, &engine, &expected).await;
}

#[tokio::test]
async fn what_a_run_that_is_over_has_left_is_a_stray_although_its_vm_is_there() {
    let rig = Rig::new();
    let engine = rig.open().await;
    running(&engine, "box").await;
    let vm = running(&engine, "other").await;
    let file = vm.runtime.vm_dir.join("handles.json");
    let handles = fs::read(&file).unwrap();
    engine.stop("other").await.unwrap();
    fs::write(&file, handles).unwrap();
    fs::write(vm.runtime.vm_dir.join("handles.json.tmp"), "half").unwrap();
    let run = engine.places().run(&vm.id);
    fs::create_dir(&run).unwrap();
    let expected = [
        path("handles file", &file),
        path(
            "temporary file",
            &vm.runtime.vm_dir.join("handles.json.tmp"),
        ),
        path("runtime folder", &run),
    ];
    let inventory = engine.prove().await.unwrap();
    let mut found = strays(&inventory);
    found.sort();
    let mut sorted = expected.to_vec();
    sorted.sort();
    assert_eq!(found, sorted, "{inventory}");
    // Releasing what the handles name takes the others along: each is gone, whoever removed it.
    engine.remove_strays(&inventory).await.unwrap();
    assert!(engine.prove().await.unwrap().is_clean());
    assert!(!engine.reconcile().await.unwrap().changed());
    assert_eq!(condition(&engine, "other").await, Condition::Stopped);
}

#[tokio::test]
async fn half_a_creation_and_half_a_deletion_are_strays() {
    let rig = Rig::new();
    let engine = rig.open().await;
    running(&engine, "box").await;
    let places = engine.places();
    let (new, trash) = (places.vm_new(&nobody()), places.vm_trash(&nobody()));
    for folder in [&new, &trash] {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join("work.ext4"), "disk").unwrap();
    }
    let expected = [path("VM folder", &new), path("VM folder", &trash)];
    is_found_and_removed(&rig, &engine, &expected).await;
}

#[tokio::test]
async fn an_interrupted_write_of_the_engine_and_an_interrupted_image_are_strays() {
    let rig = Rig::new();
    let engine = rig.open().await;
    running(&engine, "box").await;
    let file = rig.config.state_dir.join("engine-id.tmp");
    fs::write(&file, "half").unwrap();
    let image = engine
        .places()
        .images()
        .join(format!(".new-{}", engine.id()));
    fs::create_dir(&image).unwrap();
    let scratch = rig.config.state_dir.join("scratch");
    let scratch = scratch.join(format!("banger-image-{}", engine.id()));
    fs::create_dir_all(&scratch).unwrap();
    let expected = [
        path("temporary file", &file),
        path("image folder", &image),
        path("image scratch folder", &scratch),
    ];
    is_found_and_removed(&rig, &engine, &expected).await;
}

#[tokio::test]
async fn disks_without_a_record_are_shown_and_left_to_a_person_even_while_they_run() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let vm = running(&engine, "box").await;
    engine.close().await;
    for file in ["banger.db", "banger.db-wal", "banger.db-shm"] {
        let _ = fs::remove_file(rig.config.state_dir.join(file));
    }
    let engine = rig.open().await;
    let inventory = engine.prove().await.unwrap();
    assert!(!inventory.is_clean());
    let before = contents(&vm.runtime.vm_dir);
    let removal = engine.remove_strays(&inventory).await.unwrap();
    assert!(removal.lines.len() >= 3, "{removal:?}");
    for line in removal.lines {
        assert_eq!(line.outcome, RemovalOutcome::LeftToYou, "{:?}", line.object);
    }
    assert_eq!(contents(&vm.runtime.vm_dir), before);
    assert_eq!(rig.host.living().len(), 1, "it runs on");
}

#[tokio::test]
async fn a_damaged_file_that_was_set_aside_belongs_to_its_vm() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let vm = running(&engine, "box").await;
    drop(engine);
    fs::write(vm.runtime.vm_dir.join("handles.json"), "{").unwrap();
    let engine = rig.open().await;
    assert_eq!(condition(&engine, "box").await, Condition::Running);
    let inventory = engine.prove().await.unwrap();
    assert!(inventory.is_clean(), "{inventory}");
    let aside = inventory
        .objects
        .iter()
        .find(|object| object.kind == ObjectKind::SetAsideFile)
        .expect("it is listed");
    assert!(matches!(&aside.owner, Owner::Vm { name: Some(name), .. } if name.as_str() == "box"));
}

#[tokio::test]
async fn a_file_of_a_newer_banger_makes_its_vm_undecided_and_untouchable() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let vm = running(&engine, "box").await;
    drop(engine);
    let file = vm.runtime.vm_dir.join("handles.json");
    fs::write(&file, "{\"version\":2}").unwrap();
    let engine = rig.open().await;
    let inventory = engine.prove().await.unwrap();
    let undecided = inventory
        .objects
        .iter()
        .filter(|object| matches!(object.owner, Owner::Undecided { .. }));
    assert!(undecided.count() >= 3, "{inventory}");
    assert!(inventory.is_clean());
    engine.remove_strays(&inventory).await.unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "{\"version\":2}");
    assert_eq!(rig.host.living().len(), 1);
}

#[tokio::test]
async fn a_stray_that_has_found_an_owner_since_is_not_removed() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let vm = running(&engine, "box").await;
    let file = vm.runtime.vm_dir.join("handles.json");
    let handles = fs::read(&file).unwrap();
    engine.stop("box").await.unwrap();
    fs::write(&file, handles).unwrap();
    let inventory = engine.prove().await.unwrap();
    assert_eq!(strays(&inventory), [path("handles file", &file)]);

    start(&engine, "box").await;
    let removal = engine.remove_strays(&inventory).await.unwrap();
    assert_eq!(removal.lines[0].outcome, RemovalOutcome::NoStrayAnyMore);
    assert!(file.exists());
    assert_eq!(condition(&engine, "box").await, Condition::Running);
}

#[tokio::test]
async fn only_what_the_inventory_named_is_removed() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let inventory = engine.prove().await.unwrap();
    let trash = engine.places().vm_trash(&nobody());
    fs::create_dir(&trash).unwrap();
    let removal = engine.remove_strays(&inventory).await.unwrap();
    assert_eq!(removal.lines, []);
    assert!(trash.exists());
    let inventory = engine.prove().await.unwrap();
    assert_eq!(strays(&inventory), [path("VM folder", &trash)]);
}

#[tokio::test]
async fn proof_doctor_and_plan_change_nothing_whatever_they_find() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let vm = running(&engine, "box").await;
    fs::create_dir(engine.places().run(&nobody())).unwrap();
    fs::create_dir(engine.places().vm_trash(&nobody())).unwrap();
    drop(engine);
    let engine = rig.open().await;
    fs::create_dir(engine.places().run(&nobody())).unwrap();
    fs::create_dir(engine.places().vm_trash(&nobody())).unwrap();
    let damaged: PathBuf = vm.runtime.vm_dir.join("handles.json");
    fs::write(&damaged, "{").unwrap();
    let folders = [
        rig.config.state_dir.join("vms"),
        rig.config.runtime_dir.clone(),
    ];
    let before = folders.each_ref().map(|folder| contents(folder));
    rig.host.revive();
    engine.prove().await.unwrap();
    engine.doctor().await.unwrap();
    let plan = engine.reconcile_plan().await.unwrap();
    assert!(plan.changed(), "{plan}");
    assert_eq!(rig.host.calls(), [] as [&str; 0]);
    assert_eq!(folders.each_ref().map(|folder| contents(folder)), before);
}

#[tokio::test]
async fn an_inventory_survives_the_way_to_a_client_and_back() {
    let rig = Rig::new();
    let engine = rig.open().await;
    running(&engine, "box").await;
    fs::create_dir(engine.places().vm_trash(&nobody())).unwrap();
    let inventory = engine.prove().await.unwrap();
    let text = serde_json::to_string(&inventory).unwrap();
    let back = serde_json::from_str(&text).unwrap();
    assert_eq!(inventory, back);
    engine.remove_strays(&back).await.unwrap();
    assert!(engine.prove().await.unwrap().is_clean());
    let first = inventory.strays().next().unwrap();
    assert!(matches!(first.grip, Grip::Path(_)));
}
