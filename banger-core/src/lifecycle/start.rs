//! Starting a VM: a list of steps, the last of which is the promise.

use std::sync::Arc;

use async_trait::async_trait;

use crate::disk::{Access, BlockFormat, BlockSource, GROWN, LayerRun};
use crate::engine::{Engine, Inner, random};
use crate::error::Error;
use crate::handles::{VMHandles, write_handles_file};
use crate::host::{HostError, ProcessSignal};
use crate::identity::{client_key, read_identity};
use crate::image::{GuestNetwork, Identity, identity_archive};
use crate::liveness::{Monitor, VMState, Verdict, just_started, token};
use crate::names::RunId;
use crate::network::NetworkAttachment;
use crate::progress::Progress;
use crate::steps::{self, Step};
use crate::vm::VMRecord;
use crate::vmm::{Launch, VmmControl, VmmError};

/// What a start changed.
#[derive(Clone, Debug, PartialEq)]
pub enum StartOutcome {
    /// It was started.
    Started(VMRecord),
    /// It ran already.
    AlreadyRunning(VMRecord),
}

impl StartOutcome {
    /// Returns the VM as it is now.
    pub fn vm(&self) -> &VMRecord {
        match self {
            StartOutcome::Started(vm) | StartOutcome::AlreadyRunning(vm) => vm,
        }
    }
}

impl Engine {
    /// Starts a VM and returns as soon as its guest runs; [`Engine::wait_ready`] waits for its ssh. A
    /// start that fails is undone, and the VM is in the state it was in.
    pub async fn start(&self, vm: &str, progress: &Progress) -> Result<StartOutcome, Error> {
        let (engine, vm, progress) = (self.clone(), vm.to_owned(), progress.clone());
        self.to_its_end(async move {
            let (_turn, vm) = engine.in_turn(&vm).await?;
            engine.start_in_turn(vm, &progress).await
        })
        .await
    }

    pub(crate) async fn start_in_turn(
        &self,
        vm: VMRecord,
        progress: &Progress,
    ) -> Result<StartOutcome, Error> {
        self.start_again_in_turn(vm, 0, progress).await
    }

    /// Starts a VM that was so often in a row because its guest rebooted.
    pub(crate) async fn start_again_in_turn(
        &self,
        vm: VMRecord,
        restarts: u32,
        progress: &Progress,
    ) -> Result<StartOutcome, Error> {
        let inner = &self.inner;
        let handles = inner.handles(&vm).await?;
        match inner.liveness.judge(&vm.id, handles.as_ref()).await {
            Verdict::Alive(monitor) if vm.runtime.run_id.as_ref() == Some(monitor.run()) => {
                return Ok(StartOutcome::AlreadyRunning(vm));
            }
            Verdict::Alive(monitor) => inner.kill_and_wait(&vm, &monitor).await?,
            Verdict::Gone | Verdict::NotOurs { .. } => {}
            Verdict::CannotTell { reason } => {
                return Err(Error::CannotTell {
                    vm: vm.name,
                    reason,
                });
            }
        }
        inner.check_reserve().await?;
        // Never over a corpse: whatever an earlier run left is released first.
        inner.unwatch(&vm.id);
        inner.release(&vm, handles.as_ref()).await?;

        let run = RunId::from_random(random()?);
        let mut handles = inner.planned(&vm, run.clone(), inner.host().boot_id().await?);
        match inner.host().scope_support().await {
            Ok(()) => handles.scope = Some(inner.marks(&vm.id).scope()),
            Err(reason) => tracing::debug!(vm = %vm.name, %reason, "starts without a scope"),
        }
        let mut start = StartContext {
            inner: inner.clone(),
            handles,
            vm,
            run,
            restarts,
            progress: progress.clone(),
            root: None,
            attachment: None,
            launch: None,
            monitor: None,
            control: None,
        };
        let outcome = steps::run(&STEPS, &mut start).await;
        let StartContext {
            vm,
            monitor,
            control,
            ..
        } = start;
        match outcome {
            Ok(()) => {
                if let Some(monitor) = monitor {
                    inner.watch(&vm, monitor, control);
                }
                tracing::info!(vm = %vm.name, "started");
                Ok(StartOutcome::Started(vm))
            }
            Err(failure) => Err(inner.start_failed(vm, failure).await),
        }
    }
}

/// The list. Order matters: what is planned is written before anything is acquired, the monitor is
/// written down before its guest runs, and the promise comes last.
const STEPS: [&dyn Step<StartContext>; 9] = [
    &PlanHandles,
    &AttachDisk,
    &AcquireNetwork,
    &WriteIdentity,
    &SpawnMonitor,
    &RecordMonitor,
    &ConfigureMonitor,
    &ResumeGuest,
    &PromiseRunning,
];

