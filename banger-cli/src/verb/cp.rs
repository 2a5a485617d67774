//! `banger vm cp`: files and folders into a VM and out of it.
//!
//! Over the way that commands take, so that it works wherever `vm exec` does. A file is written beside
//! its place and renamed when all of it is there; a folder travels as a tar stream. What a guest sends is
//! unpacked by ourselves, beneath the folder that it goes into (`banger_foreign`).

mod here;
mod place;
mod scripts;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use clap::Args;

use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::guest_command::{Feed, Pipe, Piped, Signals};
use crate::guest_link::refuse_link_of_a_guest;
use crate::screen::Screen;
pub(crate) use here::Sink;
use place::{GuestPlace, Place, base_name};

#[derive(Args, Debug)]
#[command(after_help = "\
A path in a VM is NAME:PATH; one that is not absolute begins in /root. - is standard input or
output. As with cp -r, what is copied to a folder that is there goes into it, SRC/. is what is in
SRC, and modes are kept as far as the umask allows. Several go into a folder that is there, each in
turn: one that fails is told of and does not keep the others.

What comes out of a VM is made beneath the folder that was named, and no link in there is followed:
a link in the place of a file is replaced. In a path that you type, on either side, links are
followed, unless a copy out of a VM has made them. Files, folders and links come; devices and named
pipes are left out, and owners and set-uid bits do not come along.

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
            Err(CommandError::new("one side of a copy is on this host")
                .hint(format!("by way of it: {way}")))
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
            let name = base_name(source.as_os_str());
            send_file(file, name, mode, (target, into), signals, screen).await
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
    name: Option<&OsStr>,
    mode: Option<u32>,
    (target, into): (&GuestPlace, Wanted),
    signals: &mut Signals,
    screen: &Screen,
) -> Result<(), CommandError> {
    let mark = mark();
    let argv = call(
        scripts::TAKE_FILE,
        &[
            &target.below(into),
            name.unwrap_or_default().as_bytes(),
            mode.map(|mode| format!("{mode:o}"))
                .unwrap_or_default()
                .as_bytes(),
            mark.as_bytes(),
        ],
    );
    let mut daemon = signals.unless_told(Daemon::open(screen)).await?;
    let feed = Feed::from(file, mark.into_bytes())?;
    let pipe = Pipe::start(&mut daemon, signals, &target.vm, argv, Some(feed)).await?;
    to_its_end(pipe, target).await
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
    let mut daemon = signals.unless_told(Daemon::open(screen)).await?;
    let mut tar = here::pack(source)?;
    let feed = match tar.stdout.take() {
        Some(packed) => Feed::from(packed, Vec::new())?,
        None => return Err(CommandError::new("tar has no output")),
    };
    let sent = match Pipe::start(&mut daemon, signals, &target.vm, argv, Some(feed)).await {
        Ok(pipe) => to_its_end(pipe, target).await,
        Err(error) => Err(error),
    };
    if sent.is_err() {
        // It may wait for ever for somebody who takes what it packs; an error means that it has ended.
        let _ = tar.kill();
    }
    let packed = here::tar_ended(&mut tar);
    sent.and(packed)
}

async fn to_its_end(mut pipe: Pipe<'_>, target: &GuestPlace) -> Result<(), CommandError> {
    loop {
        if let Piped::Ended { status, said } = pipe.next().await? {
            return succeeded(status, &said, || format!("cannot copy to {target}"));
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
    let argv = call(scripts::GIVE, &[source.path.as_bytes(), kinds]);
    let mut daemon = signals.unless_told(Daemon::open(screen)).await?;
    let mut pipe = Pipe::start(&mut daemon, signals, &source.vm, argv, None).await?;
    let name = match source.path.is_empty() {
        true => Some(OsStr::new("root")),
        false => base_name(&source.path),
    };
    let mut first = Vec::new();
    let mut sink: Option<Sink> = None;
    loop {
        match pipe.next().await? {
            Piped::Output(bytes) => match &mut sink {
                Some(sink) => pipe.unless_told(sink.put(bytes)).await?,
                None => {
                    first.extend(bytes);
                    if first.len() > LONGEST_ANSWER && !first[..LONGEST_ANSWER].contains(&b'\n') {
                        return Err(CommandError::new("the guest's answer is not understood"));
                    }
                    if let Some(end) = first.iter().position(|&byte| byte == b'\n') {
                        let rest = first.split_off(end + 1);
                        let opened = sink_for(&first[..end], target, name);
                        let opened = sink.insert(pipe.unless_told(opened).await?);
                        pipe.unless_told(opened.put(rest)).await?;
                    }
                }
            },
            Piped::Ended { status, said } => {
                succeeded(status, &said, || format!("cannot copy {source}"))?;
                return match sink {
                    Some(sink) => {
                        if let Some(left_out) = sink.finish()? {
                            screen.say(format_args!(
                                "left out, as they are neither files, folders nor links: {left_out}"
                            ));
                        }
                        Ok(())
                    }
                    None => Err(CommandError::new(format!("nothing came of {source}"))),
                };
            }
        }
    }
}

/// Reads the first line that a guest sends: `folder`, or `file` and its mode.
async fn sink_for(
    line: &[u8],
    target: Option<&Path>,
    name: Option<&OsStr>,
) -> Result<Sink, CommandError> {
    let line = String::from_utf8_lossy(line);
    let mode = line
        .strip_prefix("file ")
        .map(|mode| u32::from_str_radix(mode, 8));
    match (mode, target) {
        (Some(Ok(_)), None) => Sink::stdout(),
        (Some(Ok(mode)), Some(target)) => Sink::file(target, name, mode, &mark()).await,
        (None, Some(target)) if line == "folder" => Sink::folder(target, name, mark()),
        _ => Err(CommandError::new("the guest's answer is not understood")
            .because(format!("it begins with {line:?}"))),
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
