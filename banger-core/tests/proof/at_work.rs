//! Verbs, reconcile and proof at the same time, on the same VMs and on others; and deaths of an engine
//! that is only just opening.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use banger_core::{Condition, Crash, CreateRequest, Engine, Error, ErrorKind, Progress, VMRecord};

use crate::rig::{Rig, running};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// A sequence of numbers that is the same for the same seed (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap()
    }
}

async fn any_verb(engine: &Engine, name: &str, verb: usize) -> Result<(), Error> {
    let silent = Progress::silent();
    match verb {
        0 | 1 => {
            let request = CreateRequest::named(name.parse().unwrap());
            engine.create(request, &silent).await.map(drop)
        }
        2..=4 => engine.start(name, &silent).await.map(drop),
        5 => engine.stop(name).await.map(drop),
        6 => engine.kill(name).await.map(drop),
        7 => engine.restart(name, &silent).await.map(drop),
        _ => engine.delete(name).await.map(drop),
    }
}

/// The verbs of one client: they may come too early or too late, and fail in no other way.
async fn client(engine: Engine, seed: u64, rounds: usize) {
    let mut dice = Dice(seed);
    for _ in 0..rounds {
        let name = NAMES[dice.roll(NAMES.len())];
        let verb = dice.roll(9);
        if let Err(error) = any_verb(&engine, name, verb).await {
            let expected = [ErrorKind::NotFound, ErrorKind::NameTaken];
            let cut_short = matches!(error, Error::StopCutShort { .. });
            assert!(
                cut_short || expected.contains(&error.kind()),
                "seed {seed}: {error:?}"
            );
        }
    }
}

async fn everything_agrees(rig: &Rig, engine: &Engine, what: &str) {
    let report = engine.reconcile().await.unwrap();
    assert!(!report.changed(), "{what}: {report}");
    let inventory = engine.prove().await.unwrap();
    assert!(inventory.is_clean(), "{what}: {inventory}");
    let views = engine.list().await.unwrap();
    let runs = |vm: &VMRecord| {
        let of_vm = |line: &str| line.contains(&format!(":{}:", vm.id));
        let living = rig.host.living();
        living.iter().filter(|p| of_vm(&p.command_line)).count()
    };
    for view in &views {
        let expected = usize::from(view.condition == Condition::Running);
        assert_eq!(runs(&view.vm), expected, "{what}: {}", view.vm.name);
    }
    let all: usize = views.iter().map(|view| runs(&view.vm)).sum();
    assert_eq!(rig.host.living().len(), all, "{what}: a monitor of no VM");
}

