//! `handles.json`: a scratch file, versioned, mode 0600, replaced in one step. Not synced: it is void
//! after a power cut (the boot id changes), and a killed process does not lose the page cache.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::VMHandles;
use crate::host::{Host, HostError};

/// The file's name in a VM's folder.
pub(crate) const HANDLES_FILE: &str = "handles.json";

/// The name under which a damaged one is kept.
pub(crate) const HANDLES_ASIDE: &str = "handles.json.damaged";

/// The version that this engine writes, and the newest that it reads.
pub(super) const HANDLES_VERSION: u32 = 1;

/// What was found in a VM's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandlesFile {
    /// There is none.
    Missing,
    /// It was read.
    Found(Box<VMHandles>),
    /// It was damaged, is treated as missing, and was set aside under this name for whoever wants to look.
    SetAside {
        /// Where it is now.
        path: PathBuf,
        /// What was wrong with it.
        reason: String,
    },
}

/// Why handles could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum HandlesError {
    /// The file was written by a newer banger. It is not overwritten.
    #[error("{} has version {found}; this banger knows version {HANDLES_VERSION}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The host refused.
    #[error(transparent)]
    Host(#[from] HostError),
}

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    #[serde(flatten)]
    handles: &'a VMHandles,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// Writes a VM's handles. Call it before the resource is acquired, and before the cache is changed.
pub async fn write_handles_file(
    host: &dyn Host,
    vm_dir: &Path,
    handles: &VMHandles,
) -> Result<(), HandlesError> {
    let written = Written {
        version: HANDLES_VERSION,
        handles,
    };
    let mut text = serde_json::to_vec_pretty(&written).unwrap_or_default();
    text.push(b'\n');
    let path = vm_dir.join(HANDLES_FILE);
    Ok(host.write_file(&path, &text, 0o600).await?)
}

/// Reads a VM's handles. A damaged file is set aside; one of a newer version is refused.
pub async fn read_handles_file(
    host: &dyn Host,
    vm_dir: &Path,
) -> Result<HandlesFile, HandlesError> {
    match peek_handles_file(host, vm_dir).await? {
        HandlesPeek::Missing => Ok(HandlesFile::Missing),
        HandlesPeek::Found(handles) => Ok(HandlesFile::Found(handles)),
        HandlesPeek::Damaged { reason } => {
            let aside = vm_dir.join(HANDLES_ASIDE);
            host.rename(&vm_dir.join(HANDLES_FILE), &aside).await?;
            Ok(HandlesFile::SetAside {
                path: aside,
                reason,
            })
        }
    }
}

/// What is in a VM's folder, for those who only look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HandlesPeek {
    Missing,
    Found(Box<VMHandles>),
    Damaged { reason: String },
}

/// Reads a VM's handles and changes nothing, not even a damaged file's name.
pub(crate) async fn peek_handles_file(
    host: &dyn Host,
    vm_dir: &Path,
) -> Result<HandlesPeek, HandlesError> {
    let path = vm_dir.join(HANDLES_FILE);
    let Some(text) = host.read_file(&path).await? else {
        return Ok(HandlesPeek::Missing);
    };
    let parsed = serde_json::from_slice::<VersionOnly>(&text).and_then(|head| {
        if head.version > HANDLES_VERSION {
            return Ok(Err(head.version));
        }
        serde_json::from_slice(&text).map(Ok)
    });
    match parsed {
        Ok(Ok(handles)) => Ok(HandlesPeek::Found(Box::new(handles))),
        Ok(Err(found)) => Err(HandlesError::Newer { path, found }),
        Err(error) => Ok(HandlesPeek::Damaged {
            reason: error.to_string(),
        }),
    }
}

/// Removes a VM's handles file; a missing one is success. It is the last act of a teardown.
pub async fn remove_handles_file(host: &dyn Host, vm_dir: &Path) -> Result<(), HandlesError> {
    Ok(host.remove_file(&vm_dir.join(HANDLES_FILE)).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{BootId, LinuxHost, LinuxHostConfig, ProcessIdentity};
    use crate::liveness::ProcessHandle;
    use crate::names::RunId;

    fn host() -> LinuxHost {
        LinuxHost::new(LinuxHostConfig::default())
    }

    fn handles() -> VMHandles {
        let run = RunId::from_random([7; 8]);
        VMHandles::planned(run, BootId("boot".to_owned()), "/run/api.sock".into())
    }

    #[tokio::test]
    async fn what_was_written_is_read_back_with_and_without_a_process() {
        let dir = tempfile::tempdir().unwrap();
        let mut handles = handles();
        for process in [
            None,
            Some(ProcessHandle::new(ProcessIdentity {
                pid: 42,
                start_time: 4242,
            })),
        ] {
            handles.process = process;
            write_handles_file(&host(), dir.path(), &handles)
                .await
                .unwrap();
            assert_eq!(
                read_handles_file(&host(), dir.path()).await.unwrap(),
                HandlesFile::Found(Box::new(handles.clone()))
            );
        }
        let text = std::fs::read_to_string(dir.path().join(HANDLES_FILE)).unwrap();
        assert!(text.contains("\"pid\": 42"), "{text}");
    }

    #[tokio::test]
    async fn a_file_that_was_written_before_there_were_ways_out_is_read() {
        let dir = tempfile::tempdir().unwrap();
        write_handles_file(&host(), dir.path(), &handles())
            .await
            .unwrap();
        let path = dir.path().join(HANDLES_FILE);
        let mut older: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for field in ["uplink", "nft_table"] {
            assert!(older.as_object_mut().unwrap().remove(field).is_some());
        }
        std::fs::write(&path, older.to_string()).unwrap();
        let found = read_handles_file(&host(), dir.path()).await.unwrap();
        assert_eq!(found, HandlesFile::Found(Box::new(handles())));
    }

    #[tokio::test]
    async fn a_missing_file_is_missing_and_removing_it_twice_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        remove_handles_file(&host(), dir.path()).await.unwrap();
        assert_eq!(
            read_handles_file(&host(), dir.path()).await.unwrap(),
            HandlesFile::Missing
        );
    }

    #[tokio::test]
    async fn a_damaged_file_is_set_aside_with_the_reason_and_then_missing() {
        for damage in [
            "",
            "{",
            "[]",
            "{\"version\":1}",
            "\0\0\0",
            "{\"version\":-1}",
        ] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(HANDLES_FILE), damage).unwrap();
            let found = read_handles_file(&host(), dir.path()).await.unwrap();
            let HandlesFile::SetAside { path, reason } = found else {
                panic!("{damage:?}: {found:?}");
            };
            assert_eq!(std::fs::read_to_string(path).unwrap(), damage);
            assert!(!reason.is_empty());
            assert_eq!(
                read_handles_file(&host(), dir.path()).await.unwrap(),
                HandlesFile::Missing
            );
        }
    }

    #[tokio::test]
    async fn a_file_of_a_newer_version_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(HANDLES_FILE);
        let newer = "{\"version\":2,\"anything\":true}";
        std::fs::write(&path, newer).unwrap();
        let error = read_handles_file(&host(), dir.path()).await.unwrap_err();
        assert!(matches!(error, HandlesError::Newer { found: 2, .. }));
        assert_eq!(std::fs::read_to_string(path).unwrap(), newer);
    }
}
