//! A git dir of ours over somebody's repository.
//!
//! It borrows the repository's objects, holds copies of its refs and its index, and has a configuration of its
//! own: whatever the repository has configured (filters, hooks, fsmonitor, external diff, includes, remotes)
//! does not exist in it. Every question is asked of it, never of the repository. Its own objects are written
//! here, and go when it goes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use banger_foreign::{Folder, ForeignError, Kind, TreeLimits};
use banger_session::workspace::{
    Head, Status, check_index, config_text, parse_status, quoted_path,
};

use crate::host::HostError;
use crate::workspace::WorkspaceError;
use crate::workspace::find::{Found, object_folders};
use crate::workspace::git::{Git, option, path_of, word_in};
use crate::workspace::odd::refuse_odd;
use crate::workspace::open::{Repository, UserSettings, blocking};
use crate::workspace::record::Untracked;

/// The most that an index may have, in bytes: some 600,000 files.
const LONGEST_INDEX: u64 = 64 << 20;

/// The most that a file of lists may have: packed refs, what is excluded, where the history is cut.
const LONGEST_LIST: u64 = 32 << 20;

/// The most that one file of a working tree may have that differs from what is checked out, in bytes.
const LARGEST_FILE: u64 = 4 << 30;

/// What the refs of a repository may take.
pub(super) const REFS: TreeLimits = TreeLimits {
    entries: 200_000,
    depth: 32,
    file_bytes: 64 << 20,
    bytes: 128 << 20,
};

/// What the folders of objects may hold. Their bytes are not copied.
const OBJECTS: TreeLimits = TreeLimits {
    entries: 5_000_000,
    depth: 4,
    file_bytes: u64::MAX,
    bytes: u64::MAX,
};

/// A shadow of a repository.
#[derive(Clone, Debug)]
pub(super) struct Shadow {
    pub(super) git_dir: PathBuf,
    pub(super) root: PathBuf,
}

impl Shadow {
    /// The files whose changes git was told to overlook, each with its tag (git-ls-files(1)): S for skip-worktree, of
    /// which a sparse checkout is made, and a small letter for assume-unchanged.
    pub(super) async fn overlooked(
        &self,
        git: &Git<'_>,
    ) -> Result<Vec<(u8, Vec<u8>)>, WorkspaceError> {
        let listed = self
            .git(git, "ls-files", &["ls-files", "-v", "-z"], &[])
            .await?;
        let lines = listed.split(|&byte| byte == 0);
        let tagged = lines.filter_map(|line| Some((*line.first()?, line.get(2..)?.to_vec())));
        Ok(tagged
            .filter(|(tag, _)| *tag == b'S' || tag.is_ascii_lowercase())
            .collect())
    }

    /// Makes the shadow of a repository in a folder that is not there yet, and learns from it what is checked
    /// out.
    pub(super) async fn make(
        git: &Git<'_>,
        folder: PathBuf,
        repository: &mut Repository,
        user: &UserSettings,
    ) -> Result<Self, WorkspaceError> {
        let shadow = Self::of_refs(git, folder, repository, user).await?;
        let hash_bytes = match repository.object_format() {
            "sha256" => 32,
            _ => 20,
        };
        let (found, to) = (repository.found.clone(), shadow.git_dir.clone());
        let borrowed = blocking(move || copy_in(&found, &to, hash_bytes)).await?;
        let alternates = shadow.file("objects/info/alternates");
        git.host
            .write_file(&alternates, borrowed.as_bytes(), 0o600)
            .await?;
        let head = ["rev-parse", "--verify", "-q", "HEAD^{commit}"];
        repository.head = shadow.ask(git, &head).await?;
        let branch = shadow.ask(git, &["symbolic-ref", "-q", "HEAD"]).await?;
        if let Some(name) = branch
            .as_deref()
            .and_then(|name| name.strip_prefix("refs/heads/"))
        {
            repository.branch = Head::Branch(name.to_owned());
        }
        Ok(shadow)
    }

