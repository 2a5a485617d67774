//! Who a VM is to others: its ssh host key and machine id, made once and kept in its folder; and the
//! key with which the engine logs in.

use std::path::Path;

use ssh_key::{Algorithm, LineEnding, PrivateKey};

use crate::engine::random;
use crate::error::Error;
use crate::host::Host;

/// The name of the host key in a VM's folder; its public half has `.pub` appended.
pub(crate) const HOST_KEY: &str = "ssh_host_ed25519_key";
const MACHINE_ID: &str = "machine-id";

/// What a VM's folder holds of its identity.
#[derive(Clone, Debug)]
pub(crate) struct StoredIdentity {
    pub(crate) host_key: String,
    pub(crate) host_key_pub: String,
    pub(crate) machine_id: String,
}

/// Makes an identity in a VM's folder that is being built.
pub(crate) async fn write_identity(host: &dyn Host, vm_dir: &Path) -> Result<(), Error> {
    write_key_pair(host, &vm_dir.join(HOST_KEY)).await?;
    let id: [u8; 16] = random()?;
    let text: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let path = vm_dir.join(MACHINE_ID);
    Ok(host.write_file(&path, text.as_bytes(), 0o600).await?)
}

/// Reads the identity from a VM's folder.
pub(crate) async fn read_identity(host: &dyn Host, vm_dir: &Path) -> Result<StoredIdentity, Error> {
    Ok(StoredIdentity {
        host_key: text(host, &vm_dir.join(HOST_KEY)).await?,
        host_key_pub: text(host, &vm_dir.join(format!("{HOST_KEY}.pub"))).await?,
        machine_id: text(host, &vm_dir.join(MACHINE_ID)).await?,
    })
}

/// Returns the public half of the engine's own key, making the pair on the first use. One at a time: two
/// pairs that are made at once would leave halves that do not belong together.
pub(crate) async fn client_key(host: &dyn Host, path: &Path) -> Result<String, Error> {
    let public = path.with_extension("pub");
    if let Some(key) = host.read_file(&public).await? {
        return Ok(String::from_utf8_lossy(&key).trim().to_owned());
    }
    if let Some(folder) = path.parent() {
        host.create_dir(folder).await?;
    }
    write_key_pair(host, path).await?;
    text(host, &public).await
}

/// The private half first: a public half that is there proves a whole pair.
async fn write_key_pair(host: &dyn Host, path: &Path) -> Result<(), Error> {
    let failed = |error: ssh_key::Error| Error::DamagedFile {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let seed: [u8; 32] = random()?;
    let pair = ssh_key::private::Ed25519Keypair::from_seed(&seed);
    let key = PrivateKey::from(pair);
    debug_assert_eq!(key.algorithm(), Algorithm::Ed25519);
    let private = key.to_openssh(LineEnding::LF).map_err(failed)?;
    let public = key.public_key().to_openssh().map_err(failed)?;
    host.write_file(path, private.as_bytes(), 0o600).await?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".pub");
    host.write_file(&path.with_file_name(name), public.as_bytes(), 0o600)
        .await?;
    Ok(())
}

async fn text(host: &dyn Host, path: &Path) -> Result<String, Error> {
    match host.read_file(path).await? {
        Some(text) => Ok(String::from_utf8_lossy(&text).into_owned()),
        None => Err(Error::DamagedFile {
            path: path.to_owned(),
            reason: "it is missing".to_owned(),
        }),
    }
}
