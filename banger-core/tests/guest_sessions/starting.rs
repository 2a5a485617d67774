use banger_core::{
    ByteText, ErrorKind, ExecRequest, Follow, SessionRequest, SessionStage, SessionStatus,
};

use crate::rig::{Rig, boot, ended, exec, name, sh, start, stdout};

#[tokio::test]
async fn a_session_runs_when_its_start_returns_and_is_shown_with_all_that_was_asked_for() {
    let (_rig, engine) = Rig::with_box().await;
    let mut request = sh("echo up; exec sleep 600").named(name("web"));
    request.env = vec![("PORT".to_owned(), b"80".to_vec())];
    request.tags.insert("team".to_owned(), "a".to_owned());
    let started = engine.session_start("box", request).await.unwrap();
    assert_eq!(started.state.status, SessionStatus::Running);
    let pid = started.state.pid.unwrap();
    exec(&engine, &format!("kill -0 {pid}")).await;

    let shown = engine.session_show("box", "web").await.unwrap();
    assert_eq!(shown.stale, None);
    assert_eq!(shown.session.id, started.id);
    assert_eq!(shown.session.spec.argv[0], ByteText(b"sh".to_vec()));
    assert_eq!(shown.session.spec.cwd, ByteText(b"/root".to_vec()));
    assert_eq!(shown.session.spec.tags["team"], "a");
    let by_id = &started.id.as_str()[..8];
    let found = engine.session_show("box", by_id).await.unwrap();
    assert_eq!(found.session.name, started.name);
}

#[tokio::test]
async fn what_changed_nothing_is_not_written() {
    let (_rig, engine) = Rig::with_box().await;
    let started = start(&engine, "web", sh("exec sleep 600")).await;
    let shown = engine.session_show("box", "web").await.unwrap().session;
    let again = engine.session_show("box", "web").await.unwrap().session;
    assert_eq!(shown.updated_at, again.updated_at);
    assert_eq!(shown.state, started.state);
}

#[tokio::test]
async fn a_command_that_ends_at_once_is_there_with_its_status() {
    let (_rig, engine) = Rig::with_box().await;
    start(&engine, "quick", sh("echo out; echo err >&2; exit 3")).await;
    let session = ended(&engine, "quick").await;
    assert_eq!(session.state.status, SessionStatus::Exited);
    assert_eq!(session.state.exit_code, Some(3));
    assert_eq!(stdout(&engine, "quick", Follow::No).await, b"out\n");
}

#[tokio::test]
async fn what_a_session_would_miss_is_named_and_stays_in_its_record() {
    let (_rig, engine) = Rig::with_box().await;
    let missing_folder = SessionRequest {
        cwd: Some(b"/no/such folder".to_vec()),
        ..sh("true")
    };
    let no_folder = SessionRequest {
        cwd: Some(b"/etc/passwd".to_vec()),
        ..sh("true")
    };
    let missing_command = SessionRequest::new(["no-such-program"]);
    let missing_required = SessionRequest {
        required: ["sh", "no-such-tool", "it's-missing"]
            .map(str::to_owned)
            .into(),
        ..sh("true")
    };
    use SessionStage::{PreflightCommand, PreflightCwd};
    for (text, request, stage, words) in [
        (
            "a",
            missing_folder,
            PreflightCwd,
            &["\"/no/such folder\""][..],
        ),
        (
            "b",
            no_folder,
            PreflightCwd,
            &["\"/etc/passwd\" is not a folder"],
        ),
        (
            "c",
            missing_command,
            PreflightCommand,
            &["\"no-such-program\""],
        ),
        (
            "d",
            missing_required,
            PreflightCommand,
            &["\"no-such-tool\"", "\"it's-missing\""],
        ),
    ] {
        let request = request.named(name(text));
        let error = engine.session_start("box", request).await.unwrap_err();
        let session = engine.session_show("box", text).await.unwrap().session;
        assert_eq!(session.state.status, SessionStatus::Failed);
        let failure = session.state.failure.unwrap();
        assert_eq!(failure.stage, stage);
        for word in words {
            assert!(failure.message.contains(word), "{failure}");
            assert!(error.to_string().contains(word), "{error}");
        }
        assert!(!failure.message.contains("\"sh\""), "only what is missing");
        // It never wrote anything, and can be deleted like any other.
        assert_eq!(stdout(&engine, text, Follow::Yes).await, b"");
        engine.session_delete("box", text).await.unwrap();
    }
    assert_eq!(engine.session_list("box").await.unwrap(), []);
}

