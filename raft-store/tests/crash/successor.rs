//! A leader has died, and there is no other yet: what clients ask of a member that still knows the dead one waits for the
//! next. Nothing of it has been sent anywhere, so there is nothing to be unsure of.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use proto::etcdserverpb::{
    LeaseGrantRequest, LeaseTimeToLiveRequest, MemberAddRequest, PutRequest, cluster_client::ClusterClient,
    kv_client::KvClient, lease_client::LeaseClient,
};
use tonic::Status;

use crate::{members::Members, ports::free_port, read};

const LEASE: i64 = 7;
/// Until connections are known to be broken; a member takes its leader for alive for two seconds.
const BROKEN: Duration = Duration::from_millis(300);
/// How long requests wait while nobody can lead.
const LEADERLESS: Duration = Duration::from_millis(500);
/// Members try for at least so long on behalf of a client, and an election on a busy machine may take longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What came of a request, and how long it took.
async fn timed<T>(request: impl Future<Output = Result<T, Status>>) -> (Result<(), Status>, Duration) {
    let started = Instant::now();
    let result = request.await.map(drop);
    (result, started.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_between_two_leaders_waits_for_the_second() {
    let dir = tempfile::tempdir().unwrap();
    let mut members = Members::new(dir.path(), 3);
    (0..3).for_each(|member| members.start(member));
    let leader = members.leader().await;
    let (asked, other) = ((leader + 1) % 3, (leader + 2) % 3);
    read(&mut members.clients()[asked]).await;
    let channel = members.channel(asked);
    let mut leases = LeaseClient::new(channel.clone());
    leases.lease_grant(LeaseGrantRequest { ttl: 600, id: LEASE }).await.expect("granted");

    members.signal(other, Signal::SIGSTOP);
    members.kill(leader);
    tokio::time::sleep(BROKEN).await;
    let (mut kv, mut cluster) = (KvClient::new(channel.clone()), ClusterClient::new(channel));
    let put = PutRequest { key: "a".into(), value: "1".into(), ..Default::default() };
    let peer_ur_ls = vec![format!("http://127.0.0.1:{}", free_port())];
    let add = MemberAddRequest { peer_ur_ls, is_learner: true };
    let left = LeaseTimeToLiveRequest { id: LEASE, keys: false };
    let resume = async {
        tokio::time::sleep(LEADERLESS).await;
        members.signal(other, Signal::SIGCONT);
    };
    let (put, add, left, ()) = tokio::join!(
        timed(kv.put(put)),
        timed(cluster.member_add(add)),
        timed(leases.lease_time_to_live(left)),
        resume
    );
    for (what, (result, took)) in [("put", put), ("member add", add), ("lease timetolive", left)] {
        assert!(result.is_ok() || took >= PATIENCE, "{what} after {took:?}: {result:?}");
    }
}
