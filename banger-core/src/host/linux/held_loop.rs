//! Loop devices that are made: configured in one step, with a label, freed by the kernel when the last who
//! holds one lets go. What is free the crate `loopdev` finds and opens; LOOP_CONFIGURE it has not, and without
//! it a device is on its file for a moment without being anybody's.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use loopdev::{LoopControl, LoopDevice};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, ioctl};

use super::loops::LoopInfo;

/// A loop device that exists as long as this or another opener of it does.
#[derive(Debug)]
pub(super) struct HeldLoop {
    device: LoopDevice,
    path: String,
}

/// The longest label: `lo_file_name` less its NUL.
const LABEL_BYTES: usize = 63;

/// Another process may take the device that was free a moment ago; so often in a row it does not.
const ATTEMPTS: usize = 64;

const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

const LOOP_CONFIGURE: Opcode = 0x4c0a;

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

impl HeldLoop {
    /// Puts a loop device on a file.
    pub(super) fn on(file: &Path, label: &str, read_only: bool) -> io::Result<Self> {
        if label.len() > LABEL_BYTES {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let backing = OpenOptions::new().read(true).write(!read_only).open(file)?;
        let mut info = LoopInfo::EMPTY;
        info.flags = LO_FLAGS_AUTOCLEAR | if read_only { LO_FLAGS_READ_ONLY } else { 0 };
        info.file_name[..label.len()].copy_from_slice(label.as_bytes());
        let config = LoopConfig {
            fd: u32::try_from(backing.as_raw_fd()).unwrap_or(u32::MAX),
            block_size: 0,
            info,
            reserved: [0; 8],
        };
        let control = LoopControl::open()?;
        for _ in 0..ATTEMPTS {
            let device = control.next_free()?;
            let path = device.path().ok_or(Errno::NODEV)?;
            let held = HeldLoop {
                device,
                path: path.to_string_lossy().into_owned(),
            };
            // SAFETY: LOOP_CONFIGURE reads a `struct loop_config`, which this is.
            #[allow(unsafe_code)]
            match unsafe { ioctl(&held, Setter::<LOOP_CONFIGURE, _>::new(config)) } {
                Ok(()) => return Ok(held),
                Err(Errno::BUSY) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Errno::BUSY.into())
    }

    /// Returns its path, `/dev/loopN`.
    pub(super) fn path(&self) -> &str {
        &self.path
    }
}

impl AsFd for HeldLoop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the device is open for as long as it is borrowed.
        #[allow(unsafe_code)]
        unsafe {
            BorrowedFd::borrow_raw(self.device.as_raw_fd())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structure_has_the_size_that_the_kernel_gives_it() {
        assert_eq!(size_of::<LoopConfig>(), 304);
    }
}
