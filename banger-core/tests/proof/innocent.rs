//! A handles file may say anything: a process that is not ours is never harmed, and never taken for ours.

use std::fs;
use std::path::Path;
use std::time::Duration;

use banger_core::{Condition, Engine, ProcessEnd, ProcessIdentity, Progress, VMRecord};

use crate::rig::{Rig, condition, running, start};

/// Lets a handles file name another process, number and start time exactly.
fn point_at(file: &Path, process: &ProcessIdentity) {
    let text = fs::read(file).unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    json["pid"] = process.pid.into();
    json["pid_start_time"] = process.start_time.into();
    fs::write(file, serde_json::to_vec(&json).unwrap()).unwrap();
}

/// A VM whose monitor has ended unseen, with a handles file that names a process of this command line.
async fn misled(rig: &Rig, line: impl FnOnce(&Engine, &VMRecord) -> String) -> (Engine, u32) {
    let engine = rig.open().await;
    let vm = running(&engine, "box").await;
    let line = line(&engine, &vm);
    drop(engine);
    rig.host.end(rig.pid_of(&vm), ProcessEnd::Exited(0));
    let innocent = rig.host.add_stranger(4242, &line);
    point_at(&vm.runtime.vm_dir.join("handles.json"), &innocent);
    (rig.open().await, innocent.pid)
}

fn lives(rig: &Rig, pid: u32) -> bool {
    rig.host.living().iter().any(|p| p.identity.pid == pid)
}

#[tokio::test]
async fn a_process_with_the_very_number_and_start_time_of_the_file_is_not_ours_without_our_token() {
    let rig = Rig::new();
    let (engine, innocent) = misled(&rig, |_, _| "/usr/bin/somebody-else".to_owned()).await;
    assert_eq!(condition(&engine, "box").await, Condition::Stopped);
    assert!(lives(&rig, innocent), "reconcile");
    start(&engine, "box").await;
    engine.stop("box").await.unwrap();
    engine.restart("box", &Progress::silent()).await.unwrap();
    engine.delete("box").await.unwrap();
    assert!(lives(&rig, innocent), "verbs");
    assert_eq!(rig.host.living().len(), 1);
    assert!(engine.prove().await.unwrap().is_clean());
}

#[tokio::test]
async fn a_process_that_is_ending_is_waited_for_before_its_vm_is_torn_down() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let vm = running(&engine, "box").await;
    drop(engine);
    rig.host.end(rig.pid_of(&vm), ProcessEnd::Exited(0));
    // What a killed process shows while its memory is given back: its number, and no command line.
    let ending = rig.host.add_stranger(4242, "");
    point_at(&vm.runtime.vm_dir.join("handles.json"), &ending);
    let host = rig.host.clone();
    let end = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        host.end(4242, ProcessEnd::Signaled(9));
    });
    let engine = rig.open().await;
    assert!(end.is_finished(), "its handles were torn down before");
    assert_eq!(condition(&engine, "box").await, Condition::Stopped);
}

#[tokio::test]
async fn a_process_without_a_command_line_that_stays_is_not_touched() {
    let rig = Rig::new();
    let (engine, innocent) = misled(&rig, |_, _| String::new()).await;
    assert_eq!(condition(&engine, "box").await, Condition::Unresponsive);
    let refused = engine.delete("box").await.unwrap_err();
    let text = refused.to_string();
    assert!(lives(&rig, innocent), "{text}");
    rig.host.end(innocent, ProcessEnd::Exited(0));
    engine.delete("box").await.unwrap();
}

