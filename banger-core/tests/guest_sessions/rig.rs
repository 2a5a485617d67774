//! A simulated host with one running VM, and what the tests do with its sessions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use banger_core::{
    CreateRequest, Engine, EngineConfig, ExecEnd, ExecRequest, FakeHost, Follow, GuestSession,
    LogEnd, LogEvent, LogRequest, LogStart, Progress, SessionName, SessionRequest, SessionView,
    Stream, VmName,
};

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Rig {
    pub(crate) host: Arc<FakeHost>,
    pub(crate) config: EngineConfig,
    _scratch: tempfile::TempDir,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mut config =
            EngineConfig::new(scratch.path().join("state"), scratch.path().join("run"));
        config.limits.signal = Duration::from_millis(200);
        config.limits.power_off = Duration::from_secs(60);
        config.limits.ctrl_alt_del = Duration::from_millis(50);
        config.limits.session_command = Duration::from_secs(2);
        Rig {
            host: Arc::new(FakeHost::new()),
            config,
            _scratch: scratch,
        }
    }

    /// Opens the engine over what is there.
    pub(crate) async fn open(&self) -> Engine {
        Engine::sim_over(&self.host, self.config.clone())
            .await
            .unwrap()
            .0
    }

    /// A host with the running VM `box`.
    pub(crate) async fn with_box() -> (Self, Engine) {
        let rig = Rig::new();
        let engine = rig.open().await;
        boot(&engine).await;
        (rig, engine)
    }
}

/// Makes and starts the VM `box`.
pub(crate) async fn boot(engine: &Engine) {
    let name: VmName = "box".parse().unwrap();
    let silent = Progress::silent();
    engine
        .create(CreateRequest::named(name), &silent)
        .await
        .unwrap();
    engine.start("box", &silent).await.unwrap();
}

pub(crate) fn name(text: &str) -> SessionName {
    text.parse().unwrap()
}

/// A shell command as a session's.
pub(crate) fn sh(script: &str) -> SessionRequest {
    SessionRequest::new(["sh", "-c", script])
}

/// Starts a session in `box` under a name.
pub(crate) async fn start(engine: &Engine, text: &str, request: SessionRequest) -> GuestSession {
    let request = request.named(name(text));
    engine.session_start("box", request).await.unwrap()
}

/// Runs a shell command in `box` and returns what it printed.
pub(crate) async fn exec(engine: &Engine, script: &str) -> String {
    let request = ExecRequest::new(["sh", "-c", script]);
    let output = engine.exec_output("box", &request).await.unwrap();
    assert_eq!(output.end, ExecEnd::Exited(0), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until a session is as it should be.
pub(crate) async fn until(
    engine: &Engine,
    session: &str,
    holds: impl Fn(&SessionView) -> bool,
) -> GuestSession {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let view = engine.session_show("box", session).await.unwrap();
        if holds(&view) {
            return view.session;
        }
        assert!(Instant::now() < deadline, "waited in vain: {view:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until a session has ended, one way or the other.
pub(crate) async fn ended(engine: &Engine, session: &str) -> GuestSession {
    until(engine, session, |view| view.session.state.status.is_final()).await
}

/// Everything in a session's standard output, by now or (following) to its end.
pub(crate) async fn stdout(engine: &Engine, session: &str, follow: Follow) -> Vec<u8> {
    log(engine, session, Stream::Stdout, LogStart::Beginning, follow).await
}

/// Reads a log, and checks that it comes without gaps.
pub(crate) async fn log(
    engine: &Engine,
    session: &str,
    stream: Stream,
    start: LogStart,
    follow: Follow,
) -> Vec<u8> {
    let request = LogRequest {
        stream,
        start,
        follow,
    };
    let mut logs = engine.session_logs("box", session, request).await.unwrap();
    let (mut all, first) = (Vec::new(), logs.start());
    let read = async {
        loop {
            match logs.next().await {
                LogEvent::Bytes { offset, bytes } => {
                    assert_eq!(offset, first + all.len() as u64, "no gap, nothing twice");
                    all.extend(bytes);
                }
                LogEvent::Ended(end) => return end,
            }
        }
    };
    let end = tokio::time::timeout(PATIENCE, read).await;
    assert_eq!(end, Ok(LogEnd::Complete));
    all
}

/// Waits until a session has printed `text`.
pub(crate) async fn printed(engine: &Engine, session: &str, text: &[u8]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let all = stdout(engine, session, Follow::No).await;
        if all.windows(text.len()).any(|window| window == text) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "waited in vain for {:?} in {:?}",
            String::from_utf8_lossy(text),
            String::from_utf8_lossy(&all)
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
