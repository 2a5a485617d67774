//! What `git status` says of a working tree.

use thiserror::Error;

/// How a working tree differs from `HEAD`. Paths are bytes, relative to the
/// root, in git's order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Tracked, different from `HEAD`, and there: to be carried.
    pub changed: Vec<Vec<u8>>,
    /// Those of `changed` that `HEAD` does not have.
    pub added: Vec<Vec<u8>>,
    /// In `HEAD`, and not, or no longer tracked, in the working tree.
    pub deleted: Vec<Vec<u8>>,
    /// Not tracked and not ignored; a folder ends in a slash.
    pub untracked: Vec<Vec<u8>>,
    /// In the middle of a merge.
    pub unmerged: usize,
}

/// Says that an output is not what git prints.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("git's {what} is not understood: {record:?}")]
pub struct MalformedOutput {
    /// Of which command.
    pub what: &'static str,
    /// The piece, with bytes that are no UTF-8 replaced.
    pub record: String,
}

/// Reads `git status --porcelain=v2 -z --no-renames` (git-status(1)).
/// Submodules are passed over: they are looked at for themselves.
///
/// # Errors
///
/// [`MalformedOutput`] for a record of no known kind.
pub fn parse_status(output: &[u8]) -> Result<Status, MalformedOutput> {
    let mut status = Status::default();
    for record in output.split(|&byte| byte == 0) {
        let malformed = || MalformedOutput {
            what: "status",
            record: String::from_utf8_lossy(record).into_owned(),
        };
        match record.get(..2) {
            // `1 XY sub mH mI mW hH hI path`
            Some(b"1 ") => {
                let fields: Vec<_> = record.splitn(9, |&byte| byte == b' ').collect();
                let [_, xy, sub, in_head, _, in_tree, _, _, path] = fields[..] else {
                    return Err(malformed());
                };
                if path.is_empty() || xy.len() != 2 {
                    return Err(malformed());
                }
                if sub.starts_with(b"S") {
                    continue;
                }
                let is_new = in_head == b"000000";
                note(&mut status, path, in_tree, is_new);
            }
            // `u XY sub m1 m2 m3 mW h1 h2 h3 path`
            Some(b"u ") => {
                let fields: Vec<_> = record.splitn(11, |&byte| byte == b' ').collect();
                let [_, _, _, _, ours, _, in_tree, _, _, _, path] = fields[..] else {
                    return Err(malformed());
                };
                status.unmerged += 1;
                note(&mut status, path, in_tree, ours == b"000000");
            }
            Some(b"? ") => status.untracked.push(record[2..].to_vec()),
            Some(b"! " | b"# ") => {}
            None if record.is_empty() => {}
            _ => return Err(malformed()),
        }
    }
    Ok(status)
}

fn note(status: &mut Status, path: &[u8], mode_in_tree: &[u8], is_new: bool) {
    match (mode_in_tree == b"000000", is_new) {
        // Staged, and then removed without telling git: neither here nor there.
        (true, true) => {}
        (true, false) => status.deleted.push(path.to_vec()),
        (false, is_new) => {
            if is_new {
                status.added.push(path.to_vec());
            }
            status.changed.push(path.to_vec());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H: &str = "0123456789012345678901234567890123456789";

    fn read(records: &[String]) -> Status {
        let mut output = records.join("\0").into_bytes();
        output.push(0);
        parse_status(&output).unwrap()
    }

    #[test]
    fn every_kind_of_change_finds_its_place() {
        let status = read(&[
            format!("1 .M N... 100644 100644 100644 {H} {H} src/a b.rs"),
            format!("1 A. N... 000000 100644 100755 {H} {H} -new\nfile"),
            format!("1 AD N... 000000 100644 000000 {H} {H} came and went"),
            format!("1 .D N... 100644 100644 000000 {H} {H} gone"),
            format!("1 D. N... 100644 000000 000000 {H} {H} removed"),
            format!("1 .T N... 100644 100644 120000 {H} {H} now a link"),
            format!("1 .M SC.. 160000 160000 160000 {H} {H} sub"),
            format!("u UU N... 100644 100644 100644 100644 {H} {H} {H} both"),
            "? untracked".to_owned(),
            "? folder/".to_owned(),
            "! ignored".to_owned(),
        ]);
        let names = |paths: &[Vec<u8>]| {
            let names = paths.iter().map(|path| String::from_utf8_lossy(path));
            names.collect::<Vec<_>>().join(",")
        };
        assert_eq!(
            names(&status.changed),
            "src/a b.rs,-new\nfile,now a link,both"
        );
        assert_eq!(names(&status.added), "-new\nfile");
        assert_eq!(names(&status.deleted), "gone,removed");
        assert_eq!(names(&status.untracked), "untracked,folder/");
        assert_eq!(status.unmerged, 1);
        assert_eq!(parse_status(b""), Ok(Status::default()));
    }

    #[test]
    fn what_git_never_prints_is_refused() {
        for output in ["x", "1 .M N... 100644\0", "2 R. x\0", "1 .M a b c d e f \0"] {
            assert!(parse_status(output.as_bytes()).is_err(), "{output:?}");
        }
    }
}