#[tokio::test]
async fn a_monitor_of_another_vm_of_ours_is_not_this_ones() {
    let rig = Rig::new();
    let other = |engine: &Engine, vm: &VMRecord| {
        let last = if vm.id.as_str().ends_with('0') {
            '1'
        } else {
            '0'
        };
        let id = format!("{}{last}", &vm.id.as_str()[..31]);
        format!(
            "qemu-system-x86_64 banger:{}:{id}:0123456789abcdef",
            engine.id()
        )
    };
    let (engine, stray) = misled(&rig, other).await;
    assert_eq!(condition(&engine, "box").await, Condition::Stopped);
    // It bears our id and belongs to nobody: reconcile has ended it, as a stray, not as this VM.
    assert!(!lives(&rig, stray));
}

#[tokio::test]
async fn a_monitor_of_the_same_vm_under_another_engine_is_not_ours() {
    // As after a state folder was copied: the same VM ids, another engine id.
    let rig = Rig::new();
    let copied = |_: &Engine, vm: &VMRecord| {
        format!(
            "qemu-system-x86_64 banger:0a0a0a0a:{}:0123456789abcdef",
            vm.id
        )
    };
    let (engine, theirs) = misled(&rig, copied).await;
    assert_eq!(condition(&engine, "box").await, Condition::Stopped);
    engine.delete("box").await.unwrap();
    assert!(lives(&rig, theirs));
}

#[tokio::test]
async fn a_process_of_an_earlier_boot_is_gone_even_if_its_number_is_in_use_again() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let vm = running(&engine, "box").await;
    let token = rig.host.living()[0].command_line.clone();
    drop(engine);
    rig.host.reboot();
    // The same number, start time and command line: a user's own script that starts what it saw in ps.
    let again = rig.host.add_stranger(1001, &token);
    point_at(&vm.runtime.vm_dir.join("handles.json"), &again);
    let engine = rig.open().await;
    let view = engine.show("box").await.unwrap();
    assert_eq!(view.condition, Condition::Stopped);
    let reason = view.vm.runtime.stop_reason;
    assert_eq!(reason.as_deref(), Some("the host was restarted"));
}

#[tokio::test]
async fn a_live_process_with_our_token_beats_what_the_file_says_of_it() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let vm = running(&engine, "box").await;
    let line = rig.host.living()[0].command_line.clone();
    let pid = rig.pid_of(&vm);
    drop(engine);
    rig.host.end(pid, ProcessEnd::Exited(0));
    // Another start time. It is found all the same, by its token: what bears it is ours.
    rig.host.add_stranger(pid, &line);
    let engine = rig.open().await;
    assert_eq!(condition(&engine, "box").await, Condition::Running);
    let text = fs::read_to_string(vm.runtime.vm_dir.join("handles.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let now = rig.host.living()[0].identity.start_time;
    assert_eq!(json["pid_start_time"].as_u64(), Some(now), "corrected");
}

#[tokio::test]
async fn handles_that_could_not_be_written_are_not_remembered_either() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let vm = crate::rig::create(&engine, "box").await;
    // The second call of a start is the first write of its handles; nothing can be written after it.
    let full = banger_core::Fault::Lasting(2, std::io::ErrorKind::StorageFull);
    rig.host.fail(full);
    engine.start("box", &Progress::silent()).await.unwrap_err();
    assert!(!vm.runtime.vm_dir.join("handles.json").exists());
    assert_eq!(engine.show("box").await.unwrap().handles, None);
}

#[tokio::test]
async fn a_program_that_only_speaks_of_a_monitor_is_not_one_and_is_in_nobody_s_way() {
    let rig = Rig::new();
    let speaks = |engine: &Engine, vm: &VMRecord| {
        let run = "0123456789abcdef";
        format!(
            "/usr/bin/tail -f guest=banger:{}:{}:{run}",
            engine.id(),
            vm.id
        )
    };
    let (engine, innocent) = misled(&rig, speaks).await;
    assert_eq!(condition(&engine, "box").await, Condition::Stopped);
    start(&engine, "box").await;
    assert!(engine.prove().await.unwrap().is_clean());
    engine.delete("box").await.unwrap();
    assert!(lives(&rig, innocent));
    assert_eq!(rig.host.living().len(), 1);
}
