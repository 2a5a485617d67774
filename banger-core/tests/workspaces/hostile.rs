//! Repositories that mean harm: what they configure is never run, what is no file is never waited for, and
//! what is another's is never carried.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use banger_core::{
    ApplyRequest, Effect, Error, PrepareRequest, Progress, Untracked, WorkspaceMode,
};

use crate::rig::{Repo, Rig, git};

/// A program that leaves a mark, and goes on as a filter would.
struct Trap {
    program: PathBuf,
    mark: PathBuf,
}

impl Trap {
    fn new(rig: &Rig) -> Self {
        let program = rig.scratch.path().join("trap");
        let mark = rig.scratch.path().join("sprung");
        let script = format!(
            "#!/bin/sh\necho \"$0 $*\" >>'{}'\ncat\nexit 0\n",
            mark.display()
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        Trap { program, mark }
    }

    fn path(&self) -> &str {
        self.program.to_str().unwrap()
    }

    fn unset(&self) {
        let _ = std::fs::remove_file(&self.mark);
    }

    #[track_caller]
    fn is_unsprung(&self, what: &str) {
        let sprung = std::fs::read_to_string(&self.mark).unwrap_or_default();
        assert_eq!(sprung, "", "{what}: a program of the repository's was run");
    }
}

/// Every key of git-config(1) that names a program, or leads to one; attributes, hooks and includes with them.
/// Gone through for git 2.55: Documentation/config, githooks(5), and where its source starts programs.
fn plant(repo: &Repo, trap: &Trap, rig: &Rig) {
    let run = trap.path();
    let shell = format!("!{run}");
    let mut text = String::new();
    for (section, values) in [
        (
            "core",
            &[
                ("fsmonitor", run),
                ("fsmonitorHookVersion", "1"),
                ("untrackedCache", "true"),
                ("sshCommand", run),
                ("pager", run),
                ("editor", run),
                ("gitProxy", run),
                ("askPass", run),
                ("alternateRefsCommand", run),
                ("attributesFile", "/dev/null"),
            ][..],
        ),
        (
            "diff",
            &[
                ("external", run),
                ("tool", "evil"),
                ("guitool", "evil"),
                ("orderFile", "/dev/null"),
            ],
        ),
        (
            "filter \"evil\"",
            &[
                ("clean", run),
                ("smudge", run),
                ("process", run),
                ("required", "true"),
            ],
        ),
        (
            "filter \"lfs\"",
            &[("clean", run), ("smudge", run), ("process", run)],
        ),
        (
            "diff \"evil\"",
            &[
                ("command", run),
                ("textconv", run),
                ("cachetextconv", "true"),
            ],
        ),
        (
            "merge \"evil\"",
            &[("driver", run), ("recursive", "binary")],
        ),
        ("merge", &[("tool", "evil"), ("default", "evil")]),
        ("mergetool \"evil\"", &[("cmd", run), ("path", run)]),
        ("difftool \"evil\"", &[("cmd", run), ("path", run)]),
        ("gpg", &[("program", run), ("format", "openpgp")]),
        (
            "gpg \"ssh\"",
            &[
                ("program", run),
                ("defaultKeyCommand", run),
                ("allowedSignersFile", "/dev/null"),
            ],
        ),
        ("gpg \"x509\"", &[("program", run)]),
        ("commit", &[("gpgSign", "true")]),
        ("tag", &[("gpgSign", "true")]),
        ("log", &[("showSignature", "true")]),
        ("uploadpack", &[("packObjectsHook", run)]),
        ("credential", &[("helper", &shell)]),
        ("credential \"https://example.org\"", &[("helper", &shell)]),
        (
            "alias",
            &[
                ("status", &shell),
                ("config", &shell),
                ("rev-parse", &shell),
                ("ls-files", &shell),
                ("update-ref", &shell),
            ],
        ),
        (
            "pager",
            &[
                ("status", run),
                ("diff", run),
                ("log", run),
                ("config", run),
            ],
        ),
        ("sequence", &[("editor", run)]),
        ("interactive", &[("diffFilter", run)]),
        ("trailer \"x\"", &[("command", run), ("cmd", run)]),
        (
            "submodule \"deps/lib\"",
            &[("update", &shell), ("ignore", "none")],
        ),
        ("submodule", &[("recurse", "true")]),
        (
            "remote \"origin\"",
            &[
                ("uploadpack", run),
                ("receivepack", run),
                ("vcs", "evil"),
                ("promisor", "true"),
                ("partialclonefilter", "blob:none"),
            ],
        ),
        ("extensions", &[("partialClone", "origin")]),
        ("url \"ext::sh -c touch% /tmp/x\"", &[("insteadOf", "/")]),
        ("protocol", &[("allow", "always")]),
        ("protocol \"ext\"", &[("allow", "always")]),
        (
            "sendemail",
            &[
                ("smtpServer", run),
                ("toCmd", run),
                ("ccCmd", run),
                ("headerCmd", run),
                ("sendmailCmd", run),
            ],
        ),
        ("browser \"evil\"", &[("cmd", run), ("path", run)]),
        ("web", &[("browser", "evil")]),
        ("man", &[("viewer", "evil")]),
        ("man \"evil\"", &[("cmd", run)]),
        ("help", &[("autocorrect", "immediate")]),
        ("instaweb", &[("httpd", run)]),
        ("imap", &[("tunnel", run)]),
        ("guitool \"evil\"", &[("cmd", run)]),
        ("init", &[("templateDir", "/nonexistent")]),
        ("receive", &[("procReceiveRefs", "refs")]),
        ("attr", &[("tree", "HEAD")]),
        ("tar \"tar\"", &[("command", run)]),
        ("tar \"tar.gz\"", &[("command", run)]),
        ("status", &[("submoduleSummary", "true")]),
        (
            "diff",
            &[("submodule", "diff"), ("ignoreSubmodules", "none")],
        ),
        ("transfer", &[("bundleURI", "true")]),
        ("fsmonitor", &[("allowRemote", "true")]),
        (
            "gc",
            &[
                ("auto", "1"),
                ("recentObjectsHook", run),
                ("autoDetach", "false"),
            ],
        ),
        ("maintenance", &[("auto", "true"), ("autoDetach", "false")]),
        (
            "fetch",
            &[("bundleURI", "file:///dev/zero"), ("fsmonitor", run)],
        ),
        (
            "hook \"evil\"",
            &[("command", run), ("event", "reference-transaction")],
        ),
        (
            "hook \"index\"",
            &[("command", run), ("event", "post-index-change")],
        ),
        (
            "hook \"checkout\"",
            &[("command", run), ("event", "post-checkout")],
        ),
        ("hook \"reference-transaction\"", &[("command", run)]),
        ("hook", &[("jobs", "2")]),
    ] {
        text.push_str(&format!("[{section}]\n"));
        for (key, value) in values {
            text.push_str(&format!("\t{key} = \"{value}\"\n"));
        }
    }
    let included = rig.scratch.path().join("included");
    std::fs::write(&included, &text).unwrap();
    let own = repo.root.join(".git/config");
    let before = std::fs::read_to_string(&own).unwrap();
    let include = format!(
        "[include]\n\tpath = {0}\n[includeIf \"gitdir:**\"]\n\tpath = {0}\n\
         [includeIf \"hasconfig:remote.*.url:**\"]\n\tpath = {0}\n[extensions]\n\tworktreeConfig = true\n",
        included.display()
    );
    std::fs::write(&own, format!("{before}{text}{include}")).unwrap();
    // Read last, and by one work tree: hooks in a folder of their own, and the built-in monitor of files.
    let own = repo.root.join(".git/config.worktree");
    let elsewhere = rig.scratch.path().join("hooks");
    let last = format!(
        "[core]\n\thooksPath = {}\n\tfsmonitor = true\n",
        elsewhere.display()
    );
    std::fs::write(own, last).unwrap();
    let hooks = repo.root.join(".git/hooks");
    for folder in [&hooks, &elsewhere] {
        std::fs::create_dir_all(folder).unwrap();
    }
    for hook in [
        "applypatch-msg",
        "pre-applypatch",
        "post-applypatch",
        "pre-commit",
        "pre-merge-commit",
        "prepare-commit-msg",
        "commit-msg",
        "post-commit",
        "pre-rebase",
        "post-checkout",
        "post-merge",
        "pre-push",
        "pre-receive",
        "update",
        "proc-receive",
        "post-receive",
        "post-update",
        "reference-transaction",
        "push-to-checkout",
        "pre-auto-gc",
        "post-rewrite",
        "sendemail-validate",
        "fsmonitor-watchman",
        "p4-changelist",
        "p4-prepare-changelist",
        "p4-post-changelist",
        "p4-pre-submit",
        "post-index-change",
    ] {
        for folder in [&hooks, &elsewhere] {
            std::fs::copy(&trap.program, folder.join(hook)).unwrap();
        }
    }
}

const ATTRIBUTES: &str = "* filter=evil diff=evil merge=evil\n*.bin filter=lfs\n";

async fn apply(rig: &Rig) -> Result<(), Error> {
    let silent = Progress::silent();
    let request = ApplyRequest {
        effect: Effect::Apply,
        ..ApplyRequest::default()
    };
    rig.engine
        .workspace_apply("box", request, &silent)
        .await
        .map(drop)
}

/// Every verb that looks at the host's repository, or changes it.
async fn every_verb(rig: &Rig, root: &Path, mode: WorkspaceMode, trap: &Trap, what: &str) {
    let request = PrepareRequest {
        mode,
        untracked: Untracked::Carry,
        overwrite: banger_core::Overwrite::Force,
        ..PrepareRequest::new(root)
    };
    rig.engine.workspace_inspect(&request).await.unwrap();
    trap.is_unsprung(&format!("{what}, inspect"));
    rig.engine.workspace_plan("box", &request).await.unwrap();
    rig.try_prepare(request).await.unwrap();
    trap.is_unsprung(&format!("{what}, prepare"));
    rig.guest("echo more >>README.md; echo new >new.txt").await;
    rig.engine.workspace_changes("box", None).await.unwrap();
    rig.export(None).await.unwrap();
    let recorded = rig.engine.workspace("box").await.unwrap().unwrap();
    rig.engine.workspace_freshness(&recorded).await;
    trap.is_unsprung(&format!("{what}, show"));
    apply(rig).await.unwrap();
    trap.is_unsprung(&format!("{what}, apply"));
    assert!(root.join("new.txt").exists(), "{what}");
    rig.engine.workspace_undo("box", None).await.unwrap();
    trap.is_unsprung(&format!("{what}, undo"));
    assert!(!root.join("new.txt").exists(), "{what}");
    rig.nothing_staged();
}

/// The gits to try: each must be at least as new as what is told to be needed.
fn gits() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = ["/usr/bin", "/usr/local/bin"].map(PathBuf::from).to_vec();
    found.retain(|folder| folder.join("git").exists());
    match std::env::var_os("BANGER_TEST_GIT") {
        Some(git) => found.push(Path::new(&git).parent().unwrap().to_owned()),
        None => println!("SKIP: the newest git: name its program in BANGER_TEST_GIT"),
    }
    found
}

