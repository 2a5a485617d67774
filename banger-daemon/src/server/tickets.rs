//! Tickets: what a request has started and a stream is to take up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use banger_core::{Execution, Signal};
use tokio::task::AbortHandle;

use super::fault::Fault;

/// How long a ticket is good.
const VALIDITY: Duration = Duration::from_secs(10);

/// How long a hang-up may take to reach a command.
const HANGUP_LIMIT: Duration = Duration::from_secs(10);

/// Started commands whose streams are not yet open.
#[derive(Clone, Debug, Default)]
pub(super) struct Tickets {
    held: Arc<Mutex<HashMap<String, Ticket>>>,
}

/// A started command.
#[derive(Debug)]
pub(super) struct Held {
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
    /// Holds a command for whoever comes with the ticket that is returned.
    pub(super) fn issue(&self, held: Held) -> Result<String, Fault> {
        let ticket = random_name()?;
        // Locked before the expiry is started: it must find the ticket, however late this thread is.
        let mut all = self.all();
        let (tickets, name) = (self.clone(), ticket.clone());
        let expiry = tokio::spawn(async move {
            tokio::time::sleep(VALIDITY).await;
            let late = tickets.all().remove(&name);
            if let Some(late) = late {
                tracing::info!("nobody opened the stream of a command; hanging up on it");
                hang_up(late.held.execution).await;
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
