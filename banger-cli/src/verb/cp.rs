//! `banger vm cp`: files and folders into a VM and out of it.
//!
//! Over the way that commands take, so that it works wherever `vm exec` does. A file is written beside
//! its place and renamed when all of it is there; a folder travels as a tar stream. What a guest sends is
//! unpacked by ourselves, beneath the folder that it goes into (`banger_foreign`).

mod here;
mod meter;
mod place;
mod scripts;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::Ordering;

use clap::Args;

use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::guest_command::{Feed, Pipe, Piped, Signals};
use crate::guest_link::refuse_link_of_a_guest;
use crate::screen::Screen;
pub(crate) use here::Sink;
use here::{Packed, Tar};
use meter::Meter;
use place::{GuestPlace, Place, base_name};

#[derive(Args, Debug)]
#[command(after_help = "\
A path in a VM is NAME:PATH; one that is not absolute, or begins with ~/, begins in /root; a file
here with such a name is ./NAME:PATH. - is standard input or
output. As with cp -r, what is copied to a folder that is there goes into it, SRC/. is what is in
SRC, and modes are kept as far as the umask allows. Several go into a folder that is there, each in
turn: one that fails is told of and does not keep the others.

What comes out of a VM is made beneath the folder that was named, and no link in there is followed:
a link in the place of a file is replaced. In a path that you type, on either side, links are
followed, unless a copy out of a VM has made them. Files, folders and links come; devices and named
pipes are left out, and owners and set-uid bits do not come along.

The holes of a file stay holes where both sides have GNU tar. A folder that changes while it is
copied is told of, and what came is kept.

Examples:
  banger vm cp notes.txt box:             a file, to /root/notes.txt
  banger vm cp *.log src box:/srv         files and folders, into a folder
  banger vm cp box:/var/log ./logs        a folder
  banger vm cp - box:/etc/motd <motd      standard input")]
pub(crate) struct CpArguments {
    /// Files or folders: PATH, NAME:PATH or -
    #[arg(value_name = "SRC", required = true)]
    sources: Vec<OsString>,

    /// Where to: PATH, NAME:PATH or -
    #[arg(value_name = "DST")]
    target: OsString,
}

/// Whether a target is a folder that is there, or whatever it turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Anything,
    /// Several sources go into it.
    Folder,
}

/// Copies one, or each of several into a folder.
pub(crate) async fn cp(
    arguments: &CpArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let mut signals = Signals::catch()?;
    let named = arguments.sources.iter().chain([&arguments.target]);
    if named.clone().any(|path| path.is_empty()) {
        return Err(CommandError::new("the name of a source or target is empty")
            .hint("a file here is PATH, one in a VM NAME:PATH, and standard input or output -"));
    }
    let target = Place::of(&arguments.target);
    if let [source] = arguments.sources.as_slice() {
        let copied = copy(
            Place::of(source),
            &target,
            Wanted::Anything,
            &mut signals,
            screen,
        );
        return copied.await.map(|()| ExitStatus::SUCCESS);
    }
    match &target {
        Place::Stream => {
            return Err(CommandError::new("standard output takes one file")
                .hint("one after the other: banger vm cp NAME:PATH -"));
        }
        Place::Here(folder) if !folder.is_dir() => return Err(here::no_folder(folder)),
        Place::Here(_) | Place::Guest(_) => {}
    }
    let mut failed = false;
    for source in &arguments.sources {
        let copied = copy(
            Place::of(source),
            &target,
            Wanted::Folder,
            &mut signals,
            screen,
        );
        match copied.await {
            Ok(()) => {}
            // Whoever told us to go means all of them.
            Err(error) if error.lines().is_empty() => return Err(error),
            Err(error) => {
                screen.error(&error);
                failed = true;
            }
        }
    }
    match failed {
        false => Ok(ExitStatus::SUCCESS),
        true => Err(CommandError::already_told()),
    }
}

