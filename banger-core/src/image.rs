//! temporary
use crate::host::HostError;
use std::net::Ipv4Addr;
/// e
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// h
    #[error(transparent)]
    Host(#[from] HostError),
}
impl ImageError {
    pub fn hint(&self) -> Option<String> {
        None
    }
}
pub(crate) struct Identity {
    pub hostname: String,
    pub machine_id: String,
    pub ssh_host_key: String,
    pub ssh_host_key_pub: String,
    pub authorized_key: String,
    pub seed: [u8; 32],
    pub network: Option<GuestNetwork>,
}
pub(crate) struct GuestNetwork {
    pub address: Ipv4Addr,
    pub prefix: u8,
    pub gateway: Ipv4Addr,
    pub dns: Ipv4Addr,
}
pub(crate) fn identity_archive(_: &Identity) -> Vec<u8> {
    Vec::new()
}
