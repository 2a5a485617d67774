//! A repository into a guest.

use banger_core::{
    ErrorKind, Freshness, Overwrite, Ownership, PrepareRequest, Untracked, WorkspaceMode,
};

use crate::rig::Rig;

#[tokio::test]
async fn what_is_in_the_working_tree_is_in_the_guest_and_nothing_else() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    repo.git([
        "remote",
        "add",
        "origin",
        "https://me:s3cret@example.org/small.git",
    ]);
    repo.write("README.md", "changed\n");
    repo.write("with space\nand newline", "new, staged\n");
    repo.git(["add", "with space\nand newline"]);
    repo.write("secret.env", "never to be carried\n");
    repo.write(".gitignore", "target/\n");
    std::fs::remove_file(repo.root.join("src/lib.c")).unwrap();
    let before = repo.state();

    let prepared = rig.prepare(&repo).await;

    assert_eq!(repo.state(), before, "the repository here is as it was");
    rig.nothing_staged();
    assert_eq!(rig.guest("cat README.md").await, "changed\n");
    assert_eq!(
        rig.guest("cat 'with space\nand newline'").await,
        "new, staged\n"
    );
    assert_eq!(
        rig.guest("ls src; ls -a").await,
        "main.c\n.\n..\n.git\nREADME.md\nsrc\nwith space\nand newline\n"
    );
    assert_eq!(
        rig.guest("git rev-parse HEAD").await.trim(),
        repo.git(["rev-parse", "HEAD"])
    );
    assert_eq!(
        rig.guest("git symbolic-ref HEAD").await,
        "refs/heads/main\n"
    );
    let status = rig.guest("git status --porcelain").await;
    assert_eq!(
        status,
        " M README.md\n D src/lib.c\nA  \"with space\\nand newline\"\n"
    );
    assert_eq!(
        rig.guest("git config remote.origin.url").await,
        "https://example.org/small.git\n"
    );
    assert_eq!(rig.guest("git config user.name").await, "A Person\n");
    let leaks = rig.guest("grep -r s3cret . || :").await;
    assert_eq!(leaks, "", "the password stays here");
    assert_eq!(prepared.workspace.carried, 3);
    assert_eq!(prepared.inspection.untracked.len(), 2);
    let recorded = rig.engine.workspace("box").await.unwrap().unwrap();
    assert_eq!(recorded, prepared.workspace);
    assert_eq!(
        rig.engine.workspace_freshness(&recorded).await,
        Freshness::Fresh
    );
    let head = repo.commit("moved on");
    assert_eq!(
        rig.engine.workspace_freshness(&recorded).await,
        Freshness::Moved { head }
    );
}

#[tokio::test]
async fn a_refresh_carries_what_changed_here_as_it_was_asked_for_and_nothing_otherwise() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    repo.write("notes", "untracked\n");
    let request = PrepareRequest {
        untracked: Untracked::Carry,
        branch: Some("work".to_owned()),
        ..PrepareRequest::new(&repo.root)
    };
    rig.try_prepare(request).await.unwrap();
    let refresh = async || {
        let silent = banger_core::Progress::silent();
        let refreshed = rig.engine.workspace_refresh("box", &silent).await;
        rig.nothing_staged();
        refreshed.unwrap()
    };
    assert_eq!(refresh().await, None);
    // Edits that nobody has committed: of a tracked file, of one that is not, and a new one.
    for (path, text) in [
        ("README.md", "edited\n"),
        ("notes", "edited too\n"),
        ("more", "new\n"),
    ] {
        repo.write(path, text);
        assert!(refresh().await.is_some(), "{path}");
        assert_eq!(rig.guest(&format!("cat {path}")).await, text);
        assert_eq!(refresh().await, None, "{path}");
    }
    std::fs::remove_file(repo.root.join("more")).unwrap();
    assert!(refresh().await.is_some());
    repo.commit("moved on");
    assert!(refresh().await.is_some());
    let said = rig.guest("git branch --show-current; ls").await;
    assert_eq!(said, "work\nREADME.md\nnotes\nsrc\n");
}

