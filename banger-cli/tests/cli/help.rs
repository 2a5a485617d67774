//! The help of every verb, and command lines that are not understood.

use insta::assert_snapshot;

use crate::banger::World;

pub(crate) fn help(words: &[&str]) -> String {
    let mut words = words.to_vec();
    words.push("--help");
    let run = World::new().banger(&words);
    assert_eq!(run.status, Some(0), "{run}");
    assert_eq!(run.stderr, "");
    String::from_utf8(run.stdout).unwrap()
}

fn refused(words: &[&str]) -> String {
    let run = World::new().banger(words);
    assert_eq!(run.status, Some(2), "{run}");
    assert!(run.stdout.is_empty(), "{run}");
    run.stderr
}

#[test]
fn the_help_of_banger() {
    assert_snapshot!(help(&[]), @"
    Real Linux machines in one command

    Usage: banger [OPTIONS] <COMMAND>

    Commands:
      vm          Run, start, stop and look at VMs
      ps          List the VMs that run
      image       Make, list and delete what VMs boot from
      ssh-config  Let ssh, scp, rsync, git and editors reach VMs as NAME.vm
      doctor      Say what works on this host, what is picked and why; fails if no VM can be run
      daemon      Look after bangerd, which keeps the VMs
      completion  Write a completion script, to be used as: source <(banger completion bash)
      help        Print this message or the help of the given subcommand(s)

    Options:
      -q, --quiet    Say nothing but errors
      -v, --verbose  Also say what happens behind the scenes
      -h, --help     Print help
      -V, --version  Print version

    Exit status:
      0         done; for run, exec and ssh: the guest's command ended with 0
      1         the verb failed, or failed for one of several names
      2         the command line was not understood
      125       run, exec, ssh: banger itself failed, or the connection to the guest was lost
      126, 127  run, exec, ssh: the guest's command cannot be run, or is not there
      128+n     signal n ended the guest's command, or banger
      141       whoever read the output is gone (128+SIGPIPE)
      other     run, exec, ssh: what the guest's command ended with
      With a terminal (-t, shells) the command runs under ssh, which says 255 if its connection is lost.
    ");
}

#[test]
fn the_help_of_vm() {
    assert_snapshot!(help(&["vm"]), @r#"
    Run, start, stop and look at VMs

    Usage: banger vm [OPTIONS] <COMMAND>

    Commands:
      run           Create and start a VM, and run a command or a shell in it
      create        Create VMs without starting them
      start         Start VMs, and wait until they can be used
      stop          Stop VMs so that nothing is lost
      restart       Stop and start VMs
      kill          End VMs at once, as pulling the plug would
      delete        Delete VMs and their disks, running or not [alias: rm]
      prune         Delete VMs that are stopped
      set           Change the processors, memory, disk or labels of VMs
      list          List all VMs [alias: ls]
      show          Show all there is to know about VMs
      stats         Say what running VMs use of this host
      logs          Print what a VM wrote to its serial console
      exec          Run a command in a running VM
      ssh           Open a shell in a running VM
      cp            Copy files and folders into a running VM or out of it
      port-forward  Make ports of a running VM reachable on this host's loopback
      console       Sit at the serial console of a running VM, also if its ssh is dead
      session       Long-lived commands in a VM, which need nobody to run on
      workspace     A git repository of this host in a VM, and its changes back

    Options:
      -q, --quiet    Say nothing but errors
      -v, --verbose  Also say what happens behind the scenes
      -h, --help     Print help
    "#);
}

#[test]
fn the_help_of_vm_run() {
    assert_snapshot!(help(&["vm", "run"]), @"
    Create and start a VM, and run a command or a shell in it

    Usage: banger vm run [OPTIONS] [PATH] [-- <COMMAND>...]

    Arguments:
      [PATH]        A git repository to carry in, and to run the command in
      [COMMAND]...  The command and its arguments, passed on byte for byte; a shell if left out

    Options:
          --name <NAME>    What to call it; made up if left out
          --rm             Delete it afterwards
      -d, --detach         Only start it, and print its name; it runs on
          --explain        Say afterwards where the time went
          --export <FILE>  Write what the command changed in the repository to a file, whatever its exit
                           status
      -q, --quiet          Say nothing but errors
      -v, --verbose        Also say what happens behind the scenes
      -h, --help           Print help

    The command:
      -e, --env <KEY=VALUE>  Set a variable; KEY alone takes the value it has here; may be repeated
      -w, --workdir <DIR>    The folder in the guest to run in [default: the workspace, or /root]
      -t, --tty              Give it a terminal: ours
      -i, --interactive      Pass on standard input even if it is a terminal; from a file or a pipe it
                             always is
      -n, --no-stdin         Pass on no input, as loops that read a list need it: the command reads
                             /dev/null

    The machine:
          --image <IMAGE>      The image it boots from
          --vcpu <N>           Virtual processors
          --memory <SIZE>      Memory: 512M, 4G; a bare number is MiB
          --disk-size <SIZE>   The size of its own disk, mounted at /root
          --network <NETWORK>  The network: auto, user, tap or none
          --nat                Let it reach the internet; on the network user that is more: this host's
                               loopback and networks too
          --no-nat             Let it reach nothing, whatever the configuration says
          --vmm <VMM>          The monitor: auto, qemu or firecracker
          --disk <DISK>        The root disk: auto, overlay, dm-snapshot or file
          --nested             Let it run machines of its own (QEMU; emulated if need be)
          --label <KEY=VALUE>  A word of yours to keep with it; may be repeated

    The workspace:
          --full-copy          Carry all branches, tags, history and submodules, not only the last ten
                               commits
          --branch <BRANCH>    The branch to be on in the guest; made there
          --from <COMMIT>      The commit to check out in the guest [default: the one that is checked
                               out here]
          --include-untracked  Carry files that git does not track, too; ignored ones never are
          --guest-path <DIR>   The folder in the guest [default: /root/repo]
          --any-owner          Take a repository that belongs to another user

    Without --rm the VM runs on afterwards. With it the VM is deleted when this command ends,
    whatever ends it; only if --export fails it is kept, and named. For exit statuses see: banger --help

    Examples:
      banger vm run --rm -- uname -a
      banger vm run --rm ./repo --export changes.patch -- make test
      banger vm run --name box
      banger vm run -d --name box && banger vm exec box -- make test
      tar c src | banger vm run --rm -- tar xv
    ");
}

#[test]
fn the_help_of_vm_session() {
    assert_snapshot!(help(&["vm", "session"]), @r#"
    Long-lived commands in a VM, which need nobody to run on

    Usage: banger vm session [OPTIONS] <COMMAND>

    Commands:
      start   Start a command in a running VM, and return once it runs
      list    List a VM's sessions, oldest first [alias: ls]
      show    Show all there is to know about a session
      logs    Print what a session wrote, also after its VM has stopped
      send    Write to a session's standard input
      attach  Put a session's streams on ours, until it ends or is left
      stop    End a session: TERM to all its processes, and after a while KILL
      kill    Send a signal to all processes of a session
      delete  Delete a session and its logs, ending it first [alias: rm]

    Options:
      -q, --quiet    Say nothing but errors
      -v, --verbose  Also say what happens behind the scenes
      -h, --help     Print help

    A session is a command that runs on in the VM whatever becomes of the daemon, of banger and of
    the terminal. What it writes is kept in the VM, where its disk is the only limit; deleting the
    session frees it.

    Examples:
      banger vm session start box --name web --cwd /root/repo -- make serve
      banger vm session logs box web -f
      banger vm session start box --name agent --stdin pipe -- ./agent
      banger vm session send box agent --message '{"id": 1}'
      banger vm session attach box agent
    "#);
}

#[test]
fn the_help_of_vm_session_start() {
    assert_snapshot!(help(&["vm", "session", "start"]), @r#"
    Start a command in a running VM, and return once it runs

    Usage: banger vm session start [OPTIONS] <VM> -- <COMMAND>...

    Arguments:
      <VM>          The VM's name, or at least four digits of its id
      <COMMAND>...  The command and its arguments, passed on byte for byte

    Options:
          --name <NAME>        What to call it; made of the command's name if left out
      -w, --cwd <DIR>          The folder in the guest to run in [default: /root]
      -e, --env <KEY=VALUE>    Set a variable; KEY alone takes the value it has here; may be repeated
          --stdin <MODE>       What it reads: nothing, or what send and attach write [default: closed]
                               [possible values: closed, pipe]
          --require <COMMAND>  A command that the guest must have for it; may be repeated
          --tag <KEY=VALUE>    A word of yours to keep with it; may be repeated
          --json               Print the session as an object
      -q, --quiet              Say nothing but errors
      -v, --verbose            Also say what happens behind the scenes
      -h, --help               Print help

    Prints the session's name. It returns once the command runs, or has ended at once. What is
    missing (the folder, the command, a required command) fails it and is named; the record of a
    failed session is kept until it is deleted.
    "#);
}

#[test]
fn the_help_of_vm_session_logs() {
    assert_snapshot!(help(&["vm", "session", "logs"]), @r#"
    Print what a session wrote, also after its VM has stopped

    Usage: banger vm session logs [OPTIONS] <VM> <SESSION>

    Arguments:
      <VM>       The VM's name, or at least four digits of its id
      <SESSION>  The session's name, or at least four digits of its id

    Options:
          --stream <STREAM>  Which log [default: stdout] [possible values: stdout, stderr]
      -n, --lines <N>        Begin with this many last lines [default: 200]
          --offset <BYTE>    Begin with this byte
      -a, --all              Begin with the first byte
      -f, --follow           Go on with what comes, until the session ends
          --json             Print an object a line: stream, offset and data of a piece
      -q, --quiet            Say nothing but errors
      -v, --verbose          Also say what happens behind the scenes
      -h, --help             Print help

    With --offset reading goes on exactly where an earlier one ended. -f loses and repeats no byte
    when the connection to the guest or the daemon is lost, and ends when the session does.
    "#);
}

#[test]
fn the_help_of_vm_session_send() {
    assert_snapshot!(help(&["vm", "session", "send"]), @r#"
    Write to a session's standard input

    Usage: banger vm session send [OPTIONS] <VM> <SESSION>

    Arguments:
      <VM>       The VM's name, or at least four digits of its id
      <SESSION>  The session's name, or at least four digits of its id

    Options:
      -m, --message <TEXT>  Send this text, and a newline after it
          --no-newline      Send no newline after the message
          --eof             End the session's standard input afterwards, for good
          --json            Print what was delivered as an object
      -q, --quiet           Say nothing but errors
      -v, --verbose         Also say what happens behind the scenes
      -h, --help            Print help

    Without --message standard input is sent, line by line as lines come, to its end. What is sent
    in one go arrives whole, beside other senders: a message, or as many whole lines as there are,
    up to 640 KiB. (Beside somebody who is attached and types, up to 4096 bytes do.) It has arrived
    when send ends with 0; what the command does not read within 10 s is told.
    "#);
}

#[test]
fn the_help_of_vm_session_attach() {
    assert_snapshot!(help(&["vm", "session", "attach"]), @r#"
    Put a session's streams on ours, until it ends or is left

    Usage: banger vm session attach [OPTIONS] <VM> <SESSION>

    Arguments:
      <VM>       The VM's name, or at least four digits of its id
      <SESSION>  The session's name, or at least four digits of its id

    Options:
      -n, --lines <N>             Begin with this many last lines of both logs [default: 200]
          --stdout-offset <BYTE>  Begin with this byte of standard output
          --stderr-offset <BYTE>  Begin with this byte of standard error
          --no-stdin              Only watch: pass on no input
          --json                  Print an object a piece; the last one says how it ended
      -q, --quiet                 Say nothing but errors
      -v, --verbose               Also say what happens behind the scenes
      -h, --help                  Print help

    One client at a time: a second one is told who is attached. Ctrl-] leaves the session, which
    runs on; it also does whatever ends banger. Ctrl-C goes to the session's processes; a second one
    within a second leaves. The end of our input is not that of the session's: for that there is
    send --eof.

    Exit status:
      0       the session ended with 0, or was left
      124     refused: somebody else is attached, or there is no such session
      125     how the session ended is not known: its VM was stopped or deleted, or does not answer
      128+n   signal n ended the session's command, or banger
      other   what the session's command ended with
    What a session ended with by itself is told from the rest by --json: its last object says it.
    "#);
}

#[test]
fn the_help_of_vm_create() {
    assert_snapshot!(help(&["vm", "create"]), @"
    Create VMs without starting them

    Usage: banger vm create [OPTIONS] [NAME]...

    Arguments:
      [NAME]...  What to call them; one VM with a made-up name if none is given

    Options:
      -q, --quiet    Say nothing but errors
      -v, --verbose  Also say what happens behind the scenes
      -h, --help     Print help

    The machine:
          --image <IMAGE>      The image it boots from
          --vcpu <N>           Virtual processors
          --memory <SIZE>      Memory: 512M, 4G; a bare number is MiB
          --disk-size <SIZE>   The size of its own disk, mounted at /root
          --network <NETWORK>  The network: auto, user, tap or none
          --nat                Let it reach the internet; on the network user that is more: this host's
                               loopback and networks too
          --no-nat             Let it reach nothing, whatever the configuration says
          --vmm <VMM>          The monitor: auto, qemu or firecracker
          --disk <DISK>        The root disk: auto, overlay, dm-snapshot or file
          --nested             Let it run machines of its own (QEMU; emulated if need be)
          --label <KEY=VALUE>  A word of yours to keep with it; may be repeated
    ");
}

#[test]
fn the_help_of_vm_start() {
    assert_snapshot!(help(&["vm", "start"]), @"
    Start VMs, and wait until they can be used

    Usage: banger vm start [OPTIONS] <NAME>...

    Arguments:
      <NAME>...  The VMs' names, or at least four digits of their ids

    Options:
      -q, --quiet    Say nothing but errors
      -v, --verbose  Also say what happens behind the scenes
      -h, --help     Print help
    ");
}

#[test]
fn the_help_of_vm_stop() {
    assert_snapshot!(help(&["vm", "stop"]), @"
    Stop VMs so that nothing is lost

    Usage: banger vm stop [OPTIONS] <NAME>...

    Arguments:
      <NAME>...  The VMs' names, or at least four digits of their ids

    Options:
          --timeout <DURATION>  How long a guest may take for its own power-off: 90, 90s, 5m, 1h
                                [default: 30s]
      -q, --quiet               Say nothing but errors
      -v, --verbose             Also say what happens behind the scenes
      -h, --help                Print help

    The guest is told to power off. A program in it that does not heed that is killed; when the time is
    nearly over the guest writes its disks and switches itself off. One that does not even do that runs
    on, and this fails: banger vm kill ends it, and cuts a stop in progress short.
    ");
}

#[test]
fn the_help_of_vm_kill() {
    assert_snapshot!(help(&["vm", "kill"]), @"
    End VMs at once, as pulling the plug would

    Usage: banger vm kill [OPTIONS] <NAME>...

    Arguments:
      <NAME>...  The VMs' names, or at least four digits of their ids

    Options:
      -q, --quiet    Say nothing but errors
      -v, --verbose  Also say what happens behind the scenes
      -h, --help     Print help
    ");
}

#[test]
fn the_help_of_vm_restart() {
    assert_snapshot!(help(&["vm", "restart"]), @"
    Stop and start VMs

    Usage: banger vm restart [OPTIONS] <NAME>...

    Arguments:
      <NAME>...  The VMs' names, or at least four digits of their ids

    Options:
      -q, --quiet    Say nothing but errors
      -v, --verbose  Also say what happens behind the scenes
      -h, --help     Print help
    ");
}

#[test]
fn the_help_of_vm_delete() {
    assert_snapshot!(help(&["vm", "delete"]), @"
    Delete VMs and their disks, running or not

    Usage: banger vm delete [OPTIONS] <NAME>...

    Arguments:
      <NAME>...  The VMs' names, or at least four digits of their ids

    Options:
      -q, --quiet    Say nothing but errors
      -v, --verbose  Also say what happens behind the scenes
      -h, --help     Print help
    ");
}

#[test]
fn the_help_of_vm_list() {
    assert_snapshot!(help(&["vm", "list"]), @"
    List all VMs

    Usage: banger vm list [OPTIONS]

    Options:
          --json                 Print an array of VMs
          --label <KEY[=VALUE]>  Only those with this label, of whatever value if none is given; all, if
                                 it is repeated
      -q, --quiet                Say nothing but errors
      -v, --verbose              Also say what happens behind the scenes
      -h, --help                 Print help
    ");
}

#[test]
fn the_help_of_vm_show() {
    assert_snapshot!(help(&["vm", "show"]), @"
    Show all there is to know about VMs

    Usage: banger vm show [OPTIONS] <NAME>...

    Arguments:
      <NAME>...  The VMs' names, or at least four digits of their ids

    Options:
          --json     Print an array of VMs, also for one
      -q, --quiet    Say nothing but errors
      -v, --verbose  Also say what happens behind the scenes
      -h, --help     Print help
    ");
}

#[test]
fn the_help_of_vm_exec() {
    assert_snapshot!(help(&["vm", "exec"]), @r#"
    Run a command in a running VM

    Usage: banger vm exec [OPTIONS] <NAME> <COMMAND>...

    Arguments:
      <NAME>        The VM's name, or at least four digits of its id
      <COMMAND>...  The command and its arguments, passed on byte for byte

    Options:
          --auto-prepare  Bring the VM's workspace up to date first, if the repository here has changed
      -q, --quiet         Say nothing but errors
      -v, --verbose       Also say what happens behind the scenes
      -h, --help          Print help

    The command:
      -e, --env <KEY=VALUE>  Set a variable; KEY alone takes the value it has here; may be repeated
      -w, --workdir <DIR>    The folder in the guest to run in [default: the workspace, or /root]
      -t, --tty              Give it a terminal: ours
      -i, --interactive      Pass on standard input even if it is a terminal; from a file or a pipe it
                             always is
      -n, --no-stdin         Pass on no input, as loops that read a list need it: the command reads
                             /dev/null

    Ctrl-C, SIGTERM, SIGHUP and SIGQUIT go to the command and all its children; a second Ctrl-C
    within a second ends banger itself, and so does any other of them that comes twice. For exit
    statuses see: banger --help
    "#);
}

#[test]
fn the_help_of_vm_ssh() {
    assert_snapshot!(help(&["vm", "ssh"]), @"
    Open a shell in a running VM

    Usage: banger vm ssh [OPTIONS] <NAME> [-- <COMMAND>...]

    Arguments:
      <NAME>        The VM's name, or at least four digits of its id
      [COMMAND]...  What to run instead of a shell: one word is a line for the guest's shell, several
                    are a command and its arguments

    Options:
      -q, --quiet    Say nothing but errors
      -v, --verbose  Also say what happens behind the scenes
      -h, --help     Print help
    ");
}

#[test]
fn the_help_of_vm_logs() {
    assert_snapshot!(help(&["vm", "logs"]), @"
    Print what a VM wrote to its serial console

    Usage: banger vm logs [OPTIONS] <NAME>

    Arguments:
      <NAME>  The VM's name, or at least four digits of its id

    Options:
      -n, --lines <N>  At most this many last lines; all that is kept if left out
      -f, --follow     Go on with what comes, until the VM ends
          --json       Print the text and the file's path as an object
      -q, --quiet      Say nothing but errors
      -v, --verbose    Also say what happens behind the scenes
      -h, --help       Print help
    ");
}

#[test]
fn the_help_of_ps() {
    assert_snapshot!(help(&["ps"]), @"
    List the VMs that run

    Usage: banger ps [OPTIONS]

    Options:
      -a, --all                  Also those that do not run
          --json                 Print an array of VMs
          --label <KEY[=VALUE]>  Only those with this label, of whatever value if none is given; all, if
                                 it is repeated
      -q, --quiet                Say nothing but errors
      -v, --verbose              Also say what happens behind the scenes
      -h, --help                 Print help
    ");
}

#[test]
fn the_help_of_daemon() {
    assert_snapshot!(help(&["daemon"]), @"
    Look after bangerd, which keeps the VMs

    Usage: banger daemon [OPTIONS] <COMMAND>

    Commands:
      status     Show the daemon that runs; starts none
      stop       End the daemon; the VMs run on
      reconcile  Make the records and the host agree again

    Options:
      -q, --quiet    Say nothing but errors
      -v, --verbose  Also say what happens behind the scenes
      -h, --help     Print help
    ");
}

#[test]
fn the_help_of_daemon_status() {
    assert_snapshot!(help(&["daemon", "status"]), @"
    Show the daemon that runs; starts none

    Usage: banger daemon status [OPTIONS]

    Options:
          --json     Print an object
      -q, --quiet    Say nothing but errors
      -v, --verbose  Also say what happens behind the scenes
      -h, --help     Print help
    ");
}

#[test]
fn the_help_of_daemon_stop() {
    assert_snapshot!(help(&["daemon", "stop"]), @"
    End the daemon; the VMs run on

    Usage: banger daemon stop [OPTIONS]

    Options:
      -q, --quiet    Say nothing but errors
      -v, --verbose  Also say what happens behind the scenes
      -h, --help     Print help
    ");
}

#[test]
fn the_help_of_daemon_reconcile() {
    assert_snapshot!(help(&["daemon", "reconcile"]), @"
    Make the records and the host agree again

    Usage: banger daemon reconcile [OPTIONS]

    Options:
          --dry-run  Only say what would be done
          --json     Print the answer as an object
      -q, --quiet    Say nothing but errors
      -v, --verbose  Also say what happens behind the scenes
      -h, --help     Print help
    ");
}

#[test]
fn the_help_of_doctor() {
    assert_snapshot!(help(&["doctor"]), @"
    Say what works on this host, what is picked and why; fails if no VM can be run

    Usage: banger doctor [OPTIONS]

    Options:
          --prove    Instead, list everything on the host that is banger's, with its owner; fails if
                     something is nobody's
          --fix      Then remove what is nobody's
          --json     Print the report as an object
      -q, --quiet    Say nothing but errors
      -v, --verbose  Also say what happens behind the scenes
      -h, --help     Print help
    ");
}

#[test]
fn the_help_of_completion() {
    assert_snapshot!(help(&["completion"]), @"
    Write a completion script, to be used as: source <(banger completion bash)

    Usage: banger completion [OPTIONS] <SHELL>

    Arguments:
      <SHELL>  The shell [possible values: bash, zsh, fish]

    Options:
      -q, --quiet    Say nothing but errors
      -v, --verbose  Also say what happens behind the scenes
      -h, --help     Print help
    ");
}

#[test]
fn a_size_of_nonsense_names_the_flag() {
    assert_snapshot!(refused(&["vm", "create", "--memory", "4Gigs"]), @"
    error: invalid value '4Gigs' for '--memory <SIZE>': the units are M (also none), G and T, such as 512M or 4G

    For more information, try '--help'.
    ");
}

#[test]
fn a_fraction_of_a_size_says_what_to_write_instead() {
    assert_snapshot!(refused(&["vm", "create", "--disk-size", "1.5G"]), @"
    error: invalid value '1.5G' for '--disk-size <SIZE>': a size is a whole number: 1536M rather than 1.5G

    For more information, try '--help'.
    ");
}

#[test]
fn a_variable_without_a_name_is_refused() {
    assert_snapshot!(refused(&["vm", "exec", "-e", "=x", "box", "true"]), @"
    error: invalid value '=x' for '--env <KEY=VALUE>': a variable is KEY=VALUE, or KEY for the value it has here

    For more information, try '--help'.
    ");
}

#[test]
fn a_label_without_a_key_is_refused() {
    assert_snapshot!(refused(&["vm", "create", "--label", "=x"]), @"
    error: invalid value '=x' for '--label <KEY=VALUE>': a label is KEY=VALUE

    For more information, try '--help'.
    ");
}

#[test]
fn a_command_without_dashes_is_told_where_they_go() {
    assert_snapshot!(refused(&["vm", "run", "uname"]), @r#"
    error: a command is given after --, and "uname" is not
    hint: banger vm run -- uname …
    "#);
}

#[test]
fn a_verb_without_a_name_is_refused() {
    assert_snapshot!(refused(&["vm", "stop"]), @"
    error: the following required arguments were not provided:
      <NAME>...

    Usage: banger vm stop <NAME>...

    For more information, try '--help'.
    ");
}

#[test]
fn a_mistyped_verb_is_guessed() {
    assert_snapshot!(refused(&["vm", "strat", "box"]), @"
    error: unrecognized subcommand 'strat'

      tip: some similar subcommands exist: 'create', 'restart', 'stats', 'start'

    Usage: banger vm [OPTIONS] <COMMAND>

    For more information, try '--help'.
    ");
}

#[test]
fn exec_without_a_command_is_refused() {
    assert_snapshot!(refused(&["vm", "exec", "box"]), @"
    error: the following required arguments were not provided:
      <COMMAND>...

    Usage: banger vm exec <NAME> <COMMAND>...

    For more information, try '--help'.
    ");
}

#[test]
fn quiet_and_verbose_contradict_each_other() {
    assert_snapshot!(refused(&["-q", "-v", "ps"]), @"
    error: the argument '--quiet' cannot be used with '--verbose'

    Usage: banger --quiet <COMMAND>

    For more information, try '--help'.
    ");
}

#[test]
fn the_version_is_that_of_the_protocol() {
    let run = World::new().banger(&["--version"]);
    let version = format!("banger {}\n", banger_daemon::protocol::VERSION);
    assert_eq!(run.stdout, version.as_bytes());
}
