//! Reaching a guest: one connection a VM, made when it is first needed, taken up after a restart.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Cause, HostClock, set_clock};
use crate::engine::{Engine, Inner, lock};
use crate::error::Error;
use crate::handles::{VMHandles, write_handles_file};
use crate::host::HostError;
use crate::identity::{HOST_KEY, read_identity};
use crate::liveness::{Condition, Verdict};
use crate::names::VmName;
use crate::progress::Progress;
use crate::transport::{
    Ciphers, GuestConnection, GuestTarget, SshFiles, TransportError, write_files,
};
use crate::vm::{Lifetime, VMRecord, VmmKind};
use crate::vmm::PauseReason;
use crate::watch::Live;

/// How ssh is called to reach a VM: `ssh -F config host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshAccess {
    /// The ssh_config of this run.
    pub config: PathBuf,
    /// The host's name in it.
    pub host: String,
}

/// Who asks for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    Anybody,
    /// A verb that is at work on the VM.
    HasTheTurn,
}

impl Engine {
    /// Waits until a VM's guest answers over ssh. When it does not in time, the VM runs on with its
    /// `last_error` set, to be looked at.
    pub async fn wait_ready(&self, vm: &str, progress: &Progress) -> Result<(), Error> {
        let vm = self.lookup(vm).await?;
        let limit = self.inner.config.limits.ready;
        let connected = match self.inner.live(&vm.id) {
            Some(live) => live.connection.try_lock().is_ok_and(|held| held.is_some()),
            // It does not run, most likely, and nothing boots.
            None => true,
        };
        let connection = self.connection(&vm, limit);
        let connection = match connected {
            true => connection.await,
            false => tokio::select! {
                biased;
                // Cancel-safe: it only looks and tells.
                never = self.inner.tell_boot(&vm, progress) => match never {},
                connection = connection => connection,
            },
        };
        match connection {
            Ok(_) => Ok(()),
            Err(Error::Transport(TransportError::NotReady { limit })) => {
                let error = Error::NotReady {
                    vm: vm.name.clone(),
                    limit,
                    console_log: vm.runtime.log_path.clone(),
                };
                let text = error.to_string();
                let _turn = self.inner.turn(&vm.id).await;
                // It may have been stopped or deleted while we waited: then there is nothing to note.
                if let Some(now) = self.inner.store.vm(&vm.id).await?
                    && now.runtime.run_id == vm.runtime.run_id
                {
                    self.inner
                        .note(now, |runtime| runtime.last_error = Some(text))
                        .await?;
                }
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Waits for a running VM's ssh, and says how to call it.
    pub async fn ssh_access(&self, vm: &str, progress: &Progress) -> Result<SshAccess, Error> {
        self.wait_ready(vm, progress).await?;
        let vm = self.lookup(vm).await?;
        Ok(SshAccess {
            config: self.inner.places.ssh_config(&vm.id),
            host: vm.runtime.dns_name,
        })
    }

    /// Keeps a VM that was to live only as long as its client: one that never came up is left to be
    /// looked at.
    pub async fn keep(&self, vm: &str) -> Result<VMRecord, Error> {
        let (_turn, mut vm) = self.in_turn(vm).await?;
        vm.spec.lifetime = Lifetime::Kept;
        self.inner.note(vm, |_| {}).await
    }

    /// Returns the connection to a running VM's guest, making it within this time.
    pub(crate) async fn connection(
        &self,
        vm: &VMRecord,
        limit: Duration,
    ) -> Result<Arc<dyn GuestConnection>, Error> {
        self.connection_as(vm, limit, Asker::Anybody).await
    }

    pub(crate) async fn connection_as(
        &self,
        vm: &VMRecord,
        limit: Duration,
        asker: Asker,
    ) -> Result<Arc<dyn GuestConnection>, Error> {
        let inner = &self.inner;
        let live = self.running(vm, asker).await?;
        live.known_soon().await;
        if let Some(reason) = live.paused() {
            // Nothing in it answers before it goes on, which may take hours.
            return Err(paused(vm, reason));
        }
        // Also one who waits for another's connection waits for no paused guest.
        let mut pauses = live.pauses();
        let mut connection = tokio::select! {
            connection = live.connection.lock() => connection,
            reason = pauses.paused() => return Err(paused(vm, reason)),
        };
        if let Some(connection) = connection.as_ref()
            && connection.is_up().await
        {
            if asker == Asker::Anybody {
                self.mind_clock(vm, &live, connection).await;
            }
            return Ok(connection.clone());
        }
        *connection = None;
        let handles = inner.handles_for_ssh(vm, &live, asker).await?;
        let target = inner.target(vm, Some(&handles));
        let transport = inner.backends.transport().clone();
        let resumed = transport.resume(inner.host(), &target).await;
        let booted = resumed.is_none().then_some(Cause::Boot);
        let established = match resumed {
            Some(resumed) => resumed,
            None => {
                let connect = transport.connect(inner.host(), &target, limit);
                tokio::select! {
                    // Both are cancel-safe: one waits on a pidfd, the other holds nothing but sockets.
                    connected = connect => connected?,
                    // It was booting.
                    reason = pauses.paused() => return Err(paused(vm, reason)),
                    end = live.ended(&*inner.liveness) => {
                        let end = end.map_or_else(|error| error.to_string(), |end| end.to_string());
                        return Err(inner.ended_booting(vm, end).await);
                    }
                }
            }
        };
        let established: Arc<dyn GuestConnection> = established.into();
        *connection = Some(established.clone());
        let before = lock(&live.agreed).replace(HostClock::now());
        let stood = live.take_stood();
        let cause = before.map_or(booted, |agreed| agreed.jump(stood));
        if let Some(cause) = cause.filter(|_| vm.spec.vmm != VmmKind::Sim) {
            let (name, connection) = (vm.name.clone(), established.clone());
            // Beside the first command, which it must not delay.
            tokio::spawn(async move { correct_clock(&name, &*connection, cause).await });
        }
        Ok(established)
    }

    /// Moves a guest's clock if it stood still: by itself, or while this host slept, whose own has jumped.
    async fn mind_clock(&self, vm: &VMRecord, live: &Live, connection: &Arc<dyn GuestConnection>) {
        let stood = live.take_stood();
        let agreed = *lock(&live.agreed);
        let jump = agreed.and_then(|agreed| agreed.jump(stood));
        if let Some(cause) = jump.filter(|_| vm.spec.vmm != VmmKind::Sim) {
            *lock(&live.agreed) = Some(HostClock::now());
            correct_clock(&vm.name, &**connection, cause).await;
        }
    }

    /// Returns what this process keeps of a VM, if it truly runs.
    pub(crate) async fn running(&self, vm: &VMRecord, asker: Asker) -> Result<Arc<Live>, Error> {
        let inner = &self.inner;
        if let Some(live) = inner.live(&vm.id) {
            return Ok(live);
        }
        let handles = inner.handles(vm).await?;
        match inner.liveness.judge(&vm.id, handles.as_ref()).await {
            // Alive and not watched: a start that is under way, whose end is waited for (its promise may be
            // written already), or one that nobody acknowledged.
            Verdict::Alive(_) if asker == Asker::Anybody => {
                let _turn = inner.turn(&vm.id).await;
                inner.live(&vm.id).ok_or(Error::NotRunning {
                    vm: vm.name.clone(),
                    condition: Condition::Ended.to_string(),
                })
            }
            Verdict::Alive(_) | Verdict::Gone | Verdict::NotOurs { .. } => Err(Error::NotRunning {
                vm: vm.name.clone(),
                condition: self.view(vm.clone()).await.condition.to_string(),
            }),
            Verdict::CannotTell { reason } => Err(Error::CannotTell {
                vm: vm.name.clone(),
                reason,
            }),
        }
    }
}

fn paused(vm: &VMRecord, reason: PauseReason) -> Error {
    Error::Paused {
        vm: vm.name.clone(),
        reason,
        folder: vm.runtime.vm_dir.clone(),
    }
}

/// A clock that cannot be set keeps nobody from their guest.
async fn correct_clock(vm: &VmName, connection: &dyn GuestConnection, cause: Cause) {
    match set_clock(connection, cause).await {
        Ok(outcome) => tracing::debug!(%vm, ?cause, ?outcome, "looked at a guest's clock, in µs"),
        Err(error) => tracing::info!(%vm, error, "cannot look at a guest's clock"),
    }
}

impl Inner {
    /// Names whom a transport talks to.
    pub(crate) fn target(&self, vm: &VMRecord, handles: Option<&VMHandles>) -> GuestTarget {
        let network = self.backends.network(vm.spec.network).ok();
        let endpoint = network
            .zip(handles)
            .and_then(|(network, handles)| network.ssh_endpoint(handles));
        GuestTarget {
            id: vm.id.clone(),
            name: vm.name.clone(),
            endpoint,
            vm_dir: vm.runtime.vm_dir.clone(),
            run_dir: self.places.run(&vm.id),
            ssh_config: self.places.ssh_config(&vm.id),
            ssh_control: self.places.ssh_control(&vm.id),
        }
    }

    /// Returns a running VM's handles with its ssh port, and makes sure that ssh's files are there:
    /// both can be lost, and found again.
    async fn handles_for_ssh(
        &self,
        vm: &VMRecord,
        live: &Arc<Live>,
        asker: Asker,
    ) -> Result<VMHandles, Error> {
        let mut handles = match self.handles(vm).await? {
            Some(handles) => handles,
            None => {
                let boot = self.host().boot_id().await?;
                self.planned(vm, live.monitor.run().clone(), boot)
            }
        };
        let config = self.places.ssh_config(&vm.id);
        let has_files = self.host().stat(&config).await?.is_some();
        let mut found_port = None;
        if handles.ssh_port.is_none()
            && let Some(control) = live.control()
        {
            found_port = control.ssh_port().await?;
        }
        let endpoint = self.target(vm, Some(&handles)).endpoint;
        let by_ssh = endpoint.as_ref().is_some_and(|it| it.address().is_some());
        let needs_files = by_ssh && !has_files;
        if found_port.is_none() && !needs_files {
            return Ok(handles);
        }
        // Written in the VM's turn, and only while its run lasts: a stop that went before us has removed
        // these files, and nobody would remove them again.
        let _turn = match asker {
            Asker::Anybody => Some(self.turn(&vm.id).await),
            Asker::HasTheTurn => None,
        };
        if !self.live(&vm.id).is_some_and(|now| Arc::ptr_eq(&now, live)) {
            return Err(Error::NotRunning {
                vm: vm.name.clone(),
                condition: Condition::Stopped.to_string(),
            });
        }
        if found_port.is_some() {
            handles.ssh_port = found_port;
            handles.process = Some(live.monitor.handle());
            write_handles_file(self.host(), &vm.runtime.vm_dir, &handles).await?;
            self.cache.set(&vm.id, handles.clone());
        }
        self.write_ssh_config(vm, &handles).await?;
        Ok(handles)
    }

    /// Writes the files with which ssh reaches a VM in this run. Without a port there is nothing to write.
    pub(crate) async fn write_ssh_config(
        &self,
        vm: &VMRecord,
        handles: &VMHandles,
    ) -> Result<(), Error> {
        let endpoint = self.target(vm, Some(handles)).endpoint;
        let Some(address) = endpoint.and_then(|endpoint| endpoint.address()) else {
            return Ok(());
        };
        let identity = read_identity(self.host(), &vm.runtime.vm_dir).await?;
        let ciphers = match self.host().cpu().await.kvm {
            Ok(()) => Ciphers::Usual,
            Err(_) => Ciphers::ForEmulation,
        };
        self.host().create_dir(&self.places.run(&vm.id)).await?;
        let files = SshFiles {
            id: vm.id.clone(),
            name: vm.name.clone(),
            address,
            client_key: self.places.client_key(),
            host_key: identity.host_key_pub,
            config: self.places.ssh_config(&vm.id),
            known_hosts: self.places.known_hosts(&vm.id),
            control: self.places.ssh_control(&vm.id),
            ciphers,
        };
        tracing::debug!(vm = %vm.name, %address, key = HOST_KEY, "wrote ssh's files");
        Ok(write_files(self.host(), &files).await?)
    }

    async fn ended_booting(&self, vm: &VMRecord, end: String) -> Error {
        let tail: Result<Vec<u8>, HostError> =
            self.host().read_tail(&vm.runtime.log_path, 2000).await;
        let text = String::from_utf8_lossy(&tail.unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().rev().take(10).collect();
        Error::EndedBooting {
            vm: vm.name.clone(),
            end,
            last_lines: lines.into_iter().rev().collect::<Vec<_>>().join("\n"),
        }
    }
}
