use std::sync::Arc;

use super::*;
use crate::host::{LinuxHost, LinuxHostConfig};

fn host() -> Arc<dyn Host> {
    Arc::new(LinuxHost::new(LinuxHostConfig::default()))
}

async fn open(path: &Path) -> Result<Store, StoreError> {
    Store::open(path, host()).await
}

#[tokio::test]
async fn every_connection_has_foreign_keys_and_a_busy_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("banger.db")).await.unwrap();
    // All four at once, so that four different connections answer.
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(store.pool.acquire().await.unwrap());
    }
    for connection in &mut held {
        let keys: i64 = sqlx::query_scalar("PRAGMA foreign_keys")
            .fetch_one(&mut **connection)
            .await
            .unwrap();
        let busy: i64 = sqlx::query_scalar("PRAGMA busy_timeout")
            .fetch_one(&mut **connection)
            .await
            .unwrap();
        let journal: String = sqlx::query_scalar("PRAGMA journal_mode")
            .fetch_one(&mut **connection)
            .await
            .unwrap();
        assert_eq!((keys, busy, journal.as_str()), (1, 10_000, "wal"));
    }
}

#[tokio::test]
async fn a_database_of_a_newer_banger_is_refused_and_not_a_byte_of_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("banger.db");
    let store = open(&path).await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (999, 'of tomorrow', TRUE, x'00', 0)",
    )
    .execute(&store.pool)
    .await
    .unwrap();
    store.close().await;
    let before = std::fs::read(&path).unwrap();
    let error = open(&path).await.unwrap_err();
    assert!(
        matches!(error, StoreError::Newer { found: 999, .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("version 999"), "{error}");
    assert!(std::fs::read(&path).unwrap() == before);
    let files = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(files, 1, "no log or index was made beside it");
}

#[tokio::test]
async fn a_truncated_database_and_one_that_is_none_are_named_as_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("banger.db");
    open(&path).await.unwrap().close().await;
    let whole = std::fs::read(&path).unwrap();
    for damaged in [
        &whole[..whole.len() / 2],
        &b"#!/bin/sh\necho not a database at all"[..],
    ] {
        std::fs::write(&path, damaged).unwrap();
        let error = open(&path).await.unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
        assert!(error.to_string().contains("banger.db"), "{error}");
        assert!(error.hint().is_some());
    }
}