    /// Makes one of a repository's refs alone, which can be asked where they point: neither its objects nor its
    /// files.
    pub(super) async fn of_refs(
        git: &Git<'_>,
        folder: PathBuf,
        repository: &Repository,
        user: &UserSettings,
    ) -> Result<Self, WorkspaceError> {
        let host = git.host;
        for below in ["objects/info", "objects/pack", "refs/heads", "info"] {
            host.create_dir(&folder.join(below)).await?;
        }
        host.write_file(
            &folder.join("config"),
            configuration(repository, user).as_bytes(),
            0o600,
        )
        .await?;
        let is_reftable = repository.ref_storage() == "reftable";
        let (found, to) = (repository.found.clone(), folder.clone());
        blocking(move || copy_refs(&found, &to, is_reftable)).await?;
        let shadow = Shadow {
            git_dir: folder,
            root: repository.root.clone(),
        };
        if is_reftable && repository.found.git_dir != repository.found.common_dir {
            shadow.take_head_of_tables(git, repository).await?;
        }
        Ok(shadow)
    }

    /// Takes over what a linked worktree has checked out, which its own tables of refs tell: those alone, in a git
    /// dir of ours, are asked for it.
    async fn take_head_of_tables(
        &self,
        git: &Git<'_>,
        repository: &Repository,
    ) -> Result<(), WorkspaceError> {
        let own = self.git_dir.join("worktree");
        for below in ["refs", "objects"] {
            git.host.create_dir(&own.join(below)).await?;
        }
        for name in ["config", "HEAD"] {
            let text = match name {
                "HEAD" => Some(b"ref: refs/heads/.invalid\n".to_vec()),
                name => git.host.read_file(&self.git_dir.join(name)).await?,
            };
            let text = text.unwrap_or_default();
            git.host.write_file(&own.join(name), &text, 0o600).await?;
        }
        let (from, to) = (repository.found.git_dir.clone(), own.join("reftable"));
        blocking(move || {
            let folder = Folder::open(&from).map_err(HostError::from)?;
            let copied = folder.copy_tree(Path::new("reftable"), &to, REFS);
            Ok(copied.map_err(HostError::from)?)
        })
        .await?;
        let ask = async |words: &[&str]| {
            let words =
                std::iter::once(option("--git-dir", &own)).chain(words.iter().map(Into::into));
            let output = git.run(words, &[]).await?;
            Ok::<_, WorkspaceError>(output.success().then(|| word_in(&output.stdout)))
        };
        match ask(&["symbolic-ref", "-q", "HEAD"]).await? {
            Some(branch) => {
                let words = ["symbolic-ref", "HEAD", &branch];
                self.git(git, "symbolic-ref", &words, &[]).await?;
            }
            None => {
                if let Some(commit) = ask(&["rev-parse", "--verify", "-q", "HEAD"]).await? {
                    let words = ["update-ref", "--no-deref", "HEAD", &commit];
                    self.git(git, "update-ref", &words, &[]).await?;
                }
            }
        }
        Ok(())
    }

    /// Runs git in it, on the working tree of the repository. It must succeed.
    pub(super) async fn git(
        &self,
        git: &Git<'_>,
        act: &'static str,
        words: &[&str],
        input: &[u8],
    ) -> Result<Vec<u8>, WorkspaceError> {
        let words = self.words().into_iter().chain(words.iter().map(Into::into));
        git.must(act, &self.root, words, input).await
    }

    /// Asks git something in it; none if its answer is no.
    pub(super) async fn ask(
        &self,
        git: &Git<'_>,
        words: &[&str],
    ) -> Result<Option<String>, WorkspaceError> {
        let words = self.words().into_iter().chain(words.iter().map(Into::into));
        let output = git.run(words, &[]).await?;
        Ok(output.success().then(|| word_in(&output.stdout)))
    }

    /// Returns the commit that a name stands for in the repository.
    pub(super) async fn commit(&self, git: &Git<'_>, name: &str) -> Result<String, WorkspaceError> {
        let unknown = || WorkspaceError::NoSuchName {
            what: "the commit",
            name: name.to_owned(),
            path: self.root.clone(),
        };
        if name.starts_with('-') {
            return Err(unknown());
        }
        let wanted = format!("{name}^{{commit}}");
        let words = ["rev-parse", "--verify", "-q", &wanted];
        self.ask(git, &words).await?.ok_or_else(unknown)
    }

