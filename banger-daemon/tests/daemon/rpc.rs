//! Requests, answers, progress, errors.

use banger_daemon::client::{Client, ClientError};
use banger_daemon::protocol::*;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::rig::{LIMIT, Rig, named, quietly};

/// Sends bytes, says that nothing more comes, and returns everything that is answered.
async fn answers(rig: &Rig, bytes: &[u8]) -> Vec<Value> {
    let mut stream = UnixStream::connect(&rig.socket).await.unwrap();
    let (mut read, mut write) = stream.split();
    let mut text = String::new();
    let talk = async {
        // A daemon that has read enough may hang up before the end.
        let _ = write.write_all(bytes).await;
        let _ = write.shutdown().await;
    };
    let listen = async {
        let _ = read.read_to_string(&mut text).await;
    };
    tokio::time::timeout(LIMIT, async { tokio::join!(talk, listen) })
        .await
        .expect("the daemon neither answered nor hung up");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn a_vm_goes_through_its_life_by_rpc() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    let mut create = named("box");
    create.memory_mib = Some(256);
    create.labels.insert("for".to_owned(), "tests".to_owned());
    let made = quietly::<VmCreate>(&mut client, &create).await.unwrap();
    assert_eq!(
        (made.name.as_str(), made.state.as_str()),
        ("box", "created")
    );
    assert_eq!((made.memory_mib, made.vcpus, made.pid), (256, 2, None));

    let start = StartParams {
        vm: made.id[..6].to_owned(),
        wait: false,
    };
    let started = quietly::<VmStart>(&mut client, &start).await.unwrap();
    assert_eq!(
        (started.outcome.as_str(), started.name.as_str()),
        ("started", "box")
    );
    let running = started.vm.unwrap();
    assert_eq!(running.state, "running");
    assert!(running.pid.is_some());
    let again = quietly::<VmStart>(&mut client, &start).await.unwrap();
    assert_eq!(again.outcome, "already_running");
    let status = quietly::<DaemonStatus>(&mut client, &Nothing {})
        .await
        .unwrap();
    assert_eq!((status.running, status.version.as_str()), (1, VERSION));
    assert_eq!(status.pid, std::process::id());

    let vm = VmParams {
        vm: "box".to_owned(),
    };
    let running = VmListParams {
        only: Some(VmFilter::Running),
    };
    let listed = quietly::<VmList>(&mut client, &running).await.unwrap();
    assert_eq!(listed.vms.len(), 1);
    let killed = quietly::<VmKill>(&mut client, &vm).await.unwrap();
    assert_eq!(killed.outcome, "stopped");
    assert!(killed.detail.unwrap().contains("killed"));
    let stop = StopParams {
        vm: "box".to_owned(),
        timeout_s: Some(1),
    };
    let stopped = quietly::<VmStop>(&mut client, &stop).await.unwrap();
    assert_eq!(stopped.outcome, "already_stopped");

    let listed = quietly::<VmList>(&mut client, &VmListParams::default())
        .await
        .unwrap();
    assert_eq!(listed.vms, [stopped.vm.unwrap()]);
    let listed = quietly::<VmList>(&mut client, &running).await.unwrap();
    assert_eq!(listed.vms, []);
    let deleted = quietly::<VmDelete>(&mut client, &vm).await.unwrap();
    assert_eq!((deleted.outcome.as_str(), deleted.vm), ("deleted", None));
    assert!(rig.living().is_empty());
}

#[tokio::test]
async fn progress_comes_in_order_and_before_the_answer() {
    let rig = Rig::new().await;
    let mut stream = BufReader::new(UnixStream::connect(&rig.socket).await.unwrap());
    let lines = concat!(
        r#"{"jsonrpc":"2.0","id":7,"method":"vm.create","params":{"name":"box"}}"#,
        "\n"
    );
    stream.write_all(lines.as_bytes()).await.unwrap();
    let mut stages = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        let message: Value = serde_json::from_str(&line).unwrap();
        if message["method"] == PROGRESS {
            assert_eq!(message["params"]["id"], 7);
            stages.push(message["params"]["stage"].as_str().unwrap().to_owned());
        } else {
            assert_eq!(message["id"], 7);
            break;
        }
    }
    assert!(stages.contains(&"disk".to_owned()), "{stages:?}");
}

