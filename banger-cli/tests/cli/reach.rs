//! Reaching guests from the outside: `ssh-config`, what ssh calls by it, and `vm port-forward`.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command};

use banger_daemon::protocol::{DaemonSsh, SshClientAnswer};
use insta::assert_snapshot;
use serde_json::json;

use crate::banger::{Run, World};
use crate::fake::{FakeDaemon, Reply};
use crate::simulator::{Simulated, send, session};

/// A server in a guest: says `up`, and then answers each client with what it sent, in capitals, once
/// that has ended its own direction.
const SERVER: &str = r#"
use IO::Socket::INET;
my $l = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => 7000, Listen => 5) or die "$!";
$| = 1; print "up\n";
while (my $c = $l->accept) { local $/; my $all = <$c>; print $c uc $all; close $c }
"#;

fn with_ssh() -> (World, FakeDaemon) {
    let world = World::new();
    let daemon = FakeDaemon::start(&world);
    daemon.on::<DaemonSsh>([Reply::Answer(json!(SshClientAnswer {
        identity: "/var/lib/banger/ssh/id_ed25519".into(),
        first_cipher: Some("aes128-ctr".to_owned()),
    }))]);
    (world, daemon)
}

/// With the program's folder, which differs from one checkout to the next, replaced.
fn shown(run: &Run) -> String {
    run.to_string()
        .replace(env!("CARGO_BIN_EXE_banger"), "[BANGER]")
}

fn serve_in(world: &Simulated) -> Child {
    let mut server = world.spawn(&["vm", "exec", "-n", "box", "perl", "-e", SERVER]);
    let mut up = [0; 3];
    let stdout = server.stdout.as_mut().unwrap();
    stdout.read_exact(&mut up).unwrap();
    server
}

fn end(mut child: Child) {
    send("TERM", &child);
    child.wait().unwrap();
}

