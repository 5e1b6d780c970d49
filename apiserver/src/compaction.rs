//! Compacts old revisions now and then, one server of many at a time.
//!
//! As upstream: a key outside the registry holds whose turn it was last; whoever swaps it first compacts what was the
//! newest revision one interval ago.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use tokio_util::sync::CancellationToken;

use crate::storage::keys::put_if;
use crate::storage::{Store, StoreError};

/// The key that servers agree on, the same as upstream's.
const KEY: &[u8] = b"compact_rev_key";

/// One server's memory between rounds.
struct Turn {
    /// Modification revision of the key as last seen; 0 when it does not exist.
    key_revision: i64,
    /// The store's revision then, to be compacted next time.
    store_revision: i64,
}

/// Compacts once an interval until `shutdown`.
pub async fn run(store: Arc<dyn Store>, interval: Duration, shutdown: CancellationToken) {
    let mut turn = Turn { key_revision: 0, store_revision: 0 };
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = shutdown.cancelled() => return,
        }
        if let Err(error) = round(&*store, &mut turn).await {
            tracing::warn!(%error, "compacting the store failed; it is tried again after the next interval");
        }
    }
}

async fn round(store: &dyn Store, turn: &mut Turn) -> Result<(), StoreError> {
    let value = Bytes::from(turn.store_revision.to_string());
    let response = store.txn(put_if(&Bytes::from_static(KEY), turn.key_revision, value, 0)).await?;
    let revision = response.header.as_ref().map_or(0, |h| h.revision);
    let previous = turn.store_revision;
    turn.store_revision = revision;
    if !response.succeeded {
        turn.key_revision = read_revision(&response);
        return Ok(());
    }
    turn.key_revision = revision;
    if previous == 0 {
        return Ok(());
    }
    store.compact(pb::CompactionRequest { revision: previous, ..Default::default() }).await?;
    Ok(())
}

fn read_revision(response: &pb::TxnResponse) -> i64 {
    let first = response.responses.first().and_then(|r| r.response.as_ref());
    match first {
        Some(pb::response_op::Response::ResponseRange(range)) => {
            range.kvs.first().map_or(0, |kv| kv.mod_revision)
        }
        _ => 0,
    }
}
