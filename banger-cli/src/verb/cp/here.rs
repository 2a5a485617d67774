//! This host's side of a copy.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use banger_foreign::{Folder, ForeignError, Look, UnpackError, Unpacked};

use crate::command_error::CommandError;
use crate::daemon::chain;

/// Where what a guest sends goes.
pub(crate) enum Sink {
    /// Standard output, or a file that is no plain one.
    Stream(Arc<File>),
    /// Beside its place, until all of it is there.
    File {
        file: File,
        part: PathBuf,
        target: PathBuf,
    },
    /// A tar stream, unpacked by a thread of its own beneath the folder that it goes into.
    Archive(Unpacking),
}

/// A tar stream that is unpacked while it comes.
pub(crate) struct Unpacking {
    pieces: Option<mpsc::SyncSender<Vec<u8>>>,
    worker: Option<thread::JoinHandle<Result<Unpacked, UnpackError>>>,
}

/// The pieces of a stream, read as one.
struct Pieces {
    coming: mpsc::Receiver<Vec<u8>>,
    piece: io::Cursor<Vec<u8>>,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.piece.read(buffer)? {
                0 => match self.coming.recv() {
                    Ok(piece) => self.piece = io::Cursor::new(piece),
                    // All of it has come, or nothing more will.
                    Err(mpsc::RecvError) => return Ok(0),
                },
                read => return Ok(read),
            }
        }
    }
}

impl Unpacking {
    /// `unpack` is given the stream and the umask.
    fn start(
        unpack: impl FnOnce(&mut Pieces, u32) -> Result<Unpacked, UnpackError> + Send + 'static,
    ) -> Result<Self, CommandError> {
        let (pieces, coming) = mpsc::sync_channel(4);
        let umask = umask();
        let work = move || {
            let piece = io::Cursor::new(Vec::new());
            let mut stream = Pieces { coming, piece };
            let unpacked = unpack(&mut stream, umask)?;
            // What follows the end of the archive is padding.
            io::copy(&mut stream, &mut io::sink())
                .map_err(|source| UnpackError::Stream { source })?;
            Ok(unpacked)
        };
        let worker = thread::Builder::new()
            .name("unpack".to_owned())
            .spawn(work)
            .map_err(|error| CommandError::io("cannot start a thread", error))?;
        Ok(Unpacking {
            pieces: Some(pieces),
            worker: Some(worker),
        })
    }

    /// Waits for the thread; an error of its own is the one to tell.
    fn ended(&mut self) -> Result<Unpacked, CommandError> {
        drop(self.pieces.take());
        let ended = self.worker.take().map(thread::JoinHandle::join);
        match ended {
            Some(Ok(Ok(unpacked))) => Ok(unpacked),
            Some(Ok(Err(error))) => Err(not_unpacked(&error)),
            _ => Err(CommandError::new("not all of it was copied")),
        }
    }
}

impl Drop for Unpacking {
    fn drop(&mut self) {
        // It removes what is not whole, which is waited for.
        let _ = self.ended();
    }
}

fn not_unpacked(error: &UnpackError) -> CommandError {
    let mut told = CommandError::new("not all of it was copied");
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        told = told.because(error.to_string());
        cause = error.source();
    }
    match error {
        UnpackError::Here(ForeignError::Io { source, .. } | ForeignError::Write { source, .. })
            if matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ) =>
        {
            told.hint("free some space there, and copy again; what came before is there, and whole")
        }
        UnpackError::Here(_) => told.hint("move it away, or copy into an empty folder"),
        _ => told.hint("what came before is there, and whole; do not trust the guest blindly"),
    }
}

/// The bits that new files here must not have.
fn umask() -> u32 {
    // It can only be read by setting it. Nothing is made meanwhile: there is no other thread yet.
    let umask = rustix::process::umask(rustix::fs::Mode::RWXU);
    rustix::process::umask(umask);
    umask.as_raw_mode()
}

/// Where a file is to come to lie.
enum Landing {
    /// It is written to as it is: a pipe, a device, a descriptor of ours.
    Open(PathBuf),
    /// It is written beside its place in this folder, and renamed.
    Replace { folder: PathBuf, target: PathBuf },
}