#[tokio::test]
async fn a_workspace_of_an_older_banger_is_replaced_as_any_other() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    rig.prepare(&repo).await;
    // It noted its own refs too.
    rig.guest(
        "git for-each-ref --format='%(objectname) %(refname)' refs/banger >>.git/banger-refs",
    )
    .await;
    rig.prepare(&repo).await;
    rig.guest("git commit -q --allow-empty -m work").await;
    let request = PrepareRequest::new(&repo.root);
    let refused = rig.try_prepare(request).await.unwrap_err();
    assert!(
        refused.to_string().contains("commits were made"),
        "{refused}"
    );
}

#[tokio::test]
async fn untracked_files_are_carried_if_that_is_asked_for_and_ignored_ones_never() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    repo.write(".gitignore", "*.o\n");
    repo.write("new/file", "untracked\n");
    repo.write("main.o", "ignored\n");
    std::fs::create_dir_all(rig.scratch.path().join("home/.config/git")).unwrap();
    std::fs::write(
        rig.scratch.path().join("home/.config/git/ignore"),
        "*.secret\n",
    )
    .unwrap();
    repo.write("my.secret", "ignored by its owner everywhere\n");
    let request = PrepareRequest {
        untracked: Untracked::Carry,
        ..PrepareRequest::new(&repo.root)
    };
    rig.try_prepare(request).await.unwrap();
    let listed = rig
        .guest("find . -name .git -prune -o -type f -print | sort")
        .await;
    assert_eq!(
        listed,
        "./.gitignore\n./README.md\n./new/file\n./src/lib.c\n./src/main.c\n"
    );
    assert_eq!(
        rig.export(None).await.unwrap(),
        b"",
        "what was carried is no change of the guest's"
    );
}

#[tokio::test]
async fn ten_commits_are_carried_and_all_of_them_in_a_full_copy() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    repo.git(["tag", "v1"]);
    for number in 0..30 {
        repo.write("count", format!("{number}\n"));
        repo.commit(&format!("commit {number}"));
    }
    repo.git(["branch", "other", "HEAD~20"]);
    rig.prepare(&repo).await;
    assert_eq!(rig.guest("git rev-list --count HEAD").await, "10\n");
    assert_eq!(
        rig.guest("git rev-parse --is-shallow-repository").await,
        "true\n"
    );
    rig.guest("git fsck --strict 2>&1").await;

    let full = PrepareRequest {
        mode: WorkspaceMode::FullCopy,
        ..PrepareRequest::new(&repo.root)
    };
    assert!(rig.try_prepare(full).await.unwrap().replaced);
    assert_eq!(rig.guest("git rev-list --count HEAD").await, "31\n");
    assert_eq!(
        rig.guest("git rev-parse --is-shallow-repository").await,
        "false\n"
    );
    let refs = rig
        .guest("git for-each-ref --format='%(refname)' refs/heads refs/tags")
        .await;
    assert_eq!(refs, "refs/heads/main\nrefs/heads/other\nrefs/tags/v1\n");
    assert_eq!(
        rig.guest("git rev-parse other").await.trim(),
        repo.git(["rev-parse", "other"])
    );
}

#[tokio::test]
async fn a_commit_outside_of_the_last_ten_is_fetched_when_it_is_wanted() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    let first = repo.git(["rev-parse", "HEAD"]);
    for number in 0..20 {
        repo.commit(&format!("commit {number}"));
    }
    repo.write("README.md", "belongs to the tip\n");
    let request = PrepareRequest {
        from: Some(first.clone()),
        branch: Some("topic/x".to_owned()),
        ..PrepareRequest::new(&repo.root)
    };
    let prepared = rig.try_prepare(request).await.unwrap();
    assert_eq!(prepared.workspace.head, first);
    assert_eq!(
        rig.guest("git symbolic-ref HEAD; cat README.md").await,
        "refs/heads/topic/x\nhello\n"
    );
    let notes = prepared.inspection.notes.join("\n");
    assert!(notes.contains("stay here"), "{notes}");

    let refused = |request| async { rig.try_prepare(request).await.unwrap_err() };
    let unknown = PrepareRequest {
        from: Some("no-such-commit".to_owned()),
        ..PrepareRequest::new(&repo.root)
    };
    assert_eq!(refused(unknown).await.kind(), ErrorKind::NotFound);
    for name in ["-f", "a b", "a..b", ""] {
        let bad = PrepareRequest {
            branch: Some(name.to_owned()),
            ..PrepareRequest::new(&repo.root)
        };
        assert_eq!(refused(bad).await.kind(), ErrorKind::Invalid, "{name:?}");
    }
}

