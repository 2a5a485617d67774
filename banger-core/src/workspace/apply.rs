//! A guest's changes onto the host's repository as it is now.
//!
//! The patch first meets an index of ours, which holds the working tree as it is: there it is merged, and
//! what it touches is read off the result, path by path. Only when all of it fits is anything of the
//! repository's written: one pack of objects, one ref to undo it by, and then the files.

use std::path::Path;

use banger_foreign::{Folder, Kind};
use banger_session::workspace::blobs_script;
use banger_session::workspace::patch::{
    Change, MODE_SUBMODULE, MODE_SYMLINK, check_path, leads_out, parse_changes,
    parse_numstat_paths, runs_by_itself,
};
use tokio::io::AsyncWriteExt;

use crate::engine::Engine;
use crate::error::Error;
use crate::host::PipedProgram;
use crate::progress::Progress;
use crate::session::ByteText;
use crate::vm::VMRecord;
use crate::workspace::WorkspaceError;
use crate::workspace::git::{Git, path_of, program, word_in, words};
use crate::workspace::in_the_way::in_the_way;
use crate::workspace::inspect::Staging;
use crate::workspace::open::{Repository, UserSettings, blocking};
use crate::workspace::patch_bounds::{LARGEST_PATCH, PatchBounds, refuse_written};
use crate::workspace::record::{Ownership, Source, Workspace};
use crate::workspace::script::start_script;
use crate::workspace::shadow::{Shadow, refused};
use crate::workspace::undo_ref::{point, put_pack, undo_ref};

/// What is to be applied where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApplyRequest {
    /// The repository; the one that was carried, if none is named.
    pub repository: Option<Source>,
    /// A commit of the guest's to compare with; what was carried in, if none is named.
    pub base: Option<String>,
    /// Whether anything is to be written.
    pub effect: Effect,
}

/// Whether anything is to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effect {
    /// The changes are applied.
    #[default]
    Apply,
    /// It is only found out whether they could be, and what they touch.
    Check,
}

/// What was, or would be, changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The root of the repository.
    pub root: ByteText,
    /// What, compared with the files as they were.
    pub files: Vec<TouchedFile>,
    /// The ref by which it can be undone; none if nothing was written.
    pub undo_ref: Option<String>,
    /// What a person should know of it, a sentence each: what did not come along, and why.
    pub notes: Vec<String>,
}

/// A file that is touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TouchedFile {
    /// What happens to it.
    pub change: Change,
    /// Why it deserves a look before anything else is run in the repository.
    pub look: Option<String>,
}

impl Engine {
    /// Applies what changed in a VM's workspace to a repository of this host as it is now, by a three-way
    /// merge, all of it or nothing. Its index stays as it is: the changes are those of the working tree.
    pub async fn workspace_apply(
        &self,
        vm: &str,
        request: ApplyRequest,
        progress: &Progress,
    ) -> Result<Applied, Error> {
        let vm = self.lookup(vm).await?;
        let workspace = self.recorded_workspace(&vm).await?;
        let staging = Staging::make(self).await?;
        // Until something is written it ends with whoever waits for it.
        match self
            .merge_in(&vm, &workspace, &request, &staging, progress)
            .await
        {
            Ok(Merged::Nothing(applied)) => {
                staging.clear().await;
                Ok(applied)
            }
            Ok(Merged::Ready(ready)) => {
                let engine = self.clone();
                // To its end: files that are half written help nobody.
                self.to_its_end(async move {
                    let git = Git::new(engine.inner.host());
                    let applied = ready.write(&git, &vm, staging.path()).await;
                    staging.clear().await;
                    Ok(applied?)
                })
                .await
            }
            Err(error) => {
                staging.clear().await;
                Err(error)
            }
        }
    }

