//! A monitor that is none, and an image that nothing boots from.

use tempfile::TempDir;

use crate::binary;

/// Makes a folder with an engine's state in `state`, which has an image of nothing, and in `bin` a program
/// of this workspace under a monitor's name.
pub fn folder_with_a_stand_in(stand_in: &str, monitor: &str) -> TempDir {
    let folder = tempfile::Builder::new()
        .prefix("bgr-")
        .tempdir_in("/tmp")
        .expect("a folder");
    let image = folder.path().join("state/images/debian-12");
    std::fs::create_dir_all(&image).expect("a folder");
    for file in ["rootfs.ext4", "vmlinux", "initrd.cpio"] {
        std::fs::write(image.join(file), [0; 4096]).expect("a file");
    }
    let manifest = serde_json::json!({
        "version": 1, "name": "debian-12", "id": "0011223344556677",
        "created": "2026-01-02T03:04:05Z",
        "rootfs": { "file": "rootfs.ext4", "fs": "ext4", "size_bytes": 4096 },
        "kernel": { "file": "vmlinux" }, "initrd": { "file": "initrd.cpio" },
        "init": "/sbin/init", "capabilities": ["ssh"],
    });
    std::fs::write(image.join("manifest.json"), manifest.to_string()).expect("a file");
    let programs = folder.path().join("bin");
    std::fs::create_dir(&programs).expect("a folder");
    std::os::unix::fs::symlink(binary(stand_in), programs.join(monitor)).expect("a link");
    folder
}
