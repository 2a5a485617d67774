//! `vm cp`, against guests that run real commands.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command};

use insta::assert_snapshot;

use crate::banger::World;
use crate::sessions::terminal;
use crate::simulator::{Simulated, send, session, until};

/// Bytes of all kinds, among them those that mean something to terminals and shells.
fn blob() -> Vec<u8> {
    (0..3_000_017_u32).map(|n| ((n * 7) >> 3) as u8).collect()
}

fn copied(world: &World, from: &str, to: &str) {
    let run = world.banger(&["vm", "cp", from, to]);
    assert_eq!(run.status, Some(0), "{from} to {to}: {run}");
    assert_eq!((run.stdout.as_slice(), run.stderr.as_str()), (&b""[..], ""));
}

fn in_guest(world: &World, script: &str) -> String {
    let run = world.banger(&["vm", "exec", "box", "sh", "-c", script]);
    assert_eq!(run.status, Some(0), "{script}: {run}");
    String::from_utf8(run.stdout).unwrap()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_file_arrives_whole_and_with_its_mode_and_comes_back_so() {
    let world = Simulated::with_box();
    let file = world.path().join("blob");
    fs::write(&file, blob()).unwrap();
    set_mode(&file, 0o750);
    copied(&world, "blob", "box:");
    assert_eq!(
        in_guest(&world, "stat -c '%a %s' blob; ls -A"),
        "750 3000017\nblob\n"
    );
    copied(&world, "box:blob", "back");
    assert!(fs::read(world.path().join("back")).unwrap() == blob());
    assert_eq!(mode(&world.path().join("back")), 0o750);
    // Over what is there, and into a folder.
    copied(&world, "box:blob", "back");
    fs::create_dir(world.path().join("folder")).unwrap();
    copied(&world, "box:/root/blob", "folder");
    assert!(fs::read(world.path().join("folder/blob")).unwrap() == blob());
    in_guest(&world, "mkdir -p a/b; ln -s ../blob a/link; : >empty");
    copied(&world, "back", "box:a/b");
    copied(&world, "folder/blob", "box:a/b/other name");
    copied(&world, "box:empty", "empty");
    copied(&world, "empty", "box:a/link");
    let seen = in_guest(&world, "ls a/b; test -L a/link && stat -c %s blob");
    assert_eq!(seen, "back\nother name\n0\n", "a link stays one");
    assert_eq!(fs::read(world.path().join("empty")).unwrap(), b"");
}

#[test]
fn several_go_into_a_folder_and_one_that_fails_does_not_keep_the_others() {
    let world = Simulated::with_box();
    fs::write(world.path().join("a"), "a").unwrap();
    fs::write(world.path().join("b"), "b").unwrap();
    fs::create_dir_all(world.path().join("tree/deep")).unwrap();
    fs::create_dir(world.path().join("here")).unwrap();
    let shown = session(
        &world,
        &[
            &["vm", "cp", "a", "b", "tree", "box:"],
            &["vm", "exec", "box", "sh", "-c", "find * | sort"],
            &["vm", "cp", "a", "tree", "box:/root/nowhere"],
            &["vm", "cp", "a", "tree", "box:/root/b"],
            &["vm", "exec", "box", "cat", "b"],
            &["vm", "cp", "a", "missing", "b", "box:tree"],
            &["vm", "exec", "box", "ls", "tree"],
            &["vm", "cp", "box:a", "box:tree", "here"],
            &["vm", "cp", "box:a", "box:b", "elsewhere"],
            &["vm", "cp", "box:a", "box:b", "-"],
        ],
    );
    assert_snapshot!(shown, @"
    $ banger vm cp a b tree box:
    $ banger vm exec box sh -c find * | sort
    a
    b
    tree
    tree/deep
    $ banger vm cp a tree box:/root/nowhere
      | error: cannot copy to box:/root/nowhere
      | caused by: there is no folder /root/nowhere/
      | error: cannot copy to box:/root/nowhere
      | caused by: there is no folder /root/nowhere
    => Some(1)
    $ banger vm cp a tree box:/root/b
      | error: cannot copy to box:/root/b
      | caused by: /root/b is no folder
      | error: cannot copy to box:/root/b
      | caused by: /root/b is no folder
    => Some(1)
    $ banger vm exec box cat b
    b$ banger vm cp a missing b box:tree
      | error: cannot read missing
      | caused by: No such file or directory (os error 2)
    => Some(1)
    $ banger vm exec box ls tree
    a
    b
    deep
    $ banger vm cp box:a box:tree here
    $ banger vm cp box:a box:b elsewhere
      | error: there is no folder elsewhere
    => Some(1)
    $ banger vm cp box:a box:b -
      | error: standard output takes one file
      | hint: one after the other: banger vm cp NAME:PATH -
    => Some(1)
    ");
    assert!(world.path().join("here/tree/b").is_file());
}

#[test]
fn standard_input_and_output_are_sides_too() {
    let world = Simulated::with_box();
    let run = world.banger_reads(&["vm", "cp", "-", "box:blob"], &blob());
    assert_eq!(run.status, Some(0), "{run}");
    let run = world.banger(&["vm", "cp", "box:blob", "-"]);
    assert_eq!(run.status, Some(0), "{}", run.stderr);
    assert!(run.stdout == blob(), "{} bytes came", run.stdout.len());
}

#[test]
fn a_folder_arrives_with_its_links_and_modes_and_is_added_to() {
    let world = Simulated::with_box();
    let tree = world.path().join("tree");
    fs::create_dir_all(tree.join("deep/er")).unwrap();
    fs::write(tree.join("deep/er/secret"), "s").unwrap();
    set_mode(&tree.join("deep/er/secret"), 0o600);
    set_mode(&tree.join("deep"), 0o711);
    symlink("deep/er", tree.join("link")).unwrap();

    copied(&world, "tree", "box:new");
    let seen = in_guest(
        &world,
        "cd new; stat -c '%n %a %u' deep deep/er/secret; readlink link",
    );
    assert_eq!(seen, "deep 711 0\ndeep/er/secret 600 0\ndeep/er\n");
    in_guest(&world, "echo mine >new/mine; chmod 700 new");
    // Into it, because it is there now; and what is in it, on top of what is there.
    copied(&world, "tree", "box:new");
    copied(&world, "tree/.", "box:new");
    let seen = in_guest(&world, "stat -c %a new; ls new new/tree");
    assert_eq!(
        seen,
        "700\nnew:\ndeep\nlink\nmine\ntree\n\nnew/tree:\ndeep\nlink\n"
    );

    copied(&world, "box:new/tree", "back");
    let back = world.path().join("back");
    assert_eq!(
        fs::read_link(back.join("link")).unwrap(),
        Path::new("deep/er")
    );
    assert_eq!(mode(&back.join("deep/er/secret")), 0o600);
    assert_eq!(mode(&back.join("deep")), 0o711);
    copied(&world, "box:new", "back");
    assert!(back.join("new/mine").exists());
}

#[test]
fn what_a_guest_sends_stays_below_its_folder_and_gives_nobody_rights() {
    let world = Simulated::with_box();
    // A folder whose tar is not what tar would make of it.
    let evil = "mkdir trap made; cp /usr/bin/tar real; cp /bin/true made/set; chmod 4755 made/set; \
                touch made/up made/abs; \
                printf '%s\\n' '#!/bin/sh' 'cd /root/made && exec /root/real -cP -f - \
                --transform s,^up,../up,\\;s,^abs,/tmp/banger-escape, set up abs' >fake; \
                chmod 755 fake; mount --bind fake /usr/bin/tar";
    let run = world.banger(&["vm", "exec", "box", "sh", "-c", evil]);
    if run.status == Some(0) {
        fs::create_dir(world.path().join("in")).unwrap();
        world.banger(&["vm", "cp", "box:trap", "in/got"]);
        assert!(!world.path().join("up").exists() && !world.path().join("in/up").exists());
        assert!(!Path::new("/tmp/banger-escape").exists());
        let set = world.path().join("in/got/set");
        assert!(!set.exists() || mode(&set) & 0o6000 == 0);
    } else {
        eprintln!("SKIP: no program can be replaced in this guest: {run}");
    }
    in_guest(
        &world,
        "mountpoint -q /usr/bin/tar && umount /usr/bin/tar; mkdir plain; cp /bin/true plain/set; chmod 6755 plain/set",
    );
    copied(&world, "box:plain", "plain");
    assert_eq!(mode(&world.path().join("plain/set")) & 0o6000, 0);
}

#[test]
fn what_cannot_be_copied_is_told_and_leaves_nothing() {
    let world = Simulated::with_box();
    fs::write(world.path().join("file"), "x").unwrap();
    fs::create_dir(world.path().join("folder")).unwrap();
    in_guest(&world, "mkdir folder; mkfifo pipe; echo n >note");
    let shown = session(
        &world,
        &[
            &["vm", "cp", "file", "other"],
            &["vm", "cp", "box:a", "box:b"],
            &["vm", "cp", "gone", "box:"],
            &["vm", "cp", "file", "box:gone/file"],
            &["vm", "cp", "file", "box:new/"],
            &["vm", "cp", "file", "box:pipe"],
            &["vm", "cp", "-", "box:folder"],
            &["vm", "cp", "folder", "box:pipe"],
            &["vm", "cp", "folder", "box:gone/new"],
            &["vm", "cp", "box:gone", "there"],
            &["vm", "cp", "box:pipe", "there"],
            &["vm", "cp", "box:folder", "-"],
            &["vm", "cp", "box:note", "gone/there"],
            &["vm", "cp", "box:folder", "file"],
            &["vm", "cp", "", "box:"],
            &["vm", "cp", "file", "nobody:"],
        ],
    );
    assert_snapshot!(shown, @r#"
    $ banger vm cp file other
      | error: one side of a copy is in a VM: NAME:PATH
      | hint: a file here with such a name is ./NAME:PATH
    => Some(1)
    $ banger vm cp box:a box:b
      | error: one side of a copy is on this host
      | hint: by way of it: banger vm cp box:a - | banger vm cp - box:b
    => Some(1)
    $ banger vm cp gone box:
      | error: cannot read gone
      | caused by: No such file or directory (os error 2)
    => Some(1)
    $ banger vm cp file box:gone/file
      | error: cannot copy to box:gone/file
      | caused by: there is no folder gone/
    => Some(1)
    $ banger vm cp file box:new/
      | error: cannot copy to box:new/
      | caused by: there is no folder new/
    => Some(1)
    $ banger vm cp file box:pipe
      | error: cannot copy to box:pipe
      | caused by: pipe is no plain file
    => Some(1)
    $ banger vm cp - box:folder
      | error: cannot copy to box:folder
      | caused by: folder is a folder: name a file in it
    => Some(1)
    $ banger vm cp folder box:pipe
      | error: cannot copy to box:pipe
      | caused by: pipe is no folder
    => Some(1)
    $ banger vm cp folder box:gone/new
      | error: cannot copy to box:gone/new
      | caused by: cannot make the folder gone/new
    => Some(1)
    $ banger vm cp box:gone there
      | error: cannot copy box:gone
      | caused by: there is no file or folder gone
    => Some(1)
    $ banger vm cp box:pipe there
      | error: cannot copy box:pipe
      | caused by: pipe is neither a file nor a folder
    => Some(1)
    $ banger vm cp box:folder -
      | error: cannot copy box:folder
      | caused by: folder is a folder
    => Some(1)
    $ banger vm cp box:note gone/there
      | error: there is no folder gone
    => Some(1)
    $ banger vm cp box:folder file
      | error: file is no folder, and what is copied is one
      | hint: name another place for it
    => Some(1)
    $ banger vm cp  box:
      | error: the name of a source or target is empty
      | hint: a file here is PATH, one in a VM NAME:PATH, and standard input or output -
    => Some(1)
    $ banger vm cp file nobody:
      | error: there is no VM "nobody"
      | hint: banger vm list shows the VMs there are
      | hint: a file here with such a name is ./nobody:
    => Some(1)
    "#);
    assert_eq!(
        in_guest(&world, "ls -A | grep -v '^\\.[bp]'"),
        "folder\nnote\npipe\n"
    );
    let left = fs::read_dir(world.path()).unwrap();
    let left = left.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with(".banger-cp")
    });
    assert_eq!(left.count(), 0);
}

#[test]
fn a_copy_that_is_killed_leaves_the_old_file_in_its_place() {
    let world = Simulated::with_box();
    in_guest(&world, "echo old >file");
    let child = world.spawn(&["vm", "cp", "-", "box:file"]);
    let part = || in_guest(&world, "ls -A | grep -c '^.banger-cp' || :");
    until("the copy begins", || part() == "1\n");
    send("KILL", &child);
    drop(child.wait_with_output());
    until("the guest cleans up", || part() == "0\n");
    assert_eq!(in_guest(&world, "cat file"), "old\n");
}

#[test]
fn a_link_that_came_out_of_a_guest_leads_no_later_copy_anywhere() {
    let world = Simulated::with_box();
    let secrets = world.path().join("home/.ssh");
    fs::create_dir_all(&secrets).unwrap();
    fs::write(secrets.join("authorized_keys"), "mine").unwrap();
    fs::write(world.path().join("home/.bashrc"), "mine").unwrap();
    let target = secrets.to_str().unwrap();
    let shell = world.path().join("home/.bashrc");
    // A folder that is a link first, and then a folder with something in it.
    in_guest(
        &world,
        &format!(
            "mkdir -p out/x; ln -s {target} out/d; ln -s {} out/result.txt",
            shell.display()
        ),
    );
    copied(&world, "box:out", "out");
    in_guest(
        &world,
        "rm out/d out/result.txt; mkdir out/d; echo theirs >out/d/authorized_keys; echo theirs >out/result.txt",
    );
    let run = world.banger(&["vm", "cp", "box:out/.", "out"]);
    assert_eq!(run.status, Some(1), "{run}");
    assert!(run.stderr.contains("out/d"), "{}", run.stderr);
    for (from, to) in [
        ("box:out/d", "out/d"),
        ("box:out/d/.", "out/d"),
        ("box:out/d/authorized_keys", "out/d"),
    ] {
        let run = world.banger(&["vm", "cp", from, to]);
        assert_eq!(run.status, Some(1), "{from} to {to}: {run}");
        assert!(run.stderr.contains("came out of a guest"), "{}", run.stderr);
    }
    // On the way to the target, and in a source: what it leads to is not carried in.
    for (from, to) in [
        ("box:out/d", "out/d/pwned"),
        ("box:out/d", "out/d/."),
        ("out/d", "box:"),
        ("out/d/", "box:"),
        ("out/d/authorized_keys", "box:taken"),
    ] {
        let run = world.banger(&["vm", "cp", from, to]);
        assert_eq!(run.status, Some(1), "{from} to {to}: {run}");
        assert!(run.stderr.contains("came out of a guest"), "{}", run.stderr);
    }
    assert_eq!(
        in_guest(&world, "cat taken 2>/dev/null || echo none"),
        "none\n"
    );
    for words in [
        &["vm", "workspace", "prepare", "box", "out/d"][..],
        &["vm", "workspace", "export", "box", "-o", "out/d/patch"],
        &[
            "image", "register", "x", "--rootfs", "out/d", "--kernel", "out/d",
        ],
    ] {
        let run = world.banger(words);
        assert_eq!(run.status, Some(1), "{words:?}: {run}");
        assert!(run.stderr.contains("came out of a guest"), "{}", run.stderr);
    }
    // A file that is a link: by its folder it is replaced, by its name refused.
    copied(&world, "box:out/result.txt", "out");
    assert!(
        !fs::symlink_metadata(world.path().join("out/result.txt"))
            .unwrap()
            .is_symlink()
    );
    assert_eq!(fs::read(&shell).unwrap(), b"mine");
    assert_eq!(fs::read(secrets.join("authorized_keys")).unwrap(), b"mine");
    assert_eq!(fs::read_dir(&secrets).unwrap().count(), 1);
    let half = fs::read_dir(world.path().join("out")).unwrap();
    for entry in half {
        let name = entry.unwrap().file_name();
        assert!(
            !name.to_string_lossy().starts_with(".banger-cp"),
            "{name:?}"
        );
    }
}

#[test]
fn a_link_of_the_users_own_is_followed_if_it_was_typed_and_replaced_if_it_was_not() {
    let world = Simulated::with_box();
    fs::write(world.path().join("real"), "old").unwrap();
    symlink("real", world.path().join("link")).unwrap();
    fs::create_dir(world.path().join("folder")).unwrap();
    symlink("../real", world.path().join("folder/new")).unwrap();
    in_guest(&world, "echo guest >new");
    copied(&world, "box:new", "link");
    assert_eq!(fs::read(world.path().join("real")).unwrap(), b"guest\n");
    fs::write(world.path().join("real"), "old").unwrap();
    copied(&world, "box:new", "folder");
    assert_eq!(fs::read(world.path().join("real")).unwrap(), b"old");
    assert_eq!(
        fs::read(world.path().join("folder/new")).unwrap(),
        b"guest\n"
    );
}

#[test]
fn a_copy_that_waits_at_a_pipe_ends_when_it_is_told_to() {
    let world = Simulated::with_box();
    in_guest(&world, "yes | head -c 3000000 >file");
    let pipe = world.path().join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let threads = |child: &Child| {
        let tasks = fs::read_dir(format!("/proc/{}/task", child.id()));
        tasks.map_or(0, |tasks| tasks.count())
    };
    for (signal, status) in [("INT", 130), ("TERM", 143)] {
        // Nobody reads it, or writes into it.
        for words in [["box:file", "pipe"], ["pipe", "box:taken"]] {
            let child = world.spawn(&["vm", "cp", words[0], words[1]]);
            until("a thread waits at the pipe", || threads(&child) > 1);
            send(signal, &child);
            let run = world.left(child.wait_with_output().unwrap());
            assert_eq!(run.status, Some(status), "{words:?}: {run}");
        }
        // Somebody has it open, and does not read; on standard output as well.
        let reader = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&pipe)
            .unwrap();
        for target in ["pipe", "-"] {
            let mut command = world.command(&["vm", "cp", "box:file", target]);
            let child = command.stdout(reader.try_clone().unwrap()).spawn().unwrap();
            until("the pipe is full", || {
                rustix::io::ioctl_fionread(&reader).unwrap() >= 65536
            });
            send(signal, &child);
            let run = world.left(child.wait_with_output().unwrap());
            assert_eq!(run.status, Some(status), "{target}: {run}");
            let mut drained = vec![0; 65536];
            (&reader).read_exact(&mut drained).unwrap();
        }
    }
}

