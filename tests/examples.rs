//! Every example runs on the simulator, and says what its page promises.

use std::path::Path;
use std::process::Command;

use banger_tests::binary;

fn run(example: &str) -> String {
    let mut command = Command::new(binary(example));
    // Thousands of commits wait for a disk that nothing here is about.
    if Path::new("/dev/shm").is_dir() {
        command.env("TMPDIR", "/dev/shm");
    }
    let output = command.output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

#[test]
fn one_vm_runs_a_command_and_shows_its_status() {
    let text = run("one_vm");
    assert!(text.contains("\nhello from "), "{text}");
    assert!(text.contains("Exited(7)"), "{text}");
    assert!(text.contains("the guest powered off"), "{text}");
}

#[test]
fn many_vms_run_side_by_side_and_nothing_is_left() {
    let text = run("many_vms");
    for number in 1..=3 {
        assert!(text.contains(&format!("many-{number} has ")), "{text}");
    }
    assert!(text.ends_with("left: 0 VMs\n"), "{text}");
}

#[test]
fn crash_and_reopen_finds_the_vm_alive() {
    let text = run("crash_and_reopen");
    assert!(text.contains("kept (it runs)"), "{text}");
    assert!(text.contains("still here, on "), "{text}");
}

#[test]
fn reconcile_many_takes_up_every_vm_and_then_has_nothing_to_do() {
    let text = run("reconcile_many");
    assert!(
        text.contains("taken up: 1000 of 1000 running VMs"),
        "{text}"
    );
    assert!(text.contains("it changed: nothing"), "{text}");
    assert!(text.ends_with("strays: 0\n"), "{text}");
}

#[test]
fn guest_session_is_waited_for_talked_to_and_stopped() {
    let text = run("guest_session");
    assert!(text.contains("\nserver is running\n"), "{text}");
    assert!(text.contains("\nit says: ready\n"), "{text}");
    assert!(text.contains("\nit says: served a page to me\n"), "{text}");
    assert!(text.contains("\nit ended with Some(143)\n"), "{text}");
    assert!(text.ends_with("left: 0 VMs\n"), "{text}");
}

#[test]
fn agent_rpc_is_answered_across_two_attaches_and_ends_with_the_agent_s_status() {
    let text = run("agent_rpc");
    for id in 1..=3 {
        let answer = format!("<- {{\"id\":{id},\"result\":\"done on ");
        assert_eq!(text.matches(&answer).count(), 1, "{text}");
    }
    assert!(text.ends_with("the agent ended: Exited(0)\n"), "{text}");
}

#[test]
fn workspace_roundtrip_brings_home_what_changed_in_the_guest() {
    let text = run("workspace_roundtrip");
    assert!(
        text.contains("\nmodified: greeting\nadded: stamp\n"),
        "{text}"
    );
    assert!(text.contains("\nhome: hello\nguest\n"), "{text}");
    assert!(text.contains("from-the-guest: by the guest\n"), "{text}");
    assert!(text.ends_with("left: 0 VMs\n"), "{text}");
}

#[test]
fn every_example_is_tested_here() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let here = include_str!("examples.rs");
    for entry in std::fs::read_dir(folder).expect("the examples are there") {
        let path = entry.expect("it can be listed").path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path
                .file_stem()
                .expect("it has a name")
                .to_string_lossy()
                .into_owned();
            assert!(here.contains(&format!("run(\"{name}\")")), "{name} is not");
        }
    }
}
