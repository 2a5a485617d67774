//! Snapshots on the real host: two loop devices and a device-mapper target over them.

use std::io;
use std::path::Path;

use async_trait::async_trait;

#[cfg(feature = "dm")]
use super::device_mapper::{DeviceMapper, Target};
#[cfg(not(feature = "dm"))]
use super::device_mapper_unbuilt::{DeviceMapper, unbuilt};
#[cfg(feature = "dm")]
use super::held_loop::HeldLoop;
use super::{LinuxHost, blocking, loops};
use crate::host::devices::{
    DeviceList, DeviceRemoval, Devices, LoopFacts, SnapshotDevice, SnapshotFacts, SnapshotSpec,
    SnapshotState,
};
use crate::host::{Host, HostError};

/// What an engine says that was built without.
pub(super) const UNBUILT: &str =
    "this program was built without device-mapper (banger-core's cargo feature `dm`)";

/// Device-mapper's control device.
pub(super) const CONTROL: &str = "/dev/mapper/control";

#[async_trait]
impl Devices for LinuxHost {
    async fn snapshot_support(&self) -> Result<(), String> {
        if !cfg!(feature = "dm") {
            return Err(UNBUILT.to_owned());
        }
        if self.user_id() != 0 {
            return Err("device-mapper and loop devices need root".to_owned());
        }
        for (device, module) in [("/dev/loop-control", "loop"), (CONTROL, "dm_snapshot")] {
            // Opening it loads the module, where there is one.
            let opened = std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(device);
            if let Err(error) = opened {
                return Err(format!(
                    "{device} cannot be opened ({error}): modprobe {module}"
                ));
            }
        }
        Ok(())
    }

    async fn make_snapshot(&self, snapshot: &SnapshotSpec) -> Result<SnapshotDevice, HostError> {
        let snapshot = snapshot.clone();
        blocking(move || make(&snapshot)).await
    }

    async fn remove_snapshot(&self, name: &str) -> Result<DeviceRemoval, HostError> {
        let name = name.to_owned();
        blocking(move || remove(&name)).await
    }

    async fn snapshot_state(&self, name: &str) -> Result<Option<SnapshotState>, HostError> {
        let Some(mapper) = mapper()? else {
            return Ok(None);
        };
        match mapper.status(name) {
            Ok(status) => Ok(Some(parse_status(&status))),
            Err(error) if is_missing(&error) => Ok(None),
            Err(source) => Err(failed("look at", name)(source)),
        }
    }

    async fn list_devices(
        &self,
        name_prefix: &str,
        label_prefix: &str,
    ) -> Result<DeviceList, HostError> {
        // Nobody else could have made them, and nobody else may look.
        if self.user_id() != 0 {
            return Ok(DeviceList::default());
        }
        let (name_prefix, label_prefix) = (name_prefix.to_owned(), label_prefix.to_owned());
        blocking(move || {
            Ok(DeviceList {
                snapshots: snapshots(&name_prefix)?,
                loops: loop_devices(&label_prefix)?,
            })
        })
        .await
    }
}

#[cfg(not(feature = "dm"))]
fn make(snapshot: &SnapshotSpec) -> Result<SnapshotDevice, HostError> {
    Err(failed("make the device-mapper target", &snapshot.name)(
        unbuilt(),
    ))
}

/// Order matters here: the loop devices are held until device-mapper holds them. If we die before, the
/// kernel frees them with us; afterwards it frees them with the target.
#[cfg(feature = "dm")]
fn make(snapshot: &SnapshotSpec) -> Result<SnapshotDevice, HostError> {
    let on_loop = |path: &Path, label: &str, read_only| {
        let what = path.display().to_string();
        HeldLoop::on(path, label, read_only).map_err(failed("put a loop device on", &what))
    };
    let bytes = std::fs::metadata(&snapshot.base)
        .map_err(failed("look at", &snapshot.base.display().to_string()))?
        .len();
    let base = on_loop(&snapshot.base, &snapshot.base_label, true)?;
    let layer = on_loop(&snapshot.layer, &snapshot.layer_label, false)?;
    let name = &snapshot.name;
    let mapper = DeviceMapper::open().map_err(failed("open", CONTROL))?;
    mapper
        .create(name, &snapshot.uuid)
        .map_err(failed("make the device-mapper target", name))?;
    let parameters = format!("{} {} P 8", base.path(), layer.path());
    let target = Target {
        sectors: bytes / 512,
        kind: "snapshot",
        parameters: &parameters,
    };
    match mapper.activate(name, &target) {
        Ok(device) => Ok(SnapshotDevice {
            device,
            base_loop: base.path().to_owned(),
            layer_loop: layer.path().to_owned(),
        }),
        Err(source) => {
            // It is empty: if even this fails, whoever undoes the start tries again by its name.
            let _ = mapper.remove(name);
            Err(failed("load the device-mapper table of", name)(source))
        }
    }
}

