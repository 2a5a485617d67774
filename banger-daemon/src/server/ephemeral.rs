//! The VMs that live only as long as the connection that asked for them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use banger_core::{CreateRequest, Engine, Error, ErrorKind, Lifetime, Progress, VMRecord, VmId};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The ephemeral VMs of one connection.
#[derive(Debug)]
pub(super) struct Ephemerals {
    /// Created or still being created: a create goes on when its client is gone, and what it makes
    /// then has to go too. None once the client is gone: a request that was read and not yet begun
    /// must not create any more.
    created: Mutex<Option<Vec<JoinHandle<Option<VmId>>>>>,
}

impl Default for Ephemerals {
    fn default() -> Self {
        Ephemerals {
            created: Mutex::new(Some(Vec::new())),
        }
    }
}

impl Ephemerals {
    /// Creates a VM that is deleted by [`Ephemerals::delete`].
    pub(super) async fn create(
        &self,
        engine: &Engine,
        mut request: CreateRequest,
        progress: Progress,
    ) -> Result<VMRecord, Error> {
        request.lifetime = Some(Lifetime::Ephemeral);
        let engine = engine.clone();
        let (tell, told) = oneshot::channel();
        if let Some(created) = &mut *self.created() {
            created.push(tokio::spawn(async move {
                let made = engine.create(request, &progress).await;
                let id = made.as_ref().ok().map(|vm| vm.id.clone());
                // Nobody waits for it if the client is gone.
                let _ = tell.send(made);
                id
            }));
        }
        told.await.unwrap_or(Err(Error::Closing))
    }

    /// Deletes them, but for those that were kept because they never came up.
    pub(super) async fn delete(&self, engine: &Engine) {
        let created = self.created().take();
        for creating in created.into_iter().flatten() {
            let Ok(Some(id)) = creating.await else {
                continue;
            };
            match delete_unless_kept(engine, &id).await {
                Ok(Outcome::Deleted) => tracing::info!(%id, "deleted with its client"),
                Ok(Outcome::Kept) => tracing::info!(%id, "kept: it never came up"),
                // Whoever asked for it has deleted it.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(
                    %id,
                    error = error.chain().join(": "),
                    "could not delete a VM with its client; the next reconcile will"
                ),
            }
        }
    }

    fn created(&self) -> MutexGuard<'_, Option<Vec<JoinHandle<Option<VmId>>>>> {
        self.created.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Outcome {
    Deleted,
    Kept,
}

async fn delete_unless_kept(engine: &Engine, id: &VmId) -> Result<Outcome, Error> {
    let vm = engine.lookup(id.as_str()).await?;
    if vm.spec.lifetime == Lifetime::Kept {
        return Ok(Outcome::Kept);
    }
    engine.delete(id.as_str()).await?;
    Ok(Outcome::Deleted)
}
