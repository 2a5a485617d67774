//! Bad days: what is killed, full, large, or changes while it is looked at.

use banger_core::{ErrorKind, PrepareRequest, Progress, Untracked};

use crate::rig::{NAMES, Rig};

#[tokio::test]
async fn names_of_every_kind_go_in_and_come_out() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    let made = std::process::Command::new("sh")
        .args(["-ec", NAMES])
        .current_dir(&repo.root)
        .status();
    assert!(made.unwrap().success());
    std::os::unix::fs::symlink("/etc/passwd", repo.root.join("out")).unwrap();
    std::os::unix::fs::symlink("../../..", repo.root.join("up")).unwrap();
    repo.write("no newline", "x");
    repo.write("crlf", "a\r\nb\r\n");
    repo.write("empty", "");
    let request = PrepareRequest {
        untracked: Untracked::Carry,
        ..PrepareRequest::new(&repo.root)
    };
    rig.try_prepare(request.clone()).await.unwrap();
    let here = repo.git(["ls-files", "-z", "-o", "-c"]);
    let there = rig.guest("git ls-files -z -o -c").await;
    assert_eq!(there.trim(), here);
    assert_eq!(
        rig.guest("readlink out up").await,
        "/etc/passwd\n../../..\n"
    );
    // Tracked and changed, all of them.
    repo.commit("all");
    for name in ["no newline", "crlf", "empty"] {
        repo.write(name, "changed");
    }
    let changed = std::process::Command::new("sh")
        .args([
            "-c",
            "cd names; for f in ./* ./.[!.]*; do [ ! -f \"$f\" ] || echo more >> \"$f\"; done",
        ])
        .current_dir(&repo.root)
        .status();
    assert!(changed.unwrap().success());
    rig.prepare(&repo).await;
    let head = repo.git(["rev-parse", "HEAD"]);
    let patch = rig.export(Some(&head)).await.unwrap();
    let clone = repo.clone_to(&rig.scratch.path().join("clone"));
    assert_eq!(clone.tree_after(&patch), rig.guest_tree().await);
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_is_told_or_is_whole() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    repo.write("growing", vec![b'a'; 20 << 20]);
    repo.git(["add", "growing"]);
    let path = repo.root.join("growing");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let told = stop.clone();
    let writer = std::thread::spawn(move || {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        while !told.load(std::sync::atomic::Ordering::Relaxed) {
            file.write_all(b"b").unwrap();
        }
    });
    let outcome = rig.try_prepare(PrepareRequest::new(&repo.root)).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().unwrap();
    match outcome {
        Err(error) => {
            let text = error.chain().join(": ");
            assert!(text.contains("could not be read as they are"), "{text}");
            assert_eq!(rig.outside("ls -A /root").await, "", "nothing went in");
        }
        Ok(_) => assert_eq!(rig.guest("tr -d ab < growing | wc -c").await.trim(), "0"),
    }
    rig.nothing_staged();
}

#[tokio::test]
async fn an_engine_that_dies_while_it_carries_leaves_the_guest_as_it_was_and_nothing_here() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    repo.write("big", vec![7; 50 << 20]);
    repo.git(["add", "big"]);
    // What a dead engine leaves: its folder here, a script in the guest whose input has ended.
    let folder = rig.config.state_dir.join("staging/dead");
    std::fs::create_dir_all(folder.join("shadow-0/objects")).unwrap();
    rig.outside("mkdir -p /root/.banger-prepare-dead/tree; : > /root/.banger-prepare-dead/lock")
        .await;
    let (engine, host, config, _scratch) = (rig.engine, rig.host, rig.config, rig.scratch);
    engine.close().await;
    let (engine, _) = banger_core::Engine::sim_over(&host, config).await.unwrap();
    assert!(!folder.exists(), "the next engine sweeps");
    let silent = Progress::silent();
    engine
        .workspace_prepare("box", PrepareRequest::new(&repo.root), &silent)
        .await
        .unwrap();
    let listed = banger_core::ExecRequest::new(["ls", "-A", "/root"]);
    let listed = engine.exec_output("box", &listed).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&listed.stdout), "repo\n");
}

