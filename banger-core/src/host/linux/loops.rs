//! Loop devices by their ioctls (loop(4)): configured in one step, with a label, freed by the kernel
//! when the last who holds one lets go.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use rustix::io::Errno;
use rustix::ioctl::{Getter, Ioctl, IoctlOutput, Opcode, Setter, ioctl};

/// A loop device that exists as long as this or another opener of it does.
#[derive(Debug)]
pub(super) struct HeldLoop {
    number: u32,
    _device: File,
}

impl HeldLoop {
    pub(super) fn path(&self) -> String {
        format!("/dev/loop{}", self.number)
    }
}

/// The longest label: `lo_file_name` less its NUL.
const LABEL_BYTES: usize = 63;

/// Another process may take the device that was free a moment ago; so often in a row it does not.
const ATTEMPTS: usize = 64;

const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

const LOOP_CTL_GET_FREE: Opcode = 0x4c82;
const LOOP_CONFIGURE: Opcode = 0x4c0a;
const LOOP_GET_STATUS64: Opcode = 0x4c05;

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// Puts a loop device on a file.
pub(super) fn configure(file: &Path, label: &str, read_only: bool) -> io::Result<HeldLoop> {
    use std::os::fd::AsRawFd;
    let backing = OpenOptions::new().read(true).write(!read_only).open(file)?;
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/loop-control")?;
    let mut info = LoopInfo {
        flags: LO_FLAGS_AUTOCLEAR | if read_only { LO_FLAGS_READ_ONLY } else { 0 },
        ..EMPTY
    };
    if label.len() > LABEL_BYTES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    info.file_name[..label.len()].copy_from_slice(label.as_bytes());
    for _ in 0..ATTEMPTS {
        // SAFETY: LOOP_CTL_GET_FREE takes no argument.
        #[allow(unsafe_code)]
        let number = unsafe { ioctl(&control, GetFree) }?;
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/dev/loop{number}"))?;
        let config = LoopConfig {
            fd: u32::try_from(backing.as_raw_fd()).unwrap_or(u32::MAX),
            block_size: 0,
            info,
            reserved: [0; 8],
        };
        // SAFETY: LOOP_CONFIGURE reads a `struct loop_config`, which this is.
        #[allow(unsafe_code)]
        let configured = unsafe { ioctl(&device, Setter::<LOOP_CONFIGURE, _>::new(config)) };
        match configured {
            Ok(()) => {
                return Ok(HeldLoop {
                    number,
                    _device: device,
                });
            }
            Err(Errno::BUSY) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::BUSY.into())
}

/// Returns the label of a loop device; none if it is on no file.
pub(super) fn label(device: &Path) -> io::Result<Option<String>> {
    let device = match File::open(device) {
        Ok(device) => device,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // SAFETY: LOOP_GET_STATUS64 writes a `struct loop_info64`, which this is, valid for any bytes.
    #[allow(unsafe_code)]
    let info = unsafe { ioctl(&device, Getter::<LOOP_GET_STATUS64, LoopInfo>::new()) };
    match info {
        Ok(info) => {
            let bytes = info.file_name.split(|byte| *byte == 0).next();
            let label = String::from_utf8_lossy(bytes.unwrap_or_default());
            Ok(Some(label.into_owned()))
        }
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

const EMPTY: LoopInfo = LoopInfo {
    device: 0,
    inode: 0,
    rdevice: 0,
    offset: 0,
    size_limit: 0,
    number: 0,
    encrypt_type: 0,
    encrypt_key_size: 0,
    flags: 0,
    file_name: [0; 64],
    crypt_name: [0; 64],
    encrypt_key: [0; 32],
    init: [0; 2],
};

/// The number comes back as the call's own value.
struct GetFree;

// SAFETY: the call takes no argument and returns a number, or an error that rustix has taken out.
#[allow(unsafe_code)]
unsafe impl Ioctl for GetFree {
    type Output = u32;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        LOOP_CTL_GET_FREE
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        number: IoctlOutput,
        _: *mut std::ffi::c_void,
    ) -> rustix::io::Result<u32> {
        u32::try_from(number).map_err(|_| Errno::INVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_sizes_that_the_kernel_gives_them() {
        assert_eq!(size_of::<LoopInfo>(), 232);
        assert_eq!(size_of::<LoopConfig>(), 304);
    }
}
