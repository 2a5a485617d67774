//! Device-mapper: the crate of that name, but for the two calls that it makes udev take part in.
//!
//! For those (resume, remove) it makes a System V semaphore for udev to release, which a killed process
//! leaves on the host under a random name, and waits for it without a limit, which hangs where udev runs
//! without dmsetup's rules. So they are made here, on the crate's own structure. The device is used by its
//! number, so that nobody has to wait for a link.

use std::ffi::c_char;
use std::fs::{File, OpenOptions};
use std::io;

use devicemapper::{DM, DevId, DeviceInfo, DmError, DmName, DmOptions, DmUuid, errors};
use devicemapper_sys::{DM_DEV_REMOVE_CMD, DM_DEV_SUSPEND_CMD, DM_IOCTL, dm_ioctl};
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use super::devices::CONTROL;

/// A grip on the control device.
pub(super) struct DeviceMapper {
    calls: DM,
    control: File,
}

/// One target of a table: it begins at sector 0.
pub(super) struct Target<'a> {
    pub(super) sectors: u64,
    pub(super) kind: &'a str,
    pub(super) parameters: &'a str,
}

impl DeviceMapper {
    pub(super) fn open() -> io::Result<Self> {
        // First by ourselves: the crate does not tell why it could not.
        let control = OpenOptions::new().read(true).write(true).open(CONTROL)?;
        let calls = DM::new().map_err(cause)?;
        Ok(DeviceMapper { calls, control })
    }

    /// Makes a device without a table.
    pub(super) fn create(&self, name: &str, uuid: &str) -> io::Result<()> {
        let uuid = DmUuid::new(uuid).map_err(cause)?;
        let made = self
            .calls
            .device_create(named(name)?, Some(uuid), DmOptions::default());
        made.map(drop).map_err(cause)
    }

    /// Gives a device a table and lets it work; returns its path.
    pub(super) fn activate(&self, name: &str, target: &Target<'_>) -> io::Result<String> {
        let line = (
            0,
            target.sectors,
            target.kind.to_owned(),
            target.parameters.to_owned(),
        );
        let id = DevId::Name(named(name)?);
        let loaded = self.calls.table_load(&id, &[line], DmOptions::default());
        loaded.map_err(cause)?;
        self.alone::<RESUME>(name)?;
        Ok(path(&self.calls.device_info(&id).map_err(cause)?))
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        self.alone::<REMOVE>(name)
    }

    /// Returns the uuid and the path of a device.
    pub(super) fn identity_of(&self, name: &str) -> io::Result<(String, String)> {
        let found = self.calls.device_info(&DevId::Name(named(name)?));
        let found = found.map_err(cause)?;
        let uuid = found.uuid().map(ToString::to_string).unwrap_or_default();
        Ok((uuid, path(&found)))
    }

    /// Returns what a device's only target says of itself; nothing if it has no table.
    pub(super) fn status(&self, name: &str) -> io::Result<String> {
        let id = DevId::Name(named(name)?);
        let told = self.calls.table_status(&id, DmOptions::default());
        let (_, targets) = told.map_err(cause)?;
        let first = targets.into_iter().next();
        Ok(first.map(|(.., said)| said).unwrap_or_default())
    }

    /// Returns the names of all devices.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let listed = self.calls.list_devices().map_err(cause)?;
        let names = listed.into_iter().map(|(name, ..)| name.to_string());
        Ok(names.collect())
    }

    /// Makes a call that takes a name and nothing else, and waits for nobody.
    fn alone<const CALL: Opcode>(&self, name: &str) -> io::Result<()> {
        let mut header = header(name)?;
        // SAFETY: each call of ours takes a `struct dm_ioctl` and nothing behind it, as `data_size` says.
        #[allow(unsafe_code)]
        unsafe { ioctl(&self.control, Updater::<CALL, _>::new(&mut header)) }?;
        Ok(())
    }
}

/// Without the flag "suspend" the call of this name resumes.
const RESUME: Opcode = code(DM_DEV_SUSPEND_CMD);
const REMOVE: Opcode = code(DM_DEV_REMOVE_CMD);

const fn code(command: u32) -> Opcode {
    opcode::read_write::<dm_ioctl>(DM_IOCTL as u8, command as u8)
}

fn header(name: &str) -> io::Result<dm_ioctl> {
    let bytes = u32::try_from(size_of::<dm_ioctl>()).unwrap_or(0);
    let mut header = dm_ioctl {
        // Version 4.0.0 of the interface has both calls.
        version: [4, 0, 0],
        data_size: bytes,
        data_start: bytes,
        ..dm_ioctl::default()
    };
    for (place, byte) in header.name.iter_mut().zip(named(name)?.as_bytes()) {
        *place = *byte as c_char;
    }
    Ok(header)
}

/// Refuses a name that the kernel would cut.
fn named(name: &str) -> io::Result<&DmName> {
    DmName::new(name).map_err(cause)
}

fn path(device: &DeviceInfo) -> String {
    format!("/dev/dm-{}", device.device().minor)
}

/// The kernel's own answer, where there is one.
fn cause(error: DmError) -> io::Error {
    match error {
        DmError::Core(errors::Error::Ioctl(.., number)) => {
            io::Error::from_raw_os_error(*number as i32)
        }
        DmError::Core(errors::Error::InvalidArgument(why)) => {
            io::Error::new(io::ErrorKind::InvalidInput, why)
        }
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_the_kernel_would_cut_is_refused() {
        assert!(header(&"n".repeat(127)).is_ok());
        let refused = header(&"n".repeat(128)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_call_of_our_own_is_the_one_of_the_kernel_s_header() {
        // _IOWR(0xfd, 4, struct dm_ioctl) and _IOWR(0xfd, 6, ...), with a structure of 312 bytes.
        assert_eq!(REMOVE, 0xc138_fd04);
        assert_eq!(RESUME, 0xc138_fd06);
        let header = header("box").unwrap();
        assert_eq!((header.data_size, header.event_nr), (312, 0));
        assert_eq!(
            header.name[..4],
            [b'b' as c_char, b'o' as c_char, b'x' as c_char, 0]
        );
    }
}
