//! VMs that live as long as their client's connection.

use std::time::Duration;

use banger_core::ErrorKind;
use banger_daemon::client::ClientError;
use banger_daemon::protocol::*;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use crate::rig::{Rig, named, quietly, until};

fn ephemeral(name: &str) -> CreateParams {
    CreateParams {
        ephemeral: true,
        ..named(name)
    }
}

async fn is_gone(rig: &Rig, vm: &str) -> bool {
    match rig.engine.show(vm).await {
        Ok(_) => false,
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

#[tokio::test]
async fn an_ephemeral_vm_is_deleted_when_its_client_is_gone_and_others_are_not() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    quietly::<VmCreate>(&mut client, &named("kept"))
        .await
        .unwrap();
    let made = quietly::<VmCreate>(&mut client, &ephemeral("gone"))
        .await
        .unwrap();
    assert!(made.ephemeral);
    let start = StartParams {
        vm: "gone".to_owned(),
        wait: false,
    };
    quietly::<VmStart>(&mut client, &start).await.unwrap();
    // Another client comes and goes meanwhile.
    let mut other = rig.client().await;
    quietly::<VmShow>(
        &mut other,
        &VmParams {
            vm: "gone".to_owned(),
        },
    )
    .await
    .unwrap();
    drop(other);
    drop(client);
    until("the VM is deleted", || is_gone(&rig, "gone")).await;
    assert!(rig.living().is_empty());
    assert!(rig.engine.show("kept").await.is_ok());
}

#[tokio::test]
async fn a_client_that_dies_while_its_vm_is_created_leaves_none() {
    let mut rig = Rig::new().await;
    for round in 0..20 {
        let name = format!("box-{round}");
        let mut stream = UnixStream::connect(&rig.socket).await.unwrap();
        let request = serde_json::json!({
            "jsonrpc": "2.0", "id": 1, "method": "vm.create",
            "params": {"name": name, "ephemeral": true},
        });
        stream
            .write_all(format!("{request}\n").as_bytes())
            .await
            .unwrap();
        // At various instants of the create.
        tokio::time::sleep(Duration::from_micros(300 * round)).await;
        drop(stream);
    }
    // When the daemon has ended nothing is at work any more.
    rig.stop.ask();
    rig.ended().await;
    let vms = rig.scratch.path().join("state").join("vms");
    let left: Vec<_> = std::fs::read_dir(vms).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn an_ephemeral_vm_that_its_client_deleted_is_no_trouble() {
    let mut rig = Rig::new().await;
    let mut client = rig.client().await;
    quietly::<VmCreate>(&mut client, &ephemeral("box"))
        .await
        .unwrap();
    let vm = VmParams {
        vm: "box".to_owned(),
    };
    quietly::<VmDelete>(&mut client, &vm).await.unwrap();
    // A namesake of somebody else's is not its to delete.
    let mut other = rig.client().await;
    quietly::<VmCreate>(&mut other, &named("box"))
        .await
        .unwrap();
    drop(client);
    rig.stop.ask();
    rig.ended().await;
    let vms = rig.scratch.path().join("state").join("vms");
    assert_eq!(std::fs::read_dir(vms).unwrap().count(), 1);
}

#[tokio::test]
async fn an_ephemeral_vm_that_never_came_up_is_kept_to_be_looked_at() {
    let mut rig = Rig::with(|config| config.limits.ready = Duration::ZERO).await;
    let mut client = rig.client().await;
    quietly::<VmCreate>(&mut client, &ephemeral("box"))
        .await
        .unwrap();
    let start = StartParams {
        vm: "box".to_owned(),
        wait: true,
    };
    match quietly::<VmStart>(&mut client, &start).await {
        Err(ClientError::Rpc(error)) if error.message.contains("isolated") => {
            eprintln!("SKIP: {}", error.message);
            return;
        }
        Err(ClientError::Rpc(error)) => {
            let data = error.data.unwrap();
            assert_eq!(data.kind, "not_ready");
            assert!(data.hint.unwrap().contains("banger vm logs box"));
        }
        other => panic!("{other:?}"),
    }
    drop(client);
    rig.stop.ask();
    rig.ended().await;
    assert_eq!(rig.living().len(), 1, "it runs on");
}