#[tokio::test]
async fn a_slow_request_holds_up_no_other_on_its_connection() {
    let rig =
        Rig::with(|config| config.limits.power_off = std::time::Duration::from_secs(600)).await;
    let mut client = rig.client().await;
    quietly::<VmCreate>(&mut client, &named("a")).await.unwrap();
    let mut lines = Vec::new();
    // Fifty that change something and one that asks, which overtakes most of them or all.
    for id in 0..50 {
        lines.extend(
            format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"vm.create\",\"params\":{{\"name\":\"b{id}\"}}}}\n")
                .into_bytes(),
        );
    }
    lines.extend(
        b"{\"jsonrpc\":\"2.0\",\"id\":50,\"method\":\"vm.show\",\"params\":{\"vm\":\"a\"}}\n",
    );
    let answered = answers(&rig, &lines).await;
    let ids: Vec<u64> = answered
        .iter()
        .filter(|message| message.get("method").is_none())
        .map(|message| message["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids.len(), 51, "each is answered once");
    assert_ne!(
        ids.last(),
        Some(&50),
        "the question waited for all the work before it"
    );
}

#[tokio::test]
async fn errors_carry_kind_causes_hint_and_the_operation() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    let vm = VmParams {
        vm: "ghost".to_owned(),
    };
    let Err(ClientError::Rpc(error)) = quietly::<VmShow>(&mut client, &vm).await else {
        panic!("a ghost was shown");
    };
    assert_eq!(error.code, CODE_FAILED);
    assert!(error.message.contains("ghost"), "{error:?}");
    let data = error.data.unwrap();
    assert_eq!(data.kind, "not_found");
    assert!(data.hint.unwrap().contains("banger vm list"));
    assert!(!data.op_id.is_empty());

    quietly::<VmCreate>(&mut client, &named("box"))
        .await
        .unwrap();
    let Err(ClientError::Rpc(error)) = quietly::<VmCreate>(&mut client, &named("box")).await else {
        panic!("a name was given twice");
    };
    assert_eq!(error.data.unwrap().kind, "name_taken");
}

#[tokio::test]
async fn parameters_that_are_not_the_methods_are_named() {
    let rig = Rig::new().await;
    let table = [
        ("vm.create", json!({"nam": "x"}), "nam"),
        ("vm.create", json!({"vcpus": "two"}), "two"),
        ("vm.show", json!({}), "vm"),
        ("vm.list", json!({"all": true}), "all"),
        (
            "vm.exec",
            json!({"vm": "a", "argv": ["a"], "tty": true}),
            "tty",
        ),
    ];
    for (method, params, word) in table {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let answered = answers(&rig, format!("{request}\n").as_bytes()).await;
        let error = &answered[0]["error"];
        assert_eq!(error["code"], CODE_INVALID_PARAMS, "{request}");
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains(method) && message.contains(word),
            "{message}"
        );
    }
}

#[tokio::test]
async fn an_unknown_backend_is_invalid_and_named_with_those_there_are() {
    let rig = Rig::new().await;
    let request =
        json!({"jsonrpc": "2.0", "id": 1, "method": "vm.create", "params": {"vmm": "vmware"}});
    let answered = answers(&rig, format!("{request}\n").as_bytes()).await;
    let error = &answered[0]["error"];
    assert_eq!(error["data"]["kind"], "invalid");
    let message = "there is no monitor \"vmware\"; there are: qemu, firecracker";
    assert_eq!(error["message"], message);
}

#[tokio::test]
async fn every_method_of_the_protocol_is_served_and_no_other() {
    let rig = Rig::new().await;
    for method in METHODS {
        // None takes this parameter, so none does anything.
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"no": 1}});
        let answered = answers(&rig, format!("{request}\n").as_bytes()).await;
        assert_eq!(
            answered[0]["error"]["code"], CODE_INVALID_PARAMS,
            "{method}"
        );
    }
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": "vm.teleport"});
    let answered = answers(&rig, format!("{request}\n").as_bytes()).await;
    assert_eq!(answered[0]["error"]["code"], CODE_NO_METHOD);
    let hint = answered[0]["error"]["data"]["hint"].as_str().unwrap();
    assert!(
        hint.contains("vm.start") && !hint.contains("daemon.stop"),
        "{hint}"
    );
}

