//! What git and guests print about workspaces, as nobody meant it.

use banger_session::workspace::patch::{check_path, leads_out, parse_changes, parse_numstat_paths};
use banger_session::workspace::{
    GuestPath, Heading, check_index, config_text, parse_config, parse_preflight, parse_status,
    parse_submodules, quoted_path, without_credentials,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// Bytes that look like git's more often than chance would.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let words = prop_oneof![
        Just(b"1 .M N... 100644 100644 100644 ".to_vec()),
        Just(b":100644 100644 ".to_vec()),
        Just(vec![b'a'; 40]),
        Just(b" R100\0".to_vec()),
        Just(b" M\0".to_vec()),
        Just(b"\0".to_vec()),
        Just(b"1\t2\t".to_vec()),
        Just(b"banger-workspace 1\nmissing\nfree 1\ndest workspace\nrefs same\nchanges\n".to_vec()),
        Just(b"\ncompared 0\nend\n".to_vec()),
        vec(any::<u8>(), 0..12),
    ];
    vec(words, 0..12).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn fuzz_nothing_that_is_printed_makes_a_parser_panic(output in pieces()) {
        let _ = parse_status(&output);
        let _ = parse_preflight(&output);
        let index = [b"DIRC\0\0\0\x04\0\0\0\x03", &output[..]].concat();
        let _ = check_index(&index, 20);
        let _ = parse_submodules(&output);
        let _ = parse_config(&output);
        let _ = parse_numstat_paths(&output);
        let _ = Heading::read(&[b"banger-changes 1\n", &output[..]].concat());
        if let Ok(changes) = parse_changes(&output) {
            prop_assert!(changes.iter().all(|change| !change.path.is_empty()));
        }
    }

    #[test]
    fn fuzz_a_path_that_passes_stays_inside(parts in vec("[a.~ /]{0,4}|\\.\\.|\\.git|\\.GIT ?", 1..5)) {
        let path = parts.join("/");
        if check_path(path.as_bytes()).is_ok() {
            prop_assert!(!path.starts_with('/'));
            for part in path.split('/') {
                prop_assert!(!["", ".", ".."].contains(&part));
                prop_assert!(!part.trim_end_matches([' ', '.']).eq_ignore_ascii_case(".git"));
            }
        }
    }

    #[test]
    fn fuzz_a_link_that_stays_inside_is_inside_when_it_is_followed(
        path in "[ab](/[ab]){0,3}", target in "(\\.\\./|[ab]/|\\./){0,5}[ab]"
    ) {
        let mut place: Vec<&str> = path.split('/').collect();
        place.pop();
        let mut outside = false;
        for part in target.split('/') {
            match part {
                ".." => outside |= place.pop().is_none(),
                "." => {}
                part => place.push(part),
            }
        }
        prop_assert_eq!(leads_out(path.as_bytes(), target.as_bytes()), outside);
    }

    #[test]
    fn fuzz_no_password_is_carried(user in "[a-z]{1,5}", secret in "[a-z0-9]{6,9}", path in "[a-z/]{0,9}") {
        for scheme in ["https", "http", "ssh", "ftp"] {
            let address = format!("{scheme}://{user}:{secret}@host/{path}");
            let kept = without_credentials(&address);
            let leaked = kept.contains(&(secret.clone() + "@"));
            prop_assert!(!leaked);
        }
    }

    #[test]
    fn fuzz_a_guest_path_is_what_was_given(path in vec(any::<u8>(), 0..40)) {
        if let Ok(accepted) = GuestPath::new(&path) {
            let given = path.strip_suffix(b"/").unwrap_or(&path);
            prop_assert_eq!(accepted.as_bytes(), given);
            prop_assert!(!given.iter().any(u8::is_ascii_control));
        }
    }

    #[test]
    fn fuzz_what_is_written_into_a_git_dir_stays_on_its_line(value in any::<String>(), path in vec(any::<u8>(), 0..40)) {
        let text = config_text(&[("a", Some(&value), vec![("b", value.clone())])]);
        prop_assert_eq!(text.lines().count(), 2);
        prop_assert_eq!(quoted_path(&path).lines().count(), 1);
    }
}
