//! The files that ssh reads: a config that names everything, and the one host key.

use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};

use crate::host::{Host, HostError};
use crate::names::{VmId, VmName};

/// What the files of one run are made of.
#[derive(Clone, Debug)]
pub(crate) struct SshFiles {
    pub(crate) id: VmId,
    pub(crate) name: VmName,
    pub(crate) address: SocketAddrV4,
    pub(crate) client_key: PathBuf,
    /// `ssh-ed25519 AAAA…`, without a comment.
    pub(crate) host_key: String,
    pub(crate) config: PathBuf,
    pub(crate) known_hosts: PathBuf,
    pub(crate) control: PathBuf,
    pub(crate) ciphers: Ciphers,
}

/// Which ciphers are tried first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ciphers {
    /// ssh's own order.
    Usual,
    /// The one that costs an emulated processor the least: 15 MB/s against 5 to 8.
    ForEmulation,
}

/// The name under which ssh knows a VM.
pub(crate) fn alias(name: &VmName) -> String {
    format!("{name}.vm")
}

/// Writes the config and the known hosts of a run.
pub(crate) async fn write_files(host: &dyn Host, files: &SshFiles) -> Result<(), HostError> {
    let known = format!("{} {}\n", host_key_alias(&files.id), files.host_key.trim());
    host.write_file(&files.known_hosts, known.as_bytes(), 0o600)
        .await?;
    host.write_file(&files.config, render(files).as_bytes(), 0o600)
        .await
}

fn host_key_alias(id: &VmId) -> String {
    format!("banger-{id}")
}

fn render(files: &SshFiles) -> String {
    let SshFiles { name, address, .. } = files;
    let mut text = format!(
        "# Written by banger at each start of the VM; changes are lost.\n\
         Host {} {name}\n\
         \x20 HostName {}\n\
         \x20 Port {}\n\
         \x20 HostKeyAlias {}\n\
         \x20 User root\n",
        alias(name),
        address.ip(),
        address.port(),
        host_key_alias(&files.id),
    );
    let paths = [
        ("IdentityFile", &files.client_key),
        ("UserKnownHostsFile", &files.known_hosts),
        ("ControlPath", &files.control),
    ];
    for (keyword, path) in paths {
        text.push_str(&format!("  {keyword} {}\n", quoted(path)));
    }
    text.push_str(
        "  ControlMaster auto\n\
         \x20 ControlPersist 600\n\
         \x20 IdentitiesOnly yes\n\
         \x20 IdentityAgent none\n\
         \x20 GlobalKnownHostsFile /dev/null\n\
         \x20 StrictHostKeyChecking yes\n\
         \x20 UpdateHostKeys no\n\
         \x20 CheckHostIP no\n\
         \x20 BatchMode yes\n\
         \x20 PreferredAuthentications publickey\n\
         \x20 HostKeyAlgorithms ssh-ed25519\n\
         \x20 KexAlgorithms curve25519-sha256\n\
         \x20 ForwardAgent no\n\
         \x20 ForwardX11 no\n\
         \x20 ConnectTimeout 30\n\
         \x20 ServerAliveInterval 15\n\
         \x20 ServerAliveCountMax 4\n\
         \x20 LogLevel ERROR\n",
    );
    if files.ciphers == Ciphers::ForEmulation {
        text.push_str("  Ciphers ^aes128-ctr\n");
    }
    text
}

/// A path as ssh_config(5) takes it: quoted, with `%` (which begins a token) and `"` spelled so that
/// they stand for themselves.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let text = text
        .replace('%', "%%")
        .replace('\\', "\\\\")
        .replace('"', "\\\"");
    format!("\"{text}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{LinuxHost, LinuxHostConfig, Program};

    #[tokio::test]
    async fn ssh_itself_reads_the_config_as_it_was_meant_whatever_the_paths_hold() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("a \"b\" 100%d");
        std::fs::create_dir(&odd).unwrap();
        let host = LinuxHost::new(LinuxHostConfig::default());
        let files = SshFiles {
            id: VmId::from_random([1; 16]),
            name: "box".parse().unwrap(),
            address: "127.0.0.1:4242".parse().unwrap(),
            client_key: odd.join("key"),
            host_key: "ssh-ed25519 AAAA".to_owned(),
            config: odd.join("ssh_config"),
            known_hosts: odd.join("known_hosts"),
            control: odd.join("ssh"),
            ciphers: Ciphers::ForEmulation,
        };
        write_files(&host, &files).await.unwrap();
        let shown = host
            .run(
                &Program::new("ssh")
                    .arg("-G")
                    .arg("-F")
                    .arg(&files.config)
                    .arg("box.vm"),
            )
            .await
            .unwrap();
        let shown_text = String::from_utf8(shown.stdout).unwrap();
        for expected in [
            "port 4242".to_owned(),
            "stricthostkeychecking true".to_owned(),
            "identityagent none".to_owned(),
            "serveraliveinterval 15".to_owned(),
            "serveralivecountmax 4".to_owned(),
            format!("controlpath {}", files.control.display()),
        ] {
            assert!(
                shown_text.lines().any(|line| line == expected),
                "{expected}: {shown_text}"
            );
        }
    }
}
