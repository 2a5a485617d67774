//! Rows of workspaces.

use std::collections::HashMap;

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{Store, StoreError, failed, json};
use crate::names::VmId;
use crate::workspace::Workspace;

impl Store {
    /// Sets a VM's workspace.
    pub(crate) async fn set_workspace(
        &self,
        vm: &VmId,
        workspace: &Workspace,
    ) -> Result<(), StoreError> {
        const ACT: &str = "record the workspace";
        self.write(ACT, async {
            let written = sqlx::query(
                "INSERT INTO workspaces (vm_id, workspace, prepared_at) VALUES (?1, ?2, ?3)
                 ON CONFLICT (vm_id) DO UPDATE SET workspace = ?2, prepared_at = ?3",
            )
            .bind(vm.as_str())
            .bind(json(workspace))
            .bind(workspace.prepared_at.to_string())
            .execute(&self.pool)
            .await;
            match written {
                // The VM was deleted meanwhile.
                Err(sqlx::Error::Database(refused)) if refused.is_foreign_key_violation() => {
                    Err(StoreError::NoSuchRow { id: vm.clone() })
                }
                other => other.map(drop).map_err(failed(ACT)),
            }
        })
        .await
    }

    /// Returns a VM's workspace.
    pub(crate) async fn workspace(&self, vm: &VmId) -> Result<Option<Workspace>, StoreError> {
        let row = sqlx::query("SELECT vm_id, workspace FROM workspaces WHERE vm_id = ?")
            .bind(vm.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(failed("look up the workspace"))?;
        Ok(row
            .as_ref()
            .map(record)
            .transpose()?
            .map(|(_, found)| found))
    }

    /// Returns all workspaces, by the id of their VM.
    pub(crate) async fn workspaces(&self) -> Result<HashMap<String, Workspace>, StoreError> {
        let rows = sqlx::query("SELECT vm_id, workspace FROM workspaces")
            .fetch_all(&self.pool)
            .await
            .map_err(failed("list the workspaces"))?;
        rows.iter().map(record).collect()
    }
}

fn record(row: &SqliteRow) -> Result<(String, Workspace), StoreError> {
    let text = |column: &'static str| -> Result<String, StoreError> {
        row.try_get(column).map_err(failed("read the workspace"))
    };
    let id = text("vm_id")?;
    let workspace = serde_json::from_str(&text("workspace")?);
    let workspace = workspace.map_err(|error| StoreError::Row {
        id: id.clone(),
        reason: error.to_string(),
    })?;
    Ok((id, workspace))
}
