//! `bangerd`.

use std::process::ExitCode;

fn main() -> ExitCode {
    banger_daemon::program::run(|host| host)
}
