//! Processes: who they are, how they are found, signalled and waited for.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions};
use tokio::io::unix::AsyncFd;

use super::{
    Delivery, HostError, ProcessEnd, ProcessFacts, ProcessIdentity, ProcessSignal, ProcessUsage,
};

type Result<T> = std::result::Result<T, HostError>;

pub(super) fn facts(pid: u32) -> Result<Option<ProcessFacts>> {
    let Some((state, start_time)) = stat(pid)? else {
        return Ok(None);
    };
    match fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(raw) => Ok(Some(ProcessFacts {
            identity: ProcessIdentity { pid, start_time },
            programs: programs(pid, &raw),
            command_line: command_line(&raw),
            stopped: matches!(state, 'T' | 't'),
        })),
        Err(error) if is_gone(&error) => Ok(None),
        Err(source) => Err(failed("look at", pid)(source)),
    }
}

/// Returns the first word of a process's command line, which is how it was called; empty for a zombie, one
/// that is gone, and one that has just begun to run.
pub(super) fn first_argument(pid: u32) -> Result<Vec<u8>> {
    let mut raw = match fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(raw) => raw,
        Err(error) if is_gone(&error) => Vec::new(),
        Err(source) => return Err(failed("look at", pid)(source)),
    };
    let end = raw.iter().position(|byte| *byte == 0);
    raw.truncate(end.unwrap_or(raw.len()));
    Ok(raw)
}

/// What proc(5) says a process has used: fields 14 and 15 (ticks in user and kernel mode), 22 and 24.
pub(super) fn usage(process: &ProcessIdentity) -> Result<Option<ProcessUsage>> {
    let pid = process.pid;
    if !facts(pid)?.is_some_and(|facts| facts.identity == *process) {
        return Ok(None);
    }
    let stat = match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(source) => return Err(failed("look at", pid)(source)),
    };
    let uptime = fs::read_to_string("/proc/uptime").map_err(failed("look at", pid))?;
    let uptime: f64 = uptime
        .split(' ')
        .next()
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or_default();
    let hertz = rustix::param::clock_ticks_per_second();
    Ok(
        parse_usage(&stat, hertz).map(|(cpu, pages, start)| ProcessUsage {
            cpu,
            resident_bytes: pages * rustix::param::page_size() as u64,
            age: Duration::try_from_secs_f64(uptime)
                .unwrap_or_default()
                .saturating_sub(start),
        }),
    )
}

/// Returns processor time, resident pages, and the time from the boot to its start.
fn parse_usage(stat: &str, hertz: u64) -> Option<(Duration, u64, Duration)> {
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..]
        .split_ascii_whitespace()
        .collect();
    // The first of these is field 3.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let time = |ticks: u64| Duration::from_secs_f64(ticks as f64 / hertz.max(1) as f64);
    Some((time(field(14)? + field(15)?), field(24)?, time(field(22)?)))
}

pub(super) fn find(token: &str) -> Result<Vec<ProcessFacts>> {
    let entries = fs::read_dir("/proc").map_err(failed("list", 0))?;
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // Another user's process may hide, or end while we look: neither is one of ours.
        let Ok(raw) = fs::read(format!("/proc/{pid}/cmdline")) else {
            continue;
        };
        if !contains(&raw, token.as_bytes()) {
            continue;
        }
        // Anybody can put any words on a command line. What ends meanwhile, or hides, is nobody's obstacle.
        if owner(pid) != Some(rustix::process::geteuid().as_raw()) {
            continue;
        }
        if let Ok(Some(facts)) = facts(pid) {
            found.push(facts);
        }
    }
    Ok(found)
}

/// The user of a process, if its real and its effective one are the same: a set-user-id program that another user
/// has started is not its file's owner's.
fn owner(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    owner_in(&status)
}

fn owner_in(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let mut users = line.split_ascii_whitespace();
    let (real, effective) = (users.next()?, users.next()?);
    (real == effective).then(|| real.parse().ok())?
}

