//! Creating a VM: everything aside, then the row, then one rename.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;

use jiff::Timestamp;

use crate::backends::{Chosen, Wanted};
use crate::disk::{WORK_DISK, create_work_disk};
use crate::engine::{Engine, Inner, random};
use crate::error::Error;
use crate::identity::write_identity;
use crate::liveness::{Promise, VMState};
use crate::marks::SHORTEST;
use crate::names::{ImageName, Mebibytes, VmId, VmName};
use crate::progress::Progress;
use crate::vm::{
    DiskKind, Internet, Lifetime, Nesting, NetworkKind, VMRecord, VMRuntime, VMSpec, VmmKind,
};
use crate::vmm::GUEST_CID;

/// How many virtual processors a VM may have.
const VCPUS: RangeInclusive<u32> = 1..=64;

/// A guest with less does not come up.
const LEAST_MEMORY: Mebibytes = Mebibytes(128);

/// How large a VM's own disk may be: ext4's journal needs some, its block numbers end.
const WORK_DISKS: RangeInclusive<Mebibytes> = Mebibytes(16)..=Mebibytes(16 << 20);

/// What is asked for. What is left out comes from the engine's defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreateRequest {
    /// Its name; one is made up.
    pub name: Option<VmName>,
    /// The image.
    pub image: Option<ImageName>,
    /// Virtual processors: 1 to 64.
    pub vcpus: Option<u32>,
    /// Memory: 128 MiB up to what the host has.
    pub memory: Option<Mebibytes>,
    /// The size of its own disk: 16 MiB to 16 TiB.
    pub work_disk: Option<Mebibytes>,
    /// The monitor.
    pub vmm: Option<VmmKind>,
    /// The root disk.
    pub disk: Option<DiskKind>,
    /// The network.
    pub network: Option<NetworkKind>,
    /// Whether it reaches the internet.
    pub internet: Option<Internet>,
    /// How long it is to live; it is kept.
    pub lifetime: Option<Lifetime>,
    /// Whether it can run machines of its own; as the monitor has it.
    pub nesting: Nesting,
    /// Words of its owner.
    pub labels: BTreeMap<String, String>,
}

impl CreateRequest {
    /// Asks for a VM of this name and the defaults.
    pub fn named(name: VmName) -> Self {
        CreateRequest {
            name: Some(name),
            ..CreateRequest::default()
        }
    }
}

impl Engine {
    /// Creates a VM, making its image first if it is the default one and not there yet. A failure
    /// leaves nothing, and the name free.
    pub async fn create(
        &self,
        request: CreateRequest,
        progress: &Progress,
    ) -> Result<VMRecord, Error> {
        let (engine, progress) = (self.clone(), progress.clone());
        self.to_its_end(async move { engine.create_now(request, &progress).await })
            .await
    }

    async fn create_now(
        &self,
        request: CreateRequest,
        progress: &Progress,
    ) -> Result<VMRecord, Error> {
        let inner = &self.inner;
        let spec = inner.resolve(&request).await?;
        let image = match request.image {
            Some(image) => image,
            None => inner.config.defaults.image.parse()?,
        };
        let name = match request.name {
            Some(name) => name,
            None => inner.free_name().await?,
        };
        inner.check_reserve().await?;
        let _reserved = inner.reserve(&name)?;
        if inner.store.vm_named(name.as_str()).await?.is_some() {
            return Err(Error::NameTaken { name });
        }
        // The name is ours; nobody else waits for the image while it is made. It is not deleted until
        // there is a row that says who uses it.
        let _image = inner.hold_image(&image, progress).await?;

        progress.tell("disk", "making its disks");
        let vm = inner.record(inner.free_id().await?, name, image, spec)?;
        self.lay_down(&vm).await?;
        Ok(vm)
    }

    /// Brings a VM into being: its folder aside, its row, its folder's name. Its name is reserved, and its
    /// image stays.
    pub(crate) async fn lay_down(&self, vm: &VMRecord) -> Result<(), Error> {
        let inner = &self.inner;
        // A reconcile that runs meanwhile must not take its folder for what a crash left.
        let _turn = inner.turn(&vm.id).await;
        let aside = inner.places.vm_new(&vm.id);
        let made = self.build_and_insert(vm, &aside).await;
        if let Err(cause) = made {
            // The first error is the one to tell. What cannot be removed now is removed by the next
            // reconcile: a folder of this name without a row is rubbish.
            if let Err(error) = inner.host().remove_tree(&aside).await {
                tracing::warn!(%error, "could not remove what a failed create left");
            }
            return Err(cause);
        }
        // From here on it exists: a crash before the rename is finished by the next reconcile.
        inner.host().rename(&aside, &vm.runtime.vm_dir).await?;
        tracing::info!(vm = %vm.name, id = %vm.id, "created");
        Ok(())
    }

