//! A leader that slept through its own end wakes up and finds, by its clock, that leases have run out.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseTimeToLiveRequest, lease_client::LeaseClient,
};
use tonic::transport::Channel;

use crate::{members::Members, read};

const TTL_SECS: i64 = 8;
const LEASE: i64 = 7;
/// Longer than the lease.
const ASLEEP: Duration = Duration::from_secs(9);
/// How long a busy machine may take to elect a successor and to answer.
const LIMIT: Duration = Duration::from_secs(60);
/// How long the leader of old may take to do harm once it is awake.
const AWAKE: Duration = Duration::from_secs(3);
const RENEWAL_INTERVAL: Duration = Duration::from_millis(300);

/// Renews the lease for so long; an answer that it is gone fails, no answer does not.
async fn renew(client: &mut LeaseClient<Channel>, duration: Duration) {
    let end = Instant::now() + duration;
    while Instant::now() < end {
        let requests = futures::stream::iter([LeaseKeepAliveRequest { id: LEASE }]);
        if let Ok(answers) = client.lease_keep_alive(requests).await
            && let Ok(Some(answer)) = answers.into_inner().message().await
        {
            assert!(answer.ttl > 0, "a lease that is renewed in time does not end: {answer:?}");
        }
        tokio::time::sleep(RENEWAL_INTERVAL).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposed_leader_ends_no_lease_that_its_successor_renews() {
    let dir = tempfile::tempdir().unwrap();
    let mut members = Members::new(dir.path(), 3);
    (0..3).for_each(|member| members.start(member));
    let leader = members.leader().await;
    let other = (leader + 1) % 3;
    read(&mut members.clients()[other]).await;
    let mut client = LeaseClient::new(members.channel(other));
    client.lease_grant(LeaseGrantRequest { ttl: TTL_SECS, id: LEASE }).await.expect("granted");

    members.signal(leader, Signal::SIGSTOP);
    renew(&mut client, ASLEEP).await;
    // Without a successor the leader of old is none, and may end what nobody could renew.
    let end = Instant::now() + LIMIT;
    while !has_successor(&members, other, leader).await {
        assert!(Instant::now() < end, "nobody else is elected");
        renew(&mut client, RENEWAL_INTERVAL).await;
    }
    members.signal(leader, Signal::SIGCONT);
    renew(&mut client, AWAKE).await;

    let end = Instant::now() + LIMIT;
    let left = loop {
        let asked = LeaseTimeToLiveRequest { id: LEASE, keys: false };
        match client.lease_time_to_live(asked).await {
            Ok(left) => break left.into_inner(),
            Err(status) => assert!(Instant::now() < end, "{status}"),
        }
        renew(&mut client, RENEWAL_INTERVAL).await;
    };
    assert!(left.ttl > 0, "the lease is alive: {left:?}");
}

/// Whether a member follows, or is, another leader than the one that sleeps.
async fn has_successor(members: &Members, asked: usize, asleep: usize) -> bool {
    let others = (0..3).filter(|member| *member != asleep);
    let followed = members.status(asked).await.map_or(0, |status| status.leader);
    for member in others {
        let status = members.status(member).await;
        if status.and_then(|status| status.header).is_some_and(|header| header.member_id == followed) {
            return true;
        }
    }
    false
}
