//! A hostile repository, a hostile guest and a hostile image, each with everything at once, against the real
//! daemon: it answers all the while, in bounds, runs nothing of theirs and writes nothing elsewhere.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use banger_tests::{Home, alone, eventually, skipped, text};
use serde_json::json;

/// The most that the daemon may hold, in bytes.
const MEMORY: u64 = 200 << 20;

/// The most that may lie in staging: what is carried here is small.
const STAGED: u64 = 512 << 20;

/// What a daemon that stands still would take at least; `ps` itself takes milliseconds, and is printed.
const HANGS: Duration = Duration::from_secs(5);

/// What the daemon took at its worst.
#[derive(Debug, Default)]
struct Worst {
    answer: Duration,
    rounds: u32,
    memory: u64,
    staged: u64,
}

/// Looks until told to stop.
fn watch(home: &Home, daemon: u32, stop: &AtomicBool) -> Worst {
    let mut worst = Worst::default();
    let staging = home.rig.config.state_dir.join("staging");
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let listed = home.rpc("vm.list", json!({}));
        listed.expect("the daemon lives").expect("it lists");
        worst.answer = worst.answer.max(begun.elapsed());
        worst.rounds += 1;
        worst.memory = worst.memory.max(held(daemon));
        worst.staged = worst.staged.max(bytes_below(&staging));
        std::thread::sleep(Duration::from_millis(20));
    }
    worst
}

/// The memory that a process holds, in bytes.
fn held(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

fn bytes_below(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(facts) if facts.is_dir() => bytes_below(&entry.path()),
        Ok(facts) => facts.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

/// The names and contents of all below a folder.
fn all_below(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() && !path.is_symlink() {
            true => found.extend(all_below(&path)),
            false => {
                let held = std::fs::read(&path).unwrap_or_default();
                found.push((path, held));
            }
        }
    }
    found.sort();
    found
}

/// The command lines of all that a process has started, and those have, on whichever of their threads.
fn descendants(pid: u32) -> Vec<String> {
    let mut found = Vec::new();
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    for thread in threads.into_iter().flatten().flatten() {
        let list = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for child in list.split_whitespace().flat_map(str::parse) {
            let line = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            found.push(text(&line).replace('\0', " "));
            found.extend(descendants(child));
        }
    }
    found
}

fn run(command: &mut Command) {
    let path = format!("/usr/sbin:/sbin:{}", std::env::var("PATH").expect("one"));
    let output = command.env("PATH", path).output().expect("it starts");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        text(&output.stderr)
    );
}

