//! How much a guest's patch may be, counted while it comes: what it says that it unpacks to, before git believes it.

/// The most that a patch may have, in bytes.
pub(super) const LARGEST_PATCH: u64 = 1 << 30;

/// The most that all files that it writes may have, unpacked: git holds them in memory.
const LARGEST_UNPACKED: u64 = 1 << 30;

/// The most that one of them may have: git holds it in memory.
const LARGEST_FILE: u64 = 256 << 20;

/// The most files.
const MOST_FILES: u64 = 500_000;

/// What a patch has too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    /// It is too long.
    #[error("it has more than {} MiB", LARGEST_PATCH >> 20)]
    Bytes,
    /// It touches too many files.
    #[error("it touches more than {MOST_FILES} files")]
    Files,
    /// One of its files is too large.
    #[error("a file in it has more than {} MiB", LARGEST_FILE >> 20)]
    OneFile,
    /// Its files are too large together.
    #[error("what it holds has more than {} MiB unpacked", LARGEST_UNPACKED >> 20)]
    Unpacked,
}

/// Counts over the pieces of a patch (git-diff-format(5); the binary part is `literal` or `delta` and a length).
#[derive(Debug, Default)]
pub(super) struct PatchBounds {
    bytes: u64,
    files: u64,
    unpacked: u64,
    /// The beginning of the line that is coming, as far as it matters.
    line: Vec<u8>,
    /// Whether the line that is coming is longer than that.
    is_long: bool,
}

/// Refuses files that have more together than a patch may unpack to. A patch says nothing of what it copies, and of
/// a delta only how long that is itself: so it is asked again of what it made.
pub(super) fn refuse_written(bytes: impl IntoIterator<Item = u64>) -> Result<u64, TooMuch> {
    let sum = bytes.into_iter().fold(0, u64::saturating_add);
    match sum > LARGEST_UNPACKED {
        true => Err(TooMuch::Unpacked),
        false => Ok(sum),
    }
}

/// No line that matters is longer.
const LONGEST_LINE: usize = 64;

impl PatchBounds {
    /// Counts a piece.
    pub(super) fn take(&mut self, piece: &[u8]) -> Result<(), TooMuch> {
        self.bytes += piece.len() as u64;
        if self.bytes > LARGEST_PATCH {
            return Err(TooMuch::Bytes);
        }
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            let ends = part.ends_with(b"\n");
            let text = part.strip_suffix(b"\n").unwrap_or(part);
            let room = LONGEST_LINE.saturating_sub(self.line.len());
            self.is_long |= text.len() > room;
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                self.count()?;
                self.line.clear();
                self.is_long = false;
            }
        }
        Ok(())
    }

    fn count(&mut self) -> Result<(), TooMuch> {
        if self.line.starts_with(b"diff --git ") {
            self.files += 1;
            if self.files > MOST_FILES {
                return Err(TooMuch::Files);
            }
        }
        let Some(length) = ["literal ", "delta "]
            .iter()
            .find_map(|word| self.line.strip_prefix(word.as_bytes()))
        else {
            return Ok(());
        };
        // Lines of text begin with a sign or a blank: this one is git's, or nobody's.
        let digits = length.iter().take_while(|byte| byte.is_ascii_digit());
        let length = digits.fold(0_u64, |sum, digit| {
            sum.saturating_mul(10).saturating_add((digit - b'0').into())
        });
        if length > LARGEST_FILE {
            return Err(TooMuch::OneFile);
        }
        self.unpacked = self.unpacked.saturating_add(length);
        match self.unpacked > LARGEST_UNPACKED {
            true => Err(TooMuch::Unpacked),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn take(pieces: &[&[u8]]) -> Result<(), TooMuch> {
        let mut bounds = PatchBounds::default();
        pieces.iter().try_for_each(|piece| bounds.take(piece))
    }

    #[test]
    fn what_a_patch_says_that_it_unpacks_to_is_bounded_however_it_is_cut() {
        let bomb = b"GIT binary patch\nliteral 2147483648\nzcmV\n";
        for at in 0..bomb.len() {
            assert_eq!(
                take(&[&bomb[..at], &bomb[at..]]),
                Err(TooMuch::OneFile),
                "{at}"
            );
        }
        let many = "literal 200000000\n".repeat(30);
        assert_eq!(take(&[many.as_bytes()]), Err(TooMuch::Unpacked));
        assert_eq!(
            take(&[b"delta 99999999999999999999999999\n"]),
            Err(TooMuch::OneFile)
        );
        assert_eq!(
            take(&[b"+literal 99999999999\n literal 99999999999\n"]),
            Ok(())
        );
        let files = "diff --git a/x b/x\n".repeat(600_000);
        assert_eq!(take(&[files.as_bytes()]), Err(TooMuch::Files));
        let piece = vec![b'+'; 64 << 20];
        assert_eq!(take(&[&piece[..]; 17]), Err(TooMuch::Bytes));
    }

    proptest! {
        #[test]
        fn fuzz_no_patch_is_too_odd_to_be_counted(pieces in proptest::collection::vec("[ld ite\nra1-9+]{0,40}", 0..20)) {
            let whole = pieces.concat();
            let pieces: Vec<&[u8]> = pieces.iter().map(|piece| piece.as_bytes()).collect();
            prop_assert_eq!(take(&pieces), take(&[whole.as_bytes()]));
        }
    }
}
