//! Making what is sent: a repository for the guest, and the files that differ from its checkout.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use banger_session::workspace::{Checkout, Head, Mode, Section, config_text};

use crate::host::{Host, Program};
use crate::workspace::WorkspaceError;
use crate::workspace::git::{Git, LIMITS, option, words};
use crate::workspace::inspect::{Inspected, Part, joined};
use crate::workspace::open::UserSettings;
use crate::workspace::overlay::pack_overlay;
use crate::workspace::prepare::PrepareRequest;
use crate::workspace::record::Untracked;
use crate::workspace::shadow::{format_version, kept_core_values};

/// Commits of history that are carried.
const DEPTH: u32 = 10;

/// The two archives, and what the guest has to know of them.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) checkouts: Vec<Checkout>,
    pub(super) repos: PathBuf,
    pub(super) repos_bytes: u64,
    /// None if nothing differs from the checkout.
    pub(super) overlay: Option<(PathBuf, u64)>,
    /// Files in it.
    pub(super) carried: usize,
    /// The branch that the guest is on.
    pub(super) branch: Option<String>,
    pub(super) notes: Vec<String>,
}

/// Which commit and branch the guest is to be on.
struct Wanted {
    commit: String,
    branch: Option<String>,
}

/// Makes the archives in the folder of what was inspected.
pub(super) async fn stage(
    host: &dyn Host,
    inspected: &Inspected,
    request: &PrepareRequest,
) -> Result<Staged, WorkspaceError> {
    let git = Git::new(host);
    let Inspected {
        parts,
        user,
        folder,
        ..
    } = inspected;
    let out = folder.join("out");
    host.create_dir(&out.join("repos")).await?;
    let wanted = wanted(&git, &parts[0], request).await?;
    let elsewhere = wanted.commit != parts[0].head;
    let mut cut = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        let of_part = match number {
            0 => Wanted {
                commit: wanted.commit.clone(),
                branch: wanted.branch.clone(),
            },
            _ => Wanted {
                commit: part.head.clone(),
                branch: match &part.repository.branch {
                    Head::Branch(name) => Some(name.clone()),
                    Head::Detached => None,
                },
            },
        };
        let made = out.join(format!("repos/{number}"));
        let carried = make_repository(&git, part, user, &of_part, request.mode, &made).await?;
        if carried == History::LastCommit {
            cut.push(format!(
                "the objects of {} are not all here (a partial clone): only its last commit was carried",
                part.repository.root.display()
            ));
        }
    }
    let mut lists = Lists::default();
    for part in parts {
        lists.take(part, request.untracked);
    }
    let mut notes = std::mem::take(&mut lists.notes);
    notes.append(&mut cut);
    if elsewhere && !lists.is_empty() {
        notes.push(format!(
            "{} is checked out, so the {} changes here, which belong to another commit, stay here",
            request.from.as_deref().unwrap_or("another commit"),
            lists.overlay.len() + lists.deleted.len()
        ));
        lists = Lists::default();
    }
    for (name, list) in [
        ("deleted", &lists.deleted),
        ("parents", &lists.parents()),
        ("added", &lists.added),
    ] {
        host.write_file(&out.join(name), &terminated(list), 0o600)
            .await?;
    }
    let repos = folder.join("repos.tar");
    let pack = Program::new("tar")
        .args(words!["-c", "--format=gnu", "-f", &repos, "-C", &out])
        .args(["repos", "deleted", "parents", "added"])
        .limits(LIMITS);
    tar(host, &inspected.parts[0].repository.root, &pack).await?;
    let overlay = match lists.is_empty() {
        true => None,
        false => {
            let to = folder.join("overlay.tar");
            let paths = lists.overlay.clone();
            let packed = pack_overlay(host, &parts[0].repository.root, paths, &to).await?;
            notes.extend(packed.left_out.iter().map(|(path, kind)| {
                let path = String::from_utf8_lossy(path);
                format!("{path} is {kind} here, and stays here")
            }));
            Some((to, packed.bytes))
        }
    };
    Ok(Staged {
        checkouts: parts
            .iter()
            .map(|part| Checkout {
                prefix: part.prefix.clone(),
            })
            .collect(),
        repos_bytes: length(host, &repos).await?,
        repos,
        carried: lists.overlay.len() + lists.deleted.len(),
        overlay,
        branch: wanted.branch,
        notes,
    })
}