    async fn merge_in(
        &self,
        vm: &VMRecord,
        workspace: &Workspace,
        request: &ApplyRequest,
        staging: &Staging,
        progress: &Progress,
    ) -> Result<Merged, Error> {
        let (git, folder) = (Git::new(self.inner.host()), staging.path());
        let target =
            Target::open(self, &git, workspace, request.repository.as_ref(), folder).await?;
        let before = target.take_up(&git).await?;

        progress.tell("workspace", "taking the changes out of the guest");
        let patch = folder.join("patch");
        let (bytes, notes) = self.save_patch(vm, request.base.as_deref(), &patch).await?;
        let root = ByteText(target.root_bytes());
        let nothing = |files| {
            Merged::Nothing(Applied {
                root: root.clone(),
                files,
                undo_ref: None,
                notes: notes.clone(),
            })
        };
        if bytes == 0 {
            return Ok(nothing(Vec::new()));
        }
        target.check_names(&git, &patch).await?;
        let changes = self.changes(vm, workspace, request.base.as_deref());
        let changes = changes.await?.files;
        let before = target.take_up_carried(&git, &changes, before).await?;
        self.fetch_missing(vm, workspace, &git, &target, &changes)
            .await?;

        progress.tell("workspace", "merging");
        let after = target.merge(&git, &patch).await?;
        let files = target.touched(&git, &before, &after).await?;
        let bytes = target.bytes_of(&git, &files).await?;
        let bytes = refuse_written(bytes).map_err(|source| WorkspaceError::TooMuch {
            vm: vm.name.clone(),
            source,
        })?;
        self.inner.check_room(&target.shadow.root, bytes).await?;
        target.refuse_in_the_way(&git, &files).await?;
        target.switch(&git, Rehearse::Yes, &before, &after).await?;
        if request.effect == Effect::Check || files.is_empty() {
            return Ok(nothing(files));
        }
        Ok(Merged::Ready(Box::new(Ready {
            target,
            before,
            after,
            files,
            notes,
        })))
    }

    /// Writes the patch to a file, piece by piece, and returns its length, and what should be known of it.
    async fn save_patch(
        &self,
        vm: &VMRecord,
        base: Option<&str>,
        to: &Path,
    ) -> Result<(u64, Vec<String>), Error> {
        let mut export = self.workspace_export(vm.id.as_str(), base).await?;
        let file = self
            .inner
            .host()
            .new_file(to)
            .await
            .map_err(WorkspaceError::from)?;
        let (mut bytes, mut bounds) = (0, PatchBounds::default());
        while let Some(piece) = export.next().await? {
            bytes += piece.len() as u64;
            bounds
                .take(&piece)
                .map_err(|source| WorkspaceError::TooMuch {
                    vm: vm.name.clone(),
                    source,
                })?;
            let (file, path) = (file.clone(), to.to_owned());
            blocking(move || {
                use std::io::Write;
                (&*file)
                    .write_all(&piece)
                    .map_err(|error| WorkspaceError::Files {
                        path,
                        said: error.to_string(),
                    })
            })
            .await?;
        }
        Ok((bytes, export.notes().to_vec()))
    }

    /// Fetches what the patch begins from, as far as the repository here does not have it: a merge needs
    /// it. The guest names what it changed; only objects are taken, and their names are what they hold.
    async fn fetch_missing(
        &self,
        vm: &VMRecord,
        workspace: &Workspace,
        git: &Git<'_>,
        target: &Target,
        changes: &[Change],
    ) -> Result<(), Error> {
        let is_known = |id: &&str| id.bytes().any(|digit| digit != b'0');
        let files = changes
            .iter()
            .filter(|change| change.old_mode != MODE_SUBMODULE);
        let old: Vec<&str> = files
            .map(|change| change.old_object.as_str())
            .filter(is_known)
            .collect();
        let list = old.iter().flat_map(|id| [id, "\n"]).collect::<String>();
        let check = ["cat-file", "--batch-check"];
        let found = target
            .shadow
            .git(git, "cat-file", &check, list.as_bytes())
            .await?;
        let found = String::from_utf8_lossy(&found);
        let missing: String = found
            .lines()
            .filter_map(|line| line.strip_suffix(" missing"))
            .flat_map(|id| [id, "\n"])
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let connection = self.connection(vm, self.inner.config.limits.ready).await?;
        let script = blobs_script(&workspace.dest()?);
        let silence = self.inner.config.limits.workspace;
        let mut running = start_script(&connection, "export", vm, &script, silence).await?;
        let mut input = running.stdin.take();
        let mut words = target.shadow.words();
        let most = format!("--max-input-size={LARGEST_PATCH}");
        words.extend(words!["unpack-objects", "-q", most]);
        let PipedProgram {
            stdin,
            stdout: _stdout,
            end,
        } = self.inner.host().pipe(&program(words)).await?;
        let ask = async {
            if let Some(mut input) = input.take() {
                let _ = input.write_all(missing.as_bytes()).await;
                let _ = input.shutdown().await;
            }
        };
        let carry = async {
            let Some(mut stdin) = stdin else {
                return Ok(());
            };
            while let Some(piece) = running.next().await? {
                if stdin.write_all(piece).await.is_err() {
                    break;
                }
            }
            let _ = stdin.shutdown().await;
            Ok::<(), Error>(())
        };
        let ((), carried) = tokio::join!(ask, carry);
        // Without them the patch may still fit as it stands: that is for the merge to say.
        if let Err(error) = carried {
            tracing::info!(%error, "the guest did not hand out what its patch begins from");
        }
        let end = end.await?;
        if !end.success() {
            tracing::info!(
                said = end.last_lines(1),
                "what the guest's patch begins from was not understood"
            );
        }
        Ok(())
    }
}