pub(crate) struct StartContext {
    inner: Arc<Inner>,
    vm: VMRecord,
    run: RunId,
    restarts: u32,
    handles: VMHandles,
    progress: Progress,
    root: Option<BlockSource>,
    attachment: Option<NetworkAttachment>,
    launch: Option<Launch>,
    monitor: Option<Monitor>,
    control: Option<Arc<dyn VmmControl>>,
}

impl StartContext {
    /// The file first, then the cache.
    async fn write_handles(&self) -> Result<(), Error> {
        let inner = &self.inner;
        write_handles_file(inner.host(), &self.vm.runtime.vm_dir, &self.handles).await?;
        inner.cache.set(&self.vm.id, self.handles.clone());
        Ok(())
    }
}

struct PlanHandles;

#[async_trait]
impl Step<StartContext> for PlanHandles {
    fn name(&self) -> &'static str {
        "writing the planned handles"
    }

    async fn apply(&self, start: &mut StartContext) -> Result<(), Error> {
        start.write_handles().await
    }

    async fn undo(&self, _start: &mut StartContext) -> Result<(), Error> {
        // The file goes last of all, and only if every other undo succeeded: see `start_failed`.
        Ok(())
    }
}

struct AttachDisk;

#[async_trait]
impl Step<StartContext> for AttachDisk {
    fn name(&self) -> &'static str {
        "attaching the disk"
    }

    async fn apply(&self, start: &mut StartContext) -> Result<(), Error> {
        let inner = &start.inner;
        let disk = inner.backends.disk(start.vm.spec.disk)?;
        let image = inner.files_of(&start.vm).await?;
        let run = LayerRun {
            image_rootfs: &image.rootfs,
            layer: &start.vm.runtime.system_overlay,
            marks: &inner.marks(&start.vm.id),
        };
        let root = disk.attach(inner.host(), &run, &mut start.handles).await?;
        let vmm = inner.backends.vmm(start.vm.spec.vmm)?;
        if !vmm.takes(root.format) {
            return Err(Error::Vmm(VmmError::DiskFormat {
                vmm: vmm.kind(),
                format: root.format,
            }));
        }
        start.root = Some(root);
        Ok(())
    }

    async fn undo(&self, start: &mut StartContext) -> Result<(), Error> {
        let disk = start.inner.backends.disk(start.vm.spec.disk)?;
        Ok(disk.detach(start.inner.host(), &start.handles).await?)
    }
}

struct AcquireNetwork;

#[async_trait]
impl Step<StartContext> for AcquireNetwork {
    fn name(&self) -> &'static str {
        "acquiring the network"
    }

    async fn apply(&self, start: &mut StartContext) -> Result<(), Error> {
        let inner = &start.inner;
        let network = inner.backends.network(start.vm.spec.network)?;
        start.progress.tell("network", "connecting its network");
        let attachment = network
            .acquire(inner.host(), start.vm.spec.internet, &start.handles)
            .await?;
        start.attachment = Some(attachment);
        Ok(())
    }

    async fn undo(&self, start: &mut StartContext) -> Result<(), Error> {
        let network = start.inner.backends.network(start.vm.spec.network)?;
        Ok(network.release(start.inner.host(), &start.handles).await?)
    }
}

struct WriteIdentity;

#[async_trait]
impl Step<StartContext> for WriteIdentity {
    fn name(&self) -> &'static str {
        "writing the guest's identity"
    }

    async fn apply(&self, start: &mut StartContext) -> Result<(), Error> {
        let (inner, vm) = (&start.inner, &start.vm);
        let host = inner.host();
        host.create_dir(&inner.places.run(&vm.id)).await?;
        let stored = read_identity(host, &vm.runtime.vm_dir).await?;
        let guest = inner.backends.network(vm.spec.network)?.guest();
        let grown = host.stat(&vm.runtime.vm_dir.join(GROWN)).await?.is_some();
        let authorized_key = {
            let _alone = inner.key.lock().await;
            client_key(host, &inner.places.client_key()).await?
        };
        let archive = identity_archive(&Identity {
            work_disk_grown_to: grown.then_some(vm.spec.work_disk.0),
            hostname: vm.name.to_string(),
            machine_id: stored.machine_id,
            ssh_host_key: stored.host_key,
            ssh_host_key_pub: stored.host_key_pub,
            authorized_key,
            seed: random()?,
            switch_off: inner.backends.vmm(vm.spec.vmm)?.switch_off(),
            network: guest.map(|guest| GuestNetwork {
                address: guest.address,
                prefix: guest.prefix,
                gateway: guest.gateway,
                dns: guest.dns,
            }),
        });
        let image = inner.files_of(vm).await?;
        let mut initrd = inner.read_initrd(&image.initrd).await?;
        initrd.extend_from_slice(&archive);
        // It holds the guest's private host key: nobody else may read it.
        host.write_file(&inner.places.initrd(&vm.id), &initrd, 0o600)
            .await?;
        Ok(())
    }

    async fn undo(&self, start: &mut StartContext) -> Result<(), Error> {
        let run_dir = start.inner.places.run(&start.vm.id);
        Ok(start.inner.host().remove_tree(&run_dir).await?)
    }
}

