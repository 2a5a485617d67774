//! `vm run`, and what runs under ssh.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use banger_daemon::protocol::{SshAnswer, VmCreate, VmDelete, VmExec, VmSsh, VmStart};
use banger_session::mux::Stream;
use insta::assert_snapshot;
use serde_json::json;

use crate::answers::{changed, stopped};
use crate::banger::{Run, World};
use crate::fake::{FakeDaemon, Guest, Reply, error};

fn world(guest: impl Fn(&mut Guest) + Send + Sync + 'static) -> (World, FakeDaemon) {
    let world = World::new();
    let daemon = FakeDaemon::start(&world);
    daemon.on::<VmCreate>([Reply::Answer(json!(stopped("box")))]);
    let stages = vec![("vmm", "starting the machine"), ("boot", "booting")];
    let started = Reply::Answer(json!(changed("box", "started", None)));
    daemon.on::<VmStart>([Reply::After(stages, Box::new(started))]);
    daemon.on::<VmDelete>([Reply::Answer(json!(changed("box", "deleted", None)))]);
    daemon.on::<VmSsh>([Reply::Answer(json!(SshAnswer {
        workspace: None,
        config: "/var/lib/banger/ssh_config".into(),
        host: "box.vm".to_owned(),
    }))]);
    daemon.on_exec(guest);
    (world, daemon)
}