/// What came of the merge.
enum Merged {
    /// Nothing is to be written.
    Nothing(Applied),
    /// All of it fits.
    Ready(Box<Ready>),
}

/// Changes that fit, before the first of them is written.
struct Ready {
    target: Target,
    before: String,
    after: String,
    files: Vec<TouchedFile>,
    notes: Vec<String>,
}

impl Ready {
    async fn write(
        self,
        git: &Git<'_>,
        vm: &VMRecord,
        folder: &Path,
    ) -> Result<Applied, WorkspaceError> {
        let Ready {
            target,
            before,
            after,
            files,
            notes,
        } = self;
        let undo_ref = target.write(git, vm, &before, &after, folder).await?;
        Ok(Applied {
            root: ByteText(target.root_bytes()),
            files,
            undo_ref: Some(undo_ref),
            notes,
        })
    }
}

/// Whether a switch is only tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rehearse {
    Yes,
    No,
}

/// The repository that changes go to.
pub(super) struct Target {
    pub(super) repository: Repository,
    pub(super) shadow: Shadow,
    head: String,
}

impl Target {
    pub(super) async fn open(
        engine: &Engine,
        git: &Git<'_>,
        workspace: &Workspace,
        source: Option<&Source>,
        folder: &Path,
    ) -> Result<Self, WorkspaceError> {
        let source = source.cloned().unwrap_or_else(|| Source {
            path: workspace.root().to_owned(),
            ownership: Ownership::OurOwn,
        });
        let mut repository = Repository::open(git, &source).await?;
        let root = repository.root.clone();
        let refused = |source| WorkspaceError::Refused { path: root, source };
        use banger_session::workspace::InspectRefusal::{Bare, NoCommit};
        if repository.found.bare {
            return Err(refused(Bare));
        }
        let home = engine.inner.config.user_home.as_deref();
        let user = UserSettings::read(git, home).await?;
        let shadow = Shadow::make(git, folder.join("shadow"), &mut repository, &user).await?;
        let head = repository.head.clone().ok_or_else(|| refused(NoCommit))?;
        Ok(Target {
            repository,
            shadow,
            head,
        })
    }

    pub(super) fn root_bytes(&self) -> Vec<u8> {
        use std::os::unix::ffi::OsStrExt;
        self.repository.root.as_os_str().as_bytes().to_vec()
    }

    /// Takes the working tree's tracked files into our index, and returns their tree.
    async fn take_up(&self, git: &Git<'_>) -> Result<String, WorkspaceError> {
        let status = self.shadow.status(git, "--untracked-files=no").await?;
        if status.unmerged > 0 {
            return Err(WorkspaceError::FilesInTheWay {
                path: self.repository.root.clone(),
                said: "the repository is in the middle of a merge".to_owned(),
            });
        }
        let mut list = Vec::new();
        for path in status.changed.iter().chain(&status.deleted) {
            list.extend_from_slice(path);
            list.push(0);
        }
        let words = ["update-index", "--add", "--remove", "-z", "--stdin"];
        self.shadow.git(git, "update-index", &words, &list).await?;
        self.tree(git).await
    }

