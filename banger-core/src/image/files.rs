//! The files of an initramfs that somebody else has made: found, and read one by one, never held as a whole.

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use banger_foreign::ForeignError;
use cpio::newc;

use super::contract;
use super::error::ImageError;
use super::modules::unpacker;
use super::workshop::Workshop;
use crate::host::{Host, HostError, OpenFile, ProgramLimits};

/// The name of the file into which a packed initramfs is unpacked, in the folder of what is being made.
pub(super) const UNPACKED: &str = "initramfs.unpacked";

/// The most that an initramfs may have, packed, in bytes.
const LARGEST: u64 = 512 << 20;

/// The most that it may have unpacked.
const LARGEST_UNPACKED: u64 = 2 << 30;

/// The most files that it may hold. Debian's with all modules holds 5,000.
const MOST: usize = 200_000;

/// The most that the name of one may have, in bytes: Linux's PATH_MAX, as the kernel itself refuses longer ones.
const LONGEST_NAME: usize = 4096;

/// The most that the names of all may have, in bytes. Debian's have 300,000.
const ALL_NAMES: usize = 32 << 20;

/// Where each file lies, by its path without a leading slash.
#[derive(Debug)]
pub(super) struct Files {
    path: PathBuf,
    places: BTreeMap<String, Place>,
}

#[derive(Clone, Debug)]
struct Place {
    file: Arc<OpenFile>,
    offset: u64,
    bytes: u64,
}

/// What follows the archives that are not packed.
#[derive(Debug)]
enum Rest {
    Nothing,
    Packed { program: &'static str, offset: u64 },
}

impl Files {
    /// Reads an initramfs as the kernel does: archives one after the other, the later ones packed or not.
    /// What is packed is unpacked into a file `aside`, which is gone again when this returns.
    pub(super) async fn open(
        shop: &Workshop<'_>,
        path: &Path,
        aside: &Path,
    ) -> Result<Self, ImageError> {
        let host = shop.host;
        let missing = || ImageError::NoFile {
            path: path.to_owned(),
        };
        let file = host.open_foreign(path).await?.ok_or_else(missing)?;
        let mut files = Files {
            path: path.to_owned(),
            places: BTreeMap::new(),
        };
        let rest = files.take(file.clone(), LARGEST).await?;
        if let Rest::Packed { program, offset } = rest {
            let unpacked = files.unpack(host, file, offset, program, aside).await;
            // It stays for as long as it is open.
            host.remove_file(aside).await?;
            match files.take(unpacked?, LARGEST_UNPACKED).await? {
                Rest::Nothing => {}
                Rest::Packed { .. } => return Err(files.refused("it is packed twice")),
            }
        }
        match files.places.is_empty() {
            true => Err(files.refused("it holds no file")),
            false => Ok(files),
        }
    }

