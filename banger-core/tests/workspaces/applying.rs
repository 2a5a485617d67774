//! A guest's changes onto the repository here.

use banger_core::{Applied, ApplyRequest, Effect, Error, ErrorKind, Progress};

use crate::rig::{Repo, Rig};

async fn apply(rig: &Rig, effect: Effect) -> Result<Applied, Error> {
    let request = ApplyRequest {
        effect,
        ..ApplyRequest::default()
    };
    let applied = rig
        .engine
        .workspace_apply("box", request, &Progress::silent())
        .await;
    rig.nothing_staged();
    applied
}

/// What git says of the working tree, and everything in it with its content.
fn files(repo: &Repo) -> String {
    let sums = "git status --porcelain; git ls-files -s; git for-each-ref refs/heads; \
                find . -path ./.git -prune -o -type f -print0 | sort -z | xargs -0 sha1sum; \
                find . -path ./.git -prune -o -type l -printf '%p %l\\n'";
    let output = std::process::Command::new("sh")
        .args(["-c", sums])
        .current_dir(&repo.root)
        .output();
    String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
}

#[tokio::test]
async fn changes_are_merged_with_what_is_here_now_and_can_be_taken_back() {
    let rig = Rig::with_box().await;
    let repo = rig.repository("work");
    repo.write(
        "long",
        (0..40).map(|n| format!("line {n}\n")).collect::<String>(),
    );
    repo.write("to rename", "some text\n".repeat(20));
    repo.write("to delete/here", "x\n");
    repo.write("dirty", "committed\n");
    repo.commit("first");
    repo.write("dirty", "not committed\n");
    rig.prepare(&repo).await;
    rig.guest(
        "sed -i 's/^line 30$/line 30 by the guest/' long; git mv 'to rename' renamed; \
         git rm -q 'to delete/here'; echo new > 'new file'; echo also >> dirty; chmod +x long; \
         git commit -qam 'guest'; ln -s long link",
    )
    .await;
    // Meanwhile, here: a commit in the same file, a staged file and a change that is not staged.
    repo.write(
        "long",
        (0..40)
            .map(|n| {
                if n == 3 {
                    "line 3 by the host\n".into()
                } else {
                    format!("line {n}\n")
                }
            })
            .collect::<String>(),
    );
    repo.git(["commit", "-q", "-m", "host", "long"]);
    repo.write("staged", "staged\n");
    repo.git(["add", "staged"]);
    repo.write("untracked", "mine\n");
    let before = files(&repo);
    let index = std::fs::read(repo.root.join(".git/index")).unwrap();

    let checked = apply(&rig, Effect::Check).await.unwrap();
    assert_eq!(files(&repo), before, "a check changes nothing");
    assert_eq!(checked.undo_ref, None);
    let applied = apply(&rig, Effect::Apply).await.unwrap();
    assert_eq!(applied.files, checked.files);
    assert!(
        repo.read("long").contains("line 3 by the host\n")
            && repo.read("long").contains("line 30 by the guest\n")
    );
    assert_eq!(repo.read("dirty"), "not committed\nalso\n");
    assert!(repo.root.join("renamed").exists() && !repo.root.join("to rename").exists());
    assert!(
        !repo.root.join("to delete").exists(),
        "an empty folder goes too"
    );
    assert_eq!(repo.read("untracked"), "mine\n");
    assert_eq!(
        std::fs::read_link(repo.root.join("link")).unwrap().to_str(),
        Some("long")
    );
    let mode = std::fs::metadata(repo.root.join("long")).unwrap();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o111,
        0o111
    );
    assert_eq!(
        std::fs::read(repo.root.join(".git/index")).unwrap(),
        index,
        "the index is as it was"
    );
    let undo_ref = applied.undo_ref.unwrap();
    assert_eq!(undo_ref, "refs/banger/undo/box");
    repo.git(["fsck", "--strict"]);

    // Once more from the guest, on top; then both are taken back, the last one first.
    rig.guest("echo second > second").await;
    let middle = files(&repo);
    let again = apply(&rig, Effect::Apply).await.unwrap();
    assert_eq!(again.files.len(), 1, "only what is new");
    assert_eq!(repo.read("second"), "second\n");
    assert_eq!(
        repo.git(["log", "--all", "--format=%s"]),
        "host\nfirst",
        "what is kept to undo it is in no log"
    );
    repo.git(["gc", "-q", "--prune=now"]);
    rig.engine.workspace_undo("box", None).await.unwrap();
    assert_eq!(files(&repo), middle);
    rig.engine.workspace_undo("box", None).await.unwrap();
    assert_eq!(files(&repo), before, "as before");
    let nothing = rig.engine.workspace_undo("box", None).await.unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::NotFound);
    // Taken back, it can come home again, all of it.
    apply(&rig, Effect::Apply).await.unwrap();
    assert_eq!(repo.read("second"), "second\n");
    assert!(repo.read("long").contains("line 30 by the guest\n"));
}

