//! One running QEMU: what is done with it over its control socket.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use qapi::{Enum, qmp};
use tokio::sync::watch;

use super::wire::Wire;
use crate::host::Host;
use crate::vmm::{
    Activity, EndReason, GuestDisk, Launch, PauseReason, VmmControl, VmmError, connect_once_made,
};

/// The engine's connection. QEMU serves one client at a time on a socket and leaves every further
/// one without a greeting; that is what the rescue socket is for.
#[derive(Debug)]
pub(super) struct QmpControl {
    wire: Wire,
}

impl QmpControl {
    pub(super) async fn connect(
        host: &dyn Host,
        socket: &Path,
        limit: Duration,
    ) -> Result<Self, VmmError> {
        let stream = connect_once_made(host, socket, limit).await?;
        let wire = Wire::open(stream, limit).await?;
        Ok(QmpControl { wire })
    }
}

#[async_trait]
impl VmmControl for QmpControl {
    async fn ssh_port(&self) -> Result<Option<u16>, VmmError> {
        let command = qmp::human_monitor_command {
            cpu_index: None,
            command_line: "info usernet".to_owned(),
        };
        let table = self.wire.ask("info usernet", &command).await?;
        Ok(forwarded_port(&table))
    }

    async fn configure(&self, _launch: &Launch) -> Result<(), VmmError> {
        Ok(())
    }

    async fn resume(&self) -> Result<(), VmmError> {
        self.wire.ask("cont", &qmp::cont {}).await.map(drop)
    }

    async fn pause(&self) -> Result<(), VmmError> {
        self.wire.ask("stop", &qmp::stop {}).await.map(drop)
    }

    async fn activity(&self) -> Result<Activity, VmmError> {
        let status = self.wire.ask("query-status", &qmp::query_status {}).await?;
        Ok(match status.status {
            // The last two are gone through on the way to the monitor's end, which says why by itself.
            qmp::RunState::running | qmp::RunState::shutdown | qmp::RunState::guest_panicked => {
                Activity::Running
            }
            qmp::RunState::io_error => Activity::Paused(self.failed_disk().await),
            qmp::RunState::paused => Activity::Paused(PauseReason::Asked),
            other => Activity::Paused(PauseReason::Stuck(other.name().to_owned())),
        })
    }

    async fn changed(&self) {
        self.wire.changed().await;
    }

    fn disk_error(&self) -> Option<String> {
        let error = self.wire.io_errors().reported?;
        let act = match error.operation {
            qmp::IoOperationType::read => "read",
            qmp::IoOperationType::write => "write",
        };
        let disk = match disk_of(error.node_name.as_deref()) {
            Some(GuestDisk::Root) => " of its root disk",
            Some(GuestDisk::Work) => " of its disk at /root",
            None => "",
        };
        let said = error.reason;
        Some(format!(
            "the host's disk failed a {act}{disk}, and the guest was told: {said}"
        ))
    }

    async fn press_ctrl_alt_del(&self) -> Result<(), VmmError> {
        let keys = [
            qmp::QKeyCode::ctrl,
            qmp::QKeyCode::alt,
            qmp::QKeyCode::delete,
        ];
        let command = qmp::send_key {
            hold_time: None,
            keys: keys
                .map(|data| qmp::KeyValue::qcode(qmp::QKeyCodeWrapper { data }))
                .into(),
        };
        self.wire.ask("send-key", &command).await.map(drop)
    }

    async fn lost(&self) -> String {
        self.wire.lost().await
    }

    fn end_reason(&self) -> watch::Receiver<Option<EndReason>> {
        self.wire.end_reason()
    }
}

impl QmpControl {
    /// Says which disk has stopped the guest, and why. Asked of the monitor: its own word at that moment (the event)
    /// was not heard by an engine that came later, and only adds the host's words.
    async fn failed_disk(&self) -> PauseReason {
        let heard = self.wire.io_errors().stopped;
        // An answer that is not understood leaves what was heard.
        let asked = self.wire.ask("query-block", &qmp::query_block {}).await;
        let failed = asked.unwrap_or_default().into_iter().find_map(|block| {
            let full = match block.io_status? {
                qmp::BlockDeviceIoStatus::ok => return None,
                qmp::BlockDeviceIoStatus::failed => false,
                qmp::BlockDeviceIoStatus::nospace => true,
            };
            let node = block.inserted.and_then(|inserted| inserted.node_name);
            Some((full, disk_of(node.as_deref())))
        });
        let full = heard
            .as_ref()
            .is_some_and(|heard| heard.nospace == Some(true));
        let heard_disk = heard
            .as_ref()
            .and_then(|heard| disk_of(heard.node_name.as_deref()));
        match failed.unwrap_or((full, heard_disk)) {
            (true, disk) => PauseReason::DiskFull { disk },
            (false, disk) => PauseReason::DiskFailed {
                disk,
                said: heard.map(|heard| heard.reason),
            },
        }
    }
}

/// Returns the disk of a node of our command line.
fn disk_of(node: Option<&str>) -> Option<GuestDisk> {
    match node? {
        "root" => Some(GuestDisk::Root),
        "work" => Some(GuestDisk::Work),
        _ => None,
    }
}

/// Reads the table of `info usernet`, which has no machine-readable sister:
///
/// ```text
///   Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
///   TCP[HOST_FORWARD]  13       127.0.0.1 46519       10.0.2.15    22     0     0
/// ```
fn forwarded_port(table: &str) -> Option<u16> {
    table
        .lines()
        .filter(|line| line.trim_start().starts_with("TCP[HOST_FORWARD]"))
        .find_map(|line| line.split_ascii_whitespace().nth(3)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forwarded_port_is_read_from_the_table_and_other_rows_are_not() {
        let table = "Hub -1 (net0):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  TCP[ESTABLISHED]   14       127.0.0.1 40000       10.0.2.15    22     0     0\r\n  TCP[HOST_FORWARD]  13       127.0.0.1 46519       10.0.2.15    22     0     0\r\n";
        assert_eq!(forwarded_port(table), Some(46519));
        assert_eq!(forwarded_port(""), None);
    }
}
