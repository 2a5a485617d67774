//! `banger vm port-forward`: listeners here, a connection to the guest for each of theirs.

mod place;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use banger_daemon::client::{Client, Places, connect_or_start};
use banger_daemon::protocol::{DialParams, VmDial, VmParams, VmSsh};
use clap::Args;
use clap_complete::ArgValueCandidates;
use rustix::net::AddressFamily;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};

use crate::command_error::CommandError;
use crate::daemon::{Daemon, folders, places, told};
use crate::exit::ExitStatus;
use crate::guest_command::Signals;
use crate::screen::Screen;
use crate::verb::completion::vm_names;
use place::Forward;

#[derive(Args, Debug)]
#[command(after_help = "\
It stays until Ctrl-C, and needs no network in the VM but its ssh. What listens in the guest may
do so on its loopback only.

Examples:
  banger vm port-forward box 8080         127.0.0.1:8080 here is port 8080 there
  banger vm port-forward box 9000:80 0:22 9000 is 80; a free port, which is printed, is 22")]
pub(crate) struct PortForwardArguments {
    /// The VM's name, or at least four digits of its id
    #[arg(add = ArgValueCandidates::new(vm_names))]
    name: String,

    /// A port in the guest, behind the same one here or another; 0 here is any that is free
    #[arg(required = true, value_name = "[[ADDRESS:]HOST:]PORT")]
    ports: Vec<Forward>,
}

/// Who dials for the connections.
struct Dialler {
    places: Places,
    vm: String,
}

/// Listens, says where, and serves until a signal.
pub(crate) async fn port_forward(
    arguments: &PortForwardArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    // A call to the daemon stays on its thread.
    LocalSet::new().run_until(forward(arguments, screen)).await
}

async fn forward(
    arguments: &PortForwardArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let mut signals = Signals::catch()?;
    let vm = arguments.name.clone();
    let ready = async {
        let mut daemon = Daemon::open(screen).await?;
        daemon.call::<VmSsh>(VmParams { vm: vm.clone() }).await
    };
    signals.or(ready, || None).await?;
    let mut listeners = Vec::new();
    for forward in &arguments.ports {
        listeners.push((listen(forward).await?, forward.there));
    }
    let (complain, mut complaints) = mpsc::channel(16);
    let places = places(&folders()?);
    let dialler = Rc::new(Dialler { places, vm });
    for (listener, port) in listeners {
        let here = listener
            .local_addr()
            .map_err(|error| CommandError::io("cannot tell where we listen", error))?;
        screen.data(&format!("{here} -> {}:{port}\n", arguments.name))?;
        spawn_local(serve(listener, port, dialler.clone(), complain.clone()));
    }
    screen.say("Ctrl-C ends it");
    loop {
        tokio::select! {
            // Cancel-safe: a signal that is not returned stays with the stream of signals.
            signal = signals.next() => return Err(CommandError::interrupted(signal)),
            // Cancel-safe: a complaint stays in its channel. We hold a sender: it cannot close.
            Some(error) = complaints.recv() => screen.error(&error),
        }
    }
}

async fn listen(forward: &Forward) -> Result<TcpListener, CommandError> {
    let here = SocketAddr::new(forward.address, forward.here);
    TcpListener::bind(here).await.map_err(|error| {
        CommandError::io(format!("cannot listen on {here}"), error)
            .hint(format!("let a free port be chosen: 0:{}", forward.there))
    })
}

async fn serve(
    listener: TcpListener,
    port: u16,
    dialler: Rc<Dialler>,
    complain: mpsc::Sender<CommandError>,
) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                let (dialler, complain) = (dialler.clone(), complain.clone());
                spawn_local(async move {
                    if let Err(error) = dialler.carry(client, port).await {
                        // If nobody listens any more, we are ending.
                        let _ = complain.send(error).await;
                    }
                });
            }
            Err(error) => {
                let error = CommandError::io("cannot accept a connection", error);
                let _ = complain.send(error).await;
                // Too many files are open, most likely: some will be closed.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

impl Dialler {
    /// Carries one connection to its end. A daemon that has died meanwhile is started again.
    async fn carry(&self, mut client: TcpStream, port: u16) -> Result<(), CommandError> {
        let dialled = self.dial(port).await?;
        let cannot = |error| CommandError::io("cannot use the connection to the guest", error);
        let family = rustix::net::getsockname(&dialled)
            .map_err(|errno| cannot(errno.into()))?
            .address_family();
        // How a connection ends is its two ends' own business.
        if family == AddressFamily::UNIX {
            let guest = std::os::unix::net::UnixStream::from(dialled);
            guest.set_nonblocking(true).map_err(cannot)?;
            let mut guest = UnixStream::from_std(guest).map_err(cannot)?;
            let _ = tokio::io::copy_bidirectional(&mut client, &mut guest).await;
        } else {
            let guest = std::net::TcpStream::from(dialled);
            guest.set_nonblocking(true).map_err(cannot)?;
            let mut guest = TcpStream::from_std(guest).map_err(cannot)?;
            let _ = tokio::io::copy_bidirectional(&mut client, &mut guest).await;
        }
        Ok(())
    }

    async fn dial(&self, port: u16) -> Result<OwnedFd, CommandError> {
        let (mut daemon, _) = connect_or_start(&self.places).await.map_err(told)?;
        let params = DialParams {
            vm: self.vm.clone(),
            port,
        };
        let ticket = daemon.call::<VmDial>(&params, &mut |_| {}).await;
        let ticket = ticket.map_err(told)?;
        let socket = Client::open_socket(&self.places.socket, &ticket.ticket).await;
        socket.map_err(told)
    }
}
