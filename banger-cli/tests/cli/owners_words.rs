//! Labels, and what is chosen by them; pruning; the words about `--nat`.

use std::io::Write;
use std::process::Stdio;

use banger_daemon::protocol::{
    CreateParams, PruneAnswer, PruneFailure, VmCreate, VmInfo, VmList, VmListAnswer, VmPrune,
    VmShow,
};
use banger_session::mux::Stream;
use insta::assert_snapshot;
use serde_json::json;

use crate::answers::{stopped, vm};
use crate::banger::World;
use crate::fake::{FakeDaemon, Reply};
use crate::sessions::terminal;
use crate::simulator::{Simulated, session};

fn labelled(vm: VmInfo, labels: &[(&str, &str)]) -> VmInfo {
    let labels = labels.iter();
    VmInfo {
        id: format!("id-of-{}", vm.name),
        labels: labels
            .map(|&(key, value)| (key.into(), value.into()))
            .collect(),
        ..vm
    }
}

/// One that runs and two that are stopped.
fn three() -> (World, FakeDaemon) {
    let world = World::new();
    let daemon = FakeDaemon::start(&world);
    let vms = vec![
        labelled(vm("box"), &[("team", "blue"), ("ci", "")]),
        labelled(stopped("old"), &[("team", "blue")]),
        labelled(stopped("older"), &[("team", "red"), ("ci", "7")]),
    ];
    daemon.on::<VmList>([Reply::Answer(json!(VmListAnswer { vms }))]);
    (world, daemon)
}

fn listed(world: &World, words: &[&str]) -> Vec<String> {
    let run = world.banger(&[&["vm", "list", "--json"], words].concat());
    assert_eq!(run.status, Some(0), "{run}");
    let vms: Vec<VmInfo> = serde_json::from_slice(&run.stdout).unwrap();
    vms.into_iter().map(|vm| vm.name).collect()
}

#[test]
fn vms_are_listed_by_their_labels() {
    let (world, _daemon) = three();
    assert_eq!(listed(&world, &["--label", "team=blue"]), ["box", "old"]);
    assert_eq!(listed(&world, &["--label", "ci"]), ["box", "older"]);
    assert_eq!(listed(&world, &["--label", "ci="]), ["box"]);
    let both = ["--label", "ci", "--label", "team=red"];
    assert_eq!(listed(&world, &both), ["older"]);
    assert!(listed(&world, &["--label", "none"]).is_empty());
    let run = world.banger(&["ps", "-a", "--label", "team=red"]);
    let text = String::from_utf8(run.stdout).unwrap();
    assert!(text.contains("older") && !text.contains("box"), "{text}");
}

