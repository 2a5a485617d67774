//! Reading what sessions left on the work disk of a VM that does not run.
//!
//! The file system on it was written by a guest and is hostile input: it is never mounted. debugfs reads
//! it as a file, without writing, without the kernel and without any privilege of ours.

use banger_session::session::{
    MAX_STATE_BYTES, ParseStateError, SessionDir, StateSnapshot, state_from_dir,
};

use tokio::io::AsyncReadExt;

use crate::engine::Inner;
use crate::error::Error;
use crate::host::{PipedProgram, Program, ProgramLimits};
use crate::image::PARSER;
use crate::vm::{DiskKind, VMRecord};

/// The part of a file to read, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// Bytes before it.
    pub(super) offset: u64,
    /// Most bytes of it.
    pub(super) limit: u64,
}

/// Files of which [`state_from_dir`] makes a snapshot.
const STATE_FILES: [&str; 7] = [
    "status",
    "pid",
    "start_time",
    "monitor_pid",
    "boot_id",
    "exit_code",
    "error",
];

impl Inner {
    /// Reads a session's state as it was left on the disk.
    pub(super) async fn state_on_disk(
        &self,
        vm: &VMRecord,
        dir: &SessionDir,
    ) -> Result<StateSnapshot, Error> {
        let mut files = Vec::new();
        for name in STATE_FILES {
            let whole = Span {
                offset: 0,
                limit: MAX_STATE_BYTES as u64,
            };
            let path = format!("{}/{name}", dir.path());
            files.push((name, self.read_on_disk(vm, &path, whole).await?));
        }
        let read = |wanted: &str| {
            let file = files.iter().find(|(name, _)| *name == wanted);
            Ok::<_, ParseStateError>(file.and_then(|(_, content)| content.clone()))
        };
        state_from_dir(read).map_err(|error| unreadable(vm, error.to_string()))
    }

    /// Returns the length of a guest's file on the disk; a missing one is `None`. `path` is one of a
    /// [`SessionDir`]: absolute, below `/root`, without blanks and quotes.
    pub(super) async fn size_on_disk(
        &self,
        vm: &VMRecord,
        path: &str,
    ) -> Result<Option<u64>, Error> {
        if let Some(file) = simulated(vm, path) {
            let facts = self.host().stat(&file).await?;
            return Ok(facts.filter(|facts| !facts.is_dir).map(|facts| facts.bytes));
        }
        let request = format!("stat {}", on_work_disk(path));
        let program = self.debugfs(vm, &request, PARSER).await?;
        let output = self.host().run(&program).await?;
        // Its status is 0 whatever happened.
        let said = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        match said.contains("Type: ") || complaint.contains("File not found by ext2_lookup") {
            true => Ok(size_in(&said)),
            false => Err(unreadable(vm, output.last_lines(2).replace('\n', ": "))),
        }
    }

    /// Reads a part of a guest's file on the disk; a missing one is `None`. `path` as above.
    pub(super) async fn read_on_disk(
        &self,
        vm: &VMRecord,
        path: &str,
        span: Span,
    ) -> Result<Option<Vec<u8>>, Error> {
        if let Some(file) = simulated(vm, path) {
            let content = self.host().read_file(&file).await?;
            return Ok(content.map(|content| part(&content, span)));
        }
        if self.size_on_disk(vm, path).await?.is_none() {
            return Ok(None);
        }
        let limits = ProgramLimits {
            output_bytes: span.offset.saturating_add(span.limit).saturating_add(PIPE),
            ..PARSER
        };
        let request = format!("cat {}", on_work_disk(path));
        let program = self.debugfs(vm, &request, limits).await?;
        let PipedProgram { stdin, stdout, end } = self.host().pipe(&program).await?;
        drop(stdin);
        // Only the part is kept: the file may be larger than our memory. What follows it is not waited for.
        let mut stdout = stdout;
        let unread = |error: std::io::Error| unreadable(vm, error.to_string());
        tokio::io::copy(&mut (&mut stdout).take(span.offset), &mut tokio::io::sink())
            .await
            .map_err(unread)?;
        let mut part = Vec::new();
        (&mut stdout)
            .take(span.limit)
            .read_to_end(&mut part)
            .await
            .map_err(unread)?;
        if (part.len() as u64) < span.limit {
            let end = end.await?;
            if !end.success() {
                return Err(unreadable(vm, end.last_lines(1)));
            }
        }
        Ok(Some(part))
    }

    /// Names the program that reads a guest's file system: it reaches nothing but the disk.
    async fn debugfs(
        &self,
        vm: &VMRecord,
        request: &str,
        limits: ProgramLimits,
    ) -> Result<Program, Error> {
        let path = &vm.runtime.work_disk_path;
        let disk = self.host().open_foreign(path).await?;
        let disk = disk.ok_or_else(|| unreadable(vm, "it is not there".to_owned()))?;
        let program = Program::new("debugfs").args(["-R", request]);
        Ok(program.input_file(disk).limits(limits))
    }
}

/// What a program may have written into a pipe before it is ended.
const PIPE: u64 = 1 << 20;

/// Where a path of the guest lies on the disk that it has mounted at `/root`.
fn on_work_disk(path: &str) -> &str {
    path.strip_prefix("/root").unwrap_or(path)
}

/// Where a simulated guest has the file: its `/root` is a folder.
fn simulated(vm: &VMRecord, path: &str) -> Option<std::path::PathBuf> {
    let root = vm.runtime.vm_dir.join("guest").join("root");
    let file = root.join(on_work_disk(path).trim_start_matches('/'));
    (vm.spec.disk == DiskKind::Sim).then_some(file)
}

