//! `make chaos`: two hundred kills on real VMs, or as many as are asked for: `chaos [KILLS]`.

use std::time::Duration;

use banger_tests::{chaos, chaos_seed, why_not_real};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if let Some(reason) = why_not_real() {
        println!("SKIP: {reason}");
        return Ok(());
    }
    let kills = std::env::args().nth(1).map_or(Ok(200), |n| n.parse())?;
    chaos(chaos_seed(), kills, Duration::MAX);
    Ok(())
}
