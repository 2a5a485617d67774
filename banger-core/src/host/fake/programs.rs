//! The programs that are installed on a fake host: they leave what the real ones leave, in small.

use std::io;
use std::path::Path;

use super::super::{Program, ProgramOutput, files};

/// What a program does.
pub(super) type Act = fn(&Program) -> io::Result<ProgramOutput>;

/// Those that an engine calls for its everyday work.
pub(super) fn usual() -> Vec<(&'static str, Act)> {
    vec![
        // What these two leave is a file; the size is whatever their caller made of it.
        ("qemu-img", make_the_file_named_last),
        ("mke2fs", make_the_file_named_last),
        ("mmdebstrap", mmdebstrap),
        ("newuidmap", succeed),
        ("chmod", succeed),
        ("e2fsck", succeed),
        ("unshare", unshare),
        ("debugfs", debugfs),
    ]
}

fn succeed(_program: &Program) -> io::Result<ProgramOutput> {
    Ok(said(""))
}

fn said(text: &str) -> ProgramOutput {
    ProgramOutput {
        status: 0,
        stdout: text.as_bytes().to_vec(),
        stderr: Vec::new(),
    }
}

fn make_the_file_named_last(program: &Program) -> io::Result<ProgramOutput> {
    let path = program
        .arguments
        .iter()
        .map(Path::new)
        .rfind(|argument| argument.is_absolute());
    if let Some(path) = path {
        files::grow(path, 4096).map_err(io::Error::other)?;
    }
    Ok(said(""))
}

/// Hands out the parts of an image, as the recipe's hooks do.
fn mmdebstrap(program: &Program) -> io::Result<ProgramOutput> {
    let out = |(name, value): &(String, String)| (name == "BANGER_OUT").then(|| value.clone());
    let Some(out) = program.environment.iter().find_map(out) else {
        return Ok(said("mmdebstrap simulated\n"));
    };
    let out = Path::new(&out);
    std::fs::create_dir_all(out.join("modules"))?;
    for (name, contents) in [
        ("vmlinuz", &kernel()[..]),
        ("busybox", b"busybox"),
        ("modules/virtio_blk.ko", b"module"),
        ("module-order", b"virtio_blk.ko\n"),
        ("release", b"6.1.0-sim\n"),
        ("packages", b"3\n"),
        ("rootfs.ext4", b"tree"),
    ] {
        std::fs::write(out.join(name), contents)?;
    }
    Ok(said(""))
}

/// The first bytes of an ELF executable for x86-64.
fn kernel() -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    elf.extend([2, 0, 62, 0]);
    elf.resize(128, 0);
    elf
}

/// Acts as root over an ordinary user's subordinate ids. Here they own nothing: only a removal matters.
fn unshare(program: &Program) -> io::Result<ProgramOutput> {
    let removes = program.arguments.iter().any(|argument| argument == "rm");
    if let Some(folder) = program.arguments.last().filter(|_| removes) {
        files::remove_tree(Path::new(folder)).map_err(io::Error::other)?;
    }
    Ok(said(""))
}

/// Finds whatever it is asked for: a file system that is to lack something is a test's to make up.
fn debugfs(program: &Program) -> io::Result<ProgramOutput> {
    let stats = |argument: &std::ffi::OsString| argument.to_string_lossy().starts_with("stat ");
    Ok(match program.arguments.iter().any(stats) {
        true => said("Inode: 12   Type: regular    Mode:  0755\n"),
        false => said(""),
    })
}
