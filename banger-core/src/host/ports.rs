//! The TCP ports on which a process listens: its sockets' inodes, looked up in its own network's tables.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use super::process::{failed, identity};
use super::{HostError, ProcessIdentity};

pub(super) fn listening(process: &ProcessIdentity) -> Result<Vec<u16>, HostError> {
    let pid = process.pid;
    let looked = (|| -> io::Result<BTreeSet<u16>> {
        let sockets = sockets_of(pid)?;
        let mut ports = BTreeSet::new();
        for table in ["tcp", "tcp6"] {
            // A kernel without IPv6 has no such table.
            let table = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
            for (inode, port) in table.lines().filter_map(listener) {
                if sockets.contains(&inode) {
                    ports.insert(port);
                }
            }
        }
        Ok(ports)
    })();
    // Whatever was read is of this process only if the number is still its own.
    if identity(pid)?.as_ref() != Some(process) {
        return Ok(Vec::new());
    }
    let ports = looked.map_err(failed("look at the sockets of", pid))?;
    Ok(ports.into_iter().collect())
}

fn sockets_of(pid: u32) -> io::Result<BTreeSet<u64>> {
    let mut inodes = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // A descriptor may be closed while we look.
        let Ok(target) = entry.and_then(|entry| fs::read_link(entry.path())) else {
            continue;
        };
        let target = target.to_string_lossy();
        let inode = target
            .strip_prefix("socket:[")
            .and_then(|rest| rest.strip_suffix(']'));
        inodes.extend(inode.and_then(|inode| inode.parse::<u64>().ok()));
    }
    Ok(inodes)
}

/// Reads one line of proc_pid_net(5)'s `tcp`: returns the socket's inode and its local port if it
/// listens (state `0A`).
///
/// ```text
///   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
///    0: 0100007F:B5B7 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 46519 1
/// ```
fn listener(line: &str) -> Option<(u64, u16)> {
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    if fields.nth(1)? != "0A" {
        return None;
    }
    let inode = fields.nth(5)?.parse().ok()?;
    let port = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
    Some((inode, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_on_which_this_process_listens_is_seen_and_a_mere_connection_is_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let connection = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let own_end = connection.local_addr().unwrap().port();
        let me = identity(std::process::id()).unwrap().unwrap();
        let ports = listening(&me).unwrap();
        assert!(ports.contains(&port), "{ports:?}");
        assert!(!ports.contains(&own_end), "{ports:?}");
        let stale = ProcessIdentity {
            start_time: me.start_time - 1,
            ..me
        };
        assert_eq!(listening(&stale).unwrap(), [] as [u16; 0]);
    }
}
