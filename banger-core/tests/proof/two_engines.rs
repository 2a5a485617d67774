//! Two engines side by side on one host are not each other's strays.

use std::fs;

use banger_core::{Condition, Engine};

use crate::rig::{Rig, condition, config, contents, create, running, strays};

/// Two engines over one host and one runtime folder, each with a VM that runs and one that rests.
async fn two(rig: &Rig) -> [Engine; 2] {
    let one = rig.open_as(config(rig.scratch.path(), "one")).await;
    let two = rig.open_as(config(rig.scratch.path(), "two")).await;
    for engine in [&one, &two] {
        running(engine, "box").await;
        create(engine, "resting").await;
    }
    [one, two]
}

#[tokio::test]
async fn one_engine_counts_the_others_vms_and_does_not_list_them() {
    let rig = Rig::new();
    let engines = two(&rig).await;
    for (engine, other) in [(&engines[0], &engines[1]), (&engines[1], &engines[0])] {
        let inventory = engine.prove().await.unwrap();
        assert!(inventory.is_clean(), "{inventory}");
        let own = engine.places().runs();
        assert_eq!(inventory.foreign.len(), 1);
        assert_eq!(inventory.foreign[0].engine, *other.id());
        assert_eq!(inventory.foreign[0].monitors, 1);
        assert_eq!(inventory.foreign[0].runtime_folders, 1);
        let text = inventory.to_string();
        let others = other.places().runs();
        assert!(text.contains(&own.display().to_string()));
        assert!(!text.contains(&others.display().to_string()), "{text}");
    }
}

#[tokio::test]
async fn proof_fix_and_reconcile_of_one_engine_leave_the_others_vms_alone() {
    let rig = Rig::new();
    let [one, two] = two(&rig).await;
    let others_state = two.places().vms();
    let others_run = two.places().runs();
    let before = (contents(&others_state), contents(&others_run));
    let living = rig.host.living().len();

    // Strays of both: each may remove only its own.
    let nobody = banger_core::VmId::from_random([0xee; 16]);
    for engine in [&one, &two] {
        fs::create_dir(engine.places().run(&nobody)).unwrap();
        let line = format!(
            "qemu-system-x86_64 banger:{}:{nobody}:0123456789abcdef",
            engine.id()
        );
        let pid = 7000 + u32::from(engine.id() == two.id());
        rig.host.add_stranger(pid, &line);
    }
    let inventory = one.prove().await.unwrap();
    assert_eq!(strays(&inventory).len(), 2, "{inventory}");
    one.remove_strays(&inventory).await.unwrap();
    one.reconcile().await.unwrap();
    assert!(one.prove().await.unwrap().is_clean());

    assert_eq!(strays(&two.prove().await.unwrap()).len(), 2);
    assert_eq!(rig.host.living().len(), living + 1);
    fs::remove_dir(two.places().run(&nobody)).unwrap();
    assert_eq!((contents(&others_state), contents(&others_run)), before);
    assert_eq!(condition(&two, "box").await, Condition::Running);
}

#[tokio::test]
async fn a_dead_engines_vms_are_not_taken_up_by_a_living_one_beside_it() {
    let rig = Rig::new();
    let [one, two] = two(&rig).await;
    drop(two);
    let report = one.reconcile().await.unwrap();
    assert!(!report.changed(), "{report}");
    for name in ["box", "resting"] {
        one.delete(name).await.unwrap();
    }
    assert!(one.prove().await.unwrap().is_clean());
    let two = rig.open_as(config(rig.scratch.path(), "two")).await;
    assert_eq!(condition(&two, "box").await, Condition::Running);
    assert_eq!(rig.host.living().len(), 1);
}
