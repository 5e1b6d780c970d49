//! A leader that dies between the two steps of a change of the membership.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use openraft::{EntryPayload, Membership, async_runtime::WatchReceiver};

use super::Member;
use crate::{
    config::Config,
    raft::types::{MemberId, MemberNode},
};

#[path = "../../tests/common/ports.rs"]
mod ports;

const MEMBERS: usize = 5;
/// Polls, 50 ms apart: a busy machine may take a minute.
const POLLS: usize = 1_200;

async fn start(dirs: &[tempfile::TempDir]) -> Vec<Arc<Member>> {
    let url = |_| format!("http://127.0.0.1:{}", ports::free_port());
    let cluster: Vec<_> = (0..dirs.len()).map(|at| (format!("m{at}"), url(at))).collect();
    let starting = cluster.iter().zip(dirs).map(|((name, url), dir)| {
        Member::start(Config {
            name: name.clone(),
            listen_peer_urls: vec![url.clone()],
            initial_advertise_peer_urls: vec![url.clone()],
            initial_cluster: cluster.clone(),
            ..Config::embedded(dir.path())
        })
    });
    futures::future::try_join_all(starting).await.unwrap()
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..POLLS {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_finishes_what_the_one_before_began() {
    let dirs: Vec<_> = (0..MEMBERS).map(|_| tempfile::tempdir().unwrap()).collect();
    let mut members = start(&dirs).await;
    let leads = |members: &[Arc<Member>]| members.iter().position(|member| member.is_leader());
    eventually("a leader", || leads(&members).is_some()).await;
    let leader = members.remove(leads(&members).unwrap());
    let leaving = members.pop().unwrap();

    leader.read_barrier().await.unwrap();
    // What it does beside consensus ends first, so that nothing is finished by itself. Then it takes the first step.
    leader.stop.cancel();
    let nodes: BTreeMap<MemberId, MemberNode> =
        leader.nodes().into_iter().map(|(id, node, _)| (id, node)).collect();
    let voters: BTreeSet<MemberId> = nodes.keys().copied().collect();
    let staying: BTreeSet<MemberId> = voters.iter().copied().filter(|id| *id != leaving.id()).collect();
    let joint = Membership::new(vec![voters, staying.clone()], nodes).unwrap();
    leader.raft.append_membership(joint, EntryPayload::Blank, []).await.unwrap();
    leader.raft.shutdown().await.unwrap();

    let is_finished = |member: &Member| {
        let metrics = member.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = &metrics.membership_config;
        *membership.get_joint_config() == [staying.clone()] && membership.get_node(&leaving.id()).is_none()
    };
    eventually("the members that stay vote alone", || members.iter().all(|it| is_finished(it))).await;
    eventually("the member that leaves knows", || leaving.was_removed()).await;
    for member in members.into_iter().chain([leader, leaving]) {
        member.shutdown().await;
    }
}