    /// Reads a file of at most `limit` bytes; a missing one is `None`.
    pub(super) async fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, ImageError> {
        let Some(place) = self.places.get(name).cloned() else {
            return Ok(None);
        };
        if place.bytes > limit {
            return Err(ImageError::TooLargeWithin {
                path: self.path.clone(),
                name: name.to_owned(),
                limit: format!("{} MiB", limit >> 20),
            });
        }
        let read = aside(move || {
            let mut file = &*place.file;
            let mut bytes = Vec::new();
            file.seek(SeekFrom::Start(place.offset))?;
            file.take(place.bytes).read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        read.await.map(Some).map_err(|error| self.io(error))
    }

    async fn unpack(
        &self,
        host: &dyn Host,
        file: Arc<OpenFile>,
        offset: u64,
        program: &'static str,
        to: &Path,
    ) -> Result<Arc<OpenFile>, ImageError> {
        (&*file)
            .seek(SeekFrom::Start(offset))
            .map_err(|error| self.io(error))?;
        let unpacked = host.new_file(to).await?;
        let limits = ProgramLimits {
            file_bytes: LARGEST_UNPACKED,
            ..contract::PARSER
        };
        let run = unpacker(program).between(file, Arc::clone(&unpacked));
        let output = host.run(&run.limits(limits)).await?;
        match output.success() {
            true => Ok(unpacked),
            false => Err(self.refused(&format!(
                "{program} does not unpack it: {}",
                output.last_lines(1)
            ))),
        }
    }

    /// Takes up the archives of one file of at most `largest` bytes.
    async fn take(&mut self, file: Arc<OpenFile>, largest: u64) -> Result<Rest, ImageError> {
        let path = self.path.clone();
        let length = file.metadata().map_err(|error| self.io(error))?.len();
        if length > largest {
            return Err(ImageError::TooLarge { path, largest });
        }
        let found = aside(move || Ok(archives(&file, length)));
        let (places, rest) = found
            .await
            .map_err(|error| self.io(error))?
            .map_err(|reason| self.refused(&reason))?;
        self.places.extend(places);
        Ok(rest)
    }

    fn refused(&self, reason: &str) -> ImageError {
        ImageError::NoInitramfs {
            path: self.path.clone(),
            reason: reason.to_owned(),
        }
    }

    fn io(&self, source: std::io::Error) -> ImageError {
        let path = self.path.clone();
        HostError::from(ForeignError::Io { path, source }).into()
    }
}

/// Finds the files of one archive after the other.
fn archives(file: &Arc<OpenFile>, length: u64) -> Result<(BTreeMap<String, Place>, Rest), String> {
    let told = |error: std::io::Error| format!("its archive is damaged: {error}");
    let mut reader = BufReader::new(&**file);
    let mut places = BTreeMap::new();
    let (mut at, mut names) = (reader.seek(SeekFrom::Start(0)).map_err(told)?, 0);
    loop {
        // Zeros between archives.
        let mut first = [0_u8; 1];
        while at < length {
            reader.read_exact(&mut first).map_err(told)?;
            if first != [0] {
                break;
            }
            at += 1;
        }
        if at >= length {
            return Ok((places, Rest::Nothing));
        }
        reader.seek(SeekFrom::Start(at)).map_err(told)?;
        let mut magic = [0; 4];
        let known = reader.read_exact(&mut magic).is_ok();
        reader.seek(SeekFrom::Start(at)).map_err(told)?;
        let packed = |program| Rest::Packed {
            program,
            offset: at,
        };
        match magic {
            _ if !known => return Err("it holds no cpio archive".to_owned()),
            [b'0', b'7', b'0', b'7'] => {}
            [0x1f, 0x8b, ..] => return Ok((places, packed("gzip"))),
            [0xfd, b'7', b'z', b'X'] => return Ok((places, packed("xz"))),
            [0x28, 0xb5, 0x2f, 0xfd] => return Ok((places, packed("zstd"))),
            [0x02, 0x21, 0x4c, 0x18] => {
                return Err("it is packed with lz4, which is not unpacked here".to_owned());
            }
            _ => return Err("it holds no cpio archive".to_owned()),
        }
        at = archive(file, &mut reader, length, &mut places, &mut names)?;
    }
}

/// Finds the files of one archive, and returns where it ends.
fn archive(
    file: &Arc<OpenFile>,
    reader: &mut BufReader<&OpenFile>,
    length: u64,
    places: &mut BTreeMap<String, Place>,
    names: &mut usize,
) -> Result<u64, String> {
    let told = |error: std::io::Error| format!("its archive is damaged: {error}");
    loop {
        // Whoever reads the entry takes a name of any length into memory.
        *names += name_bytes(reader).map_err(told)?;
        if *names > ALL_NAMES {
            let most = ALL_NAMES >> 20;
            return Err(format!("the names in it have more than {most} MiB"));
        }
        let mut entry = newc::Reader::new(&mut *reader).map_err(told)?;
        if entry.entry().is_trailer() {
            let reader = entry.finish().map_err(told)?;
            return reader.stream_position().map_err(told);
        }
        let place = Place {
            file: Arc::clone(file),
            offset: entry.offset().map_err(told)?,
            bytes: entry.entry().file_size().into(),
        };
        if place.offset.saturating_add(place.bytes) > length {
            return Err("its archive is cut off".to_owned());
        }
        let name = entry.entry().name().trim_start_matches("./").to_owned();
        places.insert(name, place);
        if places.len() > MOST {
            return Err(format!("it holds more than {MOST} files"));
        }
        entry.skip().map_err(told)?;
    }
}

/// Returns how long the name of the next file is, whose header is read again after this.
fn name_bytes(reader: &mut BufReader<&OpenFile>) -> std::io::Result<usize> {
    use std::io::{Error, ErrorKind};
    // Six bytes of magic and thirteen numbers of eight hexadecimal digits; the twelfth is this one.
    let mut header = [0; 110];
    reader.read_exact(&mut header)?;
    reader.seek_relative(-110)?;
    let digits = std::str::from_utf8(&header[94..102]).unwrap_or_default();
    match usize::from_str_radix(digits, 16) {
        Ok(bytes) if bytes <= LONGEST_NAME => Ok(bytes),
        Ok(bytes) => {
            let reason = format!("the name of a file has {bytes} bytes");
            Err(Error::new(ErrorKind::InvalidData, reason))
        }
        Err(_) => Err(ErrorKind::InvalidData.into()),
    }
}

/// Reads off the threads that others wait on.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn archive_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = Vec::new();
        for (name, contents) in files {
            let length = u32::try_from(contents.len()).unwrap();
            let mut writer = newc::Builder::new(name).write(&mut archive, length);
            writer.write_all(contents).unwrap();
            writer.finish().unwrap();
        }
        newc::trailer(&mut archive).unwrap();
        archive
    }