#[tokio::test]
async fn a_session_runs_in_a_folder_that_was_prepared_before() {
    let (_rig, engine) = Rig::with_box().await;
    exec(
        &engine,
        "mkdir -p /root/repo/sub && echo data > /root/repo/file",
    )
    .await;
    for (text, cwd) in [("a", "/root/repo"), ("b", "repo")] {
        let request = SessionRequest {
            cwd: Some(cwd.into()),
            ..sh("pwd; cat file")
        };
        start(&engine, text, request).await;
        let printed = stdout(&engine, text, Follow::Yes).await;
        assert_eq!(printed, b"/root/repo\ndata\n");
    }
}

#[tokio::test]
async fn what_no_shell_can_say_is_refused_before_anything_is_made() {
    let (_rig, engine) = Rig::with_box().await;
    let with_env = |name: &str| SessionRequest {
        env: vec![(name.to_owned(), Vec::new())],
        ..sh("true")
    };
    let requests = [
        SessionRequest::default(),
        SessionRequest::new([""]),
        SessionRequest::new(["echo", "a\0b"]),
        with_env("2A"),
        with_env("A-B"),
        with_env("A=B"),
        with_env(""),
        SessionRequest {
            required: vec!["-v".to_owned()],
            ..sh("true")
        },
        SessionRequest {
            cwd: Some(b"/a\0".to_vec()),
            ..sh("true")
        },
    ];
    for request in requests {
        let error = engine.session_start("box", request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    assert_eq!(engine.session_list("box").await.unwrap(), []);
}

#[tokio::test]
async fn arguments_and_variables_arrive_byte_for_byte() {
    let (_rig, engine) = Rig::with_box().await;
    let odd: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"it's \"quoted\"".to_vec(),
        b"two\nlines\n".to_vec(),
        b"$HOME `id` $(id) \\n".to_vec(),
        "ünïcödé ✓".into(),
        b"\xff\xfe not text".to_vec(),
        b"-n".to_vec(),
    ];
    let mut argv: Vec<Vec<u8>> = vec!["sh".into(), "-c".into()];
    argv.push(b"printf '%s\\0' \"$@\" \"$ODD\"".to_vec());
    argv.push(b"sh".to_vec());
    argv.extend(odd.clone());
    let mut request = SessionRequest::new(argv);
    request.env = vec![("ODD".to_owned(), odd[2].clone())];
    let session = start(&engine, "odd", request).await;
    let printed = stdout(&engine, "odd", Follow::Yes).await;
    let mut expected = Vec::new();
    for word in odd.iter().chain([&odd[2]]) {
        expected.extend_from_slice(word);
        expected.push(0);
    }
    assert_eq!(printed, expected);
    // The record keeps them as they are, too.
    let shown = engine.session_show("box", "odd").await.unwrap().session;
    assert_eq!(shown.spec, session.spec);
    assert_eq!(shown.spec.argv[9].0, b"\xff\xfe not text");
}

#[tokio::test]
async fn two_sessions_of_one_name_are_one_too_many_until_the_first_is_deleted() {
    let (_rig, engine) = Rig::with_box().await;
    start(&engine, "web", sh("exec sleep 600")).await;
    let again = sh("exec sleep 600").named(name("web"));
    let error = engine
        .session_start("box", again.clone())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NameTaken);
    assert_eq!(error.to_string(), "VM box already has a session named web");
    assert!(error.hint().unwrap().contains("session delete box web"));
    assert_eq!(engine.session_list("box").await.unwrap().len(), 1);
    engine.session_delete("box", "web").await.unwrap();
    engine.session_start("box", again).await.unwrap();
}

