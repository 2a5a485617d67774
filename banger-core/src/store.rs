//! The durable part: one SQLite database a state folder.
//!
//! Every connection has foreign keys on and a busy timeout, because both come with the options that
//! every connection is opened with, not with a statement on one of them. A database of a newer banger
//! is refused before anything is opened for writing.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Row};

use crate::host::{Host, HostError, Moment};
use crate::names::{SessionName, VmId, VmName};
use crate::vm::VMRecord;

mod sessions;
mod workspaces;

pub(crate) use sessions::Written;

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Why the database could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It was written by a newer banger. Nothing was touched.
    #[error(
        "the database {} has version {found}; this banger knows version {known}", path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version we know.
        known: i64,
    },
    /// It is no database, or part of it is missing.
    #[error("the database {} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        reason: String,
    },
    /// It could not be opened.
    #[error("cannot open the database {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: sqlx::Error,
    },
    /// Its tables could not be brought up to date.
    #[error("cannot bring the database {} up to date", path.display())]
    Migrate {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: sqlx::migrate::MigrateError,
    },
    /// The name belongs to another VM.
    #[error("the name {name} is taken")]
    NameTaken {
        /// The name.
        name: VmName,
    },
    /// The name belongs to another session of the VM.
    #[error("the session name {name} is taken")]
    SessionNameTaken {
        /// The name.
        name: SessionName,
    },
    /// A row that must be there is not.
    #[error("there is no record of VM {id}")]
    NoSuchRow {
        /// The VM.
        id: VmId,
    },
    /// A statement failed.
    #[error("cannot {act} in the database")]
    Statement {
        /// What was tried.
        act: &'static str,
        /// What SQLite says.
        source: sqlx::Error,
    },
    /// A row holds what we never write.
    #[error("cannot read the record of VM {id}: {reason}")]
    Row {
        /// The row's id.
        id: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A session's row holds what we never write.
    #[error("cannot read the record of session {id}: {reason}")]
    SessionRow {
        /// The row's id.
        id: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The host refused.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl StoreError {
    /// Returns the next step for whoever reads the message, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            StoreError::Newer { .. } => Some("use the banger that wrote it, or a newer one".into()),
            StoreError::Damaged { path, .. } => Some(format!(
                "restore {0} from a copy, or move it away: the VMs' disks are not in it, and `banger doctor` shows folders without a record",
                path.display()
            )),
            StoreError::Statement { source, .. } | StoreError::Open { source, .. }
                if source.to_string().contains("disk is full") =>
            {
                Some("the disk is full: free some space and try again".into())
            }
            StoreError::Open { path, .. } => Some(format!(
                "check the owner and the mode of {} and of its folder",
                path.display()
            )),
            StoreError::Host(host) => host.hint(),
            _ => None,
        }
    }
}

/// The database of one engine.
#[derive(Debug)]
pub(crate) struct Store {
    pool: SqlitePool,
    host: Arc<dyn Host>,
}

impl Store {
    /// Opens the database, making or upgrading it.
    pub(crate) async fn open(path: &Path, host: Arc<dyn Host>) -> Result<Self, StoreError> {
        refuse_newer(path).await?;
        let options = options(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            // A daemon at rest does not wake up: no connection is ever retired.
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await
            .map_err(|source| opening(path, source))?;
        // SQLite makes its files as the umask has them, and those beside the first as that one is.
        for end in ["", "-wal", "-shm"] {
            let mut name = path.as_os_str().to_owned();
            name.push(end);
            host.set_mode(Path::new(&name), 0o600)
                .await
                .map_err(StoreError::Host)?;
        }
        refuse_damaged(path, &pool).await?;
        MIGRATIONS.run(&pool).await.map_err(|source| match source {
            sqlx::migrate::MigrateError::VersionMissing(found) => StoreError::Newer {
                path: path.to_owned(),
                found,
                known: MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0),
            },
            source => StoreError::Migrate {
                path: path.to_owned(),
                source,
            },
        })?;
        Ok(Store { pool, host })
    }

