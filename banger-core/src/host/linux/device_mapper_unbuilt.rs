//! Device-mapper in a build without the feature `dm`: nothing is made or removed. What a program that has
//! it made is seen in sysfs and told, so that it is never taken for gone; only a device that was left
//! without a table is not in there.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::devices::UNBUILT;

/// What is seen of device-mapper.
pub(super) struct DeviceMapper {
    block_devices: PathBuf,
}

impl DeviceMapper {
    pub(super) fn open() -> io::Result<Self> {
        Ok(DeviceMapper::over(Path::new("/sys/block")))
    }

    fn over(block_devices: &Path) -> Self {
        DeviceMapper {
            block_devices: block_devices.to_owned(),
        }
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        self.identity_of(name)?;
        Err(unbuilt())
    }

    pub(super) fn status(&self, name: &str) -> io::Result<String> {
        self.identity_of(name)?;
        Err(unbuilt())
    }

    /// Returns the uuid and the path of a device.
    pub(super) fn identity_of(&self, name: &str) -> io::Result<(String, String)> {
        let mut all = self.all()?.into_iter();
        let found = all.find(|(it, _)| it == name);
        let (_, folder) = found.ok_or(Errno::NXIO)?;
        let uuid = std::fs::read_to_string(folder.join("dm/uuid"))?;
        let device = folder.file_name().unwrap_or_default().to_string_lossy();
        Ok((uuid.trim_end().to_owned(), format!("/dev/{device}")))
    }

    /// Returns the names of all devices.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.all()?.into_iter().map(|(name, _)| name).collect())
    }

    fn all(&self) -> io::Result<Vec<(String, PathBuf)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.block_devices)? {
            let folder = entry?.path();
            match std::fs::read_to_string(folder.join("dm/name")) {
                Ok(name) => found.push((name.trim_end().to_owned(), folder)),
                // Of another driver, or removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

/// Says whether an error means that there is no such device.
pub(super) fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NXIO.raw_os_error())
}

pub(super) fn unbuilt() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, UNBUILT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_made_is_seen_and_neither_removed_nor_taken_for_gone() {
        let block_devices = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(block_devices.path().join("loop0/loop")).unwrap();
        let device = block_devices.path().join("dm-3/dm");
        std::fs::create_dir_all(&device).unwrap();
        std::fs::write(device.join("name"), "box\n").unwrap();
        std::fs::write(device.join("uuid"), "BANGER-1\n").unwrap();

        let mapper = DeviceMapper::over(block_devices.path());
        assert_eq!(mapper.names().unwrap(), ["box"]);
        let identity = ("BANGER-1".to_owned(), "/dev/dm-3".to_owned());
        assert_eq!(mapper.identity_of("box").unwrap(), identity);
        for refused in [
            mapper.remove("box").unwrap_err(),
            mapper.status("box").unwrap_err(),
        ] {
            assert_eq!(refused.kind(), io::ErrorKind::Unsupported);
        }
        assert!(is_missing(&mapper.remove("another").unwrap_err()));
    }
}
