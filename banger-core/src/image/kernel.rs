//! The kernel as monitors boot it: the ELF vmlinux inside a distribution's bzImage.
//!
//! Offsets are those of the x86 boot protocol (the kernel's `Documentation/arch/x86/boot.rst`).

/// Why no vmlinux came out of a kernel image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// It is no x86 bzImage.
    #[error("it is no bzImage for x86: {reason}")]
    NotBzImage {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Its payload is packed in a way that is not read here.
    #[error(
        "its kernel is packed with {packing}, which is not unpacked here (gzip, lz4, xz and zstd are)"
    )]
    Packing {
        /// The way.
        packing: &'static str,
    },
    /// Its payload is damaged.
    #[error("its lz4 payload is damaged at byte {offset}")]
    Damaged {
        /// Where, counted from the payload's first byte.
        offset: usize,
    },
    /// What was packed is no kernel.
    #[error("what it holds is no ELF executable for x86-64")]
    NotElf,
    /// It has no entry for monitors that boot without firmware.
    #[error("it has no PVH entry (CONFIG_PVH), and no microVM starts without one")]
    NoPvhEntry,
}

/// Unpacks the vmlinux from a bzImage. A file that is a vmlinux already is returned as it is.
pub(super) fn extract_vmlinux(image: Vec<u8>) -> Result<Vec<u8>, KernelError> {
    if is_elf_vmlinux(&image) {
        return Ok(image);
    }
    let payload = payload(&image)?;
    let vmlinux = match packing(payload) {
        "lz4" => unpack_lz4(payload)?,
        "nothing" => payload.to_vec(),
        packing => return Err(KernelError::Packing { packing }),
    };
    if is_elf_vmlinux(&vmlinux) {
        Ok(vmlinux)
    } else {
        Err(KernelError::NotElf)
    }
}

/// Says whether these are the first bytes of an ELF executable for x86-64.
pub(super) fn is_elf_vmlinux(bytes: &[u8]) -> bool {
    const ET_EXEC: [u8; 2] = [2, 0];
    const EM_X86_64: [u8; 2] = [62, 0];
    bytes.len() > 64
        && bytes.starts_with(b"\x7fELF\x02\x01")
        && bytes[16..18] == ET_EXEC
        && bytes[18..20] == EM_X86_64
}

/// One line of an ELF file's table of what is loaded (elf(5), `Elf64_Phdr`).
#[derive(Clone, Copy, Debug)]
pub(super) struct ProgramHeader {
    pub(super) kind: u32,
    offset: usize,
    bytes: usize,
}

/// Reads a 64-bit ELF file's program headers; none if it is no such file.
pub(super) fn program_headers(elf: &[u8]) -> Option<Vec<ProgramHeader>> {
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = usize::try_from(long(elf, 32)?).ok()?;
    let (size, count) = (usize::from(half(elf, 54)?), usize::from(half(elf, 56)?));
    (0..count)
        .map(|n| {
            let at = table.checked_add(n.checked_mul(size)?)?;
            Some(ProgramHeader {
                kind: word(elf, at)?,
                offset: usize::try_from(long(elf, at.checked_add(8)?)?).ok()?,
                bytes: usize::try_from(long(elf, at.checked_add(32)?)?).ok()?,
            })
        })
        .collect()
}

/// Says whether a vmlinux can be started without firmware: by the note that names its PVH entry (Xen's
/// `XEN_ELFNOTE_PHYS32_ENTRY`), which is what QEMU's microvm and others look for.
pub(super) fn has_pvh_entry(vmlinux: &[u8]) -> bool {
    const PT_NOTE: u32 = 4;
    // Debian's kernel has one segment of 500 bytes. A file may say that each of 65535 is all of it.
    const SEGMENTS: usize = 16;
    const BYTES: usize = 64 << 10;
    let headers = program_headers(vmlinux).unwrap_or_default();
    headers
        .iter()
        .filter(|header| header.kind == PT_NOTE)
        .take(SEGMENTS)
        .filter_map(|header| {
            let end = header.offset.checked_add(header.bytes.min(BYTES))?;
            vmlinux.get(header.offset..end)
        })
        .any(|notes| names_pvh_entry(notes).unwrap_or(false))
}

