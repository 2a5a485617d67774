//! A guest's changes out of it.

use banger_core::{ChangeKind, ErrorKind};

use crate::rig::{NAMES, Rig};

#[tokio::test]
async fn a_patch_makes_the_same_tree_on_a_fresh_clone_whatever_was_done_in_the_guest() {
    let rig = Rig::with_box().await;
    let repo = rig.repository("work");
    repo.write("text", "one\ntwo\nthree\n");
    repo.write("no newline", "at the end");
    repo.write("crlf", "a\r\nb\r\n");
    repo.write(
        "binary",
        (0..=255).cycle().take(70_000).collect::<Vec<u8>>(),
    );
    repo.write("to be renamed", "a long text\n".repeat(50));
    repo.write("to be removed/file", "gone\n");
    repo.write("script", "#!/bin/sh\n");
    repo.write("empty", "");
    std::os::unix::fs::symlink("text", repo.root.join("link")).unwrap();
    repo.commit("first");
    rig.prepare(&repo).await;

    rig.guest(NAMES).await;
    rig.guest(
        "printf 'one\ntwo and a half\nthree\n' > text; printf more >> 'no newline'; printf 'c\r\n' >> crlf; \
         printf '\\0\\1\\2\\377' >> binary; head -c 200000 /dev/urandom > random; \
         git mv 'to be renamed' 'renamed'; echo end >> renamed; rm -r 'to be removed'; chmod +x script; \
         ln -sfn ../../outside link; ln -s nowhere dangling; : > another-empty; echo x > empty",
    )
    .await;
    rig.guest(
        "git add text; git commit -q -m 'a commit in the guest'; echo after >> text; git add crlf; \
         git commit -q --allow-empty -m 'another'; git rm -q --cached script",
    )
    .await;
    let before = rig.guest("git status --porcelain=v2 -z | tr '\\0' '\\n'; git ls-files -s; sha1sum .git/index; find .git | sort").await;
    let patch = rig.export(None).await.unwrap();
    let again = rig.export(None).await.unwrap();
    assert!(
        patch == again,
        "the connection serves a second export, and it is the same"
    );
    let after = rig.guest("git status --porcelain=v2 -z | tr '\\0' '\\n'; git ls-files -s; sha1sum .git/index; find .git | sort").await;
    assert_eq!(after, before, "index, status and git dir are untouched");

    let clone = repo.clone_to(&rig.scratch.path().join("clone"));
    assert_eq!(clone.tree_after(&patch), rig.guest_tree().await);
    let changes = rig
        .engine
        .workspace_changes("box", None)
        .await
        .unwrap()
        .files;
    let renamed = changes
        .iter()
        .find(|change| change.kind == ChangeKind::Renamed)
        .unwrap();
    assert_eq!(
        renamed.old_path.as_deref(),
        Some(b"to be renamed".as_slice())
    );
    assert!(
        changes
            .iter()
            .any(|change| change.path == b"names/not\xffutf8")
    );
}

#[tokio::test]
async fn changes_of_the_host_s_that_were_carried_are_not_exported_but_can_be() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    repo.write("README.md", "hello\nby the host\n");
    let head = repo.git(["rev-parse", "HEAD"]);
    rig.prepare(&repo).await;
    rig.guest("echo by the guest >> README.md").await;
    // It goes onto the working tree as it is here.
    let patch = rig.export(None).await.unwrap();
    let applied = crate::rig::git(&repo.root, ["apply", "-"], &patch);
    assert!(applied.status.success(), "{applied:?}");
    assert_eq!(repo.read("README.md"), "hello\nby the host\nby the guest\n");
    // Compared with the commit it goes onto a clone.
    let patch = rig.export(Some(&head)).await.unwrap();
    let clone = repo.clone_to(&rig.scratch.path().join("clone"));
    assert_eq!(clone.tree_after(&patch), rig.guest_tree().await);
    let unknown = rig.export(Some("no-such-commit")).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    let option = rig.export(Some("--output=/root/x")).await.unwrap_err();
    assert_eq!(option.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_large_binary_and_many_files_come_through() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    rig.prepare(&repo).await;
    rig.guest(
        "head -c 10000000 /dev/urandom > big; mkdir many; cd many; \
         seq 2000 | split -l 1 -a 4 - f",
    )
    .await;
    let patch = rig.export(None).await.unwrap();
    assert!(patch.len() > 10_000_000);
    let clone = repo.clone_to(&rig.scratch.path().join("clone"));
    assert_eq!(clone.tree_after(&patch), rig.guest_tree().await);
}

#[tokio::test]
async fn whatever_the_guest_has_configured_a_patch_is_a_patch() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    rig.prepare(&repo).await;
    rig.guest(
        "for c in diff.noprefix=true diff.mnemonicPrefix=true color.ui=always color.diff=always core.quotePath=false \
         diff.external=false diff.renames=false diff.context=0 core.pager=false diff.submodule=log; do \
         git config \"${c%%=*}\" \"${c#*=}\"; done; echo '*.c diff=x' > .git/info/attributes; \
         git config diff.x.textconv 'echo lies #'; git config diff.x.command false; echo more >> src/main.c",
    )
    .await;
    let patch = rig.export(None).await.unwrap();
    let clone = repo.clone_to(&rig.scratch.path().join("clone"));
    assert_eq!(clone.tree_after(&patch), rig.guest_tree().await);
}

#[tokio::test]
async fn an_export_of_what_is_not_there_says_what_is_missing() {
    let rig = Rig::with_box().await;
    let none = rig.export(None).await.unwrap_err();
    assert_eq!(none.kind(), ErrorKind::NotFound);
    assert!(none.hint().unwrap().contains("workspace prepare"), "{none}");
    let repo = rig.small();
    rig.prepare(&repo).await;
    rig.outside("rm -rf /root/repo").await;
    let gone = rig.export(None).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    assert!(
        gone.chain().join(": ").contains("no git repository"),
        "{gone}"
    );
}

#[tokio::test]
async fn a_stop_ends_an_export_and_what_came_is_not_called_whole() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    rig.prepare(&repo).await;
    rig.guest("head -c 20000000 /dev/urandom > big").await;
    let mut export = rig.engine.workspace_export("box", None).await.unwrap();
    assert!(export.next().await.unwrap().is_some());
    let begun = std::time::Instant::now();
    rig.engine.kill("box").await.unwrap();
    assert!(begun.elapsed().as_secs() < 10, "the kill waited");
    let end = loop {
        match export.next().await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    let error = end.unwrap_err();
    assert!(
        error.to_string().contains("cannot export the workspace"),
        "{error}"
    );
}

#[tokio::test]
async fn an_export_that_nobody_reads_on_leaves_nothing_in_the_guest() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    rig.prepare(&repo).await;
    rig.guest("head -c 20000000 /dev/urandom > big").await;
    let before = rig.guest("find .git | sort").await;
    let mut export = rig.engine.workspace_export("box", None).await.unwrap();
    assert!(export.next().await.unwrap().is_some());
    drop(export);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while rig.guest("find .git | sort").await != before {
        assert!(std::time::Instant::now() < deadline, "its folder stays");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