async fn copy(
    source: Place,
    target: &Place,
    into: Wanted,
    signals: &mut Signals,
    screen: &Screen,
) -> Result<(), CommandError> {
    for side in [&source, target] {
        if let Place::Here(path) = side {
            refuse_link_of_a_guest(path)?;
        }
    }
    match (source, target) {
        (Place::Guest(source), Place::Guest(target)) => {
            let way = format!("banger vm cp {source} - | banger vm cp - {target}");
            let error = CommandError::new("one side of a copy is on this host")
                .hint(format!("by way of it: {way}"));
            let named = source.to_string();
            Err(match Path::new(&named).exists() {
                true => error.hint(format!("a file here with such a name is ./{named}")),
                false => error,
            })
        }
        (Place::Guest(source), Place::Here(target)) => {
            fetch(&source, Some(target), signals, screen).await
        }
        (Place::Guest(source), Place::Stream) => fetch(&source, None, signals, screen).await,
        (Place::Here(source), Place::Guest(target)) if source.is_dir() => {
            send_folder(&source, target, into, signals, screen).await
        }
        (Place::Here(source), Place::Guest(target)) => {
            let (file, mode) = signals.unless_told(here::open(&source)).await?;
            send_file(file, Some(&source), mode, (target, into), signals, screen).await
        }
        (Place::Stream, Place::Guest(target)) => {
            let stdin = io::stdin()
                .as_fd()
                .try_clone_to_owned()
                .map_err(|error| CommandError::io("cannot read standard input", error))?;
            send_file(stdin.into(), None, None, (target, into), signals, screen).await
        }
        (Place::Here(_) | Place::Stream, Place::Here(_) | Place::Stream) => Err(CommandError::new(
            "one side of a copy is in a VM: NAME:PATH",
        )
        .hint("a file here with such a name is ./NAME:PATH")),
    }
}

async fn send_file(
    file: File,
    source: Option<&Path>,
    mode: Option<u32>,
    (target, into): (&GuestPlace, Wanted),
    signals: &mut Signals,
    screen: &Screen,
) -> Result<(), CommandError> {
    let mark = mark();
    let has_holes = source.is_some() && here::has_holes(&file);
    let name = source.and_then(|source| base_name(source.as_os_str()));
    let mode_bits = mode.map(|mode| format!("{mode:o}")).unwrap_or_default();
    let argv = call(
        scripts::TAKE_FILE,
        &[
            &target.below(into),
            name.unwrap_or_default().as_bytes(),
            mode_bits.as_bytes(),
            mark.as_bytes(),
            if has_holes { b"holes" } else { b"" },
        ],
    );
    // Of a pipe or a device nobody knows how long it is, and a tar stream is as long as what is in it.
    let all = file
        .metadata()
        .ok()
        .filter(|facts| facts.is_file() && !has_holes);
    let all = all.map(|facts| facts.len());
    let meter = Meter::new(screen, format!("copying to {target}"), all);
    let sending = Sending::start((target, argv), meter, signals, screen).await?;
    let (trailer, source) = (mark.clone().into_bytes(), source.unwrap_or(Path::new("-")));
    match sending.guest_takes_holes {
        true => {
            let name = format!(".banger-cp-{mark}");
            let what = Packed::File {
                path: source,
                name: &name,
            };
            sending.tar(source, &what, screen).await
        }
        false => {
            sending
                .whole(io::Read::chain(file, io::Cursor::new(trailer)))
                .await
        }
    }
}

async fn send_folder(
    source: &Path,
    target: &GuestPlace,
    into: Wanted,
    signals: &mut Signals,
    screen: &Screen,
) -> Result<(), CommandError> {
    let name = base_name(source.as_os_str()).unwrap_or_default();
    let makes: &[u8] = match into {
        Wanted::Anything => b"made",
        Wanted::Folder => b"there",
    };
    let argv = call(
        scripts::TAKE_FOLDER,
        &[target.path.as_bytes(), name.as_bytes(), makes],
    );
    let meter = Meter::new(screen, format!("copying to {target}"), None);
    let sending = Sending::start((target, argv), meter, signals, screen).await?;
    sending.tar(source, &Packed::Folder(source), screen).await
}

/// A guest that is ready to take something.
struct Sending<'a> {
    pipe: Pipe<'a>,
    target: &'a GuestPlace,
    meter: Meter<'a>,
    source: std::sync::mpsc::Sender<Box<dyn io::Read + Send>>,
    guest_takes_holes: bool,
}

