//! The scripts of workspaces: what they do is tested in the engine, here that they are scripts.

use std::process::Command;

use banger_session::workspace::{
    Checkout, GuestPath, Receive, Replace, TakeOut, changes_script, export_script,
    preflight_script, receive_script, take_out_script,
};

use crate::shell::shellcheck;

/// What is handed to the inner shell.
fn inner(script: &[u8]) -> Vec<u8> {
    let quoted = script.strip_prefix(b"exec sh -c ").unwrap();
    let print = [b"printf %s ".as_slice(), quoted].concat();
    let output = Command::new("sh")
        .arg("-c")
        .arg(String::from_utf8(print).unwrap())
        .output();
    output.unwrap().stdout
}

#[test]
fn every_script_parses_and_shellcheck_finds_nothing() {
    let dest = GuestPath::new(b"/srv/it's \"a\" $(repo)").unwrap();
    let checkouts = [b"".as_slice(), b"deps/it's one"].map(|prefix| Checkout {
        prefix: prefix.to_vec(),
    });
    let mut scripts = vec![
        preflight_script(&dest, "0123").unwrap(),
        export_script(&dest, "HEAD").unwrap(),
        changes_script(&dest, "HEAD").unwrap(),
        take_out_script(TakeOut {
            dest: &dest,
            base: "0123",
            known: Some("4567"),
            keep: true,
        })
        .unwrap(),
    ];
    for (overlay_bytes, replace) in [(None, Replace::Nothing), (Some(7), Replace::Workspace)] {
        let receive = Receive {
            dest: &dest,
            id: "0f",
            checkouts: &checkouts,
            repos_bytes: 10_240,
            overlay_bytes,
            replace,
        };
        scripts.push(receive_script(&receive).unwrap());
    }
    for script in scripts {
        let inner = inner(&script);
        assert!(
            inner.starts_with(b"set -u\n"),
            "{}",
            String::from_utf8_lossy(&inner)
        );
        shellcheck(&inner);
    }
}
