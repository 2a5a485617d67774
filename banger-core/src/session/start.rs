//! Starting a session: what it would miss is found out first, and it runs when this returns.

use std::collections::BTreeMap;

use banger_session::session::{
    Launch, Refusal, SessionState, SessionStatus, Stage, StdinMode, apply_state_snapshot,
    command_preflight_script, cwd_preflight_script, default_cwd, default_name, fail_launch,
    launch_command, normalize_required_commands, parse_command_preflight, parse_state, script,
};
use jiff::Timestamp;

use crate::engine::{Engine, random};
use crate::error::Error;
use crate::names::{SessionId, SessionName};
use crate::session::refresh::no_such_session;
use crate::session::{ByteText, GuestSession, SessionSpec};
use crate::store::StoreError;
use crate::vm::VMRecord;

/// A session to start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionRequest {
    /// Its name; one is made of the command's and its id.
    pub name: Option<SessionName>,
    /// The program and its arguments, byte for byte.
    pub argv: Vec<Vec<u8>>,
    /// Variables to set, a later one of the same name winning.
    pub env: Vec<(String, Vec<u8>)>,
    /// The folder to run in; `/root` if none is given.
    pub cwd: Option<Vec<u8>>,
    /// What it reads: nothing, or what `send` and attach write.
    pub stdin: StdinMode,
    /// Commands that the guest must have for it.
    pub required: Vec<String>,
    /// Words of its owner.
    pub tags: BTreeMap<String, String>,
}

impl SessionRequest {
    /// Asks for a command with nothing to read.
    pub fn new<A: Into<Vec<u8>>>(argv: impl IntoIterator<Item = A>) -> Self {
        SessionRequest {
            argv: argv.into_iter().map(Into::into).collect(),
            ..SessionRequest::default()
        }
    }

    /// Names it.
    #[must_use]
    pub fn named(mut self, name: SessionName) -> Self {
        self.name = Some(name);
        self
    }

    /// Gives it a pipe to read, for `send` and attach.
    #[must_use]
    pub fn reading(mut self) -> Self {
        self.stdin = StdinMode::Pipe;
        self
    }
}

impl Engine {
    /// Starts a session in a running VM, waiting for its guest to answer first.
    ///
    /// Returns once its command runs, or has already ended. One that cannot run is
    /// [`Error::SessionFailed`], and its record says the same: what is missing, and at which stage.
    pub async fn session_start(
        &self,
        vm: &str,
        request: SessionRequest,
    ) -> Result<GuestSession, Error> {
        let vm = self.lookup(vm).await?;
        let session = plan(&vm, request)?;
        let launch = launch_of(&session)?;
        // Refused before the guest is bothered: what no shell can say.
        let run_sh = script(&launch)?;
        let preflight = preflight_script(&session)?;
        // A guest that boots is waited for; a VM that does not run is told apart from it.
        self.connection(&vm, self.inner.config.limits.ready).await?;
        let inserted = self.inner.store.insert_session(&session).await;
        inserted.map_err(|error| match error {
            StoreError::SessionNameTaken { name } => Error::SessionNameTaken {
                vm: vm.name.clone(),
                name,
            },
            StoreError::NoSuchRow { .. } => Error::NoSuchVm {
                name: vm.name.to_string(),
            },
            error => error.into(),
        })?;
        let engine = self.clone();
        self.to_its_end(async move {
            let launching = engine.inner.desk.launching(&session.id);
            let state = match engine.preflight(&vm, &session, &preflight).await {
                Ok(Ok(())) => engine.launch(&vm, &session, &run_sh).await,
                Ok(Err((stage, message))) => Ok(failed_at(stage, &message)),
                // Nothing was launched.
                Err(error) => Ok(failed_at(Stage::Launch, &error.chain().join(": "))),
            };
            drop(launching);
            let state = match state {
                Ok(state) => state,
                Err(error) => {
                    // Whether it runs nobody knows: the guest is asked, now if it answers, else by the next look.
                    let causes = error.chain().join(": ");
                    tracing::warn!(vm = %vm.name, session = %session.name, error = %causes, "lost sight of a launch");
                    match engine.refresh(&vm, &session).await {
                        Ok(seen) if seen.state.status != SessionStatus::Starting => seen.state,
                        _ => return Err(error),
                    }
                }
            };
            let noted = engine.inner.note_session(&session, |now| {
                if !now.status.is_final() {
                    now.clone_from(&state);
                }
            });
            let session = noted
                .await?
                .ok_or_else(|| no_such_session(&vm.name, session.name.as_str()))?;
            match (session.state.status, &session.state.failure) {
                (SessionStatus::Failed, Some(failure)) => Err(Error::SessionFailed {
                    vm: vm.name,
                    session: session.name,
                    failure: failure.clone(),
                }),
                _ => Ok(session),
            }
        })
        .await
    }

