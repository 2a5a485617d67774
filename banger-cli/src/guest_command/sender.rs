//! What goes to the guest: input, its end, and signals before both.

use banger_daemon::client::StreamWriter;
use banger_session::Signal;
use banger_session::mux::{Control, Stream};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::input::next_chunk;

/// Sends on a task of its own, so that a guest that does not read its input holds up nothing else.
#[derive(Debug)]
pub(super) struct Sender {
    signals: mpsc::UnboundedSender<Signal>,
    /// How many signals wait to be sent.
    waiting: watch::Sender<usize>,
    task: AbortHandle,
}

impl Sender {
    /// Begins to send `input`, if there is any.
    pub(super) fn new(writer: StreamWriter, input: Option<mpsc::Receiver<Vec<u8>>>) -> Self {
        let (signals, receiver) = mpsc::unbounded_channel();
        let waiting = watch::Sender::new(0);
        let task = tokio::spawn(send(writer, input, receiver, waiting.clone())).abort_handle();
        Sender {
            signals,
            waiting,
            task,
        }
    }

    /// Has a signal sent to the command, before any more of its input.
    pub(super) fn signal(&self, signal: Signal) {
        self.waiting.send_modify(|waiting| *waiting += 1);
        // If the connection is gone the reader sees it, and that ends everything.
        let _ = self.signals.send(signal);
    }

    /// Waits until no signal waits to be sent. Cancel-safe.
    pub(super) async fn delivered(&self) {
        let mut waiting = self.waiting.subscribe();
        // It cannot close: we hold the other end.
        let _ = waiting.wait_for(|waiting| *waiting == 0).await;
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn send(
    mut writer: StreamWriter,
    mut input: Option<mpsc::Receiver<Vec<u8>>>,
    mut signals: mpsc::UnboundedReceiver<Signal>,
    waiting: watch::Sender<usize>,
) {
    loop {
        // Both are cancel-safe; sending is done outside, to its end.
        let sent = tokio::select! {
            biased;
            signal = signals.recv() => match signal {
                Some(signal) => {
                    let signal = signal.name().to_owned();
                    let sent = writer.send_control(&Control::Signal { signal }).await;
                    waiting.send_modify(|waiting| *waiting -= 1);
                    sent
                }
                None => return,
            },
            chunk = next_chunk(&mut input) => match chunk {
                Some(chunk) => writer.send_data(Stream::Stdin, &chunk).await,
                None => writer.send_end(Stream::Stdin).await,
            },
        };
        if sent.is_err() {
            // The reader sees it too, and hears first what the daemon had to say.
            return;
        }
    }
}
