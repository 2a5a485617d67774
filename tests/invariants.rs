//! The rules of `ARCHITECTURE.md`, as tests. Each names its number.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The crates that a package is built with, as cargo sees them for that package alone: the tree of the
/// whole workspace unifies features and hides the mistake.
fn tree(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "-p",
            package,
            "-e",
            "normal",
            "--prefix",
            "none",
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let text = String::from_utf8(output.stdout).expect("cargo speaks UTF-8");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let names = text.lines().filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
}

/// The Rust files below a folder, with their text.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("the folder is there") {
            let path = entry.expect("it can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("it is text");
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} holds no Rust file");
    found
}

/// The part of a file that is built into the library: without its tests and its comments.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

fn refuse(folder: &str, except: &dyn Fn(&Path) -> bool, forbidden: &[&str]) {
    let mut broken = Vec::new();
    for (path, text) in sources(folder) {
        if except(&path) || path.ends_with("tests.rs") {
            continue;
        }
        let code = code(&text);
        for word in forbidden {
            if code.contains(word) {
                broken.push(format!("{}: {word}", path.display()));
            }
        }
    }
    assert_eq!(broken, Vec::<String>::new(), "forbidden in {folder}");
}

#[test]
fn invariant_1_dependencies_run_downward_only() {
    let session = tree("banger-session");
    assert!(
        !session
            .iter()
            .any(|name| name.starts_with("banger-") && name != "banger-session")
    );
    let core = tree("banger-core");
    assert!(core.contains("banger-session"));
    assert!(!core.contains("banger-daemon") && !core.contains("banger-cli"));
    let cli = tree("banger-cli");
    assert!(
        cli.contains("banger-daemon"),
        "the command talks through the daemon's client"
    );
    assert!(
        !cli.contains("banger-core"),
        "the command never links the engine"
    );
    assert!(!cli.contains("sqlx"), "nor anything that comes with it");
}

#[test]
fn device_mapper_is_built_into_the_daemon_and_not_into_a_program_that_embeds_the_engine() {
    for (package, built_in) in [("banger-core", false), ("banger-daemon", true)] {
        let tree = tree(package);
        for needed in ["devicemapper", "devicemapper-sys", "loopdev-3"] {
            assert_eq!(tree.contains(needed), built_in, "{package}: {needed}");
        }
    }
}

#[test]
fn invariant_2_banger_session_is_pure() {
    let allowed = [
        "banger-session",
        "itoa",
        "memchr",
        "proc-macro2",
        "quote",
        "serde",
        "serde_core",
        "serde_derive",
        "serde_json",
        "syn",
        "thiserror",
        "thiserror-impl",
        "unicode-ident",
        "zmij",
    ];
    for name in tree("banger-session") {
        assert!(allowed.contains(&name.as_str()), "{name} came in");
    }
    refuse(
        "banger-session/src",
        &|_| false,
        &[
            "std::fs",
            "std::io",
            "std::net",
            "std::process",
            "std::time::Instant",
            "Instant::now",
            "SystemTime",
            "std::env",
            "std::thread",
            "async ",
            "println!",
        ],
    );
}

#[test]
fn invariant_3_the_library_is_a_guest_it_prints_nothing_reads_no_environment_and_never_exits() {
    refuse(
        "banger-core/src",
        &|_| false,
        &[
            "println!",
            "print!(",
            "eprint",
            "dbg!",
            "process::exit",
            "env::var",
            "env::args",
            "home_dir",
            "set_hook",
            "signal::unix",
            "signal::ctrl_c",
            "set_global_default",
            "static mut",
        ],
    );
}

#[test]
fn invariant_4_only_the_host_room_touches_the_operating_system() {
    let in_host = |path: &Path| {
        let text = path.to_string_lossy();
        text.contains("/src/host/") || text.ends_with("/src/host.rs")
    };
    refuse(
        "banger-core/src",
        &in_host,
        &[
            "std::fs",
            "tokio::fs",
            "tokio::process",
            "std::process::Command",
            "rustix::process",
            "rustix::fs",
            "/proc/",
        ],
    );
    // Descriptors are passed where they are needed: the one exception, by name.
    let passes_sockets = |path: &Path| in_host(path) || path.ends_with("transport/ssh/handover.rs");
    refuse("banger-core/src", &passes_sockets, &["rustix::", "unsafe "]);
    refuse("banger-session/src", &|_| false, &["unsafe "]);
    refuse("banger-cli/src", &|_| false, &["unsafe "]);
}

#[test]
fn what_touches_foreign_files_starts_no_program_and_reads_no_environment() {
    refuse(
        "banger-core/foreign/src",
        &|_| false,
        &[
            "unsafe ",
            "std::process",
            "std::env",
            "std::net",
            "println!",
        ],
    );
    let tree = tree("banger-foreign");
    assert!(
        !tree.contains("tokio") && !tree.contains("banger-core"),
        "{tree:?}"
    );
}

#[test]
fn invariant_5_the_state_and_the_pid_are_sealed_in_the_liveness_room() {
    let (_, text) = sources("banger-core/src")
        .into_iter()
        .find(|(path, _)| path.ends_with("liveness.rs"))
        .expect("the room is there");
    assert!(
        text.contains("pub struct Promise(VMState);"),
        "the state has no public field"
    );
    let handle = text
        .split("pub struct ProcessHandle {")
        .nth(1)
        .expect("the handle is there");
    let fields = handle.split('}').next().unwrap_or_default();
    assert!(
        !fields.contains("pub "),
        "the pid has no public field: {fields}"
    );
    // Nobody else builds a verdict by hand either.
    let outside =
        |path: &Path| path.ends_with("liveness.rs") || path.to_string_lossy().contains("/src/host");
    refuse(
        "banger-core/src",
        &outside,
        &["VMState::Running =>", "== VMState", "!= VMState"],
    );
}

#[test]
fn files_keep_a_size_that_can_be_read() {
    let mut too_long = Vec::new();
    for folder in [
        "banger-core",
        "banger-session",
        "banger-daemon",
        "banger-cli",
        "examples",
        "tests",
    ] {
        for (path, text) in sources(folder) {
            if text.lines().count() > 800 {
                too_long.push(path);
            }
        }
    }
    assert_eq!(
        too_long,
        Vec::<PathBuf>::new(),
        "what is the second subject in them?"
    );
}

#[test]
fn shell_scripts_of_the_repository_pass_shellcheck() {
    let root = root();
    let Ok(found) = Command::new("shellcheck").arg("--version").output() else {
        println!("SKIP: shellcheck is not installed");
        return;
    };
    assert!(found.status.success());
    let mut scripts = vec![root.join(".ci/run")];
    for entry in std::fs::read_dir(root.join("scripts")).expect("scripts are there") {
        scripts.push(entry.expect("it can be listed").path());
    }
    let checked = Command::new("shellcheck")
        .args(&scripts)
        .output()
        .expect("it runs");
    assert!(
        checked.status.success(),
        "{}",
        String::from_utf8_lossy(&checked.stdout)
    );
}
