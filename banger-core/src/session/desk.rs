//! What this process alone knows of sessions: which it is launching just now, and who is attached.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;

use crate::engine::lock;
use crate::names::SessionId;

/// One engine's desk. What is on it ends with the process, and so does what it stands for.
#[derive(Debug, Default)]
pub(crate) struct SessionDesk {
    /// A session must not be looked at while its launch is under way: half of it is there.
    launching: Mutex<HashSet<SessionId>>,
    holders: Mutex<HashMap<SessionId, Holder>>,
}

/// Who is attached to a session.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    pub(super) who: String,
    pub(super) since: Timestamp,
}

/// A session that is being launched, until this is dropped.
#[derive(Debug)]
pub(super) struct Launching(Arc<SessionDesk>, SessionId);

/// A session that is held by an attach, until this is dropped.
#[derive(Debug)]
pub(super) struct Hold(Arc<SessionDesk>, SessionId);

impl SessionDesk {
    pub(super) fn launching(self: &Arc<Self>, id: &SessionId) -> Launching {
        lock(&self.launching).insert(id.clone());
        Launching(self.clone(), id.clone())
    }

    pub(super) fn is_launching(&self, id: &SessionId) -> bool {
        lock(&self.launching).contains(id)
    }

    /// Takes a session for `who`, or says who has it.
    pub(super) fn hold(self: &Arc<Self>, id: &SessionId, who: &str) -> Result<Hold, Holder> {
        let mut holders = lock(&self.holders);
        if let Some(holder) = holders.get(id) {
            return Err(holder.clone());
        }
        let holder = Holder {
            who: who.to_owned(),
            since: Timestamp::now(),
        };
        holders.insert(id.clone(), holder);
        Ok(Hold(self.clone(), id.clone()))
    }
}

impl Drop for Launching {
    fn drop(&mut self) {
        lock(&self.0.launching).remove(&self.1);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        lock(&self.0.holders).remove(&self.1);
    }
}