fn programs(pid: u32, command_line: &[u8]) -> Vec<String> {
    let name = |path: &std::path::Path| {
        let name = path.file_name()?.to_string_lossy();
        // One that was upgraded since.
        Some(name.trim_end_matches(" (deleted)").to_owned())
    };
    let executed = fs::read_link(format!("/proc/{pid}/exe")).ok();
    let called = command_line.split(|byte| *byte == 0).next();
    let called = called.map(|word| String::from_utf8_lossy(word).into_owned());
    let mut found = Vec::new();
    found.extend(executed.as_deref().and_then(name));
    found.extend(called.as_deref().map(std::path::Path::new).and_then(name));
    found.dedup();
    found
}

pub(super) fn signal(process: &ProcessIdentity, signal: ProcessSignal) -> Result<Delivery> {
    let Some(pidfd) = open_verified(process)? else {
        return Ok(Delivery::AlreadyGone);
    };
    let signal = match signal {
        ProcessSignal::Term => rustix::process::Signal::TERM,
        ProcessSignal::Kill => rustix::process::Signal::KILL,
    };
    match rustix::process::pidfd_send_signal(&pidfd, signal) {
        Ok(()) => Ok(Delivery::Sent),
        Err(rustix::io::Errno::SRCH) => Ok(Delivery::AlreadyGone),
        Err(error) => Err(failed("signal", process.pid)(error.into())),
    }
}

pub(super) async fn wait_end(process: &ProcessIdentity) -> Result<ProcessEnd> {
    wait_end_and(process, std::future::ready(())).await
}

/// Waits for the end of a process, then for something else, and only then collects its status, which can be done once:
/// so nothing is lost when this is cancelled.
pub(super) async fn wait_end_and(
    process: &ProcessIdentity,
    then: impl Future<Output = ()>,
) -> Result<ProcessEnd> {
    let pid = process.pid;
    let Some(pidfd) = open_verified(process)? else {
        then.await;
        // It may be our own child and a zombie: reap it, so that its number is free again.
        return Ok(reap_zombie(process));
    };
    // SAFETY: the descriptor is owned by the `AsyncFd` and closed only when that is dropped.
    #[allow(unsafe_code)]
    let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, tokio::io::Interest::READABLE) }
        .map_err(|error| failed("wait for", pid)(error.into()))?;
    // A pidfd is readable when its process has ended, and stays so.
    let _ready = pidfd.readable().await.map_err(failed("wait for", pid))?;
    then.await;
    Ok(reap(pidfd.get_ref()))
}

/// Opens a pidfd and then compares the start time: in this order, the number cannot change hands in between.
fn open_verified(process: &ProcessIdentity) -> Result<Option<OwnedFd>> {
    let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) else {
        return Ok(None);
    };
    let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        Err(error) => return Err(failed("open", process.pid)(error.into())),
    };
    Ok((identity(process.pid)?.as_ref() == Some(process)).then_some(pidfd))
}

fn reap_zombie(process: &ProcessIdentity) -> ProcessEnd {
    let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
    match pid.map(|pid| rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)) {
        Some(Ok(pidfd)) if zombie_start_time(process.pid) == Some(process.start_time) => {
            reap(&pidfd)
        }
        _ => ProcessEnd::Unknown,
    }
}

fn reap(pidfd: &OwnedFd) -> ProcessEnd {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options) {
        Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
            (Some(status), _) => ProcessEnd::Exited(status),
            (None, Some(signal)) => ProcessEnd::Signaled(signal),
            (None, None) => ProcessEnd::Unknown,
        },
        // Not our child (the daemon that started it is gone), or somebody has asked before us.
        _ => ProcessEnd::Unknown,
    }
}

/// Returns who holds this number now; a zombie holds nothing any more.
pub(super) fn identity(pid: u32) -> Result<Option<ProcessIdentity>> {
    let found = stat(pid)?;
    Ok(found.map(|(_, start_time)| ProcessIdentity { pid, start_time }))
}