#[tokio::test]
async fn a_repository_that_cannot_be_carried_is_refused_with_the_way_out() {
    let rig = Rig::with_box().await;
    let empty = rig.repository("empty");
    let bare = rig.scratch.path().join("bare");
    std::fs::create_dir(&bare).unwrap();
    empty.git(["init", "-q", "--bare", bare.to_str().unwrap()]);
    let plain = rig.scratch.path().join("plain");
    std::fs::create_dir(&plain).unwrap();
    let missing = rig.scratch.path().join("missing");
    for (path, kind, word) in [
        (&empty.root, ErrorKind::Invalid, "no commit yet"),
        (&bare, ErrorKind::Invalid, "bare repository"),
        (&plain, ErrorKind::NotFound, "not in a git repository"),
        (&missing, ErrorKind::NotFound, "there is no folder"),
    ] {
        let error = rig
            .engine
            .workspace_inspect(&PrepareRequest::new(path))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let text = error.chain().join(": ");
        assert!(text.contains(word), "{text}");
    }
    rig.nothing_staged();
}

#[tokio::test]
async fn another_user_s_repository_is_explained_and_not_looked_into() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    let owned = std::process::Command::new("chown")
        .args(["-R", "12345"])
        .arg(&repo.root)
        .status();
    if !owned.unwrap().success() {
        println!("SKIP: only root can give a repository away");
        return;
    }
    let mut request = PrepareRequest::new(&repo.root);
    let error = rig.try_prepare(request.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(
        error.to_string().contains("belongs to another user"),
        "{error}"
    );
    assert!(
        error.hint().unwrap().contains("--any-owner"),
        "{:?}",
        error.hint()
    );
    request.source.ownership = Ownership::Anybody;
    rig.try_prepare(request).await.unwrap();
    assert_eq!(
        rig.guest("cat README.md; stat -c %u README.md").await,
        "hello\n0\n"
    );
}

#[tokio::test]
async fn changes_that_git_was_told_to_overlook_stay_here_and_are_told_of() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    let prepared = rig.prepare(&repo).await;
    assert_eq!(prepared.inspection.notes, Vec::<String>::new());
    repo.git(["update-index", "--assume-unchanged", "README.md"]);
    repo.git(["update-index", "--skip-worktree", "src/lib.c"]);
    repo.write("README.md", "changed\n");
    repo.write("src/lib.c", "changed\n");
    let prepared = rig.prepare_again(&repo).await;
    let notes = prepared.inspection.notes.join("\n");
    assert!(
        notes.contains("overlook changes in README.md and 1 more"),
        "{notes}"
    );
    assert_eq!(rig.guest("cat README.md").await, "hello\n");
}

#[tokio::test]
async fn of_a_partial_clone_the_last_commit_is_carried_and_more_is_refused_with_the_way_to_it() {
    let rig = Rig::with_box().await;
    let origin = rig.small();
    for n in 0..3 {
        origin.write("README.md", format!("hello {n}\n"));
        origin.commit("more");
    }
    origin.git(["config", "uploadpack.allowFilter", "true"]);
    let root = rig.scratch.path().join("partial");
    let from = format!("file://{}", origin.root.display());
    let words = [
        "clone",
        "-q",
        "--filter=blob:none",
        &from,
        root.to_str().unwrap(),
    ];
    let made = crate::rig::git(rig.scratch.path(), words, &[]);
    assert!(made.status.success(), "{made:?}");
    std::fs::write(root.join("README.md"), "changed here\n").unwrap();
    let prepared = rig.try_prepare(PrepareRequest::new(&root)).await.unwrap();
    let notes = prepared.inspection.notes.join("\n");
    assert!(notes.contains("only its last commit"), "{notes}");
    assert_eq!(rig.guest("cat README.md").await, "changed here\n");
    assert_eq!(
        rig.guest("git rev-list --count HEAD; git fsck").await,
        "1\n"
    );
    rig.guest("echo by the guest >>README.md").await;
    let request = banger_core::ApplyRequest::default();
    let silent = banger_core::Progress::silent();
    rig.engine
        .workspace_apply("box", request, &silent)
        .await
        .unwrap();
    let brought = std::fs::read_to_string(root.join("README.md")).unwrap();
    assert_eq!(brought, "changed here\nby the guest\n");

    let full = PrepareRequest {
        mode: WorkspaceMode::FullCopy,
        overwrite: banger_core::Overwrite::Force,
        ..PrepareRequest::new(&root)
    };
    let error = rig.try_prepare(full.clone()).await.unwrap_err();
    assert!(
        error.chain().join(": ").contains("partial clone"),
        "{error}"
    );
    let hint = error.hint().unwrap();
    let remedy = hint.split_once("missing: ").unwrap().1;
    let words = remedy.split(' ').skip(1);
    let fetched = crate::rig::git(rig.scratch.path(), words, &[]);
    assert!(fetched.status.success(), "{fetched:?}");
    rig.try_prepare(full).await.unwrap();
    assert_eq!(rig.guest("git rev-list --count HEAD").await, "4\n");
}

