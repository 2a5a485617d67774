//! Telling how far a guest has come while its ssh is waited for. Nobody waits for what is seen here: a
//! console that says nothing only means that fewer stages are told.

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use crate::engine::Inner;
use crate::host::Host;
use crate::progress::Progress;
use crate::vm::VMRecord;

/// What our first program says first (`image/init.sh`): the kernel is up.
const KERNEL_IS_UP: &[u8] = b"banger: starting";

/// How often the host is looked at. A stage that is shorter than this may be told late.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl Inner {
    /// Tells the stages of a boot that is under way: `kernel`, then `init` (our first program, then the
    /// guest's own, up to its sshd), then `ssh` (the handshake). Cancel-safe; ends only with its task.
    pub(crate) async fn tell_boot(&self, vm: &VMRecord, progress: &Progress) -> Infallible {
        let host = self.host();
        let console = &vm.runtime.log_path;
        // What earlier runs have left in the log is none of this one's.
        let from = length(host, console).await;
        progress.tell("kernel", "booting; waiting for ssh");
        let mut seen = from;
        loop {
            let now = length(host, console).await;
            if now > seen {
                seen = now;
                let new = host.read_tail(console, now.saturating_sub(from)).await;
                if holds(&new.unwrap_or_default(), KERNEL_IS_UP) {
                    break;
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        progress.tell("init", "starting the guest's services; waiting for ssh");
        // The guest's greeting is handed to ssh through this socket, made when it has come.
        let greeting = self.places.run(&vm.id).join("dial.sock");
        while !matches!(host.stat(&greeting).await, Ok(Some(_))) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        progress.tell("ssh", "logging in");
        std::future::pending().await
    }
}

async fn length(host: &dyn Host, path: &Path) -> u64 {
    let facts = host.stat(path).await;
    facts.ok().flatten().map_or(0, |facts| facts.bytes)
}

fn holds(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|part| part == wanted)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::engine::Engine;
    use crate::lifecycle::CreateRequest;

    #[test]
    fn the_word_that_is_waited_for_is_the_one_that_is_said() {
        let init = include_str!("image/init.sh");
        assert!(init.contains("echo \"banger: $*\""));
        assert!(init.contains("\nsay \"starting\"\n"));
    }

    #[tokio::test]
    async fn a_boot_is_told_by_what_its_own_run_writes_and_not_by_what_an_earlier_one_left() {
        let engine = Engine::sim().await.unwrap();
        let request = CreateRequest::named("box".parse().unwrap());
        let vm = engine.create(request, &Progress::silent()).await.unwrap();
        let console = vm.runtime.log_path.clone();
        let earlier = "Linux version 6\nbanger: starting\nbanger: handing over\n";
        std::fs::write(&console, earlier).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let listener = told.clone();
        let progress = Progress::new(move |stage| listener.lock().unwrap().push(stage.name));
        let stages = |count: usize| {
            let told = told.clone();
            async move {
                while told.lock().unwrap().len() < count {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                told.lock().unwrap().clone()
            }
        };
        let booting = async {
            assert_eq!(stages(1).await, ["kernel"]);
            tokio::time::sleep(3 * LOOK_AGAIN).await;
            assert_eq!(stages(1).await, ["kernel"], "an earlier run has said it");
            let text = format!("{earlier}Linux version 6\n[    1.0] x\nbanger: starting\n");
            std::fs::write(&console, text).unwrap();
            assert_eq!(stages(2).await, ["kernel", "init"]);
            let run = engine.places().run(&vm.id);
            std::fs::create_dir_all(&run).unwrap();
            std::fs::write(run.join("dial.sock"), "").unwrap();
            assert_eq!(stages(3).await, ["kernel", "init", "ssh"]);
        };
        let limit = Duration::from_secs(20);
        let watched = async {
            tokio::select! {
                never = engine.inner.tell_boot(&vm, &progress) => match never {},
                () = booting => {}
            }
        };
        tokio::time::timeout(limit, watched).await.unwrap();
    }
}