#[tokio::test]
async fn each_apply_brings_home_what_was_done_since_the_one_before() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    rig.prepare(&repo).await;
    rig.guest("echo one >>README.md; echo new >new").await;
    apply(&rig, Effect::Apply).await.unwrap();
    // The same file once more, and before that is committed here.
    rig.guest("echo two >>README.md; git commit -qam work")
        .await;
    apply(&rig, Effect::Apply).await.unwrap();
    assert_eq!(repo.read("README.md"), "hello\none\ntwo\n");
    repo.commit("what came home");
    let again = apply(&rig, Effect::Apply).await.unwrap();
    assert!(again.files.is_empty() && again.undo_ref.is_none());
    // What the guest takes back goes here too.
    rig.guest("git checkout -q HEAD~1; git checkout -q main -- README.md; rm new")
        .await;
    let applied = apply(&rig, Effect::Apply).await.unwrap();
    assert_eq!(applied.files.len(), 1);
    assert!(!repo.root.join("new").exists());
    assert_eq!(repo.read("README.md"), "hello\none\ntwo\n");
    // A list and a patch are of what did not come home yet.
    assert!(
        rig.engine
            .workspace_changes("box", None)
            .await
            .unwrap()
            .files
            .is_empty()
    );
    rig.guest("echo three >>README.md").await;
    let patch = rig.export(None).await.unwrap();
    let patch = String::from_utf8_lossy(&patch).into_owned();
    assert!(
        patch.contains("+three") && !patch.contains("+two"),
        "{patch}"
    );
}

#[tokio::test]
async fn a_prepare_goes_on_once_all_came_home_and_was_committed_here() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    rig.prepare(&repo).await;
    rig.guest("echo guest >>README.md; echo new >new").await;
    apply(&rig, Effect::Apply).await.unwrap();
    repo.commit("what came home");
    rig.prepare(&repo).await;
    assert_eq!(rig.guest("git status --porcelain").await, "");
    assert_eq!(rig.guest("cat README.md new").await, "hello\nguest\nnew\n");
    // What was taken back here has not come home.
    rig.guest("echo more >>README.md").await;
    apply(&rig, Effect::Apply).await.unwrap();
    rig.engine.workspace_undo("box", None).await.unwrap();
    let request = banger_core::PrepareRequest::new(&repo.root);
    let error = rig.try_prepare(request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    assert!(error.to_string().contains("README.md"), "{error}");
    assert!(rig.guest("cat README.md").await.ends_with("more\n"));
}

