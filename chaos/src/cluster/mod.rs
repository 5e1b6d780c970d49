//! Real members under test: started, killed, paused, cut off, replaced, and asked who leads.

pub mod ground;
mod process;

use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use parking_lot::Mutex;

use crate::faults::FaultKind;
pub use ground::Ground;
use process::Process;

/// What can go wrong with the harness itself; a store that misbehaves is never one of these.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: std::io::Error },
    #[error("`{command}` failed: {stderr}")]
    Command { command: String, stderr: String },
    #[error("the members did not answer in {0:?}")]
    NotReady(Duration),
    #[error("etcd client: {0}")]
    Client(#[from] etcd_client::Error),
    #[error("this cluster cannot have that fault: {0}")]
    Unsupported(String),
}

pub type Result<T> = std::result::Result<T, Error>;

/// A single question to a member.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

/// How members are started.
#[derive(Clone, Debug)]
pub struct Program {
    /// The binary and, for ours, the word `store`.
    pub command: Vec<String>,
    /// Flags besides those of the cluster's shape.
    pub flags: Vec<String>,
}

/// The members and what is known of them.
pub struct Cluster {
    ground: Ground,
    program: Program,
    root: PathBuf,
    members: Vec<Mutex<Member>>,
}

struct Member {
    name: String,
    data_dir: PathBuf,
    /// Counts replacements: a replaced member is a new one.
    generation: u32,
    initial_cluster: String,
    state: &'static str,
    process: Option<Process>,
}

