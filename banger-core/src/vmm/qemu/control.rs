//! QEMU's control socket, through the `qapi` crate.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use qapi::futures::{QapiService, QmpStreamTokio};
use qapi::qmp;
use tokio::io::WriteHalf;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::host::Host;
use crate::vm::VmmKind;
use crate::vmm::{EndReason, Launch, VmmControl, VmmError, connect_once_made};

type Service = QapiService<QmpStreamTokio<WriteHalf<UnixStream>>>;

/// The engine's connection. QEMU serves one client at a time on a socket and leaves every further
/// one without a greeting; that is what the rescue socket is for.
pub(super) struct QmpControl {
    service: Service,
    reader: JoinHandle<()>,
    end: watch::Receiver<Option<EndReason>>,
    limit: Duration,
}

impl fmt::Debug for QmpControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QmpControl").finish_non_exhaustive()
    }
}

impl QmpControl {
    pub(super) async fn connect(
        host: &dyn Host,
        socket: &Path,
        limit: Duration,
    ) -> Result<Self, VmmError> {
        let stream = connect_once_made(host, socket, limit).await?;
        let negotiated = within(limit, "qmp_capabilities", async {
            let (read, write) = tokio::io::split(stream);
            let negotiation = QmpStreamTokio::open_split(read, write).await?;
            negotiation.negotiate().await
        })
        .await?
        .map_err(|error| refused("qmp_capabilities", &error))?;
        let (service, events) = negotiated.into_parts();
        let (tell, end) = watch::channel(None);
        let reader = tokio::spawn(follow(events, tell));
        Ok(QmpControl {
            service,
            reader,
            end,
            limit,
        })
    }

    async fn ask<C: qmp::QmpCommand>(
        &self,
        name: &'static str,
        command: C,
    ) -> Result<C::Ok, VmmError> {
        within(self.limit, name, self.service.execute(command))
            .await?
            .map_err(|error| refused(name, &error))
    }
}

impl Drop for QmpControl {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

#[async_trait]
impl VmmControl for QmpControl {
    async fn ssh_port(&self) -> Result<Option<u16>, VmmError> {
        let command = qmp::human_monitor_command {
            cpu_index: None,
            command_line: "info usernet".to_owned(),
        };
        let table = self.ask("info usernet", command).await?;
        Ok(forwarded_port(&table))
    }

    async fn configure(&self, _launch: &Launch) -> Result<(), VmmError> {
        Ok(())
    }

    async fn resume(&self) -> Result<(), VmmError> {
        self.ask("cont", qmp::cont {}).await.map(drop)
    }

    async fn pause(&self) -> Result<(), VmmError> {
        self.ask("stop", qmp::stop {}).await.map(drop)
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
        self.ask("send-key", command).await.map(drop)
    }

    fn end_reason(&self) -> watch::Receiver<Option<EndReason>> {
        self.end.clone()
    }
}

/// Reads until the connection ends, and remembers why the guest did.
async fn follow<S>(events: S, tell: watch::Sender<Option<EndReason>>)
where
    S: futures_core::Stream<Item = std::io::Result<qmp::Event>>,
{
    let mut events = std::pin::pin!(events);
    while let Some(event) = std::future::poll_fn(|cx| events.as_mut().poll_next(cx)).await {
        match event {
            Ok(qmp::Event::SHUTDOWN { data, .. }) => {
                tell.send_replace(Some(reason(&data.reason)));
            }
            Ok(_) => {}
            // An event of a QEMU that is newer than our tables.
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                tracing::debug!(%error, "passed over an unknown message");
            }
            Err(_) => return,
        }
    }
}

fn reason(cause: &qmp::ShutdownCause) -> EndReason {
    match cause {
        qmp::ShutdownCause::guest_shutdown => EndReason::PoweredOff,
        qmp::ShutdownCause::guest_reset | qmp::ShutdownCause::subsystem_reset => {
            EndReason::Rebooted
        }
        qmp::ShutdownCause::guest_panic => EndReason::Panicked,
        _ => EndReason::Told,
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

async fn within<T>(
    limit: Duration,
    command: &'static str,
    answer: impl Future<Output = T>,
) -> Result<T, VmmError> {
    tokio::time::timeout(limit, answer)
        .await
        .map_err(|_| VmmError::Unresponsive {
            vmm: VmmKind::Qemu,
            command,
            limit,
        })
}

fn refused(command: &'static str, error: &dyn fmt::Display) -> VmmError {
    VmmError::Refused {
        vmm: VmmKind::Qemu,
        command,
        message: error.to_string(),
    }
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
