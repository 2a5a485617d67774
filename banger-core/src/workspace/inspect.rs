//! Looking at a repository before anything is carried.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use banger_foreign::Folder;
use banger_session::workspace::{
    Head, Mode, RepositoryFacts, Status, decide_inspect, parse_submodules,
};
use serde::{Deserialize, Serialize};

use crate::engine::{Engine, random};
use crate::error::Error;
use crate::host::HostError;
use crate::session::ByteText;
use crate::workspace::WorkspaceError;
use crate::workspace::git::{Git, path_of};
use crate::workspace::open::{Repository, UserSettings, blocking};
use crate::workspace::prepare::PrepareRequest;
use crate::workspace::record::{Source, Untracked};
use crate::workspace::shadow::Shadow;

/// What a repository is, and what of it would be carried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// The root of its working tree.
    pub root: ByteText,
    /// The name of its folder.
    pub name: String,
    /// The commit that is checked out.
    pub head: String,
    /// The branch; none if a commit alone is checked out.
    pub branch: Option<String>,
    /// Where it came from, without passwords.
    pub origin: Option<String>,
    /// The name and the address that its commits bear.
    pub identity: Option<(String, String)>,
    /// Files that differ from `head`, and are carried.
    pub changed: Vec<ByteText>,
    /// Files of `head` that are no longer there or no longer tracked, and are removed.
    pub deleted: Vec<ByteText>,
    /// Files that git does not track and does not ignore. Carried only if that was asked for.
    pub untracked: Vec<ByteText>,
    /// Its submodules.
    pub submodules: Vec<ByteText>,
    /// What a person may want to know: of LFS, sparse checkouts, cut histories, merges, nested repositories.
    pub notes: Vec<String>,
}

/// A repository that is looked at: itself, or a submodule.
#[derive(Debug)]
pub(super) struct Part {
    /// Where it lies in the working tree of the first; empty for that.
    pub(super) prefix: Vec<u8>,
    pub(super) repository: Repository,
    pub(super) shadow: Shadow,
    pub(super) status: Status,
    pub(super) head: String,
}

/// A repository with its submodules, and a folder for what is made of them.
#[derive(Debug)]
pub(super) struct Inspected {
    pub(super) parts: Vec<Part>,
    pub(super) user: UserSettings,
    pub(super) inspection: Inspection,
    /// Ours until [`Engine::clear`].
    pub(super) folder: PathBuf,
}

/// A folder for what is made of one repository. It goes with this: whoever asked may go away at any time.
pub(super) struct Staging {
    engine: Engine,
    path: PathBuf,
    is_cleared: bool,
}

impl Staging {
    pub(super) async fn make(engine: &Engine) -> Result<Self, Error> {
        let name: [u8; 6] = random()?;
        let name: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = engine.inner.places.staging().join(name);
        let staging = Staging {
            engine: engine.clone(),
            path,
            is_cleared: false,
        };
        engine.inner.host().create_dir(&staging.path).await?;
        Ok(staging)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it. What cannot be removed now goes when the engine is next opened.
    pub(super) async fn clear(mut self) {
        remove(&self.engine, &self.path).await;
        self.is_cleared = true;
    }
}

impl Inspected {
    /// The trees of all that would be carried, as the files are now.
    pub(super) async fn trees(
        &self,
        git: &Git<'_>,
        untracked: Untracked,
    ) -> Result<String, WorkspaceError> {
        let mut trees = Vec::new();
        for part in &self.parts {
            trees.push(part.shadow.take_up(git, &part.status, untracked).await?);
        }
        Ok(trees.join(" "))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Whoever waited has gone. Without a runtime the next engine sweeps it.
        if !self.is_cleared
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (engine, path) = (self.engine.clone(), std::mem::take(&mut self.path));
            runtime.spawn(async move { remove(&engine, &path).await });
        }
    }
}

async fn remove(engine: &Engine, path: &Path) {
    if let Err(error) = engine.inner.host().remove_tree(path).await {
        tracing::warn!(%error, "could not remove what was made to carry a repository");
    }
}

impl Engine {
    /// Looks at a repository of this host and decides whether it can be carried; carries nothing.
    pub async fn workspace_inspect(&self, request: &PrepareRequest) -> Result<Inspection, Error> {
        let staging = Staging::make(self).await?;
        let inspected = self.inspect_repository(request, staging.path()).await;
        staging.clear().await;
        Ok(inspected?.inspection)
    }