impl Cluster {
    /// Starts `members` members in folders below `root` and waits until all answer.
    pub async fn start_all(ground: Ground, program: Program, root: &Path, members: usize) -> Result<Self> {
        let initial: Vec<String> = (0..members).map(|at| format!("m{at}={}", ground.peer_url(at))).collect();
        let members = (0..members)
            .map(|at| {
                Mutex::new(Member {
                    name: format!("m{at}"),
                    data_dir: root.join(format!("m{at}")),
                    generation: 0,
                    initial_cluster: initial.join(","),
                    state: "new",
                    process: None,
                })
            })
            .collect();
        let cluster = Cluster { ground, program, root: root.to_owned(), members };
        for at in 0..cluster.len() {
            cluster.start(at).await?;
        }
        cluster.wait_ready().await?;
        Ok(cluster)
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn name(&self, member: usize) -> String {
        self.members[member].lock().name.clone()
    }

    /// The member's process, while it runs.
    pub fn pid(&self, member: usize) -> Option<u32> {
        self.members[member].lock().process.as_ref().map(Process::id)
    }

    pub fn data_dir(&self, member: usize) -> PathBuf {
        self.members[member].lock().data_dir.clone()
    }

    /// Whether this cluster can have the fault.
    pub fn supports(&self, fault: FaultKind) -> bool {
        !fault.needs_namespaces() || self.ground.has_namespaces()
    }

    /// A client of one member only, so that what that member alone believes can be heard.
    pub async fn client(&self, member: usize) -> Result<Client> {
        connect(&[self.ground.client_url(member)]).await
    }

    /// A client of all members.
    pub async fn any_client(&self) -> Result<Client> {
        let urls: Vec<String> = (0..self.len()).map(|at| self.ground.client_url(at)).collect();
        connect(&urls).await
    }

    pub async fn start(&self, member: usize) -> Result<()> {
        let mut slot = self.members[member].lock();
        if slot.process.is_some() {
            return Ok(());
        }
        let mut flags = self.program.flags.clone();
        flags.extend(
            [
                ("name", slot.name.clone()),
                ("data-dir", slot.data_dir.display().to_string()),
                ("listen-client-urls", self.ground.client_url(member)),
                ("advertise-client-urls", self.ground.client_url(member)),
                ("listen-peer-urls", self.ground.peer_url(member)),
                ("initial-advertise-peer-urls", self.ground.peer_url(member)),
                ("initial-cluster", slot.initial_cluster.clone()),
                ("initial-cluster-state", slot.state.to_owned()),
                ("initial-cluster-token", "chaos".to_owned()),
            ]
            .map(|(flag, value)| format!("--{flag}={value}")),
        );
        let command = self.ground.command(member, &self.program.command, &flags);
        let log = self.root.join(format!("{}.log", slot.name));
        slot.process = Some(Process::start(&command, &log)?);
        Ok(())
    }

    pub async fn kill(&self, member: usize) -> Result<()> {
        match self.members[member].lock().process.take() {
            Some(process) => process.kill(),
            None => Ok(()),
        }
    }

    /// SIGTERM, and the orderly end that follows it.
    pub async fn terminate(&self, member: usize) -> Result<()> {
        let process = self.members[member].lock().process.take();
        match process {
            Some(process) => process.terminate().await,
            None => Ok(()),
        }
    }

    pub async fn pause(&self, member: usize) -> Result<()> {
        self.members[member].lock().process.as_ref().map_or(Ok(()), Process::pause)
    }

    pub async fn resume(&self, member: usize) -> Result<()> {
        self.members[member].lock().process.as_ref().map_or(Ok(()), Process::resume)
    }

    pub async fn cut(&self, cuts: &std::collections::BTreeSet<(usize, usize)>) -> Result<()> {
        self.ground.cut(self.len(), cuts)
    }

    pub async fn lose(&self, percent: u32) -> Result<()> {
        self.ground.lose(self.len(), percent)
    }

    /// The member that leads, as any member that answers says.
    pub async fn leader(&self) -> Option<usize> {
        for asked in 0..self.len() {
            let Ok(mut client) = self.client(asked).await else { continue };
            let Ok(Ok(status)) = tokio::time::timeout(REQUEST_TIMEOUT, client.status()).await else {
                continue;
            };
            let Ok(members) = client.member_list().await else { continue };
            let leads = members.members().iter().find(|member| member.id() == status.leader())?;
            return (0..self.len()).find(|&at| self.name(at) == leads.name());
        }
        None
    }

    pub async fn move_leader(&self, target: usize) -> Result<()> {
        let leader = self.leader().await.ok_or(Error::NotReady(REQUEST_TIMEOUT))?;
        let mut client = self.client(leader).await?;
        let members = client.member_list().await?;
        let name = self.name(target);
        let id =
            members.members().iter().find(|member| member.name() == name).map_or(0, etcd_client::Member::id);
        client.move_leader(id).await?;
        Ok(())
    }

    /// Compacts all but the newest `keep` revisions; returns the revision compacted to.
    pub async fn compact(&self, keep: i64) -> Result<i64> {
        let mut client = self.any_client().await?;
        let answer = client.get("compact-probe", None).await?;
        let revision = answer.header().map_or(0, |header| header.revision()) - keep;
        if revision > 1 {
            client.compact(revision, None).await?;
        }
        Ok(revision.max(0))
    }

    pub async fn defragment(&self, member: usize) -> Result<()> {
        self.client(member).await?.defragment().await?;
        Ok(())
    }

    /// Takes the member out of the group and its data away, and adds it again as a new one.
    pub async fn replace(&self, member: usize) -> Result<()> {
        let other = (member + 1) % self.len();
        let mut client = self.client(other).await?;
        self.kill(member).await?;
        let name = self.name(member);
        let list = client.member_list().await?;
        if let Some(old) = list.members().iter().find(|candidate| candidate.name() == name) {
            client.member_remove(old.id()).await?;
        }
        client.member_add([self.ground.peer_url(member)], None).await?;
        {
            let mut slot = self.members[member].lock();
            slot.generation += 1;
            slot.data_dir = self.root.join(format!("{}-{}", slot.name, slot.generation));
            slot.state = "existing";
        }
        self.start(member).await
    }

    /// Undoes whatever a fault left undone: links, pauses, deaths.
    pub async fn heal(&self) -> Result<()> {
        self.cut(&Default::default()).await?;
        self.lose(0).await?;
        for member in 0..self.len() {
            self.resume(member).await?;
            if self.members[member].lock().process.as_mut().is_some_and(Process::has_ended) {
                self.kill(member).await?;
            }
            self.start(member).await?;
        }
        self.wait_ready().await
    }

    /// Until every member answers a linearizable read.
    async fn wait_ready(&self) -> Result<()> {
        let all = async {
            for member in 0..self.len() {
                while !self.answers(member).await {
                    tokio::time::sleep(POLL).await;
                }
            }
        };
        tokio::time::timeout(READY_TIMEOUT, all).await.map_err(|_| Error::NotReady(READY_TIMEOUT))
    }

    async fn answers(&self, member: usize) -> bool {
        let Ok(mut client) = self.client(member).await else { return false };
        matches!(tokio::time::timeout(REQUEST_TIMEOUT, client.get("ready-probe", None)).await, Ok(Ok(_)))
    }

    /// Revision and hash of every member's key space, at one revision.
    pub async fn hashes(&self) -> Result<Vec<(String, u32)>> {
        let revision =
            self.any_client().await?.get("hash-probe", None).await?.header().map_or(0, |h| h.revision());
        let mut hashes = Vec::new();
        for member in 0..self.len() {
            let mut client = self.client(member).await?;
            // The member may be a few entries behind; a linearizable read brings it up.
            client.get("hash-probe", None).await?;
            hashes.push((self.name(member), client.hash_kv(revision).await?.hash()));
        }
        Ok(hashes)
    }
}

async fn connect(urls: &[String]) -> Result<Client> {
    let options = ConnectOptions::new().with_connect_timeout(REQUEST_TIMEOUT).with_timeout(REQUEST_TIMEOUT);
    Ok(Client::connect(urls, Some(options)).await?)
}
