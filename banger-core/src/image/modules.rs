//! The modules without which there is no disk and no network, out of an initramfs or a root disk that
//! somebody else has made. Of such an initramfs nothing else is used: the guest's first program is ours.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use cpio::newc;

use super::contract;
use super::error::ImageError;
use super::workshop::Workshop;
use crate::host::Program;

/// What a guest's first steps need, besides what these need themselves.
const NEEDED: [&str; 4] = ["ext4", "virtio_mmio", "virtio_blk", "virtio_net"];

/// The files of an initramfs, by their paths without a leading slash.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// Where modules may lie.
pub(super) struct Shelves<'a> {
    /// What `uname -r` will say.
    pub(super) release: &'a str,
    /// An initramfs that was given, which comes first.
    pub(super) initramfs: Option<&'a Files>,
    /// The root disk.
    pub(super) rootfs: PathBuf,
}

impl Shelves<'_> {
    /// Returns file names and contents, unpacked, in the order in which they load. None are wanted of a
    /// kernel that has no modules at all.
    pub(super) async fn gather(
        &self,
        shop: &Workshop<'_>,
    ) -> Result<Vec<(String, Vec<u8>)>, ImageError> {
        let from_initramfs = self.initramfs.is_some()
            && !self
                .read(shop, Shelf::Initramfs, "modules.dep")
                .await?
                .is_empty();
        let shelf = match from_initramfs {
            true => Shelf::Initramfs,
            false => Shelf::Rootfs,
        };
        let text = async |name: &str| -> Result<String, ImageError> {
            let raw = self.read(shop, shelf, name).await?;
            Ok(String::from_utf8_lossy(&raw).into_owned())
        };
        let (dependencies, built_in) = (text("modules.dep").await?, text("modules.builtin").await?);
        if dependencies.is_empty() && built_in.is_empty() {
            return Ok(Vec::new());
        }
        let order =
            load_order(&dependencies, &built_in).map_err(|missing| ImageError::NoModules {
                release: self.release.to_owned(),
                missing,
            })?;
        let mut modules = Vec::new();
        for path in order {
            let packed = self.read(shop, shelf, &path).await?;
            let name = path.rsplit('/').next().unwrap_or(&path);
            modules.push(unpacked(shop, name, packed).await?);
        }
        Ok(modules)
    }

    /// Reads a file below `lib/modules/<release>`; a missing one is empty.
    async fn read(
        &self,
        shop: &Workshop<'_>,
        shelf: Shelf,
        path: &str,
    ) -> Result<Vec<u8>, ImageError> {
        let path = format!("lib/modules/{}/{path}", self.release);
        match (shelf, self.initramfs) {
            (Shelf::Initramfs, Some(files)) => {
                let merged = format!("usr/{path}");
                let found = files.get(&path).or_else(|| files.get(&merged));
                Ok(found.cloned().unwrap_or_default())
            }
            _ => contract::read(shop, &self.rootfs, &format!("/{path}")).await,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shelf {
    Initramfs,
    Rootfs,
}

/// Says in which order to load what is needed (modules.dep(5)), or what is to be had nowhere. An
/// initramfs may come without the list of what is built in: then what is no module is taken for that.
fn load_order(dependencies: &str, built_in: &str) -> Result<Vec<String>, Vec<String>> {
    let mut known = BTreeMap::new();
    for line in dependencies.lines() {
        if let Some((path, needs)) = line.split_once(':') {
            known.insert(module_name(path), (path, needs));
        }
    }
    let built_in: BTreeSet<String> = built_in.lines().map(module_name).collect();
    let (mut order, mut missing) = (Vec::new(), Vec::new());
    for name in NEEDED {
        match known.get(name) {
            Some((path, needs)) => {
                // What is named last is needed first.
                let needs = needs.split_whitespace().rev();
                for path in needs.chain([*path]) {
                    if !order.iter().any(|known| known == path) {
                        order.push(path.to_owned());
                    }
                }
            }
            None if built_in.is_empty() || built_in.contains(name) => {}
            None => missing.push(name.to_owned()),
        }
    }
    match missing.is_empty() {
        true => Ok(order),
        false => Err(missing),
    }
}

/// `kernel/drivers/net/virtio-net.ko.xz` is the module `virtio_net`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let name = file.split(".ko").next().unwrap_or(file);
    name.replace('-', "_")
}

async fn unpacked(
    shop: &Workshop<'_>,
    name: &str,
    packed: Vec<u8>,
) -> Result<(String, Vec<u8>), ImageError> {
    let Some((plain, program)) = [(".xz", "xz"), (".zst", "zstd"), (".gz", "gzip")]
        .into_iter()
        .find_map(|(suffix, program)| Some((name.strip_suffix(suffix)?, program)))
    else {
        return Ok((name.to_owned(), packed));
    };
    Ok((plain.to_owned(), unpack(shop, program, packed).await?))
}

/// Unpacks by the program of that name.
pub(super) async fn unpack(
    shop: &Workshop<'_>,
    program: &str,
    packed: Vec<u8>,
) -> Result<Vec<u8>, ImageError> {
    let program = Program::new(program).args(["-d", "-c", "-q"]).input(packed);
    shop.run_checked(program).await
}

/// Reads an initramfs as the kernel does: archives one after the other, the later ones packed or not.
pub(super) async fn read_initramfs(
    shop: &Workshop<'_>,
    path: &Path,
    bytes: &[u8],
) -> Result<Files, ImageError> {
    let refused = |reason: String| ImageError::NoInitramfs {
        path: path.to_owned(),
        reason,
    };
    let mut files = Files::new();
    let mut rest = bytes;
    loop {
        let zeros = rest.iter().take_while(|byte| **byte == 0).count();
        rest = &rest[zeros..];
        let program = match rest {
            [] => break,
            [b'0', b'7', b'0', b'7', ..] => {
                rest = unarchive(rest, &mut files).map_err(refused)?;
                continue;
            }
            [0x1f, 0x8b, ..] => "gzip",
            [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz",
            [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
            [0x02, 0x21, 0x4c, 0x18, ..] => {
                return Err(refused(
                    "it is packed with lz4, which is not unpacked here".into(),
                ));
            }
            _ => return Err(refused("it holds no cpio archive".into())),
        };
        // What is packed goes on to the end.
        let whole = unpack(shop, program, rest.to_vec()).await?;
        let mut inner = &whole[..];
        while inner.starts_with(b"0707") {
            inner = unarchive(inner, &mut files).map_err(refused)?;
            let zeros = inner.iter().take_while(|byte| **byte == 0).count();
            inner = &inner[zeros..];
        }
        break;
    }
    match files.is_empty() {
        true => Err(refused("it holds no file".into())),
        false => Ok(files),
    }
}

/// Reads one archive, and returns what follows it.
fn unarchive<'a>(mut bytes: &'a [u8], files: &mut Files) -> Result<&'a [u8], String> {
    loop {
        let told = |error: std::io::Error| format!("its archive is damaged: {error}");
        let mut reader = newc::Reader::new(bytes).map_err(told)?;
        if reader.entry().is_trailer() {
            return reader.finish().map_err(told);
        }
        let name = reader.entry().name().trim_start_matches("./").to_owned();
        let mut contents = Vec::new();
        reader.read_to_end(&mut contents).map_err(told)?;
        bytes = reader.finish().map_err(told)?;
        files.insert(name, contents);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "\
kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko.xz: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio_mmio.ko: kernel/drivers/virtio/virtio_ring.ko.xz kernel/drivers/virtio/virtio.ko
kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio_ring.ko.xz kernel/drivers/virtio/virtio.ko
kernel/drivers/net/virtio-net.ko: kernel/net/core/failover.ko kernel/drivers/virtio/virtio_ring.ko.xz kernel/drivers/virtio/virtio.ko
";

    #[test]
    fn what_is_needed_first_loads_first_and_only_once() {
        let order = load_order(DEPENDENCIES, "kernel/fs/ext4/ext4.ko\n").unwrap();
        let names: Vec<_> = order.iter().map(|path| module_name(path)).collect();
        assert_eq!(
            names,
            [
                "virtio",
                "virtio_ring",
                "virtio_mmio",
                "virtio_blk",
                "failover",
                "virtio_net"
            ]
        );
    }

    #[test]
    fn a_driver_that_is_nowhere_is_named() {
        let missing = load_order(DEPENDENCIES, "kernel/fs/fat/fat.ko\n").unwrap_err();
        assert_eq!(missing, ["ext4"]);
    }

    #[test]
    fn without_a_list_of_what_is_built_in_the_rest_is_taken_for_that() {
        assert!(load_order(DEPENDENCIES, "").is_ok());
    }

    #[test]
    fn a_damaged_archive_is_an_error_and_no_panic() {
        let mut archive = Vec::new();
        let mut writer = newc::Builder::new("a").write(&mut archive, 3);
        std::io::Write::write_all(&mut writer, b"abc").unwrap();
        writer.finish().unwrap();
        newc::trailer(&mut archive).unwrap();
        for length in 0..archive.len() - 4 {
            let _ = unarchive(&archive[..length], &mut Files::new());
        }
        let mut files = Files::new();
        unarchive(&archive, &mut files).unwrap();
        assert_eq!(files["a"], b"abc");
    }
}
