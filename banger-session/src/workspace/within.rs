//! Repositories within a workspace: git takes of each the commit at most, and of one without a commit not even that.

use super::status::MalformedOutput;

/// `take_nested BASE`: has the index hold the files of repositories that somebody has made in the work tree, as
/// files; those that the base has as submodules stay what they are. Their names go to `$tmp/nested` and
/// `$tmp/modules`, a line each.
///
/// `put_off`: prints the submodules in which there is more than was carried: edits, commits, branches.
///
/// A name with control characters is quoted by git, and found nowhere by that: such a repository is left to git,
/// and such a submodule is named.
pub(super) const WITHIN: &str = r#"links() { w ls-files -s | sed -n 's/^160000 [0-9a-f]* [0-3]	//p'; }
inside() { unset GIT_INDEX_FILE GIT_OBJECT_DIRECTORY; cd "$1" || return; }
take_nested() {
  { w ls-files -o --exclude-standard | sed -n 's,/$,,p'; links; } >"$tmp/found"
  : >"$tmp/nested"
  w ls-tree -r "$1" 2>/dev/null | sed -n 's/^160000 commit [0-9a-f]*	//p' >"$tmp/modules"
  # The list grows while it is read: those within one are next.
  # shellcheck disable=SC2094
  while IFS= read -r n <&3; do
    if grep -Fqx -e "$n" "$tmp/modules" || [ ! -e "$n/.git" ]; then continue; fi
    (inside "$n" && w ls-files -co --exclude-standard -z) >"$tmp/files" 2>/dev/null || continue
    w update-index --force-remove -- "$n" &&
    (cd "$n" && GIT_DIR="$gd" GIT_WORK_TREE="$top" w update-index --add --remove --replace -z --stdin) \
      <"$tmp/files" 1>&2 || return
    printf '%s\n' "$n" >>"$tmp/nested"
    (inside "$n" && { w ls-files -o --exclude-standard | sed -n 's,/$,,p'; links; }) |
      while IFS= read -r m; do printf '%s/%s\n' "$n" "$m"; done >>"$tmp/found"
  done 3<"$tmp/found"
  # One that holds no file can not be asked of git: it is left out.
  printf '.\0' >"$tmp/paths"
  while IFS= read -r n <&3; do
    [ -n "$(w ls-files -- "$n" | head -c 1)" ] || printf ':(exclude,literal)%s\0' "$n" >>"$tmp/paths"
  done 3<"$tmp/nested"
}
put_off() {
  while IFS= read -r n <&3; do
    case $n in '"'*) printf '%s\n' "$n"; continue;; esac
    [ -e "$n/.git" ] || continue
    (inside "$n" || exit
     b=$(w rev-parse -q --verify refs/banger/base || w rev-parse -q --verify HEAD) || exit
     at=$(w rev-parse --absolute-git-dir) || exit
     [ ! -f "$at/banger-refs" ] || moored "$at/banger-refs" || exit
     snapshot "$b" && w diff-index --cached --quiet --ignore-submodules=all "$b" -- || exit
     put_off | while IFS= read -r m; do printf '%s/%s\n' "$n" "$m"; done) || printf '%s\n' "$n"
  done 3<"$tmp/modules"
}
"#;

/// What stands before a patch or a list of changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heading {
    /// Repositories that were made within the workspace: their files come along, and their history does not.
    pub nested: Vec<Vec<u8>>,
    /// Submodules with more in them than was carried: it does not come along.
    pub submodules: Vec<Vec<u8>>,
    /// What was taken out; none before a patch or a list.
    pub taken: Option<TakenOut>,
}

/// What was taken out of a workspace, by the names of git's objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TakenOut {
    /// The tree that both sides had.
    pub from: String,
    /// The tree of everything that is in the work tree.
    pub tree: String,
    /// The commit that keeps it in the guest; empty if nothing does.
    pub commit: String,
}

/// The line before a heading.
pub(super) const FIRST: &str = "banger-changes 1";

/// The most that a heading may have, in bytes.
const LARGEST: usize = 1 << 20;

