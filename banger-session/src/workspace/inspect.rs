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
    fn words_are_read_back() {
        for mode in [Mode::Shallow, Mode::FullCopy] {
            assert_eq!(Mode::from_word(mode.as_str()), Some(mode));
        }
        assert_eq!(Mode::from_word("deep"), None);
    }
}