impl Landing {
    /// Of a file at `target`, or in it if it is a folder.
    fn of(target: &Path, name: Option<&OsStr>) -> Result<Self, CommandError> {
        let mut target = target.to_owned();
        let is_named_by_us = target.is_dir();
        if is_named_by_us {
            match name {
                Some(name) => target.push(name),
                None => return Err(is_folder(&target)),
            }
        }
        if target.is_dir() {
            return Err(is_folder(&target));
        }
        if target.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Err(no_folder(&target));
        }
        if is_descriptor(&target) {
            return Ok(Landing::Open(target));
        }
        // A link that was typed stays one, and what it leads to is replaced. One that was not is replaced itself:
        // a guest may have sent it.
        let target = match is_named_by_us {
            true => target,
            false => fs::canonicalize(&target).unwrap_or(target),
        };
        let is_link = fs::symlink_metadata(&target).is_ok_and(|facts| facts.is_symlink());
        if !is_link && fs::metadata(&target).is_ok_and(|facts| !facts.is_file()) {
            return Ok(Landing::Open(target));
        }
        let folder = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        match folder.is_dir() {
            true => Ok(Landing::Replace { folder, target }),
            false => Err(no_folder(&folder)),
        }
    }
}

/// Whether a file that goes there can have holes.
pub(super) fn takes_holes(target: &Path, name: Option<&OsStr>) -> bool {
    matches!(Landing::of(target, name), Ok(Landing::Replace { .. }))
}

impl Sink {
    /// Standard output.
    pub(super) fn stdout() -> Result<Self, CommandError> {
        let copied = io::stdout().as_fd().try_clone_to_owned();
        match copied {
            Ok(stdout) => Ok(Sink::Stream(Arc::new(stdout.into()))),
            Err(error) => Err(CommandError::io("cannot write to standard output", error)),
        }
    }

    /// A file at `target`, or in it if it is a folder. `mode` is cut by the umask.
    pub(crate) async fn file(
        target: &Path,
        name: Option<&OsStr>,
        mode: u32,
        nonce: &str,
    ) -> Result<Self, CommandError> {
        let (folder, target) = match Landing::of(target, name)? {
            Landing::Open(target) => return Sink::opened(target).await,
            Landing::Replace { folder, target } => (folder, target),
        };
        // A name that nobody else can take beforehand.
        let part = folder.join(format!(".banger-cp-{nonce}"));
        let opened = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode & 0o777)
            .open(&part);
        match opened {
            Ok(file) => Ok(Sink::File { file, part, target }),
            Err(error) => Err(cannot("write to", &folder, error)),
        }
    }

    /// The same, of a file with holes: a tar stream of this one file.
    pub(super) fn file_with_holes(
        target: &Path,
        name: Option<&OsStr>,
        nonce: String,
    ) -> Result<Self, CommandError> {
        let (folder, target) = match Landing::of(target, name)? {
            Landing::Replace { folder, target } => (folder, target),
            Landing::Open(target) => {
                let what = format!(
                    "{} is no plain file: holes have no place in it",
                    target.display()
                );
                return Err(CommandError::new(what));
            }
        };
        let folder = Folder::open(&folder).map_err(|error| chain(&error))?;
        let name = PathBuf::from(target.file_name().unwrap_or_default());
        let unpacking = Unpacking::start(move |stream, umask| {
            folder.unpack_file(&name, stream, umask, &nonce)?;
            Ok(Unpacked::default())
        })?;
        Ok(Sink::Archive(unpacking))
    }

    /// What is written to as it is. Opening a pipe waits for its reader.
    async fn opened(target: PathBuf) -> Result<Self, CommandError> {
        let path = target.clone();
        let opened = aside(move || OpenOptions::new().append(true).open(path)).await;
        match opened {
            Ok(file) => Ok(Sink::Stream(Arc::new(file))),
            Err(error) => Err(cannot("write to", &target, error)),
        }
    }

    /// A folder at `target`, or in it if that is there. One that is there already is added to.
    pub(super) fn folder(
        target: &Path,
        name: Option<&OsStr>,
        nonce: String,
    ) -> Result<Self, CommandError> {
        let told = |error: ForeignError| chain(&error);
        let folder = match (target.is_dir(), name) {
            (true, Some(name)) => {
                let within = Folder::open(target).map_err(told)?;
                // Not typed, so no link is followed there.
                let look = Look {
                    mode: 0o777 & !umask(),
                    owner: None,
                };
                let name = Path::new(name);
                within.make_folder(name, look).map_err(told)?;
                match within.folder(name).map_err(told)? {
                    Some(folder) => folder,
                    None => return Err(no_folder(&target.join(name))),
                }
            }
            (is_there, _) => {
                if !is_there && target.exists() {
                    let what = format!(
                        "{} is no folder, and what is copied is one",
                        target.display()
                    );
                    return Err(CommandError::new(what).hint("name another place for it"));
                }
                if !is_there {
                    fs::create_dir(target)
                        .map_err(|error| cannot("make the folder", target, error))?;
                }
                Folder::open(target).map_err(told)?
            }
        };
        let unpacking =
            Unpacking::start(move |stream, umask| folder.unpack(stream, umask, &nonce))?;
        Ok(Sink::Archive(unpacking))
    }

    /// Writes a piece, once somebody takes it.
    pub(crate) async fn put(&mut self, bytes: Vec<u8>) -> Result<(), CommandError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::BrokenPipe => CommandError::broken_pipe(),
            _ => CommandError::io("cannot write the copy", error),
        };
        match self {
            Sink::Stream(file) => {
                let file = Arc::clone(file);
                let written = aside(move || (&*file).write_all(&bytes)).await;
                written.map_err(failed)
            }
            Sink::File { file, .. } => file.write_all(&bytes).map_err(failed),
            Sink::Archive(unpacking) => {
                let sent = unpacking.pieces.as_ref().map(|pieces| pieces.send(bytes));
                match sent {
                    Some(Ok(())) => Ok(()),
                    // It has ended before the stream has: why is its to say.
                    _ => unpacking
                        .ended()
                        .and(Err(CommandError::new("not all of it was copied"))),
                }
            }
        }
    }

    /// All of it has come. Says what was left out, if anything was.
    pub(crate) fn finish(mut self) -> Result<Option<String>, CommandError> {
        match &mut self {
            Sink::Stream(_) => Ok(None),
            Sink::File { part, target, .. } => match fs::rename(&*part, &*target) {
                Ok(()) => Ok(None),
                Err(error) => Err(cannot("write", target, error)),
            },
            Sink::Archive(unpacking) => Ok(left_out(&unpacking.ended()?)),
        }
    }
}