impl<'a> Sending<'a> {
    /// Starts the guest's side, and waits until it says how it takes what is sent.
    async fn start(
        (target, argv): (&'a GuestPlace, Vec<Vec<u8>>),
        meter: Meter<'a>,
        signals: &'a mut Signals,
        screen: &'a Screen,
    ) -> Result<Self, CommandError> {
        let mut daemon = signals.unless_told(Daemon::open(screen)).await?;
        let (source, later) = here::Later::new();
        let counted = here::Counted {
            reader: later,
            passed: meter.passed(),
        };
        let feed = Feed::from(counted)?;
        let pipe = Pipe::start(&mut daemon, signals, &target.vm, argv, Some(feed)).await;
        let mut pipe = pipe.map_err(|error| maybe_a_file(error, target))?;
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            match pipe.next().await? {
                Piped::Output(bytes) if line.len() + bytes.len() <= LONGEST_ANSWER => {
                    line.extend(bytes);
                }
                Piped::Output(_) => break,
                Piped::Tick => {}
                Piped::Ended { status, said } => {
                    succeeded(status, &said, || format!("cannot copy to {target}"))?;
                    break;
                }
            }
        }
        let guest_takes_holes = match line.as_slice() {
            b"holes\n" => true,
            b"whole\n" => false,
            line => return Err(not_understood(line)),
        };
        Ok(Sending {
            pipe,
            target,
            meter,
            source,
            guest_takes_holes,
        })
    }

    async fn tar(
        self,
        source: &Path,
        what: &Packed<'_>,
        screen: &Screen,
    ) -> Result<(), CommandError> {
        let (mut tar, packed) = Tar::start(what, self.guest_takes_holes)?;
        let sent = self.whole(packed).await;
        if sent.is_err() {
            tar.stop();
        }
        let packed = tar.ended();
        sent?;
        if let Some(said) = packed? {
            say_changed(screen, &source.display().to_string(), &said);
        }
        Ok(())
    }

    /// Sends all of it, and waits for the guest's side to end.
    async fn whole(mut self, reader: impl io::Read + Send + 'static) -> Result<(), CommandError> {
        // If nobody takes it the pipe has an error to tell.
        let _ = self.source.send(Box::new(reader));
        loop {
            match self.pipe.next().await? {
                Piped::Output(_) => {}
                Piped::Tick => self.meter.draw(),
                Piped::Ended { status, said } => {
                    let target = self.target;
                    return succeeded(status, &said, || format!("cannot copy to {target}"));
                }
            }
        }
    }
}

/// Without a target it goes to standard output.
async fn fetch(
    source: &GuestPlace,
    target: Option<&Path>,
    signals: &mut Signals,
    screen: &Screen,
) -> Result<(), CommandError> {
    let kinds: &[u8] = match target {
        Some(_) => b"any",
        None => b"file",
    };
    let name = match source.path.is_empty() {
        true => Some(OsStr::new("root")),
        false => base_name(&source.path),
    };
    let holes: &[u8] = match target {
        Some(target) if here::takes_holes(target, name) => b"holes",
        _ => b"",
    };
    let argv = call(scripts::GIVE, &[source.path.as_bytes(), kinds, holes]);
    let meter = Meter::new(screen, format!("copying {source}"), None);
    let mut meter = match target {
        None if io::stdout().is_terminal() => meter.hidden(),
        _ => meter,
    };
    let passed = meter.passed();
    let mut daemon = signals.unless_told(Daemon::open(screen)).await?;
    let pipe = Pipe::start(&mut daemon, signals, &source.vm, argv, None).await;
    let mut pipe = pipe.map_err(|error| maybe_a_file(error, source))?;
    let mut first = Vec::new();
    let mut sink: Option<Sink> = None;
    loop {
        match pipe.next().await? {
            Piped::Tick => meter.draw(),
            Piped::Output(bytes) => {
                passed.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                if let Some(sink) = &mut sink {
                    pipe.unless_told(sink.put(bytes)).await?;
                    continue;
                }
                first.extend(bytes);
                if first.len() > LONGEST_ANSWER && !first[..LONGEST_ANSWER].contains(&b'\n') {
                    return Err(not_understood(&first[..LONGEST_ANSWER]));
                }
                if let Some(end) = first.iter().position(|&byte| byte == b'\n') {
                    let rest = first.split_off(end + 1);
                    let opened = sink_for(&first[..end], target, name);
                    let opened = sink.insert(pipe.unless_told(opened).await?);
                    pipe.unless_told(opened.put(rest)).await?;
                }
            }
            Piped::Ended { status, said } => {
                let changed = status == scripts::CHANGED;
                if !changed {
                    succeeded(status, &said, || format!("cannot copy {source}"))?;
                }
                let Some(sink) = sink else {
                    return Err(CommandError::new(format!("nothing came of {source}")));
                };
                if let Some(left_out) = sink.finish()? {
                    screen.say(format_args!(
                        "left out, as they are neither files, folders nor links: {left_out}"
                    ));
                }
                if changed {
                    say_changed(screen, &source.to_string(), &said);
                }
                return Ok(());
            }
        }
    }
}

