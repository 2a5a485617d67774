//! Rows of guest sessions.

use std::str::FromStr;

use banger_session::session::SessionState;
use jiff::Timestamp;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{Store, StoreError, failed, json};
use crate::names::{SessionId, VmId};
use crate::session::GuestSession;

/// Whether a row was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// It was.
    Yes,
    /// It is gone, or says something else by now.
    Moved,
}

impl Store {
    /// Adds a session's row.
    pub(crate) async fn insert_session(&self, session: &GuestSession) -> Result<(), StoreError> {
        const ACT: &str = "insert the session";
        self.write(ACT, async {
            let inserted = sqlx::query(
                "INSERT INTO guest_sessions (id, vm_id, name, spec, state, created_at, updated_at)
                 VALUES (?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(session.id.as_str())
            .bind(session.vm_id.as_str())
            .bind(session.name.as_str())
            .bind(json(&session.spec))
            .bind(json(&session.state))
            .bind(session.created_at.to_string())
            .bind(session.updated_at.to_string())
            .execute(&self.pool)
            .await;
            match inserted {
                Err(sqlx::Error::Database(refused)) if refused.is_unique_violation() => {
                    Err(StoreError::SessionNameTaken {
                        name: session.name.clone(),
                    })
                }
                // The VM was deleted meanwhile.
                Err(sqlx::Error::Database(refused)) if refused.is_foreign_key_violation() => {
                    Err(StoreError::NoSuchRow {
                        id: session.vm_id.clone(),
                    })
                }
                other => other.map(drop).map_err(failed(ACT)),
            }
        })
        .await
    }

    /// Replaces a session's state, if it is still the one given: whoever looked later wins.
    pub(crate) async fn replace_session_state(
        &self,
        id: &SessionId,
        before: &SessionState,
        after: &SessionState,
    ) -> Result<Written, StoreError> {
        const ACT: &str = "update the session";
        self.write(ACT, async {
            let updated = sqlx::query(
                "UPDATE guest_sessions SET state = ?, updated_at = ? WHERE id = ? AND state = ?",
            )
            .bind(json(after))
            .bind(Timestamp::now().to_string())
            .bind(id.as_str())
            .bind(json(before))
            .execute(&self.pool)
            .await
            .map_err(failed(ACT))?;
            match updated.rows_affected() {
                0 => Ok(Written::Moved),
                _ => Ok(Written::Yes),
            }
        })
        .await
    }

    /// Removes a session's row; a missing one is success.
    pub(crate) async fn delete_session(&self, id: &SessionId) -> Result<(), StoreError> {
        const ACT: &str = "delete the session";
        self.write(ACT, async {
            sqlx::query("DELETE FROM guest_sessions WHERE id = ?")
                .bind(id.as_str())
                .execute(&self.pool)
                .await
                .map(drop)
                .map_err(failed(ACT))
        })
        .await
    }

    /// Returns a session by its id.
    pub(crate) async fn session(&self, id: &SessionId) -> Result<Option<GuestSession>, StoreError> {
        let row = sqlx::query("SELECT * FROM guest_sessions WHERE id = ?")
            .bind(id.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(failed("look up the session"))?;
        row.as_ref().map(record).transpose()
    }

    /// Returns a VM's session by its name.
    pub(crate) async fn session_named(
        &self,
        vm: &VmId,
        name: &str,
    ) -> Result<Option<GuestSession>, StoreError> {
        let row = sqlx::query("SELECT * FROM guest_sessions WHERE vm_id = ? AND name = ?")
            .bind(vm.as_str())
            .bind(name)
            .fetch_optional(&self.pool)
            .await
            .map_err(failed("look up the session"))?;
        row.as_ref().map(record).transpose()
    }

    /// Returns a VM's sessions, oldest first.
    pub(crate) async fn sessions(&self, vm: &VmId) -> Result<Vec<GuestSession>, StoreError> {
        let rows =
            sqlx::query("SELECT * FROM guest_sessions WHERE vm_id = ? ORDER BY created_at, name")
                .bind(vm.as_str())
                .fetch_all(&self.pool)
                .await
                .map_err(failed("list the sessions"))?;
        rows.iter().map(record).collect()
    }
}

fn record(row: &SqliteRow) -> Result<GuestSession, StoreError> {
    let text = |column: &'static str| -> Result<String, StoreError> {
        row.try_get(column).map_err(failed("read the session"))
    };
    let id = text("id")?;
    let wrong = |reason: String| StoreError::SessionRow {
        id: id.clone(),
        reason,
    };
    let time = |column: &'static str| -> Result<Timestamp, StoreError> {
        Timestamp::from_str(&text(column)?).map_err(|e| wrong(e.to_string()))
    };
    Ok(GuestSession {
        id: id.parse().map_err(|e| wrong(format!("{e}")))?,
        vm_id: text("vm_id")?.parse().map_err(|e| wrong(format!("{e}")))?,
        name: text("name")?.parse().map_err(|e| wrong(format!("{e}")))?,
        spec: serde_json::from_str(&text("spec")?).map_err(|e| wrong(e.to_string()))?,
        state: serde_json::from_str(&text("state")?).map_err(|e| wrong(e.to_string()))?,
        created_at: time("created_at")?,
        updated_at: time("updated_at")?,
    })
}