#[tokio::test]
async fn what_was_applied_can_be_taken_back_when_its_vm_is_gone() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    rig.prepare(&repo).await;
    let before = files(&repo);
    rig.guest("echo guest >>README.md").await;
    apply(&rig, Effect::Apply).await.unwrap();
    rig.engine.delete("box").await.unwrap();
    let unnamed = rig.engine.workspace_undo("box", None).await.unwrap_err();
    assert_eq!(unnamed.kind(), ErrorKind::NotFound);
    let here = banger_core::Source::new(&repo.root);
    rig.engine.workspace_undo("box", Some(here)).await.unwrap();
    assert_eq!(files(&repo), before);
    let odd = banger_core::Source::new(&repo.root);
    let odd = rig
        .engine
        .workspace_undo("../../heads/main", Some(odd))
        .await;
    assert_eq!(odd.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn what_an_older_banger_kept_to_undo_by_is_understood() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    rig.prepare(&repo).await;
    // As commits: after, on before, and the one that was applied earlier as a second parent.
    let tree = |text: &str| {
        repo.write("README.md", text);
        repo.git(["add", "-A"]);
        repo.git(["write-tree"])
    };
    let trees = ["hello\n", "one\n", "two\n"].map(tree);
    repo.git(["reset", "-q"]);
    let commit = |tree: &str, parents: &[&str]| {
        let parents = parents.iter().flat_map(|parent| ["-p", parent]);
        repo.git(
            ["commit-tree", tree, "-m", "old"]
                .into_iter()
                .chain(parents),
        )
    };
    let first = commit(&trees[1], &[&commit(&trees[0], &[])]);
    let second = commit(&trees[2], &[&commit(&trees[1], &[]), &first]);
    repo.git(["update-ref", "refs/banger/undo/box", &second]);
    rig.engine.workspace_undo("box", None).await.unwrap();
    assert_eq!(repo.read("README.md"), "one\n");
    repo.git(["gc", "-q", "--prune=now"]);
    rig.engine.workspace_undo("box", None).await.unwrap();
    assert_eq!(repo.read("README.md"), "hello\n");
    assert_eq!(repo.git(["for-each-ref", "refs/banger"]), "");
}

#[tokio::test]
async fn a_folder_that_became_a_link_here_concerns_only_what_touches_it() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    rig.prepare(&repo).await;
    std::fs::rename(repo.root.join("src"), rig.scratch.path().join("src")).unwrap();
    std::os::unix::fs::symlink(rig.scratch.path().join("src"), repo.root.join("src")).unwrap();
    rig.guest("echo guest >>README.md").await;
    apply(&rig, Effect::Apply).await.unwrap();
    assert_eq!(repo.read("README.md"), "hello\nguest\n");
    rig.guest("echo guest >>src/lib.c").await;
    let error = apply(&rig, Effect::Apply).await.unwrap_err();
    assert!(error.to_string().contains("src/lib.c"), "{error}");
    assert!(!repo.read("src/lib.c").contains("guest"));
}

#[tokio::test]
async fn a_file_that_was_only_touched_is_no_change() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    rig.prepare(&repo).await;
    let early = std::fs::FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH);
    let file = std::fs::File::options()
        .write(true)
        .open(repo.root.join("README.md"));
    file.unwrap().set_times(early).unwrap();
    rig.guest("echo guest >>README.md").await;
    for _ in 0..2 {
        apply(&rig, Effect::Apply).await.unwrap();
        assert_eq!(repo.read("README.md"), "hello\nguest\n");
        rig.engine.workspace_undo("box", None).await.unwrap();
    }
}

#[tokio::test]
async fn two_applied_one_after_the_other_are_taken_back_in_turn() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    rig.prepare(&repo).await;
    rig.guest("echo one >> README.md").await;
    let start = files(&repo);
    apply(&rig, Effect::Apply).await.unwrap();
    repo.commit("with the first");
    rig.prepare_again(&repo).await;
    rig.guest("echo two >> README.md").await;
    let middle = files(&repo);
    apply(&rig, Effect::Apply).await.unwrap();
    assert_eq!(repo.read("README.md"), "hello\none\ntwo\n");
    let undone = rig.engine.workspace_undo("box", None).await.unwrap();
    assert_eq!(files(&repo), middle);
    assert!(
        undone.undo_ref.is_some(),
        "the first can be taken back still"
    );
    rig.engine.workspace_undo("box", None).await.unwrap();
    assert_eq!(repo.read("README.md"), "hello\n");
    drop(start);
}

#[tokio::test]
async fn a_conflict_and_files_in_the_way_are_named_and_nothing_is_touched() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    rig.prepare(&repo).await;
    rig.guest("echo guest > README.md; echo guest > new").await;
    repo.write("README.md", "host\n");
    repo.commit("host");
    let before = files(&repo);
    let error = apply(&rig, Effect::Apply).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert!(error.to_string().contains("README.md"), "{error}");
    assert_eq!(files(&repo), before);

    repo.write("README.md", "hello\n");
    repo.commit("as it was");
    repo.write("new", "an untracked file of the host's\n");
    let before = files(&repo);
    for effect in [Effect::Check, Effect::Apply] {
        let error = apply(&rig, effect).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse);
        assert!(error.to_string().contains("new"), "{error}");
        assert_eq!(files(&repo), before);
    }
    assert_eq!(repo.git(["for-each-ref", "refs/banger"]), "");

    // Behind a symlink of the host's, which git does not know.
    std::fs::remove_file(repo.root.join("new")).unwrap();
    rig.guest("rm new; mkdir new; echo x > new/file").await;
    let elsewhere = rig.scratch.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, repo.root.join("new")).unwrap();
    let error = apply(&rig, Effect::Apply).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
}

