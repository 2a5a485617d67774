//! Telling everybody that the daemon is to end.

use std::sync::Arc;

use tokio::sync::watch;

/// A request to end, that anybody can make and everybody hears of. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stop {
    asked: Arc<watch::Sender<bool>>,
}

impl Default for Stop {
    fn default() -> Self {
        Stop {
            asked: Arc::new(watch::Sender::new(false)),
        }
    }
}

impl Stop {
    /// Asks the daemon to end. Asking again changes nothing.
    pub fn ask(&self) {
        self.asked.send_replace(true);
    }

    /// Waits until somebody has asked. Cancel-safe.
    pub async fn asked(&self) {
        // It cannot fail: we hold the sender.
        let _ = self.asked.subscribe().wait_for(|asked| *asked).await;
    }
}