#[tokio::test]
async fn nothing_that_a_repository_names_is_run_by_any_git_whatever_the_verb() {
    for folder in gits() {
        let rig = Rig::with_box().await;
        rig.host.look_for_programs_first_in(&folder);
        let trap = Trap::new(&rig);
        let library = rig.repository("library");
        library.write("lib.h", "#define X 1\n");
        library.write(".gitattributes", ATTRIBUTES);
        library.commit("library");
        let repo = rig.small();
        repo.write(".gitattributes", ATTRIBUTES);
        repo.write("data.bin", "data\n");
        let from = library.root.to_str().unwrap();
        repo.git([
            "-c",
            "protocol.file.allow=always",
            "submodule",
            "add",
            "-q",
            from,
            "deps/lib",
        ]);
        repo.commit("attributes and a submodule");
        let linked = rig.scratch.path().join("linked");
        repo.git(["worktree", "add", "-q", linked.to_str().unwrap()]);
        plant(&repo, &trap, &rig);
        let module = repo.root.join(".git/modules/deps/lib");
        let evil = std::fs::read_to_string(repo.root.join(".git/config")).unwrap();
        let evil = evil.split_once("[core]").map_or("", |(_, rest)| rest);
        let evil = evil.split_once("[core]").map_or("", |(_, rest)| rest);
        let own = std::fs::read_to_string(module.join("config")).unwrap();
        std::fs::write(module.join("config"), format!("{own}[core]{evil}")).unwrap();
        repo.write("README.md", "changed\n");
        repo.write("deps/lib/lib.h", "#define X 2\n");
        std::fs::write(linked.join("README.md"), "changed\n").unwrap();
        let version = std::process::Command::new(folder.join("git"))
            .arg("--version")
            .output();
        let version = String::from_utf8(version.unwrap().stdout).unwrap();
        println!("tried on {}", version.trim());

        // Or the traps would prove nothing.
        let plain = std::process::Command::new(folder.join("git"))
            .args(["-C", repo.root.to_str().unwrap(), "status"])
            .env("HOME", "/nonexistent")
            .output();
        assert!(
            trap.mark.exists(),
            "git itself springs none of them: {plain:?}"
        );
        trap.unset();
        let full = WorkspaceMode::FullCopy;
        every_verb(
            &rig,
            &repo.root,
            full,
            &trap,
            &format!("{version} repository"),
        )
        .await;
        every_verb(&rig, &linked, full, &trap, &format!("{version} worktree")).await;
    }
}

