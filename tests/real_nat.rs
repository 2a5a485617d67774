//! `--nat` on the network `tap` as a user has it: a real guest, on a host that has an internet of its own
//! making, and nothing left of it whoever dies. Needs root, and says so.

use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;

use banger_tests::{Act, Home, alone, die_everywhere, eventually, kill, skipped, text};
use serde_json::json;

#[path = "../banger-core/tests/as_root_nat/street.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    reason = "shared with those who ask the kernel alone"
)]
mod street;

use street::{
    HOME, HOST, INTERNET, METADATA, PRINTER, SHOP, in_a_network_of_its_own, serve, sh, state,
    within,
};

/// Answers every question for a name with the one address that there is on this internet.
fn resolve(namespace: &str, address: Ipv4Addr) {
    let socket = within(Some(namespace), move || {
        UdpSocket::bind((address, 53)).expect("nobody has it")
    });
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            let asked = &question[..length];
            let name = asked[12..].iter().position(|byte| *byte == 0).unwrap_or(0);
            let end = 12 + name + 5;
            let is_ipv4 = asked[end - 3] == 1;
            let mut answer = asked[..2].to_vec();
            answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_ipv4), 0, 0, 0, 0]);
            answer.extend(&asked[12..end]);
            if is_ipv4 {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend(SHOP.octets());
            }
            let _ = socket.send_to(&answer, from);
        }
    });
}

/// Opens a connection in a guest and prints what is said on it.
fn dial(to: &str) -> String {
    format!("timeout 5 bash -c 'exec 3<>/dev/tcp/{to} && cat <&3'")
}

fn said(home: &Home, script: &str) -> String {
    home.ok(&["vm", "exec", "box", "--", "sh", "-c", script])
}

fn fails(home: &Home, script: &str) -> bool {
    let output = home.banger(&["vm", "exec", "box", "--", "sh", "-c", script]);
    !output.status.success()
}

#[test]
fn as_root_a_guest_is_let_out_and_nothing_is_left_whoever_dies() {
    if skipped() {
        return;
    }
    let _turn = alone();
    if !in_a_network_of_its_own("as_root_a_guest_is_let_out_and_nothing_is_left_whoever_dies") {
        return;
    }
    serve(Some(INTERNET), SHOP, 80);
    serve(Some(INTERNET), METADATA, 80);
    serve(Some(HOME), PRINTER, 80);
    serve(None, HOST, 8080);
    resolve(HOME, PRINTER);
    let before = state();
    let home = Home::new();
    let out = [
        "vm",
        "run",
        "--name",
        "box",
        "--network",
        "tap",
        "--nat",
        "--vmm",
        "qemu",
        "--disk",
        "overlay",
        "--",
        "sh",
        "-c",
    ];
    let shop = dial("shop.example/80");
    let mut arguments = out.to_vec();
    arguments.push(&shop);
    assert_eq!(
        home.ok(&arguments),
        HOST.to_string(),
        "by its name, as the host"
    );
    for near in [HOST, PRINTER, METADATA] {
        for port in [80, 8080] {
            assert!(fails(&home, &dial(&format!("{near}/{port}"))), "{near}");
        }
    }
    let proof = home.ok(&["doctor", "--prove"]);
    for kind in ["veth ", "nft table ", "network namespace "] {
        let line = proof.lines().find(|line| line.starts_with(kind));
        assert!(line.is_some_and(|line| line.ends_with("VM box")), "{proof}");
    }
    assert!(!proof.contains("STRAY"), "{proof}");

    // The daemon dies: the guest is as it was, and the next one knows what is whose.
    kill(home.daemon());
    assert_eq!(said(&home, &shop), HOST.to_string());
    home.assert_proven("after the daemon's death");

    // Both die, and what was written down is lost: it is found by its names.
    let folder = home.rig.config.state_dir.join("vms");
    let vm = std::fs::read_dir(folder).expect("VMs").flatten().next();
    let handles = vm.expect("a VM").path().join("handles.json");
    for lost in [false, true] {
        let (daemon, monitor) = (home.daemon(), home.monitor("box"));
        kill(daemon);
        kill(monitor);
        assert_ne!(state(), before);
        if lost {
            std::fs::remove_file(&handles).expect("it is there");
        }
        home.becomes("box", "stopped");
        assert_eq!(state(), before, "handles lost: {lost}");
        home.assert_proven("after both deaths");
        home.ok(&["vm", "start", "box"]);
    }
    home.ok(&["vm", "delete", "box"]);
    assert_eq!(state(), before);

    // A firewall that would swallow it is told before anything is made.
    sh(
        "nft 'table inet strict { chain routed { type filter hook forward priority 10; policy drop; }; }'",
    );
    let refused = home.banger(&arguments);
    let told = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(125), "{told}");
    assert!(
        told.contains("strict") && told.contains("nft 'insert rule"),
        "{told}"
    );
    let doctor = text(&home.banger(&["doctor"]).stdout);
    assert!(doctor.contains("strict"), "{doctor}");
    let _ = Command::new("nft")
        .args(["delete", "table", "inet", "strict"])
        .status();
    eventually("the host is as it was", || state() == before);
}

#[test]
fn as_root_a_death_at_any_call_leaves_the_network_as_it_was() {
    if skipped() {
        return;
    }
    let turn = alone();
    if !in_a_network_of_its_own("as_root_a_death_at_any_call_leaves_the_network_as_it_was") {
        return;
    }
    // They take turns by themselves.
    drop(turn);
    for act in [Act::Start, Act::DeleteRunning] {
        let backends = json!({"vmm": "qemu", "disk": "overlay", "network": "tap", "nat": true});
        die_everywhere(act, backends);
    }
}
