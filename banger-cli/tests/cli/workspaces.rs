//! Workspaces as a user has them, on the simulator.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::simulator::{Simulated, send, until};

fn git(place: &Path, words: &[&str]) -> String {
    let output = Command::new("git")
        .args([
            "-c",
            "user.name=A Person",
            "-c",
            "user.email=person@example.org",
        ])
        .args(words)
        .current_dir(place)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A repository with one commit, a changed file and a secret.
fn repo(world: &Simulated) -> PathBuf {
    let root = world.path().join("repo");
    fs::create_dir(&root).unwrap();
    git(&root, &["init", "-q", "-b", "main"]);
    fs::write(root.join("README.md"), "hello\n").unwrap();
    fs::write(root.join("Makefile"), "all:\n").unwrap();
    git(&root, &["add", "-A"]);
    git(&root, &["commit", "-q", "-m", "first"]);
    fs::write(root.join("README.md"), "hello\nchanged\n").unwrap();
    fs::write(root.join("secret"), "stays\n").unwrap();
    root
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn run_with_a_repository_runs_in_it_keeps_the_status_writes_the_patch_and_leaves_nothing() {
    let world = Simulated::new();
    repo(&world);
    let script = "pwd; cat README.md; ls -a; echo more >> Makefile; exit 42";
    let run = world.banger(&[
        "vm",
        "run",
        "--rm",
        "./repo",
        "--export",
        "out.patch",
        "--",
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(run.status, Some(42), "{run}");
    assert_eq!(
        text(&run.stdout),
        "/root/repo\nhello\nchanged\n.\n..\n.git\nMakefile\nREADME.md\n"
    );
    assert!(
        run.stderr
            .contains("stayed here (--include-untracked carries them): secret"),
        "{run}"
    );
    let patch = fs::read_to_string(world.path().join("out.patch")).unwrap();
    assert!(
        patch.ends_with(" all:\n+more\n") && !patch.contains("changed"),
        "{patch}"
    );
    assert_eq!(
        text(&world.banger(&["vm", "list", "--json"]).stdout),
        "[]\n"
    );
    let left: Vec<_> = fs::read_dir(world.path())
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert!(
        !left
            .iter()
            .any(|name| text(name.as_encoded_bytes()).contains(".part")),
        "{left:?}"
    );
}

#[test]
fn what_cannot_be_carried_is_refused_before_there_is_a_vm() {
    let world = Simulated::new();
    let empty = world.path().join("empty");
    fs::create_dir(&empty).unwrap();
    for (path, words) in [
        ("./empty", "is not in a git repository"),
        ("./missing", "there is no folder"),
    ] {
        let run = world.banger(&["vm", "run", path, "--", "true"]);
        assert_eq!(run.status, Some(125), "{run}");
        assert!(run.stderr.contains(words), "{run}");
    }
    git(&empty, &["init", "-q"]);
    let run = world.banger(&["vm", "run", "./empty", "--", "true"]);
    assert!(run.stderr.contains("it has no commit yet"), "{run}");
    assert!(run.stderr.contains("hint: commit something first"), "{run}");
    let word = world.banger(&["vm", "run", "uname"]);
    assert_eq!(word.status, Some(2), "{word}");
    assert_eq!(
        text(&world.banger(&["vm", "list", "--json"]).stdout),
        "[]\n"
    );
}

#[test]
fn a_workspace_from_its_preparation_to_the_changes_at_home() {
    let world = Simulated::with_box();
    let root = repo(&world);
    let says = |words: &[&str]| {
        let run = world.banger(words);
        assert_eq!(run.status, Some(0), "{run}");
        (text(&run.stdout), run.stderr.clone())
    };
    let none = world.banger(&["vm", "workspace", "show", "box"]);
    assert_eq!(none.status, Some(1), "{none}");
    let planned = says(&["vm", "workspace", "prepare", "box", "repo", "--dry-run"]).0;
    assert!(planned.ends_with("\nM README.md\n"), "{planned}");
    let (_, told) = says(&["vm", "workspace", "prepare", "box", "repo"]);
    assert!(
        told.contains("repo is in box at /root/repo: main at "),
        "{told}"
    );
    assert!(told.contains("with 1 changed file"), "{told}");
    assert_eq!(says(&["vm", "exec", "box", "--", "pwd"]).0, "/root/repo\n");
    assert_eq!(
        says(&["vm", "exec", "-w", "/tmp", "box", "--", "pwd"]).0,
        "/tmp\n"
    );
    let listed = says(&["ps"]).0;
    assert!(
        listed.contains("WORKSPACE") && listed.contains("repo@"),
        "{listed}"
    );
    assert!(says(&["vm", "show", "box"]).0.contains("workspace:"));

    let script = "echo by the guest >> README.md; echo x > .envrc; printf 'a\\n' > \"$(printf 'new\\nline')\"";
    says(&["vm", "exec", "box", "--", "sh", "-c", script]);
    let names = says(&["vm", "workspace", "export", "box", "--name-only"]).0;
    assert_eq!(names, ".envrc\nREADME.md\n\"new\\nline\"\n");
    let stat = says(&["vm", "workspace", "export", "box", "--stat"]).0;
    assert!(
        stat.ends_with(" 3 files changed, 3 lines added, 0 lines removed\n"),
        "{stat}"
    );
    let json = says(&["vm", "workspace", "export", "box", "--json"]).0;
    let files: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(files[1]["change"], "modified");
    let (nothing, told) = says(&["vm", "workspace", "export", "box", "-o", "p.patch"]);
    assert_eq!(nothing, "");
    assert!(told.contains("bytes in p.patch"), "{told}");

    fs::write(root.join("here"), "meanwhile\n").unwrap();
    git(&root, &["add", "here"]);
    git(&root, &["commit", "-q", "-m", "meanwhile", "here"]);
    let (_, warned) = says(&["vm", "exec", "box", "--", "true"]);
    assert!(warned.contains("repo has moved on to "), "{warned}");
    let (files, told) = says(&["vm", "workspace", "apply", "box", "--check"]);
    assert!(files.contains("A .envrc   <- look at it: "), "{files}");
    assert!(told.contains("1 of them runs by itself"), "{told}");
    assert!(!root.join(".envrc").exists());
    says(&["vm", "workspace", "apply", "box"]);
    let text_here = fs::read_to_string(root.join("README.md")).unwrap();
    assert_eq!(text_here, "hello\nchanged\nby the guest\n");
    says(&["vm", "workspace", "apply", "box", "--undo"]);
    assert!(!root.join(".envrc").exists());

    let refused = world.banger(&["vm", "exec", "--auto-prepare", "box", "--", "true"]);
    assert_eq!(refused.status, Some(125), "{refused}");
    assert!(refused.stderr.contains("would be lost"), "{refused}");
    says(&["vm", "workspace", "prepare", "box", "repo", "--force"]);
    git(&root, &["commit", "-q", "--allow-empty", "-m", "again"]);
    let (log, told) = says(&[
        "vm",
        "exec",
        "--auto-prepare",
        "box",
        "--",
        "git",
        "log",
        "-1",
        "--format=%s",
    ]);
    assert_eq!(log, "again\n");
    assert!(told.contains("repo is in box"), "{told}");
}

#[test]
fn a_patch_goes_through_a_pipe_to_git() {
    let world = Simulated::with_box();
    let root = repo(&world);
    let prepared = world.banger(&["vm", "workspace", "prepare", "box", "repo"]);
    assert_eq!(prepared.status, Some(0), "{prepared}");
    let script = "head -c 3000000 /dev/urandom > big; chmod +x Makefile";
    world.banger(&["vm", "exec", "box", "--", "sh", "-c", script]);
    let patch = world.banger(&["vm", "workspace", "export", "box"]);
    assert_eq!(patch.status, Some(0), "{patch}");
    fs::write(world.path().join("p"), &patch.stdout).unwrap();
    git(&root, &["apply", "--binary", "../p"]);
    assert_eq!(fs::metadata(root.join("big")).unwrap().len(), 3_000_000);
    let gone = world.banger(&["vm", "delete", "box"]);
    assert_eq!(gone.status, Some(0), "{gone}");
    let none = world.banger(&["vm", "workspace", "export", "box"]);
    assert_eq!(none.status, Some(1), "{none}");
}

#[test]
fn an_export_that_is_ended_leaves_no_part_and_one_to_a_pipe_keeps_the_pipe() {
    let world = Simulated::with_box();
    repo(&world);
    let prepared = world.banger(&["vm", "workspace", "prepare", "box", "repo"]);
    assert_eq!(prepared.status, Some(0), "{prepared}");
    let script = "head -c 60000000 /dev/urandom >big";
    let grown = world.banger(&["vm", "exec", "box", "--", "sh", "-c", script]);
    assert_eq!(grown.status, Some(0), "{grown}");
    let names = || {
        let entries = std::fs::read_dir(world.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names
            .filter(|name| name.contains(".banger") || name == "p.patch")
            .count()
    };
    for (signal, status) in [("INT", 130), ("TERM", 143)] {
        let child = world.spawn(&["vm", "workspace", "export", "box", "-o", "p.patch"]);
        until("the file is begun", || names() == 1);
        send(signal, &child);
        let run = world.left(child.wait_with_output().unwrap());
        assert_eq!(run.status, Some(status), "{run}");
        assert_eq!(names(), 0);
    }
    let pipe = world.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let mut child = world.spawn(&["vm", "workspace", "export", "box", "-o", "pipe"]);
    let patch = std::fs::read(&pipe).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(patch.starts_with(b"diff --git a/big b/big") && patch.len() > 60_000_000);
    assert!(!std::fs::metadata(&pipe).unwrap().is_file());
}

#[test]
fn a_client_that_is_killed_while_it_carries_leaves_a_guest_as_it_was_or_completely_prepared() {
    let world = Simulated::with_box();
    let root = repo(&world);
    fs::write(root.join("big"), vec![7; 30 << 20]).unwrap();
    git(&root, &["add", "big"]);
    let mut client = world.spawn(&["vm", "workspace", "prepare", "box", "repo"]);
    let mut told = [0; 8];
    client
        .stderr
        .as_mut()
        .unwrap()
        .read_exact(&mut told)
        .unwrap();
    client.kill().unwrap();
    client.wait().unwrap();
    let guest = |script: &str| {
        text(
            &world
                .banger(&["vm", "exec", "-w", "/", "box", "--", "sh", "-c", script])
                .stdout,
        )
    };
    // Nobody waits for it any more: nothing of it is seen but the folder beside, and that goes.
    until("it is there whole, or not at all", || {
        !guest("ls -A /root").contains(".banger-prepare-")
    });
    let again = world.banger(&["vm", "workspace", "prepare", "box", "repo"]);
    assert_eq!(again.status, Some(0), "{again}");
    let status = guest("cd /root/repo && git status --porcelain");
    assert_eq!(status, " M README.md\nA  big\n");
}

#[test]
fn where_an_export_goes_is_tried_before_there_is_a_vm_and_one_that_fails_keeps_it() {
    let world = Simulated::new();
    repo(&world);
    let run = |file: &str, script: &str| {
        world.banger(&[
            "vm", "run", "--rm", "--name", "box", "./repo", "--export", file, "--", "sh", "-c",
            script,
        ])
    };
    let list = || text(&world.banger(&["vm", "list", "--json"]).stdout).to_owned();
    for nowhere in ["no/such/folder/p.patch", "repo"] {
        let refused = run(nowhere, "echo more >>README.md");
        assert_eq!(refused.status, Some(125), "{refused}");
        assert!(refused.stdout.is_empty());
        assert_eq!(list(), "[]\n", "{refused}");
    }
    // The command takes the workspace away, and with it what would be exported.
    let failed = run("p.patch", "echo work >/root/work; rm -rf .git");
    assert_eq!(failed.status, Some(125), "{failed}");
    assert!(failed.stderr.contains("box was kept"), "{failed}");
    assert!(!world.path().join("p.patch").exists());
    let work = world.banger(&["vm", "exec", "box", "cat", "/root/work"]);
    assert_eq!(text(&work.stdout), "work\n");
    assert!(list().contains("\"ephemeral\": false"), "{}", list());
    let deleted = world.banger(&["vm", "delete", "box"]);
    assert_eq!(deleted.status, Some(0), "{deleted}");
}

#[test]
fn what_was_applied_is_taken_back_from_within_the_repository_when_the_vm_is_gone() {
    let world = Simulated::new();
    repo(&world);
    let vm = world.banger(&[
        "vm",
        "run",
        "--name",
        "box",
        "./repo",
        "--",
        "sh",
        "-c",
        "echo more >>Makefile",
    ]);
    assert_eq!(vm.status, Some(0), "{vm}");
    let before = fs::read(world.path().join("repo/Makefile")).unwrap();
    let applied = world.banger(&["vm", "workspace", "apply", "box"]);
    assert_eq!(applied.status, Some(0), "{applied}");
    assert_ne!(
        fs::read(world.path().join("repo/Makefile")).unwrap(),
        before
    );
    world.banger(&["vm", "delete", "box"]);
    let elsewhere = world.banger(&["vm", "workspace", "apply", "box", "--undo"]);
    assert!(elsewhere.stderr.contains("--path PATH"), "{elsewhere}");
    let undone = world.banger(&[
        "vm",
        "workspace",
        "apply",
        "box",
        "--undo",
        "--path",
        "repo",
    ]);
    assert_eq!(undone.status, Some(0), "{undone}");
    assert_eq!(
        fs::read(world.path().join("repo/Makefile")).unwrap(),
        before
    );
}