/// Returns the state and start time of a process that is no zombie. One that is being killed may have
/// lost its first thread, and with it its command line, while others still hold what it held.
fn stat(pid: u32) -> Result<Option<(char, u64)>> {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => Ok(parse_stat(&stat)
            .filter(|stat| !matches!(stat.state, 'Z' | 'X' | 'x') || stat.threads > 1)
            .map(|stat| (stat.state, stat.start_time))),
        Err(error) if is_gone(&error) => Ok(None),
        Err(source) => Err(failed("look at", pid)(source)),
    }
}

/// Returns the identity of a child that we have just started and not yet reaped, so that it has one
/// even if it has already ended.
pub(super) fn start_identity(pid: u32) -> Result<ProcessIdentity> {
    match zombie_start_time(pid) {
        Some(start_time) => Ok(ProcessIdentity { pid, start_time }),
        None => Err(failed("look at", pid)(io::ErrorKind::NotFound.into())),
    }
}

fn zombie_start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&stat).map(|stat| stat.start_time)
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    threads: u32,
    /// In ticks since the host's boot.
    start_time: u64,
}

/// Fields 3 (state), 20 (threads) and 22 (start time) of proc(5)'s `stat`. The name in field 2 may hold
/// anything, parentheses and newlines too: count from its last parenthesis.
fn parse_stat(stat: &str) -> Option<Stat> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    Some(Stat {
        state: fields.next()?.chars().next()?,
        threads: fields.nth(16)?.parse().ok()?,
        start_time: fields.nth(1)?.parse().ok()?,
    })
}