/// What is copied while it changes is as it was at some moment, each file at another.
fn say_changed(screen: &Screen, what: &str, said: &str) {
    screen.say(format_args!(
        "{what} changed while it was copied; what came is kept"
    ));
    for line in said.lines() {
        screen.say(format_args!("  {line}"));
    }
}

/// Where there is no VM of that name, a file may have been meant.
fn maybe_a_file(error: CommandError, place: &GuestPlace) -> CommandError {
    match error.is_missing() {
        true => error.hint(format!("a file here with such a name is ./{place}")),
        false => error,
    }
}

fn not_understood(line: &[u8]) -> CommandError {
    CommandError::new("the guest's answer is not understood").because(format!(
        "it begins with {:?}",
        String::from_utf8_lossy(line)
    ))
}

/// Reads the first line that a guest sends: `folder`, or `file` and its mode; `holes` for a file of which a tar
/// stream comes.
async fn sink_for(
    line: &[u8],
    target: Option<&Path>,
    name: Option<&OsStr>,
) -> Result<Sink, CommandError> {
    let text = String::from_utf8_lossy(line);
    let mode = text
        .strip_prefix("file ")
        .map(|mode| u32::from_str_radix(mode, 8));
    match (mode, target) {
        (Some(Ok(_)), None) => Sink::stdout(),
        (Some(Ok(mode)), Some(target)) => Sink::file(target, name, mode, &mark()).await,
        (None, Some(target)) if text == "folder" => Sink::folder(target, name, mark()),
        (None, Some(target)) if text.starts_with("holes ") => {
            Sink::file_with_holes(target, name, mark())
        }
        _ => Err(not_understood(line)),
    }
}

impl GuestPlace {
    /// The path as the guest's side takes it: with a slash at its end it is a folder or refused.
    fn below(&self, into: Wanted) -> Vec<u8> {
        let mut path = self.path.as_bytes().to_vec();
        if into == Wanted::Folder && !path.is_empty() && !path.ends_with(b"/") {
            path.push(b'/');
        }
        path
    }
}

fn succeeded(status: i32, said: &str, what: impl FnOnce() -> String) -> Result<(), CommandError> {
    if status == 0 {
        return Ok(());
    }
    let error = CommandError::new(what());
    Err(match said {
        "" => error.because(format!("the guest's side ended with status {status}")),
        said => error.because(said),
    })
}

fn call(script: &str, arguments: &[&[u8]]) -> Vec<Vec<u8>> {
    let words: [&[u8]; 4] = [b"sh", b"-c", script.as_bytes(), b"banger-cp"];
    words
        .iter()
        .chain(arguments)
        .map(|word| word.to_vec())
        .collect()
}

/// The most that the first line of an answer may have, in bytes.
const LONGEST_ANSWER: usize = 256;

/// 32 bytes that nothing ends with by chance.
pub(crate) fn mark() -> String {
    let drawn = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", drawn(), drawn())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_made_beside_a_file_are_long_and_never_the_same() {
        let marks: std::collections::BTreeSet<_> = (0..1000).map(|_| mark()).collect();
        assert_eq!(marks.len(), 1000);
        let is_long =
            |mark: &String| mark.len() == 32 && mark.bytes().all(|b| b.is_ascii_hexdigit());
        assert!(marks.iter().all(is_long));
    }
}
