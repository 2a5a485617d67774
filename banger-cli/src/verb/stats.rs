//! `banger vm stats`.

use std::time::Duration;

use banger_daemon::protocol::{StatsParams, VmStats, VmUsage};
use clap::Args;
use clap_complete::ArgValueCandidates;
use serde::Serialize;
use tokio::time::sleep;

use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::screen::Screen;
use crate::size;
use crate::table::table;
use crate::verb::completion::vm_names;

/// The time over which the processors are watched.
const WATCHED: Duration = Duration::from_millis(500);

#[derive(Args, Debug)]
#[command(after_help = "\
CPU is what the VM took of one processor in the last half second: two busy ones are 200%. MEMORY
is what its monitor holds of this host, DISK and ROOT what its own disk and its changes to the
image take here. To see it go on: watch banger vm stats")]
pub(crate) struct StatsArguments {
    /// The VMs' names, or at least four digits of their ids; all that run if left out
    #[arg(value_name = "NAME", add = ArgValueCandidates::new(vm_names))]
    names: Vec<String>,

    /// Print an array of objects
    #[arg(long)]
    json: bool,
}

/// A VM's use, with what only two looks can tell.
#[derive(Debug, Serialize)]
struct Watched {
    #[serde(flatten)]
    usage: VmUsage,
    /// Of one processor, over the last half second.
    cpu_percent: Option<f64>,
}

/// Looks twice, and shows what was used.
pub(crate) async fn stats(
    arguments: &StatsArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let mut daemon = Daemon::open(screen).await?;
    let vms = arguments.names.clone();
    let before = daemon.call::<VmStats>(StatsParams { vms }).await?.vms;
    if before.iter().any(|vm| vm.cpu_ms.is_some()) {
        sleep(WATCHED).await;
    }
    let vms: Vec<String> = before.iter().map(|vm| vm.id.clone()).collect();
    let now = match vms.is_empty() {
        true => Vec::new(),
        false => daemon.call::<VmStats>(StatsParams { vms }).await?.vms,
    };
    let both = before.iter().zip(now);
    let watched: Vec<_> = both.map(|(before, now)| watched(before, now)).collect();
    if arguments.json {
        screen.json(&watched)?;
    } else {
        screen.data(&shown(&watched))?;
    }
    Ok(ExitStatus::SUCCESS)
}

fn watched(before: &VmUsage, now: VmUsage) -> Watched {
    let cpu = before.cpu_ms.zip(now.cpu_ms);
    let time = before.uptime_ms.zip(now.uptime_ms);
    let cpu_percent = cpu
        .zip(time)
        .and_then(|((cpu, cpu_now), (time, time_now))| {
            let time = time_now.checked_sub(time).filter(|time| *time > 0)?;
            Some(cpu_now.checked_sub(cpu)? as f64 * 100.0 / time as f64)
        });
    Watched {
        usage: now,
        cpu_percent,
    }
}

fn shown(vms: &[Watched]) -> String {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let rows: Vec<_> = vms
        .iter()
        .map(|Watched { usage, cpu_percent }| {
            [
                usage.name.clone(),
                usage.state.clone(),
                or_none(cpu_percent.map(|percent| format!("{percent:.0}%"))),
                or_none(usage.memory_bytes.map(bytes)),
                format!(
                    "{}/{}",
                    bytes(usage.work_disk_bytes),
                    size::shown(usage.work_disk_mib)
                ),
                bytes(usage.root_disk_bytes),
                or_none(usage.uptime_ms.map(uptime)),
            ]
        })
        .collect();
    let headings = ["NAME", "STATE", "CPU", "MEMORY", "DISK", "ROOT", "UP"];
    table(headings, &rows)
}

/// `812K`, `97M`, `1.4G`.
fn bytes(bytes: u64) -> String {
    const KIB: f64 = 1024.0;
    let kib = bytes as f64 / KIB;
    match kib {
        kib if kib < KIB => format!("{kib:.0}K"),
        kib if kib < KIB * KIB => format!("{:.0}M", kib / KIB),
        kib => format!("{:.1}G", kib / KIB / KIB),
    }
}

/// `42s`, `7m`, `3h`, `12d`.
fn uptime(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_shown_as_a_person_reads_them() {
        let shown: Vec<_> = [0, 900, 5 << 20, 1_600_000_000].map(bytes).into();
        assert_eq!(shown, ["0K", "1K", "5M", "1.5G"]);
        let shown: Vec<_> = [900, 59_999, 60_000, 7_200_000, 90_000_000]
            .map(uptime)
            .into();
        assert_eq!(shown, ["0s", "59s", "1m", "2h", "1d"]);
    }
}
