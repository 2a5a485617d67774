//! Answers and errors of the daemon's as they are shown.

use banger_daemon::protocol::{
    DaemonReconcile, DaemonStatus, DaemonStop, Doctor, DoctorAnswer, DoctorFix, DoctorLine,
    DoctorProve, FixAnswer, FixLine, ForeignEngine, LogsAnswer, ProveAnswer, ProvenObject,
    ReconcileAnswer, ReconcileLine, Status, VmCreate, VmDelete, VmInfo, VmKill, VmList,
    VmListAnswer, VmLogs, VmRestart, VmShow, VmStart, VmStop,
};
use insta::assert_snapshot;
use serde_json::json;

use crate::answers::{changed, status, stopped, vm};
use crate::banger::World;
use crate::fake::{FakeDaemon, Reply, error};

fn world() -> (World, FakeDaemon) {
    let world = World::new();
    let daemon = FakeDaemon::start(&world);
    (world, daemon)
}

fn three_vms() -> (World, FakeDaemon) {
    let (world, daemon) = world();
    let broken = VmInfo {
        state: "error".to_owned(),
        last_error: Some("its files are gone".to_owned()),
        ..stopped("broken")
    };
    let vms = vec![vm("box"), broken, stopped("other-one")];
    daemon.on::<VmList>([Reply::Answer(json!(VmListAnswer { vms }))]);
    (world, daemon)
}

