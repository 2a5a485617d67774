//! git's index (gitformat-index(5)), read only to check what it names before any
//! program sees it.

use thiserror::Error;

use super::patch::{BadPath, check_path};

/// What an index says that decides what is read next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IndexFacts {
    /// How many entries it holds.
    pub entries: usize,
    /// The hexadecimal name of the shared index that it goes on in.
    pub shared: Option<String>,
}

/// Why an index is not used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadIndex {
    /// It is no index, or damaged.
    #[error("its index is damaged: {reason}")]
    Damaged {
        /// What is wrong.
        reason: &'static str,
    },
    /// It names a file outside of the repository, or in git's own folder.
    #[error("its index names {path:?}: {source}")]
    Path {
        /// The name.
        path: String,
        /// What is wrong with it.
        source: BadPath,
    },
}

/// Reads an index and checks each path in it. `hash_bytes` is 20, or 32 where
/// objects are named by sha256.
///
/// # Errors
///
/// [`BadIndex`] if any part is not as git writes it, or a path leads out.
pub fn check_index(index: &[u8], hash_bytes: usize) -> Result<IndexFacts, BadIndex> {
    let damaged = |reason| BadIndex::Damaged { reason };
    let word = |at: usize| -> Option<u32> {
        let bytes = index.get(at..at.checked_add(4)?)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    };
    if index.get(..4) != Some(b"DIRC") {
        return Err(damaged("it has no signature"));
    }
    let (version, count) = word(4).zip(word(8)).ok_or(damaged("it is cut off"))?;
    if !(2..=4).contains(&version) {
        return Err(damaged("its version is unknown"));
    }
    let end = index
        .len()
        .checked_sub(hash_bytes)
        .filter(|end| *end >= 12)
        .ok_or(damaged("it is cut off"))?;
    let body = &index[..end];
    let mut facts = IndexFacts::default();
    let (mut at, mut path) = (12, Vec::new());
    for _ in 0..count {
        at = read_entry(body, at, version, hash_bytes, &mut path)
            .ok_or(damaged("an entry is cut off"))?;
        facts.entries += 1;
        // Whole folders in a sparse index end in a slash.
        let name = path.strip_suffix(b"/").unwrap_or(&path);
        // A split index repeats what it replaces without its name.
        if name.is_empty() {
            continue;
        }
        check_path(name).map_err(|source| BadIndex::Path {
            path: String::from_utf8_lossy(&path).into_owned(),
            source,
        })?;
    }
    while at < end {
        let (kind, length) = body
            .get(at..at + 4)
            .zip(word(at + 4))
            .ok_or(damaged("an extension is cut off"))?;
        let content = at + 8;
        let next = content
            .checked_add(length as usize)
            .filter(|next| *next <= end);
        let next = next.ok_or(damaged("an extension is cut off"))?;
        if kind == b"link" {
            let name = body
                .get(content..content + hash_bytes)
                .filter(|_| length as usize >= hash_bytes);
            let name = name.ok_or(damaged("its link is cut off"))?;
            if name.iter().any(|byte| *byte != 0) {
                facts.shared = Some(name.iter().map(|byte| format!("{byte:02x}")).collect());
            }
        }
        at = next;
    }
    Ok(facts)
}

/// Reads one entry, and returns where the next begins; `path` is that of the one
/// before, and becomes its own.
fn read_entry(
    body: &[u8],
    at: usize,
    version: u32,
    hash_bytes: usize,
    path: &mut Vec<u8>,
) -> Option<usize> {
    /// Times, device, inode, mode, owners and size.
    const STAT: usize = 40;
    let flags_at = at.checked_add(STAT + hash_bytes)?;
    let flags = u16::from_be_bytes(body.get(flags_at..flags_at + 2)?.try_into().ok()?);
    let is_extended = flags & 0x4000 != 0;
    let mut name_at = flags_at + 2;
    if is_extended {
        if version < 3 {
            return None;
        }
        name_at += 2;
    }
    let rest = body.get(name_at..)?;
    if version == 4 {
        // What is kept of the path before, then the rest up to a NUL.
        let (cut, used) = varint(rest)?;
        let kept = path.len().checked_sub(cut)?;
        let rest = &rest[used..];
        let length = rest.iter().position(|byte| *byte == 0)?;
        path.truncate(kept);
        path.extend_from_slice(&rest[..length]);
        return Some(name_at + used + length + 1);
    }
    let length = rest.iter().position(|byte| *byte == 0)?;
    path.clear();
    path.extend_from_slice(&rest[..length]);
    // One to eight NULs, so that the entry is a multiple of eight bytes long.
    let size = (name_at + length - at + 8) & !7;
    let next = at.checked_add(size)?;
    body.get(name_at + length..next)?;
    Some(next)
}

/// The offset encoding of packs: each further byte stands for one more than its
/// bits say.
fn varint(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0_usize;
    for (used, &byte) in bytes.iter().take(8).enumerate() {
        let bits = usize::from(byte & 0x7f);
        value = match used {
            0 => bits,
            _ => value.checked_add(1)?.checked_mul(128)?.checked_add(bits)?,
        };
        if byte & 0x80 == 0 {
            return Some((value, used + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(version: u32, names: &[&[u8]]) -> Vec<u8> {
        let mut bytes = b"DIRC".to_vec();
        bytes.extend(version.to_be_bytes());
        bytes.extend((names.len() as u32).to_be_bytes());
        let mut before: &[u8] = b"";
        for name in names {
            let from = bytes.len();
            bytes.extend([0; 60]);
            bytes.extend((name.len().min(0xfff) as u16).to_be_bytes());
            if version == 4 {
                bytes.push(before.len() as u8);
                bytes.extend(*name);
                bytes.push(0);
            } else {
                bytes.extend(*name);
                let length = bytes.len() - from;
                bytes.resize(from + ((length + 8) & !7), 0);
            }
            before = name;
        }
        bytes.extend([0; 20]);
        bytes
    }

    #[test]
    fn every_path_is_checked_in_every_version() {
        for version in 2..=4 {
            let good = index(version, &[b"a", b"dir/b", b"dir/sub/c"]);
            let facts = check_index(&good, 20).unwrap();
            assert_eq!(facts.entries, 3);
            for bad in [
                &b"../../id_rsa"[..],
                b"/etc/passwd",
                b".git/config",
                b"a/../b",
                b"a//b",
                b"x/.GIT/y",
            ] {
                let error = check_index(&index(version, &[b"a", bad]), 20).unwrap_err();
                assert!(matches!(error, BadIndex::Path { .. }), "{version}: {error}");
            }
        }
    }

    #[test]
    fn an_index_that_is_cut_anywhere_or_spoiled_is_an_error_and_no_panic() {
        for version in 2..=4 {
            let good = index(version, &[b"a", b"dir/b", b"dir/sub/c"]);
            for length in 0..good.len() {
                let _ = check_index(&good[..length], 20);
                let mut spoiled = good.clone();
                for value in [0, 0x7f, 0x80, 0xff] {
                    spoiled[length] = value;
                    let _ = check_index(&spoiled, 20);
                    let _ = check_index(&spoiled, 32);
                }
            }
        }
    }

    #[test]
    fn a_shared_index_is_named() {
        let mut split = index(2, &[b"a"]);
        split.truncate(split.len() - 20);
        split.extend(b"link");
        split.extend(20_u32.to_be_bytes());
        split.extend([0xab; 20]);
        split.extend([0; 20]);
        let facts = check_index(&split, 20).unwrap();
        assert_eq!(facts.shared, Some("ab".repeat(20)));
    }
}