struct SpawnMonitor;

#[async_trait]
impl Step<StartContext> for SpawnMonitor {
    fn name(&self) -> &'static str {
        "starting the monitor"
    }

    async fn apply(&self, start: &mut StartContext) -> Result<(), Error> {
        start.progress.tell("vmm", "starting the virtual machine");
        let (inner, vm) = (&start.inner, &start.vm);
        let vmm = inner.backends.vmm(vm.spec.vmm)?;
        let (Some(root), Some(network)) = (start.root.clone(), start.attachment.clone()) else {
            return Err(Error::Closing);
        };
        let mut launch = Launch {
            token: token(&inner.id, &vm.id, &start.run),
            vcpus: vm.spec.vcpus,
            nesting: vm.spec.nesting,
            memory: vm.spec.memory,
            kernel: inner.files_of(vm).await?.kernel,
            initrd: inner.places.initrd(&vm.id),
            root,
            work: BlockSource {
                path: vm.runtime.work_disk_path.clone(),
                format: BlockFormat::Raw,
                access: Access::ReadWrite,
            },
            scope: start.handles.scope.clone(),
            network,
            api_socket: vm.runtime.api_sock_path.clone(),
            rescue_socket: inner.places.rescue_socket(&vm.id),
            console_socket: inner.places.console_socket(&vm.id),
            console_log: vm.runtime.log_path.clone(),
            monitor_log: vm.runtime.monitor_log(),
            metrics: inner.places.metrics(&vm.id),
            vsock: inner.places.vsock(&vm.id),
        };
        inner.cap_console(&launch.console_log).await?;
        inner.host().remove_file(&launch.monitor_log).await?;
        let mut spawned = vmm.spawn(inner.host(), &launch).await;
        if let Err(VmmError::Host(HostError::Scope { scope, said })) = &spawned {
            // A VM without a scope is better than none. Where systemd is half there (a container, a bus
            // that died) this is how it shows.
            tracing::warn!(vm = %vm.name, scope, said, "starts without a scope: systemd made none");
            launch.scope = None;
            start.handles.scope = None;
            spawned = vmm.spawn(inner.host(), &launch).await;
        }
        let process = spawned?;
        start.monitor = Some(just_started(process, start.run.clone()));
        let connected = vmm
            .connect(
                inner.host(),
                &launch.api_socket,
                inner.config.limits.control,
            )
            .await;
        match connected {
            Ok(control) => {
                start.control = Some(control.into());
                start.launch = Some(launch);
            }
            // A monitor that has ended says more in its log than its socket does.
            Err(error) => {
                return Err(match inner.liveness.judge(&vm.id, None).await {
                    Verdict::Alive(_) => error.into(),
                    _ => Error::Vmm(VmmError::EndedEarly {
                        vmm: vmm.kind(),
                        output: inner.last_words(start.monitor.as_ref(), &launch).await?,
                    }),
                });
            }
        }
        Ok(())
    }

    async fn undo(&self, start: &mut StartContext) -> Result<(), Error> {
        start.control = None;
        // By the token, not by what we remember: a spawn that failed half way may have left one.
        let ended: Result<(), Error> = match (start.inner.liveness)
            .judge(&start.vm.id, Some(&start.handles))
            .await
        {
            Verdict::Alive(monitor) => start.inner.kill_and_wait(&start.vm, &monitor).await,
            Verdict::Gone | Verdict::NotOurs { .. } => {
                // It ended by itself: collect it, so that no zombie stays.
                if let Some(monitor) = start.monitor.take() {
                    start.inner.liveness.wait_end(&monitor).await?;
                }
                Ok(())
            }
            Verdict::CannotTell { reason } => Err(Error::CannotTell {
                vm: start.vm.name.clone(),
                reason,
            }),
        };
        ended?;
        let scope = start.inner.marks(&start.vm.id).scope();
        Ok(start.inner.host().remove_scope(&scope).await?)
    }
}

struct RecordMonitor;

#[async_trait]
impl Step<StartContext> for RecordMonitor {
    fn name(&self) -> &'static str {
        "recording the monitor"
    }

    async fn apply(&self, start: &mut StartContext) -> Result<(), Error> {
        if let Some(control) = &start.control {
            start.handles.ssh_port = control.ssh_port().await?;
        }
        start.handles.process = start.monitor.as_ref().map(Monitor::handle);
        start.write_handles().await?;
        start
            .inner
            .write_ssh_config(&start.vm, &start.handles)
            .await
    }

    async fn undo(&self, _start: &mut StartContext) -> Result<(), Error> {
        // The undo of the spawn finds the process by itself; the file goes last.
        Ok(())
    }
}

