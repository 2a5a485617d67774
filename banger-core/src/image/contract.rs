//! What a root disk must hold to boot here, looked at without mounting it: the superblock by ourselves,
//! the rest by debugfs. docs/images.md is this in words.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::error::ImageError;
use super::workshop::Workshop;
use crate::host::{HostError, OpenFile, Program, ProgramLimits};

/// What a superblock says (the kernel's `Documentation/filesystems/ext4/super.rst`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Superblock {
    /// The file system's size in bytes.
    pub(super) bytes: u64,
    /// Whether its journal is to be replayed at the next mount.
    pub(super) needs_recovery: bool,
}

/// How much of a file [`Superblock::read`] wants to see.
pub(super) const HEAD: u64 = 128 << 10;

impl Superblock {
    /// Reads it from a file's first bytes, or says what the file is instead.
    pub(super) fn read(head: &[u8], file_bytes: u64) -> Result<Self, String> {
        let half = |at: usize| Some(u16::from_le_bytes(head.get(at..at + 2)?.try_into().ok()?));
        let word = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
        const AT: usize = 1024;
        const MAGIC: u16 = 0xef53;
        const INCOMPAT_RECOVER: u32 = 0x4;
        const INCOMPAT_JOURNAL_DEVICE: u32 = 0x8;
        const INCOMPAT_64BIT: u32 = 0x80;
        if half(AT + 0x38) != Some(MAGIC) {
            return Err(what_it_is(head));
        }
        let (Some(low), Some(scale), Some(incompatible), Some(high)) = (
            word(AT + 0x04),
            word(AT + 0x18),
            word(AT + 0x60),
            word(AT + 0x150),
        ) else {
            return Err("it is cut off in its superblock".to_owned());
        };
        if incompatible & INCOMPAT_JOURNAL_DEVICE != 0 {
            return Err("it is the journal of another one".to_owned());
        }
        let high = match incompatible & INCOMPAT_64BIT {
            0 => 0,
            _ => u64::from(high) << 32,
        };
        // Blocks of 1 to 64 KiB; anything else is damage.
        let bytes = match scale {
            0..=6 => (high | u64::from(low)).checked_mul(1024 << scale),
            _ => None,
        };
        let bytes = bytes.ok_or("its superblock is damaged")?;
        if bytes > file_bytes {
            return Err(format!(
                "it is cut off: {} of {} MiB are there",
                file_bytes >> 20,
                bytes >> 20
            ));
        }
        Ok(Superblock {
            bytes,
            needs_recovery: incompatible & INCOMPAT_RECOVER != 0,
        })
    }
}

/// Names what people take for a root file system.
fn what_it_is(head: &[u8]) -> String {
    let has = |at: usize, magic: &[u8]| head.get(at..at + magic.len()) == Some(magic);
    let known: [(usize, &[u8], &str); 12] = [
        (
            0,
            b"QFI\xfb",
            "a qcow2 disk; qemu-img convert -O raw unpacks it",
        ),
        (0, b"KDMV", "a VMDK disk"),
        (0, b"hsqs", "a squashfs"),
        (0, b"XFSB", "an XFS"),
        (0x10040, b"_BHRfS_M", "a btrfs"),
        (0, b"\x7fELF", "a program or a kernel"),
        (0, b"\x1f\x8b", "packed with gzip"),
        (0, b"\xfd7zXZ", "packed with xz"),
        (0, b"\x28\xb5\x2f\xfd", "packed with zstd"),
        (257, b"ustar", "a tar archive"),
        (512, b"EFI PART", "a whole disk with partitions"),
        (510, b"\x55\xaa", "a whole disk with partitions"),
    ];
    let found = known.iter().find(|(at, magic, _)| has(*at, magic));
    match found {
        Some((_, _, name)) => format!("it is {name}"),
        None if head.is_empty() => "it is empty".to_owned(),
        None => "it has no superblock".to_owned(),
    }
}

/// What a guest cannot be without: the places of each, and what it is for.
const MUST_HOLD: [(&[&str], &str); 6] = [
    (&["/sbin/init"], "/sbin/init (the init that it boots into)"),
    (
        &["/usr/sbin/sshd", "/sbin/sshd", "/usr/bin/sshd"],
        "sshd (the way in)",
    ),
    (&["/etc"], "/etc (names and keys are put there)"),
    (&["/proc"], "/proc"),
    (&["/sys"], "/sys"),
    (&["/dev"], "/dev"),
];

/// Looks at a root disk's contents, and refuses it with all that it lacks.
pub(super) async fn check_contents(shop: &Workshop<'_>, rootfs: &Path) -> Result<(), ImageError> {
    let mut missing = Vec::new();
    for (places, name) in MUST_HOLD {
        let mut found = false;
        for place in places {
            found = found || holds(shop, rootfs, place).await?;
        }
        if !found {
            missing.push(name.to_owned());
        }
    }
    match missing.is_empty() {
        true => Ok(()),
        false => Err(ImageError::Contract {
            path: rootfs.to_owned(),
            missing,
        }),
    }
}

