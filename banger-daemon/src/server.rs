//! The daemon, as a library over an engine: open the engine, [`bind`] the socket, [`serve`].
//!
//! ```text
//! accept ── our user or root? ── first line ─┬─ stream.open ─► frames ⇄ a command in a guest (exec), or a
//!                                            │                 session's log or attach (session_stream)
//!                                            └─ a request ──► connection: a task a request, answers
//!                                                              as they are ready
//! ```
//!
//! A connection is over when its client has hung up, or has said that it will say nothing more and has
//! all its answers. VMs that it asked for as ephemeral are deleted then.

mod connection;
mod console;
mod ephemeral;
mod exec;
mod fault;
mod hangup;
mod image;
mod machine;
mod methods;
mod reach;
mod request;
mod session;
mod session_stream;
mod socket;
mod stop;
mod strays;
mod tickets;
mod views;
mod workspace;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use banger_core::Engine;
use jiff::Timestamp;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

pub use socket::{BindError, Listening, bind};
pub use stop::Stop;

use tickets::Tickets;

/// How long requests and clean-ups that are at work may take after the daemon was told to end.
const LAST_WORDS: Duration = Duration::from_secs(15);

/// Serves an engine until it is told to stop, then closes the engine and removes the socket. VMs run on.
pub async fn serve(engine: Engine, listening: Listening, stop: Stop) {
    let shared = Arc::new(Shared::new(engine, stop));
    let mut connections = JoinSet::new();
    loop {
        // All three are cancel-safe.
        tokio::select! {
            () = shared.stop.asked() => break,
            accepted = listening.accept() => match accepted {
                Ok(stream) => admit(&shared, stream, &mut connections),
                Err(error) => {
                    // Too many files are open, most likely: some will be closed.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a connection's task failed");
                }
            }
        }
    }
    // First of all: whoever finds no socket starts a new daemon, and waits for our lock.
    drop(listening);
    // A build takes minutes, and nobody is to wait for it any more.
    shared.engine.give_up_images().await;
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST_WORDS, ended).await.is_err() {
        tracing::warn!("ended with requests at work; the next start will reconcile what they left");
    }
    shared.engine.clone().close().await;
    tracing::info!("stopped");
}

/// What all connections share.
struct Shared {
    engine: Engine,
    stop: Stop,
    tickets: Tickets,
    started_at: Timestamp,
    /// Tells this daemon's operations from another's in the log.
    mark: u16,
    operations: AtomicU64,
}

impl Shared {
    fn new(engine: Engine, stop: Stop) -> Self {
        let started_at = Timestamp::now();
        Shared {
            engine,
            stop,
            tickets: Tickets::default(),
            started_at,
            mark: started_at.as_millisecond() as u16,
            operations: AtomicU64::new(1),
        }
    }

    /// Names an operation, for the log and for whoever asks about it.
    fn next_operation(&self) -> String {
        let number = self.operations.fetch_add(1, Ordering::Relaxed);
        format!("{:04x}-{number}", self.mark)
    }
}

fn admit(shared: &Arc<Shared>, stream: UnixStream, connections: &mut JoinSet<()>) {
    let uid = match stream.peer_cred() {
        Ok(peer) => peer.uid(),
        Err(error) => {
            tracing::warn!(%error, "cannot tell who connects");
            return;
        }
    };
    if !may_connect(uid, rustix::process::geteuid().as_raw()) {
        tracing::warn!(uid, "refused a connection of another user");
        return;
    }
    connections.spawn(connection::converse(shared.clone(), stream));
}

/// The socket's mode keeps others out already; this holds even if somebody widens it.
fn may_connect(peer: u32, ours: u32) -> bool {
    peer == ours || peer == 0
}

#[cfg(test)]
mod tests {
    use super::{LAST_WORDS, may_connect};

    #[test]
    fn the_documented_time_for_requests_at_work_is_that_of_the_program() {
        let page = include_str!("../../docs/defaults.md");
        let line = format!(
            "| requests at work when the daemon is told to end | {} s |",
            LAST_WORDS.as_secs()
        );
        assert!(page.contains(&line), "docs/defaults.md does not say {line}");
    }

    #[test]
    fn only_our_own_user_and_root_may_connect() {
        assert!(may_connect(1000, 1000));
        assert!(may_connect(0, 1000));
        assert!(may_connect(0, 0));
        assert!(!may_connect(1001, 1000));
        assert!(!may_connect(1000, 0));
    }
}
