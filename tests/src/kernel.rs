//! What the kernel holds.

use std::process::Command;

use crate::text;

/// What the kernel holds, as an administrator would look at it: the command, and what it printed.
pub fn as_an_administrator_sees_it() -> Vec<(String, String)> {
    let looks = [
        "dmsetup ls",
        "losetup -a",
        "ip -o link",
        "ip netns",
        "nft list ruleset",
        "cat /proc/mounts",
    ];
    let look = |command: &&str| {
        let output = Command::new("sh")
            .args(["-c", &format!("PATH=$PATH:/usr/sbin:/sbin {command} 2>&1")])
            .output();
        let output = output.expect("a shell");
        ((*command).to_owned(), text(&output.stdout))
    };
    looks.iter().map(look).collect()
}
