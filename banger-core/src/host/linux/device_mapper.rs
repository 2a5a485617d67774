//! Device-mapper by its ioctls (linux/dm-ioctl.h), one buffer a call.
//!
//! Not by libdevmapper or a crate over it: both make a System V semaphore for udev to release, which a
//! killed process leaves on the host, and wait for it without a limit, which hangs where udev runs
//! without dmsetup's rules. The device is used by its number, so that nobody has to wait for a link.

use std::fs::{File, OpenOptions};
use std::io;

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

/// The control device.
pub(super) const CONTROL: &str = "/dev/mapper/control";

/// `sizeof(struct dm_ioctl)`; what is passed in or out besides follows it.
const HEADER: usize = 312;

/// The longest name and uuid, without their NUL.
const NAME_BYTES: usize = 127;
const UUID_BYTES: usize = 128;

const LIST_DEVICES: u8 = 2;
const DEV_CREATE: u8 = 3;
const DEV_REMOVE: u8 = 4;
const DEV_SUSPEND: u8 = 6;
const DEV_STATUS: u8 = 7;
const TABLE_LOAD: u8 = 9;
const TABLE_STATUS: u8 = 12;

const BUFFER_FULL: u32 = 1 << 8;

/// A grip on the control device.
#[derive(Debug)]
pub(super) struct DeviceMapper {
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
        let control = OpenOptions::new().read(true).write(true).open(CONTROL)?;
        Ok(DeviceMapper { control })
    }

    /// Makes a device without a table.
    pub(super) fn create(&self, name: &str, uuid: &str) -> io::Result<()> {
        let mut call = Call::on(name)?;
        call.uuid(uuid)?;
        self.ask(DEV_CREATE, call).map(drop)
    }

    /// Gives a device a table and lets it work; returns its path.
    pub(super) fn activate(&self, name: &str, target: &Target<'_>) -> io::Result<String> {
        let mut load = Call::on(name)?;
        load.target(target);
        self.ask(TABLE_LOAD, load)?;
        // Without the flag "suspend" the call of this name resumes.
        let resumed = self.ask(DEV_SUSPEND, Call::on(name)?)?;
        Ok(resumed.path())
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        self.ask(DEV_REMOVE, Call::on(name)?).map(drop)
    }

    /// Returns the uuid and the path of a device.
    pub(super) fn identity_of(&self, name: &str) -> io::Result<(String, String)> {
        let found = self.ask(DEV_STATUS, Call::on(name)?)?;
        Ok((found.text(176), found.path()))
    }

    /// Returns what a device's only target says of itself.
    pub(super) fn status(&self, name: &str) -> io::Result<String> {
        Ok(self.ask(TABLE_STATUS, Call::on(name)?)?.status_text())
    }

    /// Returns the names of all devices.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.ask(LIST_DEVICES, Call::on("")?)?.names())
    }

    fn ask(&self, command: u8, mut call: Call) -> io::Result<Call> {
        loop {
            let bytes = u32::try_from(call.bytes.len()).unwrap_or(u32::MAX);
            call.put_u32(12, bytes);
            let asked = DmIoctl {
                command,
                bytes: &mut call.bytes,
            };
            // SAFETY: the buffer begins with a `struct dm_ioctl` that names the buffer's own length, and
            // the kernel reads and writes only within that.
            #[allow(unsafe_code)]
            unsafe { ioctl(&self.control, asked) }?;
            if call.u32(28) & BUFFER_FULL == 0 {
                return Ok(call);
            }
            // The answer did not fit. What is asked for here changes nothing and can be asked again.
            let bytes = 2 * call.bytes.len();
            call.bytes.resize(bytes, 0);
            call.put_u32(28, 0);
        }
    }
}

/// Says whether an error means that there is no such device.
pub(super) fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NXIO.raw_os_error())
}

/// The buffer of one call. Offsets are those of `struct dm_ioctl`.
struct Call {
    bytes: Vec<u8>,
}

impl Call {
    fn on(name: &str) -> io::Result<Self> {
        let mut call = Call {
            bytes: vec![0; 16 << 10],
        };
        // Version 4.0.0 of the interface has everything that is used here.
        call.put_u32(0, 4);
        call.put_u32(16, u32::try_from(HEADER).unwrap_or(0));
        call.put_text(48, name, NAME_BYTES)?;
        Ok(call)
    }

