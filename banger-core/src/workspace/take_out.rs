//! What a guest's workspace holds, taken out as git's objects into a shadow.
//!
//! Their names are what they hold, and each is looked at by git as it comes (git-index-pack(1), `--strict`): trees
//! with odd names, or that are not in order, never get further.

use std::path::Path;

use banger_session::workspace::{TakeOut, TakenOut, take_out_script};
use tokio::io::AsyncWriteExt;

use crate::engine::Engine;
use crate::error::Error;
use crate::host::PipedProgram;
use crate::vm::VMRecord;
use crate::workspace::WorkspaceError;
use crate::workspace::git::{Git, program, words};
use crate::workspace::open::blocking;
use crate::workspace::record::Workspace;
use crate::workspace::script::{ScriptOutput, read_heading, start_script};
use crate::workspace::shadow::Shadow;
use crate::workspace::target::{changes_between, refuse_bad_changes};
use crate::workspace::too_much::{LARGEST_PACK, TooMuch};

/// How much is read of a file at once, in bytes.
const PIECE: u64 = 256 << 10;

/// Whether what is taken out stays in the guest's repository, for the next time to be compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    Yes,
    No,
}

/// What was taken out; its objects are in the shadow.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub(super) trees: TakenOut,
    /// What a person should know of it, a sentence each.
    pub(super) notes: Vec<String>,
}

impl Engine {
    /// Takes out of a guest what is in its work tree, and the tree of `base`, a commit of the guest's.
    pub(super) async fn take_out(
        &self,
        vm: &VMRecord,
        workspace: &Workspace,
        base: &str,
        keep: Keep,
        shadow: &Shadow,
        folder: &Path,
    ) -> Result<Taken, Error> {
        let git = Git::new(self.inner.host());
        let head = format!("{}^{{commit}}", workspace.head);
        let known = ["rev-parse", "--verify", "-q", &head];
        let known = shadow.ask(&git, &known).await?;
        let dest = workspace.dest()?;
        let script = take_out_script(TakeOut {
            dest: &dest,
            base,
            known: known.as_deref(),
            keep: keep == Keep::Yes,
        });
        let script = script.map_err(|_| WorkspaceError::NoSuchName {
            what: "the commit",
            name: base.to_owned(),
            path: workspace.root().to_owned(),
        })?;
        let connection = self.connection(vm, self.inner.config.limits.ready).await?;
        let silence = self.inner.config.limits.workspace;
        let mut running = start_script(&connection, "take out", vm, &script, silence).await?;
        running.stdin = None;
        let (heading, begun) = read_heading(&mut running).await?;
        let Some(trees) = heading.taken.clone() else {
            return Err(running.lost("its answer makes no sense".to_owned()).into());
        };
        let pack = folder.join("taken.pack");
        self.save_pack(vm, running, begun, &pack).await?;
        self.take_in(vm, &git, shadow, &trees, &pack).await?;
        self.inner.host().remove_file(&pack).await?;
        Ok(Taken {
            trees,
            notes: heading.notes(),
        })
    }

    /// Writes what comes to a file, piece by piece, in bounds.
    async fn save_pack(
        &self,
        vm: &VMRecord,
        mut running: ScriptOutput,
        begun: Vec<u8>,
        to: &Path,
    ) -> Result<(), Error> {
        let file = self.inner.host().new_file(to).await;
        let file = file.map_err(WorkspaceError::from)?;
        let (mut bytes, mut piece) = (0, begun);
        loop {
            bytes += piece.len() as u64;
            if bytes > LARGEST_PACK {
                return Err(WorkspaceError::TooMuch {
                    vm: vm.name.clone(),
                    source: TooMuch::Bytes,
                }
                .into());
            }
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
            piece = match running.next().await? {
                Some(next) => next.to_vec(),
                None => return Ok(()),
            };
        }
    }

    /// Has git look at a pack and take it into the shadow.
    async fn take_in(
        &self,
        vm: &VMRecord,
        git: &Git<'_>,
        shadow: &Shadow,
        trees: &TakenOut,
        pack: &Path,
    ) -> Result<(), WorkspaceError> {
        let Err(said) = self.index_pack(shadow, pack, &["--strict"]).await? else {
            return Ok(());
        };
        // git names an object, and a person wants the path: it is looked for before all is refused.
        if let Err(said) = self.index_pack(shadow, pack, &[]).await? {
            return Err(WorkspaceError::Lost {
                act: "take out",
                vm: vm.name.clone(),
                reason: format!("what came is not whole: {said}"),
            });
        }
        let changes = changes_between(shadow, git, &trees.from, &trees.tree).await;
        refuse_bad_changes(&changes.unwrap_or_default())?;
        Err(WorkspaceError::HostilePatch {
            files: vec![("an object of it".to_owned(), said)],
        })
    }

    /// Returns what git complains of.
    async fn index_pack(
        &self,
        shadow: &Shadow,
        pack: &Path,
        how: &[&str],
    ) -> Result<Result<(), String>, WorkspaceError> {
        let host = self.inner.host();
        let mut words = shadow.words();
        words.extend(words![
            "-c",
            "pack.threads=1",
            "index-pack",
            "--stdin",
            "--fix-thin"
        ]);
        words.extend(how.iter().map(Into::into));
        let PipedProgram {
            stdin,
            stdout: _stdout,
            end,
        } = host.pipe(&program(words)).await?;
        let feed = async {
            let Some(mut stdin) = stdin else { return };
            let mut offset = 0;
            while let Ok(piece) = host.read_at(pack, offset, PIECE).await
                && !piece.is_empty()
                && stdin.write_all(&piece).await.is_ok()
            {
                offset += piece.len() as u64;
            }
            let _ = stdin.shutdown().await;
        };
        let ((), end) = tokio::join!(feed, end);
        let end = end?;
        Ok(match end.success() {
            true => Ok(()),
            false => Err(end.last_lines(2).replace('\n', "; ")),
        })
    }
}
