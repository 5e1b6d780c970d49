//! A leader whose log has lost its synced end is told so; where that cannot be known, it does not lead.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use proto::etcdserverpb::{
    HashKvRequest, PutRequest, RangeRequest, kv_client::KvClient, maintenance_client::MaintenanceClient,
};
use tonic::transport::Channel;

use crate::{members::Members, read};

const KEYS: usize = 60;
/// More than a few entries.
const LOST_BYTES: u64 = 3_000;
/// How long a member may take to see that it cannot start.
const END_LIMIT: Duration = Duration::from_secs(60);

/// Cuts the end off the newest file of a member's log; gives the bytes that are left.
fn tear(data_dir: &Path) -> u64 {
    let files = fs::read_dir(data_dir.join("member/log")).unwrap().map(|entry| entry.unwrap().path());
    let mut logs: Vec<_> = files.filter(|path| path.extension().is_some_and(|it| it == "log")).collect();
    logs.sort();
    let newest = fs::OpenOptions::new().write(true).open(logs.last().expect("a log file")).unwrap();
    let left = newest.metadata().unwrap().len().saturating_sub(LOST_BYTES);
    newest.set_len(left).unwrap();
    left
}

async fn put(client: &mut KvClient<Channel>, key: String) {
    let request = PutRequest { key: key.into(), value: "value".repeat(10).into(), ..Default::default() };
    client.put(request).await.expect("acknowledged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_with_a_torn_log_does_not_lead_by_what_it_remembers() {
    let dir = tempfile::tempdir().unwrap();
    let mut members = Members::new(dir.path(), 3);
    (0..3).for_each(|member| members.start(member));
    let leader = members.leader().await;
    let mut client = members.clients()[leader].clone();
    for number in 0..KEYS {
        put(&mut client, format!("before/{number:03}")).await;
    }
    // What the leader is about to lose must not be on one disk alone: the other two could then elect one without it.
    for client in &mut members.clients() {
        read(client).await;
    }
    (0..3).for_each(|member| members.kill(member));
    assert!(tear(&members.data_dir(leader)) > 0, "some of the log is left");

    members.start(leader);
    let started = Instant::now();
    let said = loop {
        if let Some(said) = members.ended(leader) {
            break said;
        }
        assert!(started.elapsed() < END_LIMIT, "it does not start");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(said.contains("the end of the log is lost"), "{said}");

    // Where nothing notes how far the log went.
    fs::remove_file(members.data_dir(leader).join("member/log/REACH")).unwrap();
    members.start(leader);
    let mut answered = 0;
    while answered < 10 {
        if let Some(status) = members.status(leader).await {
            assert_eq!(status.leader, 0, "it leads nobody: the others hold entries it has lost");
            answered += 1;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    (0..3).filter(|member| *member != leader).for_each(|member| members.start(member));
    let mut clients = members.clients();
    for (at, client) in clients.iter_mut().enumerate() {
        read(client).await;
        put(client, format!("after/{at}")).await;
    }
    let revision = read(&mut clients[0]).await;
    let mut hashes = Vec::new();
    for (at, client) in clients.iter_mut().enumerate() {
        let all = RangeRequest {
            key: "before/".into(),
            range_end: "before0".into(),
            count_only: true,
            ..RangeRequest::default()
        };
        let count = client.range(all).await.unwrap().into_inner().count;
        assert_eq!(count, KEYS as i64, "member {at} has every acknowledged write");
        let mut maintenance = MaintenanceClient::new(members.channel(at));
        hashes.push(maintenance.hash_kv(HashKvRequest { revision }).await.unwrap().into_inner().hash);
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
}
