//! Repositories within a workspace: submodules, and those that a guest makes.

use banger_core::{ApplyRequest, PrepareRequest, Progress, WorkspaceMode};

use crate::rig::Rig;

fn full(root: &std::path::Path) -> PrepareRequest {
    PrepareRequest {
        mode: WorkspaceMode::FullCopy,
        ..PrepareRequest::new(root)
    }
}

const AGENT: &str =
    "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b;";

#[tokio::test]
async fn work_in_a_submodule_of_the_guest_s_is_in_the_way_of_a_prepare() {
    let rig = Rig::with_box().await;
    let repo = rig.with_submodule();
    repo.write("deps/lib/lib.h", "#define X 2\n");
    rig.try_prepare(full(&repo.root)).await.unwrap();
    // What the host itself had changed in there is nobody's work in the guest.
    rig.try_prepare(full(&repo.root)).await.unwrap();
    for work in [
        "echo more >> deps/lib/lib.h",
        "echo new > deps/lib/new.h",
        "rm deps/lib/lib.h",
        "cd deps/lib; git checkout -q -b other; git commit -qam work; git checkout -q -",
        "cd deps/lib; git stash -q",
    ] {
        rig.guest(&format!("{AGENT} {work}")).await;
        let refused = rig.try_prepare(full(&repo.root)).await.unwrap_err();
        let told = refused.chain().join(": ");
        assert!(told.contains("deps/lib"), "{work}: {told}");
        let force = PrepareRequest {
            overwrite: banger_core::Overwrite::Force,
            ..full(&repo.root)
        };
        rig.try_prepare(force).await.unwrap();
    }
    // What git ignores in there is kept, as it is elsewhere.
    rig.guest("mkdir deps/lib/built; echo o > deps/lib/built/o; echo built/ >> deps/lib/.git/info/exclude").await;
    rig.try_prepare(full(&repo.root)).await.unwrap();
    assert_eq!(rig.guest("cat deps/lib/built/o").await, "o\n");
}

#[tokio::test]
async fn what_of_a_submodule_does_not_come_home_is_named() {
    let rig = Rig::with_box().await;
    let repo = rig.with_submodule();
    rig.try_prepare(full(&repo.root)).await.unwrap();
    let untouched = rig.engine.workspace_changes("box", None).await.unwrap();
    assert_eq!(untouched.notes, Vec::<String>::new());
    rig.guest("echo more >> deps/lib/lib.h; echo more >> README.md")
        .await;
    let changes = rig.engine.workspace_changes("box", None).await.unwrap();
    assert_eq!(changes.files.len(), 1);
    let [note] = &changes.notes[..] else {
        panic!("{:?}", changes.notes);
    };
    assert!(note.contains("submodule deps/lib"), "{note}");
    let export = rig.engine.workspace_export("box", None).await.unwrap();
    assert_eq!(export.notes(), changes.notes);
    drop(export);
    let silent = Progress::silent();
    let request = ApplyRequest::default();
    let applied = rig.engine.workspace_apply("box", request, &silent).await;
    let applied = applied.unwrap();
    assert_eq!((applied.files.len(), applied.notes), (1, changes.notes));
}

#[tokio::test]
async fn a_repository_that_a_guest_makes_comes_home_as_files() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    rig.prepare(&repo).await;
    rig.guest(&format!(
        "{AGENT} git init -q empty; \
         git init -q 'apps/no commit'; cd 'apps/no commit'; echo 1 > one; echo skip > .gitignore; echo s > skip; \
         git init -q deep; echo d > deep/d; cd ../..; \
         git init -q src/done; cd src/done; echo 2 > two; git add .; git commit -qm two; echo 3 > three; rm two; \
         cd ../..; git init -q linked; cd linked; echo 4 > four; git add .; git commit -qm four; cd ..; \
         git add linked 2>/dev/null; git commit -qm 'a link to it'; echo 5 > linked/five"
    ))
    .await;
    let changes = rig.engine.workspace_changes("box", None).await.unwrap();
    let paths: Vec<_> = changes
        .files
        .iter()
        .map(|change| &change.path[..])
        .collect();
    let expected: [&[u8]; 6] = [
        b"apps/no commit/.gitignore",
        b"apps/no commit/deep/d",
        b"apps/no commit/one",
        b"linked/five",
        b"linked/four",
        b"src/done/three",
    ];
    assert_eq!(paths, expected);
    assert!(
        changes
            .notes
            .iter()
            .any(|note| note.starts_with("apps/no commit is a repository of its own")),
        "{:?}",
        changes.notes
    );
    let silent = Progress::silent();
    let request = ApplyRequest::default();
    let applied = rig.engine.workspace_apply("box", request, &silent).await;
    assert_eq!(applied.unwrap().files.len(), 6);
    assert_eq!(repo.read("apps/no commit/deep/d"), "d\n");
    assert_eq!(repo.read("linked/five"), "5\n");
    assert!(!repo.root.join("linked/.git").exists());
    // In the guest all of it is as it was.
    assert_eq!(
        rig.guest("git ls-files -s linked | cut -c1-6; git -C linked status --porcelain")
            .await,
        "160000\n?? five\n"
    );
    let refused = rig.try_prepare(PrepareRequest::new(&repo.root)).await;
    let told = refused.unwrap_err().chain().join(": ");
    assert!(
        told.contains("the history of the repository apps/no commit"),
        "{told}"
    );
}