#[tokio::test(flavor = "multi_thread")]
async fn reconcile_and_proof_may_run_at_any_time_while_verbs_are_at_work() {
    for seed in 1..=4_u64 {
        let rig = Rig::new();
        let engine = rig.open().await;
        let bystander = running(&engine, "bystander").await;
        let over = Arc::new(AtomicBool::new(false));
        let watcher = tokio::spawn({
            let (engine, over) = (engine.clone(), over.clone());
            async move {
                let mut looks = 0;
                while !over.load(Ordering::Relaxed) || looks == 0 {
                    let report = engine.reconcile().await.unwrap();
                    // Verbs leave nothing to reconcile: what is not at rest is somebody's turn.
                    assert!(!report.changed(), "{report}");
                    let inventory = engine.prove().await.unwrap();
                    assert!(inventory.is_clean(), "{inventory}");
                    looks += 1;
                }
            }
        });
        let clients: Vec<_> = (0..6)
            .map(|client_number| {
                let seed = seed * 1000 + client_number;
                tokio::spawn(client(engine.clone(), seed, 25))
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        over.store(true, Ordering::Relaxed);
        watcher.await.unwrap();
        let what = format!("seed {seed}");
        everything_agrees(&rig, &engine, &what).await;
        let now = engine.show("bystander").await.unwrap();
        assert_eq!(now.vm.runtime.run_id, bystander.runtime.run_id, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_among_verbs_on_many_vms_is_put_right_by_the_next_engine() {
    for seed in 1..=30_u64 {
        let rig = Rig::new();
        let engine = rig.open().await;
        running(&engine, "bystander").await;
        for name in NAMES {
            running(&engine, name).await;
        }
        let mut dice = Dice(seed);
        let at = 1 + dice.roll(40);
        let crash = [Crash::Before(at), Crash::During(at), Crash::After(at)][dice.roll(3)];
        rig.host.die(crash);
        let clients: Vec<_> = (0..4)
            .map(|number| {
                let (engine, seed) = (engine.clone(), seed * 77 + number);
                tokio::spawn(async move {
                    let mut dice = Dice(seed);
                    for _ in 0..8 {
                        let name = NAMES[dice.roll(NAMES.len())];
                        let _ = any_verb(&engine, name, dice.roll(9)).await;
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        drop(engine);
        rig.host.revive();
        let engine = rig.open().await;
        let what = format!("seed {seed}, {crash:?}");
        everything_agrees(&rig, &engine, &what).await;
        let view = engine.show("bystander").await.unwrap();
        assert_eq!(view.condition, Condition::Running, "{what}");
        for name in NAMES {
            let _ = engine.delete(name).await;
        }
        assert_eq!(engine.list().await.unwrap().len(), 1, "{what}");
    }
}

#[tokio::test]
async fn a_death_in_the_first_opening_of_an_engine_is_no_obstacle_to_the_next() {
    for n in 1.. {
        let mut died = false;
        for crash in [Crash::Before(n), Crash::During(n), Crash::After(n)] {
            let rig = Rig::new();
            rig.host.die(crash);
            let opened = Engine::sim_over(&rig.host, rig.config.clone()).await;
            died |= rig.host.is_dead();
            drop(opened);
            rig.host.revive();
            let engine = rig.open().await;
            running(&engine, "box").await;
            everything_agrees(&rig, &engine, &format!("{crash:?}")).await;
        }
        if !died {
            assert!(n > 3, "opening changes something");
            break;
        }
    }
}

#[tokio::test]
async fn hundreds_of_running_vms_are_taken_up_by_one_reconcile_and_left_alone_by_the_next() {
    // `examples/reconcile_many.rs` does it with a thousand and tells how long it took.
    const MANY: usize = 200;
    let rig = Rig::new();
    let engine = rig.open().await;
    let mut verbs = tokio::task::JoinSet::new();
    let places = Arc::new(tokio::sync::Semaphore::new(16));
    for number in 0..MANY {
        let (engine, places) = (engine.clone(), places.clone());
        verbs.spawn(async move {
            let _place = places.acquire_owned().await;
            running(&engine, &format!("vm-{number}")).await;
        });
    }
    verbs.join_all().await;
    drop(engine);
    let (engine, report) = Engine::sim_over(&rig.host, rig.config.clone())
        .await
        .unwrap();
    let kept: BTreeSet<&str> = report
        .lines
        .iter()
        .filter(|line| line.action == "kept" && line.error.is_none())
        .map(|line| line.vm.as_str())
        .collect();
    assert_eq!(kept.len(), MANY);
    assert!(!engine.reconcile().await.unwrap().changed());
    assert_eq!(rig.host.living().len(), MANY);
    assert!(engine.prove().await.unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_vms_of_an_engine_started_at_once_all_let_its_one_key_in() {
    for _ in 0..10 {
        let rig = Rig::new();
        let engine = rig.open().await;
        let mut starts = tokio::task::JoinSet::new();
        for number in 0..8 {
            let engine = engine.clone();
            starts.spawn(async move { running(&engine, &format!("vm-{number}")).await });
        }
        let vms = starts.join_all().await;
        let key = std::fs::read_to_string(engine.places().client_key()).unwrap();
        let key = ssh_key::PrivateKey::from_openssh(key).unwrap();
        let public = key.public_key().to_openssh().unwrap();
        for vm in vms {
            let archive = std::fs::read(engine.places().initrd(&vm.id)).unwrap();
            let archive = String::from_utf8_lossy(&archive);
            assert!(archive.contains(&public), "{} lets another key in", vm.name);
        }
    }
}
