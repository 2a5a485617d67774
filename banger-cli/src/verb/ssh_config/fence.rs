//! Our lines in somebody else's file.

use std::fmt;

const BEGIN: &str =
    "# >>> banger: put here by `banger ssh-config --install`, taken out by --uninstall >>>\n";
const END: &str = "# <<< banger <<<\n";

/// The lines.
pub(super) struct Fence(Vec<u8>);

/// The fence is not as we put it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FenceError {
    /// It begins and does not end.
    Open,
    /// It is there more than once.
    Twice,
}

impl fmt::Display for FenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FenceError::Open => "banger's lines in it begin, but their last line is missing",
            FenceError::Twice => "banger's lines are in it more than once",
        })
    }
}

impl Fence {
    /// Lines that include a file.
    pub(super) fn including(path: &str) -> Self {
        Fence(format!("{BEGIN}Include \"{path}\"\n{END}").into_bytes())
    }

    /// Puts the lines where they are already, else at the top: below a `Host` they would only hold for it.
    pub(super) fn put_into(&self, text: &[u8]) -> Result<Vec<u8>, FenceError> {
        Ok(match find(text)? {
            Some((begin, end)) => [&text[..begin], &self.0, &text[end..]].concat(),
            None => [&self.0, text].concat(),
        })
    }

    /// Takes the lines out, and nothing else.
    pub(super) fn take_out_of(text: &[u8]) -> Result<Vec<u8>, FenceError> {
        Ok(match find(text)? {
            Some((begin, end)) => [&text[..begin], &text[end..]].concat(),
            None => text.to_vec(),
        })
    }
}

/// Where the fence begins and ends.
fn find(text: &[u8]) -> Result<Option<(usize, usize)>, FenceError> {
    let Some(begin) = position(text, BEGIN) else {
        return Ok(None);
    };
    let inside = begin + BEGIN.len();
    let Some(length) = position(&text[inside..], END) else {
        return Err(FenceError::Open);
    };
    let end = inside + length + END.len();
    match position(&text[inside..], BEGIN) {
        Some(_) => Err(FenceError::Twice),
        None => Ok(Some((begin, end))),
    }
}

fn position(text: &[u8], sought: &str) -> Option<usize> {
    let sought = sought.as_bytes();
    (0..text.len())
        .filter(|&at| at == 0 || text[at - 1] == b'\n')
        .find(|&at| text[at..].starts_with(sought))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_taken_out_byte_for_byte() {
        let fence = Fence::including("/c/ssh_config");
        for before in [&b""[..], b"Host a\n  User b\n", b"no newline", b"\xff\n\n"] {
            let with = fence.put_into(before).unwrap();
            assert!(with.ends_with(before));
            assert_eq!(fence.put_into(&with).unwrap(), with, "once is enough");
            assert_eq!(Fence::take_out_of(&with).unwrap(), before);
            assert_eq!(Fence::take_out_of(before).unwrap(), before);
        }
    }

    #[test]
    fn lines_that_somebody_moved_stay_where_they_are_and_are_brought_up_to_date() {
        let moved = [b"Host a\n", &Fence::including("/old").0[..], b"Host b\n"].concat();
        let with = Fence::including("/new").put_into(&moved).unwrap();
        let text = String::from_utf8(with).unwrap();
        assert!(text.starts_with("Host a\n# >>>"), "{text}");
        assert!(
            text.contains("\"/new\"") && !text.contains("/old"),
            "{text}"
        );
        assert!(text.ends_with("<<<\nHost b\n"), "{text}");
    }

    #[test]
    fn a_fence_that_was_damaged_is_not_touched() {
        let open = format!("{BEGIN}Include \"/x\"\nHost mine\n");
        assert_eq!(Fence::take_out_of(open.as_bytes()), Err(FenceError::Open));
        let fence = Fence::including("/x");
        let twice = [&fence.0[..], &fence.0].concat();
        assert_eq!(fence.put_into(&twice), Err(FenceError::Twice));
    }
}
