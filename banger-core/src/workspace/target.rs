//! The repository of the host's that changes go to: its files as they are, the merge, and what is written.

use std::path::Path;

use banger_session::workspace::patch::{
    Change, MODE_SUBMODULE, MODE_SYMLINK, check_path, leads_out, parse_changes, runs_by_itself,
};

use crate::engine::Engine;
use crate::workspace::WorkspaceError;
use crate::workspace::apply::TouchedFile;
use crate::workspace::git::{Git, OLDEST_TO_MERGE, failed, word_in, words};
use crate::workspace::in_the_way::in_the_way;
use crate::workspace::open::{Repository, UserSettings, blocking};
use crate::workspace::record::{Source, Untracked};
use crate::workspace::shadow::{Shadow, refuse_large, those_that_are_files};
use crate::workspace::undo_record::{About, UndoRecord};
use crate::workspace::undo_ref::{point, put_pack};

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
        source: &Source,
        folder: &Path,
    ) -> Result<Self, WorkspaceError> {
        let mut repository = Repository::open(git, source).await?;
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
    pub(super) async fn take_up(&self, git: &Git<'_>) -> Result<String, WorkspaceError> {
        let status = self.shadow.status(git, "--untracked-files=no").await?;
        if status.unmerged > 0 {
            return Err(WorkspaceError::FilesInTheWay {
                path: self.repository.root.clone(),
                said: "the repository is in the middle of a merge".to_owned(),
            });
        }
        self.shadow.take_up(git, &status, Untracked::Leave).await
    }

    /// Takes up what git does not track here and was carried all the same (`--include-untracked`): the guest had it
    /// from here, so its changes are merged with what is here now, and can be taken back.
    pub(super) async fn take_up_carried(
        &self,
        git: &Git<'_>,
        changes: &[Change],
        before: String,
    ) -> Result<String, WorkspaceError> {
        let had = changes
            .iter()
            .filter(|change| !matches!(change.old_mode, 0 | MODE_SUBMODULE));
        let had = had.map(|change| change.was_at().clone());
        let had: Vec<Vec<u8>> = had.collect();
        let root = self.repository.root.clone();
        let list = blocking(move || {
            let there = those_that_are_files(&root, &had)?;
            refuse_large(&root, &there)?;
            let list = there
                .iter()
                .flat_map(|path| path.iter().copied().chain([0]));
            Ok::<Vec<u8>, WorkspaceError>(list.collect())
        });
        let list = list.await?;
        if list.is_empty() {
            return Ok(before);
        }
        let words = ["update-index", "--add", "-z", "--stdin"];
        self.shadow.git(git, "update-index", &words, &list).await?;
        self.shadow.tree(git).await
    }

    /// Merges what was done on both sides since they were alike, as git itself does (git-merge-tree(1)), and returns the
    /// tree that it makes.
    pub(super) async fn merge(
        &self,
        git: &Git<'_>,
        base: &str,
        ours: &str,
        theirs: &str,
    ) -> Result<String, WorkspaceError> {
        let commit = async |tree: &str, parent: Option<&str>| {
            let mut words = vec!["commit-tree", tree, "-m", "to be merged"];
            words.extend(parent.iter().flat_map(|parent| ["-p", parent]));
            let made = self.shadow.git(git, "commit-tree", &words, &[]).await?;
            Ok::<_, WorkspaceError>(word_in(&made))
        };
        let base = commit(base, None).await?;
        let (ours, theirs) = (
            commit(ours, Some(&base)).await?,
            commit(theirs, Some(&base)).await?,
        );
        let mut words = self.shadow.words();
        words.extend(words![
            "merge-tree",
            "--write-tree",
            "-z",
            "--name-only",
            ours,
            theirs
        ]);
        let output = git.run(words, &[]).await?;
        let mut fields = output.stdout.split(|&byte| byte == 0);
        let tree = word_in(fields.next().unwrap_or_default());
        match output.status {
            0 => Ok(tree),
            1 => {
                let paths = fields.take_while(|field| !field.is_empty());
                let mut paths: Vec<String> = paths
                    .map(|path| String::from_utf8_lossy(path).into_owned())
                    .collect();
                paths.dedup();
                Err(WorkspaceError::Conflict { paths })
            }
            // It does not know the words.
            129 => Err(WorkspaceError::OldGit {
                version: "git".to_owned(),
                needed: OLDEST_TO_MERGE,
            }),
            _ => Err(failed("merge-tree", &self.repository.root, &output)),
        }
    }

    /// Returns a tree with the submodules of another: which commit one is on is not carried home, for nothing of it
    /// is checked out by that.
    pub(super) async fn with_submodules_of(
        &self,
        git: &Git<'_>,
        tree: &str,
        changes: &[Change],
    ) -> Result<String, WorkspaceError> {
        let moved = changes.iter().filter(|change| change.is_of_submodule());
        let mut list = Vec::new();
        let mut put = |mode: u32, object: &str, path: &[u8]| {
            list.extend_from_slice(format!("{mode:06o} {object}\t").as_bytes());
            list.extend_from_slice(path);
            list.push(0);
        };
        for change in moved {
            // A mode of 0 takes it out.
            put(0, &change.new_object, &change.path);
            if change.old_mode != 0 {
                put(change.old_mode, &change.old_object, change.was_at());
            }
        }
        if list.is_empty() {
            return Ok(tree.to_owned());
        }
        let (index, kept) = (self.shadow.file("index"), self.shadow.file("index.before"));
        git.host.clone_file(&index, &kept).await?;
        let words = ["read-tree", tree];
        self.shadow.git(git, "read-tree", &words, &[]).await?;
        let words = ["update-index", "-z", "--index-info"];
        self.shadow.git(git, "update-index", &words, &list).await?;
        let tree = self.shadow.tree(git).await?;
        git.host.rename(&kept, &index).await?;
        Ok(tree)
    }

    /// Reads off the two trees what is touched, and checks each path once more.
    pub(super) async fn touched(
        &self,
        git: &Git<'_>,
        before: &str,
        after: &str,
    ) -> Result<Vec<TouchedFile>, WorkspaceError> {
        let changes = changes_between(&self.shadow, git, before, after).await?;
        refuse_bad_changes(&changes)?;
        let mut files = Vec::new();
        for change in changes {
            let look = self.look(git, &change).await?;
            files.push(TouchedFile { change, look });
        }
        Ok(files)
    }

    /// How long each file is that would be written.
    pub(super) async fn bytes_of(
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
            .map(|change| change.was_at().clone())
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
        if change.is_of_submodule() {
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
    pub(super) async fn write(
        &self,
        git: &Git<'_>,
        undo_ref: &str,
        (before, after): (&str, &str),
        about: About,
        folder: &Path,
    ) -> Result<(), WorkspaceError> {
        let there = self.undo_tree(git, undo_ref).await?;
        let earlier = UndoRecord::read(git, &self.shadow, undo_ref).await?;
        let earlier = match earlier {
            Some(record) => Some(record.write(git, &self.shadow).await?),
            None => None,
        };
        let record = UndoRecord {
            before: before.to_owned(),
            after: after.to_owned(),
            earlier,
            about,
        };
        let now = record.write(git, &self.shadow).await?;
        self.keep(git, &now, there.as_deref(), folder).await?;
        self.point(git, undo_ref, Some(&now)).await?;
        if let Err(error) = self.switch(git, Rehearse::No, before, after).await {
            self.point(git, undo_ref, there.as_deref()).await?;
            return Err(error);
        }
        Ok(())
    }

    /// Puts what an object needs into the repository, but for what is there by another. As files: no git runs in the
    /// repository for that.
    pub(super) async fn keep(
        &self,
        git: &Git<'_>,
        object: &str,
        there: Option<&str>,
        folder: &Path,
    ) -> Result<(), WorkspaceError> {
        let base = folder.join("undo");
        let mut words = self.shadow.words();
        words.extend(words!["pack-objects", "-q", "--revs", &base]);
        let there: String = there.iter().map(|there| format!("^{there}\n")).collect();
        let wanted = format!("{object}\n^{}\n{there}", self.head);
        let root = &self.repository.root;
        let packed = git.must("pack-objects", root, words, wanted.as_bytes());
        let id = word_in(&packed.await?);
        put_pack(&self.repository, folder, &id).await
    }

    /// Returns where the ref to undo by points.
    async fn undo_tree(
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

/// What differs between two trees.
pub(super) async fn changes_between(
    shadow: &Shadow,
    git: &Git<'_>,
    before: &str,
    after: &str,
) -> Result<Vec<Change>, WorkspaceError> {
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
    let list = shadow.git(git, "diff-tree", &words, &[]).await?;
    Ok(parse_changes(&list)?)
}

/// Refuses changes by the paths that they name.
pub(super) fn refuse_bad_changes(changes: &[Change]) -> Result<(), WorkspaceError> {
    refuse_bad(changes.iter().flat_map(|change| {
        std::iter::once(change.path.as_slice()).chain(change.old_path.as_deref())
    }))
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
