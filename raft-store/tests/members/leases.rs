//! What members tell each other of leases.

use proto::{
    etcdserverpb::LeaseGrantRequest,
    raftpb::{LeaseRemainingRequest, peer_client::PeerClient},
};
use tonic::{Request, transport::Endpoint};

use crate::harness::Cluster;

const LEASE: i64 = 5;
const TTL_SECS: i64 = 1_000;

/// What a member answers to another that takes it for the leader.
async fn remaining(url: &str, cluster_id: u64) -> Result<i64, String> {
    let channel = Endpoint::from_shared(url.to_owned()).unwrap().connect().await.unwrap();
    let mut request = Request::new(LeaseRemainingRequest { id: LEASE });
    request.metadata_mut().insert("quarterdeck-cluster", cluster_id.into());
    let answer = PeerClient::new(channel).lease_remaining(request).await;
    answer.map(|answer| answer.into_inner().ttl).map_err(|status| status.message().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_leads_says_what_is_left_of_a_lease() {
    let cluster = Cluster::start(3).await;
    let members = cluster.running();
    members[0].lease_grant(LeaseGrantRequest { ttl: TTL_SECS, id: LEASE }).await.unwrap();
    loop {
        let leader = cluster.leader().await;
        let mut answers = Vec::new();
        for (_, url) in &cluster.names {
            answers.push(remaining(url, members[0].cluster_id()).await);
        }
        // On a busy machine somebody else may lead by now.
        if cluster.leader().await != leader {
            continue;
        }
        for (number, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(ttl) => assert!(number == leader && ttl > TTL_SECS / 2, "m{number} says {ttl}"),
                Err(text) => {
                    assert!(number != leader && text == "etcdserver: not leader", "m{number}: {text}");
                }
            }
        }
        break;
    }
    drop(members);
    cluster.stop().await;
}
