//! Network namespaces: one a VM, pinned under a name, with one tap in it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::TcpStream;

use super::HostError;

/// The part of a [`Host`](super::Host) that makes, enters and removes network namespaces.
#[async_trait]
pub trait Spaces {
    /// Says whether namespaces and taps can be made here, and if not, why.
    async fn tap_support(&self) -> Result<(), String>;

    /// Makes a namespace and pins it, so that it lives without a process. One of that name is an error.
    async fn make_namespace(&self, name: &str) -> Result<(), HostError>;

    /// Makes a tap in a namespace and gives it an address. One of that name is an error.
    async fn make_tap(&self, namespace: &str, tap: &TapSpec) -> Result<(), HostError>;

    /// Unpins a namespace: with the last process in it, it goes, and with it all its interfaces. A missing
    /// one is success.
    async fn remove_namespace(&self, name: &str) -> Result<(), HostError>;

    /// Lists the pinned namespaces whose names begin so, sorted.
    async fn list_namespaces(&self, prefix: &str) -> Result<Vec<String>, HostError>;

    /// Lists the mounts by which namespaces of such names are pinned, by their paths, sorted. A namespace
    /// whose making was cut short has none.
    async fn list_pins(&self, prefix: &str) -> Result<Vec<PathBuf>, HostError>;

    /// Connects from inside a namespace, within the time given. Cancel-safe.
    async fn connect_in(
        &self,
        namespace: &str,
        to: SocketAddrV4,
        limit: Duration,
    ) -> Result<TcpStream, HostError>;
}

/// A tap to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapSpec {
    /// Its name: at most 15 bytes.
    pub name: String,
    /// The host's address on it.
    pub address: Ipv4Addr,
    /// The length of its network's prefix.
    pub prefix: u8,
    /// The guest behind it: known beforehand, so that nobody waits for its answer to be found.
    pub peer: Ipv4Addr,
    /// The guest's hardware address.
    pub peer_mac: [u8; 6],
}