/// None where the notes are damaged.
fn names_pvh_entry(mut notes: &[u8]) -> Option<bool> {
    const PHYS32_ENTRY: u32 = 18;
    while !notes.is_empty() {
        let (name, text) = (word(notes, 0)? as usize, word(notes, 4)? as usize);
        if word(notes, 8)? == PHYS32_ENTRY && notes.get(12..16)? == b"Xen\0" {
            return Some(true);
        }
        let length = name.checked_next_multiple_of(4)? + text.checked_next_multiple_of(4)?;
        notes = notes.get(12 + length..)?;
    }
    Some(false)
}

/// Finds what `uname -r` will say in the banner that every vmlinux carries.
pub(super) fn release(vmlinux: &[u8]) -> Option<String> {
    const BANNER: &[u8] = b"Linux version ";
    let mut rest = vmlinux;
    while let Some(at) = rest.windows(BANNER.len()).position(|bytes| bytes == BANNER) {
        rest = &rest[at + BANNER.len()..];
        let end = rest.iter().take(100).position(|byte| *byte == b' ');
        let name = std::str::from_utf8(&rest[..end.unwrap_or(0)]).unwrap_or_default();
        // The same words are also the beginning of a format.
        let plain = |c: char| c.is_ascii_alphanumeric() || "+-._~".contains(c);
        if name.starts_with(|c: char| c.is_ascii_digit()) && name.chars().all(plain) {
            return Some(name.to_owned());
        }
    }
    None
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(field.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(field.try_into().ok()?))
}

/// What a legacy lz4 block holds at most, unpacked.
const LZ4_BLOCK: usize = 8 << 20;

/// The most that a kernel may have unpacked, in bytes: Debian's has 60 million, and what a header says is
/// not to be believed. It is held in memory once.
pub(super) const LARGEST: usize = 128 << 20;

/// Returns what a bzImage unpacks when it starts.
pub(super) fn payload(image: &[u8]) -> Result<&[u8], KernelError> {
    let wrong = |reason| KernelError::NotBzImage { reason };
    if image.get(0x1fe..0x200) != Some(&[0x55, 0xaa]) {
        return Err(wrong("the boot sector's signature is missing"));
    }
    if image.get(0x202..0x206) != Some(b"HdrS") {
        return Err(wrong("the setup header's signature is missing"));
    }
    let short = || wrong("it is cut off");
    match image.get(0x206..0x208) {
        Some([minor, major]) if (*major, *minor) >= (2, 8) => {}
        Some(_) => return Err(wrong("its boot protocol is older than 2.08")),
        None => return Err(short()),
    }
    let setup_sectors = match image[0x1f1] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let word = |at: usize| {
        let bytes = image.get(at..at + 4).and_then(|b| b.try_into().ok());
        bytes.map(|b| u32::from_le_bytes(b) as usize)
    };
    let (offset, length) = word(0x248).zip(word(0x24c)).ok_or_else(short)?;
    let start = (setup_sectors + 1) * 512 + offset;
    image.get(start..start + length).ok_or_else(short)
}

pub(super) fn packing(payload: &[u8]) -> &'static str {
    match payload {
        [0x02, 0x21, 0x4c, 0x18, ..] => "lz4",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0x1f, 0x8b, ..] => "gzip",
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => "xz",
        [0x5d, 0, 0, ..] => "lzma",
        [b'B', b'Z', b'h', ..] => "bzip2",
        [0x89, b'L', b'Z', b'O', ..] => "lzo",
        [0x7f, b'E', b'L', b'F', ..] => "nothing",
        _ => "something unknown",
    }
}