    /// Takes up what git does not track here and was carried all the same (`--include-untracked`): the guest had it
    /// from here, so its changes are merged with what is here now, and can be taken back.
    async fn take_up_carried(
        &self,
        git: &Git<'_>,
        changes: &[Change],
        before: String,
    ) -> Result<String, WorkspaceError> {
        let had = changes
            .iter()
            .filter(|change| !matches!(change.old_mode, 0 | MODE_SUBMODULE));
        let had = had.map(|change| change.old_path.as_ref().unwrap_or(&change.path).clone());
        let had: Vec<Vec<u8>> = had.collect();
        refuse_bad(had.iter().map(Vec::as_slice))?;
        let root = self.repository.root.clone();
        let list = blocking(move || {
            let tree = Folder::open(&root).map_err(refused)?;
            // What lies behind a link, and what is no file, is told by whoever would write it.
            let is_file = |path: &&Vec<u8>| {
                let kind = tree.kind(path_of(path)).ok().flatten();
                matches!(kind, Some(Kind::File | Kind::Link))
            };
            let there = had.iter().filter(is_file);
            let list = there.flat_map(|path| path.iter().copied().chain([0]));
            Ok::<Vec<u8>, WorkspaceError>(list.collect())
        });
        let list = list.await?;
        if list.is_empty() {
            return Ok(before);
        }
        let words = ["update-index", "--add", "-z", "--stdin"];
        self.shadow.git(git, "update-index", &words, &list).await?;
        self.tree(git).await
    }

    async fn tree(&self, git: &Git<'_>) -> Result<String, WorkspaceError> {
        Ok(word_in(
            &self
                .shadow
                .git(git, "write-tree", &["write-tree"], &[])
                .await?,
        ))
    }

    /// Refuses a patch by the names that it spells, before git does anything with them.
    async fn check_names(&self, git: &Git<'_>, patch: &Path) -> Result<(), WorkspaceError> {
        let mut words = self.shadow.words();
        words.extend(words!["apply", "--numstat", "-z", patch]);
        let output = git.run(words, &[]).await?;
        refuse_bad(
            parse_numstat_paths(&output.stdout)
                .iter()
                .map(Vec::as_slice),
        )?;
        match output.success() {
            true => Ok(()),
            false => Err(self.not_applied(&output.stderr)),
        }
    }

    /// Merges the patch into our index, and returns the tree that it makes.
    async fn merge(&self, git: &Git<'_>, patch: &Path) -> Result<String, WorkspaceError> {
        let (index, kept) = (self.shadow.file("index"), self.shadow.file("index.before"));
        git.host.clone_file(&index, &kept).await?;
        let mut words = self.shadow.words();
        words.extend(words![
            "apply",
            "--cached",
            "--3way",
            "--binary",
            "--whitespace=nowarn",
            patch
        ]);
        let output = git.run(words, &[]).await?;
        let unmerged = self
            .shadow
            .git(git, "ls-files", &["ls-files", "-u", "-z"], &[])
            .await?;
        let mut paths: Vec<String> = unmerged
            .split(|&byte| byte == 0)
            .filter_map(|record| record.splitn(2, |&byte| byte == b'\t').nth(1))
            .map(|path| String::from_utf8_lossy(path).into_owned())
            .collect();
        paths.dedup();
        if !paths.is_empty() {
            return Err(WorkspaceError::Conflict { paths });
        }
        if !output.success() {
            return Err(self.not_applied(&output.stderr));
        }
        let after = self.tree(git).await?;
        git.host.rename(&kept, &index).await?;
        Ok(after)
    }

    /// What git says of a patch that it does not take, in our words.
    fn not_applied(&self, stderr: &[u8]) -> WorkspaceError {
        let said = String::from_utf8_lossy(stderr);
        let mut hostile = Vec::new();
        let mut paths = Vec::new();
        for line in said.lines() {
            let line = line.strip_prefix("error: ").unwrap_or(line);
            if let Some(path) = between(line, "affected file '", "' is beyond a symbolic link") {
                hostile.push((path, "it lies behind a symlink".to_owned()));
            } else if let Some(path) = between(line, "invalid path '", "'") {
                hostile.push((
                    path,
                    "it leads out of the repository, or into git's own folder".to_owned(),
                ));
            } else if let Some((path, why)) = line.split_once(": ")
                && [
                    "patch does not apply",
                    "does not exist in index",
                    "already exists in index",
                ]
                .contains(&why)
            {
                match check_path(path.as_bytes()) {
                    Ok(()) => paths.push(path.to_owned()),
                    Err(why) => hostile.push((path.to_owned(), why.to_string())),
                }
            }
        }
        match (hostile.is_empty(), paths.is_empty()) {
            (false, _) => WorkspaceError::HostilePatch { files: hostile },
            (true, false) => WorkspaceError::Conflict { paths },
            (true, true) => WorkspaceError::Git {
                act: "apply",
                path: self.repository.root.clone(),
                said: said.lines().next_back().unwrap_or_default().to_owned(),
            },
        }
    }

