//! The connection to `bangerd`.

use std::error::Error;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::pin;

use banger_daemon::client::{self, Client, ClientError, Places, Reached, StreamConnection};
use banger_daemon::folders::Folders;
use banger_daemon::protocol::{
    DaemonSsh, DaemonStatus, Doctor, DoctorProve, ImageList, ImageShow, Method, Nothing,
    ProgressParams, SessionList, SessionLogs, SessionShow, Status, TicketAnswer, VERSION,
    VmConsole, VmDial, VmFollowLogs, VmHostKey, VmKill, VmList, VmLogs, VmSet, VmShow, VmSsh,
    VmStart, VmStats, VmStop,
};
use tokio::time::{MissedTickBehavior, interval};

use crate::command_error::CommandError;
use crate::progress::TICK;
use crate::screen::Screen;

/// A daemon that answers. VMs that are deleted with their client live as long as this.
#[derive(Debug)]
pub(crate) struct Daemon<'a> {
    client: Client,
    socket: PathBuf,
    screen: &'a Screen,
    /// Where to ask again what this one does not answer; none once it has answered.
    again: Option<Places>,
}

/// How many daemons may end while they are asked who they are.
const ATTEMPTS: usize = 5;

impl<'a> Daemon<'a> {
    /// Connects to the daemon, started if there is none, and makes sure that it is of our version.
    pub(crate) async fn open(screen: &'a Screen) -> Result<Self, CommandError> {
        Daemon::open_in(&folders()?, screen).await
    }

    /// The same, of these folders.
    pub(crate) async fn open_in(
        folders: &Folders,
        screen: &'a Screen,
    ) -> Result<Self, CommandError> {
        let places = places(folders);
        let client = greeted(&places, screen).await?;
        Ok(Daemon {
            client,
            socket: places.socket.clone(),
            screen,
            again: Some(places),
        })
    }

    /// Connects to the daemon if there is one, of whatever version.
    pub(crate) async fn open_running(screen: &'a Screen) -> Result<Option<Self>, CommandError> {
        let socket = folders()?.socket();
        match Client::connect(&socket).await {
            Ok(client) => Ok(Some(Daemon {
                client,
                socket,
                screen,
                again: None,
            })),
            Err(ClientError::NotRunning { .. }) => Ok(None),
            Err(error) => Err(told(error)),
        }
    }

    /// Carries out one method and shows its stages while it is at work.
    ///
    /// If the future is dropped the daemon ends what it has begun, and the connection can be used again.
    pub(crate) async fn call<M: Method>(
        &mut self,
        params: M::Params,
    ) -> Result<M::Answer, CommandError> {
        let outcome = self.ask::<M>(&params).await;
        let again = self.again.take();
        match (outcome, again) {
            (Err(ClientError::Lost), Some(places)) if REPEATABLE.contains(&M::NAME) => {
                // It was ending when it greeted us, and nothing was asked of it before.
                self.client = greeted(&places, self.screen).await?;
                self.ask::<M>(&params).await.map_err(told)
            }
            (outcome, _) => outcome.map_err(told),
        }
    }

    async fn ask<M: Method>(&mut self, params: &M::Params) -> Result<M::Answer, ClientError> {
        let screen = self.screen;
        let mut on_progress = |progress: ProgressParams| {
            screen.progress().begin(&progress.stage, &progress.text);
        };
        let outcome = {
            let mut call = pin!(self.client.call::<M>(params, &mut on_progress));
            let mut ticks = interval(TICK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    // Pinned and polled on: nothing of it is lost when a tick wins.
                    outcome = &mut call => break outcome,
                    _ = ticks.tick() => screen.progress().tick(),
                }
            }
        };
        screen.progress().end();
        outcome
    }

    /// Fetches the connected socket that a ticket stands for.
    pub(crate) async fn socket(&self, ticket: &TicketAnswer) -> Result<OwnedFd, CommandError> {
        Client::open_socket(&self.socket, &ticket.ticket)
            .await
            .map_err(told)
    }

    /// Where its stages are shown.
    pub(crate) fn screen(&self) -> &'a Screen {
        self.screen
    }

    /// Opens the stream that a ticket stands for.
    pub(crate) async fn stream(
        &self,
        ticket: &TicketAnswer,
    ) -> Result<StreamConnection, CommandError> {
        let notes = ticket.note.iter().flat_map(|note| note.lines());
        notes.for_each(|note| self.screen.say(note));
        Client::open_stream(&self.socket, &ticket.ticket)
            .await
            .map_err(told)
    }
}

