//! A cluster of members in this process.

use std::{path::Path, sync::Arc, time::Duration};

use proto::etcdserverpb::{PutRequest, RangeRequest};
use raft_store::{Config, Member};
use tempfile::TempDir;

use crate::ports::free_port;

/// How often tests look, 50 ms apart, whether something has come about: a busy machine may take a minute.
pub const POLLS: usize = 1_200;

/// A URL nobody listens on now.
pub fn free_url() -> String {
    format!("http://127.0.0.1:{}", free_port())
}

/// What the member of that name is started with.
pub fn config(name: &str, dir: &Path, cluster: &[(String, String)]) -> Config {
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

/// Members of one cluster; those that are stopped are missing.
pub struct Cluster {
    /// Names and peer URLs.
    pub names: Vec<(String, String)>,
    /// Their data directories.
    pub dirs: Vec<TempDir>,
    /// The running ones.
    pub members: Vec<Option<Arc<Member>>>,
}

impl Cluster {
    /// Starts all and waits for a leader.
    pub async fn start(size: usize) -> Self {
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

    /// Starts one.
    pub async fn start_member(&mut self, number: usize) {
        let config = config(&self.names[number].0, self.dirs[number].path(), &self.names);
        self.members[number] = Some(Member::start(config).await.unwrap());
    }

    /// Stops one.
    pub async fn stop_member(&mut self, number: usize) {
        self.members[number].take().unwrap().shutdown().await;
    }

    /// Those that run.
    pub fn running(&self) -> Vec<Arc<Member>> {
        self.members.iter().flatten().cloned().collect()
    }

    /// Where the leader is, once all that run agree.
    pub async fn leader(&self) -> usize {
        for _ in 0..POLLS {
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

    /// Stops all.
    pub async fn stop(self) {
        for member in self.running() {
            member.shutdown().await;
        }
    }
}

/// A put.
pub fn put(key: String, value: &str) -> PutRequest {
    PutRequest { key: key.into(), value: value.to_owned().into(), ..Default::default() }
}

/// How many keys a member sees.
pub async fn count(member: &Member, serializable: bool) -> i64 {
    let all = RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        count_only: true,
        serializable,
        ..Default::default()
    };
    member.range(all).await.unwrap().count
}