    /// What differs from what is checked out, with these of the untracked files (`--untracked-files=…`).
    pub(super) async fn status(
        &self,
        git: &Git<'_>,
        untracked: &str,
    ) -> Result<Status, WorkspaceError> {
        let root = self.root.clone();
        blocking(move || refuse_odd(&root)).await?;
        let words = [
            "status",
            "--porcelain=v2",
            "-z",
            "--no-renames",
            "--ignore-submodules=all",
            untracked,
        ];
        let output = self.git(git, "status", &words, &[]).await?;
        let status = parse_status(&output)?;
        // What differs is read as a whole: hashed, packed, sent.
        let differ: Vec<_> = status
            .changed
            .iter()
            .chain(&status.untracked)
            .cloned()
            .collect();
        let root = self.root.clone();
        blocking(move || refuse_large(&root, &differ)).await?;
        Ok(status)
    }

    /// Takes the files that differ into its index, as they are, and returns their tree with all that does not differ.
    pub(super) async fn take_up(
        &self,
        git: &Git<'_>,
        status: &Status,
        untracked: Untracked,
    ) -> Result<String, WorkspaceError> {
        let mut differ = status.changed.clone();
        if untracked == Untracked::Carry {
            differ.extend(status.untracked.iter().cloned());
        }
        let root = self.root.clone();
        let differ = blocking(move || those_that_are_files(&root, &differ)).await?;
        // A file that lies behind a link now is gone, and its path not to be followed.
        let how = [
            (&status.deleted, ["--force-remove", "--remove"]),
            (&differ, ["--add", "--remove"]),
        ];
        for (paths, [one, other]) in how {
            let list = paths
                .iter()
                .flat_map(|path| path.iter().copied().chain([0]));
            let list: Vec<u8> = list.collect();
            let words = ["update-index", one, other, "-z", "--stdin"];
            self.git(git, "update-index", &words, &list).await?;
        }
        // Files that were touched, and are as they were, are no changes.
        let words = ["update-index", "-q", "--ignore-submodules", "--refresh"];
        let _ = self.git(git, "update-index", &words, &[]).await;
        self.tree(git).await
    }

    /// The tree of its index.
    pub(super) async fn tree(&self, git: &Git<'_>) -> Result<String, WorkspaceError> {
        let written = self.git(git, "write-tree", &["write-tree"], &[]).await?;
        Ok(word_in(&written))
    }

    /// The words that go before a command in it.
    pub(super) fn words(&self) -> Vec<OsString> {
        vec![
            "-C".into(),
            self.root.clone().into(),
            option("--git-dir", &self.git_dir),
            option("--work-tree", &self.root),
        ]
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.git_dir.join(name)
    }
}

/// Copies the refs, in bounds. Blocks.
fn copy_refs(found: &Found, to: &Path, is_reftable: bool) -> Result<(), WorkspaceError> {
    let common = Folder::open(&found.common_dir).map_err(refused)?;
    let own = Folder::open(&found.git_dir).map_err(refused)?;
    copy_one(&own, "HEAD", to, 4096)?;
    copy_one(&common, "packed-refs", to, LONGEST_LIST)?;
    // A linked worktree's HEAD is in tables of its own: those alone are asked for it.
    let refs = if is_reftable { "reftable" } else { "refs" };
    common
        .copy_tree(Path::new(refs), &to.join(refs), REFS)
        .map_err(refused)
}

/// Copies one file, in bounds, and says whether it is there.
fn copy_one(folder: &Folder, name: &str, to: &Path, limit: u64) -> Result<bool, WorkspaceError> {
    let copied = folder.copy_to(Path::new(name), &to.join(name), limit);
    Ok(copied.map_err(refused)?.is_some())
}

pub(super) fn refused(error: ForeignError) -> WorkspaceError {
    HostError::from(error).into()
}

/// Copies what the shadow is made of besides its refs, each in bounds, and returns where its objects lie, as
/// `objects/info/alternates` has it. Blocks.
fn copy_in(found: &Found, to: &Path, hash_bytes: usize) -> Result<String, WorkspaceError> {
    let common = Folder::open(&found.common_dir).map_err(refused)?;
    let own = Folder::open(&found.git_dir).map_err(refused)?;
    let mut alternates = String::new();
    for objects in object_folders(found)? {
        // git opens what lies there by its name: nothing but files may.
        let folder = Folder::open(&objects).map_err(refused)?;
        folder
            .walk(Path::new(""), OBJECTS, &mut |_, _| Ok(()))
            .map_err(refused)?;
        alternates.push_str(&quoted_path(objects.as_os_str().as_bytes()));
        alternates.push('\n');
    }
    copy_one(&common, "shallow", to, LONGEST_LIST)?;
    copy_one(&common, "info/exclude", to, LONGEST_LIST)?;
    copy_one(&own, "info/sparse-checkout", to, LONGEST_LIST)?;
    copy_one(&own, "index", to, LONGEST_INDEX)?;
    let ours = Folder::open(to).map_err(refused)?;
    let mut next = Some("index".to_owned());
    while let Some(name) = next.take() {
        // The copy, which nobody else changes any more.
        let read = ours
            .read(Path::new(&name), LONGEST_INDEX)
            .map_err(refused)?;
        let Some(bytes) = read else { break };
        let facts = check_index(&bytes, hash_bytes).map_err(|source| WorkspaceError::Index {
            path: found.root.clone(),
            source,
        })?;
        if let Some(shared) = facts.shared {
            let name = format!("sharedindex.{shared}");
            let is_there = ours.kind(Path::new(&name)).map_err(refused)?.is_some();
            if !is_there && copy_one(&own, &name, to, LONGEST_INDEX)? {
                next = Some(name);
            }
        }
    }
    Ok(alternates)
}