impl Heading {
    /// Reads a heading off what has come so far, and returns it with its length; none if there is more of it to
    /// come.
    ///
    /// # Errors
    ///
    /// [`MalformedOutput`] for anything else, and for a heading of more than 1 MiB.
    pub fn read(output: &[u8]) -> Result<Option<(Heading, usize)>, MalformedOutput> {
        let mut heading = Heading::default();
        let mut length = 0;
        for line in output.split_inclusive(|&byte| byte == b'\n') {
            let malformed = || MalformedOutput {
                what: "changes",
                record: String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned(),
            };
            length += line.len();
            if length > LARGEST {
                return Err(malformed());
            }
            let Some(text) = line.strip_suffix(b"\n") else {
                break;
            };
            if length == line.len() {
                if text != FIRST.as_bytes() {
                    return Err(malformed());
                }
            } else if text.is_empty() {
                let whole = |taken: &TakenOut| !taken.from.is_empty() && !taken.tree.is_empty();
                return match heading.taken.as_ref().is_none_or(whole) {
                    true => Ok(Some((heading, length))),
                    false => Err(malformed()),
                };
            } else if let Some(path) = text.strip_prefix(b"nested ") {
                heading.nested.push(path.to_vec());
            } else if let Some(path) = text.strip_prefix(b"submodule ") {
                heading.submodules.push(path.to_vec());
            } else {
                let (name, id) = object(text).ok_or_else(malformed)?;
                let taken = heading.taken.get_or_insert_default();
                *(match name {
                    b"from" => &mut taken.from,
                    b"tree" => &mut taken.tree,
                    b"taken" => &mut taken.commit,
                    _ => return Err(malformed()),
                }) = id;
            }
        }
        Ok(None)
    }

    /// What a person should know of it, a sentence each.
    pub fn notes(&self) -> Vec<String> {
        let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        let nested = self.nested.iter().map(|path| {
            format!(
                "{} is a repository of its own in the guest: its files come along, its history stays there",
                text(path)
            )
        });
        let submodules = self.submodules.iter().map(|path| {
            format!(
                "the submodule {} has changes of its own in the guest, which do not come along: push them from \
                 there, or copy them out (banger vm cp)",
                text(path)
            )
        });
        nested.chain(submodules).collect()
    }
}

/// Reads `NAME OID`.
fn object(line: &[u8]) -> Option<(&[u8], String)> {
    let at = line.iter().position(|&byte| byte == b' ')?;
    let id = std::str::from_utf8(&line[at + 1..]).ok()?;
    let is_object = matches!(id.len(), 40 | 64) && id.bytes().all(|b| b.is_ascii_hexdigit());
    is_object.then(|| (&line[..at], id.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heading_is_read_when_all_of_it_is_there() {
        let whole = b"banger-changes 1\nnested a b\nsubmodule lib\n\ndiff --git";
        for end in 0..42 {
            assert_eq!(Heading::read(&whole[..end]), Ok(None), "{end}");
        }
        let expected = Heading {
            nested: vec![b"a b".to_vec()],
            submodules: vec![b"lib".to_vec()],
            taken: None,
        };
        assert_eq!(Heading::read(whole), Ok(Some((expected.clone(), 43))));
        assert_eq!(expected.notes().len(), 2);
        for odd in [
            &b"\n"[..],
            b"diff --git\n",
            b"banger-changes 1\nwhat\n",
            b"banger-changes 1\ntree --output=x\n",
        ] {
            assert!(Heading::read(odd).is_err(), "{odd:?}");
        }
        let id = "a".repeat(40);
        let taken = format!("banger-changes 1\nfrom {id}\ntree {id}\ntaken {id}\n\nPACK");
        let (heading, length) = Heading::read(taken.as_bytes()).unwrap().unwrap();
        assert_eq!(heading.taken.unwrap().commit, id);
        assert_eq!(&taken.as_bytes()[length..], b"PACK");
        let cut = format!("banger-changes 1\ntree {id}\n\n");
        assert!(Heading::read(cut.as_bytes()).is_err());
        assert!(Heading::read(&vec![b'x'; LARGEST + 1]).is_err());
    }
}