#[tokio::test]
async fn submodules_are_carried_by_a_full_copy_only() {
    let rig = Rig::with_box().await;
    let repo = rig.with_submodule();
    repo.write("deps/lib/lib.h", "#define X 2\n");
    let shallow = rig
        .try_prepare(PrepareRequest::new(&repo.root))
        .await
        .unwrap_err();
    assert!(shallow.chain().join(": ").contains("deps/lib"), "{shallow}");
    let full = PrepareRequest {
        mode: WorkspaceMode::FullCopy,
        ..PrepareRequest::new(&repo.root)
    };
    rig.try_prepare(full).await.unwrap();
    assert_eq!(rig.guest("cat deps/lib/lib.h").await, "#define X 2\n");
    assert_eq!(
        rig.guest("git -C deps/lib log --format=%s").await,
        "library\n"
    );
    assert_eq!(
        rig.guest("git submodule status | cut -c1,43-51").await,
        " deps/lib \n"
    );
}

#[tokio::test]
async fn a_linked_worktree_a_detached_head_and_a_sparse_checkout_are_carried() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    let linked = rig.scratch.path().join("linked");
    repo.git([
        "worktree",
        "add",
        "-q",
        "--detach",
        linked.to_str().unwrap(),
    ]);
    std::fs::write(linked.join("README.md"), "in the worktree\n").unwrap();
    let prepared = rig.try_prepare(PrepareRequest::new(&linked)).await.unwrap();
    assert_eq!(prepared.workspace.branch, None);
    assert_eq!(rig.guest("cat README.md").await, "in the worktree\n");
    assert_eq!(rig.guest("git rev-parse --abbrev-ref HEAD").await, "HEAD\n");

    repo.git(["sparse-checkout", "set", "--no-cone", "/README.md"]);
    assert!(!repo.root.join("src").exists());
    let prepared = rig.prepare(&repo).await;
    assert!(
        prepared.inspection.notes[0].contains("sparse"),
        "{:?}",
        prepared.inspection.notes
    );
    assert_eq!(
        rig.guest("git status --porcelain; ls src").await,
        "lib.c\nmain.c\n"
    );
}

#[tokio::test]
async fn what_git_lfs_keeps_is_carried_as_its_pointer_and_said() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n";
    std::fs::write(repo.root.join("big.bin"), pointer).unwrap();
    std::fs::write(repo.root.join(".gitattributes"), "*.bin filter=lfs -text\n").unwrap();
    repo.commit("a pointer");
    // What it stands for is in the working tree, as after `git lfs pull`; asking for it would run a filter.
    let ran = rig.scratch.path().join("ran");
    let filter = format!("touch '{}'; cat", ran.display());
    repo.git(["config", "filter.lfs.clean", &filter]);
    repo.git(["config", "filter.lfs.smudge", &filter]);
    let prepared = rig.prepare(&repo).await;
    let notes = prepared.inspection.notes.join("\n");
    assert!(notes.contains("1 file is kept by Git LFS"), "{notes}");
    assert_eq!(rig.guest("cat big.bin").await, pointer);
    assert!(!ran.exists(), "a filter of the repository ran");
}