#[tokio::test]
async fn a_file_that_becomes_a_folder_and_the_other_way_round_go_in_and_back() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    repo.write("d/deep/file", "in a folder\n");
    repo.write(".gitignore", "*.o\n");
    repo.commit("a folder");
    rig.prepare(&repo).await;
    rig.guest("rm README.md; mkdir README.md; echo in >README.md/in; rm -r d; echo a file >d")
        .await;
    let before = files(&repo);
    apply(&rig, Effect::Apply).await.unwrap();
    assert_eq!(
        (repo.read("README.md/in"), repo.read("d")),
        ("in\n".to_owned(), "a file\n".to_owned())
    );
    rig.engine.workspace_undo("box", None).await.unwrap();
    assert_eq!(files(&repo), before);
    // What nobody has in git keeps its folder.
    repo.write("d/deep/built.o", "the only copy\n");
    let error = apply(&rig, Effect::Apply).await.unwrap_err();
    let told = error.chain().join(": ");
    assert!(told.contains("not tracked here: d/deep/built.o"), "{told}");
    assert_eq!(repo.read("d/deep/built.o"), "the only copy\n");
}

#[tokio::test]
async fn changes_outside_of_a_sparse_checkout_are_written_and_nothing_there_is_lost() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    repo.write("docs/a", "a\n");
    repo.write("docs/b", "b\n");
    repo.commit("docs");
    repo.git(["sparse-checkout", "set", "src"]);
    assert!(!repo.root.join("docs").exists());
    rig.prepare(&repo).await;
    rig.guest("echo guest >>docs/a; echo guest >>src/lib.c")
        .await;
    let applied = apply(&rig, Effect::Apply).await.unwrap();
    assert_eq!(applied.files.len(), 2);
    assert_eq!(repo.read("docs/a"), "a\nguest\n");
    assert!(repo.read("src/lib.c").ends_with("guest\n"));
    assert!(
        !repo.root.join("docs/b").exists(),
        "the rest is left out as it was"
    );
    rig.engine.workspace_undo("box", None).await.unwrap();
    assert!(!repo.read("src/lib.c").ends_with("guest\n"));
    let docs = std::fs::read_to_string(repo.root.join("docs/a"));
    assert_ne!(docs.unwrap_or_default(), "a\nguest\n");
    // What somebody has put there is theirs.
    repo.write("docs/a", "the only copy\n");
    repo.write("docs/b", "the only copy\n");
    rig.guest("echo guest >>docs/b; rm docs/a").await;
    let error = apply(&rig, Effect::Apply).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    assert_eq!(repo.read("docs/a"), "the only copy\n");
    assert_eq!(repo.read("docs/b"), "the only copy\n");
}

#[tokio::test]
async fn what_was_carried_untracked_comes_home_merged_and_goes_back() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    let lines = |first: &str, last: &str| format!("{first}\n{}{last}\n", "same\n".repeat(9));
    repo.write("notes", lines("one", "two"));
    repo.write("to go", "going\n");
    let request = banger_core::PrepareRequest {
        untracked: banger_core::Untracked::Carry,
        ..banger_core::PrepareRequest::new(&repo.root)
    };
    rig.try_prepare(request).await.unwrap();
    rig.guest("sed -i s/two/guest/ notes; rm 'to go'; echo more >>README.md")
        .await;
    repo.write("notes", lines("here", "two"));
    let before = files(&repo);
    let applied = apply(&rig, Effect::Apply).await.unwrap();
    assert_eq!(applied.files.len(), 3);
    assert_eq!(repo.read("notes"), lines("here", "guest"));
    assert!(!repo.root.join("to go").exists());
    let status = repo.git(["status", "--porcelain"]);
    assert_eq!(status, "M README.md\n?? notes", "it stays untracked");
    rig.engine.workspace_undo("box", None).await.unwrap();
    assert_eq!(files(&repo), before);
    // Both changed one line: that is a conflict, and it is named.
    repo.write("notes", lines("one", "host"));
    let error = apply(&rig, Effect::Apply).await.unwrap_err();
    assert!(error.chain().join(": ").contains("notes"), "{error}");
    assert_eq!(repo.read("notes"), lines("one", "host"));
}

