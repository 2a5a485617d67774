//! Scopes of a fake host: kept in memory, until somebody removes them. A real one goes by itself when nothing
//! runs in it any more, at a moment of systemd's choice: an engine may rely on neither.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::plan::Needs;
use super::{FakeHost, HostError, ProcessEnd, Result};
use crate::host::scopes::Scopes;

/// What the systemd of a fake host keeps.
#[derive(Debug)]
pub(super) struct Systemd {
    support: std::result::Result<(), String>,
    refuses: bool,
    /// Each with the number of the process in it.
    scopes: BTreeMap<String, u32>,
}

impl Default for Systemd {
    fn default() -> Self {
        Systemd {
            support: Err("a simulated host has no systemd".to_owned()),
            refuses: false,
            scopes: BTreeMap::new(),
        }
    }
}

impl Systemd {
    /// Refuses a scope that cannot be made.
    pub(super) fn admit(&self, scope: &str) -> Result<()> {
        let said = match (&self.support, self.refuses, self.scopes.contains_key(scope)) {
            (Err(why), _, _) => why.clone(),
            _ if scope.contains('/') => format!("Failed to mangle scope name: {scope}"),
            (Ok(()), true, _) => "Failed to start transient scope unit: simulated".to_owned(),
            (Ok(()), false, true) => format!("Unit {scope} already exists."),
            (Ok(()), false, false) => return Ok(()),
        };
        Err(HostError::Scope {
            scope: scope.to_owned(),
            said: Some(said),
        })
    }

    pub(super) fn enter(&mut self, scope: &str, pid: u32) {
        self.scopes.insert(scope.to_owned(), pid);
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.scopes.keys()
    }

    /// The host restarts: its scopes are gone, its systemd is the same.
    pub(super) fn reboot(&mut self) {
        self.scopes.clear();
    }
}

impl FakeHost {
    /// Says whether systemd runs on this host from now on; it does not on a new one.
    pub fn set_scopes(&self, support: std::result::Result<(), String>) {
        self.inner().systemd.support = support;
    }

    /// Lets systemd say that it can make scopes and then refuse to (or make them, again).
    pub fn scopes_are_refused(&self, refused: bool) {
        self.inner().systemd.refuses = refused;
    }

    /// Puts a scope on the host that this engine has not made, with a process in it.
    pub fn add_scope(&self, name: &str, pid: u32) {
        self.inner().systemd.enter(name, pid);
    }
}

#[async_trait]
impl Scopes for FakeHost {
    async fn scope_support(&self) -> std::result::Result<(), String> {
        self.inner().systemd.support.clone()
    }

    async fn remove_scope(&self, name: &str) -> Result<()> {
        if !self.look(|inner| inner.systemd.scopes.contains_key(name))? {
            return Ok(());
        }
        let removed = self.act(Needs::Nothing, "remove scope".to_owned(), || {
            let inner = &mut *self.inner();
            let within = inner.systemd.scopes.remove(name);
            if let Some(process) = within.and_then(|pid| inner.processes.get_mut(&pid)) {
                process.end.get_or_insert(ProcessEnd::Signaled(9));
            }
            Ok(())
        });
        self.tell();
        removed
    }

    async fn list_scopes(&self, prefix: &str) -> Result<Vec<String>> {
        self.look(|inner| {
            let names = inner.systemd.scopes.keys();
            names.filter(|n| n.starts_with(prefix)).cloned().collect()
        })
    }
}