#[test]
fn a_copy_to_a_descriptor_s_name_goes_to_what_is_open_there() {
    let world = Simulated::with_box();
    in_guest(&world, "echo guest >file");
    let path = world.path().join("log");
    fs::write(&path, "before\n").unwrap();
    let before = fs::metadata(&path).unwrap().ino();
    for target in ["/dev/stdout", "/proc/self/fd/1", "/dev/fd/1"] {
        let log = OpenOptions::new().append(true).open(&path).unwrap();
        let mut command = world.command(&["vm", "cp", "box:file", target]);
        assert!(command.stdout(log).status().unwrap().success(), "{target}");
    }
    assert_eq!(fs::read(&path).unwrap(), b"before\nguest\nguest\nguest\n");
    assert_eq!(fs::metadata(&path).unwrap().ino(), before);
}

#[test]
fn what_is_neither_file_nor_folder_nor_link_is_left_out_and_named() {
    let world = Simulated::with_box();
    in_guest(
        &world,
        "mkdir odd; mkfifo odd/pipe; echo x >odd/file; chmod 6755 odd/file",
    );
    let run = world.banger(&["vm", "cp", "box:odd", "odd"]);
    assert_eq!(run.status, Some(0), "{run}");
    assert!(
        run.stderr.contains("left out") && run.stderr.contains("pipe"),
        "{}",
        run.stderr
    );
    assert!(!world.path().join("odd/pipe").exists());
    assert_eq!(mode(&world.path().join("odd/file")), 0o755);
}