#[tokio::test]
async fn a_partial_clone_fetches_nothing_by_what_it_names() {
    for folder in gits() {
        let rig = Rig::with_box().await;
        rig.host.look_for_programs_first_in(&folder);
        let trap = Trap::new(&rig);
        let repo = rig.small();
        repo.git(["config", "uploadpack.allowFilter", "true"]);
        let clone = rig.scratch.path().join("partial");
        let from = format!("file://{}", repo.root.display());
        let words = [
            "clone",
            "-q",
            "--no-checkout",
            "--filter=blob:none",
            &from,
            clone.to_str().unwrap(),
        ];
        let made = git(rig.scratch.path(), words, &[]);
        assert!(made.status.success(), "{made:?}");
        let made = git(
            &clone,
            ["config", "remote.origin.uploadpack", trap.path()],
            &[],
        );
        assert!(made.status.success());
        trap.unset();
        // Its files were never fetched: it can be carried or not, and nothing is asked of anybody.
        let request = PrepareRequest::new(&clone);
        let prepared = rig.try_prepare(request).await;
        trap.is_unsprung("prepare");
        if let Err(error) = prepared {
            println!("{}", error.chain().join(": "));
        }
        rig.nothing_staged();
    }
}

/// What is put in the place of a file.
type Plant = fn(&Path);

