//! Who a member is that has no record of it yet: a founder computes it, anybody else asks the members.
//!
//! Neither may take the place of a member that has been there: what that one has voted for and acknowledged is not known
//! here any more, and whoever lacks it could be elected with this vote. Peers tell: they know the client URLs of every
//! member that has ever run.

use std::time::Duration;

use proto::raftpb::{HelloRequest, HelloResponse};
use tokio::time::Instant;

use super::{
    identity::{self, Identity},
    layout::Layout,
    start::StartError,
};
use crate::{config::Config, error::Error, raft::peers::Peers, tls::ClientTls};

/// How long a newcomer asks the members it was told of who it is.
const JOIN_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause between two rounds of asking.
const JOIN_RETRY: Duration = Duration::from_millis(500);

/// The recorded identity, or a new one, which is recorded.
pub async fn establish_identity(
    config: &Config,
    layout: &Layout,
    tls: Option<ClientTls>,
) -> Result<Identity, StartError> {
    let path = layout.identity_file();
    if let Some(identity) = Identity::load(&path)? {
        return Ok(identity);
    }
    let identity = if identity::is_founder(config) {
        let identity = Identity::of_founder(config).map_err(StartError::Config)?;
        check_is_new(config, identity, tls).await?;
        identity
    } else {
        ask_members(config, tls).await?
    };
    identity.store(&path)?;
    Ok(identity)
}

fn others(config: &Config) -> Vec<&String> {
    let own = &config.initial_advertise_peer_urls;
    let others = config.initial_cluster.iter();
    others.filter(|(name, url)| *name != config.name && !own.contains(url)).map(|(_, url)| url).collect()
}

async fn hello(peers: &Peers, url: &String, limit: Duration) -> Result<HelloResponse, String> {
    let asking = async {
        let mut client = peers.peer(std::slice::from_ref(url))?;
        Ok::<_, Error>(client.hello(HelloRequest { cluster_id: 0, from: 0 }).await?.into_inner())
    };
    match tokio::time::timeout(limit, asking).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

/// Refuses a founder that one of the others knows to have run. Who does not answer is not waited for: on a cluster's first
/// day most do not.
async fn check_is_new(config: &Config, identity: Identity, tls: Option<ClientTls>) -> Result<(), StartError> {
    let peers = Peers::new(0, tls, config);
    let asked = others(config).into_iter().map(|url| hello(&peers, url, config.election_timeout));
    let answers = futures::future::join_all(asked).await;
    let known = answers.into_iter().flatten().any(|answer| has_run(&answer, identity));
    if known { Err(StartError::Bootstrapped(identity.member_id)) } else { Ok(()) }
}

fn has_run(answer: &HelloResponse, identity: Identity) -> bool {
    let mut members = answer.members.iter();
    answer.cluster_id == identity.cluster_id
        && members.any(|member| member.id == identity.member_id && !member.client_ur_ls.is_empty())
}

/// A newcomer was added by its peer URLs; the members know under which id.
async fn ask_members(config: &Config, tls: Option<ClientTls>) -> Result<Identity, StartError> {
    let peers = Peers::new(0, tls, config);
    let others = others(config);
    let deadline = Instant::now() + JOIN_TIMEOUT;
    let mut last = "--initial-cluster names no other member".to_owned();
    while Instant::now() < deadline {
        for url in &others {
            let answer = hello(&peers, url, config.election_timeout).await;
            match answer.and_then(|answer| added(&answer, &config.initial_advertise_peer_urls)) {
                Ok(identity) => return Ok(identity),
                Err(reason) => last = format!("{url}: {reason}"),
            }
        }
        if others.is_empty() {
            break;
        }
        tokio::time::sleep(JOIN_RETRY).await;
    }
    Err(StartError::Join(last))
}

/// As whom a member with these peer URLs was added, says one of the others; it may not have heard of it yet, and know
/// another one that was there before.
fn added(answer: &HelloResponse, own: &[String]) -> Result<Identity, String> {
    let mut members = answer.members.iter();
    match members.find(|member| member.peer_ur_ls.iter().any(|url| own.contains(url))) {
        None => Err(format!("it knows no member with the peer URLs {own:?}; add it first")),
        Some(known) if !known.client_ur_ls.is_empty() => Err(format!(
            "the member {:x} with these peer URLs has run before; remove it and add it again",
            known.id
        )),
        Some(known) => Ok(Identity { cluster_id: answer.cluster_id, member_id: known.id }),
    }
}

#[cfg(test)]
mod tests {
    use proto::etcdserverpb::Member;

    use super::*;

    #[test]
    fn nobody_takes_the_place_of_one_that_has_run() {
        let own = ["http://m1:2380".to_owned()];
        let identity = Identity { cluster_id: 7, member_id: 1 };
        let cases = [
            (7, 1, "http://m1:2380", "", Ok(identity), false),
            (7, 1, "http://m1:2380", "http://m1:2379", Err("has run before"), true),
            (8, 1, "http://m1:2380", "http://m1:2379", Err("has run before"), false),
            (7, 2, "http://m1:2380", "http://m1:2379", Err("has run before"), false),
            (7, 2, "http://m2:2380", "http://m2:2379", Err("add it first"), false),
        ];
        for (cluster_id, id, peer_url, client_url, expected, refused) in cases {
            let client_ur_ls = (!client_url.is_empty()).then(|| client_url.to_owned()).into_iter().collect();
            let peer_ur_ls = vec![peer_url.to_owned()];
            let members = vec![Member { id, peer_ur_ls, client_ur_ls, ..Member::default() }];
            let answer = HelloResponse { cluster_id, members, ..HelloResponse::default() };
            match (added(&answer, &own), expected) {
                (Ok(found), Ok(identity)) => assert_eq!(found, identity),
                (Err(reason), Err(part)) => assert!(reason.contains(part), "{reason}"),
                (found, expected) => panic!("{found:?} instead of {expected:?}"),
            }
            assert_eq!(has_run(&answer, identity), refused, "member {id} of {cluster_id} at {client_url:?}");
        }
    }
}