/// A file of 64 MiB with 3 bytes in it, and 70000 at its end.
fn write_sparse(path: &Path) {
    let file = fs::File::create(path).unwrap();
    file.write_all_at(b"abc", 20 << 20).unwrap();
    file.write_all_at(&[7; 70_000], (64 << 20) - 70_000)
        .unwrap();
}

fn is_sparse(path: &Path) {
    let facts = fs::metadata(path).unwrap();
    assert_eq!(facts.len(), 64 << 20, "{}", path.display());
    let written = facts.blocks() * 512;
    assert!(written < 1 << 20, "{}: {written} bytes", path.display());
    let content = fs::read(path).unwrap();
    let there: usize = content.iter().filter(|byte| **byte != 0).count();
    assert_eq!((&content[20 << 20..][..3], there), (&b"abc"[..], 70_003));
    assert!(content.ends_with(&[7; 70_000]));
}

#[test]
fn holes_stay_holes_both_ways_in_files_and_in_folders() {
    let world = Simulated::with_box();
    fs::create_dir(world.path().join("disks")).unwrap();
    write_sparse(&world.path().join("disks/disk"));
    set_mode(&world.path().join("disks/disk"), 0o640);
    copied(&world, "disks/disk", "box:one file");
    copied(&world, "disks", "box:");
    let facts = "%a %s";
    let script = format!(
        "stat -c '{facts}' 'one file' disks/disk; du -k 'one file' disks/disk | while read -r k _; do [ $k -lt 1024 ] || echo $k; done; cmp 'one file' disks/disk; ls -A | grep banger-cp"
    );
    let run = world.banger(&["vm", "exec", "box", "sh", "-c", &script]);
    let said = String::from_utf8(run.stdout).unwrap();
    assert_eq!(said, "640 67108864\n640 67108864\n");

    fs::write(world.path().join("back"), "old").unwrap();
    symlink("back", world.path().join("link")).unwrap();
    copied(&world, "box:one file", "link");
    fs::create_dir(world.path().join("into")).unwrap();
    copied(&world, "box:one file", "into");
    copied(&world, "box:disks", "folder");
    for path in ["back", "into/one file", "folder/disk"] {
        is_sparse(&world.path().join(path));
        assert_eq!(mode(&world.path().join(path)), 0o640);
    }
    assert!(world.path().join("link").is_symlink());
    // Where there can be no holes there are zeros.
    let run = world.banger(&["vm", "cp", "box:one file", "-"]);
    assert_eq!((run.status, run.stdout.len()), (Some(0), 64 << 20));
    for entry in fs::read_dir(world.path()).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(
            !name.to_string_lossy().starts_with(".banger-cp"),
            "{name:?}"
        );
    }
}

