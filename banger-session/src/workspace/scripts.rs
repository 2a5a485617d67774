//! The generated lines. POSIX sh with GNU tar, coreutils, findutils,
//! util-linux's flock and perl in the guest: what every Debian has, and git.

use super::guest_path::GuestPath;
use super::preflight::Replace;
use super::refusal::WorkspaceRefusal as Refusal;
use super::within::{FIRST, WITHIN};
use crate::quote::{NulByte, quote_into, shell_quote};

/// Last line of what is sent to [`receive_script`]: without it the connection
/// ended early, at whatever place.
pub(super) const TRAILER: &str = "banger-complete";

/// Begins every script: the same words for whatever root has configured. `g` is git, and `w` git in a repository
/// within, whosever it is, with names as they are.
const BEGIN: &str = "set -u
umask 022
export LC_ALL=C GIT_TERMINAL_PROMPT=0 GIT_OPTIONAL_LOCKS=0 GIT_LITERAL_PATHSPECS=1
g() { git -c core.fsmonitor=false -c core.hooksPath=/dev/null -c core.untrackedCache=false \\
  -c core.safecrlf=false -c gc.auto=0 -c maintenance.auto=false -c advice.addEmbeddedRepo=false \\
  -c commit.gpgSign=false \"$@\"; }
w() { g -c core.quotePath=false -c safe.directory='*' \"$@\"; }
";

/// `snapshot BASE`: takes what is in the work tree of the working folder into an
/// index and an object folder of its own, and has git use those from here on.
/// What the base has as a submodule stays one; see [`WITHIN`].
/// Neither the index nor the objects of the repository are written; ours are not compressed, as they live for a
/// moment.
///
/// The index is copied with its time: git tells by it which files it must
/// read again (racy-git in git's documentation).
///
/// `snapshot BASE keep` writes the objects into the repository, compressed, so that they are there still when this has
/// ended.
fn snapshot() -> String {
    format!(
        r#"{WITHIN}snapshot() {{
  # One process for all three: none of them holds a newline, unless somebody meant it.
  top=$PWD places=$(w rev-parse --absolute-git-dir --git-path objects --git-path index 2>/dev/null) || exit {none}
  gd=${{places%%
*}} ix=${{places##*
}} od=${{places#*
}}
  od=$(cd "${{od%%
*}}" && pwd -P) || exit {none}
  tmp=$(mktemp -d "$gd/banger-XXXXXX" 2>/dev/null || mktemp -d /tmp/banger-XXXXXX) || exit {full}
  trap 'trap "" HUP INT TERM PIPE; rm -rf "$tmp"' EXIT
  trap 'exit 129' HUP INT TERM PIPE
  mkdir -p "$tmp/objects/info" || exit {full}
  printf '%s\n' "$od" >"$tmp/objects/info/alternates" || exit {full}
  [ ! -e "$ix" ] || cp -p "$ix" "$tmp/index" || exit {full}
  export GIT_INDEX_FILE="$tmp/index"
  packed=1
  [ -n "${{2-}}" ] || {{ export GIT_OBJECT_DIRECTORY="$tmp/objects"; packed=0; }}
  take_nested "$1" && (export GIT_LITERAL_PATHSPECS=0; w -c core.looseCompression="$packed" add -A \
    --pathspec-from-file="$tmp/paths" --pathspec-file-nul 1>&2) || exit {snapshot}
}}
"#,
        none = Refusal::NoWorkspace.status(),
        full = Refusal::CannotWrite.status(),
        snapshot = Refusal::Snapshot.status(),
    )
}

/// Who commits what was carried in.
const IDENTITY: &str = "GIT_AUTHOR_NAME=banger GIT_AUTHOR_EMAIL=banger@localhost \
GIT_COMMITTER_NAME=banger GIT_COMMITTER_EMAIL=banger@localhost";

/// `moorings`: prints where every ref of the repository points, but for those of ours. `moored FILE`: whether they are
/// as they were when that was written; an older banger's has ours in it.
const MOORINGS: &str = r#"moorings() { w symbolic-ref -q HEAD; w rev-parse HEAD
  w for-each-ref --format='%(objectname) %(refname)' | sed '/ refs\/banger\//d'; }
