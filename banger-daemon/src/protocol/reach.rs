//! Reaching a guest from the outside: dialling, and what an ssh client is to know.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `vm.dial`. The answer's ticket stands for a connected socket: [`Client::open_socket`] fetches it.
///
/// [`Client::open_socket`]: crate::client::Client::open_socket
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DialParams {
    /// The VM.
    pub vm: String,
    /// The port in its guest.
    pub port: u16,
}

/// `vm.host_key`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostKeyAnswer {
    /// The only key with which the VM's ssh may prove itself: `ssh-ed25519 AAAA…`.
    pub key: String,
}

/// `daemon.ssh`: what an ssh client is to be told of every guest alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshClientAnswer {
    /// The private key that guests let in.
    pub identity: PathBuf,
    /// The cipher to try first; none where it does not matter.
    pub first_cipher: Option<String>,
}
