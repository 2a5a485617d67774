//! The test boot of an image that is being registered: a VM of its own is made of it while it has no name
//! yet, by the same verbs as any other, spoken to, switched off and deleted.
//!
//! The VM is ephemeral: if we die in the middle, the next engine deletes it with all that it held, and
//! sweeps the files that it was made of.

use std::pin::Pin;
use std::time::Duration;

use banger_session::exec::ExecRequest;
use jiff::Timestamp;

use super::ImageFiles;
use crate::engine::{Engine, Inner, lock};
use crate::error::{Error, ErrorKind};
use crate::exec::{ExecEnd, ExecOutput};
use crate::image::{Booted, Candidate, Clause, ImageError, Registering};
use crate::lifecycle::{CreateRequest, StopOutcome, StopRung};
use crate::names::{ImageName, Mebibytes, VmId};
use crate::progress::Progress;
use crate::transport::TransportError;
use crate::vm::{Internet, Lifetime, VMRecord, VMSpec};

/// More than a boot writes to its console: how far it came is told at its beginning.
const WHOLE_CONSOLE: u64 = 1 << 20;

/// How a test boot came to nothing.
enum Unsound {
    /// The guest did not do what it has to.
    Broken { clause: Clause, reason: String },
    /// It was not the guest.
    Failed(Error),
}