fn git(place: &Path, words: &[&str]) {
    run(Command::new("git")
        .args(["-c", "user.name=A", "-c", "user.email=a@example.org"])
        .args(words)
        .current_dir(place)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1"));
}

/// What one of the three tries, and whether `banger` refuses it or carries it.
fn attempt(home: &Home, what: &str, refused: Option<bool>, words: &[&str]) -> Output {
    let begun = Instant::now();
    let output = home.banger(words);
    let told = text(&output.stderr);
    println!(
        "{what}: {:?} in {:.1?}: {}",
        output.status.code(),
        begun.elapsed(),
        told.trim().lines().last().unwrap_or_default()
    );
    if let Some(refused) = refused {
        assert_eq!(!output.status.success(), refused, "{what}: {told}");
    }
    assert!(!told.contains('\x1b'), "{what} speaks to the terminal");
    assert!(!told.contains("panicked"), "{what}: {told}");
    output
}

/// A repository that is sound.
fn repository(folder: &Path, name: &str) -> PathBuf {
    let root = folder.join(name);
    std::fs::create_dir_all(&root).expect("a folder");
    git(&root, &["init", "-q", "-b", "main"]);
    std::fs::write(root.join("README.md"), "read me\n").expect("a file");
    std::fs::write(root.join(".gitattributes"), "* filter=evil diff=evil\n").expect("a file");
    git(&root, &["add", "-A"]);
    git(&root, &["commit", "-q", "-m", "first"]);
    root
}

/// One that names programs wherever git would run one, and can be carried all the same.
fn trapped(folder: &Path, trap: &Path) -> PathBuf {
    let root = repository(folder, "trapped");
    let trap = trap.to_str().expect("plain");
    for key in [
        "core.fsmonitor",
        "core.sshCommand",
        "core.hooksPath",
        "filter.evil.clean",
        "filter.evil.smudge",
        "diff.evil.textconv",
        "diff.external",
        "hook.evil.command",
        "remote.origin.uploadpack",
    ] {
        git(&root, &["config", key, trap]);
    }
    git(
        &root,
        &["config", "hook.evil.event", "reference-transaction"],
    );
    let config = root.join(".git/config");
    let before = std::fs::read_to_string(&config).expect("it is there");
    std::fs::write(
        &config,
        format!("{before}[include]\n\tpath = /dev/zero\n\tpath = ../../a-pipe\n"),
    )
    .expect("a file");
    for hook in [
        "post-checkout",
        "reference-transaction",
        "post-index-change",
    ] {
        std::fs::copy(trap, root.join(".git/hooks").join(hook)).expect("a hook");
    }
    std::fs::write(root.join("README.md"), "changed\n").expect("a file");
    root
}

/// What stands where a file of a repository should be.
fn put_in_the_way(root: &Path, place: &str, odd: &str) {
    let path = root.join(place);
    let _ = std::fs::remove_file(&path);
    std::fs::create_dir_all(path.parent().expect("one")).expect("a folder");
    match odd {
        "pipe" => run(Command::new("mkfifo").arg(&path)),
        link => symlink(link, &path).expect("a link"),
    }
}

/// What the repositories try.
fn repositories(home: &Home, trap: &Path) {
    let folder = home.rig.folder();
    let carried = trapped(folder, trap);
    for round in ["first", "second"] {
        let root = carried.to_str().expect("plain");
        let words = ["vm", "workspace", "prepare", "box", root, "--force"];
        attempt(home, &format!("traps, {round}"), Some(false), &words);
        for (place, odd) in [
            (".git/info/exclude", "pipe"),
            (".git/info/exclude", "/dev/zero"),
            (".git/config", "pipe"),
            (".git/index", "/dev/zero"),
            (".git/packed-refs", "pipe"),
            (".git/sharedindex.0123", "/dev/zero"),
            (".git/objects/info/alternates", "pipe"),
            (".git/HEAD", "/dev/zero"),
        ] {
            let name = format!("odd-{round}-{}-{}", place.replace('/', "-"), odd.len());
            let root = repository(folder, &name);
            put_in_the_way(&root, place, odd);
            let root = root.to_str().expect("plain");
            let words = ["vm", "workspace", "prepare", "box", root, "--force"];
            attempt(home, &format!("{odd} as {place}"), None, &words);
        }
        // A tracked folder that leads out, and a work tree that lies elsewhere.
        let root = repository(folder, &format!("out-{round}"));
        git(&root, &["config", "core.worktree", "../../outside"]);
        let root = root.to_str().expect("plain");
        let words = ["vm", "workspace", "prepare", "box", root, "--force"];
        attempt(home, "a work tree that is another's", Some(true), &words);
    }
}

/// What a guest's root makes of its programs: each answers what no honest one would.
const HOSTILE: &str = r#"
mkdir -p /root/evil/d /root/bomb /root/work
cd /root/evil
echo stolen >d/authorized_keys
tar -P -cf /root/evil.tar --transform 's,^d,../outside,' d/authorized_keys
tar -P -rf /root/evil.tar --transform 's,^d,/tmp/banger-was-here,' d/authorized_keys
ln -s ../outside link && tar -rf /root/evil.tar link
tar -rf /root/evil.tar --transform 's,^d,link,' d/authorized_keys
mknod /root/null c 1 3; tar -C /root -rf /root/evil.tar null
printf '#!/bin/sh\ncase "$*" in *-c*) exec cat /root/evil.tar;; *) exec /bin/tar "$@";; esac\n' >/usr/local/bin/tar
chmod +x /usr/local/bin/tar
"#;

const LYING_GIT: &str = r#"
printf '#!/bin/sh\nhead -c 2000000 /dev/urandom\n' >/usr/local/bin/git; chmod +x /usr/local/bin/git
"#;

/// What the guest tries.
fn guest(home: &Home) {
    let folder = home.rig.folder();
    let within = |script: &str| ["vm", "exec", "loud", "--", "sh", "-c", script].map(str::to_owned);
    let exec = |what: &str, script: &str| {
        let words = within(script);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        // Its own words are passed on as they are.
        println!("{what}: {:?}", home.banger(&words).status.code());
    };
    let honest = repository(folder, "honest");
    let root = honest.to_str().expect("plain");
    let words = ["vm", "workspace", "prepare", "loud", root];
    attempt(home, "an honest repository", Some(false), &words);
    exec("hostile programs", HOSTILE);
    attempt(
        home,
        "cp of an archive that leads out",
        None,
        &["vm", "cp", "loud:/root/evil", "taken"],
    );
    attempt(
        home,
        "cp of it once more",
        None,
        &["vm", "cp", "loud:/root/evil", "taken"],
    );
    // A patch that unpacks to gigabytes.
    exec(
        "a bomb in the workspace",
        "cd /root/repo && truncate -s 300M bomb && git add -A; echo $?",
    );
    attempt(
        home,
        "a change that is too large",
        None,
        &["vm", "workspace", "apply", "loud"],
    );
    exec(
        "the bomb goes",
        "cd /root/repo && rm -f bomb && git reset -q",
    );
    exec(
        "words that speak to a terminal",
        "printf '\\033]0;owned\\007' >&2; printf '\\033[2J'; exit 3",
    );
    exec(
        "its console is flooded",
        "for n in $(seq 40); do head -c 20000 /dev/zero | tr '\\0' x >/dev/console; done",
    );
    exec("a git that lies", LYING_GIT);
    for verb in ["export", "apply"] {
        attempt(
            home,
            &format!("{verb} of a git that lies"),
            Some(true),
            &["vm", "workspace", verb, "loud"],
        );
    }
}

/// What the images try.
fn images(home: &Home) {
    let folder = home.rig.folder();
    let tree = folder.join("tree");
    let shared = home.rig.config.state_dir.join("images/debian-12");
    let manifest = std::fs::read(shared.join("manifest.json")).expect("the image has one");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
    let release = manifest["kernel"]["release"].as_str().expect("a release");
    for name in [
        "sbin",
        "usr/sbin",
        "etc",
        "proc",
        "sys",
        "dev",
        &format!("lib/modules/{release}"),
    ] {
        std::fs::create_dir_all(tree.join(name)).expect("a folder");
    }
    for name in [
        "sbin/init",
        "usr/sbin/sshd",
        &format!("lib/modules/{release}/modules.dep"),
    ] {
        std::fs::write(tree.join(name), "x").expect("a file");
    }
    let image = |name: &str| {
        let path = folder.join(name);
        let file = std::fs::File::create(&path).expect("a file");
        file.set_len(8 << 20).expect("a hole");
        let made = ["-q", "-F", "-t", "ext4", "-d"];
        run(Command::new("mke2fs").args(made).arg(&tree).arg(&path));
        path
    };
    let endless = image("endless.ext4");
    let grow = format!("set_inode_field /lib/modules/{release}/modules.dep size 1099511627776");
    run(Command::new("debugfs")
        .args(["-w", "-R", &grow])
        .arg(&endless));
    let torn = image("torn.ext4");
    let mut bytes = std::fs::read(&torn).expect("it is there");
    for at in (4096..bytes.len().min(400_000)).step_by(7) {
        bytes[at] ^= 0x5a;
    }
    std::fs::write(&torn, bytes).expect("a file");
    let pipe = folder.join("a-pipe.ext4");
    run(Command::new("mkfifo").arg(&pipe));
    let kernel = std::fs::canonicalize(shared.join("vmlinux")).expect("the image has one");
    let vmlinux = kernel.to_str().expect("plain");
    for round in 0..3 {
        for (what, rootfs) in [
            ("a list of a terabyte", &endless),
            ("a torn file system", &torn),
            ("a pipe", &pipe),
            ("what never ends", &PathBuf::from("/dev/zero")),
        ] {
            let rootfs = rootfs.to_str().expect("plain");
            for kernel in [vmlinux, "/dev/zero", rootfs] {
                let name = format!("theirs-{round}");
                let words = ["image", "register", &name, "--rootfs", rootfs];
                let words = [&words[..], &["--kernel", kernel, "--no-check"]].concat();
                attempt(home, &format!("image: {what}"), Some(true), &words);
            }
        }
    }
}

#[test]
fn all_that_is_hostile_at_once_is_refused_in_bounds_while_the_daemon_answers() {
    if skipped() {
        return;
    }
    let _turn = alone();
    let home = Home::with_images_of_its_own();
    let folder = home.rig.folder();
    let outside = folder.join("outside");
    std::fs::create_dir(&outside).expect("a folder");
    std::fs::write(outside.join("id_rsa"), "secret\n").expect("a file");
    let (trap, mark) = (folder.join("trap"), folder.join("sprung"));
    let script = format!("#!/bin/sh\necho \"$0 $*\" >>'{}'\ncat\n", mark.display());
    std::fs::write(&trap, script).expect("a file");
    std::fs::set_permissions(&trap, PermissionsExt::from_mode(0o755)).expect("a mode");
    for name in ["box", "loud"] {
        let words = [
            "vm",
            "run",
            "--name",
            name,
            "--memory",
            "192M",
            "--disk-size",
            "1500M",
        ];
        home.ok(&[&words[..], &["--vcpu", "1", "--", "true"]].concat());
    }
    let daemon = home.daemon();
    let before = (all_below(&outside), held(daemon));

    let stop = AtomicBool::new(false);
    let worst = std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch(&home, daemon, &stop));
        let busy = [
            scope.spawn(|| repositories(&home, &trap)),
            scope.spawn(|| guest(&home)),
            scope.spawn(|| images(&home)),
        ];
        let ended: Vec<_> = busy.into_iter().map(|busy| busy.join()).collect();
        stop.store(true, Ordering::Relaxed);
        let worst = watching.join().expect("it was watched");
        for ended in ended {
            ended.expect("each was refused or carried as it should be");
        }
        worst
    });
    println!("at its worst: {worst:?}; its memory before: {}", before.1);
    assert!(worst.answer < HANGS, "{worst:?}");
    assert!(worst.memory < MEMORY, "{worst:?}");
    assert!(worst.staged < STAGED, "{worst:?}");
    assert_eq!(home.daemon(), daemon, "it is the same daemon");
    assert_eq!(text(&std::fs::read(&mark).unwrap_or_default()), "", "run");
    assert_eq!(all_below(&outside), before.0, "nothing was written outside");
    assert!(!Path::new("/tmp/banger-was-here").exists());
    eventually("nothing is staged", || {
        bytes_below(&home.rig.config.state_dir.join("staging")) == 0
    });
    eventually("no program outlives its purpose", || {
        let odd = [
            "git", "debugfs", "e2fsck", "tar", "gzip", "xz", "zstd", "ssh ",
        ];
        let started = descendants(daemon);
        println!("{started:#?}");
        let named = |line: &String| odd.iter().any(|name| line.contains(name));
        !started.iter().any(named)
    });
    for name in ["box", "loud"] {
        home.ok(&["vm", "delete", name]);
    }
    home.assert_proven("at the end");
}
