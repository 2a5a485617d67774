//! Streams as an honest tar writes them, and as no honest one would.

use super::*;
use crate::guest_link::link_of_a_guest;
use proptest::collection::vec;
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use tar::{Builder, Header};

/// One entry, with any name and any kind, as an honest tar would not write it.
#[derive(Clone, Debug)]
struct Sent<'a> {
    kind: EntryType,
    name: &'a str,
    link: &'a str,
    mode: u32,
    content: &'a [u8],
}

const FILE: Sent<'static> = Sent {
    kind: EntryType::Regular,
    name: "file",
    link: "",
    mode: 0o644,
    content: b"from the guest",
};

fn archive(entries: &[Sent<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for sent in entries {
        let mut header = Header::new_gnu();
        let gnu = header.as_gnu_mut().unwrap();
        // Straight into the field: the setters refuse what is hostile.
        gnu.name[..sent.name.len()].copy_from_slice(sent.name.as_bytes());
        gnu.linkname[..sent.link.len()].copy_from_slice(sent.link.as_bytes());
        header.set_entry_type(sent.kind);
        header.set_mode(sent.mode);
        header.set_mtime(1000);
        header.set_size(sent.content.len() as u64);
        header.set_cksum();
        builder.append(&header, sent.content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A folder to unpack into, and one beside it that nothing may touch.
struct Place {
    dir: tempfile::TempDir,
    folder: Folder,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        fs::create_dir(dir.path().join("out")).unwrap();
        fs::write(dir.path().join("out/authorized_keys"), "mine").unwrap();
        let folder = Folder::open(&dir.path().join("in")).unwrap();
        Place { dir, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("in").join(name)
    }

    fn take(&self, entries: &[Sent<'_>]) -> Result<Unpacked, UnpackError> {
        self.take_bytes(&archive(entries))
    }

    fn take_bytes(&self, bytes: &[u8]) -> Result<Unpacked, UnpackError> {
        let taken = self.folder.unpack(bytes, 0o022, "0123");
        let out = self.dir.path().join("out");
        let names: Vec<_> = fs::read_dir(&out)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["authorized_keys"], "something came out");
        assert_eq!(fs::read(out.join("authorized_keys")).unwrap(), b"mine");
        assert!(
            !self.path(".banger-cp-0123").exists(),
            "half a file is left"
        );
        taken
    }
}

#[test]
fn a_link_of_an_earlier_copy_is_not_written_through() {
    let place = Place::new();
    let link = Sent {
        kind: EntryType::Symlink,
        name: "d",
        link: "../out",
        ..FILE
    };
    place.take(&[link]).unwrap();
    let found = |path: &str| link_of_a_guest(&place.path(path));
    let link = Some(place.path("d"));
    assert_eq!(found("d"), link);
    // Also on the way, with a slash at its end, and by way of a link of our own.
    symlink(".", place.path("ours")).unwrap();
    for path in [
        "d/",
        "d/.",
        "d/x/y",
        "ours/d",
        "ours/ours/d/x",
        "ours/../in/d",
    ] {
        let found = found(path).map(|link| link.file_name().unwrap().to_owned());
        assert_eq!(found.as_deref(), Some(OsStr::new("d")), "{path}");
    }
    for path in ["ours", "ours/x", ".", "nothing/d"] {
        assert_eq!(found(path), None, "{path}");
    }
    for name in ["d/authorized_keys", "d/new", "./d/new"] {
        let error = place.take(&[Sent { name, ..FILE }]).unwrap_err();
        assert!(
            error.to_string().contains("symbolic link"),
            "{name}: {error}"
        );
    }
    // In one stream, too; and as a folder of that name.
    let place = Place::new();
    let link = Sent {
        kind: EntryType::Symlink,
        name: "d",
        link: "../out",
        ..FILE
    };
    let folder = Sent {
        kind: EntryType::Directory,
        name: "d/",
        mode: 0o777,
        content: b"",
        ..FILE
    };
    for then in [
        Sent {
            name: "d/authorized_keys",
            ..FILE
        },
        folder,
    ] {
        assert!(place.take(&[link.clone(), then]).is_err());
    }
}

#[test]
fn a_link_in_the_place_of_a_file_is_replaced_and_not_followed() {
    let place = Place::new();
    symlink("../out/authorized_keys", place.path("file")).unwrap();
    place.take(&[FILE]).unwrap();
    assert_eq!(fs::read(place.path("file")).unwrap(), b"from the guest");
    assert!(
        !fs::symlink_metadata(place.path("file"))
            .unwrap()
            .is_symlink()
    );
}

#[test]
fn names_that_lead_out_are_refused() {
    for name in ["../out/x", "/etc/passwd", "a/../../out/x", "..", "."] {
        let place = Place::new();
        let error = place.take(&[Sent { name, ..FILE }]).unwrap_err();
        assert!(
            matches!(error, UnpackError::BadName { .. }),
            "{name}: {error}"
        );
    }
}

#[test]
fn hard_links_lead_to_files_of_the_same_stream_only() {
    let place = Place::new();
    fs::write(place.path("mine"), "mine").unwrap();
    let link = |name: &'static str, link: &'static str| Sent {
        kind: EntryType::Link,
        name,
        link,
        content: b"",
        ..FILE
    };
    place.take(&[FILE, link("second", "file")]).unwrap();
    let ino = |name: &str| fs::metadata(place.path(name)).unwrap().ino();
    assert_eq!(ino("file"), ino("second"));
    for target in ["mine", "../out/authorized_keys", "/etc/passwd", "none"] {
        assert!(place.take(&[link("third", target)]).is_err(), "{target}");
        assert!(!place.path("third").exists());
    }
}

#[test]
fn devices_and_pipes_are_left_out_and_named_and_set_uid_bits_are_dropped() {
    let place = Place::new();
    let odd = [EntryType::Fifo, EntryType::Char, EntryType::Block].map(|kind| Sent {
        kind,
        name: "odd",
        content: b"",
        ..FILE
    });
    let suid = Sent {
        name: "suid",
        mode: 0o6755,
        ..FILE
    };
    let mut entries = odd.to_vec();
    entries.push(suid);
    let done = place.take(&entries).unwrap();
    assert_eq!((done.files, done.left_out), (1, 3));
    assert_eq!(done.left_out_names[0], Path::new("odd"));
    assert!(!place.path("odd").exists());
    let mode = fs::metadata(place.path("suid"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o755);
}

#[test]
fn folders_get_their_modes_in_the_end_and_those_that_are_there_keep_theirs() {
    let place = Place::new();
    fs::create_dir(place.path("old")).unwrap();
    fs::set_permissions(place.path("old"), fs::Permissions::from_mode(0o700)).unwrap();
    let folder = |name: &'static str| Sent {
        kind: EntryType::Directory,
        name,
        mode: 0o555,
        content: b"",
        ..FILE
    };
    let within = |name: &'static str| Sent { name, ..FILE };
    place
        .take(&[
            folder("./"),
            folder("new"),
            within("new/a"),
            folder("old"),
            within("old/b"),
        ])
        .unwrap();
    let mode = |name: &str| fs::metadata(place.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("new"), mode("old")), (0o555, 0o700));
    assert_eq!(fs::metadata(place.path("new")).unwrap().mtime(), 1000);
    assert_eq!(fs::metadata(place.path("old/b")).unwrap().mtime(), 1000);
    fs::set_permissions(place.path("new"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn one_file_is_not_written_over_by_another_of_the_same_stream() {
    let place = Place::new();
    let error = place
        .take(&[
            FILE,
            Sent {
                content: b"again",
                ..FILE
            },
        ])
        .unwrap_err();
    assert!(matches!(error, UnpackError::Twice { .. }), "{error}");
    assert_eq!(fs::read(place.path("file")).unwrap(), b"from the guest");
}

#[test]
fn a_folder_in_the_place_of_a_file_and_the_other_way_round_are_named_and_stay() {
    let place = Place::new();
    fs::create_dir(place.path("file")).unwrap();
    let error = place.take(&[FILE]).unwrap_err();
    assert!(error.to_string().contains("file"), "{error}");
    assert!(place.path("file").is_dir());
    fs::write(place.path("d"), "mine").unwrap();
    assert!(
        place
            .take(&[Sent {
                name: "d/x",
                ..FILE
            }])
            .is_err()
    );
    assert_eq!(fs::read(place.path("d")).unwrap(), b"mine");
}

#[test]
fn long_names_come_through_and_endless_ones_are_refused() {
    let place = Place::new();
    let name = format!("{}/{}", "a".repeat(150), "b".repeat(150));
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(2);
    header.set_mode(0o644);
    builder.append_data(&mut header, &name, &b"hi"[..]).unwrap();
    place.take_bytes(&builder.into_inner().unwrap()).unwrap();
    assert_eq!(fs::read(place.path(&name)).unwrap(), b"hi");
    for kind in [
        EntryType::GNULongName,
        EntryType::GNULongLink,
        EntryType::XHeader,
        EntryType::XGlobalHeader,
    ] {
        let endless = vec![b'a'; 1 << 20];
        let sent = Sent {
            kind,
            content: &endless,
            ..FILE
        };
        let error = place.take(&[sent]).unwrap_err();
        assert!(matches!(error, UnpackError::LongHeader { .. }), "{error}");
    }
}

proptest! {
    #[test]
    fn fuzz_no_stream_reaches_out_or_panics(
        parts in vec((0..7_u8, 0..6_usize, 0..6_usize, 0..0o10000_u32), 0..8),
        spoil in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        const NAMES: [&str; 6] = ["d", "d/authorized_keys", "../out/x", "d/e/f", "file", "./d/./x"];
        const LINKS: [&str; 6] = ["../out", "../out/authorized_keys", "d", "/etc", "file", ""];
        let place = Place::new();
        for half in parts.chunks(4) {
            let entries: Vec<_> = half.iter().map(|(kind, name, link, mode)| Sent {
                kind: [
                    EntryType::Regular, EntryType::Directory, EntryType::Symlink, EntryType::Link,
                    EntryType::Fifo, EntryType::GNULongName, EntryType::XHeader,
                ][usize::from(*kind)],
                name: NAMES[*name],
                link: LINKS[*link],
                mode: *mode,
                content: if *kind == 0 { b"x" } else { b"" },
            }).collect();
            let mut bytes = archive(&entries);
            for (at, value) in &spoil {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            let _ = place.take_bytes(&bytes);
        }
    }
}

/// A file with holes as GNU tar writes it: its pieces, its length, and what follows as content.
fn with_holes(name: &str, pieces: &[(u64, u64)], length: u64, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_mode(0o644);
    header.set_mtime(1000);
    header.set_size(content.len() as u64);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.name[..name.len()].copy_from_slice(name.as_bytes());
    gnu.set_real_size(length);
    let (first, rest) = pieces.split_at(pieces.len().min(4));
    for (place, (offset, bytes)) in gnu.sparse.iter_mut().zip(first) {
        place.set_offset(*offset);
        place.set_length(*bytes);
    }
    gnu.set_is_extended(!rest.is_empty());
    header.set_cksum();
    let mut sent = header.as_bytes().to_vec();
    let blocks: Vec<_> = rest.chunks(21).collect();
    for (number, block) in blocks.iter().enumerate() {
        let mut extension = tar::GnuExtSparseHeader::new();
        for (place, (offset, bytes)) in extension.sparse_mut().iter_mut().zip(*block) {
            place.set_offset(*offset);
            place.set_length(*bytes);
        }
        extension.set_is_extended(number + 1 < blocks.len());
        sent.extend(extension.as_bytes());
    }
    sent.extend(content);
    sent.resize(sent.len().next_multiple_of(512), 0);
    sent
}

#[test]
fn the_holes_of_a_file_stay_holes_and_what_follows_it_is_read_on() {
    let place = Place::new();
    // More pieces than one header holds, and more than one block beside it.
    let pieces: Vec<_> = (0..40_u64).map(|n| ((n + 1) << 20, 512)).collect();
    let content: Vec<_> = (0..40_u8).flat_map(|n| [n + 1; 512]).collect();
    let length = 600 << 20;
    let mut sent = with_holes("disk", &pieces, length, &content);
    sent.extend(with_holes("empty", &[(4 << 20, 0)], 4 << 20, b""));
    sent.extend(archive(&[FILE]));
    place.take_bytes(&sent).unwrap();
    let disk = place.path("disk");
    let facts = fs::metadata(&disk).unwrap();
    assert_eq!((facts.len(), facts.mtime()), (length, 1000));
    assert!(facts.blocks() * 512 < 4 << 20, "{} blocks", facts.blocks());
    let mut read = File::open(&disk).unwrap();
    for (piece, (offset, _)) in pieces.iter().enumerate() {
        let mut around = [7; 514];
        read.seek(SeekFrom::Start(offset - 1)).unwrap();
        read.read_exact(&mut around).unwrap();
        let value = u8::try_from(piece + 1).unwrap();
        assert_eq!(
            (around[0], around[1], around[512], around[513]),
            (0, value, value, 0)
        );
    }
    let empty = fs::metadata(place.path("empty")).unwrap();
    assert_eq!((empty.len(), empty.blocks()), (4 << 20, 0));
    assert_eq!(fs::read(place.path("file")).unwrap(), FILE.content);
}

#[test]
fn a_map_that_lies_is_refused_and_leaves_nothing() {
    let lies: [(&[(u64, u64)], u64); 9] = [
        // Beyond the end; past the last number; one over the other; backwards.
        (&[(512, 512)], 600),
        (&[(u64::MAX - 3, 512)], 1 << 40),
        (&[(0, 300), (200, 212)], 1 << 20),
        (&[(4096, 256), (0, 256)], 1 << 20),
        // Less, and more, than was sent.
        (&[(0, 100)], 1 << 20),
        (&[(0, 1024)], 1 << 20),
        (&[], 1 << 20),
        // Longer than any file.
        (&[(0, 512)], u64::MAX),
        (&[(0, 512)], 1 << 63),
    ];
    for (pieces, length) in lies {
        let place = Place::new();
        let error = place.take_bytes(&with_holes("disk", pieces, length, &[1; 512]));
        let error = error.unwrap_err();
        assert!(
            matches!(error, UnpackError::Stream { .. }),
            "{pieces:?} {length}: {error}"
        );
        assert!(!place.path("disk").exists(), "{pieces:?}");
    }
    // A map without an end, and one that is no map.
    let place = Place::new();
    let endless = with_holes("disk", &vec![(0, 0); 1_100_000], 1 << 20, b"");
    let error = place.take_bytes(&endless).unwrap_err();
    assert!(matches!(error, UnpackError::Stream { .. }), "{error}");
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_size(0);
    header.set_path("disk").unwrap();
    header.set_cksum();
    assert!(place.take_bytes(header.as_bytes()).is_err());
    // Cut anywhere.
    let whole = with_holes("disk", &[(1 << 20, 512); 1], 2 << 20, &[1; 512]);
    for end in (1..whole.len()).step_by(97) {
        assert!(place.take_bytes(&whole[..end]).is_err(), "{end}");
        assert!(!place.path("disk").exists(), "{end}");
    }
}

#[test]
fn no_more_is_written_than_was_sent_however_long_a_file_is_said_to_be() {
    let place = Place::new();
    let claims = [1 << 30, 1 << 40, i64::MAX as u64];
    for length in claims {
        // The file system may have a longest file; then that is the answer.
        let _ = place.take_bytes(&with_holes("disk", &[(0, 512)], length, &[1; 512]));
        let blocks = fs::metadata(place.path("disk")).map_or(0, |facts| facts.blocks());
        assert!(blocks * 512 <= 64 << 10, "{length}: {blocks} blocks");
    }
}

#[test]
fn one_file_goes_where_it_was_wanted_whatever_it_is_called() {
    let place = Place::new();
    fs::write(place.path("mine"), "mine").unwrap();
    let unpack = |bytes: &[u8]| {
        let to = Path::new("wanted");
        place.folder.unpack_file(to, bytes, 0o022, "0123")
    };
    unpack(&with_holes("mine", &[(4096, 3)], 8192, b"abc")).unwrap();
    assert_eq!(fs::metadata(place.path("wanted")).unwrap().len(), 8192);
    unpack(&archive(&[Sent {
        name: "../out/x",
        mode: 0o6755,
        ..FILE
    }]))
    .unwrap();
    assert_eq!(fs::read(place.path("wanted")).unwrap(), FILE.content);
    let mode = fs::metadata(place.path("wanted"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o755);
    assert_eq!(fs::read(place.path("mine")).unwrap(), b"mine");
    let link = Sent {
        kind: EntryType::Symlink,
        link: "../out",
        content: b"",
        ..FILE
    };
    for bad in [archive(&[]), archive(&[link]), archive(&[FILE, FILE])] {
        assert!(matches!(unpack(&bad), Err(UnpackError::NotOne)));
    }
    assert!(!place.path(".banger-cp-0123").exists());
}

proptest! {
    #[test]
    fn fuzz_no_map_writes_more_than_was_sent(
        pieces in vec((0_u64..1 << 22, 0_u64..2048), 0..30),
        length in 0_u64..1 << 24,
        sent in 0_usize..4096,
    ) {
        let place = Place::new();
        let _ = place.take_bytes(&with_holes("disk", &pieces, length, &vec![1; sent]));
        if let Ok(facts) = fs::metadata(place.path("disk")) {
            let most = sent as u64 + 8192 * (pieces.len() as u64 + 1);
            prop_assert!(facts.blocks() * 512 <= most, "{} blocks", facts.blocks());
        }
    }
}