    fn found(bytes: &[u8]) -> Result<Vec<(String, u64)>, String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let file = Arc::new(file);
        let (places, _) = archives(&file, bytes.len() as u64)?;
        Ok(places
            .into_iter()
            .map(|(name, place)| (name, place.bytes))
            .collect())
    }

    #[test]
    fn archives_follow_each_other_with_zeros_between() {
        let mut bytes = archive_of(&[("./a", b"abc")]);
        bytes.extend([0; 500]);
        bytes.extend(archive_of(&[("b", b"")]));
        assert_eq!(
            found(&bytes).unwrap(),
            [("a".to_owned(), 3), ("b".to_owned(), 0)]
        );
    }

    #[test]
    fn names_are_not_read_whatever_length_they_say_to_have() {
        let header = |bytes: usize| {
            let zeros = "0".repeat(8);
            let number = |n: usize| format!("{n:08x}");
            let fields: String = (0..13)
                .map(|field| {
                    if field == 11 {
                        number(bytes)
                    } else {
                        zeros.clone()
                    }
                })
                .collect();
            format!("070701{fields}").into_bytes()
        };
        // The file is one hole: what is read of it takes memory, and no disk.
        let long = tempfile::tempfile().unwrap();
        (&long).write_all(&header(1 << 30)).unwrap();
        long.set_len(LARGEST_UNPACKED).unwrap();
        let error = archives(&Arc::new(long), LARGEST_UNPACKED).unwrap_err();
        assert!(error.contains("1073741824 bytes"), "{error}");
        let mut many = Vec::new();
        for n in 0..=ALL_NAMES / LONGEST_NAME {
            let mut name = format!("{n:08}").into_bytes();
            name.resize(LONGEST_NAME - 1, b'x');
            name.push(0);
            many.extend([header(LONGEST_NAME), name, vec![0; 2]].concat());
        }
        let error = found(&many).unwrap_err();
        assert!(error.contains("more than 32 MiB"), "{error}");
    }

    #[test]
    fn an_archive_that_is_cut_anywhere_or_spoiled_is_an_error_and_no_panic() {
        let bytes = archive_of(&[("a", b"abc"), ("lib/modules/x", &[7; 900])]);
        for length in 0..bytes.len() - 4 {
            let _ = found(&bytes[..length]);
        }
        for at in 0..bytes.len() {
            for value in [0, b'0', b'f', 0xff] {
                let mut spoiled = bytes.clone();
                spoiled[at] = value;
                let _ = found(&spoiled);
            }
        }
        assert_eq!(found(&bytes).unwrap().len(), 2);
    }

    #[test]
    fn a_size_beyond_the_file_is_refused() {
        let mut bytes = archive_of(&[("a", b"abc")]);
        bytes[54..62].copy_from_slice(b"fffffff0");
        assert!(found(&bytes).unwrap_err().contains("cut off"));
    }
}
