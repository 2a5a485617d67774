//! systemd scopes: one a VM, with its monitor in it, so that neither the end of the daemon's service nor
//! that of a login session ends it, and what runs out of memory is one VM.

use async_trait::async_trait;

use super::HostError;

/// A scope to be made, and what all that runs in it may take of the host together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeSpec {
    /// Its name, with its suffix.
    pub name: String,
    /// Memory, in bytes; what is in it is ended beyond that.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub tasks: u32,
    /// Its share of the processors when they are short; 100 is what everything else has.
    pub cpu_weight: u32,
}

/// The part of a [`Host`](super::Host) that lists and ends scopes. One is made by
/// [`Host::spawn`](super::Host::spawn), with the process that is to be in it.
#[async_trait]
pub trait Scopes {
    /// Says whether a process can be given a scope of its own here, and if not, why.
    async fn scope_support(&self) -> Result<(), String>;

    /// Ends a scope with all that still runs in it, and returns when it is gone. A missing one is success.
    async fn remove_scope(&self, name: &str) -> Result<(), HostError>;

    /// Lists the scopes whose names begin so, sorted. Where there is no systemd there are none.
    async fn list_scopes(&self, prefix: &str) -> Result<Vec<String>, HostError>;
}