#[tokio::test]
async fn of_ten_starts_of_one_name_at_once_exactly_one_wins() {
    let (_rig, engine) = Rig::with_box().await;
    let mut starts = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let engine = engine.clone();
        let request = sh("exec sleep 600").named(name("web"));
        starts.spawn(async move { engine.session_start("box", request).await });
    }
    let done = starts.join_all().await;
    assert_eq!(done.iter().filter(|started| started.is_ok()).count(), 1);
    let left = exec(&engine, "ls /root/.local/state/banger/sessions | wc -l").await;
    assert_eq!(left.trim(), "1");
}

#[tokio::test]
async fn a_name_is_made_of_the_command_s_where_none_is_given() {
    let (_rig, engine) = Rig::with_box().await;
    let request = SessionRequest::new(["/usr/bin/sleep", "600"]);
    let session = engine.session_start("box", request).await.unwrap();
    assert_eq!(
        session.name.as_str(),
        format!("sleep-{}", &session.id.as_str()[..8])
    );
}

#[tokio::test]
async fn a_guest_whose_disk_is_full_fails_the_session_and_says_so() {
    let (_rig, engine) = Rig::with_box().await;
    let state = "/root/.local/state/banger";
    let fill = format!(
        "mkdir -p {state} && mount -t tmpfs -o size=16k none {state} && mkdir {state}/sessions \
         && {{ head -c 100000 /dev/zero >{state}/fill || :; }} 2>/dev/null"
    );
    exec(&engine, &fill).await;
    let request = sh("true").named(name("web"));
    let error = engine.session_start("box", request).await.unwrap_err();
    assert!(error.to_string().contains("is its disk full?"), "{error}");
    let session = engine.session_show("box", "web").await.unwrap().session;
    assert_eq!(session.state.failure.unwrap().stage, SessionStage::Launch);
    let left = exec(&engine, &format!("ls {state}/sessions | wc -l")).await;
    assert_eq!(left.trim(), "0", "nothing half written stays");
}

#[tokio::test]
async fn a_session_in_a_vm_that_does_not_run_is_refused_and_leaves_no_record() {
    let rig = Rig::new();
    let engine = rig.open().await;
    boot(&engine).await;
    engine.stop("box").await.unwrap();
    let error = engine.session_start("box", sh("true")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotRunning);
    assert_eq!(engine.session_list("box").await.unwrap(), []);
    let error = engine.session_list("nobody").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn the_client_that_asked_may_go_away_and_the_start_goes_on() {
    let (_rig, engine) = Rig::with_box().await;
    let asked = engine.clone();
    let request = sh("exec sleep 600").named(name("web"));
    let asking = tokio::spawn(async move { asked.session_start("box", request).await });
    // As soon as there is a record the client is gone.
    while engine.session_list("box").await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    asking.abort();
    let session = crate::rig::until(&engine, "web", |view| {
        view.session.state.status != SessionStatus::Starting
    });
    assert_eq!(session.await.state.status, SessionStatus::Running);
}

#[tokio::test]
async fn many_sessions_are_listed_oldest_first_in_one_round_trip_each_with_its_state() {
    let (_rig, engine) = Rig::with_box().await;
    for number in 0..18 {
        start(
            &engine,
            &format!("s{number}"),
            sh(&format!("exit {number}")),
        )
        .await;
    }
    for number in 0..18 {
        ended(&engine, &format!("s{number}")).await;
    }
    start(&engine, "last", sh("exec sleep 600")).await;
    let list = engine.session_list("box").await.unwrap();
    let codes: Vec<_> = list
        .iter()
        .map(|view| view.session.state.exit_code)
        .collect();
    let mut expected: Vec<_> = (0..18).map(Some).collect();
    expected.push(None);
    assert_eq!(codes, expected);
    let plain = ExecRequest::new(["true"]);
    engine.exec_output("box", &plain).await.unwrap();
}
