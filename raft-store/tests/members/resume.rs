//! A snapshot on its way to a member that lags, over a link that breaks.

use std::{fs, path::Path, time::Duration};

use raft_store::{Config, Member};
use rand::RngCore;

use crate::{
    harness::{Cluster, POLLS, config, count, free_url, put},
    proxy::Relay,
};

const KEYS: i64 = 600;
const VALUE_BYTES: usize = 16 << 10;
/// Where the link breaks: behind some blocks of the snapshot, before its end.
const BREAK_AT: u64 = 6 << 20;
/// What may pass twice: the block that was on its way, and everything that is no snapshot.
const AGAIN_MAX: u64 = 3 << 20;

fn size_of(folder: &Path) -> u64 {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_breaks_off_goes_on_where_it_stopped() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let lagging = (leader + 1) % 3;
    let leading = cluster.members[leader].clone().unwrap();
    let id = cluster.members[lagging].as_ref().unwrap().id();
    cluster.stop_member(lagging).await;
    fs::remove_dir_all(cluster.dirs[lagging].path().join("member")).unwrap();

    // It comes back as a new one behind the relay, and without any of the log.
    let inside = free_url();
    let address = inside.trim_start_matches("http://").parse().unwrap();
    let relay = Relay::start(address, BREAK_AT).await;
    leading.member_remove(proto::etcdserverpb::MemberRemoveRequest { id }).await.unwrap();
    let mut rng = rand::rng();
    for number in 0..KEYS {
        let mut value = vec![0; VALUE_BYTES];
        rng.fill_bytes(&mut value);
        let request =
            proto::etcdserverpb::PutRequest { value: value.into(), ..put(format!("{number:04}"), "") };
        leading.put(request).await.unwrap();
    }
    let peer_ur_ls = vec![relay.url.clone()];
    let add = proto::etcdserverpb::MemberAddRequest { peer_ur_ls, is_learner: false };
    leading.member_add(add).await.unwrap();
    cluster.names[lagging].1 = relay.url.clone();
    let name = cluster.names[lagging].0.clone();
    let joining = Config {
        listen_peer_urls: vec![inside],
        initial_cluster_state: raft_store::ClusterState::Existing,
        ..config(&name, cluster.dirs[lagging].path(), &cluster.names)
    };
    let behind = Member::start(joining).await.unwrap();
    for _ in 0..POLLS {
        if count(&behind, true).await == KEYS {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(count(&behind, true).await, KEYS, "it has caught up");
    let passed = relay.passed();
    let member = cluster.dirs[lagging].path().join("member");
    let current = fs::read_to_string(member.join("CURRENT")).unwrap();
    let size = size_of(&member.join(current.trim()));
    assert!(size > BREAK_AT, "the link broke on the way: {size}");
    assert!(passed < size + AGAIN_MAX, "what had arrived did not come again: {passed} for {size}");
    cluster.members[lagging] = Some(behind);
    drop(leading);
    cluster.stop().await;
}
