//! A member inside this process: no sockets, a clean start and stop, nothing lost in between.

use std::time::Duration;

use proto::etcdserverpb::{
    CompactionRequest, Compare, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
    compare::{CompareTarget, TargetUnion},
    request_op::Request,
};
use raft_store::{Config, Error, Member, StartError, WatchStream, WatchUpdate};

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

fn get(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

fn prefix(key: &str) -> WatchCreateRequest {
    let mut end = key.as_bytes().to_vec();
    *end.last_mut().unwrap() += 1;
    WatchCreateRequest {
        key: key.to_owned().into(),
        range_end: end.into(),
        prev_kv: true,
        ..Default::default()
    }
}

async fn next(watch: &WatchStream) -> WatchUpdate {
    tokio::time::timeout(Duration::from_secs(60), watch.next()).await.expect("an update").expect("a stream")
}

fn keys(update: &WatchUpdate) -> Vec<(String, i64)> {
    let WatchUpdate::Events { events, .. } = update else { panic!("{update:?} instead of events") };
    let events = events.events().iter();
    events.map(|event| (String::from_utf8_lossy(event.key()).into_owned(), event.revision())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let member = Member::start(Config::embedded(dir.path())).await.unwrap();
    for number in 0..50 {
        member.put(put("counter", &number.to_string())).await.unwrap();
    }
    let lease = member.lease_grant(LeaseGrantRequest { ttl: 600, id: 77 }).await.unwrap();
    assert_eq!((lease.id, lease.ttl), (77, 600));
    member.put(PutRequest { lease: 77, ..put("leased", "x") }).await.unwrap();
    member.shutdown().await;

    let member = Member::start(Config::embedded(dir.path())).await.unwrap();
    let found = member.range(get("counter")).await.unwrap();
    assert_eq!(found.kvs[0].value, "49");
    assert_eq!((found.kvs[0].version, found.kvs[0].create_revision, found.kvs[0].mod_revision), (50, 2, 51));
    let left = member.lease_time_to_live(LeaseTimeToLiveRequest { id: 77, keys: true }).await.unwrap();
    assert_eq!((left.granted_ttl, left.keys), (600, vec!["leased".into()]));
    let old = member.range(RangeRequest { revision: 2, ..get("counter") }).await.unwrap();
    assert_eq!(old.kvs[0].value, "0");
    member.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_serves_one_member() {
    let dir = tempfile::tempdir().unwrap();
    let member = Member::start(Config::embedded(dir.path())).await.unwrap();
    let second = Member::start(Config::embedded(dir.path())).await;
    assert!(matches!(second.err(), Some(StartError::InUse(_))));
    member.shutdown().await;
    let again = Member::start(Config::embedded(dir.path())).await.unwrap();
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_may_lie_in_a_folder_of_its_own() {
    let (dir, logs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = || Config { wal_dir: Some(logs.path().join("wal")), ..Config::embedded(dir.path()) };
    let member = Member::start(config()).await.unwrap();
    member.put(put("a", "1")).await.unwrap();
    member.shutdown().await;
    assert!(!dir.path().join("member/log").exists());
    let elsewhere = Member::start(Config::embedded(dir.path())).await;
    let refused = elsewhere.err().expect("without its log it does not start").to_string();
    assert!(refused.contains("the end of the log is lost"), "{refused}");
    let member = Member::start(config()).await.unwrap();
    assert_eq!(member.range(get("a")).await.unwrap().count, 1);
    member.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_see_every_change_once_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let member = Member::start(Config::embedded(dir.path())).await.unwrap();
    member.put(put("a/1", "one")).await.unwrap();
    member.put(put("b/1", "other")).await.unwrap();
    let from_now = member.watch(prefix("a/")).await.unwrap();
    let from_start = member.watch(WatchCreateRequest { start_revision: 1, ..prefix("a/") }).await.unwrap();
    member.put(put("a/2", "two")).await.unwrap();
    member.put(put("a/1", "again")).await.unwrap();
    let mut now = keys(&next(&from_now).await);
    while now.len() < 2 {
        now.extend(keys(&next(&from_now).await));
    }
    assert_eq!(now, [("a/2".to_owned(), 4), ("a/1".to_owned(), 5)]);
    let mut all = Vec::new();
    while all.len() < 3 {
        all.extend(keys(&next(&from_start).await));
    }
    assert_eq!(all, [("a/1".to_owned(), 2), ("a/2".to_owned(), 4), ("a/1".to_owned(), 5)]);
    from_start.request_progress();
    let progress = next(&from_start).await;
    assert!(matches!(progress, WatchUpdate::Progress { watch_id: -1, revision: 5 }), "{progress:?}");

    member.compact(CompactionRequest { revision: 5, physical: true }).await.unwrap();
    let gone = member.watch(WatchCreateRequest { start_revision: 3, ..prefix("a/") }).await.unwrap();
    let gone = next(&gone).await;
    assert!(matches!(gone, WatchUpdate::Canceled { compact_revision: 5, .. }), "{gone:?}");
    let old = member.range(RangeRequest { revision: 3, ..get("a/1") }).await;
    assert_eq!(old.unwrap_err(), Error::COMPACTED);
    let kept = member.range(RangeRequest { revision: 5, ..get("a/2") }).await.unwrap();
    assert_eq!(kept.kvs[0].value, "two");
    member.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_watcher_holds_nobody_up_and_misses_nothing() {
    const CHANGES: usize = 30_000;
    let dir = tempfile::tempdir().unwrap();
    let member = Member::start(Config::embedded(dir.path())).await.unwrap();
    let slow = member.watch(prefix("k/")).await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..30 {
        let member = member.clone();
        writers.spawn(async move {
            for number in 0..CHANGES / 30 {
                member.put(put(&format!("k/{writer}"), &number.to_string())).await.unwrap();
            }
        });
    }
    writers.join_all().await;
    let mut revisions = Vec::new();
    while revisions.len() < CHANGES {
        revisions.extend(keys(&next(&slow).await).into_iter().map(|(_, revision)| revision));
    }
    let expected: Vec<i64> = (2..2 + CHANGES as i64).collect();
    assert_eq!(revisions, expected);
    member.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_lease_takes_its_keys_along() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { election_timeout: Duration::from_millis(500), ..Config::embedded(dir.path()) };
    let member = Member::start(config).await.unwrap();
    let lease = member.lease_grant(LeaseGrantRequest { ttl: 4, id: 0 }).await.unwrap();
    assert_eq!(lease.ttl, 4);
    member.put(PutRequest { lease: lease.id, ..put("session", "x") }).await.unwrap();
    let watch =
        member.watch(WatchCreateRequest { key: "session".into(), ..Default::default() }).await.unwrap();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let kept = member.lease_keep_alive(LeaseKeepAliveRequest { id: lease.id }).await.unwrap();
        assert_eq!(kept.ttl, 4, "a lease that is kept alive does not run out");
    }
    let WatchUpdate::Events { events, .. } = next(&watch).await else { panic!("no event") };
    assert!(events.events()[0].is_delete());
    let kept = member.lease_keep_alive(LeaseKeepAliveRequest { id: lease.id }).await.unwrap();
    assert_eq!(kept.ttl, 0);
    let missing = member.put(PutRequest { lease: lease.id, ..put("session", "y") }).await;
    assert_eq!(missing.unwrap_err(), Error::LEASE_NOT_FOUND);
    member.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_lease_has_its_own_keys_whatever_its_id() {
    let dir = tempfile::tempdir().unwrap();
    let member = Member::start(Config::embedded(dir.path())).await.unwrap();
    let ids = [1, i64::MAX, i64::MIN, -1];
    for id in ids {
        member.lease_grant(LeaseGrantRequest { ttl: 600, id }).await.unwrap();
        member.put(PutRequest { lease: id, ..put(&format!("of/{id}"), "x") }).await.unwrap();
    }
    let mut left: Vec<i64> = ids.into();
    while let Some(id) = left.pop() {
        let asked = LeaseTimeToLiveRequest { id, keys: true };
        assert_eq!(member.lease_time_to_live(asked).await.unwrap().keys, [format!("of/{id}")]);
        member.lease_revoke(LeaseRevokeRequest { id }).await.unwrap();
        assert_eq!(member.range(get(&format!("of/{id}"))).await.unwrap().count, 0, "{id}");
        for other in &left {
            assert_eq!(
                member.range(get(&format!("of/{other}"))).await.unwrap().count,
                1,
                "{other} after {id}"
            );
        }
    }
    member.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_has_stopped_gives_no_answer_rather_than_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let member = Member::start(Config::embedded(dir.path())).await.unwrap();
    member.put(put("a", "1")).await.unwrap();
    let watch = member.watch(prefix("a")).await.unwrap();
    member.shutdown().await;
    let is_absent = Compare {
        key: "a".into(),
        target: CompareTarget::Create as i32,
        target_union: Some(TargetUnion::CreateRevision(0)),
        ..Default::default()
    };
    let range = RangeRequest { serializable: true, ..get("a") };
    let read = RequestOp { request: Some(Request::RequestRange(range.clone())) };
    let txn = TxnRequest { compare: vec![is_absent], success: vec![read], ..Default::default() };
    assert_eq!(member.txn(txn).await.err(), Some(Error::STOPPED));
    assert_eq!(member.range(range).await.err(), Some(Error::STOPPED));
    assert_eq!(member.status().await.err(), Some(Error::STOPPED));
    assert_eq!(member.watch(prefix("a")).await.err(), Some(Error::STOPPED));
    let end = tokio::time::timeout(Duration::from_secs(60), watch.next()).await.expect("an end");
    assert!(end.is_none(), "{end:?}");
}
