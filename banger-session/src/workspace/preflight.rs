//! What a guest answers before anything is sent to it.

use thiserror::Error;

use super::patch::{Change, parse_changes};

/// What is known of a guest that is to hold a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preflight {
    /// Programs that it would need and lacks.
    pub missing: Vec<String>,
    /// Free on the disk that the path lies on, in bytes; none if it cannot
    /// say.
    pub free_bytes: Option<u64>,
    /// What is there.
    pub destination: Destination,
}

/// What is at the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Nothing.
    Absent,
    /// A folder with nothing in it.
    Empty,
    /// A file, a symlink, or anything else that is no folder.
    NotAFolder,
    /// A folder with something in it that is no workspace.
    Folder,
    /// A workspace of an earlier prepare.
    Workspace {
        /// What differs from what that prepare left; none if it could not be
        /// found out.
        changes: Option<Vec<Change>>,
        /// Whether branches, tags or stashes moved since.
        refs_moved: bool,
        /// Submodules with more in them than was carried.
        submodules: Vec<Vec<u8>>,
        /// Repositories that were made in it.
        nested: Vec<Vec<u8>>,
    },
}

/// Whether what is there may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// Only nothing, or an empty folder.
    Nothing,
    /// The workspace that is there.
    Workspace,
}

/// Says that an answer was cut off or is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the guest's answer about its workspace cannot be read")]
pub struct ParsePreflightError;

/// Reads the output of [`preflight_script`](super::preflight_script).
///
/// # Errors
///
/// [`ParsePreflightError`] for anything else.
pub fn parse_preflight(output: &[u8]) -> Result<Preflight, ParsePreflightError> {
    let mut rest = output;
    if line(&mut rest)? != b"banger-workspace 1" {
        return Err(ParsePreflightError);
    }
    let missing = text(field(&mut rest, b"missing")?)?;
    let free = text(field(&mut rest, b"free")?)?;
    let destination = match field(&mut rest, b"dest")? {
        b"absent" => Destination::Absent,
        b"empty" => Destination::Empty,
        b"file" => Destination::NotAFolder,
        b"folder" => Destination::Folder,
        b"workspace" => {
            let refs_moved = field(&mut rest, b"refs")? != b"same";
            if line(&mut rest)? != b"changes" {
                return Err(ParsePreflightError);
            }
            let known = rest.strip_suffix(b"\ncompared 0\nend\n").and_then(compared);
            let (changes, within) = known.unzip();
            let (submodules, nested) = within.unwrap_or_default();
            Destination::Workspace {
                changes,
                refs_moved,
                submodules,
                nested,
            }
        }
        _ => return Err(ParsePreflightError),
    };
    if !output.ends_with(b"end\n") {
        return Err(ParsePreflightError);
    }
    Ok(Preflight {
        missing: missing
            .split(' ')
            .filter(|w| !w.is_empty())
            .map(str::to_owned)
            .collect(),
        free_bytes: free
            .parse::<u64>()
            .ok()
            .and_then(|kib| kib.checked_mul(1024)),
        destination,
    })
}

/// Paths of submodules, and of repositories that were made.
type Within = (Vec<Vec<u8>>, Vec<Vec<u8>>);

/// Reads what was compared: the changed files, each ended by a NUL, then the submodules, a line each, and so the
/// repositories that were made.
fn compared(output: &[u8]) -> Option<(Vec<Change>, Within)> {
    let files = output.iter().rposition(|&byte| byte == 0);
    let (files, within) = output.split_at(files.map_or(0, |at| at + 1));
    let within = within.strip_prefix(b"\nsubmodules\n")?;
    let mut lists = [Vec::new(), Vec::new()];
    let mut now = 0;
    let mut lines = within.split(|&byte| byte == b'\n');
    while let Some(line) = lines.next() {
        match line {
            // A name is never empty.
            b"" if now == 0 && lines.next() == Some(b"nested") => now = 1,
            b"" => {}
            name => lists[now].push(name.to_vec()),
        }
    }
    let [submodules, nested] = lists;
    (now == 1).then_some((parse_changes(files).ok()?, (submodules, nested)))
}

/// Decides whether a prepare may go on, and what it replaces. `Err` holds the
/// reason in words.
///
/// # Errors
///
/// What stands in the way.
pub fn decide_replace(destination: &Destination, force: bool) -> Result<Replace, String> {
    match destination {
        Destination::Absent | Destination::Empty => Ok(Replace::Nothing),
        Destination::NotAFolder => Err("what is there is not a folder".to_owned()),
        Destination::Folder => {
            Err("there is a folder with something in it that no prepare has made".to_owned())
        }
        Destination::Workspace { .. } if force => Ok(Replace::Workspace),
        Destination::Workspace { changes: None, .. } => {
            Err("whether the workspace there was changed cannot be told".to_owned())
        }
        Destination::Workspace {
            changes: Some(changes),
            refs_moved,
            submodules,
            nested,
        } => match (changes.len(), refs_moved) {
            (0, _) if !submodules.is_empty() => Err(format!(
                "there are changes in {}, which would be lost, and which no export brings home",
                named("its submodule ", submodules)
            )),
            (0, _) if !nested.is_empty() => Err(format!(
                "the history of {}, which was made there, would be lost",
                named("the repository ", nested)
            )),
            (0, false) => Ok(Replace::Workspace),
            (0, true) => Err("commits were made in the workspace there".to_owned()),
            (count, _) => Err(format!(
                "{count} {} in the workspace there would be lost: {}",
                if count == 1 { "change" } else { "changes" },
                names(changes)
            )),
        },
    }
}

