//! Leaders come and go, members lag and catch up, join and leave.

use std::time::Duration;

use proto::etcdserverpb::{
    LeaseGrantRequest, LeaseTimeToLiveRequest, MemberAddRequest, MemberListRequest, MemberRemoveRequest,
    SnapshotRequest, kv_client::KvClient, maintenance_client::MaintenanceClient,
};
use raft_store::{ClusterState, Config, Error, Member};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Cluster, POLLS, config, count, free_url, put};

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_hands_over_and_no_write_is_lost() {
    let mut cluster = Cluster::start(3).await;
    let lease = cluster.running()[0].lease_grant(LeaseGrantRequest { ttl: 1_000, id: 5 }).await.unwrap();
    for round in 0..3 {
        for (number, member) in cluster.running().into_iter().enumerate() {
            member.put(put(format!("{round}/{number}"), "x")).await.unwrap();
        }
        let leader = cluster.leader().await;
        cluster.stop_member(leader).await;
        let next = cluster.leader().await;
        assert_ne!(leader, next, "somebody else leads");
        for member in cluster.running() {
            assert_eq!(count(&member, false).await, (round + 1) * 3, "a linearizable read sees every write");
        }
        cluster.start_member(leader).await;
        cluster.leader().await;
    }
    let left = LeaseTimeToLiveRequest { id: lease.id, keys: false };
    let left = cluster.running()[0].lease_time_to_live(left).await.unwrap();
    assert!(left.ttl >= 900, "a lease does not shrink with new leaders: {}", left.ttl);
    let mut hashes = Vec::new();
    for member in cluster.running() {
        member.read_barrier().await.unwrap();
        hashes.push(member.hash_kv(0).await.unwrap().hash);
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lags_too_far_gets_a_snapshot() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let lagging = (leader + 1) % 3;
    cluster.stop_member(lagging).await;
    let leading = cluster.members[leader].clone().unwrap();
    // One entry a put, and more of them than the leader keeps.
    for number in 0..600 {
        leading.put(put(format!("{number:04}"), "value")).await.unwrap();
    }
    cluster.start_member(lagging).await;
    let behind = cluster.members[lagging].clone().unwrap();
    for _ in 0..POLLS {
        if count(&behind, true).await == 600 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(count(&behind, true).await, 600);
    leading.put(put("after".into(), "x")).await.unwrap();
    behind.read_barrier().await.unwrap();
    let (one, other) = (leading.hash_kv(0).await.unwrap(), behind.hash_kv(0).await.unwrap());
    assert_eq!((one.hash, one.hash_revision), (other.hash, other.hash_revision));
    drop((behind, leading));
    cluster.stop_member(lagging).await;
    cluster.start_member(lagging).await;
    assert_eq!(count(cluster.members[lagging].as_ref().unwrap(), false).await, 601);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go() {
    let mut cluster = Cluster::start(1).await;
    let first = cluster.members[0].clone().unwrap();
    first.put(put("before".into(), "x")).await.unwrap();
    let url = free_url();
    // A voter that never starts must not stop the only one there is.
    let never =
        first.member_add(MemberAddRequest { peer_ur_ls: vec![free_url()], is_learner: false }).await.unwrap();
    first.put(put("still".into(), "x")).await.unwrap();
    let added = never.member.unwrap();
    assert!(!added.is_learner, "the client sees what it asked for");
    first.member_remove(MemberRemoveRequest { id: added.id }).await.unwrap();
    first.member_add(MemberAddRequest { peer_ur_ls: vec![url.clone()], is_learner: false }).await.unwrap();
    cluster.names.push(("m1".into(), url));
    cluster.dirs.push(tempfile::tempdir().unwrap());
    let joining = Config {
        initial_cluster_state: ClusterState::Existing,
        ..config("m1", cluster.dirs[1].path(), &cluster.names)
    };
    cluster.members.push(Some(Member::start(joining).await.unwrap()));
    let second = cluster.members[1].clone().unwrap();
    for _ in 0..POLLS {
        let list = first.member_list(MemberListRequest { linearizable: true }).await.unwrap();
        if list.members.iter().all(|member| !member.name.is_empty()) && second.leader().is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    second.put(put("after".into(), "x")).await.unwrap();
    assert_eq!(count(&second, false).await, 3);
    let list = second.member_list(MemberListRequest { linearizable: true }).await.unwrap();
    let names: Vec<&str> = list.members.iter().map(|member| member.name.as_str()).collect();
    assert!(names.contains(&"m0") && names.contains(&"m1"), "{names:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_and_seven_members_bear_the_loss_of_a_minority() {
    for size in [5, 7] {
        let mut cluster = Cluster::start(size).await;
        let mut written = 0;
        for _ in 0..size / 2 {
            let leader = cluster.leader().await;
            cluster.stop_member(leader).await;
            cluster.leader().await;
            for member in cluster.running() {
                member.put(put(format!("{written}"), "x")).await.unwrap();
                written += 1;
            }
        }
        for member in cluster.running() {
            assert_eq!(count(&member, false).await, written);
        }
        let stopped: Vec<usize> = (0..size).filter(|at| cluster.members[*at].is_none()).collect();
        for member in stopped {
            cluster.start_member(member).await;
        }
        cluster.leader().await;
        for member in cluster.running() {
            assert_eq!(count(&member, false).await, written, "they catch up");
        }
        cluster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_hears_of_it_running_or_away() {
    let mut cluster = Cluster::start(4).await;
    for away in [false, true] {
        let leader = cluster.leader().await;
        let leading = cluster.members[leader].clone().unwrap();
        let victim = (0..4).find(|at| *at != leader && cluster.members[*at].is_some()).unwrap();
        let removed = cluster.members[victim].clone().unwrap();
        let id = removed.id();
        if away {
            cluster.stop_member(victim).await;
        }
        // Refused while the leader, or a new one, has not heard of the others lately.
        let mut outcome = leading.member_remove(MemberRemoveRequest { id }).await;
        for _ in 0..POLLS {
            if outcome.as_ref().err() != Some(&Error::MEMBER_NOT_ENOUGH_STARTED) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            outcome = leading.member_remove(MemberRemoveRequest { id }).await;
        }
        outcome.unwrap();
        let removed = if away {
            drop(removed);
            cluster.start_member(victim).await;
            cluster.members[victim].clone().unwrap()
        } else {
            removed
        };
        let told = tokio::time::timeout(Duration::from_secs(60), removed.failed()).await;
        assert!(removed.was_removed(), "away: {away}, {told:?}");
        leading.put(put(format!("after/{away}"), "x")).await.unwrap();
        drop(removed);
        cluster.stop_member(victim).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_made_their_own_certificates_find_each_other() {
    let names: Vec<(String, String)> =
        (0..3).map(|n| (format!("m{n}"), free_url().replace("http://", "https://"))).collect();
    let mut members = Vec::new();
    let mut dirs = Vec::new();
    for (name, _) in &names {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(name, dir.path(), &names);
        config.peer_tls.auto_tls = true;
        config.peer_tls.auto_tls_dir = Some(dir.path().join("made"));
        members.push(Member::start(config).await.unwrap());
        dirs.push(dir);
    }
    for (number, member) in members.iter().enumerate() {
        member.put(put(number.to_string(), "x")).await.unwrap();
    }
    for member in &members {
        assert_eq!(count(member, false).await, 3);
    }
    for member in members {
        member.shutdown().await;
    }
}

/// What a JSON request to put a key is answered.
async fn put_over_json(address: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let body = r#"{"key": "Zm9v"}"#;
    let length = body.len();
    let request = format!(
        "POST /v3/kv/put HTTP/1.1\r\nhost: learner\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_takes_no_writes_however_they_come_and_gives_its_snapshot() {
    let mut cluster = Cluster::start(1).await;
    let first = cluster.members[0].clone().unwrap();
    let (peer_url, client_url) = (free_url(), free_url());
    first
        .member_add(MemberAddRequest { peer_ur_ls: vec![peer_url.clone()], is_learner: true })
        .await
        .unwrap();
    cluster.names.push(("m1".into(), peer_url));
    cluster.dirs.push(tempfile::tempdir().unwrap());
    let joining = Config {
        initial_cluster_state: ClusterState::Existing,
        listen_client_urls: vec![client_url.clone()],
        advertise_client_urls: vec![client_url.clone()],
        ..config("m1", cluster.dirs[1].path(), &cluster.names)
    };
    cluster.members.push(Some(Member::start(joining).await.unwrap()));
    const REFUSED: &str = "etcdserver: rpc not supported for learner";
    let mut kv = KvClient::connect(client_url.clone()).await.unwrap();
    let mut refused = String::new();
    for _ in 0..POLLS {
        refused =
            kv.put(put("a".into(), "x")).await.err().map_or_else(String::new, |s| s.message().to_owned());
        if refused == REFUSED {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(refused, REFUSED);
    let answer = put_over_json(client_url.trim_start_matches("http://")).await;
    assert!(answer.contains(REFUSED), "{answer}");
    let mut maintenance = MaintenanceClient::connect(client_url).await.unwrap();
    let mut pieces = maintenance.snapshot(SnapshotRequest {}).await.unwrap().into_inner();
    assert!(pieces.message().await.unwrap().is_some());
    drop((kv, maintenance, pieces, first));
    cluster.stop().await;
}
