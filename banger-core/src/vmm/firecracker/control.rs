//! One running Firecracker: the order in which its machine is put together, and what is done with it then.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::METRICS;
use super::api::{Api, refused};
use super::bodies::{
    Action, ActionType, BootSource, CacheType, Drive, Entropy, InstanceInfo, InstanceState,
    MachineConfig, Metrics, NetworkInterface, VmChange, VmTarget, Vsock,
};
use super::version::Version;
use crate::disk::{Access, BlockSource};
use crate::host::{Host, Walls};
use crate::network::{GUEST_MAC, NetworkAttachment, spelled};
use crate::vmm::{Activity, EndReason, Launch, PauseReason, VmmControl, VmmError};

/// The guest's own number on its vsock: the host's end is a socket of this machine alone, so that every
/// guest may have the same.
pub(crate) const GUEST_CID: u32 = 3;

/// The engine's connection.
#[derive(Debug)]
pub(super) struct FirecrackerControl {
    api: Api,
    end: watch::Receiver<Option<EndReason>>,
}

impl FirecrackerControl {
    pub(super) async fn connect(
        host: &dyn Host,
        socket: &Path,
        limit: Duration,
    ) -> Result<Self, VmmError> {
        let api = Api::connect(host, socket, limit).await?;
        let info: InstanceInfo = api.get("describe", "/").await?;
        // The program may have been replaced since it was chosen.
        let version = Version::read(&info.vmm_version);
        if let Some(flaw) = version.and_then(Version::flaw) {
            return Err(refused(
                "describe",
                format!("it is {}: {flaw}", info.vmm_version),
            ));
        }
        // It tells nobody why its guest ended: it ends, with status 0 if the guest restarted.
        let (_, end) = watch::channel(Some(EndReason::Ended));
        Ok(FirecrackerControl { api, end })
    }

    async fn describe(&self) -> Result<InstanceInfo, VmmError> {
        self.api.get("describe", "/").await
    }

    async fn drive(&self, id: &'static str, source: &BlockSource) -> Result<(), VmmError> {
        let drive = Drive {
            drive_id: id,
            path_on_host: text(&source.path, "drive")?,
            // Our initramfs mounts it: nothing is to be added to the kernel's line.
            is_root_device: false,
            is_read_only: source.access == Access::ReadOnly,
            cache_type: CacheType::Writeback,
        };
        let path = format!("/drives/{id}");
        self.api.put("add a drive", &path, &drive).await
    }

    async fn act(&self, command: &'static str, action_type: ActionType) -> Result<(), VmmError> {
        let action = Action { action_type };
        self.api.put(command, "/actions", &action).await
    }
}

#[async_trait]
impl VmmControl for FirecrackerControl {
    async fn ssh_port(&self) -> Result<Option<u16>, VmmError> {
        Ok(None)
    }

    async fn configure(&self, launch: &Launch) -> Result<(), VmmError> {
        let api = &self.api;
        let metrics = Metrics {
            metrics_path: text(&Walls::pipe(METRICS), "metrics")?,
        };
        api.put("set the metrics' file", "/metrics", &metrics)
            .await?;
        let machine = MachineConfig {
            vcpu_count: launch.vcpus,
            mem_size_mib: launch.memory.0,
        };
        api.put("size the machine", "/machine-config", &machine)
            .await?;
        let boot = BootSource {
            kernel_image_path: text(&launch.kernel, "kernel")?,
            initrd_path: text(&launch.initrd, "initramfs")?,
            boot_args: KERNEL_LINE.to_owned(),
        };
        api.put("set the kernel", "/boot-source", &boot).await?;
        // Order matters here: the guest names its disks in the order in which they come.
        self.drive("root", &launch.root).await?;
        self.drive("work", &launch.work).await?;
        if let NetworkAttachment::Tap { tap, .. } = &launch.network {
            let interface = NetworkInterface {
                iface_id: "eth0",
                host_dev_name: tap.clone(),
                guest_mac: spelled(GUEST_MAC),
            };
            api.put("add the network", "/network-interfaces/eth0", &interface)
                .await?;
        }
        let vsock = Vsock {
            guest_cid: GUEST_CID,
            uds_path: text(&launch.vsock, "vsock")?,
        };
        api.put("add the vsock", "/vsock", &vsock).await?;
        api.put("add the entropy device", "/entropy", &Entropy {})
            .await
    }

    async fn resume(&self) -> Result<(), VmmError> {
        match self.describe().await?.state {
            InstanceState::NotStarted => {
                self.act("start the guest", ActionType::InstanceStart).await
            }
            InstanceState::Paused => {
                let change = VmChange {
                    state: VmTarget::Resumed,
                };
                self.api.patch("resume the guest", "/vm", &change).await
            }
            InstanceState::Running => Ok(()),
        }
    }

    async fn pause(&self) -> Result<(), VmmError> {
        let change = VmChange {
            state: VmTarget::Paused,
        };
        self.api.patch("pause the guest", "/vm", &change).await
    }

    async fn activity(&self) -> Result<Activity, VmmError> {
        Ok(match self.describe().await?.state {
            // It stops no guest by itself: where the host refuses a write, the guest is told.
            InstanceState::Paused => Activity::Paused(PauseReason::Asked),
            InstanceState::NotStarted => {
                Activity::Paused(PauseReason::Stuck("not started".to_owned()))
            }
            InstanceState::Running => Activity::Running,
        })
    }

    async fn changed(&self) {
        // It has no events: it is asked now and then.
        tokio::time::sleep(LOOK).await;
    }

    fn disk_error(&self) -> Option<String> {
        None
    }

    async fn press_ctrl_alt_del(&self) -> Result<(), VmmError> {
        self.act("press Ctrl-Alt-Del", ActionType::SendCtrlAltDel)
            .await
    }

    async fn lost(&self) -> String {
        self.api.lost().await
    }

    fn end_reason(&self) -> watch::Receiver<Option<EndReason>> {
        self.end.clone()
    }
}

/// How often its guest's state is asked for.
const LOOK: Duration = Duration::from_secs(10);

/// A restart by the keyboard controller is the one thing that ends this monitor.
const KERNEL_LINE: &str =
    "console=ttyS0 reboot=k panic=-1 net.ifnames=0 i8042.noaux i8042.nomux i8042.dumbkbd";

/// The API speaks JSON, which holds no path that is not UTF-8.
fn text(path: &Path, what: &'static str) -> Result<String, VmmError> {
    match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(refused(
            "hand over a path",
            format!("the path of the {what}, {}, is not UTF-8", path.display()),
        )),
    }
}
