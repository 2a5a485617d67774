//! A repository into a real guest and its changes out of it: one VM, and one that leaves nothing.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use banger_tests::{Home, alone, eventually, kill, skipped, text};

fn guest(home: &Home, script: &str) -> String {
    home.ok(&["vm", "exec", "box", "--", "sh", "-ec", script])
}

fn git(place: &Path, words: &[&str], input: &[u8]) -> String {
    let mut child = Command::new("git")
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
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("git starts");
    let mut stdin = child.stdin.take().expect("it has one");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().expect("git ends");
    writer.join().expect("it was written");
    assert!(
        output.status.success(),
        "git {words:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout).trim().to_owned()
}

/// A repository of three thousand files in a hundred folders, with binaries, symlinks, scripts and history.
fn repository(folder: &Path) -> PathBuf {
    let root = folder.join("repo");
    std::fs::create_dir(&root).expect("a folder");
    git(&root, &["init", "-q", "-b", "main"], &[]);
    for number in 0..3000_u32 {
        let path = root.join(format!("dir{}/file {number}.txt", number % 100));
        std::fs::create_dir_all(path.parent().expect("it has one")).expect("a folder");
        let line = format!("line {number} of a file\n");
        std::fs::write(path, line.repeat(number as usize % 40)).expect("a file");
    }
    let noise: Vec<u8> = (0..3_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    std::fs::write(root.join("binary"), noise).expect("a file");
    std::fs::write(root.join("script"), "#!/bin/sh\necho it runs\n").expect("a file");
    std::os::unix::fs::symlink("dir1/file 1.txt", root.join("link")).expect("a link");
    git(&root, &["add", "-A"], &[]);
    git(&root, &["update-index", "--chmod=+x", "script"], &[]);
    git(&root, &["commit", "-q", "-m", "first"], &[]);
    git(&root, &["checkout", "-q", "script"], &[]);
    for number in 0..20 {
        std::fs::write(root.join("count"), format!("{number}\n")).expect("a file");
        git(&root, &["add", "-A"], &[]);
        git(
            &root,
            &["commit", "-q", "-m", &format!("number {number}")],
            &[],
        );
    }
    root
}

/// Everything that an export could disturb.
const STATE: &str = "git status --porcelain=v2; git ls-files -s | sha1sum; sha1sum .git/index; find .git | sort | sha1sum";

#[test]
fn a_repository_of_thousands_of_files_goes_in_and_its_changes_come_out_the_same() {
    if skipped() {
        return;
    }
    let _turn = alone();
    let home = Home::new();
    let repo = repository(home.rig.folder());

    // A command in it passes its status through, and leaves nothing.
    let run = home.banger(&[
        "vm",
        "run",
        "--rm",
        "./repo",
        "--export",
        "out.patch",
        "--",
        "sh",
        "-c",
        "./script; echo changed > count; exit 42",
    ]);
    assert_eq!(run.status.code(), Some(42), "{}", text(&run.stderr));
    assert_eq!(text(&run.stdout), "it runs\n");
    let patch = std::fs::read(home.rig.folder().join("out.patch")).expect("the patch is there");
    assert!(
        text(&patch).ends_with("-19\n+changed\n"),
        "{}",
        text(&patch)
    );
    assert_eq!(home.ok(&["vm", "list", "--json"]).trim(), "[]");
    home.rig.assert_nothing_left();

    let entered = home.banger(&[
        "vm",
        "run",
        "--name",
        "box",
        "--disk-size",
        "400M",
        "./repo",
        "--",
        "pwd",
    ]);
    assert_eq!(
        text(&entered.stdout),
        "/root/repo\n",
        "{}",
        text(&entered.stderr)
    );
    assert_eq!(
        guest(&home, "git status --porcelain; git rev-list --count HEAD"),
        "10\n"
    );
    assert!(home.ok(&["ps"]).contains("repo@"), "ps shows it");

    guest(
        &home,
        "git config user.name G; git config user.email g@example.org; \
         for n in 1 2 3 4 5 6 7 8 9; do echo more >> \"dir$n/file $n.txt\"; done; \
         git commit -qam 'in the guest'; git mv dir2 renamed; git rm -q -r dir3; chmod -x script; \
         ln -sfn nowhere link; head -c 5000000 /dev/urandom > random; printf '\\1\\2\\3' >> binary; \
         printf 'no newline' > \"$(printf 'new\\nline')\"; : > empty; git commit -q -m 'and more'; \
         echo staged > staged; git add staged; echo later >> staged",
    );
    let before = guest(&home, STATE);
    let exported = home.banger(&["vm", "workspace", "export", "box"]);
    assert_eq!(
        exported.status.code(),
        Some(0),
        "{}",
        text(&exported.stderr)
    );
    let again = home.banger(&["vm", "workspace", "export", "box"]);
    assert!(
        exported.stdout == again.stdout,
        "two exports on one connection are the same"
    );
    assert_eq!(
        guest(&home, STATE),
        before,
        "index, status and git dir are as they were"
    );

    let tree = guest(
        &home,
        "cp -p .git/index /tmp/index; export GIT_INDEX_FILE=/tmp/index; git add -A; git write-tree",
    );
    let clone = home.rig.folder().join("clone");
    let words = ["clone", "-q", "repo", "clone"];
    git(home.rig.folder(), &words, &[]);
    git(&clone, &["apply", "--index", "--binary"], &exported.stdout);
    assert_eq!(
        git(&clone, &["write-tree"], &[]),
        tree.trim(),
        "the same tree"
    );

    // Home: onto a repository that has moved on, and back.
    std::fs::write(repo.join("host"), "by the host\n").expect("a file");
    git(&repo, &["add", "-A"], &[]);
    git(&repo, &["commit", "-q", "-m", "on the host"], &[]);
    let warned = home.banger(&["vm", "exec", "box", "--", "true"]);
    assert!(
        text(&warned.stderr).contains("has moved on"),
        "{}",
        text(&warned.stderr)
    );
    home.ok(&["vm", "workspace", "apply", "box", "--check"]);
    assert_eq!(git(&repo, &["status", "--porcelain"], &[]), "");
    home.ok(&["vm", "workspace", "apply", "box"]);
    assert!(repo.join("renamed/file 2.txt").exists() && repo.join("host").exists());
    home.ok(&["vm", "workspace", "apply", "box", "--undo"]);
    assert_eq!(git(&repo, &["status", "--porcelain"], &[]), "");

    let kept = home.banger(&["vm", "workspace", "prepare", "box", "repo"]);
    assert_eq!(
        kept.status.code(),
        Some(1),
        "the guest's changes stand in the way"
    );
    home.ok(&["vm", "workspace", "prepare", "box", "repo", "--force"]);
    assert_eq!(
        guest(&home, "cat host; git status --porcelain"),
        "by the host\n"
    );

    // The daemon dies in the middle of it: the guest has what it had or all that was to come, and nothing
    // else; and the next one goes on.
    let begun = Instant::now();
    home.ok(&["vm", "workspace", "prepare", "box", "repo", "--force"]);
    let whole = begun.elapsed();
    let mut had = "19\n".to_owned();
    for percent in [10, 40, 70, 90] {
        let next = format!("at {percent}\n");
        std::fs::write(repo.join("count"), &next).expect("a file");
        let daemon = home.daemon();
        let mut prepare = home
            .command(&["vm", "workspace", "prepare", "box", "repo", "--force"])
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        std::thread::sleep(whole * percent / 100);
        kill(daemon);
        prepare.wait().expect("it ends");
        eventually("what the guest was given for it is gone", || {
            // Meanwhile it has the one or the other.
            let has = guest(&home, "cat count");
            assert!(has == had || has == next, "{has}");
            guest(&home, "ls -A /root | grep banger-prepare || :").is_empty()
        });
        let has = guest(&home, "cat count");
        println!("killed after {percent} % of {whole:.1?}: {}", has.trim());
        assert!(has == had || has == next, "{has}");
        let changed = guest(&home, "git status --porcelain; git fsck --no-progress 2>&1");
        assert!(changed.lines().all(|it| it == " M count"), "{changed}");
        had = has;
    }
    home.ok(&["vm", "workspace", "prepare", "box", "repo", "--force"]);
    assert_eq!(guest(&home, "cat count"), "at 90\n");
    home.assert_proven("after deaths in the middle of a prepare");

    // A full disk in the guest: refused, and the workspace is as it was.
    let before = guest(&home, "git status --porcelain; cat count");
    guest(
        &home,
        "head -c 900000000 /dev/zero > /root/fill 2>/dev/null || :",
    );
    std::fs::write(repo.join("count"), "once more\n").expect("a file");
    let full = home.banger(&["vm", "workspace", "prepare", "box", "repo", "--force"]);
    assert_eq!(full.status.code(), Some(1), "{}", text(&full.stderr));
    guest(&home, "rm /root/fill");
    assert_eq!(
        guest(&home, "git status --porcelain; cat count"),
        before,
        "the workspace is as it was"
    );
    assert_eq!(guest(&home, "ls -A /root | grep banger-prepare || :"), "");

    home.ok(&["vm", "delete", "box"]);
    home.rig.assert_nothing_left();
}
