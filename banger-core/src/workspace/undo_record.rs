//! What is kept of each apply, so that it can be taken back: a tree of git's, and the ref that points at the last.
//!
//! ```text
//!   about      a blob: which VM, and what the guest was compared with before and after (JSON)
//!   before     the tracked files as they were
//!   after      and as they are since
//!   earlier    the apply before it, if there is one
//! ```
//!
//! A tree is no commit: it is kept by git's own housekeeping, and shown by none of its logs.

use serde::{Deserialize, Serialize};

use crate::workspace::WorkspaceError;
use crate::workspace::git::{Git, word_in};
use crate::workspace::shadow::Shadow;

/// What an apply was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct About {
    /// The VM's id.
    pub(super) vm_id: String,
    /// What the workspace was compared with.
    pub(super) base: String,
    /// What it is compared with since; the same if that did not move.
    pub(super) taken: String,
}

/// One apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UndoRecord {
    pub(super) before: String,
    pub(super) after: String,
    pub(super) earlier: Option<String>,
    pub(super) about: About,
}

/// An older banger kept a commit, its parent and the one before it. As many of those are taken over.
const MOST_EARLIER: usize = 1000;

impl UndoRecord {
    /// Writes it into a shadow's objects.
    pub(super) async fn write(
        &self,
        git: &Git<'_>,
        shadow: &Shadow,
    ) -> Result<String, WorkspaceError> {
        let text = serde_json::to_vec(&self.about).unwrap_or_default();
        let words = ["hash-object", "-w", "--stdin"];
        let about = word_in(&shadow.git(git, "hash-object", &words, &text).await?);
        let mut list = format!(
            "100644 blob {about}\tabout\n040000 tree {}\tbefore\n040000 tree {}\tafter\n",
            self.before, self.after
        );
        if let Some(earlier) = &self.earlier {
            list.push_str(&format!("040000 tree {earlier}\tearlier\n"));
        }
        let made = shadow.git(git, "mktree", &["mktree"], list.as_bytes());
        Ok(word_in(&made.await?))
    }

    /// Reads what a ref points at; none if it is not there.
    pub(super) async fn read(
        git: &Git<'_>,
        shadow: &Shadow,
        name: &str,
    ) -> Result<Option<Self>, WorkspaceError> {
        let ask = async |what: &str| {
            let wanted = format!("{name}{what}");
            shadow
                .ask(git, &["rev-parse", "--verify", "-q", &wanted])
                .await
        };
        let Some(before) = ask(":before").await? else {
            return Self::take_over(git, shadow, name).await;
        };
        let Some(after) = ask(":after").await? else {
            return Ok(None);
        };
        let about = match ask(":about").await? {
            Some(blob) => {
                let words = ["cat-file", "blob", &blob];
                let text = shadow.git(git, "cat-file", &words, &[]).await?;
                serde_json::from_slice(&text).unwrap_or_default()
            }
            None => About::default(),
        };
        Ok(Some(UndoRecord {
            before,
            after,
            earlier: ask(":earlier").await?,
            about,
        }))
    }

    /// Takes over what an older banger kept, as commits.
    async fn take_over(
        git: &Git<'_>,
        shadow: &Shadow,
        name: &str,
    ) -> Result<Option<Self>, WorkspaceError> {
        let mut found = Vec::new();
        let mut next = Some(name.to_owned());
        while let Some(commit) = next.take() {
            let ask = async |what: &str| {
                let wanted = format!("{commit}{what}");
                shadow
                    .ask(git, &["rev-parse", "--verify", "-q", &wanted])
                    .await
            };
            let trees = ask("^1^{tree}").await?.zip(ask("^{tree}").await?);
            let Some(trees) = trees else { break };
            found.push(trees);
            if found.len() < MOST_EARLIER {
                next = ask("^2").await?;
            }
        }
        let mut last: Option<UndoRecord> = None;
        for (before, after) in found.into_iter().rev() {
            let earlier = match &last {
                Some(last) => Some(last.write(git, shadow).await?),
                None => None,
            };
            last = Some(UndoRecord {
                before,
                after,
                earlier,
                about: About::default(),
            });
        }
        Ok(last)
    }
}
