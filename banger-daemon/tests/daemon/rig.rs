//! A daemon in this process, over a simulated host.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use banger_core::{Engine, EngineConfig, FakeHost, FakeProcess};
use banger_daemon::client::{Client, ClientError};
use banger_daemon::protocol::{
    CreateParams, Method, ProgressParams, SOCKET, StartParams, VmCreate, VmInfo, VmStart,
};
use banger_daemon::server::{Stop, bind, serve};
use tokio::task::JoinHandle;

/// Longer than anything here takes on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Rig {
    pub(crate) socket: PathBuf,
    pub(crate) engine: Engine,
    pub(crate) stop: Stop,
    served: JoinHandle<()>,
    host: Arc<FakeHost>,
    pub(crate) scratch: tempfile::TempDir,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Rig::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut EngineConfig)) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let run = scratch.path().join("run");
        let mut config = EngineConfig::new(scratch.path().join("state"), &run);
        config.limits.power_off = Duration::from_secs(60);
        change(&mut config);
        let host = Arc::new(FakeHost::new());
        let (engine, _) = Engine::sim_over(&host, config).await.unwrap();
        let socket = run.join(SOCKET);
        let listening = bind(&socket).await.unwrap();
        let stop = Stop::default();
        let served = tokio::spawn(serve(engine.clone(), listening, stop.clone()));
        Rig {
            socket,
            engine,
            stop,
            served,
            host,
            scratch,
        }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.socket).await.unwrap()
    }

    /// Creates a VM and starts it; none, with the reason printed, where the simulator has no guests.
    pub(crate) async fn running(
        &self,
        client: &mut Client,
        params: CreateParams,
    ) -> Option<VmInfo> {
        let made = quietly::<VmCreate>(client, &params).await.unwrap();
        let start = StartParams {
            vm: made.name,
            wait: true,
        };
        match quietly::<VmStart>(client, &start).await {
            Ok(started) => started.vm,
            Err(ClientError::Rpc(error)) if error.message.contains("isolated") => {
                eprintln!("SKIP: {}", error.message);
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits until the daemon has ended: nothing is at work any more.
    pub(crate) async fn ended(&mut self) {
        let ended = tokio::time::timeout(LIMIT, &mut self.served).await;
        ended.expect("the daemon did not end").unwrap();
    }

    /// What runs on the simulated host.
    pub(crate) fn living(&self) -> Vec<FakeProcess> {
        self.host.living()
    }
}

pub(crate) fn named(name: &str) -> CreateParams {
    CreateParams {
        name: Some(name.to_owned()),
        ..CreateParams::default()
    }
}

/// Calls a method, whatever it tells of its progress.
pub(crate) async fn quietly<M: Method>(
    client: &mut Client,
    params: &M::Params,
) -> Result<M::Answer, ClientError> {
    let mut ignore = |_: ProgressParams| {};
    let call = client.call::<M>(params, &mut ignore);
    tokio::time::timeout(LIMIT, call)
        .await
        .unwrap_or_else(|_| panic!("{} took too long", M::NAME))
}

/// Waits for what others bring about.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let reached = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, reached)
        .await
        .unwrap_or_else(|_| panic!("it never came to this: {what}"));
}
