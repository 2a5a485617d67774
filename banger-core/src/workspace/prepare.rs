//! Carrying a repository into a guest.

use std::path::Path;
use std::pin::pin;
use std::time::{Duration, Instant};

use banger_session::workspace::{
    Destination, GuestPath, Mode, Receive, Replace, decide_replace, parse_preflight,
    preflight_script, receive_script, trailer,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;

use crate::engine::{Engine, random};
use crate::error::Error;
use crate::progress::Progress;
use crate::session::ByteText;
use crate::vm::VMRecord;
use crate::workspace::WorkspaceError;
use crate::workspace::git::Git;
use crate::workspace::inspect::{Inspected, Inspection, Staging};
use crate::workspace::record::{Asked, Source, Untracked, Workspace};
use crate::workspace::script::{ScriptOutput, run_script_output, start_script};
use crate::workspace::stage::{Staged, stage};

/// What is to be carried where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrepareRequest {
    /// The repository.
    pub source: Source,
    /// How much of its history.
    pub mode: Mode,
    /// The branch that the guest is to be on; made there. The one that is checked out here, if none is named.
    pub branch: Option<String>,
    /// The commit that is to be checked out in the guest; the one that is checked out here, if none is named.
    pub from: Option<String>,
    /// What becomes of files that git does not track.
    pub untracked: Untracked,
    /// Where to.
    pub guest_path: GuestPath,
    /// Whether changes in a workspace that is there are let go.
    pub overwrite: Overwrite,
}

/// What becomes of changes in a workspace that is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overwrite {
    /// They are kept, and the prepare is refused.
    #[default]
    Refuse,
    /// They are lost.
    Force,
}

/// What was carried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// The workspace as it is recorded with the VM.
    pub workspace: Workspace,
    /// What was found on the host.
    pub inspection: Inspection,
    /// What was sent, in bytes.
    pub bytes: u64,
    /// Whether a workspace that was there was replaced.
    pub replaced: bool,
}

impl PrepareRequest {
    /// Carries the last commits of a repository of our own, and what differs from them, to `/root/repo`.
    pub fn new(path: impl Into<std::path::PathBuf>) -> Self {
        PrepareRequest {
            source: Source::new(path),
            mode: Mode::default(),
            branch: None,
            from: None,
            untracked: Untracked::default(),
            guest_path: GuestPath::default(),
            overwrite: Overwrite::default(),
        }
    }
}

/// The most that a guest's answers may have, in bytes.
const MAX_ANSWER: usize = 8 << 20;

/// How much is sent at once, in bytes.
const PIECE: u64 = 256 << 10;

/// How often progress is told.
const TICK: Duration = Duration::from_millis(250);

impl Engine {
    /// Carries a repository into a running VM, waiting for its guest to answer first, and records it with
    /// the VM. The guest is as it was, or completely prepared, whatever becomes of us.
    ///
    /// Takes nobody's turn: a stop or delete of the VM ends it.
    pub async fn workspace_prepare(
        &self,
        vm: &str,
        request: PrepareRequest,
        progress: &Progress,
    ) -> Result<Prepared, Error> {
        let vm = self.lookup(vm).await?;
        self.inner.check_reserve().await?;
        // Until something is sent it ends with whoever waits for it.
        let staging = Staging::make(self).await?;
        progress.tell("workspace", "looking at the repository");
        let inspected = self.inspect_repository(&request, staging.path()).await;
        let prepared = match inspected {
            Ok(inspected) => self.carry(&vm, &request, inspected, None, progress).await,
            Err(error) => Err(error.into()),
        };
        staging.clear().await;
        prepared
    }

    /// Carries a VM's workspace once more if the repository here has changed since, its commit or its files, and as it
    /// was asked for then. Returns none if it has not.
    pub async fn workspace_refresh(
        &self,
        vm: &str,
        progress: &Progress,
    ) -> Result<Option<Prepared>, Error> {
        let vm = self.lookup(vm).await?;
        let workspace = self.recorded_workspace(&vm).await?;
        let request = PrepareRequest {
            source: workspace.source(),
            mode: workspace.mode(),
            branch: workspace.asked.branch.clone(),
            from: workspace.asked.from.clone(),
            untracked: workspace.asked.untracked,
            guest_path: workspace.dest()?,
            overwrite: Overwrite::Refuse,
        };
        let staging = Staging::make(self).await?;
        let refreshed = self.carry_if_changed(&vm, &workspace, &request, staging.path(), progress);
        let refreshed = refreshed.await;
        staging.clear().await;
        refreshed
    }