const ODD: [(&str, Plant); 6] = [
    ("named pipe", |path| fifo(path)),
    ("socket", |path| {
        drop(std::os::unix::net::UnixListener::bind(path).unwrap())
    }),
    ("link to an endless device", |path| {
        symlink("/dev/zero", path).unwrap()
    }),
    ("link to a pipe", |path| {
        let pipe = path.with_file_name("a-pipe");
        fifo(&pipe);
        symlink(pipe, path).unwrap();
    }),
    ("device", |path| {
        let made = std::process::Command::new("mknod")
            .arg(path)
            .args(["c", "1", "5"])
            .output();
        if !made.unwrap().status.success() {
            println!("SKIP: only root makes a device; a link to one instead");
            symlink("/dev/zero", path).unwrap();
        }
    }),
    ("endless hole", |path| {
        std::fs::File::create(path)
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
    }),
];

fn fifo(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_is_never_waited_for_wherever_it_lies() {
    let rig = Rig::with_box().await;
    let begun = Instant::now();
    let staging = rig.config.state_dir.join("staging");
    let all = [
        ".git",
        ".git/config",
        ".git/config.worktree",
        ".git/HEAD",
        ".git/index",
        ".git/packed-refs",
        ".git/shallow",
        ".git/commondir",
        ".git/info/exclude",
        ".git/info/sparse-checkout",
        ".git/info/attributes",
        ".git/info/grafts",
        ".git/refs/heads/other",
        ".git/refs/heads",
        ".git/refs/tags/x",
        ".git/objects/info/alternates",
        ".git/objects/info/packs",
        ".git/objects/info/commit-graph",
        ".git/objects/aa/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
        ".git/objects/pack/pack-x.idx",
        ".git/objects/pack/multi-pack-index",
        ".git/objects/pack",
        ".git/sharedindex.0123456789012345678901234567890123456789",
        ".git/hooks/pre-commit",
        ".git/logs/HEAD",
        ".git/ORIG_HEAD",
        ".git/index.lock",
        ".git/worktrees",
        ".git/modules",
        ".gitattributes",
        ".gitignore",
        ".gitmodules",
        ".lfsconfig",
        ".mailmap",
        "src/.gitattributes",
        "src/.gitignore",
        "src/main.c",
        "README.md",
        "new",
        "u/.gitignore",
        "n/.git/HEAD",
        "n/.git/commondir",
        "n/.git/refs/heads/main",
    ];
    for place in all {
        for (kind, plant) in ODD {
            let repo = rig.repository("odd");
            repo.write("README.md", "hello\n");
            repo.write("src/main.c", "int main;\n");
            repo.commit("first");
            git(&repo.root, ["init", "-q", "n"], &[]);
            let path = repo.root.join(place);
            let _ = std::fs::remove_file(&path);
            if path.is_dir() {
                std::fs::remove_dir_all(&path).unwrap();
            }
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            plant(&path);
            let request = PrepareRequest {
                mode: WorkspaceMode::FullCopy,
                untracked: Untracked::Carry,
                overwrite: banger_core::Overwrite::Force,
                ..PrepareRequest::new(&repo.root)
            };
            let limit = Duration::from_secs(60);
            // The two that are read in the most ways go all the way; the others as far as they are looked at.
            let all_the_way = matches!(kind, "named pipe" | "endless hole");
            let done = tokio::time::timeout(limit, async {
                match all_the_way {
                    true => rig.try_prepare(request).await.map(drop),
                    false => rig.engine.workspace_inspect(&request).await.map(drop),
                }
            });
            let done = done.await;
            let done = done.unwrap_or_else(|_| panic!("{kind} at {place}: it is waited for"));
            if let Err(error) = done {
                let told = error.chain().join(": ");
                assert!(told.len() < 2000, "{kind} at {place}: {told}");
            }
            let left = std::fs::read_dir(&staging).map_or(0, Iterator::count);
            assert_eq!(left, 0, "{kind} at {place}");
            std::fs::remove_dir_all(&repo.root).unwrap();
        }
    }
    println!("{} cases in {:.1?}", all.len() * ODD.len(), begun.elapsed());
}

#[tokio::test]
async fn a_pointer_to_another_repository_is_refused_and_nothing_of_that_is_carried() {
    let rig = Rig::with_box().await;
    let theirs = rig.repository("private");
    theirs.write("secret", "secret\n");
    theirs.commit("private");
    let mine = rig.small();
    type Point = Box<dyn Fn(&Path)>;
    let target = theirs.root.join(".git");
    let (a, b, c, d) = (
        target.clone(),
        theirs.root.clone(),
        target.clone(),
        target.clone(),
    );
    let cases: Vec<(&str, Point)> = vec![
        (
            ".git names another",
            Box::new(move |root| {
                std::fs::remove_dir_all(root.join(".git")).unwrap();
                std::fs::write(root.join(".git"), format!("gitdir: {}\n", a.display())).unwrap();
            }),
        ),
        (
            "the files lie elsewhere",
            Box::new(move |root| {
                let config = root.join(".git/config");
                let text = std::fs::read_to_string(&config).unwrap();
                std::fs::write(
                    &config,
                    format!("{text}[core]\n\tworktree = {}\n", b.display()),
                )
                .unwrap();
            }),
        ),
        (
            "a git dir shares another's",
            Box::new(move |root| {
                std::fs::write(root.join(".git/commondir"), c.to_str().unwrap()).unwrap();
            }),
        ),
        (
            ".git is a link",
            Box::new(move |root| {
                std::fs::remove_dir_all(root.join(".git")).unwrap();
                symlink(&d, root.join(".git")).unwrap();
            }),
        ),
    ];
    for (case, point) in cases {
        let clone = rig.scratch.path().join("clone");
        let repo = mine.clone_to(&clone);
        point(&repo.root);
        let error = rig
            .try_prepare(PrepareRequest::new(&repo.root))
            .await
            .unwrap_err();
        let told = error.chain().join(": ");
        assert!(told.contains("was not looked into"), "{case}: {told}");
        assert!(error.hint().is_some(), "{case}");
        assert_eq!(rig.outside("ls -A /root").await, "", "{case}");
        std::fs::remove_dir_all(&clone).unwrap();
    }
}

#[tokio::test]
async fn a_path_of_the_index_that_leads_out_is_refused_before_anything_is_read() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    let outside = repo.root.parent().unwrap().join("id_rsa");
    std::fs::write(&outside, "a private key\n").unwrap();
    let index = repo.root.join(".git/index");
    let good = std::fs::read(&index).unwrap();
    for name in [
        "../../id_rsa",
        "../id_rsa",
        "/etc/passwd",
        ".git/config",
        "src/../../../id_rsa",
    ] {
        std::fs::write(&index, with_entry(&good, name)).unwrap();
        let error = rig
            .try_prepare(PrepareRequest::new(&repo.root))
            .await
            .unwrap_err();
        let told = error.chain().join(": ");
        assert!(told.contains("its index names"), "{name}: {told}");
        assert!(told.contains(name), "{name}: {told}");
    }
    assert_eq!(rig.outside("ls -A /root").await, "");
}

