//! Removing strays: only what an inventory named, and only what is still one.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::look::{Act, Found};
use super::{HostObject, Inventory, Owner, Remedy};
use crate::engine::{Engine, Inner};
use crate::error::Error;
use crate::host::{HostError, ProcessIdentity, ProcessSignal};
use crate::liveness::Monitor;
use crate::names::VmId;
use crate::progress::Progress;

/// What was done about the strays of an inventory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// One line for each stray that the inventory named.
    pub lines: Vec<RemovalLine>,
}

/// What was done about one stray.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovalLine {
    /// The stray, as the inventory named it.
    pub object: HostObject,
    /// What was done.
    pub outcome: RemovalOutcome,
}

/// What was done about one stray.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemovalOutcome {
    /// It is gone.
    Removed,
    /// It was gone already, or has an owner now.
    NoStrayAnyMore,
    /// A person has to decide.
    LeftToYou,
    /// It could not be removed.
    Failed(String),
}

impl Removal {
    /// Says whether something could not be removed.
    pub fn failed(&self) -> bool {
        let failed = |line: &RemovalLine| matches!(line.outcome, RemovalOutcome::Failed(_));
        self.lines.iter().any(failed)
    }
}

impl Engine {
    /// Removes the strays that an inventory names, as far as they are strays still: each VM is looked
    /// at again in its turn. One that cannot be removed does not stop the others.
    pub async fn remove_strays(&self, inventory: &Inventory) -> Result<Removal, Error> {
        let engine = self.clone();
        let strays: Vec<HostObject> = inventory.strays().cloned().collect();
        self.to_its_end(async move { engine.remove_now(strays).await })
            .await
    }

    async fn remove_now(&self, strays: Vec<HostObject>) -> Result<Removal, Error> {
        let inner = &self.inner;
        let mut removal = Removal::default();
        let vms: BTreeSet<Option<VmId>> = strays.iter().map(|stray| stray.vm.clone()).collect();
        for vm in vms {
            let _turn = match &vm {
                Some(id) => Some(inner.turn(id).await),
                None => None,
            };
            let survey = inner.survey_objects().await?;
            let found = match &vm {
                Some(id) => inner.look_at_vm(id, &survey, true).await?,
                None => {
                    let mut found = inner.look_at_nobodys_runs(&survey).await?;
                    found.extend(inner.look_at_images().await?);
                    found.extend(inner.look_at_engine_files().await?);
                    found
                }
            };
            let mut named: Vec<&HostObject> = strays.iter().filter(|s| s.vm == vm).collect();
            // Whoever holds goes before what is held.
            named.sort_by_key(|stray| stray.kind);
            for stray in named {
                let outcome = inner.remove_one(stray, &found).await?;
                tracing::info!(kind = %stray.kind, which = %stray.grip, ?outcome, "stray");
                let object = stray.clone();
                removal.lines.push(RemovalLine { object, outcome });
            }
        }
        removal.lines.sort_by_key(|line| line.object.kind);
        Ok(removal)
    }
}

impl Inner {
    async fn remove_one(
        &self,
        stray: &HostObject,
        found: &[Found],
    ) -> Result<RemovalOutcome, Error> {
        let same = |found: &&Found| {
            let object = &found.object;
            object.kind == stray.kind && object.grip == stray.grip && object.is_stray()
        };
        let Some(now) = found.iter().find(same) else {
            return Ok(RemovalOutcome::NoStrayAnyMore);
        };
        if let Owner::Stray {
            remedy: Remedy::ByHand,
            ..
        } = now.object.owner
        {
            return Ok(RemovalOutcome::LeftToYou);
        }
        match self.carry_out(&now.act).await {
            Ok(()) => Ok(RemovalOutcome::Removed),
            Err(Error::Host(error @ HostError::Died { .. })) => Err(error.into()),
            Err(error) => Ok(RemovalOutcome::Failed(error.chain().join(": "))),
        }
    }

    async fn carry_out(&self, act: &Act) -> Result<(), Error> {
        let host = self.host();
        match act {
            // A port goes with the process that listens on it, which was removed before.
            Act::Nothing => Ok(()),
            Act::EndMonitor(monitor) => self.end_stray_monitor(monitor).await,
            Act::EndProcess(process) => self.end_process(process).await,
            Act::RemoveFile(path) => Ok(host.remove_file(path).await?),
            Act::RemoveTree(path) => Ok(host.remove_tree(path).await?),
            Act::SweepImage(id) => {
                let (images, silent) = (self.places.images(), Progress::silent());
                Ok(self.workshop(&images, &silent).sweep_one(id).await?)
            }
            Act::RemoveSnapshot(name) => Ok(crate::disk::remove_snapshot(host, name).await?),
            Act::RemoveNamespace(name) => Ok(host.remove_namespace(name).await?),
            Act::RemoveScope(name) => Ok(host.remove_scope(name).await?),
            Act::RemoveUplink { name, owner } => Ok(host.remove_uplink(name, owner).await?),
            Act::RemoveTable(name) => Ok(host.remove_table(name).await?),
            Act::Release(row, handles) => {
                self.release(row, Some(handles)).await?;
                self.forget_handles(row).await
            }
        }
    }

    /// Kills a monitor that no VM wants and waits until it is gone.
    pub(crate) async fn end_stray_monitor(&self, monitor: &Monitor) -> Result<(), Error> {
        self.liveness.signal(monitor, ProcessSignal::Kill).await?;
        let limit = self.config.limits.signal;
        match tokio::time::timeout(limit, self.liveness.wait_end(monitor)).await {
            Ok(end) => end.map(drop).map_err(Into::into),
            Err(_) => Err(outlived(monitor.handle(), limit)),
        }
    }

    async fn end_process(&self, process: &ProcessIdentity) -> Result<(), Error> {
        let (host, limit) = (self.host(), self.config.limits.signal);
        for signal in [ProcessSignal::Term, ProcessSignal::Kill] {
            host.signal(process, signal).await?;
            if let Ok(end) = tokio::time::timeout(limit, host.wait_end(process)).await {
                return end.map(drop).map_err(Into::into);
            }
        }
        Err(outlived(process.pid, limit))
    }
}

fn outlived(process: impl std::fmt::Display, limit: std::time::Duration) -> Error {
    Error::StrayOutlived {
        process: process.to_string(),
        limit,
    }
}