fn left_out(unpacked: &Unpacked) -> Option<String> {
    let names: Vec<_> = unpacked
        .left_out_names
        .iter()
        .map(|name| name.display().to_string())
        .collect();
    match unpacked.left_out - names.len() as u64 {
        _ if names.is_empty() => None,
        0 => Some(names.join(", ")),
        more => Some(format!("{} and {more} more", names.join(", "))),
    }
}

/// Says whether a link leads to a descriptor of ours, as `/dev/stdout` does: the name of what is behind it is not
/// what was meant.
fn is_descriptor(path: &Path) -> bool {
    let mut path = path.to_owned();
    for _ in 0..40 {
        let (Ok(link), Some(folder)) = (fs::read_link(&path), path.parent()) else {
            return false;
        };
        let system = rustix::fs::statfs(folder);
        if system.is_ok_and(|facts| facts.f_type == rustix::fs::PROC_SUPER_MAGIC) {
            // Other links of /proc (`/proc/self`) are folders.
            return !path.is_dir();
        }
        path = folder.join(link);
    }
    false
}

/// Does what blocks for as long as whoever is at the other end likes. A signal ends the wait for it, and the
/// thread ends with us.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Sink::File { part, .. } = self {
            // It is gone if it was renamed.
            let _ = fs::remove_file(part);
        }
    }
}

/// What is to be packed.
pub(super) enum Packed<'a> {
    /// All that is in a folder.
    Folder(&'a Path),
    /// A file, under another name.
    File { path: &'a Path, name: &'a str },
}

/// A tar at work.
pub(super) struct Tar {
    child: Child,
    said: Option<thread::JoinHandle<String>>,
}

/// The most that is kept of what tar says, in bytes.
const SAID_BYTES: u64 = 4 << 10;