    fn uuid(&mut self, uuid: &str) -> io::Result<()> {
        self.put_text(176, uuid, UUID_BYTES)
    }

    /// A `struct dm_target_spec` and its parameters.
    fn target(&mut self, target: &Target<'_>) {
        self.put_u32(20, 1);
        let at = HEADER;
        self.bytes[at + 8..at + 16].copy_from_slice(&target.sectors.to_ne_bytes());
        self.bytes[at + 24..at + 24 + target.kind.len()].copy_from_slice(target.kind.as_bytes());
        let parameters = target.parameters.as_bytes();
        self.bytes[at + 40..at + 40 + parameters.len()].copy_from_slice(parameters);
    }

    fn put_u32(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }

    fn put_text(&mut self, at: usize, text: &str, most: usize) -> io::Result<()> {
        if text.len() > most {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.bytes[at..at + text.len()].copy_from_slice(text.as_bytes());
        Ok(())
    }

    fn u32(&self, at: usize) -> u32 {
        let bytes = self.bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
        u32::from_ne_bytes(bytes.unwrap_or_default())
    }

    fn path(&self) -> String {
        let bytes = self.bytes[40..48].try_into().unwrap_or_default();
        format!("/dev/dm-{}", minor(u64::from_ne_bytes(bytes)))
    }

    fn text(&self, at: usize) -> String {
        let rest = self.bytes.get(at..).unwrap_or_default();
        let text = rest.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }

    fn status_text(&self) -> String {
        // Only a device with a table has a target to speak of.
        match self.u32(20) {
            0 => String::new(),
            _ => self.text(self.data() + 40),
        }
    }

    /// Reads a chain of `struct dm_name_list`: device, offset of the next, name.
    fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut at = self.data();
        if self.u32(12) as usize <= at {
            return names;
        }
        loop {
            let name = self.text(at + 12);
            if !name.is_empty() {
                names.push(name);
            }
            match self.u32(at + 8) as usize {
                0 => return names,
                next => at += next,
            }
        }
    }

    fn data(&self) -> usize {
        self.u32(16) as usize
    }
}

/// The kernel's wide encoding of a device number.
fn minor(device: u64) -> u64 {
    (device & 0xff) | ((device >> 12) & 0x000f_ff00)
}

struct DmIoctl<'a> {
    command: u8,
    bytes: &'a mut Vec<u8>,
}

// SAFETY: the pointer is to a buffer that lives for the call; the opcode encodes the header's size, as
// `_IOWR(DM_IOCTL, nr, struct dm_ioctl)` does.
#[allow(unsafe_code)]
unsafe impl Ioctl for DmIoctl<'_> {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::read_write::<[u8; HEADER]>(0xfd, self.command)
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        self.bytes.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut std::ffi::c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lies_behind_the_header_as_the_kernel_reads_it() {
        let mut call = Call::on("box").unwrap();
        call.target(&Target {
            sectors: 0x0102_0304,
            kind: "snapshot",
            parameters: "/dev/loop0 /dev/loop1 P 8",
        });
        assert_eq!(call.text(48), "box");
        assert_eq!(call.u32(20), 1);
        assert_eq!(call.u32(HEADER + 8), 0x0102_0304);
        assert_eq!(call.text(HEADER + 24), "snapshot");
        assert_eq!(call.text(HEADER + 40), "/dev/loop0 /dev/loop1 P 8");
    }

    #[test]
    fn a_list_of_names_is_followed_to_its_end_and_an_empty_one_is_empty() {
        let mut call = Call::on("").unwrap();
        call.put_u32(12, 312 + 64);
        call.put_u32(HEADER + 8, 32);
        call.put_text(HEADER + 12, "one", 20).unwrap();
        call.put_text(HEADER + 32 + 12, "two", 20).unwrap();
        assert_eq!(call.names(), ["one", "two"]);
        call.put_u32(12, 312);
        assert_eq!(call.names(), [""; 0]);
    }

    #[test]
    fn a_name_that_the_kernel_would_cut_is_refused() {
        assert!(Call::on(&"n".repeat(127)).is_ok());
        assert!(Call::on(&"n".repeat(128)).is_err());
    }

    #[test]
    fn the_number_of_a_device_is_decoded() {
        // 254:3 and 254:259.
        assert_eq!(minor(0xfe03), 3);
        assert_eq!(minor(0x0010_fe03), 259);
    }
}