async fn wanted(
    git: &Git<'_>,
    part: &Part,
    request: &PrepareRequest,
) -> Result<Wanted, WorkspaceError> {
    let here = match &part.repository.branch {
        Head::Branch(name) => Some(name.clone()),
        Head::Detached => None,
    };
    let commit = match &request.from {
        Some(name) => part.shadow.commit(git, name).await?,
        None => part.head.clone(),
    };
    let branch = match &request.branch {
        Some(name) => {
            let words = ["check-ref-format", "--branch", name];
            if name.starts_with('-') || !git.run(words, &[]).await?.success() {
                return Err(WorkspaceError::BadBranch { name: name.clone() });
            }
            Some(name.clone())
        }
        // On another commit than the branch here, the guest is on none.
        None if commit != part.head => None,
        None => here,
    };
    Ok(Wanted { commit, branch })
}

/// How much of the history was carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum History {
    AsAsked,
    /// Of a partial clone there is no more.
    LastCommit,
}

/// Makes a git dir with packed objects, and an index of them, that the guest has only to check out.
async fn make_repository(
    git: &Git<'_>,
    part: &Part,
    user: &UserSettings,
    wanted: &Wanted,
    mode: Mode,
    made: &Path,
) -> Result<History, WorkspaceError> {
    let (host, root) = (git.host, &part.repository.root);
    let shadow = &part.shadow.git_dir;
    for below in [
        "objects/info",
        "objects/pack",
        "refs/heads",
        "refs/tags",
        "info",
    ] {
        host.create_dir(&made.join(below)).await?;
    }
    let config = guest_configuration(part, user, wanted);
    host.write_file(&made.join("config"), config.as_bytes(), 0o600)
        .await?;
    let head = match &wanted.branch {
        Some(name) => format!("ref: refs/heads/{name}\n"),
        None => format!("{}\n", wanted.commit),
    };
    host.write_file(&made.join("HEAD"), b"ref: refs/heads/none\n", 0o600)
        .await?;
    // What the fetch below asks of the shadow.
    for (name, commit) in [
        ("refs/banger/head", &part.head),
        ("refs/banger/wanted", &wanted.commit),
    ] {
        let words = ["update-ref", name, commit];
        part.shadow.git(git, "update-ref", &words, &[]).await?;
    }
    let fetch = async |depth: Option<u32>| {
        let mut words = words![
            option("--git-dir", made),
            "-c",
            "fetch.unpackLimit=1",
            "fetch",
            "-q",
            "--no-tags",
            "--no-write-fetch-head",
            "--update-shallow",
        ]
        .to_vec();
        words.extend(depth.map(|depth| format!("--depth={depth}").into()));
        words.extend(words![shadow, "+refs/banger/head:refs/banger/head"]);
        let to = match &wanted.branch {
            Some(name) => format!("refs/heads/{name}"),
            None => "refs/banger/wanted".to_owned(),
        };
        words.push(format!("+refs/banger/wanted:{to}").into());
        git.must("fetch", root, words, &[]).await
    };
    let is_partial = ["extensions.partialclone", "remote.origin.promisor"]
        .iter()
        .any(|key| part.repository.value(key).is_some());
    let depth = (mode == Mode::Shallow).then_some(DEPTH);
    let history = match fetch(depth).await {
        Ok(_) => History::AsAsked,
        Err(WorkspaceError::Git { .. }) if is_partial => {
            // What is checked out is here, and what came before it need not be.
            let last = match mode {
                Mode::Shallow => fetch(Some(1)).await.ok(),
                Mode::FullCopy => None,
            };
            last.ok_or_else(|| WorkspaceError::Partial { path: root.clone() })?;
            History::LastCommit
        }
        Err(error) => return Err(error),
    };
    if mode == Mode::FullCopy {
        let others = words![
            option("--git-dir", made),
            "fetch",
            "-q",
            "--no-tags",
            "--no-write-fetch-head",
            "--update-shallow",
            shadow,
            "refs/heads/*:refs/heads/*",
            "+refs/tags/*:refs/tags/*",
            "+refs/remotes/*:refs/remotes/*",
        ];
        // A branch of the name that was asked for, elsewhere, is not moved back: that is no failure.
        let output = git.run(others, &[]).await?;
        if !output.success() && output.status != 1 {
            return Err(crate::workspace::git::failed("fetch", root, &output));
        }
    }
    host.write_file(&made.join("HEAD"), head.as_bytes(), 0o600)
        .await?;
    Ok(history)
}

