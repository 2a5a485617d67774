//! Programs that outlive us inherit nothing of whoever started this process. Alone in its file: while it
//! runs, no other test may start a program by other ways.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use banger_core::{Detached, Host, LinuxHost, LinuxHostConfig, ProcessSignal};

#[tokio::test]
async fn a_program_that_outlives_us_holds_nothing_open_that_our_caller_does() {
    let folder = tempfile::tempdir().unwrap();
    let host = LinuxHost::new(LinuxHostConfig::default());
    // Both ends would be inherited by any child, as what a script has opened is.
    let (read, write) = rustix::pipe::pipe().unwrap();
    let child = host
        .spawn(&Detached {
            program: "sleep".to_owned(),
            arguments: vec!["60".into()],
            log: folder.path().join("log"),
            walls: None,
            namespace: None,
            scope: None,
        })
        .await
        .unwrap();
    drop(write);
    let end = tokio::task::spawn_blocking(move || File::from(read).read(&mut [0]).unwrap());
    let end = tokio::time::timeout(Duration::from_secs(10), end).await;
    host.signal(&child, ProcessSignal::Kill).await.unwrap();
    let end = end.expect("the program holds our caller's pipe open");
    assert_eq!(end.unwrap(), 0);
}