    async fn carry_if_changed(
        &self,
        vm: &VMRecord,
        workspace: &Workspace,
        request: &PrepareRequest,
        folder: &Path,
        progress: &Progress,
    ) -> Result<Option<Prepared>, Error> {
        let inspected = self.inspect_repository(request, folder).await?;
        let git = Git::new(self.inner.host());
        let trees = inspected.trees(&git, request.untracked).await?;
        // One that an older banger carried is taken for current, as it was then.
        let known = workspace.host_trees.as_ref();
        let is_current = known.is_none_or(|known| *known == trees);
        if is_current && inspected.inspection.head == workspace.host_head {
            return Ok(None);
        }
        self.inner.check_reserve().await?;
        let carried = self.carry(vm, request, inspected, Some(trees), progress);
        carried.await.map(Some)
    }

    /// Says what a prepare would carry, and whether it would replace a workspace that is there; fails as
    /// the prepare would, and changes nothing.
    pub async fn workspace_plan(
        &self,
        vm: &str,
        request: &PrepareRequest,
    ) -> Result<(Inspection, bool), Error> {
        let vm = self.lookup(vm).await?;
        let inspection = self.workspace_inspect(request).await?;
        let (_, replace) = self.ask_guest(&vm, request).await?;
        Ok((inspection, replace == Replace::Workspace))
    }

    async fn carry(
        &self,
        vm: &VMRecord,
        request: &PrepareRequest,
        inspected: Inspected,
        // What [`Inspected::trees`] returned, if it was asked already.
        trees: Option<String>,
        progress: &Progress,
    ) -> Result<Prepared, Error> {
        // The guest is asked while git packs.
        let (asked, staged) = tokio::join!(self.ask_guest(vm, request), async {
            // As it is packed, or as it is a moment before: what changes meanwhile is carried the next time.
            let trees = match trees {
                Some(trees) => trees,
                None => {
                    let git = Git::new(self.inner.host());
                    inspected.trees(&git, request.untracked).await?
                }
            };
            let staged = stage(self.inner.host(), &inspected, request).await?;
            Ok::<_, WorkspaceError>((trees, staged))
        });
        let ((free_bytes, replace), (trees, staged)) = (asked?, staged?);
        let overlay_bytes = staged.overlay.as_ref().map(|(_, bytes)| *bytes);
        let bytes = staged.repos_bytes + overlay_bytes.unwrap_or(0);
        if let Some(free_bytes) = free_bytes
            && free_bytes < bytes
        {
            return Err(WorkspaceError::GuestFull {
                vm: vm.name.clone(),
                free_bytes,
                needed_bytes: bytes,
            }
            .into());
        }
        let id: [u8; 6] = random()?;
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let script = receive_script(&Receive {
            dest: &request.guest_path,
            id: &id,
            checkouts: &staged.checkouts,
            repos_bytes: staged.repos_bytes,
            overlay_bytes,
            replace,
        });
        // A path in git's index has no NUL.
        let script = script.map_err(|error| Error::DamagedFile {
            path: inspected.folder.clone(),
            reason: error.to_string(),
        })?;
        let connection = self.connection(vm, self.inner.config.limits.ready).await?;
        let silence = self.inner.config.limits.workspace;
        let mut running = start_script(&connection, "prepare", vm, &script, silence).await?;
        let answer = self
            .send(
                &mut running,
                &staged,
                bytes,
                &inspected.inspection.name,
                progress,
            )
            .await?;
        let Some((head, base)) = read_answer(&answer) else {
            let reason = "its answer makes no sense".to_owned();
            return Err(running.lost(reason).into());
        };
        let mut inspection = inspected.inspection;
        inspection.notes.extend(staged.notes);
        let workspace = Workspace {
            guest_path: ByteText(request.guest_path.as_bytes().to_vec()),
            host_root: inspection.root.clone(),
            name: inspection.name.clone(),
            mode: request.mode.as_str().to_owned(),
            branch: staged.branch,
            head,
            base,
            host_head: inspection.head.clone(),
            carried: staged.carried,
            prepared_at: Timestamp::now(),
            asked: Asked {
                branch: request.branch.clone(),
                from: request.from.clone(),
                untracked: request.untracked,
                ownership: request.source.ownership,
            },
            host_trees: Some(trees),
        };
        self.inner.store.set_workspace(&vm.id, &workspace).await?;
        tracing::info!(vm = %vm.name, bytes, base = workspace.base, "prepared a workspace");
        Ok(Prepared {
            workspace,
            inspection,
            bytes,
            replaced: replace == Replace::Workspace,
        })
    }

