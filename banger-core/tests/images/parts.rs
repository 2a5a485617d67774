//! Files to register: a superblock, and a kernel with a PVH entry and a banner. All that the simulator
//! looks at; other crates' tests borrow this file.

use std::fs;
use std::path::PathBuf;

pub(crate) struct Parts {
    pub(crate) rootfs: PathBuf,
    pub(crate) kernel: PathBuf,
    _folder: tempfile::TempDir,
}

impl Parts {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (rootfs, kernel) = (
            folder.path().join("root.img"),
            folder.path().join("vmlinux"),
        );
        let mut disk = vec![0; 1 << 20];
        disk[1024 + 0x38..1024 + 0x3a].copy_from_slice(&0xef53_u16.to_le_bytes());
        disk[1024 + 0x04] = 255;
        disk[1024 + 0x18] = 2;
        fs::write(&rootfs, disk).unwrap();
        let mut elf = vec![0; 120];
        elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        elf[16..20].copy_from_slice(&[2, 0, 62, 0]);
        (elf[32], elf[54], elf[56]) = (64, 56, 1);
        (elf[64], elf[72], elf[96]) = (4, 120, 24);
        elf.extend([4, 0, 0, 0, 8, 0, 0, 0, 18, 0, 0, 0]);
        elf.extend(b"Xen\0\0\0\0\0\0\0\0\0Linux version 6.1.0-mine (me) ");
        fs::write(&kernel, elf).unwrap();
        Parts {
            rootfs,
            kernel,
            _folder: folder,
        }
    }
}