#[tokio::test]
async fn what_was_changed_since_stands_in_the_way_of_taking_it_back() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    rig.prepare(&repo).await;
    rig.guest("echo guest >> README.md").await;
    apply(&rig, Effect::Apply).await.unwrap();
    repo.write("README.md", "edited since\n");
    let error = rig.engine.workspace_undo("box", None).await.unwrap_err();
    assert!(error.to_string().contains("README.md"), "{error}");
    assert_eq!(repo.read("README.md"), "edited since\n");
}

#[tokio::test]
async fn files_that_run_by_themselves_and_links_out_are_pointed_out() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    rig.prepare(&repo).await;
    rig.guest(
        "mkdir -p .github/workflows .husky; echo a > .github/workflows/ci.yml; echo b > .husky/pre-commit; \
         echo c > .envrc; echo d > plain; ln -s /etc/passwd out; ln -s plain in",
    )
    .await;
    let applied = apply(&rig, Effect::Check).await.unwrap();
    let looks: Vec<_> = applied
        .files
        .iter()
        .map(|file| {
            (
                String::from_utf8_lossy(&file.change.path).into_owned(),
                file.look.is_some(),
            )
        })
        .collect();
    let expected = [
        (".envrc", true),
        (".github/workflows/ci.yml", true),
        (".husky/pre-commit", true),
        ("in", false),
        ("out", true),
        ("plain", false),
    ];
    assert_eq!(looks, expected.map(|(path, look)| (path.to_owned(), look)));
}

/// Has the guest's git run this script, with git as `$git`, instead of a command that has a word; in the workspace.
async fn instead_of(rig: &Rig, word: &str, script: &str) {
    let wrapper = format!(
        "#!/bin/sh\ngit=/opt/git\ncase \" $* \" in *\" {word} \"*) {script};; *) exec /opt/git \"$@\";; esac\n"
    );
    rig.outside(&format!(
        "[ -e /opt/git ] || cp \"$(readlink -f \"$(command -v git)\")\" /opt/git\n\
         cat > /opt/banger-sim/bin/git <<'END'\n{wrapper}END\nchmod +x /opt/banger-sim/bin/git"
    ))
    .await;
}

/// Has the guest say that this is what is in its work tree: a script that prints the name of a tree.
async fn guest_claims(rig: &Rig, tree: &str) {
    instead_of(rig, "write-tree", tree).await;
}

