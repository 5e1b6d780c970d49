//! Three members in this process, talking over real sockets: leaders come and go, members lag and catch up.

use std::{net::TcpListener, path::Path, sync::Arc, time::Duration};

use proto::etcdserverpb::{
    LeaseGrantRequest, LeaseTimeToLiveRequest, MemberAddRequest, MemberListRequest, MemberRemoveRequest,
    PutRequest, RangeRequest,
};
use raft_store::{ClusterState, Config, Member};
use tempfile::TempDir;

/// A port nobody uses now.
fn free_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn config(name: &str, dir: &Path, cluster: &[(String, String)]) -> Config {
    let own = &cluster.iter().find(|(known, _)| known == name).unwrap().1;
    Config {
        name: name.into(),
        listen_peer_urls: vec![own.clone()],
        initial_advertise_peer_urls: vec![own.clone()],
        initial_cluster: cluster.to_vec(),
        heartbeat_interval: Duration::from_millis(100),
        election_timeout: Duration::from_millis(1000),
        snapshot_count: 200,
        snapshot_catchup_entries: 50,
        ..Config::embedded(dir)
    }
}

struct Cluster {
    names: Vec<(String, String)>,
    dirs: Vec<TempDir>,
    members: Vec<Option<Arc<Member>>>,
}

impl Cluster {
    async fn start(size: usize) -> Self {
        let names: Vec<(String, String)> = (0..size).map(|n| (format!("m{n}"), free_url())).collect();
        let mut cluster = Self {
            dirs: (0..size).map(|_| tempfile::tempdir().unwrap()).collect(),
            members: vec![None; size],
            names,
        };
        for number in 0..size {
            cluster.start_member(number).await;
        }
        cluster.leader().await;
        cluster
    }

    async fn start_member(&mut self, number: usize) {
        let config = config(&self.names[number].0, self.dirs[number].path(), &self.names);
        self.members[number] = Some(Member::start(config).await.unwrap());
    }

    async fn stop_member(&mut self, number: usize) {
        self.members[number].take().unwrap().shutdown().await;
    }

    fn running(&self) -> Vec<Arc<Member>> {
        self.members.iter().flatten().cloned().collect()
    }

    /// Where the leader is, once all that run agree.
    async fn leader(&self) -> usize {
        for _ in 0..200 {
            let known: Vec<Option<u64>> = self.running().iter().map(|member| member.leader()).collect();
            if let Some(Some(first)) = known.first()
                && known.iter().all(|leader| *leader == Some(*first))
            {
                let at =
                    self.members.iter().position(|member| member.as_ref().is_some_and(|m| m.id() == *first));
                if let Some(at) = at {
                    return at;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no leader")
    }

    async fn stop(self) {
        for member in self.running() {
            member.shutdown().await;
        }
    }
}

fn put(key: String, value: &str) -> PutRequest {
    PutRequest { key: key.into(), value: value.to_owned().into(), ..Default::default() }
}

async fn count(member: &Member, serializable: bool) -> i64 {
    let all = RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        count_only: true,
        serializable,
        ..Default::default()
    };
    member.range(all).await.unwrap().count
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_hands_over_and_no_write_is_lost() {
    let mut cluster = Cluster::start(3).await;
    let lease = cluster.running()[0].lease_grant(LeaseGrantRequest { ttl: 100, id: 5 }).await.unwrap();
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
    assert!(left.ttl >= 95, "a lease does not shrink with new leaders: {}", left.ttl);
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
    for _ in 0..200 {
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
    for _ in 0..200 {
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