/// Returns a file of a root disk, of at most `limit` bytes; a missing one is empty.
///
/// # Errors
///
/// Its path cannot be asked for, or it is larger.
pub(super) async fn read(
    shop: &Workshop<'_>,
    rootfs: &Path,
    path: &str,
    limit: u64,
) -> Result<Vec<u8>, ImageError> {
    // Its words are separated by blanks, and a path may come out of the image itself.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+,@=:".contains(&byte);
    if !path.bytes().all(is_plain) || path.split('/').any(|part| part == "..") {
        return Err(ImageError::OddPath {
            path: rootfs.to_owned(),
            name: path.to_owned(),
        });
    }
    let limits = ProgramLimits {
        output_bytes: limit,
        ..PARSER
    };
    let read = debugfs(shop, rootfs, &format!("cat {path}"), limits).await;
    read.map_err(|error| match error {
        ImageError::Host(HostError::ProgramLimit { limit, .. }) => ImageError::TooLargeWithin {
            path: rootfs.to_owned(),
            name: path.to_owned(),
            limit,
        },
        error => error,
    })
}

async fn holds(shop: &Workshop<'_>, rootfs: &Path, path: &str) -> Result<bool, ImageError> {
    let said = debugfs(shop, rootfs, &format!("stat {path}"), PARSER).await?;
    Ok(said.starts_with(b"Inode:"))
}

/// Has the file system itself checked, and changes nothing.
pub(super) async fn check_filesystem(shop: &Workshop<'_>, rootfs: &Path) -> Result<(), ImageError> {
    let fsck = Program::new("e2fsck").arg("-fn");
    let fsck = fsck.input_file(input(shop, rootfs).await?).limits(CHECK);
    shop.run_checked(fsck).await.map(drop)
}

/// What a parser of a file system takes. A sound one of terabytes is read in seconds.
pub(crate) const PARSER: ProgramLimits = ProgramLimits {
    time: Duration::from_secs(60),
    cpu: Duration::from_secs(60),
    output_bytes: 4 << 20,
    memory_bytes: 512 << 20,
    file_bytes: 0,
    processes: 16,
};

/// What the check of a whole file system takes.
const CHECK: ProgramLimits = ProgramLimits {
    time: Duration::from_secs(30 * 60),
    cpu: Duration::from_secs(30 * 60),
    memory_bytes: 1 << 30,
    ..PARSER
};

/// It opens the file for reading only, and reaches nothing else.
async fn debugfs(
    shop: &Workshop<'_>,
    rootfs: &Path,
    request: &str,
    limits: ProgramLimits,
) -> Result<Vec<u8>, ImageError> {
    let program = Program::new("debugfs").args(["-R", request]);
    let program = program.input_file(input(shop, rootfs).await?);
    shop.run_checked(program.limits(limits)).await
}

async fn input(shop: &Workshop<'_>, rootfs: &Path) -> Result<Arc<OpenFile>, ImageError> {
    let missing = || ImageError::NoFile {
        path: rootfs.to_owned(),
    };
    shop.host.open_foreign(rootfs).await?.ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ext4(blocks: u32, incompatible: u32) -> Vec<u8> {
        let mut head = vec![0; 4096];
        head[1024 + 0x38..1024 + 0x3a].copy_from_slice(&0xef53_u16.to_le_bytes());
        head[1024 + 0x04..1024 + 0x08].copy_from_slice(&blocks.to_le_bytes());
        head[1024 + 0x18..1024 + 0x1c].copy_from_slice(&2_u32.to_le_bytes());
        head[1024 + 0x60..1024 + 0x64].copy_from_slice(&incompatible.to_le_bytes());
        head
    }

    #[test]
    fn a_superblock_tells_the_size_and_whether_the_journal_is_dirty() {
        let clean = Superblock::read(&ext4(256, 0x40), 1 << 20).unwrap();
        assert_eq!(clean.bytes, 1 << 20);
        assert!(!clean.needs_recovery);
        let dirty = Superblock::read(&ext4(256, 0x44), 1 << 20).unwrap();
        assert!(dirty.needs_recovery);
    }

    #[test]
    fn a_file_that_was_cut_off_is_told_from_a_whole_one() {
        let told = Superblock::read(&ext4(1024, 0), 1 << 20).unwrap_err();
        assert_eq!(told, "it is cut off: 1 of 4 MiB are there");
    }

    #[test]
    fn what_people_take_for_a_file_system_is_named() {
        let mut disk = vec![0; 2048];
        disk[510..512].copy_from_slice(b"\x55\xaa");
        let mut tar = vec![0; 2048];
        tar[257..262].copy_from_slice(b"ustar");
        for (head, name) in [
            (&b"QFI\xfb\0\0\0\x03"[..], "qcow2"),
            (&disk, "partitions"),
            (&tar, "tar"),
            (b"\x1f\x8b\x08", "gzip"),
            (b"", "empty"),
            (b"hello", "no superblock"),
        ] {
            let told = Superblock::read(head, 1 << 20).unwrap_err();
            assert!(told.contains(name), "{told}");
        }
    }

    #[test]
    fn a_damaged_superblock_is_refused_and_no_panic() {
        let whole = ext4(256, 0x40);
        for at in 1024..1024 + 0x160 {
            let mut head = whole.clone();
            head[at] ^= 0xff;
            let _ = Superblock::read(&head, u64::MAX);
            let _ = Superblock::read(&head[..at], u64::MAX);
        }
    }

    proptest! {
        #[test]
        fn fuzz_no_first_bytes_of_a_disk_say_more_than_is_there(
            spoil in prop::collection::vec((0..0x160_usize, any::<u8>()), 0..12),
            cut in 0..4097_usize,
            there in any::<u64>(),
        ) {
            let mut head = ext4(256, 0x40);
            for (at, value) in spoil {
                head[1024 + at] = value;
            }
            head.truncate(cut);
            if let Ok(read) = Superblock::read(&head, there) {
                prop_assert!(read.bytes <= there);
            }
        }
    }
}
