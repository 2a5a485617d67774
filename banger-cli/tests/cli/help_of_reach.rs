//! The help of the verbs that reach a VM from the outside, look at it and change it.

use insta::assert_snapshot;

use crate::help::help;

#[test]
fn the_help_of_ssh_config() {
    assert_snapshot!(help(&["ssh-config"]), @"
    Let ssh, scp, rsync, git and editors reach VMs as NAME.vm

    Usage: banger ssh-config [OPTIONS]

    Options:
          --install    Include it in ~/.ssh/config, by three lines at its top; nothing else there is
                       touched
          --uninstall  Take those lines out again
      -q, --quiet      Say nothing but errors
      -v, --verbose    Also say what happens behind the scenes
      -h, --help       Print help

    Without a flag the configuration is printed, to be put wherever you like.

    Examples:
      banger ssh-config --install
      ssh box.vm
      scp notes.txt box.vm:
      rsync -a src/ box.vm:src/
      git clone box.vm:repo
    ");
}

#[test]
fn the_help_of_vm_cp() {
    assert_snapshot!(help(&["vm", "cp"]), @"
    Copy files and folders into a running VM or out of it

    Usage: banger vm cp [OPTIONS] <SRC>... <DST>

    Arguments:
      <SRC>...  Files or folders: PATH, NAME:PATH or -
      <DST>     Where to: PATH, NAME:PATH or -

    Options:
      -q, --quiet    Say nothing but errors
      -v, --verbose  Also say what happens behind the scenes
      -h, --help     Print help

    A path in a VM is NAME:PATH; one that is not absolute, or begins with ~/, begins in /root; a file
    here with such a name is ./NAME:PATH. - is standard input or
    output. As with cp -r, what is copied to a folder that is there goes into it, SRC/. is what is in
    SRC, and modes are kept as far as the umask allows. Several go into a folder that is there, each in
    turn: one that fails is told of and does not keep the others.

    What comes out of a VM is made beneath the folder that was named, and no link in there is followed:
    a link in the place of a file is replaced. In a path that you type, on either side, links are
    followed, unless a copy out of a VM has made them. Files, folders and links come; devices and named
    pipes are left out, and owners and set-uid bits do not come along.

    The holes of a file stay holes where both sides have GNU tar. A folder that changes while it is
    copied is told of, and what came is kept.

    Examples:
      banger vm cp notes.txt box:             a file, to /root/notes.txt
      banger vm cp *.log src box:/srv         files and folders, into a folder
      banger vm cp box:/var/log ./logs        a folder
      banger vm cp - box:/etc/motd <motd      standard input
    ");
}

#[test]
fn the_help_of_vm_port_forward() {
    assert_snapshot!(help(&["vm", "port-forward"]), @"
    Make ports of a running VM reachable on this host's loopback

    Usage: banger vm port-forward [OPTIONS] <NAME> <[[ADDRESS:]HOST:]PORT>...

    Arguments:
      <NAME>                      The VM's name, or at least four digits of its id
      <[[ADDRESS:]HOST:]PORT>...  A port in the guest, behind the same one here or another; 0 here is
                                  any that is free

    Options:
      -q, --quiet    Say nothing but errors
      -v, --verbose  Also say what happens behind the scenes
      -h, --help     Print help

    It stays until Ctrl-C, and needs no network in the VM but its ssh. What listens in the guest may
    do so on its loopback only.

    Examples:
      banger vm port-forward box 8080         127.0.0.1:8080 here is port 8080 there
      banger vm port-forward box 9000:80 0:22 9000 is 80; a free port, which is printed, is 22
    ");
}

#[test]
fn the_help_of_vm_console() {
    assert_snapshot!(help(&["vm", "console"]), @"
    Sit at the serial console of a running VM, also if its ssh is dead

    Usage: banger vm console [OPTIONS] <NAME>

    Arguments:
      <NAME>  The VM's name, or at least four digits of its id

    Options:
      -q, --quiet    Say nothing but errors
      -v, --verbose  Also say what happens behind the scenes
      -h, --help     Print help

    Ctrl-] leaves it; all other keys are the guest's. In an image of ours Enter opens a shell as root,
    without a password: who may use this daemon is root in its guests anyway. One at a time; everybody
    else can watch by: banger vm logs -f
    ");
}

#[test]
fn the_help_of_vm_stats() {
    assert_snapshot!(help(&["vm", "stats"]), @"
    Say what running VMs use of this host

    Usage: banger vm stats [OPTIONS] [NAME]...

    Arguments:
      [NAME]...  The VMs' names, or at least four digits of their ids; all that run if left out

    Options:
          --json     Print an array of objects
      -q, --quiet    Say nothing but errors
      -v, --verbose  Also say what happens behind the scenes
      -h, --help     Print help

    CPU is what the VM took of one processor in the last half second: two busy ones are 200%. MEMORY
    is what its monitor holds of this host, DISK and ROOT what its own disk and its changes to the
    image take here. To see it go on: watch banger vm stats
    ");
}

#[test]
fn the_help_of_vm_set() {
    assert_snapshot!(help(&["vm", "set"]), @"
    Change the processors, memory, disk or labels of VMs

    Usage: banger vm set [OPTIONS] <NAME>...

    Arguments:
      <NAME>...  The VMs' names, or at least four digits of their ids

    Options:
          --vcpu <N>           Virtual processors
          --memory <SIZE>      Memory: 512M, 4G; a bare number is MiB
          --disk-size <SIZE>   The size of its own disk, mounted at /root
          --label <KEY=VALUE>  A word of yours to keep with it; may be repeated
          --unlabel <KEY>      A word of yours to take away; may be repeated
      -q, --quiet              Say nothing but errors
      -v, --verbose            Also say what happens behind the scenes
      -h, --help               Print help

    Processors, memory and disk are changed while the VM is stopped; labels at any time. The disk
    only grows, and its file system grows with it at the next start.
    ");
}
