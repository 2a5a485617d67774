//! The files that differ from a checkout, packed as they are, beneath the root of their repository. Whatever takes a
//! file's place while this looks, nothing but files and links is packed, and nothing is waited for.

use std::ffi::OsStr;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use banger_foreign::{Folder, ForeignError, Kind};
use tar::{Builder, EntryType, Header};

use crate::host::{Host, HostError, OpenFile};
use crate::workspace::WorkspaceError;
use crate::workspace::open::blocking;

/// The most that all that differs may have, in bytes.
const LARGEST: u64 = 16 << 30;

/// What was packed.
#[derive(Debug)]
pub(super) struct Packed {
    /// The length of the archive, in bytes.
    pub(super) bytes: u64,
    /// Files that are of a kind that is not carried, and which.
    pub(super) left_out: Vec<(Vec<u8>, Kind)>,
}

/// Packs these paths into a new file.
pub(super) async fn pack_overlay(
    host: &dyn Host,
    root: &Path,
    paths: Vec<Vec<u8>>,
    to: &Path,
) -> Result<Packed, WorkspaceError> {
    let file = host.new_file(to).await?;
    let root = root.to_owned();
    blocking(move || {
        let folder = Folder::open(&root).map_err(HostError::from)?;
        let pack = Pack {
            folder: &folder,
            root: &root,
        };
        let mut builder = Builder::new(BufWriter::with_capacity(256 << 10, &*file));
        let mut left_out = Vec::new();
        for path in paths {
            let so_far = file.metadata().map_or(0, |facts| facts.len());
            if so_far > LARGEST {
                let path = Path::new(OsStr::from_bytes(&path));
                return Err(pack.told(path, "all that differs is more than 16 GiB"));
            }
            if let Some(kind) = pack.one(&mut builder, Path::new(OsStr::from_bytes(&path)))? {
                left_out.push((path, kind));
            }
        }
        let written = builder.into_inner().and_then(|mut writer| writer.flush());
        written.map_err(|error| pack.cannot(Path::new(""), &error))?;
        let bytes = file
            .metadata()
            .map_err(|error| pack.cannot(Path::new(""), &error))?;
        Ok(Packed {
            bytes: bytes.len(),
            left_out,
        })
    })
    .await
}

struct Pack<'a> {
    folder: &'a Folder,
    root: &'a Path,
}

impl Pack<'_> {
    /// Packs one, or says of which kind it is that is not packed.
    fn one<W: Write>(
        &self,
        builder: &mut Builder<W>,
        path: &Path,
    ) -> Result<Option<Kind>, WorkspaceError> {
        let foreign = |error: ForeignError| WorkspaceError::Files {
            path: self.root.to_owned(),
            said: error.to_string(),
        };
        let stat = self.folder.stat(path).map_err(foreign)?;
        let stat = stat.ok_or_else(|| self.cannot(path, &io::ErrorKind::NotFound.into()))?;
        let mut header = Header::new_gnu();
        header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or_default());
        header.set_uid(0);
        header.set_gid(0);
        header.set_mode(stat.st_mode & 0o777);
        match Kind::of(&stat) {
            Kind::Link => {
                let target = self.folder.link(path).map_err(foreign)?;
                let target = target.ok_or_else(|| self.changed(path))?;
                header.set_entry_type(EntryType::Symlink);
                header.set_size(0);
                builder
                    .append_link(&mut header, path, target)
                    .map_err(|error| self.cannot(path, &error))?;
                Ok(None)
            }
            Kind::File => {
                let file = self.folder.file(path).map_err(foreign)?;
                let file = file.ok_or_else(|| self.changed(path))?;
                let length = file
                    .metadata()
                    .map_err(|error| self.cannot(path, &error))?
                    .len();
                header.set_entry_type(EntryType::Regular);
                header.set_size(length);
                let mut exact = Exact {
                    file,
                    left: length,
                    changed: false,
                };
                let packed = builder.append_data(&mut header, path, &mut exact);
                if exact.changed || exact.left > 0 {
                    return Err(self.changed(path));
                }
                packed.map_err(|error| self.cannot(path, &error))?;
                Ok(None)
            }
            kind => Ok(Some(kind)),
        }
    }

    fn changed(&self, path: &Path) -> WorkspaceError {
        self.told(path, "it changed while it was read")
    }

    fn cannot(&self, path: &Path, error: &io::Error) -> WorkspaceError {
        self.told(path, &error.to_string())
    }

    fn told(&self, path: &Path, said: &str) -> WorkspaceError {
        WorkspaceError::Files {
            path: self.root.to_owned(),
            said: format!("{}: {said}", PathBuf::from(path).display()),
        }
    }
}

/// A file of exactly the length that was told of it.
struct Exact {
    file: OpenFile,
    left: u64,
    changed: bool,
}

impl Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            // One byte more, and it has grown.
            self.changed = self.file.read(&mut [0])? > 0;
            return Ok(0);
        }
        let room = usize::try_from(self.left)
            .unwrap_or(buffer.len())
            .min(buffer.len());
        let read = self.file.read(&mut buffer[..room])?;
        self.left -= read as u64;
        match read {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => Ok(read),
        }
    }
}