    /// Adds a VM's row. The name and the id's prefix must be free.
    pub(crate) async fn insert_vm(&self, vm: &VMRecord) -> Result<(), StoreError> {
        self.write("insert the VM", async {
            let inserted = sqlx::query(
                "INSERT INTO vms (id, name, image, spec, runtime, created_at, updated_at)
                 VALUES (?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(vm.id.as_str())
            .bind(vm.name.as_str())
            .bind(vm.image.as_str())
            .bind(json(&vm.spec))
            .bind(json(&vm.runtime))
            .bind(vm.created_at.to_string())
            .bind(vm.updated_at.to_string())
            .execute(&self.pool)
            .await;
            match inserted {
                Err(sqlx::Error::Database(refused))
                    if refused.is_unique_violation() && refused.message().contains("vms.name") =>
                {
                    Err(StoreError::NameTaken {
                        name: vm.name.clone(),
                    })
                }
                other => other.map(drop).map_err(failed("insert the VM")),
            }
        })
        .await
    }

    /// Replaces what a VM's row says of its spec and runtime.
    pub(crate) async fn update_vm(&self, vm: &VMRecord) -> Result<(), StoreError> {
        self.write("update the VM", async {
            let updated =
                sqlx::query("UPDATE vms SET spec = ?, runtime = ?, updated_at = ? WHERE id = ?")
                    .bind(json(&vm.spec))
                    .bind(json(&vm.runtime))
                    .bind(vm.updated_at.to_string())
                    .bind(vm.id.as_str())
                    .execute(&self.pool)
                    .await
                    .map_err(failed("update the VM"))?;
            if updated.rows_affected() == 0 {
                return Err(StoreError::NoSuchRow { id: vm.id.clone() });
            }
            Ok(())
        })
        .await
    }

    /// Removes a VM's row; a missing one is success.
    pub(crate) async fn delete_vm(&self, id: &VmId) -> Result<(), StoreError> {
        self.write("delete the VM", async {
            sqlx::query("DELETE FROM vms WHERE id = ?")
                .bind(id.as_str())
                .execute(&self.pool)
                .await
                .map(drop)
                .map_err(failed("delete the VM"))
        })
        .await
    }

    /// Returns a VM by its id.
    pub(crate) async fn vm(&self, id: &VmId) -> Result<Option<VMRecord>, StoreError> {
        let row = sqlx::query("SELECT * FROM vms WHERE id = ?")
            .bind(id.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(failed("look up the VM"))?;
        row.as_ref().map(record).transpose()
    }

    /// Returns a VM by its name.
    pub(crate) async fn vm_named(&self, name: &str) -> Result<Option<VMRecord>, StoreError> {
        let row = sqlx::query("SELECT * FROM vms WHERE name = ?")
            .bind(name)
            .fetch_optional(&self.pool)
            .await
            .map_err(failed("look up the VM"))?;
        row.as_ref().map(record).transpose()
    }

    /// Returns the VMs whose id begins with these digits.
    pub(crate) async fn vms_with_prefix(&self, prefix: &str) -> Result<Vec<VMRecord>, StoreError> {
        let rows = sqlx::query("SELECT * FROM vms WHERE substr(id, 1, length(?1)) = ?1 LIMIT 3")
            .bind(prefix)
            .fetch_all(&self.pool)
            .await
            .map_err(failed("look up the VM"))?;
        rows.iter().map(record).collect()
    }

    /// Returns every VM, by name.
    pub(crate) async fn vms(&self) -> Result<Vec<VMRecord>, StoreError> {
        let rows = sqlx::query("SELECT * FROM vms ORDER BY name")
            .fetch_all(&self.pool)
            .await
            .map_err(failed("list the VMs"))?;
        rows.iter().map(record).collect()
    }

    /// Returns every VM whose state is `running`, by name.
    pub(crate) async fn promised_to_run(&self) -> Result<Vec<VMRecord>, StoreError> {
        let rows = sqlx::query("SELECT * FROM vms WHERE state = 'running' ORDER BY name")
            .fetch_all(&self.pool)
            .await
            .map_err(failed("list the VMs"))?;
        rows.iter().map(record).collect()
    }

    /// Closes every connection, so that the write-ahead log is folded in.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }

    async fn write<T>(
        &self,
        act: &'static str,
        statement: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.host.witness(act, Moment::Before)?;
        let done = statement.await?;
        self.host.witness(act, Moment::After)?;
        Ok(done)
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(10))
        .disable_statement_logging()
}

/// Looks at an existing database without making so much as a `-shm` file beside it. What another
/// connection is just writing cannot be read this way; then SQLite itself judges when it is opened.
async fn refuse_newer(path: &Path) -> Result<(), StoreError> {
    if !path.metadata().is_ok_and(|facts| facts.len() > 0) {
        return Ok(());
    }
    let look = async {
        let mut connection = options(path)
            .read_only(true)
            .immutable(true)
            .connect()
            .await?;
        let found =
            sqlx::query_scalar::<_, Option<i64>>("SELECT max(version) FROM _sqlx_migrations")
                .fetch_one(&mut connection)
                .await;
        connection.close().await?;
        found
    };
    let known = MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0);
    match look.await {
        Ok(Some(found)) if found > known => Err(StoreError::Newer {
            path: path.to_owned(),
            found,
            known,
        }),
        _ => Ok(()),
    }
}

async fn refuse_damaged(path: &Path, pool: &SqlitePool) -> Result<(), StoreError> {
    let verdict: String = sqlx::query_scalar("PRAGMA quick_check(1)")
        .fetch_one(pool)
        .await
        .map_err(|source| opening(path, source))?;
    match verdict.as_str() {
        "ok" => Ok(()),
        _ => Err(StoreError::Damaged {
            path: path.to_owned(),
            reason: verdict,
        }),
    }
}

fn opening(path: &Path, source: sqlx::Error) -> StoreError {
    let path = path.to_owned();
    // SQLite's primary result codes 11 (SQLITE_CORRUPT) and 26 (SQLITE_NOTADB).
    let code = match &source {
        sqlx::Error::Database(error) => error.code().and_then(|code| code.parse::<i32>().ok()),
        _ => None,
    };
    match code.map(|code| code & 0xff) {
        Some(11 | 26) => StoreError::Damaged {
            path,
            reason: source.to_string(),
        },
        _ => StoreError::Open { path, source },
    }
}

fn failed(act: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |source| StoreError::Statement { act, source }
}

fn json<T: serde::Serialize>(value: &T) -> String {
    // Our own types: maps with text keys and plain values; this cannot fail.
    serde_json::to_string(value).unwrap_or_default()
}

fn record(row: &SqliteRow) -> Result<VMRecord, StoreError> {
    let id: String = row.try_get("id").map_err(failed("read the VM"))?;
    let text = |column: &'static str| -> Result<String, StoreError> {
        row.try_get(column).map_err(failed("read the VM"))
    };
    let wrong = |reason: String| StoreError::Row {
        id: id.clone(),
        reason,
    };
    let time = |column: &'static str| -> Result<Timestamp, StoreError> {
        Timestamp::from_str(&text(column)?).map_err(|e| wrong(e.to_string()))
    };
    Ok(VMRecord {
        id: id.parse().map_err(|e| wrong(format!("{e}")))?,
        name: text("name")?.parse().map_err(|e| wrong(format!("{e}")))?,
        image: text("image")?.parse().map_err(|e| wrong(format!("{e}")))?,
        spec: serde_json::from_str(&text("spec")?).map_err(|e| wrong(e.to_string()))?,
        runtime: serde_json::from_str(&text("runtime")?).map_err(|e| wrong(e.to_string()))?,
        created_at: time("created_at")?,
        updated_at: time("updated_at")?,
    })
}

#[cfg(test)]
mod tests;