/// Unpacks lz4's legacy frame: blocks with their packed length before them. After the last one the
/// kernel's build appends the unpacked length of the whole.
fn unpack_lz4(payload: &[u8]) -> Result<Vec<u8>, KernelError> {
    let damaged = |offset| KernelError::Damaged { offset };
    let word = |at: usize| {
        let bytes = payload.get(at..at + 4).and_then(|b| b.try_into().ok());
        bytes.map(|b| u32::from_le_bytes(b) as usize)
    };
    let end = payload.len().saturating_sub(4);
    let total = word(end)
        .filter(|total| *total <= LARGEST)
        .ok_or(damaged(end))?;
    let mut unpacked = vec![0; total];
    let (mut at, mut filled) = (4, 0);
    while at < end {
        let length = word(at).ok_or(damaged(at))?;
        let block = payload.get(at + 4..at + 4 + length).ok_or(damaged(at))?;
        let room = LZ4_BLOCK.min(total - filled);
        filled += lz4_flex::block::decompress_into(block, &mut unpacked[filled..filled + room])
            .map_err(|_| damaged(at))?;
        at += 4 + length;
    }
    if at == end && filled == total {
        Ok(unpacked)
    } else {
        Err(damaged(at))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn vmlinux(bytes: usize) -> Vec<u8> {
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(16, 0);
        elf.extend([2, 0, 62, 0]);
        elf.extend((20..bytes).map(|n| (n / 7) as u8));
        elf
    }

    fn bz_image(payload: &[u8]) -> Vec<u8> {
        let setup_sectors = 3;
        let offset = 100;
        let mut image = vec![0; (setup_sectors + 1) * 512 + offset];
        image[0x1f1] = setup_sectors as u8;
        image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&(offset as u32).to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend(payload);
        image.extend([9; 33]);
        image
    }

    fn packed(vmlinux: &[u8]) -> Vec<u8> {
        let mut payload = vec![0x02, 0x21, 0x4c, 0x18];
        for block in vmlinux.chunks(LZ4_BLOCK) {
            let block = lz4_flex::block::compress(block);
            payload.extend((block.len() as u32).to_le_bytes());
            payload.extend(block);
        }
        payload.extend((vmlinux.len() as u32).to_le_bytes());
        payload
    }

    #[test]
    fn a_kernel_of_several_lz4_blocks_comes_out_byte_for_byte() {
        let kernel = vmlinux(LZ4_BLOCK + 12_345);
        let image = bz_image(&packed(&kernel));
        assert!(extract_vmlinux(image.clone()).unwrap() == kernel);
    }

    /// With a note segment of these bytes behind its headers.
    fn with_notes(notes: &[u8]) -> Vec<u8> {
        let mut elf = vmlinux(64);
        elf[32..40].copy_from_slice(&64_u64.to_le_bytes());
        elf[54..56].copy_from_slice(&56_u16.to_le_bytes());
        elf[56..58].copy_from_slice(&1_u16.to_le_bytes());
        elf.resize(64 + 56, 0);
        elf[64..68].copy_from_slice(&4_u32.to_le_bytes());
        elf[72..80].copy_from_slice(&120_u64.to_le_bytes());
        elf[96..104].copy_from_slice(&(notes.len() as u64).to_le_bytes());
        elf.extend(notes);
        elf
    }

    fn note(kind: u32) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [4, 8, kind] {
            note.extend(u32::to_le_bytes(word));
        }
        note.extend(b"Xen\0");
        note.extend([0; 8]);
        note
    }

    #[test]
    fn a_kernel_without_a_pvh_entry_is_told_from_one_with() {
        assert!(has_pvh_entry(&with_notes(&[note(5), note(18)].concat())));
        assert!(!has_pvh_entry(&with_notes(&note(5))));
        assert!(!has_pvh_entry(&vmlinux(4096)));
        let whole = with_notes(&[note(5), note(18)].concat());
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            let _ = (has_pvh_entry(&damaged), has_pvh_entry(&whole[..at]));
        }
    }

    #[test]
    fn the_release_is_read_from_the_banner_and_not_from_a_format() {
        let text = b"..Linux version %s (%s)\0Linux version 6.1.0-9-cloud-amd64 (debian)..";
        assert_eq!(release(text).unwrap(), "6.1.0-9-cloud-amd64");
        assert_eq!(release(b"Linux version 6.1"), None);
        assert_eq!(release(b"Linux version 6/../../x y"), None);
    }

    #[test]
    fn a_vmlinux_is_taken_as_it_is() {
        assert_eq!(extract_vmlinux(vmlinux(4096)).unwrap(), vmlinux(4096));
    }

    #[test]
    fn another_packing_is_refused_by_its_name() {
        for (magic, name) in [
            (&[0x28, 0xb5, 0x2f, 0xfd, 0, 0][..], "zstd"),
            (&[0x1f, 0x8b, 8, 0], "gzip"),
            (b"\xfd7zXZ\0", "xz"),
        ] {
            let error = extract_vmlinux(bz_image(magic)).unwrap_err();
            assert_eq!(error, KernelError::Packing { packing: name });
        }
    }

    #[test]
    fn every_way_to_cut_off_an_image_is_an_error_and_no_panic() {
        let image = bz_image(&packed(&vmlinux(3000)));
        let end = image.len() - 33;
        for length in 0..end {
            assert!(
                extract_vmlinux(image[..length].to_vec()).is_err(),
                "{length} bytes"
            );
        }
        assert!(extract_vmlinux(image[..end].to_vec()).is_ok());
    }

    #[test]
    fn a_damaged_payload_is_an_error_and_no_panic() {
        let whole = bz_image(&packed(&vmlinux(3000)));
        for at in (4 * 512 + 100)..whole.len() - 33 {
            let mut image = whole.clone();
            image[at] ^= 0x55;
            // A flipped literal may still unpack: only a panic would be wrong.
            let _ = extract_vmlinux(image.clone());
        }
        let mut shorter = packed(&vmlinux(3000));
        let end = shorter.len();
        shorter[end - 4] ^= 1;
        assert!(matches!(
            extract_vmlinux(bz_image(&shorter)),
            Err(KernelError::Damaged { .. })
        ));
    }

    #[test]
    fn something_packed_that_is_no_kernel_is_refused() {
        let image = bz_image(&packed(&[7; 5000]));
        assert_eq!(
            extract_vmlinux(image.clone()).unwrap_err(),
            KernelError::NotElf
        );
    }

    #[test]
    fn notes_that_say_to_be_all_of_a_kernel_over_and_over_are_not_read_so() {
        let count = 65_535_usize;
        let headers = 56 * count;
        let mut elf = vmlinux(64);
        elf[32..40].copy_from_slice(&64_u64.to_le_bytes());
        elf[54..56].copy_from_slice(&56_u16.to_le_bytes());
        elf[56..58].copy_from_slice(&(count as u16).to_le_bytes());
        let zeros = 16 << 20;
        let mut header = [0; 56];
        header[..4].copy_from_slice(&4_u32.to_le_bytes());
        header[8..16].copy_from_slice(&(64 + headers as u64).to_le_bytes());
        header[32..40].copy_from_slice(&u64::to_le_bytes(zeros));
        elf.resize(64, 0);
        elf.extend(header.repeat(count));
        elf.resize(64 + headers + zeros as usize, 0);
        let begun = Instant::now();
        assert!(!has_pvh_entry(&elf));
        // It would be hours.
        assert!(begun.elapsed() < Duration::from_secs(60));
    }

    proptest! {
        #[test]
        fn fuzz_no_kernel_is_too_odd_to_be_refused(
            spoil in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
            cut in any::<prop::sample::Index>(),
            packs in any::<bool>(),
        ) {
            let kernel = with_notes(&[note(5), note(18)].concat());
            let mut image = if packs { bz_image(&packed(&kernel)) } else { kernel };
            for (at, value) in &spoil {
                let at = at.index(image.len());
                image[at] = *value;
            }
            image.truncate(cut.index(image.len() + 1));
            let _ = (has_pvh_entry(&image), release(&image));
            if let Ok(payload) = payload(&image) {
                let _ = packing(payload);
            }
            if let Ok(vmlinux) = extract_vmlinux(image) {
                prop_assert!(vmlinux.len() <= LARGEST);
            }
        }
    }
}