#[test]
fn a_file_with_holes_of_a_guest_lands_where_it_was_wanted_and_nowhere_else() {
    let world = Simulated::with_box();
    fs::write(world.path().join("mine"), "mine").unwrap();
    // A tar that answers with an archive of its own.
    let evil = "truncate -s 4M disk; mkdir bin; cp /usr/bin/tar real; echo theirs >mine; \
                printf '%s\\n' '#!/bin/sh' 'case $* in *--version*) echo tar \\(GNU tar\\); exit ;; esac' \
                'exec /root/real -c -f - mine disk' >fake; chmod 755 fake; mount --bind fake /usr/bin/tar";
    let run = world.banger(&["vm", "exec", "box", "sh", "-c", evil]);
    if run.status != Some(0) {
        eprintln!("SKIP: no program can be replaced in this guest: {run}");
        return;
    }
    let run = world.banger(&["vm", "cp", "box:disk", "disk"]);
    in_guest(&world, "umount /usr/bin/tar");
    assert_eq!(run.status, Some(1), "{run}");
    assert!(run.stderr.contains("not one file"), "{}", run.stderr);
    assert_eq!(fs::read(world.path().join("mine")).unwrap(), b"mine");
}

#[test]
fn a_folder_that_changes_while_it_is_copied_is_told_and_what_came_is_kept() {
    let world = Simulated::with_box();
    // A file that grows for as long as it is read.
    let grow = "mkdir busy; echo still >busy/a; head -c 60000000 /dev/zero | tr '\\0' x >busy/log; echo still >busy/z; \
                (i=0; while [ -e busy/log ] && [ $i -lt 100000 ]; do echo more >>busy/log; i=$((i + 1)); done) >/dev/null 2>&1 &";
    in_guest(&world, grow);
    let run = world.banger(&["vm", "cp", "box:busy", "busy"]);
    assert_eq!(run.status, Some(0), "{run}");
    assert!(
        run.stderr
            .contains("box:busy changed while it was copied; what came is kept")
            && run.stderr.contains("log"),
        "{}",
        run.stderr
    );
    for name in ["a", "z"] {
        assert_eq!(
            fs::read(world.path().join("busy").join(name)).unwrap(),
            b"still\n"
        );
    }
    in_guest(&world, "rm busy/log");

    // The same the other way round.
    let log = world.path().join("busy/log");
    let going = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let writer = std::thread::spawn({
        let going = going.clone();
        move || {
            let mut log = OpenOptions::new().append(true).open(log).unwrap();
            while going.load(std::sync::atomic::Ordering::Relaxed) {
                std::io::Write::write_all(&mut log, b"more\n").unwrap();
            }
        }
    });
    let run = world.banger(&["vm", "cp", "busy", "box:taken"]);
    going.store(false, std::sync::atomic::Ordering::Relaxed);
    writer.join().unwrap();
    assert_eq!(run.status, Some(0), "{run}");
    assert!(
        run.stderr.contains("busy changed while it was copied"),
        "{}",
        run.stderr
    );
    assert_eq!(in_guest(&world, "cat taken/a taken/z"), "still\nstill\n");
    // What cannot be read is no change.
    if !rustix::process::geteuid().is_root() {
        fs::write(world.path().join("busy/none"), "").unwrap();
        set_mode(&world.path().join("busy/none"), 0);
        let run = world.banger(&["vm", "cp", "busy", "box:again"]);
        assert_eq!(run.status, Some(1), "{run}");
        assert!(
            run.stderr.contains("not all of it was copied"),
            "{}",
            run.stderr
        );
    }
}

