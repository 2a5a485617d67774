//! The real daemon dies at every call of its host, before and after the call's effect, while it creates,
//! starts, stops, kills, deletes and reconciles real monitors; then the next `banger` puts it right.

use std::path::Path;

use banger_tests::{Act, binary, skipped};
use serde_json::json;

fn die_everywhere(act: Act) {
    if !skipped() {
        banger_tests::die_everywhere(act, json!({}));
    }
}

#[test]
fn what_is_shipped_cannot_be_told_to_die() {
    let contains = |program: &Path| {
        let bytes = std::fs::read(program).expect("it is built");
        bytes
            .windows(16)
            .any(|window| window == b"BANGER_FAILPOINT")
    };
    assert!(contains(&binary("bangerd-failpoints")));
    assert!(!contains(&binary("bangerd")));
}

#[test]
fn a_death_at_any_call_of_a_create_leaves_all_or_nothing() {
    die_everywhere(Act::Create);
}

#[test]
fn a_death_at_any_call_of_a_start_leaves_a_vm_that_runs_or_one_that_never_did() {
    die_everywhere(Act::Start);
}

#[test]
fn a_death_at_any_call_of_a_kill_leaves_a_vm_that_runs_or_has_stopped() {
    die_everywhere(Act::Kill);
}

#[test]
fn a_death_at_any_call_of_a_stop_leaves_a_vm_that_runs_or_has_stopped() {
    die_everywhere(Act::Stop);
}

#[test]
fn a_death_at_any_call_of_a_delete_is_followed_by_a_delete_that_goes_on() {
    die_everywhere(Act::DeleteRunning);
    die_everywhere(Act::DeleteCreated);
}

#[test]
fn a_death_at_any_call_of_a_reconcile_is_followed_by_one_that_goes_on() {
    die_everywhere(Act::Reconcile);
}
