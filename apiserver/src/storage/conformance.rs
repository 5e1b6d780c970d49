//! What every [`Store`] must do, as one suite that each implementation's tests run.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use proto::etcdserverpb as pb;

use super::keys::{delete_if, prefix_end, put_if};
use super::{Store, StoreError, Watch};

/// Longer than any single step should take, even on a busy machine.
const STEP_TIMEOUT: Duration = Duration::from_secs(20);

/// Runs the whole suite under a prefix that nothing else uses. Panics with the failed step.
pub async fn run(store: Arc<dyn Store>, prefix: &str) {
    guarded_writes(&*store, prefix).await;
    ranges_and_history(&*store, prefix).await;
    watches(&*store, prefix).await;
    leases(&*store, prefix).await;
    compaction(&*store, prefix).await;
}

fn key(prefix: &str, name: &str) -> Bytes {
    format!("{prefix}/{name}").into()
}

async fn put(store: &dyn Store, key: &Bytes, value: &str, at: i64) -> Result<i64, i64> {
    let value = Bytes::copy_from_slice(value.as_bytes());
    let response = store.txn(put_if(key, at, value, 0)).await.expect("txn");
    let revision = response.header.expect("header").revision;
    if response.succeeded { Ok(revision) } else { Err(revision) }
}

async fn get(store: &dyn Store, key: &Bytes, revision: i64) -> Result<pb::RangeResponse, StoreError> {
    store.range(pb::RangeRequest { key: key.clone(), revision, ..Default::default() }).await
}

async fn guarded_writes(store: &dyn Store, prefix: &str) {
    let key = key(prefix, "guarded");
    let first = put(store, &key, "1", 0).await.expect("creates when absent");
    assert!(put(store, &key, "2", 0).await.is_err(), "does not create twice");
    let second = put(store, &key, "2", first).await.expect("updates at the right revision");
    assert!(second > first, "revisions grow");
    let stale = store.txn(delete_if(&key, first)).await.expect("txn");
    assert!(!stale.succeeded, "does not delete at a stale revision");
    let Some(pb::response_op::Response::ResponseRange(read)) = &stale.responses[0].response else {
        panic!("the failed half reads the key");
    };
    assert_eq!((&read.kvs[0].value[..], read.kvs[0].mod_revision), (&b"2"[..], second));
    assert!(store.txn(delete_if(&key, second)).await.expect("txn").succeeded);
    assert!(get(store, &key, 0).await.expect("range").kvs.is_empty(), "deleted keys are gone");
    assert!(store.current_revision().await.expect("revision") > second, "a deletion is a revision");
}

async fn ranges_and_history(store: &dyn Store, prefix: &str) {
    let folder = format!("{prefix}/range/");
    let mut revisions = Vec::new();
    for i in 0..5 {
        revisions.push(put(store, &format!("{folder}{i}").into(), "v", 0).await.expect("create"));
    }
    let mut request = pb::RangeRequest {
        key: folder.clone().into(),
        range_end: prefix_end(folder.as_bytes()).into(),
        limit: 2,
        revision: revisions[3],
        ..Default::default()
    };
    let page = store.range(request.clone()).await.expect("range");
    assert_eq!((page.kvs.len(), page.more, page.count), (2, true, 4), "limit, more, and count at a revision");
    request.key = [&page.kvs[1].key[..], b"\0"].concat().into();
    let rest = store.range(request).await.expect("range");
    assert_eq!((rest.kvs.len(), rest.more), (2, false));
    let future = get(store, &folder.into(), revisions[4] + 1_000_000).await;
    assert!(matches!(future, Err(StoreError::FutureRevision)), "{future:?}");
}

async fn next(watch: &mut Watch) -> pb::WatchResponse {
    let item = tokio::time::timeout(STEP_TIMEOUT, watch.events.next()).await;
    item.expect("a watch answer in time").expect("an open watch").expect("no error")
}

async fn watches(store: &dyn Store, prefix: &str) {
    let key = key(prefix, "watched");
    let first = put(store, &key, "1", 0).await.expect("create");
    let second = put(store, &key, "2", first).await.expect("update");
    let request = pb::WatchCreateRequest { key: key.clone(), start_revision: first, ..Default::default() };
    let mut watch = store.watch(request).await.expect("watch");
    assert!(next(&mut watch).await.created, "the creation is answered first");
    assert!(store.txn(delete_if(&key, second)).await.expect("txn").succeeded);
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.extend(next(&mut watch).await.events);
    }
    let kinds: Vec<_> = seen.iter().map(|e| e.r#type).collect();
    assert_eq!(kinds, [0, 0, 1], "history, then the deletion, in order");
    let revisions: Vec<_> = seen.iter().filter_map(|e| e.kv.as_ref()).map(|kv| kv.mod_revision).collect();
    assert!(revisions.windows(2).all(|w| w[0] < w[1]), "{revisions:?}");
    let current = store.current_revision().await.expect("revision");
    watch.progress.send(()).await.expect("progress");
    let progress = next(&mut watch).await;
    assert!(progress.events.is_empty() && progress.header.expect("header").revision >= current);
}

async fn leases(store: &dyn Store, prefix: &str) {
    let lease = store.lease_grant(60).await.expect("grant");
    let key = key(prefix, "leased");
    let request = put_if(&key, 0, Bytes::from_static(b"1"), lease.id);
    assert!(store.txn(request).await.expect("txn").succeeded);
    assert!(store.lease_keep_alive(lease.id).await.expect("keep alive").ttl > 0);
    store.lease_revoke(lease.id).await.expect("revoke");
    assert!(get(store, &key, 0).await.expect("range").kvs.is_empty(), "keys go with their lease");
}

async fn compaction(store: &dyn Store, prefix: &str) {
    let key = key(prefix, "compacted");
    let first = put(store, &key, "1", 0).await.expect("create");
    let second = put(store, &key, "2", first).await.expect("update");
    let request = pb::CompactionRequest { revision: second, ..Default::default() };
    store.compact(request).await.expect("compact");
    let old = get(store, &key, first).await;
    assert!(matches!(old, Err(StoreError::Compacted(_))), "{old:?}");
    let request = pb::WatchCreateRequest { key, start_revision: first, ..Default::default() };
    let mut watch = store.watch(request).await.expect("watch");
    loop {
        let answer = next(&mut watch).await;
        if answer.canceled {
            assert!(answer.compact_revision >= second, "the cancellation names the oldest revision left");
            break;
        }
        assert!(answer.created, "nothing but the creation comes before");
    }
}
