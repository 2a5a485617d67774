//! The space that is kept free: what is refused below it, and what goes on.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::time::Duration;

use banger_core::{
    Condition, CreateRequest, Engine, Error, ErrorKind, ExecRequest, ImageSpec, Mebibytes,
    PrepareRequest, Probe, Progress, Registration, SetRequest, TestBoot, Usable,
};

#[path = "proof/rig.rs"]
#[allow(dead_code, reason = "shared with the proofs")]
mod rig;

use rig::{Rig, condition, create, running};

/// The default reserve is 1 GiB.
const SHORT: u64 = (1 << 30) - 1;

fn refused<T: std::fmt::Debug>(what: &str, answer: Result<T, Error>) {
    let error = answer.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{what}: {error}");
    let text = error.to_string();
    assert!(text.contains("state has 1023 MiB free"), "{what}: {text}");
    assert!(text.contains("1 GiB are kept free"), "{what}: {text}");
    let hint = error.hint().unwrap();
    assert!(
        hint.contains("banger vm prune") && hint.contains("reserve"),
        "{hint}"
    );
}

async fn space(engine: &Engine) -> Probe {
    let facts = engine.doctor().await.unwrap().facts;
    let mut facts = facts.into_iter();
    facts.find(|fact| fact.subject == "space").unwrap().probe
}

fn growth(to: u64) -> SetRequest {
    SetRequest {
        work_disk: Some(Mebibytes(to)),
        ..SetRequest::default()
    }
}

#[tokio::test]
async fn below_the_reserve_nothing_is_begun_or_grown_and_what_runs_goes_on() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let silent = Progress::silent();
    running(&engine, "runs").await;
    create(&engine, "stopped").await;
    let before = engine.list().await.unwrap().len();
    assert_eq!(space(&engine).await.usable, Usable::Yes);

    rig.host.set_free_bytes(SHORT);
    let request = CreateRequest::named("new".parse().unwrap());
    refused("create", engine.create(request, &silent).await);
    refused("start", engine.start("stopped", &silent).await);
    refused("restart", engine.restart("runs", &silent).await);
    refused("grow", engine.set("stopped", growth(16 << 10)).await);
    let spec = ImageSpec::new("mine".parse().unwrap());
    let error = engine.build_image(spec, &silent).await.unwrap_err();
    assert!(matches!(error, Error::Reserve { .. }), "{error:?}");
    let registration = Registration {
        name: "theirs".parse().unwrap(),
        rootfs: "/nowhere".into(),
        kernel: "/nowhere".into(),
        initrd: None,
        test_boot: TestBoot::Skipped,
    };
    let error = engine
        .register_image(registration, &silent)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Reserve { .. }), "{error:?}");
    let repository = PrepareRequest::new("/nowhere");
    refused(
        "carry",
        engine.workspace_prepare("runs", repository, &silent).await,
    );

    assert_eq!(
        condition(&engine, "runs").await,
        Condition::Running,
        "not even stopped"
    );
    assert_eq!(condition(&engine, "stopped").await, Condition::Created);
    assert_eq!(engine.list().await.unwrap().len(), before);
    let labels = [("why".to_owned(), Some("it takes no room".to_owned()))];
    let request = SetRequest {
        labels: labels.into(),
        ..SetRequest::default()
    };
    engine.set("stopped", request).await.unwrap();
    // It runs already: nothing is started.
    engine.start("runs", &silent).await.unwrap();
    let probe = space(&engine).await;
    assert_eq!(probe.usable, Usable::No);
    assert!(
        probe.reason.contains("nothing is started"),
        "{}",
        probe.reason
    );
    engine.stop("runs").await.unwrap();
    engine.delete("runs").await.unwrap();

    rig.host.set_free_bytes(SHORT + 1);
    engine.start("stopped", &silent).await.unwrap();
    assert_eq!(
        space(&engine).await.usable,
        Usable::No,
        "too little for an image"
    );
    engine.delete("stopped").await.unwrap();
    assert!(engine.prove().await.unwrap().is_clean());
}

#[tokio::test]
async fn how_much_is_kept_free_is_the_owner_s_choice_and_none_is_one() {
    let rig = Rig::new();
    rig.host.set_free_bytes(0);
    let mut config = rig.config.clone();
    config.reserve = Mebibytes(0);
    let engine = rig.open_as(config).await;
    running(&engine, "box").await;
    engine.delete("box").await.unwrap();
}

#[tokio::test]
async fn a_guest_that_reboots_below_the_reserve_stays_down_and_the_reason_is_found_with_it() {
    let rig = Rig::new();
    let engine = rig.open().await;
    running(&engine, "box").await;
    rig.host.set_free_bytes(SHORT);
    let reboot = ExecRequest {
        argv: vec![b"reboot".to_vec()],
        ..ExecRequest::default()
    };
    // It ends in the middle of this.
    let _ = engine.exec_output("box", &reboot).await;
    let noted = async {
        loop {
            let view = engine.show("box").await.unwrap();
            if let (Condition::Stopped, Some(error)) = (view.condition, view.vm.runtime.last_error)
            {
                return error;
            }
            tokio::task::yield_now().await;
        }
    };
    let noted = tokio::time::timeout(Duration::from_secs(10), noted).await;
    let error = noted.expect("it is noted");
    assert!(error.contains("are kept free"), "{error}");
}