/// Adds an entry of any name to an index of version 2. Its checksum is left as it was: git looks at it last.
fn with_entry(index: &[u8], name: &str) -> Vec<u8> {
    let count = u32::from_be_bytes(index[8..12].try_into().unwrap());
    let mut made = index[..8].to_vec();
    made.extend((count + 1).to_be_bytes());
    let mut entry = vec![0; 24];
    entry.extend(0o100_644_u32.to_be_bytes());
    entry.extend([0; 12]);
    entry.extend([0xe6; 20]);
    entry.extend((name.len() as u16).to_be_bytes());
    entry.extend(name.as_bytes());
    entry.resize((entry.len() + 8) & !7, 0);
    made.extend(entry);
    made.extend(&index[12..]);
    made
}

#[tokio::test]
async fn a_tracked_folder_that_is_a_link_now_carries_nothing_of_where_it_leads() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    let outside = rig.scratch.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("main.c"), "secret\n").unwrap();
    std::fs::write(outside.join("id_rsa"), "secret\n").unwrap();
    std::fs::remove_dir_all(repo.root.join("src")).unwrap();
    symlink(&outside, repo.root.join("src")).unwrap();
    for untracked in [Untracked::Leave, Untracked::Carry] {
        let request = PrepareRequest {
            untracked,
            overwrite: banger_core::Overwrite::Force,
            ..PrepareRequest::new(&repo.root)
        };
        rig.try_prepare(request).await.unwrap();
        let found = rig.guest("grep -r secret . || :").await;
        assert_eq!(found, "", "{untracked:?}");
    }
}