fn named(what: &str, paths: &[Vec<u8>]) -> String {
    let named = paths
        .iter()
        .map(|path| format!("{what}{}", String::from_utf8_lossy(path)));
    named.collect::<Vec<_>>().join(", ")
}

fn names(changes: &[Change]) -> String {
    let shown: Vec<_> = changes
        .iter()
        .take(5)
        .map(|change| String::from_utf8_lossy(&change.path).into_owned())
        .collect();
    let dots = if changes.len() > shown.len() {
        ", …"
    } else {
        ""
    };
    format!("{}{dots}", shown.join(", "))
}

fn line<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], ParsePreflightError> {
    let end = rest.iter().position(|&byte| byte == b'\n');
    let end = end.ok_or(ParsePreflightError)?;
    let line = &rest[..end];
    *rest = &rest[end + 1..];
    Ok(line)
}

fn field<'a>(rest: &mut &'a [u8], name: &[u8]) -> Result<&'a [u8], ParsePreflightError> {
    let line = line(rest)?;
    let value = line.strip_prefix(name).ok_or(ParsePreflightError)?;
    match value {
        [] => Ok(value),
        [b' ', value @ ..] => Ok(value),
        _ => Err(ParsePreflightError),
    }
}

fn text(bytes: &[u8]) -> Result<&str, ParsePreflightError> {
    std::str::from_utf8(bytes).map_err(|_| ParsePreflightError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_to_its_last_line() {
        let read =
            parse_preflight(b"banger-workspace 1\nmissing git tar\nfree 12\ndest absent\nend\n");
        let expected = Preflight {
            missing: vec!["git".to_owned(), "tar".to_owned()],
            free_bytes: Some(12 * 1024),
            destination: Destination::Absent,
        };
        assert_eq!(read, Ok(expected));
        for bad in [
            "",
            "banger-workspace 2\nmissing\nfree 1\ndest absent\nend\n",
            "banger-workspace 1\nmissing\nfree 1\ndest absent\n",
            "banger-workspace 1\nmissing\nfree 1\ndest elsewhere\nend\n",
            "banger-workspace 1\nmissing\nfree 1\ndest workspace\nrefs same\nend\n",
        ] {
            assert!(parse_preflight(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    fn workspace(refs: &str, raw: &str, compared: u8) -> Destination {
        with_repositories(refs, raw, ["", ""], compared)
    }

    fn with_repositories(refs: &str, raw: &str, within: [&str; 2], compared: u8) -> Destination {
        let [submodules, nested] = within;
        let answer = format!(
            "banger-workspace 1\nmissing\nfree\ndest workspace\nrefs {refs}\nchanges\n{raw}\nsubmodules\n{submodules}\nnested\n{nested}\ncompared {compared}\nend\n"
        );
        parse_preflight(answer.as_bytes()).unwrap().destination
    }

    #[test]
    fn a_guest_s_work_is_replaced_only_if_nothing_of_it_is_lost() {
        let oid = "0".repeat(40);
        let raw = format!(":100644 100644 {oid} {oid} M\0end\ncompared 0\n\0");
        let table = [
            (Destination::Absent, Ok(Replace::Nothing)),
            (Destination::Empty, Ok(Replace::Nothing)),
            (workspace("same", "", 0), Ok(Replace::Workspace)),
            (Destination::Folder, Err("no prepare has made")),
            (Destination::NotAFolder, Err("not a folder")),
            (workspace("moved", "", 0), Err("commits were made")),
            (workspace("same", &raw, 0), Err("1 change in")),
            (workspace("same", "", 67), Err("cannot be told")),
            (workspace("same", "junk", 0), Err("cannot be told")),
            (
                with_repositories("same", "", ["lib\n", ""], 0),
                Err("in its submodule lib, which would be lost"),
            ),
            (
                with_repositories("same", "", ["", "nested\nx\n"], 0),
                Err("the history of the repository nested, the repository x, which was made"),
            ),
            (
                with_repositories("same", &raw, ["submodules\n", "nested\n"], 0),
                Err("1 change in"),
            ),
        ];
        for (destination, expected) in table {
            match (decide_replace(&destination, false), expected) {
                (Ok(replace), expected) => assert_eq!(Ok(replace), expected, "{destination:?}"),
                (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
                (Err(why), Ok(_)) => panic!("{destination:?}: {why}"),
            }
            let forced = decide_replace(&destination, true);
            let is_workspace = matches!(destination, Destination::Workspace { .. });
            assert!(!is_workspace || forced == Ok(Replace::Workspace));
        }
        assert!(decide_replace(&Destination::Folder, true).is_err());
    }
}
