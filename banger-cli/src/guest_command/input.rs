//! Standard input, read by a thread of its own.

use std::io;
use std::thread;

use banger_session::mux::CHUNK_BYTES;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::sync::mpsc;

/// Begins to read; the receiver ends where standard input does.
///
/// The thread may wait for ever in read(2), on a terminal say. Nothing waits for it: it ends with the
/// process, or with the first chunk that nobody takes.
pub(crate) fn read_stdin() -> io::Result<mpsc::Receiver<Vec<u8>>> {
    // One chunk waits while the next is read: more would only be memory.
    let (chunks, receiver) = mpsc::channel(1);
    thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            while let Some(chunk) = read_chunk() {
                if chunks.blocking_send(chunk).is_err() {
                    return;
                }
            }
        })?;
    Ok(receiver)
}

/// The next chunk; `None` once at the end, and then never again.
pub(super) async fn next_chunk(input: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    let Some(chunks) = input else {
        return std::future::pending().await;
    };
    let chunk = chunks.recv().await;
    if chunk.is_none() {
        *input = None;
    }
    chunk
}

/// The next bytes; none at the end, and none either where it cannot be read (closed; a terminal that
/// went away): the guest's command then sees its input end.
fn read_chunk() -> Option<Vec<u8>> {
    let stdin = rustix::stdio::stdin();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match rustix::io::read(stdin, &mut chunk) {
            Ok(0) => return None,
            Ok(count) => {
                chunk.truncate(count);
                return Some(chunk);
            }
            Err(Errno::INTR) => {}
            // Somebody who shares our end of it has set it to non-blocking.
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::new(&stdin, PollFlags::IN)], None);
            }
            Err(_) => return None,
        }
    }
}