#[test]
fn a_prune_that_cannot_ask_says_what_it_would_delete_and_deletes_nothing() {
    let (world, daemon) = three();
    assert_snapshot!(world.banger(&["vm", "prune"]), @"
    status: 1
    ----- stdout -----
    ----- stderr -----
    error: 2 stopped VMs would be deleted (old, older), and standard input is no terminal to ask on
    hint: if that is what you want: banger vm prune --yes
    ");
    assert!(daemon.asked::<VmPrune>().is_empty());
}

#[test]
fn a_prune_deletes_those_that_were_shown_by_their_ids() {
    let (world, daemon) = three();
    let answer = PruneAnswer {
        deleted: vec!["old".to_owned()],
        left: vec!["older".to_owned()],
        failed: Vec::new(),
    };
    daemon.on::<VmPrune>([Reply::Answer(json!(answer))]);
    assert_snapshot!(world.banger(&["vm", "prune", "--yes"]), @"
    status: 0
    ----- stdout -----
    ----- stderr -----
    old: deleted
    older: left, it is not stopped any more
    ");
    assert_eq!(
        daemon.asked::<VmPrune>()[0].vms,
        ["id-of-old", "id-of-older"]
    );
    assert_snapshot!(world.banger(&["vm", "prune", "-y", "--json", "--label", "ci"]), @r#"
    status: 0
    ----- stdout -----
    {
      "deleted": [
        "old"
      ],
      "left": [
        "older"
      ],
      "failed": []
    }
    ----- stderr -----
    "#);
    assert_eq!(daemon.asked::<VmPrune>()[1].vms, ["id-of-older"]);
}

#[test]
fn a_prune_on_a_terminal_shows_the_vms_and_takes_only_a_yes() {
    let (world, daemon) = three();
    let answer = PruneAnswer {
        deleted: vec!["old".to_owned(), "older".to_owned()],
        ..PruneAnswer::default()
    };
    daemon.on::<VmPrune>([Reply::Answer(json!(answer))]);
    let answered = |word: &str| {
        let (mut person, terminal) = terminal();
        person.write_all(format!("{word}\n").as_bytes()).unwrap();
        let mut command = world.command(&["vm", "prune"]);
        world.run(command.stdin(Stdio::from(terminal)))
    };
    for no in ["", "n", "yes please"] {
        let run = answered(no);
        assert!(run.stderr.ends_with("nothing was deleted\n"), "{run}");
    }
    assert!(daemon.asked::<VmPrune>().is_empty());
    assert_snapshot!(answered("y"), @"
    status: 0
    ----- stdout -----
    ----- stderr -----
    NAME   STATE    IMAGE   CPUS  MEMORY  SSH  AGE
    old    stopped  debian  2     1G      -    0s
    older  stopped  debian  2     1G      -    0s
    Delete 2 stopped VMs with all that is on their disks? [y/N]
    old: deleted
    older: deleted
    ");
    assert_eq!(daemon.asked::<VmPrune>().len(), 1);
}

#[test]
fn a_prune_tells_what_could_not_be_deleted_and_fails() {
    let (world, daemon) = three();
    let answer = PruneAnswer {
        deleted: vec!["old".to_owned()],
        left: Vec::new(),
        failed: vec![PruneFailure {
            vm: "older".to_owned(),
            error: "cannot remove /v: Permission denied".to_owned(),
        }],
    };
    daemon.on::<VmPrune>([Reply::Answer(json!(answer))]);
    assert_snapshot!(world.banger(&["vm", "prune", "--yes"]), @"
    status: 1
    ----- stdout -----
    ----- stderr -----
    old: deleted
    error: older: cannot remove /v: Permission denied
    ");
}

#[test]
fn a_prune_of_nothing_asks_nothing() {
    let (world, daemon) = three();
    assert_snapshot!(world.banger(&["vm", "prune", "--label", "none"]), @"
    status: 0
    ----- stdout -----
    ----- stderr -----
    no VM is stopped
    ");
    assert!(daemon.asked::<VmPrune>().is_empty());
}

#[test]
fn the_help_of_vm_prune() {
    let run = World::new().banger(&["vm", "prune", "--help"]);
    assert_snapshot!(run, @"
    status: 0
    ----- stdout -----
    Delete VMs that are stopped

    Usage: banger vm prune [OPTIONS]

    Options:
      -y, --yes                  Do not ask
          --json                 Print what was deleted as an object; needs --yes
          --label <KEY[=VALUE]>  Only those with this label, of whatever value if none is given; all, if
                                 it is repeated
      -q, --quiet                Say nothing but errors
      -v, --verbose              Also say what happens behind the scenes
      -h, --help                 Print help

    Deletes VMs that have run and are stopped. Those that were only created, that run or that are in
    an error are left. One that is started while you decide is left too.
    ----- stderr -----
    ");
}

#[test]
fn labels_and_prune_on_the_simulator() {
    let world = Simulated::new();
    let shown = session(
        &world,
        &[
            &["-q", "vm", "create", "one", "--label", "team=blue"],
            &["-q", "vm", "create", "two", "--label", "team=red"],
            &["-q", "vm", "create", "three"],
            &["-q", "vm", "start", "one"],
            &["-q", "vm", "start", "two"],
            &["-q", "vm", "kill", "one", "two"],
            &["vm", "prune", "--yes", "--label", "team=red"],
            &["vm", "prune", "--yes"],
            &["vm", "prune", "--yes"],
            &["vm", "list"],
        ],
    );
    let shown = shown.replace("1s", "0s").replace("2s", "0s");
    assert_snapshot!(shown, @"
    $ banger -q vm create one --label team=blue
    one
    $ banger -q vm create two --label team=red
    two
    $ banger -q vm create three
    three
    $ banger -q vm start one
    $ banger -q vm start two
    $ banger -q vm kill one two
    $ banger vm prune --yes --label team=red
      | two: deleted
    $ banger vm prune --yes
      | one: deleted
    $ banger vm prune --yes
      | no VM is stopped
    $ banger vm list
    NAME   STATE    IMAGE      CPUS  MEMORY  SSH  AGE
    three  created  debian-12  2     1G      -    0s
    ");
}

#[test]
fn a_vm_that_reaches_the_internet_by_qemus_network_is_told_to_reach_more() {
    let world = World::new();
    let daemon = FakeDaemon::start(&world);
    let open = VmInfo {
        nat: true,
        ..vm("box")
    };
    daemon.on::<VmCreate>([Reply::Answer(json!(open))]);
    assert_snapshot!(world.banger(&["vm", "create", "box", "--nat"]), @"
    status: 0
    ----- stdout -----
    box
    ----- stderr -----
    box reaches the internet, and with it services on this host's own loopback and networks
    ");
    let quiet = world.banger(&["-q", "vm", "create", "box", "--no-nat"]);
    assert_eq!(quiet.stderr, "");
    let _ = world.banger(&["-q", "vm", "create", "box"]);
    let asked: Vec<CreateParams> = daemon.asked::<VmCreate>();
    let nat: Vec<_> = asked.into_iter().map(|params| params.nat).collect();
    assert_eq!(nat, [Some(true), Some(false), None]);
    let both = world.banger(&["vm", "create", "box", "--nat", "--no-nat"]);
    assert_eq!(both.status, Some(2));
}

#[test]
fn a_command_that_finds_no_way_out_is_explained_if_the_vm_has_none() {
    for (nat, stderr, exit_code, explained) in [
        (
            false,
            "curl: (6) Could not resolve host: example.org",
            6,
            true,
        ),
        (
            true,
            "curl: (6) Could not resolve host: example.org",
            6,
            false,
        ),
        (
            false,
            "warning: Could not resolve host: example.org",
            0,
            false,
        ),
        (false, "make: *** Error 2", 2, false),
    ] {
        let world = World::new();
        let daemon = FakeDaemon::start(&world);
        daemon.on::<VmShow>([Reply::Answer(json!(VmInfo { nat, ..vm("box") }))]);
        daemon.on_exec(move |guest| {
            guest.says(Stream::Stderr, stderr.as_bytes());
            guest.says(Stream::Stderr, b"\n");
            guest.exits(exit_code);
        });
        let run = world.banger(&["vm", "exec", "-n", "box", "--", "curl", "example.org"]);
        assert_eq!(run.status, Some(exit_code), "{run}");
        let told = match explained {
            true => {
                "banger: box reaches nothing by itself; one made with --nat reaches the internet\n"
            }
            false => "",
        };
        assert_eq!(run.stderr, format!("{stderr}\n{told}"));
    }
}