    /// Reads off the two trees what is touched, and checks each path once more.
    pub(super) async fn touched(
        &self,
        git: &Git<'_>,
        before: &str,
        after: &str,
    ) -> Result<Vec<TouchedFile>, WorkspaceError> {
        let words = [
            "diff-tree",
            "-r",
            "-z",
            "--raw",
            "--numstat",
            "-M",
            "--no-abbrev",
            "--no-ext-diff",
            "--no-textconv",
            before,
            after,
        ];
        let list = self.shadow.git(git, "diff-tree", &words, &[]).await?;
        let changes = parse_changes(&list)?;
        let both = changes.iter().flat_map(|change| {
            std::iter::once(change.path.as_slice()).chain(change.old_path.as_deref())
        });
        refuse_bad(both)?;
        let mut files = Vec::new();
        for change in changes {
            let look = self.look(git, &change).await?;
            files.push(TouchedFile { change, look });
        }
        Ok(files)
    }

    /// How long each file is that would be written.
    async fn bytes_of(
        &self,
        git: &Git<'_>,
        files: &[TouchedFile],
    ) -> Result<Vec<u64>, WorkspaceError> {
        let written = files.iter().map(|file| &file.change);
        let written = written.filter(|change| !matches!(change.new_mode, 0 | MODE_SUBMODULE));
        let list: String = written
            .flat_map(|change| [change.new_object.as_str(), "\n"])
            .collect();
        let words = ["cat-file", "--batch-check=%(objectsize)"];
        let said = self
            .shadow
            .git(git, "cat-file", &words, list.as_bytes())
            .await?;
        let said = String::from_utf8_lossy(&said);
        // One that is missing is told by who writes it.
        Ok(said.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Refuses what would be made where something is already that is not in the tree before: what git does not
    /// track, or ignores, is nobody's to replace.
    /// Nor is what is there of a file that a sparse checkout leaves out.
    pub(super) async fn refuse_in_the_way(
        &self,
        git: &Git<'_>,
        files: &[TouchedFile],
    ) -> Result<(), WorkspaceError> {
        let left_out = self.shadow.overlooked(git).await?;
        let left_out: std::collections::BTreeSet<_> = left_out
            .into_iter()
            .filter_map(|(tag, path)| (tag == b'S').then_some(path))
            .collect();
        let made: Vec<Vec<u8>> = files
            .iter()
            .map(|file| &file.change)
            .filter(|change| {
                let is_new = change.old_mode == 0 || change.old_path.is_some();
                left_out.contains(&change.path) || (change.new_mode != 0 && is_new)
            })
            .map(|change| change.path.clone())
            .collect();
        let gone: std::collections::BTreeSet<Vec<u8>> = files
            .iter()
            .map(|file| &file.change)
            .filter(|change| change.old_mode != 0)
            .filter(|change| change.new_mode == 0 || change.old_path.is_some())
            .map(|change| {
                change
                    .old_path
                    .clone()
                    .unwrap_or_else(|| change.path.clone())
            })
            .collect();
        let root = self.repository.root.clone();
        blocking(move || {
            let found = in_the_way(&root, &made, &gone)?;
            match found.is_empty() {
                true => Ok(()),
                false => Err(WorkspaceError::FilesInTheWay {
                    said: format!("not tracked here: {}", found.join(", ")),
                    path: root,
                }),
            }
        })
        .await
    }

    async fn look(&self, git: &Git<'_>, change: &Change) -> Result<Option<String>, WorkspaceError> {
        if change.new_mode == MODE_SUBMODULE || change.old_mode == MODE_SUBMODULE {
            return Ok(Some(
                "it is a submodule: another repository's commit".to_owned(),
            ));
        }
        if change.new_mode == MODE_SYMLINK {
            let words = ["cat-file", "blob", &change.new_object];
            let target = self.shadow.git(git, "cat-file", &words, &[]).await?;
            if leads_out(&change.path, &target) {
                let target = String::from_utf8_lossy(&target).into_owned();
                return Ok(Some(format!(
                    "it is a symlink out of the repository, to {target:?}"
                )));
            }
            return Ok(None);
        }
        match change.new_mode {
            0 => Ok(None),
            _ => Ok(runs_by_itself(&change.path).map(str::to_owned)),
        }
    }

    /// Brings the files from one tree to another; our index must hold the first, as the files are. All or
    /// nothing: git looks at every file before it writes the first.
    pub(super) async fn switch(
        &self,
        git: &Git<'_>,
        rehearse: Rehearse,
        from: &str,
        to: &str,
    ) -> Result<(), WorkspaceError> {
        let mut words = self.shadow.words();
        // A change outside of a sparse checkout is written too: nothing else would say that it is there.
        words.extend(words![
            "-c",
            "core.sparseCheckout=false",
            "read-tree",
            "-m",
            "-u"
        ]);
        if rehearse == Rehearse::Yes {
            words.push("--dry-run".into());
        }
        words.extend(words![from, to]);
        let output = git.run(words, &[]).await?;
        match output.success() {
            true => Ok(()),
            false => Err(WorkspaceError::FilesInTheWay {
                path: self.repository.root.clone(),
                said: output
                    .last_lines(3)
                    .replace("error: ", "")
                    .replace('\n', "; "),
            }),
        }
    }

    /// Writes objects, then the ref, then the files.
    async fn write(
        &self,
        git: &Git<'_>,
        vm: &VMRecord,
        before: &str,
        after: &str,
        folder: &Path,
    ) -> Result<String, WorkspaceError> {
        let undo_ref = undo_ref(vm.name.as_str());
        let earlier = self.undo_commit(git, &undo_ref).await?;
        let message = format!("what was applied from {}", vm.name);
        let words = [
            "commit-tree",
            before,
            "-p",
            &self.head,
            "-m",
            "as it was before",
        ];
        let was = word_in(&self.shadow.git(git, "commit-tree", &words, &[]).await?);
        let mut words = vec!["commit-tree", after, "-p", &was, "-m", &message];
        if let Some(earlier) = &earlier {
            words.extend(["-p", earlier]);
        }
        let now = word_in(&self.shadow.git(git, "commit-tree", &words, &[]).await?);
        // Copied in as files: no git runs in the repository for that.
        let base = folder.join("undo");
        let mut words = self.shadow.words();
        words.extend(words!["pack-objects", "-q", "--revs", &base]);
        let wanted = match &earlier {
            Some(earlier) => format!("{now}\n^{}\n^{earlier}\n", self.head),
            None => format!("{now}\n^{}\n", self.head),
        };
        let packed = git.must(
            "pack-objects",
            &self.repository.root,
            words,
            wanted.as_bytes(),
        );
        let id = word_in(&packed.await?);
        put_pack(&self.repository, folder, &id).await?;
        self.point(git, &undo_ref, Some(&now)).await?;
        if let Err(error) = self.switch(git, Rehearse::No, before, after).await {
            self.point(git, &undo_ref, earlier.as_deref()).await?;
            return Err(error);
        }
        Ok(undo_ref)
    }

    /// Returns where the ref to undo by points.
    pub(super) async fn undo_commit(
        &self,
        git: &Git<'_>,
        undo_ref: &str,
    ) -> Result<Option<String>, WorkspaceError> {
        let words = ["rev-parse", "--verify", "-q", undo_ref];
        self.shadow.ask(git, &words).await
    }

    /// Moves or removes the ref to undo by, in the repository itself.
    pub(super) async fn point(
        &self,
        git: &Git<'_>,
        undo_ref: &str,
        to: Option<&str>,
    ) -> Result<(), WorkspaceError> {
        let scratch = self.shadow.file("tables-of-refs");
        point(git, &self.repository, undo_ref, to, &scratch).await
    }
}

fn refuse_bad<'a>(paths: impl Iterator<Item = &'a [u8]>) -> Result<(), WorkspaceError> {
    let bad = paths.filter_map(|path| {
        let why = check_path(path).err()?;
        Some((String::from_utf8_lossy(path).into_owned(), why.to_string()))
    });
    let files: Vec<_> = bad.collect();
    match files.is_empty() {
        true => Ok(()),
        false => Err(WorkspaceError::HostilePatch { files }),
    }
}

fn between(line: &str, before: &str, after: &str) -> Option<String> {
    let rest = &line[line.find(before)? + before.len()..];
    Some(rest[..rest.find(after)?].to_owned())
}