fn remove(name: &str) -> Result<DeviceRemoval, HostError> {
    let Some(mapper) = mapper()? else {
        return Ok(DeviceRemoval::AlreadyGone);
    };
    match mapper.remove(name) {
        Ok(()) => Ok(DeviceRemoval::Removed),
        Err(error) if is_missing(&error) => Ok(DeviceRemoval::AlreadyGone),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(DeviceRemoval::Busy),
        Err(source) => Err(failed("remove the device-mapper target", name)(source)),
    }
}

fn snapshots(prefix: &str) -> Result<Vec<SnapshotFacts>, HostError> {
    let Some(mapper) = mapper()? else {
        return Ok(Vec::new());
    };
    let names = mapper.names().map_err(failed("list", "device-mapper"))?;
    let mut found = Vec::new();
    for name in names.into_iter().filter(|name| name.starts_with(prefix)) {
        match mapper.identity_of(&name) {
            Ok((uuid, device)) => found.push(SnapshotFacts { name, uuid, device }),
            // It was removed meanwhile.
            Err(error) if is_missing(&error) => {}
            Err(source) => return Err(failed("look at", &name)(source)),
        }
    }
    found.sort();
    Ok(found)
}

fn loop_devices(prefix: &str) -> Result<Vec<LoopFacts>, HostError> {
    let entries = match std::fs::read_dir("/sys/block") {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed("list", "/sys/block")(source)),
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // This file is there only while the device is on a file.
        if !name.starts_with("loop") || !entry.path().join("loop/backing_file").exists() {
            continue;
        }
        let device = format!("/dev/{name}");
        let label = loops::label(Path::new(&device)).map_err(failed("look at", &device))?;
        if let Some(label) = label.filter(|label| label.starts_with(prefix)) {
            found.push(LoopFacts { device, label });
        }
    }
    found.sort();
    Ok(found)
}

/// Says whether an error means that there is no such device.
pub(super) fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error())
}

/// A kernel without device-mapper holds no device of it.
fn mapper() -> Result<Option<DeviceMapper>, HostError> {
    match DeviceMapper::open() {
        Ok(mapper) => Ok(Some(mapper)),
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) =>
        {
            Ok(None)
        }
        Err(source) => Err(failed("open", CONTROL)(source)),
    }
}

/// Reads what the target `snapshot` says: `<used>/<total> <metadata>`, or one word when it is lost
/// (`Invalid`, `Overflow`). A device without a table says nothing.
fn parse_status(status: &str) -> SnapshotState {
    let numbers = status.split([' ', '/']).map(str::parse);
    match numbers.collect::<Result<Vec<u64>, _>>().as_deref() {
        Ok([used, total, ..]) => SnapshotState::Healthy {
            used: *used,
            total: *total,
        },
        _ => SnapshotState::Lost,
    }
}

fn failed<'a>(act: &'static str, device: &'a str) -> impl FnOnce(io::Error) -> HostError + 'a {
    move |source| HostError::Device {
        act,
        device: device.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_that_has_lost_a_write_is_told_from_one_that_fills() {
        let healthy = SnapshotState::Healthy {
            used: 16,
            total: 2048,
        };
        assert_eq!(parse_status("16/2048 16"), healthy);
        for lost in ["Invalid", "Overflow", "Merge failed", ""] {
            assert_eq!(parse_status(lost), SnapshotState::Lost, "{lost:?}");
        }
    }
}