    async fn build_and_insert(&self, vm: &VMRecord, aside: &Path) -> Result<(), Error> {
        let inner = &self.inner;
        let host = inner.host();
        host.create_dir(aside).await?;
        let rootfs = inner.files_of(vm).await?.rootfs;
        let disk = inner.backends.disk(vm.spec.disk)?;
        disk.create(host, &rootfs, aside).await?;
        create_work_disk(host, aside, vm.spec.work_disk).await?;
        write_identity(host, aside).await?;
        host.sync_dir(aside).await?;
        inner.store.insert_vm(vm).await?;
        Ok(())
    }
}

impl Inner {
    pub(crate) async fn resolve(&self, request: &CreateRequest) -> Result<VMSpec, Error> {
        let (host, defaults) = (self.host(), &self.config.defaults);
        let facts = host.cpu().await;
        let vcpus = request.vcpus.unwrap_or(defaults.vcpus);
        in_range("--vcpu", vcpus, *VCPUS.start(), *VCPUS.end(), "")?;
        let memory = request.memory.unwrap_or(defaults.memory);
        let (least, most) = (LEAST_MEMORY.0, facts.memory.0.max(LEAST_MEMORY.0));
        in_range(
            "--memory",
            memory.0,
            least,
            most,
            " MiB (what this host has)",
        )?;
        let work_disk = request.work_disk.unwrap_or(defaults.work_disk);
        let (least, most) = (WORK_DISKS.start().0, WORK_DISKS.end().0);
        in_range("--disk-size", work_disk.0, least, most, " MiB")?;
        let choice = self.config.choice;
        let internet = request.internet.unwrap_or(defaults.internet);
        let wanted = Wanted {
            vmm: request.vmm.or(choice.vmm),
            disk: request.disk.or(choice.disk),
            network: request.network.or(choice.network),
            internet,
            nesting: request.nesting,
        };
        let Chosen { vmm, disk, network } = self.backends.choose(host, &self.id, &wanted).await?;
        tracing::debug!(%vmm, %disk, %network, "chose the backends");
        Ok(VMSpec {
            vcpus,
            memory,
            work_disk,
            vmm,
            disk,
            network,
            internet,
            lifetime: request.lifetime.unwrap_or(Lifetime::Kept),
            nesting: request.nesting,
            labels: request.labels.clone(),
        })
    }

    async fn free_name(&self) -> Result<VmName, Error> {
        for words in [2, 2, 2, 3, 3] {
            let name = petname::petname(words, "-").unwrap_or_default();
            if let Ok(name) = name.parse::<VmName>()
                && self.store.vm_named(name.as_str()).await?.is_none()
            {
                return Ok(name);
            }
        }
        // Five collisions among tens of thousands of names: digits then.
        Ok(format!("vm-{}", VmId::from_random(random()?).short()).parse()?)
    }

    /// Draws ids until the digits that names of host objects are made of are free.
    pub(crate) async fn free_id(&self) -> Result<VmId, Error> {
        loop {
            let id = VmId::from_random(random()?);
            if self
                .store
                .vms_with_prefix(&id.short()[..SHORTEST])
                .await?
                .is_empty()
            {
                return Ok(id);
            }
        }
    }

    /// Describes a VM that is to be.
    pub(crate) fn record(
        &self,
        id: VmId,
        name: VmName,
        image: ImageName,
        spec: VMSpec,
    ) -> Result<VMRecord, Error> {
        let vm_dir = self.places.vm(&id);
        let layer = self.backends.disk(spec.disk)?.layer();
        let guest = self.backends.network(spec.network)?.guest();
        let speaks_vsock = spec.vmm == VmmKind::Firecracker;
        let now = Timestamp::now();
        Ok(VMRecord {
            runtime: VMRuntime {
                state: Promise::of(VMState::Created),
                run_id: None,
                guest_ip: guest.map(|guest| guest.address),
                api_sock_path: self.places.api_socket(&id),
                vsock_path: speaks_vsock.then(|| self.places.vsock(&id)),
                vsock_cid: speaks_vsock.then_some(GUEST_CID),
                log_path: vm_dir.join("console.log"),
                metrics_path: speaks_vsock.then(|| self.places.metrics(&id)),
                dns_name: format!("{name}.vm"),
                system_overlay: vm_dir.join(layer),
                work_disk_path: vm_dir.join(WORK_DISK),
                vm_dir,
                last_error: None,
                stop_reason: None,
                restarts: 0,
                restart_at: None,
            },
            id,
            name,
            image,
            spec,
            created_at: now,
            updated_at: now,
        })
    }
}