#[test]
fn the_configuration_is_printed_if_nothing_is_asked_for() {
    let (world, _daemon) = with_ssh();
    assert_snapshot!(shown(&world.banger(&["ssh-config"])), @r#"
    status: 0
    ----- stdout -----
    # Made by: banger ssh-config. ssh reaches every VM that runs as NAME.vm.
    Host *.vm "!*'*"
      User root
      ProxyCommand '[BANGER]' internal --state '[SCRATCH]/state' --runtime '[SCRATCH]/run' dial '%n' %p
      ProxyUseFdpass yes
      IdentityFile "/var/lib/banger/ssh/id_ed25519"
      IdentitiesOnly yes
      IdentityAgent none
      AddKeysToAgent no
      PreferredAuthentications publickey
      KnownHostsCommand '[BANGER]' internal --state '[SCRATCH]/state' --runtime '[SCRATCH]/run' host-key %n %H
      UserKnownHostsFile /dev/null
      GlobalKnownHostsFile /dev/null
      StrictHostKeyChecking yes
      UpdateHostKeys no
      CheckHostIP no
      CanonicalizeHostname no
      HostKeyAlgorithms ssh-ed25519
      KexAlgorithms curve25519-sha256
      ForwardAgent no
      ForwardX11 no
      PermitLocalCommand no
      RemoteCommand none
      Tunnel no
      GSSAPIAuthentication no
      Ciphers ^aes128-ctr
    ----- stderr -----
    "#);
}

#[test]
fn a_link_to_a_file_that_is_not_there_yet_stays_a_link_and_an_empty_home_is_none() {
    let (world, _daemon) = with_ssh();
    let (config, dotfiles) = (
        world.path().join(".ssh/config"),
        world.path().join("dotfiles"),
    );
    fs::create_dir(world.path().join(".ssh")).unwrap();
    std::os::unix::fs::symlink("../dotfiles/ssh", &config).unwrap();
    let refused = world.banger(&["ssh-config", "--install"]);
    assert_eq!(refused.status, Some(1), "{refused}");
    assert!(refused.stderr.contains("leads nowhere"), "{refused}");
    fs::create_dir(&dotfiles).unwrap();
    let installed = world.banger(&["ssh-config", "--install"]);
    assert_eq!(installed.status, Some(0), "{installed}");
    assert!(fs::symlink_metadata(&config).unwrap().is_symlink());
    assert!(
        fs::read(dotfiles.join("ssh"))
            .unwrap()
            .starts_with(b"# >>> banger")
    );
    let homeless = world.run(world.command(&["ssh-config", "--install"]).env("HOME", ""));
    assert_eq!(homeless.status, Some(1), "{homeless}");
    assert!(homeless.stderr.contains("set HOME"), "{homeless}");
}

#[test]
fn installing_twice_and_uninstalling_leaves_the_users_file_as_it_was() {
    let (world, _daemon) = with_ssh();
    let config = world.path().join(".ssh/config");
    fs::create_dir(world.path().join(".ssh")).unwrap();
    let before = b"Host work\n  User me\n# \xff, no newline".as_slice();
    fs::write(&config, before).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o640)).unwrap();
    let mode = || fs::metadata(&config).unwrap().permissions().mode() & 0o777;

    assert_snapshot!(world.banger(&["ssh-config", "--install"]), @"
    status: 0
    ----- stdout -----
    ----- stderr -----
    [SCRATCH]/.ssh/config: now includes [SCRATCH]/config/ssh_config; try: ssh NAME.vm
    ");
    let installed = fs::read(&config).unwrap();
    assert!(installed.ends_with(before) && installed.starts_with(b"# >>> banger"));
    assert_eq!(mode(), 0o640);
    assert_snapshot!(world.banger(&["ssh-config", "--install"]), @"
    status: 0
    ----- stdout -----
    ----- stderr -----
    [SCRATCH]/.ssh/config: already included
    ");
    assert_eq!(fs::read(&config).unwrap(), installed);

    assert_snapshot!(world.banger(&["ssh-config", "--uninstall"]), @"
    status: 0
    ----- stdout -----
    ----- stderr -----
    [SCRATCH]/.ssh/config: no longer included
    ");
    assert_eq!(fs::read(&config).unwrap(), before);
    assert_eq!(mode(), 0o640);
    assert!(!world.path().join("config/ssh_config").exists());
    assert_snapshot!(world.banger(&["ssh-config", "--uninstall"]), @"
    status: 0
    ----- stdout -----
    ----- stderr -----
    [SCRATCH]/.ssh/config: not included
    ");
}

#[test]
fn what_the_user_hands_to_every_host_is_said_and_no_command_or_tunnel_of_theirs_is_left() {
    let (world, _daemon) = with_ssh();
    let config = world.path().join(".ssh/config");
    fs::create_dir(world.path().join(".ssh")).unwrap();
    let theirs = "Host *\n  RemoteForward 8080 127.0.0.1:80\n  SendEnv SECRET\n  LocalCommand touch /x\n  \
                  PermitLocalCommand yes\n  RemoteCommand tmux\n  Tunnel yes\n  GSSAPIAuthentication yes\n";
    fs::write(&config, theirs).unwrap();
    assert_snapshot!(world.banger(&["ssh-config", "--install"]), @r#"
    status: 0
    ----- stdout -----
    ----- stderr -----
    [SCRATCH]/.ssh/config gives this to guests as well: remoteforward 8080 [127.0.0.1]:80, sendenv SECRET; to keep it from them, write "Host * !*.vm" there
    [SCRATCH]/.ssh/config: now includes [SCRATCH]/config/ssh_config; try: ssh NAME.vm
    "#);
    let read = Command::new("ssh")
        .arg("-F")
        .arg(&config)
        .args(["-G", "--", "box.vm"])
        .output()
        .unwrap();
    let read = String::from_utf8(read.stdout).unwrap();
    for line in [
        "permitlocalcommand no",
        "tunnel false",
        "gssapiauthentication no",
    ] {
        assert!(read.lines().any(|found| found == line), "{line}: {read}");
    }
    assert!(!read.contains("remotecommand tmux"), "{read}");
}

#[test]
fn a_link_to_a_configuration_stays_a_link() {
    let (world, _daemon) = with_ssh();
    fs::create_dir(world.path().join(".ssh")).unwrap();
    let kept = world.path().join("dotfiles");
    fs::write(&kept, "Host a\n").unwrap();
    let link = world.path().join(".ssh/config");
    std::os::unix::fs::symlink(&kept, &link).unwrap();
    let run = world.banger(&["ssh-config", "--install"]);
    assert_eq!(run.status, Some(0), "{run}");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs::read_to_string(&kept).unwrap().contains("Include"));
}

#[test]
fn a_damaged_fence_is_left_to_its_owner() {
    let (world, _daemon) = with_ssh();
    let run = world.banger(&["ssh-config", "--install"]);
    assert_eq!(run.status, Some(0), "{run}");
    let config = world.path().join(".ssh/config");
    let text = fs::read_to_string(&config).unwrap();
    let cut = text.replace("# <<< banger <<<\n", "");
    fs::write(&config, &cut).unwrap();
    assert_snapshot!(world.banger(&["ssh-config", "--uninstall"]), @"
    status: 1
    ----- stdout -----
    ----- stderr -----
    error: [SCRATCH]/.ssh/config was left as it is
    caused by: banger's lines in it begin, but their last line is missing
    hint: put it in order with an editor, and try again
    ");
    assert_eq!(fs::read_to_string(&config).unwrap(), cut);
}

#[test]
fn ssh_understands_it_and_calls_banger_for_vms_only() {
    let (world, _daemon) = with_ssh();
    let file = world.path().join("ssh_config");
    fs::write(&file, world.banger(&["ssh-config"]).stdout).unwrap();
    let read = |host: &str| {
        let output = Command::new("ssh")
            .arg("-F")
            .arg(&file)
            .args(["-G", "--", host])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let vm = read("box.vm");
    for line in [
        "user root",
        "proxyusefdpass yes",
        "stricthostkeychecking true",
    ] {
        assert!(vm.lines().any(|found| found == line), "{line}: {vm}");
    }
    assert!(vm.contains("dial '%n' %p"), "{vm}");
    // The name of a host stands on a shell's line: one that could end its quotes is not ours.
    for stranger in ["example.com", "box", "a';touch${IFS}x;'.vm"] {
        assert!(!read(stranger).contains("proxycommand"), "{stranger}");
    }
}

#[test]
fn a_host_key_is_told_by_name_and_of_nobody_else() {
    let world = Simulated::with_box();
    let run = world.banger(&["internal", "host-key", "BOX.vm", "[box.vm]:80"]);
    let line = String::from_utf8(run.stdout).unwrap();
    assert!(line.starts_with("[box.vm]:80 ssh-ed25519 AAAA"), "{line}");
    assert_eq!(
        world
            .banger(&["internal", "host-key", "no.vm", "no.vm"])
            .status,
        Some(1)
    );
}

#[test]
fn a_port_of_a_guest_is_carried_over_streams_for_who_passes_no_socket() {
    let world = Simulated::with_box();
    let server = serve_in(&world);
    let input = vec![b'x'; 300_000];
    let run = world.banger_reads(&["-q", "internal", "dial", "box.vm", "7000"], &input);
    assert_eq!(run.status, Some(0), "{run}");
    assert!(run.stdout == vec![b'X'; 300_000], "{}", run.stdout.len());
    end(server);
}

#[test]
fn dialling_what_is_not_there_says_why() {
    let world = Simulated::with_box();
    world.banger(&["vm", "create", "asleep"]);
    let shown = session(
        &world,
        &[
            &["internal", "dial", "box.vm", "7001"],
            &["internal", "dial", "asleep.vm", "22"],
            &["internal", "dial", "nobody.vm", "22"],
            &["vm", "port-forward", "asleep", "0:80"],
            &["vm", "port-forward", "nobody", "0:80"],
        ],
    );
    assert_snapshot!(shown, @r#"
    $ banger internal dial box.vm 7001
      | error: VM box takes no connection on port 7001: Connection refused
      | hint: a program in the guest has to listen on it, on localhost or on all its addresses
    => Some(1)
    $ banger internal dial asleep.vm 22
      | error: VM asleep is not running (created)
      | hint: start it: banger vm start asleep
    => Some(1)
    $ banger internal dial nobody.vm 22
      | error: there is no VM "nobody"
      | hint: banger vm list shows the VMs there are
    => Some(1)
    $ banger vm port-forward asleep 0:80
      | error: VM asleep is not running (created)
      | hint: start it: banger vm start asleep
    => Some(1)
    $ banger vm port-forward nobody 0:80
      | error: there is no VM "nobody"
      | hint: banger vm list shows the VMs there are
    => Some(1)
    "#);
}

#[test]
fn a_forwarded_port_serves_several_clients_and_ends_at_a_signal() {
    let world = Simulated::with_box();
    let server = serve_in(&world);
    let mut child = world.spawn(&["vm", "port-forward", "box", "0:7000", "localhost:0:7001"]);
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut places = Vec::new();
    for port in ["7000", "7001"] {
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let (here, there) = line.trim().split_once(" -> ").unwrap();
        assert_eq!(there, format!("box:{port}"));
        places.push(here.to_owned());
    }
    let ask = |place: &str, what: &[u8]| {
        let mut client = TcpStream::connect(place).unwrap();
        client.write_all(what).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        // A connection that is refused inside is closed, by a reset if it comes to that.
        let _ = client.read_to_end(&mut answer);
        answer
    };
    assert_eq!(ask(&places[0], b"one"), b"ONE");
    assert_eq!(ask(&places[0], b"two"), b"TWO");
    assert_eq!(ask(&places[1], b"three"), b"");
    // A daemon that is gone is started again by the next connection.
    world.banger(&["daemon", "stop"]);
    end(server);
    send("INT", &child);
    let run = world.left(child.wait_with_output().unwrap());
    assert_snapshot!(run, @"
    status: 130
    ----- stdout -----
    ----- stderr -----
    Ctrl-C ends it
    error: VM box takes no connection on port 7001: Connection refused
    hint: a program in the guest has to listen on it, on localhost or on all its addresses
    ");
}

#[test]
fn only_the_loopback_is_listened_on() {
    let world = World::new();
    assert_snapshot!(world.banger(&["vm", "port-forward", "box", "0.0.0.0:8080:80"]), @"
    status: 2
    ----- stdout -----
    ----- stderr -----
    error: invalid value '0.0.0.0:8080:80' for '<[[ADDRESS:]HOST:]PORT>...': 0.0.0.0 is not on the loopback: others on the network would reach the VM; to let them, put a proxy of your own before a port on 127.0.0.1

    For more information, try '--help'.
    ");
}