#[test]
fn a_path_may_begin_at_home_and_one_that_is_wrong_is_told_what_it_is() {
    let world = Simulated::with_box();
    fs::write(world.path().join("a:b"), "colon").unwrap();
    fs::write(world.path().join("file"), "file").unwrap();
    copied(&world, "./a:b", "box:~/x");
    copied(&world, "box:~/x", "back");
    assert_eq!(fs::read(world.path().join("back")).unwrap(), b"colon");
    copied(&world, "file", "box:~");
    assert_eq!(in_guest(&world, "cat file x"), "filecolon");
    let shown = session(
        &world,
        &[
            &["vm", "cp", "a:b", "box:"],
            &["vm", "cp", "box:x/", "."],
            &["vm", "cp", "file/", "box:"],
            &["vm", "cp", "file", "box:x/"],
            &["vm", "exec", "-w", "~", "box", "cat", "x"],
        ],
    );
    assert_snapshot!(shown, @r#"
    $ banger vm cp a:b box:
      | error: one side of a copy is on this host
      | hint: by way of it: banger vm cp a:b - | banger vm cp - box:
      | hint: a file here with such a name is ./a:b
    => Some(1)
    $ banger vm cp box:x/ .
      | error: cannot copy box:x/
      | caused by: x is no folder: leave out the slash at its end
    => Some(1)
    $ banger vm cp file/ box:
      | error: cannot read file/
      | caused by: Not a directory (os error 20)
      | hint: it is no folder: leave out the slash at its end
    => Some(1)
    $ banger vm cp file box:x/
      | error: cannot copy to box:x/
      | caused by: x is no folder
    => Some(1)
    $ banger vm exec -w ~ box cat x
    colon
    "#);
}

#[test]
fn a_copy_that_lasts_shows_bytes_and_rate_on_a_terminal_and_leaves_no_trace_of_it() {
    let world = Simulated::with_box();
    for quiet in [false, true] {
        let (mut ours, theirs) = terminal();
        let words = ["vm", "cp", "-", "box:file", "--quiet"];
        let mut command = world.command(&words[..if quiet { 5 } else { 4 }]);
        command
            .env("TERM", "xterm")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .stderr(theirs);
        let mut child = command.spawn().unwrap();
        // It holds the other end of the terminal too.
        drop(command);
        let mut input = child.stdin.take().unwrap();
        input.write_all(&vec![7; 3 << 20]).unwrap();
        let mut shown = String::new();
        // However long it takes to begin: the terminal is read until it shows.
        while !quiet && !shown.contains("copying to box:file  3.0 MiB  ") {
            let mut bytes = [0; 4096];
            let count = ours.read(&mut bytes).unwrap();
            shown += &String::from_utf8_lossy(&bytes[..count]);
        }
        drop(input);
        assert!(child.wait().unwrap().success());
        // Nobody is left at its other end: an error is the end of it.
        let mut rest = Vec::new();
        let _ = ours.read_to_end(&mut rest);
        shown += &String::from_utf8_lossy(&rest);
        match quiet {
            true => assert_eq!(shown, ""),
            false => assert!(
                shown.contains("/s") && shown.ends_with("\r\u{1b}[2K"),
                "{shown:?}"
            ),
        }
        assert_eq!(in_guest(&world, "stat -c %s file"), "3145728\n");
    }
}
