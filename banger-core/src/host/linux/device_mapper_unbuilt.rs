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
        let block_devices = Path::new("/sys/block");
        // Where there is no sysfs, that is the answer.
        std::fs::metadata(block_devices)?;
        Ok(DeviceMapper::over(block_devices))
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
        let found = self.all()?.into_iter().find(|(it, _)| it == name);
        Ok(found.ok_or(Errno::NXIO)?.1)
    }

    /// Returns the names of all devices.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.all()?.into_iter().map(|(name, _)| name).collect())
    }

    /// Every device by its name, with its uuid and its path.
    fn all(&self) -> io::Result<Vec<(String, (String, String))>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.block_devices)? {
            let entry = entry?;
            let told = |what| std::fs::read_to_string(entry.path().join("dm").join(what));
            match told("name").and_then(|name| Ok((name, told("uuid")?))) {
                Ok((name, uuid)) => {
                    let device = format!("/dev/{}", entry.file_name().to_string_lossy());
                    let identity = (uuid.trim_end().to_owned(), device);
                    found.push((name.trim_end().to_owned(), identity));
                }
                // Of another driver, or removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

pub(super) fn unbuilt() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, UNBUILT)
}

#[cfg(test)]
mod tests {
    use super::super::devices::is_missing;
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
