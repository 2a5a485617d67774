//! The signals that would end us.

use std::fs;
use std::task::Poll;

use banger_session::Signal;
use tokio::signal::unix::{self, SignalKind};

use crate::command_error::CommandError;
use crate::exit::ExitStatus;

/// SIGINT, SIGTERM, SIGHUP and SIGQUIT, caught from now on to the end of the process.
///
/// One that whoever started us has us ignore (`nohup`, a job in the background of a script) stays
/// ignored.
#[derive(Debug)]
pub(crate) struct Signals {
    caught: Vec<(Signal, unix::Signal)>,
}

impl Signals {
    /// Begins to catch them.
    pub(crate) fn catch() -> Result<Self, CommandError> {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = ignored_mask(&status);
        let mut caught = Vec::new();
        for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT] {
            if ignored & (1 << (signal.number() - 1)) != 0 {
                continue;
            }
            let kind = SignalKind::from_raw(i32::from(signal.number()));
            let stream = unix::signal(kind)
                .map_err(|error| CommandError::io(format!("cannot catch SIG{signal}"), error))?;
            caught.push((signal, stream));
        }
        Ok(Signals { caught })
    }

    /// Waits for the next one. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Signal {
        std::future::poll_fn(|context| {
            for (signal, stream) in &mut self.caught {
                if let Poll::Ready(Some(())) = stream.poll_recv(context) {
                    return Poll::Ready(*signal);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Waits for `work` unless a signal comes first: then banger ends, without a word.
    pub(crate) async fn unless_told<T>(
        &mut self,
        work: impl Future<Output = Result<T, CommandError>>,
    ) -> Result<T, CommandError> {
        tokio::select! {
            outcome = work => outcome,
            // Cancel-safe: a signal that is not returned stays with the stream of signals.
            signal = self.next() => Err(CommandError::interrupted(signal)),
        }
    }

    /// Waits for `work` unless a signal comes first: then banger ends, and says how things stand.
    pub(crate) async fn or<T>(
        &mut self,
        work: impl Future<Output = Result<T, CommandError>>,
        how_things_stand: impl FnOnce() -> Option<String>,
    ) -> Result<T, CommandError> {
        tokio::select! {
            // Dropping the work is what is wanted: the daemon ends by itself what it has begun.
            outcome = work => outcome,
            signal = self.next() => {
                let error = CommandError::new(format!("ended by SIG{signal}"))
                    .with_status(ExitStatus::of_signal(signal));
                Err(how_things_stand().into_iter().fold(error, CommandError::hint))
            }
        }
    }
}

/// The mask `SigIgn` of `/proc/self/status` (proc(5)): bit n-1 is signal n.
fn ignored_mask(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nohup_set_is_read_off_the_mask() {
        let status = "Name:\tbanger\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n";
        assert_eq!(ignored_mask(status), 1 | 1 << 12);
        assert_eq!(ignored_mask(""), 0);
    }
}