pub(super) fn in_range<N: PartialOrd + std::fmt::Display>(
    what: &'static str,
    given: N,
    least: N,
    most: N,
    unit: &str,
) -> Result<(), Error> {
    if given >= least && given <= most {
        return Ok(());
    }
    Err(Error::OutOfRange {
        what,
        range: format!("{least} to {most}{unit}"),
        given: given.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Defaults, Limits};
    use crate::host::ProgramLimits;
    use crate::image::{ImageSpec, SCRATCH, SMALLEST_SIZE};
    use crate::names::MAX_NAME;
    use crate::places::{MAX_CONTROL_PATH, MAX_SOCKET_PATH};
    use crate::watch::{MOST_RESTARTS, wait_before};

    const PAGE: &str = include_str!("../../../docs/defaults.md");

    fn says(text: &str) {
        assert!(
            PAGE.contains(text),
            "docs/defaults.md does not say {text:?}"
        );
    }

    #[test]
    fn the_documented_defaults_and_ranges_are_those_of_the_program() {
        let defaults = Defaults::default();
        let image = ImageSpec::new(defaults.image.parse().unwrap());
        let (least, most) = (VCPUS.start(), VCPUS.end());
        says(&format!(
            "| virtual processors | {} | {least} | {most} |",
            defaults.vcpus
        ));
        says(&format!(
            "| memory | {} | {LEAST_MEMORY} | what the host has |",
            defaults.memory
        ));
        let (least, most) = (WORK_DISKS.start(), WORK_DISKS.end());
        says(&format!(
            "| its own disk, at `/root` | {} | {least} | {most} |",
            defaults.work_disk
        ));
        says(&format!("| root disk | {} | {SMALLEST_SIZE} |", image.size));
        says(&format!("| image | `{}` |", defaults.image));
        assert_eq!(defaults.internet, Internet::Closed);
        says("| internet | no |");
        says(&format!("Names have at most {MAX_NAME} letters"));
        says(&format!(
            "a socket has at most {MAX_SOCKET_PATH} bytes, that of an ssh control socket {MAX_CONTROL_PATH}:"
        ));
        says(&format!(
            "| trees of images that are being made | | `{SCRATCH}` |"
        ));
    }

    #[test]
    fn the_documented_limits_are_those_of_the_program() {
        // Taken apart, so that a new one is documented too.
        let Limits {
            ready,
            control,
            power_off,
            ctrl_alt_del,
            signal,
            session,
            session_command,
            workspace,
            mirror,
            logs,
        } = Limits::default();
        for (what, limit) in [
            ("a guest's first answer over ssh, from power-on", ready),
            ("a monitor's answer on its control socket", control),
            ("a guest's own power-off, asked for over ssh", power_off),
            ("a guest's answer to Ctrl-Alt-Del", ctrl_alt_del),
            ("a monitor's answer to SIGTERM, and then to SIGKILL", signal),
            ("a guest's answer to one script of a session", session),
            (
                "a session's command, to read what it is sent, and to end after TERM",
                session_command,
            ),
            ("a guest's silence while a workspace is carried", workspace),
            (
                "a Debian mirror's silence while an image is made, twice",
                mirror,
            ),
            (
                "between two looks at the size of the logs of a VM that an earlier banger started",
                logs,
            ),
        ] {
            says(&format!("| {what} | {} s |", limit.as_secs()));
        }
        let last = wait_before(MOST_RESTARTS - 1).map_or(0, |wait| wait.as_secs());
        says(&format!(
            "time in a row; at most {MOST_RESTARTS} times | 1, 2, 4 … {last} s |"
        ));
        let minutes = ProgramLimits::BUILD.time.as_secs() / 60;
        says(&format!(
            "| the making of an image, in all | {minutes} min |"
        ));
    }
}