#[tokio::test]
async fn hostile_trees_are_refused_and_their_paths_are_named() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    rig.prepare(&repo).await;
    let before = files(&repo);
    // Trees as no git makes them: MODE NAME and the object's name, of 20 bytes, one after the other.
    let literally = |entries: &[(&str, &str, &str)]| {
        let entry = |(mode, name, object): &(&str, &str, &str)| {
            format!(
                "printf '{mode} {name}\\0'; printf %s {object} | perl -pe '$_ = pack(\"H*\", $_)'; "
            )
        };
        let all: String = entries.iter().map(entry).collect();
        format!(
            "blob=$(echo Hello | $git hash-object -w --stdin); link=$(printf /tmp | $git hash-object -w --stdin); \
             in=$(printf '100755 blob %s\\tx\\n' $blob | $git mktree); \
             {{ {all}}} | $git hash-object -t tree -w --literally --stdin"
        )
    };
    for (entries, path) in [
        (&[("40000", "..", "$in")][..], "../x"),
        (&[("40000", ".git", "$in")], ".git/x"),
        (&[("40000", ".GIT", "$in")], ".GIT/x"),
        (&[("100644", "a/../../outside", "$blob")], "outside"),
        (&[("100644", "/etc/x", "$blob")], "/etc/x"),
        // A link, and something behind it.
        (
            &[("120000", "dir", "$link"), ("40000", "dir", "$in")],
            "duplicateEntries",
        ),
        (
            &[("100644", "z", "$blob"), ("100644", "a", "$blob")],
            "not properly sorted",
        ),
        (
            &[("100644", "f", "0123456789012345678901234567890123456789")],
            "0123456789",
        ),
    ] {
        guest_claims(&rig, &literally(entries)).await;
        let error = apply(&rig, Effect::Apply).await.expect_err(path);
        let told = error.chain().join(": ");
        let is_refused = error.kind() == ErrorKind::Invalid;
        assert!(is_refused || path.starts_with('0'), "{path}: {told}");
        assert!(
            told.contains(path) || path.starts_with('0'),
            "{path}: {told}"
        );
        assert_eq!(files(&repo), before, "{path}");
    }
    assert!(!rig.scratch.path().join("repos/outside").exists());
    // What is no pack, and what is cut.
    for junk in ["echo junk", "/opt/git \"$@\" | head -c 30"] {
        guest_claims(&rig, "exec /opt/git \"$@\"").await;
        rig.guest("echo more >>README.md").await;
        instead_of(&rig, "pack-objects", junk).await;
        let error = apply(&rig, Effect::Apply).await.unwrap_err();
        assert_eq!(files(&repo), before, "{error}");
    }
}

#[tokio::test]
async fn a_tree_that_unfolds_without_end_is_given_up() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    rig.prepare(&repo).await;
    let before = files(&repo);
    // Ten folders, each of which holds ten, and so on, ten times: a few hundred bytes.
    guest_claims(
        &rig,
        "t=$(echo x | $git hash-object -w --stdin); k='100644 blob'; \
         for n in 0 1 2 3 4 5 6 7 8 9; do \
         t=$(for m in 0 1 2 3 4 5 6 7 8 9; do printf '%s %s\\tf%s\\n' \"$k\" $t $m; done | $git mktree); k='040000 tree'; \
         done; echo $t",
    )
    .await;
    let error = apply(&rig, Effect::Apply).await.unwrap_err();
    assert_eq!(files(&repo), before, "{error}");
}

#[tokio::test]
async fn nothing_that_the_repository_has_configured_is_run_when_changes_come_home() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    rig.prepare(&repo).await;
    rig.guest("echo guest >> README.md; echo new > new").await;
    let trap = rig.scratch.path().join("trap");
    let mark = rig.scratch.path().join("sprung");
    std::fs::write(&trap, format!("#!/bin/sh\ntouch {}\ncat\n", mark.display())).unwrap();
    std::fs::set_permissions(&trap, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let trap = trap.to_str().unwrap();
    repo.write(".gitattributes", "* filter=evil diff=evil merge=evil\n");
    repo.commit("attributes");
    for key in [
        "core.fsmonitor",
        "filter.evil.clean",
        "filter.evil.smudge",
        "merge.evil.driver",
        "diff.external",
        "gpg.program",
    ] {
        repo.git(["config", key, trap]);
    }
    for hook in [
        "post-checkout",
        "post-index-change",
        "reference-transaction",
        "post-applypatch",
    ] {
        std::fs::create_dir_all(repo.root.join(".git/hooks")).unwrap();
        std::fs::copy(trap, repo.root.join(".git/hooks").join(hook)).unwrap();
    }
    let _ = std::fs::remove_file(&mark);
    apply(&rig, Effect::Apply).await.unwrap();
    assert_eq!(repo.read("README.md"), "hello\nguest\n");
    rig.engine.workspace_undo("box", None).await.unwrap();
    assert!(!mark.exists(), "a program of the repository's was run");
}

