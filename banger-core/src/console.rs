//! The serial console: attached to, for a guest whose ssh is dead, and its log, followed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::sync::OwnedMutexGuard;

use crate::engine::Engine;
use crate::error::Error;
use crate::guest::Asker;
use crate::host::Host;
use crate::names::VmId;
use crate::transport::GuestStream;
use crate::watch::Live;

/// How much of the log is shown to who attaches, in bytes: what is on the screen, so to say.
const SCREEN: u64 = 2000;

/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// How much of a log is read at once, in bytes.
const PIECE: u64 = 64 << 10;

/// An attached serial console. Dropping it leaves.
///
/// Read on without a pause: a guest that writes to a console that nobody reads stands still.
pub struct Console {
    screen: Vec<u8>,
    read: std::pin::Pin<Box<dyn tokio::io::AsyncRead + Send>>,
    write: Option<std::pin::Pin<Box<dyn AsyncWrite + Send>>>,
    live: Arc<Live>,
    engine: Engine,
    _held: OwnedMutexGuard<()>,
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").finish_non_exhaustive()
    }
}

/// The log of a serial console, being read.
#[derive(Debug)]
pub struct ConsoleLog {
    engine: Engine,
    vm: VmId,
    path: PathBuf,
    offset: u64,
}

impl Engine {
    /// Attaches to a running VM's serial console, which works whatever has become of its guest's network
    /// and ssh. One at a time.
    pub async fn console(&self, vm: &str) -> Result<Console, Error> {
        let vm = self.lookup(vm).await?;
        let inner = &self.inner;
        let live = self.running(&vm, Asker::Anybody).await?;
        let Ok(held) = live.console.clone().try_lock_owned() else {
            return Err(Error::ConsoleHeld { vm: vm.name });
        };
        let vmm = inner.backends.vmm(vm.spec.vmm)?;
        let socket = inner.places.console_socket(&vm.id);
        let limit = inner.config.limits.control;
        let GuestStream { read, write } = vmm.open_console(inner.host(), &socket, limit).await?;
        let screen = inner.host().read_tail(&vm.runtime.log_path, SCREEN).await?;
        Ok(Console {
            screen,
            read,
            write: Some(write),
            live,
            engine: self.clone(),
            _held: held,
        })
    }

    /// Reads a VM's serial console from its last `lines` lines on (all that is kept if none are given),
    /// and goes on with what comes.
    pub async fn console_log(&self, vm: &str, lines: Option<u32>) -> Result<ConsoleLog, Error> {
        let vm = self.lookup(vm).await?;
        let path = vm.runtime.log_path;
        let offset = match lines {
            None => 0,
            Some(lines) => last_lines(self.inner.host(), &path, u64::from(lines)).await?,
        };
        Ok(ConsoleLog {
            engine: self.clone(),
            vm: vm.id,
            offset,
            path,
        })
    }
}

impl Console {
    /// Takes what the console showed last, before it was attached to.
    pub fn take_screen(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.screen)
    }

    /// Takes the keyboard. It can be taken once.
    pub fn take_input(&mut self) -> Option<std::pin::Pin<Box<dyn AsyncWrite + Send>>> {
        self.write.take()
    }

    /// Waits for what the guest writes; none once the VM has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        let mut piece = vec![0; 4096];
        let read = tokio::select! {
            // Both are cancel-safe.
            read = self.read.read(&mut piece) => read.unwrap_or(0),
            _ = self.live.ended(&*self.engine.inner.liveness) => 0,
        };
        piece.truncate(read);
        (read > 0).then_some(piece)
    }
}

impl ConsoleLog {
    /// Waits for the next piece; none once the VM does not run and all is read. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        loop {
            // Asked before the log is read: what was written before the end is in it then.
            let runs = match self.engine.show(self.vm.as_str()).await {
                Ok(view) => view.condition.has_monitor(),
                Err(Error::NoSuchVm { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            let host = self.engine.inner.host();
            let length = host.stat(&self.path).await?.map_or(0, |facts| facts.bytes);
            if length < self.offset {
                // It has begun anew.
                self.offset = 0;
            }
            let piece = host.read_at(&self.path, self.offset, PIECE).await?;
            if !piece.is_empty() {
                self.offset += piece.len() as u64;
                return Ok(Some(piece));
            }
            if !runs {
                return Ok(None);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Finds where the last lines of a file begin. Reads it in pieces from its end, and no further than it must.
async fn last_lines(host: &dyn Host, path: &Path, count: u64) -> Result<u64, Error> {
    let length = host.stat(path).await?.map_or(0, |facts| facts.bytes);
    if count == 0 {
        return Ok(length);
    }
    let (mut begin, mut missing) = (length, count);
    while begin > 0 {
        let end = begin;
        begin = end.saturating_sub(PIECE);
        let piece = host.read_at(path, begin, end - begin).await?;
        for (at, byte) in piece.iter().enumerate().rev() {
            let at = begin + at as u64;
            // The newline at the very end is the last line's own.
            if *byte == b'\n' && at + 1 < length {
                missing -= 1;
                if missing == 0 {
                    return Ok(at + 1);
                }
            }
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::FakeHost;

    #[tokio::test]
    async fn the_last_lines_begin_after_the_newline_before_them() {
        let (host, folder) = (FakeHost::new(), tempfile::tempdir().unwrap());
        let path = folder.path().join("console.log");
        assert_eq!(last_lines(&host, &path, 1).await.unwrap(), 0, "no file");
        std::fs::write(&path, b"a\nb\nc\n").unwrap();
        for (count, begin) in [(0, 6), (1, 4), (2, 2), (3, 0), (9, 0)] {
            let found = last_lines(&host, &path, count).await.unwrap();
            assert_eq!(found, begin, "{count}");
        }
        std::fs::write(&path, b"a\nb").unwrap();
        assert_eq!(last_lines(&host, &path, 1).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn lines_are_sought_over_as_many_pieces_as_it_takes_and_no_more() {
        let (host, folder) = (FakeHost::new(), tempfile::tempdir().unwrap());
        let path = folder.path().join("console.log");
        // A gibibyte that an earlier banger let it grow to: a hole, which takes no room and holds no newline.
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(1 << 30).unwrap();
        let long = vec![b'x'; 3 * PIECE as usize];
        let mut tail = b"\nlast but one\n".to_vec();
        tail.extend_from_slice(&long);
        tail.extend_from_slice(b"\n");
        let begin = (1 << 30) + 1 + "last but one\n".len() as u64;
        std::os::unix::fs::FileExt::write_all_at(&file, &tail, 1 << 30).unwrap();
        assert_eq!(last_lines(&host, &path, 1).await.unwrap(), begin);
        assert_eq!(last_lines(&host, &path, 2).await.unwrap(), (1 << 30) + 1);
    }
}