impl Tar {
    /// Has tar pack something, as root's; its holes as such if `holes`.
    pub(super) fn start(
        what: &Packed<'_>,
        holes: bool,
    ) -> Result<(Self, ChildStdout), CommandError> {
        let mut command = Command::new("tar");
        command.args(["-c", "-f", "-", "--format=gnu", "--numeric-owner"]);
        command.args(["--owner=0", "--group=0"]);
        if holes {
            command.arg("-S");
        }
        match what {
            Packed::Folder(folder) => command.arg("-C").arg(folder).arg("."),
            Packed::File { path, name } => {
                let mut added = std::ffi::OsString::from("--add-file=");
                added.push(path);
                let renamed = format!("--transform=s,.*,{name},");
                command.arg("-h").arg("-P").arg(renamed).arg(added)
            }
        };
        command
            .env_remove("TAR_OPTIONS")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            CommandError::io("cannot run tar", error)
                .hint("folders are copied by it: install it (Debian: tar)")
        })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let said = stderr.map(|stderr| thread::spawn(move || all_said(stderr)));
        match stdout {
            Some(stdout) => Ok((Tar { child, said }, stdout)),
            None => Err(CommandError::new("tar has no output")),
        }
    }

    /// It may wait for ever for somebody who takes what it packs.
    pub(super) fn stop(&mut self) {
        // An error means that it has ended.
        let _ = self.child.kill();
    }

    /// Waits for its end. Says what it said if something changed under its hands: all that was there came.
    pub(super) fn ended(mut self) -> Result<Option<String>, CommandError> {
        let ended = self.child.wait();
        let said = self.said.take().and_then(|said| said.join().ok());
        let said = said.unwrap_or_default();
        match ended {
            Ok(status) if status.success() => Ok(None),
            // tar(1): some files differ.
            Ok(status) if status.code() == Some(1) => Ok(Some(said)),
            Ok(status) => {
                let error = CommandError::new("not all of it was copied");
                let error = said.lines().fold(error, CommandError::because);
                Err(error.because(format!("tar failed ({status})")))
            }
            Err(error) => Err(CommandError::io("cannot wait for tar", error)),
        }
    }
}

fn all_said(mut stderr: ChildStderr) -> String {
    let mut said = Vec::new();
    // What is beyond the bound is read all the same: tar must not wait for somebody to read it.
    let _ = (&mut stderr).take(SAID_BYTES).read_to_end(&mut said);
    let _ = io::copy(&mut stderr, &mut io::sink());
    String::from_utf8_lossy(&said).trim_end().to_owned()
}

/// What is sent, once it is there.
pub(super) struct Later {
    coming: mpsc::Receiver<Box<dyn Read + Send>>,
    reader: Option<Box<dyn Read + Send>>,
}

impl Later {
    pub(super) fn new() -> (mpsc::Sender<Box<dyn Read + Send>>, Self) {
        let (sender, coming) = mpsc::channel();
        let reader = None;
        (sender, Later { coming, reader })
    }
}

impl Read for Later {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => {
                let come = self.coming.recv();
                let come = come.map_err(|_| io::Error::other("there is nothing to send"))?;
                self.reader.insert(come)
            }
        };
        reader.read(buffer)
    }
}

/// A reader whose bytes are counted.
pub(super) struct Counted<R> {
    pub(super) reader: R,
    pub(super) passed: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.passed.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Whether a file has holes that are worth the trouble.
pub(super) fn has_holes(file: &File) -> bool {
    file.metadata()
        .is_ok_and(|facts| facts.is_file() && facts.blocks() * 512 + LEAST_HOLES < facts.len())
}

/// Holes of fewer bytes are sent as zeros.
const LEAST_HOLES: u64 = 64 << 10;

/// Opens what is to be sent, with its mode if it is a plain file.
pub(super) async fn open(path: &Path) -> Result<(File, Option<u32>), CommandError> {
    let named = path.to_owned();
    // Opening a pipe waits for its writer.
    let opened =
        aside(move || File::open(named).and_then(|file| Ok((file.metadata()?, file)))).await;
    let (facts, file) = opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotADirectory if path.as_os_str().as_encoded_bytes().ends_with(b"/") => {
            cannot("read", path, error).hint("it is no folder: leave out the slash at its end")
        }
        _ => cannot("read", path, error),
    })?;
    let mode = facts.is_file().then(|| facts.permissions().mode() & 0o777);
    Ok((file, mode))
}

fn is_folder(path: &Path) -> CommandError {
    CommandError::new(format!("{} is a folder: name a file in it", path.display()))
}

pub(super) fn no_folder(path: &Path) -> CommandError {
    CommandError::new(format!("there is no folder {}", path.display()))
}

fn cannot(act: &str, path: &Path, error: io::Error) -> CommandError {
    CommandError::io(format!("cannot {act} {}", path.display()), error)
}
