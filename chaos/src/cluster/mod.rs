//! Real members under test: started, killed, paused, cut off, replaced, and asked who leads.

mod disk;
pub mod ground;
mod membership;
mod process;
mod proxy;
pub mod skew;

use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use parking_lot::Mutex;

use crate::faults::FaultKind;
use disk::Disk;
pub use disk::DiskMood;
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
    pub env: Vec<(String, String)>,
    /// A real etcd.
    pub is_etcd: bool,
}

/// The members and what is known of them.
pub struct Cluster {
    ground: Ground,
    program: Program,
    root: PathBuf,
    /// Those that clients use; one more may join for a while.
    len: usize,
    members: Vec<Mutex<Member>>,
    disks: Vec<Disk>,
}

struct Member {
    name: String,
    /// Counts replacements: a replaced member is a new one.
    generation: u32,
    initial_cluster: String,
    state: &'static str,
    /// It is out of the group, or its disk is past use: what comes next in its place is a new member.
    is_out: bool,
    process: Option<Process>,
}

impl Cluster {
    /// Starts `members` members in folders below `root` and waits until all answer. `faulty_disks`: on disks that can be
    /// made to fail.
    pub async fn start_all(
        ground: Ground,
        program: Program,
        root: &Path,
        members: usize,
        faulty_disks: bool,
    ) -> Result<Self> {
        ground.prepare(members + 1).await?;
        let initial: Vec<String> = (0..members).map(|at| format!("m{at}={}", ground.peer_url(at))).collect();
        let slot = |at| {
            Mutex::new(Member {
                name: format!("m{at}"),
                generation: 0,
                initial_cluster: initial.join(","),
                state: "new",
                is_out: false,
                process: None,
            })
        };
        let mut disks = Vec::new();
        for at in 0..=members {
            if faulty_disks {
                disks.push(Disk::mount(&root.join(format!("m{at}")))?);
            }
        }
        let slots = (0..=members).map(slot).collect();
        let cluster = Cluster { ground, program, root: root.to_owned(), len: members, members: slots, disks };
        for at in 0..members {
            cluster.start(at).await?;
        }
        cluster.wait_ready().await?;
        Ok(cluster)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn name(&self, member: usize) -> String {
        self.members[member].lock().name.clone()
    }

    /// The member's process, while it runs.
    pub fn pid(&self, member: usize) -> Option<u32> {
        self.members[member].lock().process.as_ref().map(Process::id)
    }

    pub fn data_dir(&self, member: usize) -> PathBuf {
        let generation = self.members[member].lock().generation;
        self.root.join(format!("m{member}")).join(format!("data-{generation}"))
    }

    /// The last thing that a member's log says.
    pub fn last_words(&self, member: usize) -> String {
        let log = std::fs::read(self.log(&self.name(member))).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").trim().to_owned()
    }

    fn log(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}.log"))
    }

    /// Whether this cluster can have the fault.
    pub fn supports(&self, fault: FaultKind) -> bool {
        let has_disk = !fault.needs_faulty_disk() || !self.disks.is_empty();
        has_disk && !(self.program.is_etcd && fault.damages_state())
    }

    /// A client of one member only, so that what that member alone believes can be heard.
    pub async fn client(&self, member: usize) -> Result<Client> {
        connect(&[self.ground.client_url(member)]).await
    }

    /// Where clients reach the members.
    pub fn client_urls(&self) -> Vec<String> {
        (0..self.len()).map(|at| self.ground.client_url(at)).collect()
    }

    /// A client of all members.
    pub async fn any_client(&self) -> Result<Client> {
        connect(&self.client_urls()).await
    }