/// An error of the client's in our words: itself, what caused it, and what to do next.
pub(crate) fn told(error: ClientError) -> CommandError {
    let hint = match &error {
        ClientError::Rpc(rpc) => return CommandError::from((**rpc).clone()),
        ClientError::NotRunning { .. } | ClientError::Lost => {
            Some("see how it is: banger daemon status".to_owned())
        }
        ClientError::Stranger { .. } => {
            Some("use another folder for the socket: BANGER_RUNTIME_DIR".to_owned())
        }
        ClientError::Start { .. } => {
            Some("install bangerd beside banger, or name it in BANGERD".to_owned())
        }
        ClientError::EndedStarting { log, .. } => {
            Some(format!("all that it said: {}", log.display()))
        }
        ClientError::Protocol { .. } => Some(RESTART.to_owned()),
        _ => None,
    };
    let told = chain(&error);
    match hint {
        Some(hint) => told.hint(hint),
        None => told,
    }
}

/// The error and all that caused it.
pub(crate) fn chain(error: &dyn Error) -> CommandError {
    let mut told = CommandError::new(error.to_string());
    let mut source = error.source();
    while let Some(cause) = source {
        told = told.because(cause.to_string());
        source = cause.source();
    }
    told
}

const RESTART: &str = "end it, and the next command starts the right one: banger daemon stop";

fn same_version(status: &Status) -> Result<(), CommandError> {
    if status.version == VERSION {
        return Ok(());
    }
    Err(CommandError::new(format!(
        "the bangerd that runs (process {}) is version {}, and this banger is {VERSION}",
        status.pid, status.version
    ))
    .hint(format!("the VMs run on meanwhile; {RESTART}")))
}

/// Connects to a daemon of our version, started if there is none. One that is just ending, or was just
/// killed, may still have taken the connection.
async fn greeted(places: &Places, screen: &Screen) -> Result<Client, CommandError> {
    for attempt in 1..=ATTEMPTS {
        let (mut client, reached) = client::connect_or_start(places).await.map_err(told)?;
        if reached == Reached::Started {
            screen.whisper(format_args!("started {}", places.daemon_program.display()));
        }
        match client.call::<DaemonStatus>(&Nothing {}, &mut |_| {}).await {
            Err(ClientError::Lost) if attempt < ATTEMPTS => {}
            Err(error) => return Err(told(error)),
            Ok(status) => {
                same_version(&status)?;
                return Ok(client);
            }
        }
    }
    Err(told(ClientError::Lost))
}

/// The methods of which asking twice is as good as asking once, whatever became of the first time: a start
/// finds its VM running, a list is a list. A second create would find its own name taken.
const REPEATABLE: &[&str] = &[
    DaemonSsh::NAME,
    Doctor::NAME,
    DoctorProve::NAME,
    ImageList::NAME,
    ImageShow::NAME,
    SessionList::NAME,
    SessionLogs::NAME,
    SessionShow::NAME,
    VmConsole::NAME,
    VmDial::NAME,
    VmFollowLogs::NAME,
    VmHostKey::NAME,
    VmKill::NAME,
    VmList::NAME,
    VmLogs::NAME,
    VmSet::NAME,
    VmShow::NAME,
    VmSsh::NAME,
    VmStart::NAME,
    VmStats::NAME,
    VmStop::NAME,
];

/// Where the daemon of these folders is, and how it is started.
pub(crate) fn places(folders: &Folders) -> Places {
    Places {
        socket: folders.socket(),
        daemon_program: daemon_program(),
        args: vec![
            "--state".into(),
            folders.state.clone().into(),
            "--runtime".into(),
            folders.runtime.clone().into(),
        ],
        log: folders.log(),
    }
}

pub(crate) fn folders() -> Result<Folders, CommandError> {
    Folders::from_environment().map_err(|error| chain(&error))
}

/// `BANGERD`, else the one beside us, else the one in `PATH`.
fn daemon_program() -> PathBuf {
    if let Some(named) = std::env::var_os("BANGERD").filter(|named| !named.is_empty()) {
        return named.into();
    }
    std::env::current_exe()
        .ok()
        .map(|banger| banger.with_file_name("bangerd"))
        .filter(|beside| beside.exists())
        .unwrap_or_else(|| "bangerd".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_error::Word;

    #[test]
    fn a_daemon_of_another_version_is_refused_with_the_way_out() {
        let mut status = Status {
            version: VERSION.to_owned(),
            pid: 7,
            engine: "e".to_owned(),
            state_dir: "/s".into(),
            runtime_dir: "/r".into(),
            started_at: "2030-01-01T00:00:00Z".to_owned(),
            running: 0,
        };
        assert_eq!(same_version(&status), Ok(()));
        status.version = "0.0.9".to_owned();
        let error = same_version(&status).unwrap_err();
        let lines = error.lines();
        assert!(lines[0].1.contains("0.0.9"), "{lines:?}");
        assert_eq!(lines[1].0, Word::Hint);
        assert!(lines[1].1.contains("banger daemon stop"), "{lines:?}");
    }
}
