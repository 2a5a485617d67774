//! What a host's repository is, and whether it can be carried.

use thiserror::Error;

/// How much of a repository is carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The last ten commits of what is checked out.
    #[default]
    Shallow,
    /// All branches and tags with all their history, and the submodules.
    FullCopy,
}

impl Mode {
    /// The word that is typed and stored for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Shallow => "shallow",
            Mode::FullCopy => "full-copy",
        }
    }

    /// Reads the word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Mode::Shallow, Mode::FullCopy]
            .into_iter()
            .find(|mode| mode.as_str() == word)
    }
}

/// What is checked out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// A branch, by its short name.
    Branch(String),
    /// A commit alone.
    Detached,
}

/// What was found out of a repository before it is decided whether it can be
/// carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryFacts {
    /// The commit that is checked out; none before the first.
    pub head: Option<String>,
    /// Whether it has no working tree.
    pub bare: bool,
    /// Paths of its submodules.
    pub submodules: Vec<Vec<u8>>,
}

/// Why a repository cannot be carried.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InspectRefusal {
    /// It has no working tree.
    #[error("it is a bare repository: there is no working tree to carry")]
    Bare,
    /// Nothing was ever committed.
    #[error("it has no commit yet")]
    NoCommit,
    /// It has submodules, and only what is checked out was asked for.
    #[error("it has submodules ({}), which only a full copy carries", shown(paths))]
    Submodules {
        /// Their paths.
        paths: Vec<Vec<u8>>,
    },
}

/// Decides whether a repository can be carried.
///
/// # Errors
///
/// [`InspectRefusal`] if it cannot.
pub fn decide_inspect(facts: &RepositoryFacts, mode: Mode) -> Result<String, InspectRefusal> {
    if facts.bare {
        return Err(InspectRefusal::Bare);
    }
    let head = facts.head.clone().ok_or(InspectRefusal::NoCommit)?;
    if mode == Mode::Shallow && !facts.submodules.is_empty() {
        return Err(InspectRefusal::Submodules {
            paths: facts.submodules.clone(),
        });
    }
    Ok(head)
}

/// Where the parts of a repository lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locations {
    /// Its git dir; that of a linked worktree, if it is one.
    pub git_dir: Vec<u8>,
    /// What all its worktrees share.
    pub common_dir: Vec<u8>,
    /// Whether it is bare.
    pub bare: bool,
    /// Whether its history was cut.
    pub shallow: bool,
    /// `sha1` or `sha256`.
    pub object_format: String,
}

/// Reads `git rev-parse --path-format=absolute --git-dir --git-common-dir
/// --is-bare-repository --is-shallow-repository --show-object-format`: five
/// lines, of which the first two may hold newlines; those are refused.
pub fn parse_locations(output: &[u8]) -> Option<Locations> {
    let lines: Vec<_> = output.strip_suffix(b"\n")?.split(|&b| b == b'\n').collect();
    let [git_dir, common_dir, bare, shallow, format] = lines[..] else {
        return None;
    };
    let is = |word: &[u8]| match word {
        b"true" => Some(true),
        b"false" => Some(false),
        _ => None,
    };
    Some(Locations {
        git_dir: git_dir.to_vec(),
        common_dir: common_dir.to_vec(),
        bare: is(bare)?,
        shallow: is(shallow)?,
        object_format: String::from_utf8(format.to_vec()).ok()?,
    })
}

/// Whether git's refusal says that there is no repository at all.
pub fn not_a_repository(stderr: &[u8]) -> bool {
    contains(stderr, b"not a git repository")
}

/// Says that a repository is another user's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StrangersRepository;

/// Whether git refuses a repository because of its owner (`safe.directory`
/// in git-config(1)).
pub fn strangers_repository(stderr: &[u8]) -> Option<StrangersRepository> {
    contains(stderr, b"dubious ownership").then_some(StrangersRepository)
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

fn shown(paths: &[Vec<u8>]) -> String {
    let first: Vec<_> = paths
        .iter()
        .take(3)
        .map(|path| String::from_utf8_lossy(path))
        .collect();
    let more = paths.len() - first.len();
    match more {
        0 => first.join(", "),
        _ => format!("{} and {more} more", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> RepositoryFacts {
        RepositoryFacts {
            head: Some("abc".to_owned()),
            bare: false,
            submodules: Vec::new(),
        }
    }

    #[test]
    fn a_repository_that_cannot_be_carried_is_refused_with_the_reason() {
        let both = [Mode::Shallow, Mode::FullCopy];
        for mode in both {
            assert_eq!(decide_inspect(&facts(), mode), Ok("abc".to_owned()));
            let bare = RepositoryFacts {
                bare: true,
                ..facts()
            };
            assert_eq!(decide_inspect(&bare, mode), Err(InspectRefusal::Bare));
            let empty = RepositoryFacts {
                head: None,
                ..facts()
            };
            assert_eq!(decide_inspect(&empty, mode), Err(InspectRefusal::NoCommit));
        }
        let with = RepositoryFacts {
            submodules: ["a", "b", "c", "d"].map(|path| path.into()).to_vec(),
            ..facts()
        };
        assert!(decide_inspect(&with, Mode::FullCopy).is_ok());
        let refusal = decide_inspect(&with, Mode::Shallow).unwrap_err();
        let text = "it has submodules (a, b, c and 1 more), which only a full copy carries";
        assert_eq!(refusal.to_string(), text);
    }

    #[test]
    fn locations_are_five_lines_or_nothing() {
        let read = parse_locations(b"/r/.git/worktrees/x\n/r/.git\nfalse\ntrue\nsha1\n").unwrap();
        assert_eq!(read.common_dir, b"/r/.git");
        assert!(read.shallow && !read.bare);
        for bad in ["", "/a\n/b\nfalse\nfalse\n", "/a\n/b\nmaybe\nfalse\nsha1\n"] {
            assert_eq!(parse_locations(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn words_are_read_back() {
        for mode in [Mode::Shallow, Mode::FullCopy] {
            assert_eq!(Mode::from_word(mode.as_str()), Some(mode));
        }
        assert_eq!(Mode::from_word("deep"), None);
    }
}