fn command_line(raw: &[u8]) -> String {
    String::from_utf8_lossy(raw)
        .trim_end_matches('\0')
        .replace('\0', " ")
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty()
        && haystack
            .windows(needle.len())
            .any(|window| window == needle)
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

pub(super) fn failed(act: &'static str, pid: u32) -> impl FnOnce(io::Error) -> HostError {
    move |source| HostError::Process { act, pid, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    fn sleeper(token: &str) -> (Child, ProcessIdentity) {
        let child = Command::new("sh")
            .args(["-c", "read line", token])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let identity = identity(child.id()).unwrap().unwrap();
        (child, identity)
    }

    #[test]
    fn the_name_of_a_process_cannot_confuse_its_start_time() {
        let stat = "77 (a) b) Z (c) S 1 77 77 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 9 9";
        let parsed = Stat {
            state: 'S',
            threads: 1,
            start_time: 4242,
        };
        assert_eq!(parse_stat(stat), Some(parsed));
    }

    #[test]
    fn what_a_process_used_is_read_from_its_fields() {
        let stat = "77 (a) b) S 1 77 77 0 -1 4194560 1 0 0 0 150 50 7 7 20 0 1 0 300 9 12 8";
        let expected = (Duration::from_secs(2), 12, Duration::from_secs(3));
        assert_eq!(parse_usage(stat, 100), Some(expected));
        assert_eq!(parse_usage("77 (a) S 1", 100), None);
    }

    #[test]
    fn the_user_of_a_process_is_told_only_if_it_is_one() {
        assert_eq!(owner_in("Name:\tx\nUid:\t7\t7\t7\t7\nGid:\t0\n"), Some(7));
        assert_eq!(owner_in("Uid:\t7\t0\t0\t0\n"), None);
        assert_eq!(owner_in("Uid:\n"), None);
    }

    #[tokio::test]
    async fn as_root_another_user_s_process_is_not_found_by_what_is_on_its_command_line() {
        let token = format!("banger-test-{}-nobody", std::process::id());
        if !rustix::process::geteuid().is_root() {
            println!("SKIP: only root can start a process of another user");
            return;
        }
        let script = "echo ready; read line";
        let mut theirs = Command::new("setpriv")
            .args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "sh",
                "-c",
                script,
                &token,
            ])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        io::Read::read_exact(theirs.stdout.as_mut().unwrap(), &mut ready).unwrap();
        assert!(
            facts(theirs.id())
                .unwrap()
                .unwrap()
                .command_line
                .contains(&token)
        );
        assert_eq!(find(&token).unwrap(), []);
        drop(theirs.stdin.take());
        theirs.wait().unwrap();
    }

    #[tokio::test]
    async fn a_process_is_found_by_a_token_in_its_arguments_and_ended_by_its_identity() {
        let token = format!("banger-test-{}-find", std::process::id());
        let (mut child, identity) = sleeper(&token);
        // The kernel fills the command line in a moment after `exec` has let the parent go on.
        let found = loop {
            match find(&token).unwrap() {
                found if found.is_empty() => tokio::task::yield_now().await,
                found => break found,
            }
        };
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].identity, identity);
        assert_eq!(
            signal(&identity, ProcessSignal::Kill).unwrap(),
            Delivery::Sent
        );
        assert_eq!(
            wait_end(&identity).await.unwrap(),
            ProcessEnd::Signaled(9),
            "a child of ours tells how it ended"
        );
        assert_eq!(facts(identity.pid).unwrap(), None);
        let _ = child.try_wait();
    }

    #[tokio::test]
    async fn a_number_that_was_used_again_is_never_signalled() {
        let (mut child, identity) = sleeper("banger-test-innocent");
        let stale = ProcessIdentity {
            start_time: identity.start_time - 1,
            ..identity.clone()
        };
        assert_eq!(
            signal(&stale, ProcessSignal::Kill).unwrap(),
            Delivery::AlreadyGone
        );
        assert_eq!(wait_end(&stale).await.unwrap(), ProcessEnd::Unknown);
        assert!(child.try_wait().unwrap().is_none(), "it lives");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn a_zombie_counts_as_gone() {
        let (mut child, identity) = sleeper("banger-test-zombie");
        drop(child.stdin.take());
        wait_end(&identity).await.unwrap();
        assert_eq!(facts(identity.pid).unwrap(), None);
        let _ = child.try_wait();
    }

    /// Starts a process that loses its first thread while a second one lives on.
    #[allow(unsafe_code)]
    fn without_its_first_thread() -> ProcessIdentity {
        extern "C" fn live(_: *mut libc::c_void) -> libc::c_int {
            loop {
                // SAFETY: it only waits.
                unsafe { libc::pause() };
            }
        }
        let mut stack = vec![0_u128; 4096];
        let top = stack.as_mut_ptr_range().end.cast();
        let thread = libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
        // SAFETY: the child has a copy of the stack, and does nothing but system calls.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: as above; this ends the thread and not the process.
            unsafe {
                libc::clone(live, top, thread, std::ptr::null_mut());
                libc::syscall(libc::SYS_exit, 0);
            }
        }
        let pid = u32::try_from(pid).expect("it is forked");
        loop {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            let stat = parse_stat(&stat).unwrap();
            if stat.state == 'Z' {
                assert_eq!(stat.threads, 2);
                return start_identity(pid).unwrap();
            }
            std::thread::yield_now();
        }
    }

    #[tokio::test]
    async fn a_process_that_is_dying_is_not_gone_before_its_last_thread() {
        let identity = without_its_first_thread();
        let facts_now = facts(identity.pid).unwrap().expect("it is not gone");
        assert_eq!(facts_now.identity, identity);
        assert_eq!(facts_now.command_line, "");
        let soon = Duration::from_millis(50);
        assert!(
            tokio::time::timeout(soon, wait_end(&identity))
                .await
                .is_err(),
            "its end is waited for"
        );
        assert_eq!(
            signal(&identity, ProcessSignal::Kill).unwrap(),
            Delivery::Sent
        );
        wait_end(&identity).await.unwrap();
        assert_eq!(facts(identity.pid).unwrap(), None);
    }
}
