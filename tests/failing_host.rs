//! A process that is told to die at a call does, and nothing of it runs on.

#![allow(missing_docs, clippy::unwrap_used)]

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::Arc;

use banger_core::{Host, LinuxHost, LinuxHostConfig, Moment};
use banger_tests::FailingHost;

const FAILPOINT: &str = "BANGER_TEST_FAILPOINT";
const FOLDER: &str = "BANGER_TEST_FOLDER";

/// Runs [`stand_in`] in a process of its own, which is to die.
fn die(folder: &Path, failpoint: &str) -> ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "stand_in"])
        .env(FAILPOINT, failpoint)
        .env(FOLDER, folder)
        .output()
        .unwrap()
        .status
}

#[tokio::test]
#[ignore = "what the other tests let die"]
async fn stand_in() {
    let folder = std::path::PathBuf::from(std::env::var_os(FOLDER).unwrap());
    let linux = Arc::new(LinuxHost::new(LinuxHostConfig::default()));
    let point = std::env::var(FAILPOINT).unwrap().parse().unwrap();
    let host = FailingHost::over(linux, point);
    host.create_dir(&folder.join("made")).await.unwrap();
    host.write_file(&folder.join("one"), b"1", 0o600)
        .await
        .unwrap();
    host.witness("insert the VM", Moment::Before).unwrap();
    std::fs::write(folder.join("row"), "").unwrap();
    host.witness("insert the VM", Moment::After).unwrap();
    host.write_file(&folder.join("armed"), b"", 0o600)
        .await
        .unwrap();
    host.write_file(&folder.join("two"), b"2", 0o600)
        .await
        .unwrap();
    host.remove_tree(&folder.join("made")).await.unwrap();
}

fn left(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_process_dies_before_or_after_the_call_that_is_named_or_numbered() {
    let cases: [(&str, &[&str]); 7] = [
        ("before:1", &[]),
        ("after:1", &["made"]),
        ("before:database", &["made", "one"]),
        ("after:database", &["made", "one", "row"]),
        ("after:write#2", &["armed", "made", "one", "row"]),
        (
            "before:remove folder made",
            &["armed", "made", "one", "row", "two"],
        ),
        ("after:remove folder", &["armed", "one", "row", "two"]),
    ];
    for (failpoint, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        let status = die(folder.path(), failpoint);
        assert_eq!(status.signal(), Some(6), "{failpoint}: aborted");
        assert_eq!(left(folder.path()), expected, "{failpoint}");
    }
}

#[test]
fn calls_count_only_once_it_is_armed_and_a_log_names_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    let armed = format!("before:2,armed-by={path}/armed,log={path}/log");
    assert_eq!(die(folder.path(), &armed).signal(), Some(6));
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert_eq!(log, "write two\nremove folder made\n");
    assert!(folder.path().join("made").exists());
}

#[test]
fn without_a_point_nothing_dies() {
    let folder = tempfile::tempdir().unwrap();
    let log = format!("log={}/log", folder.path().display());
    assert!(die(folder.path(), &log).success());
    let text = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert_eq!(text.lines().count(), 6, "{text}");
}