#[tokio::test]
async fn what_git_ignores_here_is_neither_replaced_nor_removed_by_taking_back() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    repo.write(".gitignore", ".env\nbuild/\nnode_modules/\nold\n");
    repo.commit("ignores");
    repo.write(".env", "the only copy\n");
    repo.write("build/out", "the only copy\n");
    repo.write("node_modules/.bin/x", "the only copy\n");
    repo.write("old", "the only copy\n");
    rig.prepare(&repo).await;
    for (script, named) in [
        ("echo guest >.env; git add -f .env", ".env"),
        (
            "mkdir -p build; echo guest >build/out; git add -f build/out",
            "build/out",
        ),
        (
            "mkdir -p node_modules/.bin; echo guest >node_modules/.bin/x; git add -f node_modules",
            "node_modules/.bin/x",
        ),
        // A folder where a file is, and a file where a folder is.
        ("mkdir old; echo guest >old/x; git add -f old/x", "old"),
        ("echo guest >build; git add -f build", "build/out"),
    ] {
        rig.guest(&format!("echo more >>README.md; {script}")).await;
        let error = apply(&rig, Effect::Apply).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse, "{script}: {error}");
        let told = error.chain().join(": ");
        assert!(
            told.contains(&format!("not tracked here: {named}")),
            "{script}: {told}"
        );
        for path in [".env", "build/out", "node_modules/.bin/x", "old"] {
            assert_eq!(repo.read(path), "the only copy\n", "{script}");
        }
        assert_eq!(
            repo.read("README.md"),
            "hello\n",
            "nothing of it is written"
        );
        rig.guest("git reset -q --hard; git clean -qfdx").await;
    }
    // What is in nobody's way goes in, and back out again.
    rig.guest("echo more >>README.md; echo new >new").await;
    apply(&rig, Effect::Apply).await.unwrap();
    rig.engine.workspace_undo("box", None).await.unwrap();
    assert_eq!(repo.read(".env"), "the only copy\n");
    assert!(!repo.root.join("new").exists());
}

#[tokio::test]
async fn copies_of_one_object_count_as_what_they_write() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    let large = std::fs::File::create(repo.root.join("large")).unwrap();
    large.set_len(100 << 20).unwrap();
    repo.commit("large");
    rig.prepare(&repo).await;
    let before = std::fs::read_dir(&repo.root).unwrap().count();
    let copies = |many: usize| {
        format!(
            "blob=$($git rev-parse HEAD:large); {{ $git ls-tree HEAD; for n in $(seq {many}); do \
             printf '100644 blob %s\\tcopy%s\\n' $blob $n; done; }} | $git mktree"
        )
    };
    guest_claims(&rig, &copies(11)).await;
    let error = apply(&rig, Effect::Apply).await.unwrap_err();
    let told = error.chain().join(": ");
    assert!(told.contains("more than 1024 MiB unpacked"), "{told}");
    assert_eq!(std::fs::read_dir(&repo.root).unwrap().count(), before);
    guest_claims(&rig, &copies(1)).await;
    apply(&rig, Effect::Apply).await.unwrap();
    assert!(repo.root.join("copy1").exists());
}

#[tokio::test]
async fn a_guest_that_says_nothing_or_never_ends_is_given_up_and_named() {
    let rig =
        Rig::with(|config| config.limits.workspace = std::time::Duration::from_millis(800)).await;
    let repo = rig.small();
    rig.prepare(&repo).await;
    for hangs in ["exec sleep 1000", "exec >&- 2>&-; exec sleep 1000"] {
        instead_of(&rig, "pack-objects", hangs).await;
        let told = apply(&rig, Effect::Apply)
            .await
            .unwrap_err()
            .chain()
            .join(": ");
        assert!(told.contains("it said nothing for 800ms"), "{told}");
    }
}

#[tokio::test]
async fn an_apply_that_nobody_waits_for_any_more_ends_and_leaves_nothing() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    rig.prepare(&repo).await;
    let before = files(&repo);
    // A pack without an end.
    let endless = ": >/opt/begun; while echo +x; do sleep 0.01; done";
    instead_of(&rig, "pack-objects", endless).await;
    {
        let mut applying = std::pin::pin!(apply(&rig, Effect::Apply));
        let begun = rig.outside("while [ ! -e /opt/begun ]; do sleep 0.01; done");
        tokio::select! {
            done = &mut applying => panic!("it has an end: {done:?}"),
            _ = begun => {}
        }
    }
    let staging = rig.config.state_dir.join("staging");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while std::fs::read_dir(&staging).is_ok_and(|left| left.count() > 0) {
        assert!(std::time::Instant::now() < deadline, "its folder stays");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(files(&repo), before);
}