#[test]
fn run_leaves_the_vm_running_and_names_it() {
    let (world, daemon) = world(|guest| {
        guest.says(Stream::Stdout, b"Linux\n");
        guest.exits(7);
    });
    assert_snapshot!(world.banger(&["vm", "run", "--name", "box", "--", "uname"]), @"
    status: 7
    ----- stdout -----
    Linux
    ----- stderr -----
    banger: starting the machine…
    banger: booting…
    box runs on; stop it: banger vm stop box
    ");
    assert_eq!(daemon.methods(), ["vm.create", "vm.start", "vm.exec"]);
    let created = &daemon.asked::<VmCreate>()[0];
    assert_eq!(
        (created.name.as_deref(), created.ephemeral),
        (Some("box"), false)
    );
}

#[test]
fn run_with_rm_deletes_the_vm_and_keeps_the_status() {
    let (world, daemon) = world(|guest| {
        guest.says(Stream::Stdout, b"Linux\n");
        guest.exits(7);
    });
    let run = world.banger(&["-q", "vm", "run", "--rm", "--", "uname"]);
    assert_snapshot!(run, @"
    status: 7
    ----- stdout -----
    Linux
    ----- stderr -----
    ");
    assert_eq!(
        daemon.methods(),
        ["vm.create", "vm.start", "vm.exec", "vm.delete"]
    );
    assert!(daemon.asked::<VmCreate>()[0].ephemeral);
}

#[test]
fn explain_says_where_the_time_went() {
    let (world, _daemon) = world(|guest| guest.exits(0));
    let run = world.banger(&["vm", "run", "--rm", "--explain", "--", "true"]);
    let mut shown = String::new();
    for line in run.stderr.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            [stage, time, "ms"] => {
                assert!(time.parse::<f64>().unwrap() >= 0.0);
                shown += &format!("  {stage} [TIME] ms\n");
            }
            _ => shown += &format!("{line}\n"),
        }
    }
    assert_snapshot!(shown, @"
    banger: starting the machine…
    banger: booting…
    where the time went:
      daemon [TIME] ms
      vmm [TIME] ms
      boot [TIME] ms
      command [TIME] ms
      delete [TIME] ms
      other [TIME] ms
      total [TIME] ms
    ");
}

#[test]
fn a_start_that_fails_leaves_the_vm_and_says_so() {
    let (world, daemon) = world(|_| {});
    daemon.on::<VmStart>([error("cannot start VM box: vmm failed", &["no KVM"], None)]);
    assert_snapshot!(world.banger(&["vm", "run", "--", "true"]), @"
    status: 125
    ----- stdout -----
    ----- stderr -----
    error: cannot start VM box: vmm failed
    caused by: no KVM
    hint: box is still there; see how it is: banger vm show box
    ");
    let ephemeral = world.banger(&["vm", "run", "--rm", "--", "true"]);
    assert_snapshot!(ephemeral, @"
    status: 125
    ----- stdout -----
    ----- stderr -----
    error: cannot start VM box: vmm failed
    caused by: no KVM
    ");
    assert!(daemon.asked::<VmDelete>().is_empty(), "the daemon does it");
}

#[test]
fn run_ends_at_a_signal_while_the_vm_starts() {
    let (world, daemon) = world(|_| {});
    let stages = vec![("boot", "booting")];
    daemon.on::<VmStart>([Reply::After(stages, Box::new(Reply::Silence))]);
    let mut child = world.spawn(&["vm", "run", "--", "true"]);
    // The stage is on stderr once the signal has somebody to catch it.
    let mut stderr = child.stderr.take().unwrap();
    let mut said = [0; "banger: booting…\n".len()];
    std::io::Read::read_exact(&mut stderr, &mut said).unwrap();
    let kill = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut stderr, &mut rest).unwrap();
    let status = child.wait().unwrap().code();
    assert_snapshot!(format!("status: {status:?}\n{rest}"), @"
    status: Some(130)
    error: ended by SIGINT
    hint: the daemon goes on starting the VM
    hint: box is still there; see how it is: banger vm show box
    ");
}

#[test]
fn a_shell_needs_a_terminal() {
    let (world, daemon) = world(|_| {});
    assert_snapshot!(world.banger(&["vm", "run"]), @"
    status: 125
    ----- stdout -----
    ----- stderr -----
    error: no command given, and standard input is not a terminal for a shell
    hint: give it a command: banger vm run -- COMMAND, or: banger vm run -- sh <FILE
    ");
    assert!(daemon.methods().is_empty(), "nothing was created");
}

/// An `ssh` that says how it was called and ends with 9, run on a terminal of `script`'s.
fn on_a_terminal(world: &World, args: &str) -> Option<Run> {
    if !Path::new("/usr/bin/script").exists() {
        eprintln!("skipped: script(1), which makes a terminal, is not installed");
        return None;
    }
    let bin = world.path().join("bin");
    fs::create_dir_all(&bin).unwrap();
    let ssh = bin.join("ssh");
    fs::write(&ssh, "#!/bin/sh\nprintf '<%s>\\n' \"$@\"\nexit 9\n").unwrap();
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();

    let banger = world.command::<&str>(&[]);
    let line = format!("{} {args}", banger.get_program().to_str().unwrap());
    let mut script = Command::new("/usr/bin/script");
    script.args(["-qec", &line, "/dev/null"]).env_clear();
    for (key, value) in banger.get_envs() {
        script.env(key, value.unwrap());
    }
    script.env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
    script.env("TERM", "dumb").env("SHELL", "/bin/sh");
    let mut output = script.stdin(Stdio::null()).output().unwrap();
    output.stdout.retain(|&byte| byte != b'\r');
    Some(world.left(output))
}

#[test]
fn a_shell_is_ssh_on_our_terminal() {
    let (world, daemon) = world(|_| {});
    if let Some(run) = on_a_terminal(&world, "vm run --rm") {
        assert_snapshot!(run, @"
        status: 9
        ----- stdout -----
        banger: starting the machine…
        banger: booting…
        <-tt>
        <-F>
        </var/lib/banger/ssh_config>
        <-->
        <box.vm>
        ----- stderr -----
        ");
        assert_eq!(
            daemon.methods(),
            ["vm.create", "vm.start", "vm.ssh", "vm.delete"]
        );
    }
}

#[test]
fn exec_with_a_terminal_is_ssh_with_the_command_quoted() {
    let (world, _daemon) = world(|_| {});
    let typed = r#"vm exec -it -e A=1 -w /tmp box sh -c "echo it\'s""#;
    if let Some(run) = on_a_terminal(&world, typed) {
        assert_snapshot!(run, @r#"
        status: 9
        ----- stdout -----
        <-tt>
        <-e>
        <none>
        <-F>
        </var/lib/banger/ssh_config>
        <-->
        <box.vm>
        <trap : INT QUIT; exec 3>&2 2>/dev/null; cd '/tmp' 2>&3 || exit 125; (exec env -- A='1' sh -c 'exec "$@"' sh 'sh' '-c' 'echo it\'\''s' 2>&3 3>&-); exit $?>
        ----- stderr -----
        "#);
    }
}

#[test]
fn vm_ssh_is_ssh() {
    let (world, daemon) = world(|_| {});
    if let Some(run) = on_a_terminal(&world, "vm ssh box") {
        assert_snapshot!(run, @"
        status: 9
        ----- stdout -----
        <-tt>
        <-F>
        </var/lib/banger/ssh_config>
        <-->
        <box.vm>
        ----- stderr -----
        ");
        assert_eq!(daemon.methods(), ["vm.ssh"]);
    }
}

#[test]
fn a_terminal_shows_what_it_is_not_asked_to_read() {
    let (world, daemon) = world(|guest| guest.exits(0));
    // Standard input is a terminal, so it is not forwarded unless asked for.
    if on_a_terminal(&world, "vm exec box true").is_some() {
        on_a_terminal(&world, "vm exec -i box true");
        let asked = daemon.asked::<VmExec>();
        assert_eq!(
            [asked[0].stdin_closed, asked[1].stdin_closed],
            [true, false]
        );
    }
}