#[tokio::test]
async fn a_repository_whose_history_was_cut_is_carried_as_far_as_it_goes() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    for number in 0..5 {
        repo.commit(&format!("commit {number}"));
    }
    let cut = rig.scratch.path().join("cut");
    let from = format!("file://{}", repo.root.display());
    repo.git(["clone", "-q", "--depth=3", &from, cut.to_str().unwrap()]);
    rig.try_prepare(PrepareRequest::new(&cut)).await.unwrap();
    assert_eq!(rig.guest("git rev-list --count HEAD").await, "3\n");
    let full = PrepareRequest {
        mode: WorkspaceMode::FullCopy,
        ..PrepareRequest::new(&cut)
    };
    rig.try_prepare(full).await.unwrap();
    assert_eq!(rig.guest("git rev-list --count HEAD").await, "3\n");
    rig.guest("git fsck 2>&1").await;
}

#[tokio::test]
async fn nothing_that_a_repository_has_configured_is_run() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    let trap = rig.scratch.path().join("trap");
    let mark = rig.scratch.path().join("sprung");
    std::fs::write(&trap, format!("#!/bin/sh\ntouch {}\ncat\n", mark.display())).unwrap();
    std::fs::set_permissions(&trap, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let trap = trap.to_str().unwrap();
    let included = rig.scratch.path().join("included");
    std::fs::write(&included, format!("[core]\n\tfsmonitor = {trap}\n")).unwrap();
    repo.write(".gitattributes", "* filter=evil diff=evil merge=evil\n");
    repo.commit("attributes");
    for (key, value) in [
        ("core.fsmonitor", trap),
        ("core.sshCommand", trap),
        ("core.pager", trap),
        ("core.editor", trap),
        ("core.gitProxy", trap),
        ("core.askPass", trap),
        ("core.alternateRefsCommand", trap),
        ("diff.external", trap),
        ("filter.evil.clean", trap),
        ("filter.evil.smudge", trap),
        ("filter.evil.process", trap),
        ("filter.evil.required", "true"),
        ("diff.evil.command", trap),
        ("diff.evil.textconv", trap),
        ("merge.evil.driver", trap),
        ("gpg.program", trap),
        ("commit.gpgSign", "true"),
        ("uploadpack.packObjectsHook", trap),
        ("credential.helper", trap),
        ("alias.status", &format!("!{trap}")),
        ("url.ext::sh -c touch% /tmp/x.insteadOf", "/"),
        ("include.path", included.to_str().unwrap()),
    ] {
        repo.git(["config", key, value]);
    }
    let hooks = repo.root.join(".git/hooks");
    std::fs::create_dir_all(&hooks).unwrap();
    for hook in [
        "post-checkout",
        "post-index-change",
        "reference-transaction",
        "pre-commit",
        "pre-auto-gc",
        "fsmonitor-watchman",
    ] {
        std::fs::copy(trap, hooks.join(hook)).unwrap();
    }
    repo.write("README.md", "changed\n");
    let _ = std::fs::remove_file(&mark);

    rig.prepare(&repo).await;
    rig.guest("echo more >> README.md").await;
    let patch = rig.export(None).await.unwrap();
    assert!(patch.windows(6).any(|piece| piece == b"+more\n"));
    let recorded = rig.engine.workspace("box").await.unwrap().unwrap();
    rig.engine.workspace_freshness(&recorded).await;
    assert!(!mark.exists(), "a program of the repository's was run");
    let config = rig
        .guest("cat .git/config; ls .git/hooks 2>/dev/null || :")
        .await;
    assert!(
        !config.contains("trap") && !config.contains("evil"),
        "{config}"
    );
}

#[tokio::test]
async fn a_guest_s_changes_are_not_dropped_unless_forced_and_its_build_results_are_kept() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    repo.write(".gitignore", "target/\n");
    repo.commit("ignores");
    rig.prepare(&repo).await;
    rig.guest("mkdir target; echo built > target/out").await;
    repo.write("README.md", "newer\n");
    let again = rig.prepare(&repo).await;
    assert!(again.replaced);
    assert_eq!(
        rig.guest("cat README.md target/out").await,
        "newer\nbuilt\n"
    );

    rig.guest("echo by the guest > src/main.c").await;
    let refused = rig
        .try_prepare(PrepareRequest::new(&repo.root))
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InUse);
    assert!(refused.to_string().contains("src/main.c"), "{refused}");
    assert_eq!(rig.guest("cat src/main.c").await, "by the guest\n");
    // A commit without a change of files is work too.
    rig.guest("git checkout -q src/main.c; git commit -q --allow-empty -m work")
        .await;
    let refused = rig
        .try_prepare(PrepareRequest::new(&repo.root))
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("commits were made"),
        "{refused}"
    );
    let force = PrepareRequest {
        overwrite: Overwrite::Force,
        ..PrepareRequest::new(&repo.root)
    };
    assert!(rig.try_prepare(force).await.unwrap().replaced);
    assert_eq!(
        rig.guest("git log --format=%s -1; cat target/out").await,
        "ignores\nbuilt\n"
    );
}