struct ConfigureMonitor;

#[async_trait]
impl Step<StartContext> for ConfigureMonitor {
    fn name(&self) -> &'static str {
        "putting the machine together"
    }

    async fn apply(&self, start: &mut StartContext) -> Result<(), Error> {
        match (&start.control, &start.launch) {
            (Some(control), Some(launch)) => Ok(control.configure(launch).await?),
            _ => Ok(()),
        }
    }

    async fn undo(&self, _start: &mut StartContext) -> Result<(), Error> {
        // It ends with the monitor.
        Ok(())
    }
}

struct ResumeGuest;

#[async_trait]
impl Step<StartContext> for ResumeGuest {
    fn name(&self) -> &'static str {
        "letting the guest run"
    }

    async fn apply(&self, start: &mut StartContext) -> Result<(), Error> {
        match &start.control {
            Some(control) => Ok(control.resume().await?),
            None => Ok(()),
        }
    }

    async fn undo(&self, _start: &mut StartContext) -> Result<(), Error> {
        Ok(())
    }
}

struct PromiseRunning;

#[async_trait]
impl Step<StartContext> for PromiseRunning {
    fn name(&self) -> &'static str {
        "recording that it runs"
    }

    async fn apply(&self, start: &mut StartContext) -> Result<(), Error> {
        let (run, restarts) = (start.run.clone(), start.restarts);
        start.vm = (start.inner)
            .mark(start.vm.clone(), VMState::Running, |runtime| {
                runtime.run_id = Some(run);
                runtime.last_error = None;
                runtime.stop_reason = None;
                runtime.restarts = restarts;
                runtime.restart_at = None;
            })
            .await?;
        Ok(())
    }

    async fn undo(&self, _start: &mut StartContext) -> Result<(), Error> {
        Ok(())
    }
}

impl Inner {
    async fn start_failed(&self, vm: VMRecord, failure: steps::Failure) -> Error {
        let error = Error::Start {
            vm: vm.name.clone(),
            step: failure.step,
            source: Box::new(failure.cause),
            undo_failures: failure.undo_failures.clone(),
        };
        let text = error.chain().join(": ");
        let recorded = if failure.undo_failures.is_empty() {
            self.forget_start(&vm, &text).await
        } else {
            self.mark(vm, VMState::Error, |runtime| {
                runtime.run_id = None;
                runtime.last_error = Some(text);
            })
            .await
            .map(drop)
        };
        if let Err(error) = recorded {
            tracing::warn!(%error, "could not record a failed start");
        }
        error
    }

    async fn forget_start(&self, vm: &VMRecord, text: &str) -> Result<(), Error> {
        self.note(vm.clone(), |runtime| {
            runtime.last_error = Some(text.to_owned())
        })
        .await?;
        self.forget_handles(vm).await
    }

    /// Kills a monitor that was judged alive and waits until it is gone.
    pub(crate) async fn kill_and_wait(
        &self,
        vm: &VMRecord,
        monitor: &Monitor,
    ) -> Result<(), Error> {
        self.liveness.signal(monitor, ProcessSignal::Kill).await?;
        let limit = self.config.limits.signal;
        match tokio::time::timeout(limit, self.liveness.wait_end(monitor)).await {
            Ok(end) => end.map(drop).map_err(Into::into),
            Err(_) => Err(Error::Unkillable {
                vm: vm.name.clone(),
                limit,
            }),
        }
    }

    /// Returns what a monitor said that has ended.
    async fn last_words(
        &self,
        monitor: Option<&Monitor>,
        launch: &Launch,
    ) -> Result<String, Error> {
        if let Some(monitor) = monitor {
            self.liveness.wait_end(monitor).await?;
        }
        let mut said = self.host().read_tail(&launch.monitor_log, 2000).await?;
        if said.is_empty() {
            said = self.host().read_tail(&launch.console_log, 2000).await?;
        }
        Ok(String::from_utf8_lossy(&said).trim().to_owned())
    }

    /// Keeps the console's log of earlier runs, up to 1 MiB in all.
    async fn cap_console(&self, log: &std::path::Path) -> Result<(), Error> {
        const KEPT: u64 = 1 << 20;
        if let Some(facts) = self.host().stat(log).await?
            && facts.bytes > KEPT
        {
            let tail = self.host().read_tail(log, KEPT / 2).await?;
            self.host().write_file(log, &tail, 0o600).await?;
        }
        Ok(())
    }
}
