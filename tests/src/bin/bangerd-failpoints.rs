//! `bangerd` that dies at a call of its host: all of the real one, over the real machine, except that
//! `BANGER_FAILPOINT` says where (see [`banger_tests::Failpoint`]). Never shipped.

use std::process::ExitCode;
use std::sync::Arc;

use banger_tests::{FailingHost, Failpoint};

fn main() -> ExitCode {
    banger_daemon::program::run(|host| match std::env::var("BANGER_FAILPOINT") {
        Ok(text) => {
            let point: Failpoint = text.parse().expect("a failpoint");
            Arc::new(FailingHost::over(host, point))
        }
        Err(_) => host,
    })
}