fn part(content: &[u8], span: Span) -> Vec<u8> {
    let from = usize::try_from(span.offset).map_or(content.len(), |n| n.min(content.len()));
    let rest = &content[from..];
    let length = usize::try_from(span.limit).map_or(rest.len(), |n| n.min(rest.len()));
    rest[..length].to_vec()
}

/// Finds the size in what debugfs's `stat` prints of a plain file.
fn size_in(text: &str) -> Option<u64> {
    if !text.contains("Type: regular") {
        return None;
    }
    let after = text.split("Size: ").nth(1)?;
    after.split_whitespace().next()?.parse().ok()
}

fn unreadable(vm: &VMRecord, reason: String) -> Error {
    Error::ReadDisk {
        vm: vm.name.clone(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EngineConfig;
    use crate::engine::Engine;
    use crate::lifecycle::CreateRequest;
    use crate::progress::Progress;
    use banger_session::session::{Folder, Liveness};

    /// An ext4 file system with a session's folder, as a guest leaves it, and a VM whose disk it is.
    async fn a_real_disk(folder: &std::path::Path) -> (Engine, VMRecord, SessionDir) {
        let dir = SessionDir::new("/root/.local/state/banger/sessions", "0123abcd").unwrap();
        let tree = folder.join("tree");
        let files = tree.join(on_work_disk(&dir.path()).trim_start_matches('/'));
        std::fs::create_dir_all(&files).unwrap();
        for (name, content) in [
            ("status", "exited\n"),
            ("exit_code", "3\n"),
            ("pid", "71\n"),
        ] {
            std::fs::write(files.join(name), content).unwrap();
        }
        let log: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        std::fs::write(files.join("stdout.log"), log).unwrap();
        let disk = folder.join("it's a disk.ext4");
        let config = EngineConfig::new(folder.join("state"), folder.join("run"));
        let (engine, _) = Engine::open(config).await.unwrap();
        let host = engine.inner.host();
        host.grow_file(&disk, 32 << 20).await.unwrap();
        let mke2fs = Program::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-d"])
            .arg(&tree)
            .arg(&disk);
        let made = host.run(&mke2fs).await.unwrap();
        assert!(made.success(), "{}", made.last_lines(3));
        let sim = Engine::sim().await.unwrap();
        let silent = Progress::silent();
        let mut vm = sim.create(CreateRequest::default(), &silent).await.unwrap();
        vm.spec.disk = DiskKind::Overlay;
        vm.runtime.work_disk_path = disk;
        (engine, vm, dir)
    }

    #[tokio::test]
    async fn a_real_disk_is_read_without_being_mounted() {
        let folder = tempfile::tempdir().unwrap();
        let (engine, vm, dir) = a_real_disk(folder.path()).await;
        let inner = &engine.inner;
        let seen = inner.state_on_disk(&vm, &dir).await.unwrap();
        assert_eq!(
            (seen.folder, seen.liveness),
            (Folder::Present, Liveness::Offline)
        );
        assert_eq!(seen.exit_code, Some(3));

        let log = dir.stdout_log();
        assert_eq!(
            inner.size_on_disk(&vm, &log).await.unwrap(),
            Some(3_000_000)
        );
        let span = Span {
            offset: 2_000_000,
            limit: 500_000,
        };
        let part = inner.read_on_disk(&vm, &log, span).await.unwrap().unwrap();
        let expected: Vec<u8> = (2_000_000..2_500_000_u32)
            .map(|n| (n % 251) as u8)
            .collect();
        assert!(part == expected);

        let missing = dir.stderr_log();
        assert_eq!(inner.size_on_disk(&vm, &missing).await.unwrap(), None);
        assert_eq!(inner.read_on_disk(&vm, &missing, span).await.unwrap(), None);
        assert_eq!(inner.size_on_disk(&vm, &dir.path()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_disk_that_is_none_is_an_error_and_no_missing_file() {
        let folder = tempfile::tempdir().unwrap();
        let (engine, vm, dir) = a_real_disk(folder.path()).await;
        std::fs::write(&vm.runtime.work_disk_path, vec![0; 1 << 20]).unwrap();
        let log = dir.stdout_log();
        let error = engine.inner.size_on_disk(&vm, &log).await.unwrap_err();
        assert!(
            error.to_string().contains("cannot read the disk"),
            "{error}"
        );
    }

    #[test]
    fn only_a_plain_file_has_a_size() {
        let plain = "Inode: 14   Type: regular    Mode:  0644   Flags: 0x80000\n\
                     User:     0   Group:     0   Project:     0   Size: 4711\n";
        assert_eq!(size_in(plain), Some(4711));
        assert_eq!(size_in(&plain.replace("regular", "directory")), None);
        assert_eq!(size_in(""), None);
    }

    #[test]
    fn a_part_never_reaches_beyond_its_file() {
        let span = |offset, limit| Span { offset, limit };
        assert_eq!(part(b"hello", span(1, 3)), b"ell");
        assert_eq!(part(b"hello", span(4, 9)), b"o");
        assert_eq!(part(b"hello", span(u64::MAX, u64::MAX)), b"");
    }

    #[test]
    fn the_guest_s_home_is_the_disk_s_root() {
        assert_eq!(on_work_disk("/root/.local/x"), "/.local/x");
    }
}