/// Whoever works in a workspace by its name is never told that there is none.
#[tokio::test]
async fn a_workspace_that_is_replaced_is_there_all_the_while() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    rig.prepare(&repo).await;
    let watched =
        rig.outside("while [ ! -e /root/enough ]; do [ -e /root/repo ] || echo gone; done");
    let replaced = async {
        for round in 0..10 {
            repo.write("README.md", format!("{round}\n"));
            rig.prepare_again(&repo).await;
        }
        rig.outside(": >/root/enough").await
    };
    let (seen, _) = tokio::join!(watched, replaced);
    assert_eq!(seen.lines().count(), 0, "how often it was not there");
    assert_eq!(rig.outside("ls -A /root").await, "enough\nrepo\n");
}

#[tokio::test]
async fn a_guest_that_cannot_exchange_two_folders_has_its_workspace_replaced_all_the_same() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    rig.prepare(&repo).await;
    rig.outside("mount --bind /bin/false /usr/bin/perl; ! perl -e 1")
        .await;
    repo.write("README.md", "anew\n");
    rig.prepare_again(&repo).await;
    assert_eq!(rig.guest("cat README.md").await, "anew\n");
    assert_eq!(rig.outside("ls -A /root").await, "repo\n");
}

#[tokio::test]
async fn a_stream_that_is_cut_anywhere_changes_nothing_in_the_guest() {
    use banger_session::workspace::{Checkout, GuestPath, Receive, Replace, receive_script};
    let rig = Rig::with_box().await;
    let repo = rig.small();
    rig.prepare(&repo).await;
    let before = rig
        .outside("find /root | sort; git -C /root/repo status")
        .await;
    let dest = GuestPath::default();
    let checkouts = [Checkout { prefix: Vec::new() }];
    let script = receive_script(&Receive {
        dest: &dest,
        id: "cut",
        checkouts: &checkouts,
        repos_bytes: 1 << 20,
        overlay_bytes: Some(1 << 20),
        replace: Replace::Workspace,
    });
    let script = String::from_utf8(script.unwrap()).unwrap();
    for bytes in [0, 1, 511, 512, 10_240, 1 << 20] {
        let feed = format!(
            "head -c {bytes} /dev/zero | ({script}) >/dev/null 2>&1 && echo went || echo refused"
        );
        assert_eq!(rig.outside(&feed).await, "refused\n", "{bytes}");
        assert_eq!(
            rig.outside("find /root | sort; git -C /root/repo status")
                .await,
            before
        );
    }
}

#[tokio::test]
async fn a_guest_that_has_no_room_refuses_before_anything_is_sent() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    rig.outside("mkdir /root/tiny; mount -t tmpfs -o size=300k none /root/tiny")
        .await;
    repo.write(
        "big",
        (0..2_000_000_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect::<Vec<_>>(),
    );
    repo.commit("big");
    let request = PrepareRequest {
        guest_path: banger_core::GuestPath::new(b"/root/tiny/repo").unwrap(),
        ..PrepareRequest::new(&repo.root)
    };
    let error = rig.try_prepare(request.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    // Packed it fits, and checked out it does not.
    repo.write("big", vec![b'a'; 3_000_000]);
    repo.git(["commit", "-q", "--amend", "-a", "-m", "compresses"]);
    let error = rig.try_prepare(request).await.unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::NoSpace,
        "{}",
        error.chain().join(": ")
    );
    assert_eq!(
        rig.outside("ls -A /root/tiny").await,
        "",
        "nothing is left of it"
    );
    rig.nothing_staged();
}

#[tokio::test]
async fn twenty_thousand_files_go_in_and_out() {
    let rig = Rig::with_box().await;
    let repo = rig.repository("many");
    for number in 0..20_000 {
        repo.write(
            &format!("d{}/{number}", number % 200),
            format!("{number}\n"),
        );
    }
    repo.commit("many");
    rig.prepare(&repo).await;
    assert_eq!(
        rig.guest("git ls-files | wc -l; git status --porcelain")
            .await
            .trim(),
        "20000"
    );
    rig.guest("for d in d*; do mv $d/$(ls $d | head -n 1) $d/moved; done")
        .await;
    let changes = rig
        .engine
        .workspace_changes("box", None)
        .await
        .unwrap()
        .files;
    assert_eq!(changes.len(), 200, "as many renames");
}