#[tokio::test]
async fn repositories_of_every_kind_are_carried_all_the_same() {
    let rig = Rig::with_box().await;
    for (kind, words) in [
        ("sha256", &["--object-format=sha256"][..]),
        ("reftable", &["--ref-format=reftable"]),
    ] {
        let root = rig.scratch.path().join(kind);
        std::fs::create_dir(&root).unwrap();
        let mut init = vec!["init", "-q", "-b", "main"];
        init.extend(words);
        if !git(&root, init, &[]).status.success() {
            println!("SKIP: {kind}: this git makes none");
            continue;
        }
        let repo = Repo { root: root.clone() };
        repo.git(["config", "user.name", "A Person"]);
        repo.git(["config", "user.email", "person@example.org"]);
        repo.write("README.md", "hello\n");
        repo.commit("first");
        let linked = rig.scratch.path().join(format!("{kind}-linked"));
        repo.git([
            "worktree",
            "add",
            "-q",
            "-b",
            "topic",
            linked.to_str().unwrap(),
        ]);
        for (place, branch) in [(&root, "main"), (&linked, "topic")] {
            std::fs::write(place.join("README.md"), "changed\n").unwrap();
            let prepared = rig
                .prepare_again(&Repo {
                    root: place.clone(),
                })
                .await;
            assert_eq!(prepared.workspace.branch.as_deref(), Some(branch), "{kind}");
            assert_eq!(rig.guest("cat README.md").await, "changed\n", "{kind}");
            rig.guest("echo more >>README.md").await;
            apply(&rig).await.unwrap();
            let text = std::fs::read_to_string(place.join("README.md")).unwrap();
            assert_eq!(text, "changed\nmore\n", "{kind}");
            let undo = repo.git(["rev-parse", "--verify", "refs/banger/undo/box"]);
            assert!(!undo.is_empty());
            rig.engine.workspace_undo("box", None).await.unwrap();
            let text = std::fs::read_to_string(place.join("README.md")).unwrap();
            assert_eq!(text, "changed\n", "{kind}");
            let left = git(
                &root,
                ["rev-parse", "--verify", "-q", "refs/banger/undo/box"],
                &[],
            );
            assert!(!left.status.success(), "{kind}: the ref to undo by is gone");
        }
    }
    let repo = rig.small();
    for number in 0..50 {
        repo.write(&format!("many/{number}/file"), "x\n");
    }
    repo.commit("many");
    for words in [
        &["update-index", "--split-index"][..],
        &["update-index", "--index-version", "4"],
        &["sparse-checkout", "set", "--cone", "--sparse-index", "src"],
    ] {
        repo.git(words.iter().copied());
        let prepared = rig.prepare_again(&repo).await;
        assert_eq!(prepared.workspace.carried, 0, "{words:?}");
        rig.guest("test -e many/7/file").await;
    }
}

#[tokio::test]
async fn the_ref_to_undo_by_is_taken_out_of_packed_refs_too_and_others_stay() {
    let rig = Rig::with_box().await;
    let repo = rig.small();
    repo.git(["tag", "-a", "-m", "one", "v1"]);
    rig.prepare(&repo).await;
    rig.guest("echo more >>README.md").await;
    apply(&rig).await.unwrap();
    repo.git(["pack-refs", "--all"]);
    let before = repo.git([
        "for-each-ref",
        "--format=%(refname) %(objectname)",
        "refs/heads",
        "refs/tags",
    ]);
    rig.engine.workspace_undo("box", None).await.unwrap();
    let refs = repo.git(["for-each-ref", "--format=%(refname) %(objectname)"]);
    assert_eq!(refs, before);
    repo.git(["fsck", "--strict"]);
}