#[test]
fn list_shows_all_vms() {
    let (world, _daemon) = three_vms();
    assert_snapshot!(world.banger(&["vm", "list"]), @"
    status: 0
    ----- stdout -----
    NAME       STATE    IMAGE   CPUS  MEMORY  SSH              AGE
    box        running  debian  2     1G      127.0.0.1:46519  0s
    broken     error    debian  2     1G      -                0s
    other-one  stopped  debian  2     1G      -                0s
    ----- stderr -----
    ");
}

#[test]
fn ps_shows_those_that_run() {
    let (world, _daemon) = three_vms();
    assert_snapshot!(world.banger(&["ps"]), @"
    status: 0
    ----- stdout -----
    NAME  STATE    IMAGE   CPUS  MEMORY  SSH              AGE
    box   running  debian  2     1G      127.0.0.1:46519  0s
    ----- stderr -----
    ");
    let all = world.banger(&["ps", "-a"]);
    assert_eq!(all.stdout, world.banger(&["vm", "ls"]).stdout);
}

#[test]
fn ps_says_why_a_vm_does_not_just_run() {
    let (world, daemon) = world();
    let full = VmInfo {
        state: "paused".to_owned(),
        paused: Some("the host's disk is full".to_owned()),
        ..vm("full")
    };
    let again = VmInfo {
        state: "restarting".to_owned(),
        restarts: 4,
        restart_at: Some("2130-01-31T12:00:09Z".to_owned()),
        ..stopped("again")
    };
    let once = VmInfo {
        restarts: 1,
        ..vm("once")
    };
    let vms = vec![again, full, once];
    daemon.on::<VmList>([Reply::Answer(json!(VmListAnswer { vms }))]);
    assert_snapshot!(world.banger(&["ps"]), @"
    status: 0
    ----- stdout -----
    NAME   STATE                                     IMAGE   CPUS  MEMORY  SSH              AGE
    again  restarting: it rebooted 4 times in a row  debian  2     1G      -                0s
    full   paused: the host's disk is full           debian  2     1G      127.0.0.1:46519  0s
    once   running: it rebooted once                 debian  2     1G      127.0.0.1:46519  0s
    ----- stderr -----
    ");
}

#[test]
fn a_list_of_none_has_its_headings() {
    let (world, daemon) = world();
    let vms = Vec::new();
    daemon.on::<VmList>([Reply::Answer(json!(VmListAnswer { vms }))]);
    assert_snapshot!(world.banger(&["vm", "list"]), @"
    status: 0
    ----- stdout -----
    NAME  STATE  IMAGE  CPUS  MEMORY  SSH  AGE
    ----- stderr -----
    ");
    assert_eq!(world.banger(&["ps", "--json"]).stdout, b"[]\n");
}

#[test]
fn a_list_as_json_is_an_array_of_vms() {
    let (world, _daemon) = three_vms();
    let run = world.banger(&["vm", "list", "--json"]);
    let vms: Vec<VmInfo> = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(vms.len(), 3);
    assert_snapshot!(world.banger(&["ps", "--json"]), @r#"
    status: 0
    ----- stdout -----
    [
      {
        "id": "0123456789abcdef0123456789abcdef",
        "name": "box",
        "state": "running",
        "image": "debian",
        "vcpus": 2,
        "memory_mib": 1024,
        "work_disk_mib": 1536,
        "vmm": "qemu",
        "disk": "overlay",
        "network": "user",
        "nat": false,
        "ephemeral": false,
        "labels": {
          "team": "blue"
        },
        "dns_name": "box.vm",
        "guest_ip": "10.0.2.15",
        "vm_dir": "/var/lib/banger/vms/0123",
        "console_log": "/var/lib/banger/vms/0123/console.log",
        "api_socket": "/run/banger/0123/qmp.sock",
        "pid": 815,
        "ssh_port": 46519,
        "last_error": null,
        "stop_reason": null,
        "restarts": 0,
        "workspace": null,
        "created_at": "2130-01-31T12:00:00Z",
        "updated_at": "2130-01-31T12:00:01Z"
      }
    ]
    ----- stderr -----
    "#);
}

#[test]
fn show_describes_each_and_tells_of_those_that_are_not_there() {
    let (world, daemon) = world();
    daemon.on::<VmShow>([
        Reply::Answer(json!(vm("box"))),
        error("there is no VM \"nobody\"", &[], Some("banger vm list")),
        Reply::Answer(json!(stopped("other"))),
    ]);
    assert_snapshot!(world.banger(&["vm", "show", "box", "nobody", "other"]), @r#"
    status: 1
    ----- stdout -----
    name:           box
    id:             0123456789abcdef0123456789abcdef
    state:          running
    image:          debian
    cpus:           2
    memory:         1G
    disk size:      1536M
    monitor:        qemu
    root disk:      overlay
    network:        user, does not reach the internet
    label:          team=blue
    host name:      box.vm
    address inside: 10.0.2.15
    ssh:            127.0.0.1:46519
    process:        815
    folder:         /var/lib/banger/vms/0123
    console:        /var/lib/banger/vms/0123/console.log
    control socket: /run/banger/0123/qmp.sock
    created:        2130-01-31T12:00:00Z
    changed:        2130-01-31T12:00:01Z

    name:           other
    id:             0123456789abcdef0123456789abcdef
    state:          stopped
    ended:          the guest powered off
    image:          debian
    cpus:           2
    memory:         1G
    disk size:      1536M
    monitor:        qemu
    root disk:      overlay
    network:        user, does not reach the internet
    label:          team=blue
    host name:      other.vm
    folder:         /var/lib/banger/vms/0123
    console:        /var/lib/banger/vms/0123/console.log
    control socket: /run/banger/0123/qmp.sock
    created:        2130-01-31T12:00:00Z
    changed:        2130-01-31T12:00:01Z
    ----- stderr -----
    error: there is no VM "nobody"
    hint: banger vm list
    "#);
}

#[test]
fn show_as_json_is_an_array_also_for_one() {
    let (world, daemon) = world();
    daemon.on::<VmShow>([Reply::Answer(json!(vm("box")))]);
    let run = world.banger(&["vm", "show", "--json", "box"]);
    let vms: Vec<VmInfo> = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(vms, [vm("box")]);
}

#[test]
fn create_prints_the_name_on_stdout_and_its_stages_on_stderr() {
    let (world, daemon) = world();
    let stages = vec![("image", "making the image"), ("disk", "making the disk")];
    let created = Reply::Answer(json!(stopped("eager-otter")));
    daemon.on::<VmCreate>([Reply::After(stages, Box::new(created))]);
    assert_snapshot!(world.banger(&["vm", "create"]), @"
    status: 0
    ----- stdout -----
    eager-otter
    ----- stderr -----
    banger: making the image…
    banger: making the disk…
    ");
    let quiet = world.banger(&["vm", "create", "-q"]);
    assert_eq!(quiet.stderr, "");
    assert_eq!(quiet.stdout, b"eager-otter\n");
}

#[test]
fn create_asks_for_what_was_typed() {
    let (world, daemon) = world();
    daemon.on::<VmCreate>([Reply::Answer(json!(stopped("box")))]);
    let typed = "vm create box --image i --vcpu 3 --memory 2g --disk-size 700M --network none \
                 --vmm qemu --disk file --nat --label a=b --label c";
    let typed: Vec<_> = typed.split_whitespace().collect();
    let run = world.banger(&typed);
    assert_eq!(run.status, Some(0), "{run}");
    let asked = serde_json::to_string(&daemon.asked::<VmCreate>()).unwrap();
    assert_snapshot!(asked, @r#"[{"name":"box","image":"i","vcpus":3,"memory_mib":2048,"work_disk_mib":700,"vmm":"qemu","disk":"file","network":"none","nat":true,"ephemeral":false,"labels":{"a":"b","c":""}}]"#);
}

#[test]
fn one_of_several_that_fails_does_not_keep_the_others_from_it() {
    let (world, daemon) = world();
    daemon.on::<VmStop>([
        Reply::Answer(json!(changed(
            "a",
            "stopped",
            Some("the guest powered off")
        ))),
        error("there is no VM \"b\"", &[], None),
        Reply::Answer(json!(changed("c", "already_stopped", None))),
    ]);
    assert_snapshot!(world.banger(&["vm", "stop", "a", "b", "c"]), @r#"
    status: 1
    ----- stdout -----
    ----- stderr -----
    a: stopped (the guest powered off)
    error: there is no VM "b"
    c: already stopped
    "#);
}

#[test]
fn each_change_says_what_it_changed() {
    let (world, daemon) = world();
    daemon.on::<VmStart>([Reply::Answer(json!(changed(
        "box",
        "already_running",
        None
    )))]);
    daemon.on::<VmKill>([Reply::Answer(json!(changed(
        "box",
        "stopped",
        Some("killed")
    )))]);
    daemon.on::<VmRestart>([Reply::Answer(json!(changed("box", "started", None)))]);
    daemon.on::<VmDelete>([Reply::Answer(json!(changed("box", "deleted", None)))]);
    let mut said = String::new();
    for verb in ["start", "kill", "restart", "delete", "rm"] {
        let run = world.banger(&["vm", verb, "box"]);
        assert_eq!((run.status, run.stdout.len()), (Some(0), 0));
        said += &run.stderr;
    }
    assert_snapshot!(said, @"
    box: already running
    box: stopped (killed)
    box: started
    box: deleted
    box: deleted
    ");
    assert!(daemon.asked::<VmStart>()[0].wait);
}

#[test]
fn an_error_is_told_with_its_causes_and_what_to_do() {
    let (world, daemon) = world();
    daemon.on::<VmStart>([error(
        "cannot start VM box: vmm failed",
        &["cannot run qemu-system-x86_64", "No such file or directory"],
        Some("install it: apt install qemu-system-x86"),
    )]);
    assert_snapshot!(world.banger(&["vm", "start", "box"]), @"
    status: 1
    ----- stdout -----
    ----- stderr -----
    error: cannot start VM box: vmm failed
    caused by: cannot run qemu-system-x86_64
    caused by: No such file or directory
    hint: install it: apt install qemu-system-x86
    ");
}

#[test]
fn a_daemon_that_hangs_up_is_told_of() {
    let (world, daemon) = world();
    daemon.on::<VmStart>([Reply::HangUp]);
    assert_snapshot!(world.banger(&["vm", "start", "box"]), @"
    status: 1
    ----- stdout -----
    ----- stderr -----
    error: the daemon ended the connection before it answered
    hint: see how it is: banger daemon status
    ");
}

#[test]
fn a_daemon_of_another_version_is_refused_but_can_be_looked_at_and_stopped() {
    let (world, daemon) = world();
    let old = Status {
        version: "0.0.9".to_owned(),
        ..status()
    };
    daemon.on::<DaemonStatus>([Reply::Answer(json!(old))]);
    daemon.on::<DaemonStop>([Reply::Answer(json!({}))]);
    // The version of the package changes; the sentence does not.
    let run = world.banger(&["ps"]).to_string();
    assert_snapshot!(run.replace(banger_daemon::protocol::VERSION, "[VERSION]"), @"
    status: 1
    ----- stdout -----
    ----- stderr -----
    error: the bangerd that runs (process 4711) is version 0.0.9, and this banger is [VERSION]
    hint: the VMs run on meanwhile; end it, and the next command starts the right one: banger daemon stop
    ");
    assert_snapshot!(world.banger(&["daemon", "status"]), @"
    status: 0
    ----- stdout -----
    version:        0.0.9
    process:        4711
    started:        2030-01-31T12:00:00Z
    engine:         0a1b2c3d
    state folder:   /var/lib/banger
    runtime folder: /run/banger
    running VMs:    2
    ----- stderr -----
    ");
    assert_snapshot!(world.banger(&["daemon", "stop"]), @"
    status: 0
    ----- stdout -----
    ----- stderr -----
    bangerd: stopped; 2 VMs run on
    ");
}

#[test]
fn without_a_daemon_status_starts_none_and_stop_is_content() {
    let world = World::new();
    assert_snapshot!(world.banger(&["daemon", "status"]), @"
    status: 1
    ----- stdout -----
    ----- stderr -----
    error: bangerd does not run
    hint: whatever needs it starts it, such as: banger ps
    ");
    assert_snapshot!(world.banger(&["daemon", "stop"]), @"
    status: 0
    ----- stdout -----
    ----- stderr -----
    bangerd: already stopped
    ");
}

#[test]
fn a_daemon_that_cannot_be_started_is_told_of() {
    assert_snapshot!(World::new().banger(&["ps"]), @"
    status: 1
    ----- stdout -----
    ----- stderr -----
    error: cannot start /no/such/bangerd
    caused by: No such file or directory (os error 2)
    hint: install bangerd beside banger, or name it in BANGERD
    ");
}

#[test]
fn a_folder_in_the_way_of_the_socket_is_told_of() {
    let world = World::new();
    std::fs::write(world.path().join("run"), "in the way").unwrap();
    assert_snapshot!(world.banger(&["daemon", "status"]), @"
    status: 1
    ----- stdout -----
    ----- stderr -----
    error: cannot connect to [SCRATCH]/run/bangerd.sock
    caused by: Not a directory (os error 20)
    ");
}

#[test]
fn logs_print_the_console_and_nothing_else() {
    let (world, daemon) = world();
    daemon.on::<VmLogs>([Reply::Answer(json!(LogsAnswer {
        text: "[    0.0] Linux\nlogin: ".to_owned(),
        path: "/var/lib/banger/vms/0123/console.log".into(),
    }))]);
    let run = world.banger(&["vm", "logs", "box", "-n", "5"]);
    assert_eq!(run.stdout, b"[    0.0] Linux\nlogin: ");
    assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""));
    assert_eq!(daemon.asked::<VmLogs>()[0].lines, Some(5));
    assert_snapshot!(world.banger(&["-v", "vm", "logs", "box", "--json"]), @r#"
    status: 0
    ----- stdout -----
    {
      "text": "[    0.0] Linux\nlogin: ",
      "path": "/var/lib/banger/vms/0123/console.log"
    }
    ----- stderr -----
    "#);
}

fn report(vmm_works: bool) -> DoctorAnswer {
    let line = |subject: &str, name: &str, works, reason: &str, hint: Option<&str>| DoctorLine {
        subject: subject.to_owned(),
        name: name.to_owned(),
        works,
        picked: works,
        reason: reason.to_owned(),
        hint: hint.map(str::to_owned),
    };
    let install = Some("apt install qemu-system-x86");
    DoctorAnswer {
        candidates: vec![
            line("vmm", "firecracker", false, "not built in", None),
            match vmm_works {
                true => line("vmm", "qemu", true, "version 7.2, emulating", None),
                false => line("vmm", "qemu", false, "not installed", install),
            },
            line("disk", "overlay", true, "qemu-img is there", None),
        ],
        facts: vec![line("kvm", "/dev/kvm", false, "no vmx or svm", None)],
    }
}

#[test]
fn the_doctor_says_what_is_picked_and_why() {
    let (world, daemon) = world();
    daemon.on::<Doctor>([Reply::Answer(json!(report(true)))]);
    assert_snapshot!(world.banger(&["doctor"]), @"
    status: 0
    ----- stdout -----
    WHAT  WHICH        WORKS        WHY
    vmm   firecracker  no           not built in
    vmm   qemu         yes, picked  version 7.2, emulating
    disk  overlay      yes, picked  qemu-img is there
    kvm   /dev/kvm     no           no vmx or svm
    ----- stderr -----
    ");
}

#[test]
fn the_doctor_fails_where_no_vm_can_be_run() {
    let (world, daemon) = world();
    daemon.on::<Doctor>([Reply::Answer(json!(report(false)))]);
    assert_snapshot!(world.banger(&["doctor"]), @"
    status: 1
    ----- stdout -----
    WHAT  WHICH        WORKS        WHY
    vmm   firecracker  no           not built in
    vmm   qemu         no           not installed
    disk  overlay      yes, picked  qemu-img is there
    kvm   /dev/kvm     no           no vmx or svm

    vmm qemu: apt install qemu-system-x86
    ----- stderr -----
    error: no VM can be run here: nothing works for vmm
    ");
}

fn proof(strays: &[&str]) -> ProveAnswer {
    let object = |kind: &str, which: &str, owner: &str, stray, removable| ProvenObject {
        key: format!("{kind} {which}"),
        kind: kind.to_owned(),
        which: which.to_owned(),
        owner: owner.to_owned(),
        stray,
        removable,
    };
    let mut objects = vec![object("monitor", "process 77", "VM box", false, false)];
    for stray in strays {
        let why = "STRAY: left by a VM that is no more";
        objects.push(object("runtime folder", stray, why, true, true));
    }
    ProveAnswer {
        objects,
        kinds: vec!["monitor".to_owned(), "runtime folder".to_owned()],
        foreign: vec![ForeignEngine {
            engine: "0a0a0a0a".to_owned(),
            monitors: 1,
            runtime_folders: 2,
        }],
    }
}

#[test]
fn a_proof_names_owners_and_fails_if_there_is_a_stray() {
    let (world, daemon) = world();
    daemon.on::<DoctorProve>([
        Reply::Answer(json!(proof(&[]))),
        Reply::Answer(json!(proof(&["/run/b/1", "/run/b/2"]))),
    ]);
    assert_snapshot!(world.banger(&["doctor", "--prove"]), @"
    status: 0
    ----- stdout -----
    WHAT     WHICH       OWNER
    monitor  process 77  VM box
    ----- stderr -----
    looked for: monitor, runtime folder
    engine 0a0a0a0a, not this one, has 1 VM running and 2 folders in the runtime folder: left alone
    ");
    assert_snapshot!(world.banger(&["doctor", "--prove"]), @"
    status: 1
    ----- stdout -----
    WHAT            WHICH       OWNER
    monitor         process 77  VM box
    runtime folder  /run/b/1    STRAY: left by a VM that is no more
    runtime folder  /run/b/2    STRAY: left by a VM that is no more
    ----- stderr -----
    looked for: monitor, runtime folder
    engine 0a0a0a0a, not this one, has 1 VM running and 2 folders in the runtime folder: left alone
    error: 2 strays found
    hint: banger doctor --prove --fix removes what may be removed
    ");
    assert_snapshot!(world.banger(&["doctor", "--fix"]), @"
    status: 2
    ----- stdout -----
    ----- stderr -----
    error: the following required arguments were not provided:
      --prove

    Usage: banger doctor --prove --fix

    For more information, try '--help'.
    ");
}

#[test]
fn a_fix_says_what_became_of_each_stray_that_was_shown() {
    let (world, daemon) = world();
    daemon.on::<DoctorProve>([Reply::Answer(json!(proof(&["/run/b/1", "/run/b/2"])))]);
    let line = |which: &str, outcome: &str, error: Option<&str>| FixLine {
        key: format!("runtime folder {which}"),
        outcome: outcome.to_owned(),
        error: error.map(str::to_owned),
    };
    daemon.on::<DoctorFix>([Reply::Answer(json!(FixAnswer {
        lines: vec![
            line("/run/b/1", "removed", None),
            line("/run/b/2", "failed", Some("permission denied")),
        ],
    }))]);
    assert_snapshot!(world.banger(&["doctor", "--prove", "--fix"]), @"
    status: 1
    ----- stdout -----
    WHAT            WHICH       OWNER
    monitor         process 77  VM box
    runtime folder  /run/b/1    STRAY: left by a VM that is no more
    runtime folder  /run/b/2    STRAY: left by a VM that is no more
    ----- stderr -----
    looked for: monitor, runtime folder
    engine 0a0a0a0a, not this one, has 1 VM running and 2 folders in the runtime folder: left alone
    runtime folder /run/b/1: removed
    error: runtime folder /run/b/2: not removed
    caused by: permission denied
    ");
}

#[test]
fn reconcile_says_what_was_done_to_whom() {
    let (world, daemon) = world();
    let line = |vm: &str, action: &str, detail: &str, error: Option<&str>| ReconcileLine {
        vm: vm.to_owned(),
        action: action.to_owned(),
        detail: detail.to_owned(),
        error: error.map(str::to_owned),
    };
    let lines = vec![
        line("box", "kept", "it runs", None),
        line("old", "stopped", "its monitor is gone", Some("busy")),
    ];
    daemon.on::<DaemonReconcile>([
        Reply::Answer(json!(ReconcileAnswer { lines })),
        Reply::Answer(json!(ReconcileAnswer { lines: Vec::new() })),
    ]);
    assert_snapshot!(world.banger(&["daemon", "reconcile", "--dry-run"]), @"
    status: 1
    ----- stdout -----
    VM   ACTION   REASON
    box  kept     it runs
    old  stopped  its monitor is gone
    ----- stderr -----
    error: old: stopped failed
    caused by: busy
    ");
    assert_snapshot!(world.banger(&["daemon", "reconcile"]), @"
    status: 0
    ----- stdout -----
    ----- stderr -----
    nothing to do: the records and the host agree
    ");
    let asked = daemon.asked::<DaemonReconcile>();
    assert_eq!([asked[0].dry_run, asked[1].dry_run], [true, false]);
}

#[test]
fn the_daemon_is_shown() {
    let (world, daemon) = world();
    let shown = Status {
        version: "1.2.3".to_owned(),
        ..status()
    };
    daemon.on::<DaemonStatus>([Reply::Answer(json!(shown))]);
    assert_snapshot!(world.banger(&["daemon", "status"]), @"
    status: 0
    ----- stdout -----
    version:        1.2.3
    process:        4711
    started:        2030-01-31T12:00:00Z
    engine:         0a1b2c3d
    state folder:   /var/lib/banger
    runtime folder: /run/banger
    running VMs:    2
    ----- stderr -----
    ");
    assert_snapshot!(world.banger(&["daemon", "status", "--json"]), @r#"
    status: 0
    ----- stdout -----
    {
      "version": "1.2.3",
      "pid": 4711,
      "engine": "0a1b2c3d",
      "state_dir": "/var/lib/banger",
      "runtime_dir": "/run/banger",
      "started_at": "2030-01-31T12:00:00Z",
      "running": 2
    }
    ----- stderr -----
    "#);
}

#[test]
fn a_reader_that_leaves_ends_a_list_quietly() {
    let (world, daemon) = world();
    let vms = (0..5000).map(|n| vm(&format!("vm-{n}"))).collect();
    daemon.on::<VmList>([Reply::Answer(json!(VmListAnswer { vms }))]);
    let mut child = world.spawn(&["vm", "list"]);
    drop(child.stdout.take());
    let run = world.left(child.wait_with_output().unwrap());
    assert_eq!((run.status, run.stderr.as_str()), (Some(141), ""));
}

#[test]
fn completion_scripts_ask_banger() {
    for shell in ["bash", "zsh", "fish"] {
        let run = World::new().banger(&["completion", shell]);
        assert_eq!(run.status, Some(0), "{run}");
        let script = String::from_utf8(run.stdout).unwrap();
        assert!(script.contains("BANGER_COMPLETE"), "{shell}");
    }
}

/// What is offered for the last word.
fn offered(world: &World, words: &[&str]) -> Vec<String> {
    let mut asked = vec!["--", "banger"];
    asked.extend(words);
    let mut command = world.command(&asked);
    command
        .env("BANGER_COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", words.len().to_string())
        .env("_CLAP_IFS", "\n")
        .env("_CLAP_COMPLETE_COMP_TYPE", "9")
        .env("_CLAP_COMPLETE_SPACE", "true");
    let run = world.run(&mut command);
    assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""));
    let offered = String::from_utf8(run.stdout).unwrap();
    offered.lines().map(str::to_owned).collect()
}

#[test]
fn verbs_and_live_names_are_completed() {
    let (world, _daemon) = three_vms();
    assert_eq!(offered(&world, &["vm", "res"]), ["restart"]);
    assert_eq!(offered(&world, &["vm", "stop", "b"]), ["box", "broken"]);
    assert_eq!(offered(&world, &["vm", "exec", "o"]), ["other-one"]);
    let without_daemon = World::new();
    assert!(offered(&without_daemon, &["vm", "stop", "b"]).is_empty());
}

#[test]
fn what_a_dying_daemon_leaves_unanswered_is_asked_of_the_next_if_twice_is_as_good_as_once() {
    let (world, daemon) = world();
    let list = VmListAnswer {
        vms: vec![vm("box")],
    };
    daemon.on::<VmList>([Reply::HangUp, Reply::Answer(json!(list))]);
    let run = world.banger(&["vm", "list", "--json"]);
    assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""), "{run}");
    assert_eq!(daemon.methods(), ["vm.list", "vm.list"]);
    // Once only, and never what could be done twice.
    daemon.on::<VmList>([Reply::HangUp]);
    assert_eq!(world.banger(&["vm", "list"]).status, Some(1));
    daemon.on::<VmCreate>([Reply::HangUp]);
    assert_snapshot!(world.banger(&["vm", "create", "box"]), @"
    status: 1
    ----- stdout -----
    ----- stderr -----
    error: the daemon ended the connection before it answered
    hint: see how it is: banger daemon status
    ");
    assert_eq!(daemon.asked::<VmCreate>().len(), 1);
}

/// What a guest, a repository or an image might put into any word of an answer: it clears the screen, sets a title,
/// begins a line of its own, and turns the direction of writing.
const HOSTILE: &str = "x\u{1b}[2J\u{1b}]0;pwned\u{7}\u{9b}31m\r\nerror: all is lost\u{202e}\u{7f}";

fn hostile_vm() -> VmInfo {
    let word = || HOSTILE.to_owned();
    VmInfo {
        image: word(),
        vmm: word(),
        disk: word(),
        network: word(),
        dns_name: word(),
        guest_ip: Some(word()),
        last_error: Some(word()),
        stop_reason: Some(word()),
        labels: [(word(), word())].into(),
        ..vm("box")
    }
}

#[test]
fn no_word_of_an_answer_speaks_to_the_terminal() {
    let (world, daemon) = world();
    let vms = vec![hostile_vm()];
    let again = || Reply::Answer(json!(VmListAnswer { vms: vms.clone() }));
    daemon.on::<VmList>([again(), again(), again()]);
    daemon.on::<VmShow>([
        Reply::Answer(json!(hostile_vm())),
        Reply::Answer(json!(hostile_vm())),
    ]);
    daemon.on::<VmStop>([error(HOSTILE, &[HOSTILE, HOSTILE], Some(HOSTILE))]);
    for words in [
        &["vm", "list"][..],
        &["ps"],
        &["vm", "show", "box"],
        &["vm", "stop", "box"],
        &["vm", "list", "--json"],
        &["vm", "show", "box", "--json"],
    ] {
        let run = world.banger(words);
        let told = String::from_utf8(run.stdout.clone()).unwrap() + &run.stderr;
        assert!(told.contains("x\\u"), "{words:?}: {told}");
        let unseen: Vec<char> = told
            .chars()
            .filter(|c| *c != '\n' && banger_session::is_unseen(*c))
            .collect();
        assert_eq!(unseen, [] as [char; 0], "{words:?}: {told:?}");
        let forged = told.lines().any(|line| line.starts_with("error: all"));
        assert!(!forged, "{words:?}: {told}");
        if words.contains(&"--json") {
            let value: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
            assert!(value.to_string().contains("all is lost"));
        }
    }
}
