//! The Rust client library `etcd-client`, an outside judge, against a member that listens.

#[path = "common/ports.rs"]
mod ports;

use std::{sync::Arc, time::Duration};

use etcd_client::{
    Client, Compare, CompareOp, Error as ClientError, EventType, GetOptions, PutOptions, Txn, TxnOp,
    WatchOptions,
};
use raft_store::{Config, Member};
use tempfile::TempDir;

async fn start(change: impl FnOnce(&mut Config)) -> (TempDir, Arc<Member>, String) {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("http://127.0.0.1:{}", ports::free_port());
    let mut config = Config::embedded(dir.path());
    config.listen_client_urls = vec![url.clone()];
    config.advertise_client_urls = vec![url.clone()];
    change(&mut config);
    let member = Member::start(config).await.unwrap();
    (dir, member, url)
}

fn text(error: ClientError) -> String {
    match error {
        ClientError::GRpcStatus(status) => status.message().to_owned(),
        other => other.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kv_txn_watch_and_lease() {
    let (_dir, member, url) = start(|_| ()).await;
    let mut client = Client::connect([&url], None).await.unwrap();
    client.put("k/1", "one", None).await.unwrap();
    let previous = client.put("k/1", "uno", Some(PutOptions::new().with_prev_key())).await.unwrap();
    assert_eq!(previous.prev_key().unwrap().value_str().unwrap(), "one");
    let found = client.get("k/", Some(GetOptions::new().with_prefix())).await.unwrap();
    assert_eq!((found.count(), found.kvs()[0].version()), (1, 2));

    let txn = Txn::new()
        .when([Compare::value("k/1", CompareOp::Equal, "uno")])
        .and_then([TxnOp::put("k/2", "two", None), TxnOp::get("k/2", None)])
        .or_else([TxnOp::get("k/1", None)]);
    assert!(client.txn(txn).await.unwrap().succeeded());
    let twice = Txn::new().and_then([TxnOp::put("x", "1", None), TxnOp::put("x", "2", None)]);
    assert_eq!(text(client.txn(twice).await.unwrap_err()), "etcdserver: duplicate key given in txn request");

    let from_start = WatchOptions::new().with_prefix().with_start_revision(2).with_prev_key();
    let (mut watcher, mut events) = client.watch("k/", Some(from_start)).await.unwrap().split();
    client.delete("k/1", None).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let response = events.message().await.unwrap().unwrap();
        seen.extend(response.events().iter().map(|event| (event.event_type(), event.prev_kv().is_some())));
    }
    let (put, delete) = (EventType::Put, EventType::Delete);
    assert_eq!(seen, [(put, false), (put, true), (put, false), (delete, true)]);
    watcher.request_progress().await.unwrap();
    let progress = events.message().await.unwrap().unwrap();
    assert!(progress.events().is_empty() && progress.header().unwrap().revision() == 5);

    let lease = client.lease_grant(60, None).await.unwrap();
    client.put("leased", "x", Some(PutOptions::new().with_lease(lease.id()))).await.unwrap();
    let (mut keeper, mut kept) = client.lease_keep_alive(lease.id()).await.unwrap();
    keeper.keep_alive().await.unwrap();
    assert_eq!(kept.message().await.unwrap().unwrap().ttl(), 60);
    client.lease_revoke(lease.id()).await.unwrap();
    assert_eq!(client.get("leased", None).await.unwrap().count(), 0);
    assert_eq!(
        text(client.lease_revoke(lease.id()).await.unwrap_err()),
        "etcdserver: requested lease not found"
    );
    drop((client, watcher, events, keeper, kept));
    member.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_member_refuses_writes_reads_on_and_recovers() {
    let (_dir, member, url) = start(|config| config.quota_backend_bytes = 1 << 20).await;
    let mut client = Client::connect([&url], None).await.unwrap();
    let value = vec![7_u8; 256 << 10];
    let mut refused = None;
    for number in 0..40 {
        if let Err(error) = client.put(format!("big/{number}"), value.clone(), None).await {
            refused = Some(text(error));
            break;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert_eq!(refused.as_deref(), Some("etcdserver: mvcc: database space exceeded"));
    assert!(client.get("big/0", None).await.unwrap().count() == 1, "reads go on");
    let alarms = member.status().await.unwrap().errors;
    assert!(alarms.iter().any(|alarm| alarm.contains("NOSPACE")), "{alarms:?}");
    client.delete("big/", Some(etcd_client::DeleteOptions::new().with_prefix())).await.unwrap();
    drop(client);
    member.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_and_malformed_requests_change_nothing() {
    let (_dir, member, url) = start(|config| config.max_request_bytes = 10_000).await;
    let mut client = Client::connect([&url], None).await.unwrap();
    let cases: [(&str, Vec<u8>, &str); 2] = [
        ("", b"x".to_vec(), "etcdserver: key is not provided"),
        ("big", vec![0; 20_000], "etcdserver: request is too large"),
    ];
    for (key, value, expected) in cases {
        assert_eq!(text(client.put(key, value, None).await.unwrap_err()), expected);
    }
    let future = client.get("x", Some(GetOptions::new().with_revision(99))).await.unwrap_err();
    assert_eq!(text(future), "etcdserver: mvcc: required revision is a future revision");
    assert_eq!(client.get("x", None).await.unwrap().header().unwrap().revision(), 1);
    drop(client);
    member.shutdown().await;
}
