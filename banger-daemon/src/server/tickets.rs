//! Tickets: what a request has started and a stream is to take up.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use banger_core::{
    Console, ConsoleLog, Engine, Execution, SessionAttach, SessionLogs, Signal, WorkspaceExport,
};
use banger_session::mux::Stream;
use tokio::task::AbortHandle;

use super::fault::Fault;

/// How long a ticket is good.
const VALIDITY: Duration = Duration::from_secs(10);

/// How long a hang-up may take to reach a command.
const HANGUP_LIMIT: Duration = Duration::from_secs(10);

/// What was begun by requests and has no stream yet.
#[derive(Clone, Debug)]
pub(super) struct Tickets {
    held: Arc<Mutex<HashMap<String, Ticket>>>,
    validity: Duration,
}

impl Default for Tickets {
    fn default() -> Self {
        Tickets {
            held: Arc::default(),
            validity: VALIDITY,
        }
    }
}

/// What a stream is to take up.
#[derive(Debug)]
pub(super) enum Held {
    /// A started command.
    Exec(Started),
    /// An attached serial console. Nobody else can attach while it waits.
    Console(Box<Console>),
    /// A serial console's log.
    ConsoleLog(ConsoleLog),
    /// A connected socket, to be passed on as it is.
    Socket(OwnedFd),
    /// A session's log.
    Logs {
        /// Which.
        stream: Stream,
        /// Read from where it was asked for.
        logs: SessionLogs,
    },
    /// A patch on its way.
    Export(Box<WorkspaceExport>),
    /// An attach. Nobody else can attach while it waits.
    Attach {
        /// It.
        attach: Box<SessionAttach>,
        /// For signals to its session.
        engine: Engine,
    },
}

/// A started command.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) execution: Execution,
    /// Where it was to run, to say so if it cannot.
    pub(super) folder: String,
}

#[derive(Debug)]
struct Ticket {
    held: Held,
    expiry: AbortHandle,
}

impl Tickets {
    /// Holds something for whoever comes with the ticket that is returned.
    pub(super) fn issue(&self, held: Held) -> Result<String, Fault> {
        let ticket = random_name()?;
        // Locked before the expiry is started: it must find the ticket, however late this thread is.
        let mut all = self.all();
        let (tickets, name) = (self.clone(), ticket.clone());
        let expiry = tokio::spawn(async move {
            tokio::time::sleep(tickets.validity).await;
            let late = tickets.all().remove(&name);
            // A session is simply left; a command ends with its client.
            if let Some(Ticket {
                held: Held::Exec(late),
                ..
            }) = late
            {
                tracing::info!("nobody opened the stream of a command; hanging up on it");
                hang_up(late.execution).await;
            }
        });
        let expiry = expiry.abort_handle();
        all.insert(ticket.clone(), Ticket { held, expiry });
        Ok(ticket)
    }

    /// Takes what a ticket stands for, once.
    pub(super) fn redeem(&self, ticket: &str) -> Option<Held> {
        let found = self.all().remove(ticket)?;
        found.expiry.abort();
        Some(found.held)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Ticket>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells a command that its client is gone, as a terminal would, and lets go of it.
pub(super) async fn hang_up(execution: Execution) {
    let signaller = execution.signaller();
    match tokio::time::timeout(HANGUP_LIMIT, signaller.send(Signal::HUP)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "could not hang up on a command"),
        Err(_) => tracing::debug!("hanging up on a command took too long"),
    }
    drop(execution);
}

fn random_name() -> Result<String, Fault> {
    let mut bytes = [0; 16];
    // Up to 256 bytes are never cut short (getrandom(2)).
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(
        |error| Fault::Bug {
            reason: format!("the kernel gives no random numbers: {error}"),
        },
    )?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use banger_core::{CreateRequest, ExecEvent, ExecRequest, Progress};

    use super::*;

    async fn guest() -> Option<Engine> {
        let engine = Engine::sim().await.unwrap();
        let silent = Progress::silent();
        let request = CreateRequest::named("box".parse().unwrap());
        engine.create(request, &silent).await.unwrap();
        engine.start("box", &silent).await.unwrap();
        match engine.wait_ready("box", &silent).await {
            Ok(()) => Some(engine),
            Err(error) => {
                eprintln!("SKIP: {}", error.chain().join(": "));
                None
            }
        }
    }

    async fn started(engine: &Engine, script: &str) -> Started {
        let request = ExecRequest::new(["sh", "-c", script]);
        Started {
            execution: engine.exec("box", &request).await.unwrap(),
            folder: String::new(),
        }
    }

    #[tokio::test]
    async fn a_command_whose_stream_nobody_opens_is_hung_up_on() {
        let Some(engine) = guest().await else {
            return;
        };
        let tickets = Tickets {
            validity: Duration::from_millis(200),
            ..Tickets::default()
        };
        let told = "mkfifo /root/told; trap 'echo hung up > /root/told' HUP; sleep 1000 & wait";
        let ticket = tickets
            .issue(Held::Exec(started(&engine, told).await))
            .unwrap();
        let mut reader = started(&engine, "until cat /root/told 2>/dev/null; do :; done").await;
        let heard = async {
            loop {
                if let ExecEvent::Stdout(bytes) = reader.execution.next().await {
                    return bytes;
                }
            }
        };
        let heard = tokio::time::timeout(Duration::from_secs(60), heard).await;
        assert_eq!(heard.unwrap(), b"hung up\n");
        assert!(tickets.redeem(&ticket).is_none());
    }

    #[tokio::test]
    async fn a_ticket_is_redeemed_once_and_no_two_are_alike() {
        let Some(engine) = guest().await else {
            return;
        };
        let tickets = Tickets::default();
        let one = tickets
            .issue(Held::Exec(started(&engine, "true").await))
            .unwrap();
        let two = tickets
            .issue(Held::Exec(started(&engine, "true").await))
            .unwrap();
        assert_ne!(one, two);
        assert!(tickets.redeem(&one).is_some());
        assert!(tickets.redeem(&one).is_none());
    }
}