fn guest_configuration(part: &Part, user: &UserSettings, wanted: &Wanted) -> String {
    let (version, format) = format_version(&part.repository);
    let mut core = vec![
        ("repositoryformatversion", version),
        ("bare", "false".to_owned()),
        ("logallrefupdates", "true".to_owned()),
    ];
    core.extend(kept_core_values(&part.repository, user));
    let mut sections: Vec<Section<'_>> = vec![("core", None, core)];
    if let Some(format) = format {
        sections.push(("extensions", None, vec![("objectformat", format)]));
    }
    let known = |key: &str| part.repository.value(key).or_else(|| user.value(key));
    let mut identity = Vec::new();
    for (key, full) in [("name", "user.name"), ("email", "user.email")] {
        if let Some(value) = known(full) {
            identity.push((key, value.to_owned()));
        }
    }
    sections.push(("user", None, identity));
    if let Some(origin) = part.repository.origin() {
        let fetch = "+refs/heads/*:refs/remotes/origin/*".to_owned();
        sections.push((
            "remote",
            Some("origin"),
            vec![("url", origin), ("fetch", fetch)],
        ));
        if let Some(branch) = &wanted.branch {
            let merge = format!("refs/heads/{branch}");
            let upstream = vec![("remote", "origin".to_owned()), ("merge", merge)];
            sections.push(("branch", Some(branch), upstream));
        }
    }
    config_text(&sections)
}

/// What is laid over the checkout; paths of the whole.
#[derive(Debug, Default)]
struct Lists {
    overlay: Vec<Vec<u8>>,
    deleted: Vec<Vec<u8>>,
    added: Vec<Vec<u8>>,
    notes: Vec<String>,
}

impl Lists {
    fn take(&mut self, part: &Part, untracked: Untracked) {
        let of_part = |path: &Vec<u8>| joined(&part.prefix, path);
        let status = &part.status;
        self.overlay.extend(status.changed.iter().map(of_part));
        self.deleted.extend(status.deleted.iter().map(of_part));
        if part.prefix.is_empty() {
            self.added.extend(status.added.iter().cloned());
        }
        if untracked == Untracked::Carry {
            for path in &status.untracked {
                match path.ends_with(b"/") {
                    true => self.notes.push(format!(
                        "{} holds a repository of its own, and stays here",
                        String::from_utf8_lossy(path)
                    )),
                    false => self.overlay.push(of_part(path)),
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.overlay.is_empty() && self.deleted.is_empty()
    }

    /// Folders that may be empty once everything in `deleted` is gone.
    fn parents(&self) -> Vec<Vec<u8>> {
        let mut folders = BTreeSet::new();
        for path in &self.deleted {
            if let Some(at) = path.iter().rposition(|&byte| byte == b'/') {
                folders.insert(path[..at].to_vec());
            }
        }
        folders.into_iter().collect()
    }
}

/// Each followed by a NUL, and none to be taken for an option.
fn terminated(paths: &[Vec<u8>]) -> Vec<u8> {
    let mut text = Vec::new();
    for path in paths {
        text.extend_from_slice(path);
        text.push(0);
    }
    text
}

async fn tar(host: &dyn Host, root: &Path, program: &Program) -> Result<(), WorkspaceError> {
    let output = host.pipe(program).await?.finish(&[]).await?;
    match output.success() {
        true => Ok(()),
        false => Err(WorkspaceError::Files {
            path: root.to_owned(),
            said: output.last_lines(3).replace('\n', "; "),
        }),
    }
}

async fn length(host: &dyn Host, file: &Path) -> Result<u64, WorkspaceError> {
    Ok(host.stat(file).await?.map_or(0, |facts| facts.bytes))
}