impl Engine {
    /// Boots an image that is being registered. Returns when nothing of the VM is left, whatever came of it.
    pub(super) async fn test_boot(
        &self,
        registering: &Registering<'_>,
        candidate: &Candidate,
        spec: VMSpec,
        progress: &Progress,
        given_up: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Result<Booted, Error> {
        let inner = &self.inner;
        let image = candidate.name();
        progress.tell("image-boot", "booting it to see that it works");
        let id = inner.free_id().await?;
        let name = format!("check-{}", &registering.id()[..8]).parse()?;
        let _reserved = inner.reserve(&name)?;
        let _lent = Lent::of(inner, &id, candidate);
        let vmm = spec.vmm;
        let vm = inner.record(id, name, image.clone(), spec)?;
        let seen = self.boot_and_look(&vm, progress, given_up).await;
        let console = match &seen {
            Ok(()) => Vec::new(),
            Err(_) => self
                .console_tail(vm.id.as_str(), WHOLE_CONSOLE)
                .await
                .unwrap_or_default(),
        };
        let deleted = match self.delete(vm.id.as_str()).await {
            // It never came to be, or somebody else has deleted it.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            deleted => deleted.map(drop),
        };
        match seen {
            Ok(()) => deleted.map(|()| Booted {
                at: Timestamp::now(),
                vmm: vmm.to_string(),
            }),
            Err(unsound) => {
                if let Err(error) = deleted {
                    // The first error is the one to tell; the next start deletes it.
                    tracing::warn!(vm = %vm.name, %error, "could not delete the VM of a test boot");
                }
                let console = String::from_utf8_lossy(&console);
                Err(told(image, unsound, &console))
            }
        }
    }

    async fn boot_and_look(
        &self,
        vm: &VMRecord,
        progress: &Progress,
        given_up: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Result<(), Unsound> {
        let (id, limits) = (vm.id.as_str(), &self.inner.config.limits);
        progress.tell("disk", "making its disks");
        // Neither is given up half way; both are short.
        self.lay_down(vm).await?;
        self.start(id, progress).await?;
        tokio::select! {
            biased;
            // Both are cancel-safe: nothing is kept of a connection that is not established.
            ready = self.wait_ready(id, progress) => ready?,
            () = given_up => {
                let name = vm.image.clone();
                return Err(Error::Image(ImageError::GivenUp { name }).into());
            }
        }
        progress.tell("image-look", "looking around in it");
        let look = ExecRequest::new(["cat", banger_session::MOUNTS]);
        let looked = tokio::time::timeout(limits.session, self.exec_output(id, &look)).await;
        judge_look(looked, limits.session)?;
        let told_to_end = !limits.power_off.is_zero() || !limits.ctrl_alt_del.is_zero();
        let stopped = match self.stop(id).await {
            Err(error @ Error::DoesNotEnd { .. }) => {
                return Err(Unsound::Broken {
                    clause: Clause::SwitchOff,
                    reason: error.to_string(),
                });
            }
            stopped => stopped?,
        };
        match stopped {
            StopOutcome::Stopped {
                by: by @ (StopRung::Terminated | StopRung::Killed),
                ..
            } if told_to_end => Err(Unsound::Broken {
                clause: Clause::SwitchOff,
                reason: format!("{by}"),
            }),
            StopOutcome::Stopped { .. } => Ok(()),
            StopOutcome::AlreadyStopped(vm) => Err(Unsound::Broken {
                clause: Clause::Init,
                reason: vm.runtime.stop_reason.unwrap_or_default(),
            }),
        }
    }
}

impl Inner {
    /// Chooses how a test boot is run: as a VM that asks for nothing. What somebody else has put together
    /// reaches nothing.
    pub(super) async fn test_spec(&self, image: &ImageName) -> Result<VMSpec, Error> {
        let request = CreateRequest {
            lifetime: Some(Lifetime::Ephemeral),
            internet: Some(Internet::Closed),
            work_disk: Some(Mebibytes(64)),
            ..CreateRequest::default()
        };
        let failed = |error| told(image, Unsound::Failed(error), "");
        self.resolve(&request).await.map_err(failed)
    }

    /// Returns the files that a VM boots from: those of its image, or of one that has no name yet.
    pub(crate) async fn files_of(&self, vm: &VMRecord) -> Result<ImageFiles, Error> {
        if let Some(files) = lock(&self.candidates).get(&vm.id) {
            return Ok(files.clone());
        }
        self.image_files(&vm.image).await
    }
}

/// While it lives, one VM boots from files that are no image's yet.
struct Lent<'a> {
    inner: &'a Inner,
    to: VmId,
}

impl<'a> Lent<'a> {
    fn of(inner: &'a Inner, to: &VmId, candidate: &Candidate) -> Self {
        let files = ImageFiles {
            rootfs: candidate.rootfs.clone(),
            kernel: candidate.kernel.clone(),
            initrd: candidate.initrd.clone(),
        };
        lock(&inner.candidates).insert(to.clone(), files);
        Lent {
            inner,
            to: to.clone(),
        }
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        lock(&self.inner.candidates).remove(&self.to);
    }
}

impl From<Error> for Unsound {
    fn from(error: Error) -> Self {
        Unsound::Failed(error)
    }
}

/// Judges what was seen from inside.
fn judge_look(
    looked: Result<Result<ExecOutput, Error>, tokio::time::error::Elapsed>,
    limit: Duration,
) -> Result<(), Unsound> {
    let broken = |clause, reason: String| Err(Unsound::Broken { clause, reason });
    let output = match looked {
        Ok(output) => output?,
        Err(_) => {
            let reason = format!("`cat` did not end within {} s", limit.as_secs());
            return broken(Clause::Commands, reason);
        }
    };
    let said = String::from_utf8_lossy(&output.stderr);
    match output.end {
        ExecEnd::Exited(0) => {}
        ExecEnd::Exited(status) => {
            let reason = format!("`cat` ended with status {status}: {}", said.trim());
            return broken(Clause::Commands, reason);
        }
        ExecEnd::NoSuchFolder => {
            return broken(Clause::Commands, "it has no /root".to_owned());
        }
        ExecEnd::Lost(how) => return broken(Clause::Commands, how),
    }
    let mounts = String::from_utf8_lossy(&output.stdout);
    let at_root = |line: &str| line.split(' ').nth(1) == Some("/root");
    match mounts.lines().any(at_root) {
        true => Ok(()),
        false => broken(Clause::Home, "nothing is mounted there".to_owned()),
    }
}

/// Names the clause that was broken, where it was one.
fn told(image: &ImageName, unsound: Unsound, console: &str) -> Error {
    let broken = match unsound {
        Unsound::Broken { clause, reason } => Ok((clause, reason)),
        Unsound::Failed(error) => judge(&error, console).ok_or(error),
    };
    let name = image.clone();
    match broken {
        Ok((clause, reason)) => ImageError::TestBoot {
            name,
            clause,
            reason,
            console: last_lines(console),
        }
        .into(),
        Err(error @ (Error::Closing | Error::Image(ImageError::GivenUp { .. }))) => error,
        Err(source) => ImageError::NoTestBoot {
            name,
            source: Box::new(source),
        }
        .into(),
    }
}

/// What our first program says when it cannot go on (`image/init.sh`), and what that breaks.
const GAVE_UP: [(&str, Clause); 7] = [
    ("the kernel has no", Clause::Drivers),
    ("the module", Clause::Drivers),
    ("there is no", Clause::Drivers),
    ("holds no ext4", Clause::RootDisk),
    ("has no folder", Clause::RootDisk),
    ("cannot be", Clause::RootDisk),
    ("the root disk has no", Clause::Init),
];

/// Tells from how far a guest came which clause it broke. None: it was not the guest.
fn judge(error: &Error, console: &str) -> Option<(Clause, String)> {
    let (reason, ended) = match error {
        Error::NotReady { limit, .. } => (
            format!("nothing answered within {} s", limit.as_secs()),
            false,
        ),
        Error::EndedBooting { end, .. } => (format!("its monitor {end}"), true),
        Error::Transport(TransportError::Refused { message, .. }) => {
            return Some((Clause::Login, message.clone()));
        }
        Error::Transport(TransportError::Start { message, .. }) => {
            return Some((Clause::Commands, message.clone()));
        }
        _ => return None,
    };
    let gave_up = console.lines().rev().find_map(|line| {
        let (_, why) = line.split_once("banger: cannot boot: ")?;
        let known = GAVE_UP.iter().find(|(words, _)| why.contains(words));
        let clause = known.map_or(Clause::RootDisk, |(_, clause)| *clause);
        Some((clause, printable(why)))
    });
    if gave_up.is_some() {
        return gave_up;
    }
    // A guest that talks so much has come far.
    let endless = console.len() as u64 >= WHOLE_CONSOLE;
    let has = |word: &str| console.contains(word) || endless;
    let panic = console.lines().find_map(|line| {
        let at = line.find(PANIC)?;
        Some(printable(&line[at..]).trim_end().to_owned())
    });
    let clause = match (has("banger: handing over"), has("banger: starting")) {
        (true, _) if ended || panic.is_some() => Clause::Init,
        (true, _) => Clause::Ssh,
        (false, true) => Clause::RootDisk,
        (false, false) => Clause::Kernel,
    };
    Some((clause, panic.unwrap_or(reason)))
}

/// How a kernel begins its last words.
const PANIC: &str = "Kernel panic";

/// The last lines of a console: what a guest wrote is shown, and moves no cursor.
fn last_lines(console: &str) -> String {
    const LINES: usize = 12;
    let mut lines = Vec::new();
    for line in console.lines() {
        lines.push(printable(line).trim_end().to_owned());
        // What follows is what its processors held.
        if line.contains(PANIC) {
            break;
        }
    }
    lines.retain(|line| !line.is_empty());
    lines
        .split_off(lines.len().saturating_sub(LINES))
        .join("\n")
}

/// A line without control characters, and without what a terminal would take as a command (ECMA-48: CSI
/// up to its final byte).
fn printable(line: &str) -> String {
    let mut shown = String::new();
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            '\x1b' if rest.as_str().starts_with('[') => {
                rest.next();
                rest.find(|c| ('@'..='~').contains(c));
            }
            c if banger_session::is_unseen(c) => {}
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;

    const UP: &str = "[ 1.0] Linux\r\nbanger: starting\r\n";

    fn image() -> ImageName {
        "mine".parse().unwrap()
    }

    fn not_ready() -> Error {
        Error::NotReady {
            vm: "check".parse().unwrap(),
            limit: Duration::from_secs(180),
            console_log: "/gone".into(),
        }
    }

    fn ended() -> Error {
        Error::EndedBooting {
            vm: "check".parse().unwrap(),
            end: "exited with status 0".to_owned(),
            last_lines: String::new(),
        }
    }

    fn clause(error: &Error, console: &str) -> Clause {
        judge(error, console).expect("the guest's fault").0
    }

    #[test]
    fn how_far_a_guest_came_tells_what_it_lacks() {
        let over = format!("{UP}banger: handing over to /sbin/init\r\n");
        let panic = format!("{over}[ 2.0] Kernel panic - not syncing: Attempted to kill init!\r\n");
        for (error, console, expected) in [
            (not_ready(), "", Clause::Kernel),
            (ended(), "[ 1.0] Linux\r\n", Clause::Kernel),
            (not_ready(), UP, Clause::RootDisk),
            (not_ready(), &over, Clause::Ssh),
            (ended(), &over, Clause::Init),
            (not_ready(), &panic, Clause::Init),
            (not_ready(), &"talk\n".repeat(300_000), Clause::Ssh),
        ] {
            assert_eq!(clause(&error, console), expected, "{console}");
        }
    }

    #[test]
    fn every_reason_that_our_first_program_can_give_breaks_a_clause_that_fits() {
        let init = include_str!("../image/init.sh");
        let reasons: Vec<&str> = init
            .lines()
            .filter_map(|line| line.split_once("give_up \"")?.1.strip_suffix('"'))
            .collect();
        assert!(reasons.len() > 10, "{reasons:?}");
        for reason in reasons {
            let console = format!("{UP}banger: cannot boot: {reason}\r\n");
            let expected = match reason {
                r if r.contains("$banger_init") => Clause::Init,
                r if r.contains("module") || r.contains("there is no") => Clause::Drivers,
                r if r.starts_with("the kernel") => Clause::Drivers,
                _ => Clause::RootDisk,
            };
            let judged = judge(&ended(), &console).unwrap();
            assert_eq!(judged, (expected, reason.to_owned()));
        }
    }

    #[test]
    fn a_panic_is_the_reason_and_the_end_of_the_console_that_is_shown() {
        let words = "Kernel panic - not syncing: Attempted to kill init!";
        let over = "banger: starting\nbanger: handing over to /sbin/init\n";
        let console = format!("{over}[ 2.0] {words}\r\n[ 2.1] RAX: 0\n");
        let judged = judge(&ended(), &console);
        assert_eq!(judged, Some((Clause::Init, words.to_owned())));
        assert_eq!(last_lines(&console), format!("{over}[ 2.0] {words}"));
    }

    #[test]
    fn a_refused_login_is_the_guests_and_a_full_disk_is_not() {
        let refused = Error::Transport(TransportError::Refused {
            vm: "check".parse().unwrap(),
            message: "Permission denied (publickey)".to_owned(),
        });
        assert_eq!(clause(&refused, UP), Clause::Login);
        assert!(judge(&Error::Closing, UP).is_none());
    }

    #[test]
    fn what_a_look_from_inside_finds_is_told() {
        let looked = |end, stdout: &str| {
            Ok(Ok(ExecOutput {
                end,
                stdout: stdout.into(),
                stderr: b"no cat\n".to_vec(),
            }))
        };
        let limit = Duration::from_secs(30);
        let broken = |end, stdout| match judge_look(looked(end, stdout), limit) {
            Err(Unsound::Broken { clause, reason }) => Some((clause, reason)),
            _ => None,
        };
        let mounts = "/dev/vda / ext4 rw 0 0\n/dev/vdb /root ext4 rw 0 0\n";
        assert_eq!(broken(ExecEnd::Exited(0), mounts), None);
        let (clause, _) = broken(ExecEnd::Exited(0), "/dev/vda / ext4 rw 0 0\n").unwrap();
        assert_eq!(clause, Clause::Home);
        let (clause, reason) = broken(ExecEnd::Exited(127), mounts).unwrap();
        assert_eq!(clause, Clause::Commands);
        assert_eq!(reason, "`cat` ended with status 127: no cat");
    }

    #[test]
    fn the_end_of_a_console_is_shown_without_what_would_move_a_cursor() {
        let console = format!("{UP}\x1b[2Jboo\x07\r\n\r\nlast");
        let broken = Unsound::Broken {
            clause: Clause::Home,
            reason: "nothing is mounted there".to_owned(),
        };
        assert_eq!(
            told(&image(), broken, &console).to_string(),
            "the image mine failed its test boot (home): the VM's own disk does not stay mounted at \
             /root: nothing is mounted there; its console ends with:\n  [ 1.0] Linux\n  \
             banger: starting\n  boo\n  last"
        );
    }

    #[test]
    fn the_documented_contract_is_that_of_the_program() {
        let page = include_str!("../../../docs/images.md");
        let clauses: Vec<&str> = page
            .lines()
            .skip_while(|line| !line.starts_with("| clause |"))
            .skip(2)
            .map_while(|line| line.strip_prefix("| ")?.split(" |").next())
            .collect();
        assert_eq!(clauses, Clause::ALL.map(|clause| clause.to_string()));
        let limit = Limits::default().ready.as_secs();
        assert!(page.contains(&format!("[{limit} s](defaults.md)")));
    }
}