#[tokio::test]
async fn junk_is_answered_and_harms_nobody() {
    let rig = Rig::new().await;
    let mut bystander = rig.client().await;
    let too_long = vec![b'x'; MAX_LINE_BYTES + 2];
    let table: &[(&[u8], i64)] = &[
        (b"junk\n", CODE_PARSE),
        (b"\x00\xff\xfe\n", CODE_PARSE),
        (b"GET / HTTP/1.1\n", CODE_PARSE),
        (b"[1,2]\n", CODE_INVALID_REQUEST),
        (
            b"{\"jsonrpc\":\"2.0\",\"id\":[],\"method\":\"vm.list\"}\n",
            CODE_INVALID_REQUEST,
        ),
        (&too_long, CODE_INVALID_REQUEST),
    ];
    for (bytes, code) in table {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
        let answered = answers(&rig, bytes).await;
        assert_eq!(answered[0]["error"]["code"], *code, "{shown}");
        assert_eq!(answered[0]["id"], Value::Null, "{shown}");
    }
    // Half a line is none; nor is an empty one.
    assert!(answers(&rig, b"{\"jsonrpc\":").await.is_empty());
    assert!(answers(&rig, b"\n \r\n").await.is_empty());
    // After junk on its own connection a client goes on.
    let answered = answers(
        &rig,
        b"junk\n{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"vm.list\"}\n",
    )
    .await;
    let served = answered.iter().find(|answer| answer["id"] == 1).unwrap();
    assert_eq!(served["result"], json!({"vms": []}));
    quietly::<VmList>(&mut bystander, &VmListParams::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_request_of_the_greatest_length_is_carried_out() {
    let rig = Rig::new().await;
    let fixed = r#"{"jsonrpc":"2.0","id":1,"method":"vm.show","params":{"vm":""}}"#.len();
    let name = "x".repeat(MAX_LINE_BYTES - fixed);
    let request =
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"vm.show","params":{{"vm":"{name}"}}}}"#);
    assert_eq!(request.len(), MAX_LINE_BYTES);
    let answered = answers(&rig, format!("{request}\n").as_bytes()).await;
    assert_eq!(answered[0]["error"]["data"]["kind"], "not_found");
}

#[tokio::test]
async fn a_client_that_gives_up_waiting_can_go_on_and_its_verb_is_finished() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    let create = named("box");
    {
        let mut told = false;
        let mut tell = |_| told = true;
        let call = client.call::<VmCreate>(&create, &mut tell);
        // Polled until its request is out, then dropped.
        let _ = tokio::time::timeout(std::time::Duration::from_millis(1), call).await;
    }
    // The next call is answered with its own answer, not with the one that nobody waited for.
    let listed = quietly::<VmList>(&mut client, &VmListParams::default())
        .await
        .unwrap();
    assert!(listed.vms.len() <= 1);
    crate::rig::until("the VM is created", || async {
        rig.engine.show("box").await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn the_socket_and_its_folder_are_closed_to_others() {
    use std::os::unix::fs::MetadataExt;
    let rig = Rig::new().await;
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&rig.socket), 0o600);
    assert_eq!(mode(rig.socket.parent().unwrap()), 0o700);
}

#[tokio::test]
async fn another_user_is_refused_even_if_the_folder_stands_open() {
    use std::os::unix::fs::PermissionsExt;
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP: only root can become another user");
        return;
    }
    let rig = Rig::new().await;
    let refused = as_nobody(&rig).await;
    assert_eq!(
        refused.unwrap_err().kind(),
        std::io::ErrorKind::PermissionDenied
    );

    let open = std::fs::Permissions::from_mode(0o777);
    for path in [
        rig.scratch.path(),
        rig.socket.parent().unwrap(),
        &rig.socket,
    ] {
        std::fs::set_permissions(path, open.clone()).unwrap();
    }
    assert_eq!(
        as_nobody(&rig).await.unwrap(),
        "",
        "another user was served"
    );
    assert!(!answers(&rig, b"junk\n").await.is_empty(), "we are not");
}

