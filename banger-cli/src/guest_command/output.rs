//! Standard output and standard error, written by a thread of its own: unbuffered, in the order in
//! which the bytes came.

use std::collections::VecDeque;
use std::io;
use std::thread;

use banger_session::Signal;
use banger_session::mux::Stream;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use tokio::sync::{mpsc, oneshot};

use super::signals::Signals;
use crate::command_error::CommandError;

/// How many frames wait for a reader that is slower than the guest.
const FRAMES: usize = 4;

/// Takes bytes and has them written.
#[derive(Debug)]
pub(super) struct Output {
    frames: Option<mpsc::Sender<(Stream, Vec<u8>)>>,
    outcome: Option<oneshot::Receiver<Result<(), Errno>>>,
}

/// How the last of it went.
pub(super) enum OutputEnd {
    /// All of it is written.
    Written,
    /// It cannot be.
    Failed(CommandError),
    /// We were told to go before that.
    Interrupted(Signal),
}

impl Output {
    /// Starts the thread.
    pub(super) fn new() -> io::Result<Self> {
        let (frames, receiver) = mpsc::channel(FRAMES);
        let (tell, outcome) = oneshot::channel();
        thread::Builder::new()
            .name("stdout".to_owned())
            .spawn(move || {
                // Nobody may be left to hear of it.
                let _ = tell.send(write_all(receiver));
            })?;
        Ok(Output {
            frames: Some(frames),
            outcome: Some(outcome),
        })
    }

    /// Waits for room and moves the first of `pending` there. Cancel-safe.
    pub(super) async fn put(
        &mut self,
        pending: &mut VecDeque<(Stream, Vec<u8>)>,
    ) -> Result<(), CommandError> {
        if let Some(frames) = &self.frames
            && let Ok(place) = frames.reserve().await
        {
            if let Some(frame) = pending.pop_front() {
                place.send(frame);
            }
            return Ok(());
        }
        // The thread has ended before us: it could not write.
        match self.end().await {
            Err(error) => Err(error),
            Ok(()) => Err(CommandError::new("cannot write to standard output")),
        }
    }

    /// Waits until all is written, or a signal comes: a pager may never read on.
    pub(super) async fn finish(mut self, signals: &mut Signals) -> OutputEnd {
        tokio::select! {
            // Dropped only when the process is about to end.
            end = self.end() => match end {
                Ok(()) => OutputEnd::Written,
                Err(error) => OutputEnd::Failed(error),
            },
            signal = signals.next() => OutputEnd::Interrupted(signal),
        }
    }

    /// Has the thread end, and waits until it has. Cancel-safe.
    async fn end(&mut self) -> Result<(), CommandError> {
        self.frames = None;
        let Some(outcome) = &mut self.outcome else {
            return Ok(());
        };
        // Taken only once it is there, so that this can be dropped and called again.
        let written = outcome.await;
        self.outcome = None;
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Errno::PIPE)) => Err(CommandError::broken_pipe()),
            Ok(Err(errno)) => Err(CommandError::io(
                "cannot write to standard output",
                errno.into(),
            )),
            Err(_) => Err(CommandError::new(
                "the thread that writes to standard output has died",
            )),
        }
    }
}

/// Writes until nothing more comes, or standard output fails. If standard error does, what belongs there
/// is dropped: there is nobody to read it, nor to be told.
fn write_all(mut frames: mpsc::Receiver<(Stream, Vec<u8>)>) -> Result<(), Errno> {
    let mut stderr_works = true;
    while let Some((stream, bytes)) = frames.blocking_recv() {
        match stream {
            Stream::Stdout => write(rustix::stdio::stdout(), &bytes)?,
            Stream::Stderr if stderr_works => {
                stderr_works = write(rustix::stdio::stderr(), &bytes).is_ok();
            }
            Stream::Stderr | Stream::Stdin => {}
        }
    }
    Ok(())
}

fn write(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            // Somebody who shares our end of it has set it to non-blocking.
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::new(&fd, PollFlags::OUT)], None);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