    /// Asks the guest what there is, and decides.
    async fn ask_guest(
        &self,
        vm: &VMRecord,
        request: &PrepareRequest,
    ) -> Result<(Option<u64>, Replace), Error> {
        let connection = self.connection(vm, self.inner.config.limits.ready).await?;
        let recorded = self.inner.store.workspace(&vm.id).await?;
        let base = recorded.filter(|known| known.guest_path.0 == request.guest_path.as_bytes());
        let base = base.map_or(String::new(), |known| known.base);
        let script = preflight_script(&request.guest_path, &base);
        // What is recorded is the name of an object.
        let script = script.map_err(|error| WorkspaceError::Lost {
            act: "prepare",
            vm: vm.name.clone(),
            reason: error.to_string(),
        })?;
        let silence = self.inner.config.limits.workspace;
        let answer =
            run_script_output(&connection, "prepare", vm, &script, silence, MAX_ANSWER).await?;
        let preflight = parse_preflight(&answer).map_err(|error| WorkspaceError::Lost {
            act: "prepare",
            vm: vm.name.clone(),
            reason: error.to_string(),
        })?;
        if !preflight.missing.is_empty() {
            return Err(WorkspaceError::GuestLacks {
                vm: vm.name.clone(),
                missing: preflight.missing,
            }
            .into());
        }
        let force = request.overwrite == Overwrite::Force;
        let replace = decide_replace(&preflight.destination, force);
        let replace = replace.map_err(|reason| WorkspaceError::InTheWay {
            vm: vm.name.clone(),
            path: request.guest_path.to_string(),
            reason,
            forcible: matches!(preflight.destination, Destination::Workspace { .. }),
        })?;
        Ok((preflight.free_bytes, replace))
    }

    /// Sends the archives, and returns what the script answers.
    async fn send(
        &self,
        running: &mut ScriptOutput,
        staged: &Staged,
        total: u64,
        name: &str,
        progress: &Progress,
    ) -> Result<Vec<u8>, Error> {
        let host = self.inner.host();
        let overlay = staged.overlay.as_ref().map(|(path, _)| path);
        let files = std::iter::once(&staged.repos).chain(overlay);
        let stdin = running.stdin.take();
        let feed = async move {
            let Some(mut stdin) = stdin else { return };
            let (mut sent, mut told) = (0, None::<Instant>);
            for file in files {
                let mut offset = 0;
                while let Ok(piece) = host.read_at(file, offset, PIECE).await
                    && !piece.is_empty()
                {
                    if told.is_none_or(|told| told.elapsed() >= TICK) {
                        progress.tell("workspace", carrying(name, sent, total));
                        told = Some(Instant::now());
                    }
                    if stdin.write_all(&piece).await.is_err() {
                        // The script has refused, or is gone: its end says which.
                        return;
                    }
                    offset += piece.len() as u64;
                    sent += piece.len() as u64;
                }
            }
            if sent == total {
                progress.tell("workspace", format!("checking {name} out in the guest"));
                let _ = stdin.write_all(&trailer()).await;
            }
            let _ = stdin.flush().await;
            let _ = stdin.shutdown().await;
        };
        let read = async {
            let mut answer = Vec::new();
            while let Some(piece) = running.next().await? {
                if answer.len() + piece.len() <= MAX_ANSWER {
                    answer.extend_from_slice(piece);
                }
            }
            Ok::<_, Error>(answer)
        };
        let mut feed = pin!(feed);
        let mut read = pin!(read);
        tokio::select! {
            biased;
            // The script has ended: whatever is not sent yet need not be.
            answer = &mut read => answer,
            () = &mut feed => read.await,
        }
    }
}

fn carrying(name: &str, sent: u64, total: u64) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    format!(
        "carrying {name} in: {:.1} of {:.1} MiB",
        mib(sent),
        mib(total)
    )
}

/// Reads `head OID`, `base OID`, `end`.
fn read_answer(answer: &[u8]) -> Option<(String, String)> {
    let text = std::str::from_utf8(answer).ok()?;
    let mut lines = text.lines();
    let mut object = |name: &str| {
        let id = lines.next()?.strip_prefix(name)?.to_owned();
        let is_object = matches!(id.len(), 40 | 64) && id.bytes().all(|b| b.is_ascii_hexdigit());
        is_object.then_some(id)
    };
    let (head, base) = (object("head ")?, object("base ")?);
    (lines.next() == Some("end")).then_some((head, base))
}
