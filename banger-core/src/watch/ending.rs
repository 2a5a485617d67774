//! What the end of a guest is taken for, and whether it is started again.
//!
//! A monitor without a panic device, or a guest without its driver, takes a panic for a restart: that is how our
//! guests' kernels end it. Then the console is read. The kernel's last words count only if it said nothing after them
//! that an orderly restart says: a guest that merely prints such a line, and then restarts, has restarted. One that
//! prints it and resets itself without a word is taken for one that panicked, which is its own affair: it is not started
//! again.
//!
//! A guest that restarts is started again, at once at first, then after longer and longer waits, and at last not any
//! more. How often it was is in its record, so that no death of an engine begins the count anew.

use std::time::Duration;

use crate::host::ProcessEnd;
use crate::vmm::EndReason;

/// How much of a console is read for a kernel's last words, in bytes: a panic's own report is some thousands.
pub(super) const LAST_WORDS: u64 = 32 << 10;

/// The most of a kernel's reason that is kept, in characters.
const LONGEST_REASON: usize = 200;

/// A guest that ran so long counts as one that is up: the next restart is the first again.
pub(crate) const STEADY: Duration = Duration::from_secs(10 * 60);

/// How often in a row a guest that restarts is started again, at most.
pub(crate) const MOST_RESTARTS: u32 = 8;

/// Returns how long to wait before a guest is started again that was so often already; none if it is not any more.
pub(crate) fn wait_before(restarts: u32) -> Option<Duration> {
    match restarts {
        0 => Some(Duration::ZERO),
        MOST_RESTARTS.. => None,
        more => Some(Duration::from_secs(1 << (more - 1)).min(Duration::from_secs(60))),
    }
}

/// Says what a guest's kernel panicked of, if its console ends with that.
pub(super) fn panic_in(console: &str) -> Option<String> {
    const PANIC: &str = "Kernel panic - not syncing";
    let mut panic = None::<(f64, String)>;
    for line in console.lines() {
        let Some((time, text)) = kernel_line(line) else {
            continue;
        };
        if let Some(reason) = text.strip_prefix(PANIC) {
            let reason = reason.trim_start_matches([':', ' ']).trim_end();
            panic = Some((time, reason.chars().take(LONGEST_REASON).collect()));
        } else if let Some((then, _)) = &panic
            && (time < *then || text.starts_with("reboot: "))
        {
            // An orderly end, or the beginning of the next run.
            panic = None;
        }
    }
    panic.map(|(_, reason)| reason)
}

/// Takes a line of a kernel's apart: seconds since its start, and what it says. Anything else is none of its lines.
fn kernel_line(line: &str) -> Option<(f64, &str)> {
    let (time, text) = line.trim_start().strip_prefix('[')?.split_once("] ")?;
    Some((time.trim().parse().ok()?, text))
}

/// Says in words how a run ended.
pub(super) fn describe(end: &ProcessEnd, reason: Option<EndReason>, panic: Option<&str>) -> String {
    match (reason, end, panic) {
        (_, _, Some("")) | (Some(EndReason::Panicked), _, None) => {
            "the guest's kernel panicked".to_owned()
        }
        (_, _, Some(panic)) => format!("the guest's kernel panicked: {panic}"),
        (Some(EndReason::PoweredOff), _, _) => "the guest powered itself off".to_owned(),
        (Some(EndReason::Rebooted), _, _) => "the guest rebooted".to_owned(),
        (Some(EndReason::Ended), ProcessEnd::Exited(0), _) => "the guest ended".to_owned(),
        (Some(EndReason::Told), ProcessEnd::Exited(0), _) => {
            "its monitor was told to end by somebody else".to_owned()
        }
        (_, end, _) => format!("its monitor {end}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PANIC: &str = "[   12.345678] Kernel panic - not syncing: sysrq triggered crash\n";

    #[test]
    fn a_panic_is_what_a_kernel_said_last_and_no_line_that_somebody_prints() {
        let trace = "[   12.345700] CPU: 0 PID: 1 Comm: sh\r\n[   12.4] Kernel Offset: disabled\n";
        let told = Some("sysrq triggered crash".to_owned());
        let boot = "[    0.000000] Linux version 6.1.0\n";
        let orderly = "[   13.000000] reboot: Restarting system\n";
        for (console, panic) in [
            (PANIC.to_owned(), told.clone()),
            (format!("{boot}{PANIC}{trace}"), told.clone()),
            // A guest that speaks after it.
            (format!("{PANIC}{trace}half a line"), told.clone()),
            (format!("{PANIC}{orderly}"), None),
            // The run before this one.
            (format!("{PANIC}{trace}{boot}[    1.0] ok\n"), None),
            (format!("{PANIC}{boot}{PANIC}"), told),
            (
                "Kernel panic - not syncing: I am only a program\n".to_owned(),
                None,
            ),
            (
                "echo '[ 1.0] Kernel panic - not syncing: x'\n".to_owned(),
                None,
            ),
            (String::new(), None),
        ] {
            assert_eq!(panic_in(&console), panic, "{console}");
        }
    }

    #[test]
    fn a_guest_that_restarts_is_started_again_at_once_then_later_and_at_last_not_any_more() {
        let waits: Vec<_> = (0..10)
            .map(|restarts| wait_before(restarts).map(|wait| wait.as_secs()))
            .collect();
        let waited = [0, 1, 2, 4, 8, 16, 32, 60].map(Some);
        assert_eq!(waits[..8], waited);
        assert_eq!(waits[8..], [None, None]);
    }

    #[test]
    fn a_long_reason_is_cut() {
        let console = format!("[ 1.0] Kernel panic - not syncing: {}\n", "ä".repeat(1000));
        assert_eq!(panic_in(&console).unwrap().chars().count(), LONGEST_REASON);
    }
}
