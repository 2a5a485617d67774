//! A short piece of chaos on real VMs. A long one: `make chaos`.

use std::time::Duration;

use banger_tests::{alone, chaos, chaos_seed, why_not_real};

#[test]
fn kills_at_random_moments_break_no_promise_and_leave_no_stray() {
    if let Some(reason) = why_not_real() {
        println!("SKIP: {reason}");
        return;
    }
    let _turn = alone();
    let tally = chaos(chaos_seed(), 20, Duration::from_secs(25));
    assert!(tally.killed() > 0, "nobody was killed");
}
