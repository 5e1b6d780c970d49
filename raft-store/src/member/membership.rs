//! The rules of membership changes, apart from carrying them out.
//!
//! A new voter first follows as a learner and counts only once it has caught up, so that adding a member that
//! never starts costs nothing; a change that would leave the cluster without a reachable majority is refused.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::{
    error::Error,
    raft::types::{MemberId, MemberNode},
};

/// What is known of one member when a change is asked for.
#[derive(Clone, Debug)]
pub struct MemberView {
    /// How it is described.
    pub node: MemberNode,
    /// It does not vote.
    pub is_learner: bool,
    /// The leader has heard from it lately.
    pub is_reachable: bool,
    /// It has all of the leader's log but a little.
    pub is_caught_up: bool,
}

/// The cluster as the leader sees it.
pub type Members = BTreeMap<MemberId, MemberView>;

/// A member's id: a hash of what tells it from others, so that every founder computes the same.
pub fn member_id(peer_urls: &[String], token: &str, salt: &str) -> MemberId {
    let mut urls = peer_urls.to_vec();
    urls.sort();
    let mut hasher = Sha256::new();
    for url in urls {
        hasher.update(url.as_bytes());
        hasher.update([0]);
    }
    hasher.update(token.as_bytes());
    hasher.update([0]);
    hasher.update(salt.as_bytes());
    first_u64(&hasher.finalize())
}

/// The cluster's id: a hash of its founders' ids.
pub fn cluster_id(founders: &[MemberId]) -> u64 {
    let mut founders = founders.to_vec();
    founders.sort_unstable();
    let mut hasher = Sha256::new();
    founders.iter().for_each(|id| hasher.update(id.to_be_bytes()));
    first_u64(&hasher.finalize())
}

fn first_u64(hash: &[u8]) -> u64 {
    // Zero means "none" in etcd's messages.
    hash.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte)).max(1)
}

/// Peer URLs are `http` or `https` with a host and a port, and there is at least one.
pub fn check_urls(urls: &[String]) -> Result<(), Error> {
    let good = |url: &String| {
        let uri: Result<http::Uri, _> = url.parse();
        uri.is_ok_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() && uri.port().is_some()
        })
    };
    if urls.is_empty() || !urls.iter().all(good) { Err(Error::MEMBER_BAD_URLS) } else { Ok(()) }
}

/// Whether a member with these peer URLs may be added.
pub fn check_add(
    members: &Members,
    id: MemberId,
    peer_urls: &[String],
    learners_max: Option<usize>,
) -> Result<(), Error> {
    check_urls(peer_urls)?;
    if members.contains_key(&id) {
        return Err(Error::MEMBER_EXIST);
    }
    check_urls_free(members, None, peer_urls)?;
    if let Some(max) = learners_max {
        let learners =
            members.values().filter(|member| member.is_learner && !member.node.becomes_voter).count();
        if learners >= max {
            return Err(Error::TOO_MANY_LEARNERS);
        }
    }
    Ok(())
}

/// No other member may have one of these URLs.
pub fn check_urls_free(
    members: &Members,
    except: Option<MemberId>,
    peer_urls: &[String],
) -> Result<(), Error> {
    let others = members.iter().filter(|(id, _)| Some(**id) != except);
    let taken = others.flat_map(|(_, member)| &member.node.peer_urls).any(|url| peer_urls.contains(url));
    if taken { Err(Error::PEER_URL_EXIST) } else { Ok(()) }
}

/// Whether a member may be removed: a majority of the voters that stay must be reachable.
pub fn check_remove(members: &Members, id: MemberId, strict: bool) -> Result<(), Error> {
    let member = members.get(&id).ok_or(Error::MEMBER_NOT_FOUND)?;
    if member.is_learner {
        return Ok(());
    }
    let staying = members.iter().filter(|(other, member)| **other != id && !member.is_learner);
    let (voters, reachable) = staying.fold((0, 0), |(voters, reachable), (_, member)| {
        (voters + 1, reachable + usize::from(member.is_reachable))
    });
    if voters == 0 || (strict && reachable < voters / 2 + 1) {
        return Err(Error::MEMBER_NOT_ENOUGH_STARTED);
    }
    Ok(())
}

/// Whether a learner may become a voter.
pub fn check_promote(members: &Members, id: MemberId) -> Result<(), Error> {
    let member = members.get(&id).ok_or(Error::MEMBER_NOT_FOUND)?;
    if !member.is_learner {
        return Err(Error::MEMBER_NOT_LEARNER);
    }
    if !member.is_caught_up || !member.is_reachable {
        return Err(Error::LEARNER_NOT_READY);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(list: &[(u64, bool, bool)]) -> Members {
        let member = |(id, is_learner, is_reachable): &(u64, bool, bool)| {
            let node = MemberNode { peer_urls: vec![format!("http://m{id}:2380")], ..Default::default() };
            (
                *id,
                MemberView {
                    node,
                    is_learner: *is_learner,
                    is_reachable: *is_reachable,
                    is_caught_up: *is_reachable,
                },
            )
        };
        list.iter().map(member).collect()
    }

    #[test]
    fn a_removal_never_loses_quorum() {
        let cases = [
            (&[(1, false, true), (2, false, true), (3, false, true)][..], 3, Ok(())),
            (&[(1, false, true), (2, false, true), (3, false, false)], 3, Ok(())),
            (
                &[(1, false, true), (2, false, true), (3, false, false)],
                2,
                Err(Error::MEMBER_NOT_ENOUGH_STARTED),
            ),
            (&[(1, false, true)], 1, Err(Error::MEMBER_NOT_ENOUGH_STARTED)),
            (&[(1, false, true), (2, true, false)], 2, Ok(())),
            (&[(1, false, true)], 9, Err(Error::MEMBER_NOT_FOUND)),
        ];
        for (list, id, expected) in cases {
            assert_eq!(check_remove(&members(list), id, true), expected, "{list:?} without {id}");
        }
    }

    #[test]
    fn urls_must_be_urls_and_free() {
        let known = members(&[(1, false, true)]);
        let cases = [
            (vec!["http://m2:2380"], Ok(())),
            (vec!["http://m1:2380"], Err(Error::PEER_URL_EXIST)),
            (vec!["m2:2380"], Err(Error::MEMBER_BAD_URLS)),
            (vec!["http://m2"], Err(Error::MEMBER_BAD_URLS)),
            (vec![], Err(Error::MEMBER_BAD_URLS)),
        ];
        for (urls, expected) in cases {
            let urls: Vec<String> = urls.into_iter().map(String::from).collect();
            assert_eq!(check_add(&known, 2, &urls, None), expected, "{urls:?}");
        }
    }
}
