//! Where images are made, whichever way: aside, under a name that a sweep finds, and published by one
//! rename. What is given up, fails or is killed leaves nothing.
//!
//! ```text
//! images/.new-<id>/    being made: a build's, a registration's
//! images/<name>/       published: whole, on stable storage, read-only
//! images/.trash-<id>/  being deleted
//! <scratch>/banger-image-<id>/   a build's tree
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::ImageError;
use super::manifest::{ImageManifest, MANIFEST};
use super::recipe::Privilege;
use crate::host::{Host, ProcessSignal, Program, ProgramLimits};
use crate::names::ImageName;
use crate::places::{NEW, TRASH};
use crate::progress::Progress;

/// Where a tree grows unless the configuration says otherwise. Not /tmp: that is often memory.
pub(crate) const SCRATCH: &str = "/var/tmp";

/// What making an image needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workshop<'a> {
    pub(crate) host: &'a dyn Host,
    pub(crate) images: &'a Path,
    /// The folder of scratch folders. It lies apart from the images because subordinate ids must reach
    /// it, and they cannot pass a home folder of mode 0700.
    pub(crate) scratch: &'a Path,
    /// How long a mirror may be silent.
    pub(crate) patience: Duration,
    pub(crate) progress: &'a Progress,
}

impl<'a> Workshop<'a> {
    /// Removes what makings and deletions that were killed have left. No other may be at work here.
    pub(crate) async fn sweep(&self) -> Result<usize, ImageError> {
        let mut swept = 0;
        for name in self.host.list_dir(self.images).await? {
            if let Some(id) = name.strip_prefix(NEW) {
                self.sweep_one(id).await?;
                swept += 1;
            } else if name.starts_with(TRASH) {
                self.host.remove_tree(&self.images.join(name)).await?;
                swept += 1;
            }
        }
        Ok(swept)
    }

    /// Ends and removes what one making has left: its programs, its scratch folder, its folder.
    pub(crate) async fn sweep_one(&self, id: &str) -> Result<(), ImageError> {
        self.end_programs(id).await?;
        // Order matters here: the folder that names the other goes last.
        self.remove_scratch(id).await?;
        Ok(self.host.remove_tree(&self.new_folder(id)).await?)
    }

    /// Refuses a name that is taken, before anything is made.
    pub(super) async fn refuse_taken(&self, name: &ImageName) -> Result<(), ImageError> {
        self.host.create_dir(self.images).await?;
        match self.host.stat(&self.published(name)).await? {
            Some(_) => Err(ImageError::Exists { name: name.clone() }),
            None => Ok(()),
        }
    }

    /// Says what the folder holds, and gives it its name.
    pub(super) async fn publish(
        &self,
        id: &str,
        manifest: &ImageManifest,
    ) -> Result<(), ImageError> {
        let (host, new) = (self.host, self.new_folder(id));
        host.write_file(&new.join(MANIFEST), &manifest.to_json(), 0o444)
            .await?;
        self.progress
            .tell("image-publish", "writing the image to the disk");
        host.sync_dir(&new).await?;
        Ok(host.rename(&new, &self.published(&manifest.name)).await?)
    }

    /// Tidies up after a making that came to nothing; the first error is the one to tell.
    pub(super) async fn clear_away(&self, id: &str) {
        if let Err(error) = self.sweep_one(id).await {
            // The next start-up sweeps what is left.
            tracing::warn!(%error, "could not remove what an image that was not made left");
        }
    }

    pub(super) fn new_folder(&self, id: &str) -> PathBuf {
        self.images.join(format!("{NEW}{id}"))
    }

    fn published(&self, name: &ImageName) -> PathBuf {
        self.images.join(name.as_str())
    }

    pub(super) fn privilege(&self) -> Privilege {
        match self.host.user_id() {
            0 => Privilege::Root,
            _ => Privilege::Subordinate,
        }
    }

    /// Removes a folder in which subordinate ids may own files.
    pub(super) async fn remove_scratch(&self, id: &str) -> Result<(), ImageError> {
        let (host, folder) = (self.host, scratch_folder(self.scratch, id));
        let theirs = self.privilege() == Privilege::Subordinate;
        let mut removed = Ok(());
        if theirs && host.stat(&folder).await?.is_some() {
            let rm = in_namespace("rm")
                .args(["-rf", "--one-file-system", "--"])
                .arg(&folder);
            let done = self.run_checked(rm).await;
            removed = done.map(drop);
        }
        // Where no other id has come to own anything, or that program cannot run, ours will do.
        match host.remove_tree(&folder).await {
            Ok(()) => Ok(()),
            Err(error) => removed.and(Err(error.into())),
        }
    }

    /// Ends what still runs of a build, the whole tree, and waits until it has ended.
    async fn end_programs(&self, id: &str) -> Result<(), ImageError> {
        let (host, token) = (self.host, token(id));
        let deadline = tokio::time::Instant::now() + ENDING;
        loop {
            let running = host.find_processes(&token).await?;
            if running.is_empty() {
                return Ok(());
            }
            for process in &running {
                // Those in a namespace of the build's end with its first process; who cannot be
                // signalled is waited for.
                if let Err(error) = host.signal(&process.identity, ProcessSignal::Kill).await {
                    tracing::debug!(%error, "could not end a program of a build");
                }
            }
            if tokio::time::Instant::now() > deadline {
                return Err(ImageError::Unkillable {
                    processes: running.iter().map(|p| p.identity.pid).collect(),
                });
            }
            // It may be a zombie that nobody told us of: looked at again rather than waited for.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) async fn run_checked(&self, program: Program) -> Result<Vec<u8>, ImageError> {
        let output = self.host.run(&program).await?;
        if output.success() {
            return Ok(output.stdout);
        }
        Err(ImageError::Program {
            program: program.program,
            status: output.status,
            output: output.last_lines(5),
        })
    }
}

/// How long a killed program may take to be gone.
const ENDING: Duration = Duration::from_secs(10);

/// Where a build's tree grows; it follows from the id, so that a build that was killed is swept.
pub(crate) fn scratch_folder(scratch: &Path, id: &str) -> PathBuf {
    scratch.join(format!("banger-image-{id}"))
}

/// What the programs of a build bear on their command lines.
pub(super) fn token(id: &str) -> String {
    format!("banger-build:{id}")
}

/// A program that acts as root over the user and its subordinate ids.
pub(super) fn in_namespace(program: &str) -> Program {
    Program::new("unshare")
        .args(["--user", "--map-root-user", "--map-auto", program])
        .limits(ProgramLimits::BUILD)
}

/// Draws the id of an image that is to be made.
pub(super) fn random_id() -> Result<String, ImageError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| ImageError::Random {
        source: std::io::Error::other(error),
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