#[tokio::test]
async fn what_is_in_the_way_in_the_guest_is_left_alone_and_named() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    for (make, word) in [
        ("echo a > /root/repo", "not a folder"),
        ("ln -s /tmp /root/repo", "not a folder"),
        (
            "mkdir -p /root/repo; echo a > /root/repo/mine",
            "no prepare has made",
        ),
    ] {
        rig.outside(make).await;
        let force = PrepareRequest {
            overwrite: Overwrite::Force,
            ..PrepareRequest::new(&repo.root)
        };
        let error = rig.try_prepare(force).await.unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
        assert!(error.hint().unwrap().contains("--guest-path"), "{error}");
        rig.outside("test -e /root/repo; rm -rf /root/repo").await;
    }
    rig.outside("mkdir /root/repo").await;
    rig.prepare(&repo).await;
    let left = rig.outside("ls -A /root").await;
    assert!(!left.contains("banger-prepare"), "{left}");
}

#[tokio::test]
async fn a_guest_without_git_says_so() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    // The first folder in its PATH: a `git` there hides every other, and cannot be run.
    rig.outside("for d in $(echo \"$PATH\" | tr : ' '); do [ ! -e $d/git ] || mount --bind /dev/null $d/git; done; ! git --version")
        .await;
    let error = rig
        .try_prepare(PrepareRequest::new(&repo.root))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().ends_with("lacks git"), "{error}");
    rig.nothing_staged();
}

#[tokio::test]
async fn what_an_interrupted_prepare_left_is_swept_and_what_it_had_moved_is_put_back() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    rig.outside(
        "mkdir -p /root/.banger-prepare-dead/old; cd /root/.banger-prepare-dead; : > lock; \
         printf /root/elsewhere > dest; echo kept > old/file",
    )
    .await;
    rig.prepare(&repo).await;
    assert_eq!(
        rig.outside("cat /root/elsewhere/file; ls -A /root | grep prepare || :")
            .await,
        "kept\n"
    );
}

#[tokio::test]
async fn a_stop_ends_a_prepare_and_never_waits_for_it() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    repo.write("big", vec![7; 120 << 20]);
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let progress = banger_core::Progress::new(move |stage| drop(tell.send(stage.text)));
    let engine = rig.engine.clone();
    repo.git(["add", "big"]);
    let request = PrepareRequest::new(&repo.root);
    let preparing =
        tokio::spawn(async move { engine.workspace_prepare("box", request, &progress).await });
    while !told.recv().await.unwrap().starts_with("carrying") {}
    let begun = std::time::Instant::now();
    rig.engine.kill("box").await.unwrap();
    assert!(begun.elapsed().as_secs() < 10, "the kill waited");
    let error = preparing.await.unwrap().unwrap_err();
    assert!(
        error.to_string().contains("cannot prepare the workspace"),
        "{error}"
    );
    rig.nothing_staged();
    rig.engine
        .start("box", &banger_core::Progress::silent())
        .await
        .unwrap();
    assert_eq!(rig.outside("ls /root").await, "", "the guest is as it was");
    std::fs::remove_file(repo.root.join("big")).unwrap();
    repo.git(["rm", "-q", "--cached", "big"]);
    rig.prepare(&repo).await;
    assert_eq!(rig.outside("ls -A /root").await, "repo\n");
}

#[tokio::test]
async fn the_record_goes_with_its_vm_and_outlives_the_engine() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    let prepared = rig.prepare(&repo).await;
    let Rig {
        engine,
        host,
        config,
        scratch: _scratch,
    } = rig;
    engine.close().await;
    let (engine, _) = banger_core::Engine::sim_over(&host, config).await.unwrap();
    assert_eq!(
        engine.workspace("box").await.unwrap(),
        Some(prepared.workspace)
    );
    engine.delete("box").await.unwrap();
    assert_eq!(
        engine.workspace("box").await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
}