    pub async fn start(&self, member: usize) -> Result<()> {
        let data_dir = self.data_dir(member);
        let mut slot = self.members[member].lock();
        if slot.process.is_some() {
            return Ok(());
        }
        let mut flags = self.program.flags.clone();
        flags.extend(
            [
                ("name", slot.name.clone()),
                ("data-dir", data_dir.display().to_string()),
                ("listen-client-urls", self.ground.client_url(member)),
                ("advertise-client-urls", self.ground.client_url(member)),
                ("listen-peer-urls", self.ground.peer_listen_url(member)),
                ("initial-advertise-peer-urls", self.ground.peer_url(member)),
                ("initial-cluster", slot.initial_cluster.clone()),
                ("initial-cluster-state", slot.state.to_owned()),
                ("initial-cluster-token", "chaos".to_owned()),
            ]
            .map(|(flag, value)| format!("--{flag}={value}")),
        );
        let command = self.ground.command(member, &self.program.command, &flags);
        let log = self.log(&slot.name);
        let process = Process::start(&command, &self.program.env, &log)?;
        self.ground.know(member, process.id());
        slot.process = Some(process);
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

    pub async fn slow(&self, is_slow: bool) -> Result<()> {
        self.ground.slow(self.len(), is_slow)
    }

    pub fn set_disk(&self, member: usize, mood: DiskMood) -> Result<()> {
        let none = || Error::Unsupported("the members' disks cannot be made to fail".into());
        self.disks.get(member).ok_or_else(none)?.set_mood(mood);
        Ok(())
    }

    /// Undoes what a dead member had not synced; returns how many bytes that were.
    pub fn drop_unsynced(&self, member: usize) -> Result<u64> {
        let none = || Error::Unsupported("the members' disks cannot be made to lose writes".into());
        Ok(self.disks.get(member).ok_or_else(none)?.drop_unsynced())
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

    /// Starts a member that has ended by itself; one that is out is replaced, which may be tried again if it fails.
    pub async fn revive(&self, member: usize) -> Result<()> {
        if self.members[member].lock().process.as_mut().is_some_and(Process::has_ended) {
            self.kill(member).await?;
        }
        let is_out = self.members[member].lock().is_out;
        if !is_out {
            return self.start(member).await;
        }
        if let Err(error) = self.replace(member).await {
            tracing::info!(%error, member, "not replaced yet");
        }
        Ok(())
    }

    /// Whether the member answers within the time, and has not ended.
    pub async fn answers_within(&self, member: usize, limit: Duration) -> bool {
        let answering = async {
            loop {
                if self.members[member].lock().process.as_mut().is_none_or(Process::has_ended) {
                    return false;
                }
                if self.answers(member).await {
                    return true;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(limit, answering).await.unwrap_or(false)
    }

    /// Undoes whatever a fault left undone: links, pauses, deaths.
    pub async fn heal(&self) -> Result<()> {
        self.cut(&Default::default()).await?;
        self.lose(0).await?;
        self.slow(false).await?;
        self.disks.iter().for_each(|disk| disk.set_mood(DiskMood::Well));
        for member in 0..self.len() {
            self.resume(member).await?;
            self.revive(member).await?;
        }
        // What stands in its way is what is being healed from: the run goes on with one member more.
        if let Err(error) = self.leave_extra().await {
            tracing::warn!(%error, "the extra member could not leave");
        }
        self.wait_ready().await
    }

    /// Until every member answers a linearizable read.
    async fn wait_ready(&self) -> Result<()> {
        let all = async {
            for member in 0..self.len() {
                while !self.answers(member).await {
                    tokio::time::sleep(POLL).await;
                    // One that has ended of what was done to it is started again, as its supervisor would.
                    self.revive(member).await?;
                }
            }
            Ok(())
        };
        tokio::time::timeout(READY_TIMEOUT, all).await.map_err(|_| Error::NotReady(READY_TIMEOUT))?
    }

    async fn answers(&self, member: usize) -> bool {
        let Ok(mut client) = self.client(member).await else { return false };
        matches!(tokio::time::timeout(REQUEST_TIMEOUT, client.get("ready-probe", None)).await, Ok(Ok(_)))
    }
}

/// A client of all of these.
pub async fn connect(urls: &[String]) -> Result<Client> {
    let options = ConnectOptions::new().with_connect_timeout(REQUEST_TIMEOUT).with_timeout(REQUEST_TIMEOUT);
    Ok(Client::connect(urls, Some(options)).await?)
}
