//! How much may come of a guest's workspace.

/// The most that its pack may have, in bytes.
pub(super) const LARGEST_PACK: u64 = 1 << 30;

/// The most that all files that are written may have, unpacked.
const LARGEST_UNPACKED: u64 = 1 << 30;

/// What there is too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    /// What it sends is too long.
    #[error("it has more than {} MiB", LARGEST_PACK >> 20)]
    Bytes,
    /// Its files are too large together.
    #[error("what it holds has more than {} MiB unpacked", LARGEST_UNPACKED >> 20)]
    Unpacked,
}

/// Refuses files that have more together than may be written, and returns how much that is.
pub(super) fn refuse_written(bytes: impl IntoIterator<Item = u64>) -> Result<u64, TooMuch> {
    let sum = bytes.into_iter().fold(0, u64::saturating_add);
    match sum > LARGEST_UNPACKED {
        true => Err(TooMuch::Unpacked),
        false => Ok(sum),
    }
}