/// Those of these paths at which there is a file or a link; what lies behind a link is none. Blocks.
pub(super) fn those_that_are_files(
    root: &Path,
    paths: &[Vec<u8>],
) -> Result<Vec<Vec<u8>>, WorkspaceError> {
    let tree = Folder::open(root).map_err(refused)?;
    let is_file = |path: &&Vec<u8>| {
        let kind = tree.kind(path_of(path)).ok().flatten();
        matches!(kind, Some(Kind::File | Kind::Link))
    };
    Ok(paths.iter().filter(is_file).cloned().collect())
}

pub(super) fn refuse_large(root: &Path, paths: &[Vec<u8>]) -> Result<(), WorkspaceError> {
    let tree = Folder::open(root).map_err(refused)?;
    for path in paths {
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        // Whatever else is there now is told by whoever reads it.
        if is_longer(&tree.stat(path).ok().flatten(), LARGEST_FILE) {
            return Err(refused(ForeignError::TooLarge {
                path: root.join(path),
                limit: LARGEST_FILE,
            }));
        }
    }
    Ok(())
}

fn is_longer(stat: &Option<banger_foreign::Stat>, limit: u64) -> bool {
    let length = |stat: &banger_foreign::Stat| u64::try_from(stat.st_size).unwrap_or_default();
    stat.as_ref().is_some_and(|stat| length(stat) > limit)
}

/// Values that change how git reads the files of a working tree, and run nothing.
const KEPT: [&str; 5] = ["autocrlf", "eol", "filemode", "symlinks", "ignorecase"];

pub(super) fn kept_core_values(
    repository: &Repository,
    user: &UserSettings,
) -> Vec<(&'static str, String)> {
    let kept = KEPT.into_iter().filter_map(|key| {
        let full = format!("core.{key}");
        let value = repository.value(&full).or_else(|| user.value(&full))?;
        Some((key, value.to_owned()))
    });
    kept.collect()
}

/// What says of which kind a repository's object names are.
pub(super) fn format_version(repository: &Repository) -> (String, Option<String>) {
    match repository.object_format() {
        "sha1" => ("0".to_owned(), None),
        other => ("1".to_owned(), Some(other.to_owned())),
    }
}

fn configuration(repository: &Repository, user: &UserSettings) -> String {
    let (mut version, format) = format_version(repository);
    let mut extensions = Vec::new();
    if let Some(format) = format {
        extensions.push(("objectformat", format));
    }
    if repository.ref_storage() != "files" {
        version = "1".to_owned();
        extensions.push(("refstorage", repository.ref_storage().to_owned()));
    }
    let mut core = vec![
        ("repositoryformatversion", version),
        ("bare", "false".to_owned()),
        ("safecrlf", "false".to_owned()),
    ];
    core.extend(kept_core_values(repository, user));
    for key in ["sparsecheckout", "sparsecheckoutcone"] {
        if let Some(value) = repository.value(&format!("core.{key}")) {
            core.push((key, value.to_owned()));
        }
    }
    if let Some(file) = user.ignore_file.as_deref().and_then(Path::to_str) {
        core.push(("excludesfile", file.to_owned()));
    }
    let mut sections = vec![("core", None, core)];
    if let Some(sparse) = repository.value("index.sparse") {
        sections.push(("index", None, vec![("sparse", sparse.to_owned())]));
    }
    if !extensions.is_empty() {
        sections.push(("extensions", None, extensions));
    }
    config_text(&sections)
}