/// Asks for something as the user `nobody`, and returns what is answered.
async fn as_nobody(rig: &Rig) -> std::io::Result<String> {
    use std::io::{Read, Write};
    let socket = rig.socket.clone();
    // A thread of its own that ends with it: on Linux each has a user of its own.
    let asked = std::thread::spawn(move || {
        let nobody = rustix::process::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody)?;
        let mut stream = std::os::unix::net::UnixStream::connect(socket)?;
        let mut answer = String::new();
        let _ = stream.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"vm.list\"}\n");
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_string(&mut answer);
        Ok(answer)
    });
    tokio::task::spawn_blocking(move || asked.join().unwrap())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_socket_that_nobody_serves_is_told_from_one_that_cannot_be_used() {
    let scratch = tempfile::tempdir().unwrap();
    let missing = scratch.path().join("missing");
    let refused = Client::connect(&missing).await;
    assert!(
        matches!(refused, Err(ClientError::NotRunning { .. })),
        "{refused:?}"
    );
    let stale = scratch.path().join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let refused = Client::connect(&stale).await;
    assert!(
        matches!(refused, Err(ClientError::NotRunning { .. })),
        "{refused:?}"
    );
    let deep = scratch.path().join("x".repeat(200));
    let refused = Client::connect(&deep).await;
    assert!(
        matches!(refused, Err(ClientError::Connect { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_daemon_told_to_stop_answers_removes_its_socket_and_leaves_the_vms() {
    let mut rig = Rig::new().await;
    let mut client = rig.client().await;
    quietly::<VmCreate>(&mut client, &named("box"))
        .await
        .unwrap();
    let start = StartParams {
        vm: "box".to_owned(),
        wait: false,
    };
    quietly::<VmStart>(&mut client, &start).await.unwrap();
    quietly::<DaemonStop>(&mut client, &Nothing {})
        .await
        .unwrap();
    let living = rig.living();
    rig.ended().await;
    assert!(!rig.socket.exists());
    assert_eq!(living.len(), 1, "the VM runs on");
    let asked = quietly::<VmList>(&mut client, &VmListParams::default()).await;
    assert!(matches!(asked, Err(ClientError::Lost)), "{asked:?}");
}

#[tokio::test]
async fn a_stray_is_named_by_a_proof_and_removed_by_its_key_and_only_then() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    quietly::<VmCreate>(&mut client, &named("box"))
        .await
        .unwrap();
    let proof = quietly::<DoctorProve>(&mut client, &Nothing {})
        .await
        .unwrap();
    assert!(
        proof.objects.iter().all(|object| !object.stray),
        "{proof:?}"
    );
    let folder = |object: &&ProvenObject| object.kind == "VM folder";
    assert_eq!(proof.objects.iter().find(folder).unwrap().owner, "VM box");
    assert!(proof.kinds.contains(&"loop device".to_owned()));

    let trash = rig
        .engine
        .places()
        .vms()
        .join(format!(".trash-{}", "0".repeat(32)));
    let other = rig
        .engine
        .places()
        .vms()
        .join(format!(".trash-{}", "1".repeat(32)));
    for folder in [&trash, &other] {
        std::fs::create_dir(folder).unwrap();
    }
    let proof = quietly::<DoctorProve>(&mut client, &Nothing {})
        .await
        .unwrap();
    let which = trash.display().to_string();
    let stray = proof
        .objects
        .iter()
        .find(|object| object.which == which)
        .unwrap();
    assert!(stray.stray && stray.removable);
    let fix = FixParams {
        strays: vec![stray.key.clone(), "VM folder /somewhere/else".to_owned()],
    };
    let fixed = quietly::<DoctorFix>(&mut client, &fix).await.unwrap();
    let outcomes: Vec<&str> = fixed
        .lines
        .iter()
        .map(|line| line.outcome.as_str())
        .collect();
    assert_eq!(outcomes, ["removed", "no_stray_any_more"]);
    assert!(!trash.exists());
    assert!(other.exists(), "it was not named");
}