    /// Finds out what the command would miss: the folder and every command in one round trip.
    async fn preflight(
        &self,
        vm: &VMRecord,
        session: &GuestSession,
        preflight: &Preflight,
    ) -> Result<Result<(), (Stage, String)>, Error> {
        let limit = self.inner.config.limits.session;
        let answer = self.ask(vm, &preflight.script, &[], limit).await?;
        let cwd = String::from_utf8_lossy(&session.spec.cwd.0);
        let why = match Refusal::from_status(answer.status) {
            None if answer.status == 0 => {
                let missing = parse_command_preflight(&answer.stdout, &preflight.commands)
                    .map_err(|error| Error::SessionAnswer {
                        vm: vm.name.clone(),
                        reason: error.to_string(),
                    })?;
                return Ok(match missing.0.is_empty() {
                    true => Ok(()),
                    false => Err((
                        Stage::PreflightCommand,
                        format!("the guest has no command {missing}"),
                    )),
                });
            }
            None => return Err(answer.unexpected(vm)),
            Some(Refusal::CwdMissing) => {
                format!("the working folder {cwd:?} does not exist in the guest")
            }
            Some(Refusal::CwdNotAFolder) => format!("{cwd:?} is not a folder in the guest"),
            Some(Refusal::CwdDenied) => format!("the working folder {cwd:?} cannot be entered"),
            Some(other) => other.to_string(),
        };
        Ok(Err((Stage::PreflightCwd, why)))
    }

    async fn launch(
        &self,
        vm: &VMRecord,
        session: &GuestSession,
        run_sh: &[u8],
    ) -> Result<SessionState, Error> {
        let command = launch_command(&session.dir()?, run_sh.len());
        let limit = self.inner.config.limits.session;
        let answer = self.ask(vm, &command, run_sh, limit).await?;
        match Refusal::from_status(answer.status) {
            None if answer.status == 0 => {}
            Some(refusal) => return Ok(failed_at(Stage::Launch, &refusal.to_string())),
            None => {
                let why = answer.unexpected(vm).to_string();
                return Ok(failed_at(Stage::Launch, &why));
            }
        }
        let seen = parse_state(&answer.stdout).map_err(|error| Error::SessionAnswer {
            vm: vm.name.clone(),
            reason: error.to_string(),
        })?;
        let mut state = SessionState::default();
        apply_state_snapshot(&mut state, &seen);
        if state.status == SessionStatus::Starting {
            // It had its time: a launch answers once its command runs or has failed to.
            fail_launch(&mut state, Stage::Launch, "the command did not start");
        }
        Ok(state)
    }
}

/// Everything that can be refused without asking the guest is.
fn plan(vm: &VMRecord, request: SessionRequest) -> Result<GuestSession, Error> {
    let id = SessionId::from_random(random()?);
    let program: &[u8] = request.argv.first().map_or(b"", |program| program);
    let name = match request.name {
        Some(name) => name,
        None => default_name(program, id.as_str()).parse()?,
    };
    let cwd = match request.cwd {
        Some(cwd) if !cwd.is_empty() => cwd,
        _ => default_cwd(None).into(),
    };
    let now = Timestamp::now();
    Ok(GuestSession {
        id,
        vm_id: vm.id.clone(),
        name,
        spec: SessionSpec {
            argv: request.argv.into_iter().map(ByteText).collect(),
            env: request
                .env
                .into_iter()
                .map(|(name, value)| (name, ByteText(value)))
                .collect(),
            cwd: ByteText(cwd),
            stdin: request.stdin,
            required: normalize_required_commands(&request.required)?,
            tags: request.tags,
        },
        state: SessionState::default(),
        created_at: now,
        updated_at: now,
    })
}

fn launch_of(session: &GuestSession) -> Result<Launch, Error> {
    let spec = &session.spec;
    Ok(Launch {
        dir: session.dir()?,
        argv: spec.argv.iter().map(|word| word.0.clone()).collect(),
        env: environment(spec),
        cwd: spec.cwd.0.clone(),
        stdin: spec.stdin,
    })
}

fn environment(spec: &SessionSpec) -> Vec<(String, Vec<u8>)> {
    let variables = spec.env.iter();
    variables
        .map(|(name, value)| (name.clone(), value.0.clone()))
        .collect()
}

struct Preflight {
    script: Vec<u8>,
    commands: Vec<Vec<u8>>,
}

fn preflight_script(session: &GuestSession) -> Result<Preflight, Error> {
    let spec = &session.spec;
    let mut commands: Vec<Vec<u8>> = spec
        .argv
        .first()
        .map(|program| program.0.clone())
        .into_iter()
        .collect();
    for required in &spec.required {
        if !commands.contains(&required.clone().into_bytes()) {
            commands.push(required.clone().into_bytes());
        }
    }
    // In a shell of its own: it changes the folder, and a relative one is entered only once.
    let mut script = b"(\n".to_vec();
    script.extend_from_slice(&cwd_preflight_script(&spec.cwd.0)?);
    script.extend_from_slice(b") || exit\n");
    let rest = command_preflight_script(&spec.cwd.0, &environment(spec), &commands)?;
    script.extend_from_slice(&rest);
    Ok(Preflight { script, commands })
}

fn failed_at(stage: Stage, message: &str) -> SessionState {
    let mut state = SessionState::default();
    fail_launch(&mut state, stage, message);
    state
}
