//! `banger internal …`: what ssh calls, by the configuration that `banger ssh-config` writes.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::thread;

use banger_daemon::client::pass_descriptor;
use banger_daemon::folders::Folders;
use banger_daemon::protocol::{DialParams, VmDial, VmHostKey, VmParams};
use clap::{Args, Subcommand};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};

use crate::command_error::CommandError;
use crate::daemon::{Daemon, folders};
use crate::exit::ExitStatus;
use crate::screen::Screen;

#[derive(Args, Debug)]
pub(crate) struct InternalArguments {
    /// The daemon's state folder: ssh may be called from anywhere
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,

    /// The daemon's runtime folder
    #[arg(long, value_name = "DIR")]
    runtime: Option<PathBuf>,

    #[command(subcommand)]
    command: InternalCommand,
}

#[derive(Debug, Subcommand)]
enum InternalCommand {
    /// Pass a connection to a guest's port on to ssh, or carry it over our own streams
    Dial {
        /// NAME.vm
        host: String,
        /// The port
        port: u16,
    },
    /// Print a guest's host key as a line of known_hosts
    HostKey {
        /// NAME.vm
        host: String,
        /// The name that ssh looks up
        sought: String,
    },
}

/// Does what ssh asks for.
pub(crate) async fn internal(
    arguments: &InternalArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let folders = Folders {
        state: match &arguments.state {
            Some(state) => state.clone(),
            None => folders()?.state,
        },
        runtime: match &arguments.runtime {
            Some(runtime) => runtime.clone(),
            None => folders()?.runtime,
        },
        // The daemon's own affair.
        config: PathBuf::new(),
    };
    let mut daemon = Daemon::open_in(&folders, screen).await?;
    match &arguments.command {
        InternalCommand::Dial { host, port } => {
            let (vm, port) = (vm_of(host), *port);
            let ticket = daemon.call::<VmDial>(DialParams { vm, port }).await?;
            let socket = daemon.socket(&ticket).await?;
            hand_over(socket)?;
        }
        InternalCommand::HostKey { host, sought } => {
            let vm = vm_of(host);
            let answer = daemon.call::<VmHostKey>(VmParams { vm }).await?;
            screen.data(&format!("{sought} {}\n", answer.key))?;
        }
    }
    Ok(ExitStatus::SUCCESS)
}

/// Host names have no case; VMs' names have only small letters.
fn vm_of(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    host.strip_suffix(".vm").unwrap_or(&host).to_owned()
}

/// Gives the socket to ssh (`ProxyUseFdpass`). A program that wants a stream instead, and so gave us no
/// socket to pass it over, gets that.
fn hand_over(socket: OwnedFd) -> Result<(), CommandError> {
    match pass_descriptor(io::stdout(), socket.as_fd()) {
        Ok(()) => Ok(()),
        Err(error) if error.raw_os_error() == Some(Errno::NOTSOCK.raw_os_error()) => {
            carry(socket).map_err(|error| CommandError::io("lost the connection", error))
        }
        Err(error) => Err(CommandError::io("cannot pass the connection on", error)),
    }
}

/// Carries both directions until the guest has said all; blocks.
fn carry(socket: OwnedFd) -> io::Result<()> {
    let to_guest = socket.try_clone()?;
    thread::spawn(move || {
        let mut to_guest = File::from(to_guest);
        // Whichever side ends first, the other direction shows it.
        let _ = io::copy(&mut io::stdin().lock(), &mut to_guest);
        let _ = shutdown(&to_guest, Shutdown::Write);
    });
    let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    io::copy(&mut File::from(socket), &mut stdout).map(drop)
}
