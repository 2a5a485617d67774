//! The modules without which there is no disk and no network, out of an initramfs or a root disk that
//! somebody else has made. Of such an initramfs nothing else is used: the guest's first program is ours.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::contract;
use super::error::ImageError;
use super::files::Files;
use super::workshop::Workshop;
use crate::host::{Program, ProgramLimits};

/// What a guest's first steps need, besides what these need themselves.
const NEEDED: [&str; 4] = ["ext4", "virtio_mmio", "virtio_blk", "virtio_net"];

/// The most that one module may have, packed or not, in bytes.
const LARGEST_MODULE: u64 = 32 << 20;

/// The most that all that are needed may have.
const LARGEST_OF_ALL: usize = 96 << 20;

/// The most modules that may be needed; Debian's four need nine.
const MOST: usize = 256;

/// The most that a list of modules may have.
const LARGEST_LIST: u64 = 8 << 20;

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
                .read(shop, Shelf::Initramfs, "modules.dep", LARGEST_LIST)
                .await?
                .is_empty();
        let shelf = match from_initramfs {
            true => Shelf::Initramfs,
            false => Shelf::Rootfs,
        };
        let text = async |name: &str| -> Result<String, ImageError> {
            let raw = self.read(shop, shelf, name, LARGEST_LIST).await?;
            Ok(String::from_utf8_lossy(&raw).into_owned())
        };
        let (dependencies, built_in) = (text("modules.dep").await?, text("modules.builtin").await?);
        if dependencies.is_empty() && built_in.is_empty() {
            return Ok(Vec::new());
        }
        let order = load_order(&dependencies, &built_in).map_err(|error| match error {
            OrderError::Missing(missing) => ImageError::NoModules {
                release: self.release.to_owned(),
                missing,
            },
            OrderError::TooMany => self.too_large(format!("{MOST} modules")),
        })?;
        let mut modules = Vec::new();
        for path in order {
            let packed = self.read(shop, shelf, &path, LARGEST_MODULE).await?;
            let name = path.rsplit('/').next().unwrap_or(&path);
            // The list names it, and it is not there.
            if packed.is_empty() {
                return Err(ImageError::NoModules {
                    release: self.release.to_owned(),
                    missing: vec![module_name(&path)],
                });
            }
            modules.push(unpacked(shop, name, packed).await?);
            let held: usize = modules.iter().map(|(_, module)| module.len()).sum();
            if held > LARGEST_OF_ALL {
                return Err(self.too_large(format!("{} MiB", LARGEST_OF_ALL >> 20)));
            }
        }
        Ok(modules)
    }

    fn too_large(&self, limit: String) -> ImageError {
        ImageError::TooLargeWithin {
            path: self.rootfs.clone(),
            name: "the modules that are needed".to_owned(),
            limit,
        }
    }

    /// Reads a file below `lib/modules/<release>`; a missing one is empty.
    async fn read(
        &self,
        shop: &Workshop<'_>,
        shelf: Shelf,
        path: &str,
        limit: u64,
    ) -> Result<Vec<u8>, ImageError> {
        let path = format!("lib/modules/{}/{path}", self.release);
        match (shelf, self.initramfs) {
            (Shelf::Initramfs, Some(files)) => {
                let merged = format!("usr/{path}");
                let found = match files.read(&path, limit).await? {
                    None => files.read(&merged, limit).await?,
                    found => found,
                };
                Ok(found.unwrap_or_default())
            }
            _ => contract::read(shop, &self.rootfs, &format!("/{path}"), limit).await,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shelf {
    Initramfs,
    Rootfs,
}

/// Why there is no order.
#[derive(Debug, PartialEq, Eq)]
enum OrderError {
    Missing(Vec<String>),
    /// More than [`MOST`]. Each is looked for, and each may be a program that is started.
    TooMany,
}

/// Says in which order to load what is needed (modules.dep(5)), or what is to be had nowhere. An
/// initramfs may come without the list of what is built in: then what is no module is taken for that.
fn load_order(dependencies: &str, built_in: &str) -> Result<Vec<String>, OrderError> {
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
                    if order.iter().any(|known| known == path) {
                        continue;
                    }
                    if order.len() == MOST {
                        return Err(OrderError::TooMany);
                    }
                    order.push(path.to_owned());
                }
            }
            None if built_in.is_empty() || built_in.contains(name) => {}
            None => missing.push(name.to_owned()),
        }
    }
    match missing.is_empty() {
        true => Ok(order),
        false => Err(OrderError::Missing(missing)),
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
    Ok((
        plain.to_owned(),
        unpack(shop, program, packed, LARGEST_MODULE).await?,
    ))
}

/// Unpacks by the program of that name, at most `limit` bytes.
pub(super) async fn unpack(
    shop: &Workshop<'_>,
    program: &str,
    packed: Vec<u8>,
    limit: u64,
) -> Result<Vec<u8>, ImageError> {
    let limits = ProgramLimits {
        output_bytes: limit,
        ..contract::PARSER
    };
    let program = unpacker(program).input(packed).limits(limits);
    shop.run_checked(program).await
}

/// A program that unpacks its input and reaches nothing else.
pub(super) fn unpacker(program: &str) -> Program {
    Program::new(program).args(["-d", "-c", "-q"]).as_parser()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
        assert_eq!(missing, OrderError::Missing(vec!["ext4".to_owned()]));
    }

    #[test]
    fn more_than_anybody_needs_are_not_even_counted() {
        let many: String = (0..400_000).map(|n| format!(" {n}.ko")).collect();
        let error = load_order(&format!("kernel/fs/ext4/ext4.ko:{many}\n"), "").unwrap_err();
        assert_eq!(error, OrderError::TooMany);
    }

    proptest! {
        #[test]
        fn fuzz_no_list_of_modules_gives_more_than_it_may(
            dependencies in "(kernel/(ext4|virtio_(blk|net|mmio)|[a-c]{1,2})\\.ko(\\.xz)?:?[ \n]{1,2}){0,60}",
            built_in in "([a-c/.ko\n]{0,20})",
        ) {
            if let Ok(order) = load_order(&dependencies, &built_in) {
                prop_assert!(order.len() <= MOST);
                let names: BTreeSet<_> = order.iter().collect();
                prop_assert_eq!(names.len(), order.len());
            }
        }
    }

    #[test]
    fn without_a_list_of_what_is_built_in_the_rest_is_taken_for_that() {
        assert!(load_order(DEPENDENCIES, "").is_ok());
    }
}