    pub(super) async fn inspect_repository(
        &self,
        request: &PrepareRequest,
        folder: &Path,
    ) -> Result<Inspected, WorkspaceError> {
        let git = Git::new(self.inner.host());
        let home = self.inner.config.user_home.as_deref();
        let user = UserSettings::read(&git, home).await?;
        let mut notes = Vec::new();
        let mut parts: Vec<Part> = Vec::new();
        let mut submodules: Vec<Vec<u8>> = Vec::new();
        let mut wanted = vec![(Vec::new(), request.source.clone())];
        while let Some((prefix, source)) = wanted.pop() {
            let mut repository = Repository::open(&git, &source).await?;
            let own = folder.join(format!("shadow-{}", parts.len()));
            let shadow = Shadow::make(&git, own, &mut repository, &user).await?;
            let listed = match repository.found.bare {
                true => Vec::new(),
                false => {
                    shadow
                        .git(&git, "ls-files", &["ls-files", "-s", "-z"], &[])
                        .await?
                }
            };
            let below = parse_submodules(&listed);
            let facts = RepositoryFacts {
                head: repository.head.clone(),
                bare: repository.found.bare,
                submodules: below.clone(),
            };
            let refused = |source| WorkspaceError::Refused {
                path: repository.root.clone(),
                source,
            };
            let head = decide_inspect(&facts, request.mode).map_err(refused)?;
            for path in below {
                let place = repository.root.join(path_of(&path));
                let full = joined(&prefix, &path);
                // Its path is the index's word, which was checked; a link on it is another's.
                let (root, below) = (repository.root.clone(), path_of(&path).join(".git"));
                let checked_out = blocking(move || {
                    let folder = Folder::open(&root).map_err(HostError::from)?;
                    Ok(folder.kind(&below).map_err(HostError::from)?)
                });
                match checked_out.await? {
                    Some(_) => wanted.push((
                        full.clone(),
                        Source {
                            path: place,
                            ownership: source.ownership,
                        },
                    )),
                    None => notes.push(format!(
                        "the submodule {} is not checked out, and stays an empty folder",
                        String::from_utf8_lossy(&full)
                    )),
                }
                submodules.push(full);
            }
            let untracked = match request.untracked {
                Untracked::Leave => "--untracked-files=normal",
                Untracked::Carry => "--untracked-files=all",
            };
            let status = shadow.status(&git, untracked).await?;
            note_oddities(
                &git,
                &repository,
                &shadow,
                &status,
                request.mode,
                &mut notes,
            )
            .await?;
            parts.push(Part {
                prefix,
                repository,
                shadow,
                status,
                head,
            });
        }
        let inspection = describe(&parts, &user, submodules, notes);
        Ok(Inspected {
            parts,
            user,
            inspection,
            folder: folder.to_owned(),
        })
    }
}

/// A path in a submodule as one of the whole.
pub(super) fn joined(prefix: &[u8], path: &[u8]) -> Vec<u8> {
    match prefix {
        [] => path.to_vec(),
        prefix => [prefix, b"/", path].concat(),
    }
}

async fn note_oddities(
    git: &Git<'_>,
    repository: &Repository,
    shadow: &Shadow,
    status: &Status,
    mode: Mode,
    notes: &mut Vec<String>,
) -> Result<(), WorkspaceError> {
    let lfs = shadow.git(
        git,
        "ls-files",
        &["ls-files", "-z", "--", ":(attr:filter=lfs)"],
        &[],
    );
    match lfs.await?.iter().filter(|&&byte| byte == 0).count() {
        0 => {}
        count => notes.push(format!(
            "{count} {} kept by Git LFS: the guest gets what git has of them, pointers",
            if count == 1 { "file is" } else { "files are" }
        )),
    }
    let is_sparse = repository.value("core.sparsecheckout") == Some("true");
    let marked = shadow.overlooked(git).await?;
    // A sparse checkout is made of these.
    let marked = marked
        .iter()
        .filter(|(tag, _)| !(is_sparse && *tag == b'S'));
    let marked: Vec<_> = marked.map(|(_, path)| path).collect();
    if let [first, rest @ ..] = &marked[..] {
        let first = String::from_utf8_lossy(first);
        let and = match rest.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        notes.push(format!(
            "git was told to overlook changes in {first}{and} (assume-unchanged or skip-worktree): what was changed \
             there stays here"
        ));
    }
    if is_sparse {
        notes.push("the checkout here is sparse; the guest gets every file".to_owned());
    }
    for include in repository.includes() {
        notes.push(format!(
            "its configuration includes {include:?}, which is not read here"
        ));
    }
    let is_cut = git.host.stat(&shadow.file("shallow")).await?.is_some();
    if is_cut && mode == Mode::FullCopy {
        notes.push("the history here was cut already; the guest gets what there is".to_owned());
    }
    if status.unmerged > 0 {
        notes.push(format!(
            "{} files are in the middle of a merge, and go as they stand",
            status.unmerged
        ));
    }
    Ok(())
}

fn describe(
    parts: &[Part],
    user: &UserSettings,
    submodules: Vec<Vec<u8>>,
    notes: Vec<String>,
) -> Inspection {
    let all = |pick: fn(&Status) -> &Vec<Vec<u8>>| {
        let of_part = |part: &Part| {
            let paths = pick(&part.status).iter();
            paths
                .map(|path| ByteText(joined(&part.prefix, path)))
                .collect::<Vec<_>>()
        };
        parts.iter().flat_map(of_part).collect()
    };
    let first = &parts[0];
    let repository = &first.repository;
    let known = |key: &str| repository.value(key).or_else(|| user.value(key));
    Inspection {
        root: ByteText(repository.root.as_os_str().as_bytes().to_vec()),
        name: repository.name(),
        head: first.head.clone(),
        branch: match &repository.branch {
            Head::Branch(name) => Some(name.clone()),
            Head::Detached => None,
        },
        origin: repository.origin(),
        identity: known("user.name")
            .zip(known("user.email"))
            .map(|(name, address)| (name.to_owned(), address.to_owned())),
        changed: all(|status| &status.changed),
        deleted: all(|status| &status.deleted),
        untracked: all(|status| &status.untracked),
        submodules: submodules.into_iter().map(ByteText).collect(),
        notes,
    }
}