moored() { [ -s "$1" ] && [ "$(moorings 2>/dev/null)" = "$(sed '/ refs\/banger\//d' "$1")" ]; }
"#;

/// `exchange A B`: puts each of two folders in the place of the other, in one
/// step, so that whoever opens one by its name always finds one. `mv` can from
/// coreutils 9.5 on (Debian 13); before, the call itself (renameat2 with
/// RENAME_EXCHANGE) by perl. Fails, and has done nothing, where neither can.
const EXCHANGE: &str = r#"exchange() {
  mv --exchange -T "$1" "$2" 2>/dev/null && return
  [ "$(uname -m)" = x86_64 ] || return
  perl -e 'exit(syscall(316, -100, $ARGV[0], -100, $ARGV[1], 2) != 0)' "$1" "$2" 2>/dev/null
}
"#;

/// Writes the script that looks before anything is sent; its output is read
/// by [`parse_preflight`](super::parse_preflight). A workspace that is there is
/// compared with `base`, a commit, or with what was carried in if the guest has no such commit.
///
/// # Errors
///
/// [`NulByte`] in `base`.
pub fn preflight_script(dest: &GuestPath, base: &str) -> Result<Vec<u8>, NulByte> {
    let mut script = Script::begin();
    script.text(&snapshot());
    script.text(MOORINGS);
    script.assign("dest", dest.as_bytes());
    script.assign("p", dest.parent());
    script.text("base=");
    script.quoted(base.as_bytes())?;
    script.text(
        r#"
echo 'banger-workspace 1'
missing=
for c in git tar flock find xargs mktemp; do command -v "$c" >/dev/null 2>&1 || missing="$missing $c"; done
echo "missing$missing"
while [ ! -d "$p" ]; do p=${p%/*}; [ -n "$p" ] || p=/; done
# shellcheck disable=SC2046
set -- $(df -Pk -- "$p" 2>/dev/null | tail -n 1)
echo "free ${4-}"
if [ -L "$dest" ]; then echo 'dest file'
elif [ ! -e "$dest" ]; then echo 'dest absent'
elif [ ! -d "$dest" ]; then echo 'dest file'
elif [ -z "$(find "$dest" -mindepth 1 -maxdepth 1 -print -quit)" ]; then echo 'dest empty'
elif [ ! -f "$dest/.git/banger-workspace" ]; then echo 'dest folder'
else
  echo 'dest workspace'
  if (cd "$dest" && moored .git/banger-refs); then echo 'refs same'; else echo 'refs moved'; fi
  echo changes
  (cd "$dest" && { base=$(g rev-parse -q --verify "$base^{commit}") || base=refs/banger/base; } &&
   snapshot "$base" && g diff-index --cached --raw -z --no-renames "$base" -- &&
   printf '\nsubmodules\n' && put_off && printf '\nnested\n' && cat "$tmp/nested") 2>/dev/null
  printf '\ncompared %s\n' "$?"
fi
echo end
"#,
    );
    Ok(script.done())
}

/// A workspace that is about to be received.
#[derive(Debug, Clone)]
pub struct Receive<'a> {
    /// Where to.
    pub dest: &'a GuestPath,
    /// Names the folder beside it: letters and digits.
    pub id: &'a str,
    /// What to check out, the repository itself first.
    pub checkouts: &'a [Checkout],
    /// Length of the first archive, which holds `repos/<n>`, `deleted`,
    /// `parents` and `added`, in bytes.
    pub repos_bytes: u64,
    /// Length of the second, of files laid over the checkout; none if nothing
    /// differs from what is checked out.
    pub overlay_bytes: Option<u64>,
    /// What may be replaced.
    pub replace: Replace,
}

/// One of its repositories: itself, or a submodule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkout {
    /// Where it lies in the work tree; empty for the repository itself.
    pub prefix: Vec<u8>,
}

/// Writes the script that receives a workspace on its standard input: the two
/// archives, and [`trailer`] after them.
///
/// All is done in a folder beside, which one rename puts in place, or one that
/// exchanges it with what was there: whatever ends it, the guest is as it was,
/// or completely prepared. Where the guest's file system cannot exchange, there
/// are two, and for a moment there is nothing. A folder that an
/// earlier one left (its lock is nobody's) is swept, and what it had moved
/// aside is put back. Ignored files of a workspace that is replaced, such as
/// build results, are kept.
///
/// It prints `head OID` and `base OID`.
///
/// # Errors
///
/// [`NulByte`] in a prefix.
pub fn receive_script(receive: &Receive<'_>) -> Result<Vec<u8>, NulByte> {
    let mut script = Script::begin();
    script.text(MOORINGS);
    // git does not say why it could not write.
    script.text(&format!(
        "room() {{ head -c 65536 /dev/zero >\"$d/probe\" 2>/dev/null || exit {}; }}\n",
        Refusal::CannotWrite.status()
    ));
    // What is in the work tree, by an index of its own.
    script.text(
        r#"tree() { cp -p .git/index "$d/index" && (export GIT_INDEX_FILE="$d/index"; g add -A 1>&2 && g write-tree); }
"#,
    );
    script.assign("dest", receive.dest.as_bytes());
    script.assign("parent", receive.dest.parent());
    let parent = if receive.dest.parent() == b"/" {
        ""
    } else {
        "$parent"
    };
    let (none, full) = (Refusal::Appeared.status(), Refusal::CannotWrite.status());
    script.text(&format!(
        r#"d="{parent}/.banger-prepare-{id}"
mkdir -p "$parent" || exit {full}
for s in "{parent}"/.banger-prepare-*; do
  [ -d "$s" ] || continue
  (exec 8>>"$s/lock" && flock -n 8) 2>/dev/null || continue
  if [ -d "$s/old" ] && [ -f "$s/dest" ]; then
    was=$(cat "$s/dest")
    [ -e "$was" ] || mv -T "$s/old" "$was"
  fi
  rm -rf "$s"
done
mkdir "$d" || exit {full}
exec 9>"$d/lock" || exit {full}
flock -n 9
trap 'trap "" HUP INT TERM PIPE; rm -rf "$d"' EXIT
trap 'exit 129' HUP INT TERM PIPE
head -c {repos_bytes} | tar -x --no-same-owner -C "$d" -f - 1>&2 || exit {unpack}
mkdir "$d/tree" || exit {full}
"#,
        id = receive.id,
        repos_bytes = receive.repos_bytes,
        unpack = Refusal::Unpack.status(),
    ));
    for (number, checkout) in receive.checkouts.iter().enumerate() {
        script.text("at=\"$d/tree/\"");
        script.quoted(&checkout.prefix)?;
        script.text(&format!(
            r#"
[ -d "$d/repos/{number}" ] || exit {truncated}
mkdir -p "$at" && mv -T "$d/repos/{number}" "$at/.git" || exit {full}
g -C "$at" reset --hard --quiet 1>&2 || {{ room; exit {checkout}; }}
"#,
            truncated = Refusal::Truncated.status(),
            checkout = Refusal::Checkout.status(),
        ));
    }
    script.text(&format!("cd \"$d/tree\" || exit {full}\n"));
    if receive.checkouts.len() > 1 {
        // So that git counts them among its own; where from is of no matter here.
        script.text("g submodule --quiet init 1>&2 || :\n");
    }
    if let Some(bytes) = receive.overlay_bytes {
        script.text(&format!(
            r#"xargs -0 -r rm -f -- <"$d/deleted"
xargs -0 -r rmdir -p --ignore-fail-on-non-empty -- <"$d/parents" 2>/dev/null
head -c {bytes} | tar -x --no-same-owner -f - 1>&2 || exit {unpack}
"#,
            unpack = Refusal::Unpack.status(),
        ));
    }
    script.text(&format!(
        "IFS= read -r last || :\n[ \"$last\" = {TRAILER} ] || exit {}\n",
        Refusal::Truncated.status()
    ));
    if receive.overlay_bytes.is_some() {
        script.text(&format!(
            r#"if [ -s "$d/added" ]; then
  g add -f --pathspec-from-file="$d/added" --pathspec-file-nul 1>&2 || exit {snapshot}
fi
tree >"$d/id" || {{ room; exit {snapshot}; }}
{IDENTITY} g commit-tree "$(cat "$d/id")" -p HEAD -m 'as it was carried in' >"$d/base" || exit {snapshot}
"#,
            snapshot = Refusal::Snapshot.status(),
        ));
    } else {
        script.text("g rev-parse HEAD >\"$d/base\"\n");
    }
    for checkout in receive.checkouts.iter().skip(1) {
        // What it held when it was carried is remembered in each.
        script.text("(cd -- ");
        script.quoted(&checkout.prefix)?;
        script.text(&format!(
            r#" && base=$(tree) &&
base=$({IDENTITY} g commit-tree "$base" -p HEAD -m 'as it was carried in') &&
g update-ref refs/banger/base "$base" && moorings >.git/banger-refs) || {{ room; exit {snapshot}; }}
"#,
            snapshot = Refusal::Snapshot.status(),
        ));
    }
    script.text(&format!(
        r#"g update-ref refs/banger/base "$(cat "$d/base")" || exit {full}
echo {id} >.git/banger-workspace && moorings >.git/banger-refs || exit {full}
echo "head $(g rev-parse HEAD)"
echo "base $(cat "$d/base")"
"#,
        id = receive.id,
    ));
    if receive.replace == Replace::Workspace {
        for checkout in receive.checkouts {
            script.text("at=");
            script.quoted(&checkout.prefix)?;
            script.text(
                r#"
(cd "$dest/$at" && [ -e .git ] && w ls-files -o -i --exclude-standard --directory -z |
  xargs -0 -r cp -al --parents -t "$d/tree/$at" --) 2>/dev/null
"#,
            );
        }
    }
    script.text(&format!(
        r#"printf '%s' "$dest" >"$d/dest" || exit {full}
sync -f "$d" 2>/dev/null
trap '' HUP INT TERM PIPE
cd / || exit {full}
"#
    ));
    script.text(&match receive.replace {
        Replace::Nothing => format!(
            "[ ! -e \"$dest\" ] || rmdir \"$dest\" 2>/dev/null || exit {none}\n\
             mv -T \"$d/tree\" \"$dest\" || exit {full}\n"
        ),
        Replace::Workspace => format!(
            r#"{EXCHANGE}if ! exchange "$d/tree" "$dest"; then
  [ ! -e "$dest" ] || mv -T "$dest" "$d/old" || exit {full}
  mv -T "$d/tree" "$dest" || {{ mv -T "$d/old" "$dest"; exit {full}; }}
fi
"#
        ),
    });
    script.text("echo end\n");
    Ok(script.done())
}

/// What follows the archives.
pub fn trailer() -> Vec<u8> {
    format!("{TRAILER}\n").into_bytes()
}

/// Writes the script that prints everything that changed since `base`, a
/// commit, as one binary-safe patch: commits, staged, changed and new files.
/// The guest's index, objects and status stay as they are.
///
/// # Errors
///
/// [`NulByte`] in `base`.
pub fn export_script(dest: &GuestPath, base: &str) -> Result<Vec<u8>, NulByte> {
    compare(
        dest,
        base,
        "--patch --binary --full-index -M --no-color --no-ext-diff --no-textconv \
         --src-prefix=a/ --dst-prefix=b/ --submodule=short",
    )
}

/// Writes the script that lists what [`export_script`] would print; its
/// output is read by [`parse_changes`](super::patch::parse_changes).
///
/// # Errors
///
/// [`NulByte`] in `base`.
pub fn changes_script(dest: &GuestPath, base: &str) -> Result<Vec<u8>, NulByte> {
    compare(
        dest,
        base,
        "--raw --numstat -z -M --no-abbrev --no-ext-diff --no-textconv",
    )
}

/// What is taken out of a workspace.
#[derive(Debug, Clone, Copy)]
pub struct TakeOut<'a> {
    /// The workspace.
    pub dest: &'a GuestPath,
    /// The commit that it is compared with.
    pub base: &'a str,
    /// A commit that the host has, with all before it; it is not sent again.
    pub known: Option<&'a str>,
    /// Whether what is taken out stays in the guest's repository, as a commit that a later one is compared with.
    pub keep: bool,
}

/// Writes the script that takes out everything that is in a work tree: a [`Heading`](super::Heading) with the trees
/// of the base and of the work tree as it is, and then a thin pack of the objects that the host may not have.
///
/// What is kept is a commit under `refs/banger/taken`, whose parents are the base and what was taken out before: so
/// each base that the host ever knew stays there.
///
/// # Errors
///
/// [`NulByte`] in a commit's name.
pub fn take_out_script(take: TakeOut<'_>) -> Result<Vec<u8>, NulByte> {
    let mut script = Script::begin();
    script.text(&snapshot());
    script.text(MOORINGS);
    script.assign("dest", take.dest.as_bytes());
    for (name, value) in [("base", take.base), ("known", take.known.unwrap_or(""))] {
        script.text(name);
        script.text("=");
        script.quoted(value.as_bytes())?;
        script.text("\n");
    }
    script.text(&format!(
        r#"
cd "$dest" 2>/dev/null && [ -e .git ] || exit {none}
from=$(g rev-parse --verify -q "$base^{{tree}}") || exit {no_base}
snapshot "$base^{{commit}}" {keep}
tree=$(g write-tree) || exit {snapshot}
"#,
        none = Refusal::NoWorkspace.status(),
        no_base = Refusal::NoBase.status(),
        snapshot = Refusal::Snapshot.status(),
        keep = if take.keep { "keep" } else { "" },
    ));
    if take.keep {
        script.text(&format!(
            r#"before=$(g rev-parse --verify -q refs/banger/taken)
[ "$before" != "$(g rev-parse "$base^{{commit}}")" ] || before=
taken=$({IDENTITY} g commit-tree "$tree" -p "$base" ${{before:+-p "$before"}} -m 'as it was taken out') &&
g update-ref refs/banger/taken "$taken" || exit {full}
"#,
            full = Refusal::CannotWrite.status(),
        ));
    }
    script.text(&format!(
        r#"echo '{FIRST}' && sed 's/^/nested /' "$tmp/nested" && put_off | sed 's/^/submodule /' || exit {compare}
printf 'from %s\ntree %s\n%s\n' "$from" "$tree" "${{taken:+taken $taken
}}"
printf '%s\n' "$tree" "$from" ${{known:+"^$known"}} |
  g pack-objects --revs --thin --delta-base-offset --stdout -q && exit
exit {compare}
"#,
        compare = Refusal::Compare.status(),
    ));
    Ok(script.done())
}

fn compare(dest: &GuestPath, base: &str, options: &str) -> Result<Vec<u8>, NulByte> {
    let mut script = Script::begin();
    script.text(&snapshot());
    script.text(MOORINGS);
    script.assign("dest", dest.as_bytes());
    script.text("base=");
    script.quoted(base.as_bytes())?;
    script.text(&format!(
        r#"
cd "$dest" 2>/dev/null && [ -e .git ] || exit {none}
g rev-parse --verify -q "$base^{{commit}}" >/dev/null || exit {no_base}
snapshot "$base^{{commit}}"
echo '{FIRST}' && sed 's/^/nested /' "$tmp/nested" && put_off | sed 's/^/submodule /' && echo || exit {compare}
g diff-index --cached {options} "$base^{{commit}}" -- && exit
exit {compare}
"#,
        none = Refusal::NoWorkspace.status(),
        no_base = Refusal::NoBase.status(),
        compare = Refusal::Compare.status(),
    ));
    Ok(script.done())
}

/// A script for `sh`, whatever the login shell is.
struct Script(Vec<u8>);

impl Script {
    fn begin() -> Self {
        Script(BEGIN.as_bytes().to_vec())
    }

    fn text(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    fn quoted(&mut self, word: &[u8]) -> Result<(), NulByte> {
        quote_into(word, &mut self.0)
    }

    /// A path without control characters, and so without a NUL.
    fn assign(&mut self, name: &str, path: &[u8]) {
        self.text(name);
        self.text("=");
        let _ = self.quoted(path);
        self.text("\n");
    }

    fn done(self) -> Vec<u8> {
        let quoted = shell_quote(&self.0).unwrap_or_default();
        [b"exec sh -c ".as_slice(), &quoted, b"\n"].concat()
    }
}
