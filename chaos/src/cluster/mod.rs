//! Real members under test: started, killed, paused, cut off, replaced, and asked who leads.

mod disk;
pub mod ground;
mod health;
mod membership;
mod process;
mod proxy;
pub mod skew;

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use parking_lot::Mutex;

use crate::faults::FaultKind;
use disk::Disk;
pub use disk::DiskMood;
pub use ground::Ground;
use health::READY_TIMEOUT;
pub use health::Started;
use process::Process;

/// What can go wrong with the harness itself; a store that misbehaves is never one of these.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: std::io::Error },
    #[error("`{command}` failed: {stderr}")]
    Command { command: String, stderr: String },
    #[error("no answer in {0:?}")]
    NotReady(Duration),
    /// Members that neither a fault nor the harness holds back, and that say nothing; `found` is what is known of each.
    #[error(
        "members did not answer in {limit:?}: {found}. Mend what the log says; if it says nothing, the machine was too \
         busy: give it fewer runs at once"
    )]
    Silent { limit: Duration, found: String },
    #[error("etcd client: {0}")]
    Client(#[from] etcd_client::Error),
    #[error("not possible here: {0}")]
    Unsupported(String),
    /// The fault found nothing that it could break; the run goes on without it.
    #[error("nothing was inflicted: {0}")]
    NotInflicted(String),
}

pub type Result<T> = std::result::Result<T, Error>;

/// A single question to a member.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
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
    /// Somebody still reads the history from this revision on.
    needed_from: AtomicI64,
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
    /// How often it ended by itself, and how the last time.
    ends: u32,
    last_end: Option<ExitStatus>,
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
                ends: 0,
                last_end: None,
            })
        };
        let mut disks = Vec::new();
        for at in 0..=members {
            if faulty_disks {
                disks.push(Disk::mount(&folder(root, at))?);
            }
        }
        let slots = (0..=members).map(slot).collect();
        let (root, needed_from) = (root.to_owned(), AtomicI64::new(i64::MAX));
        let cluster = Cluster { ground, program, root, len: members, members: slots, disks, needed_from };
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
        folder(&self.root, member).join(format!("data-{generation}"))
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
        self.members[member].lock().process.as_mut().map_or(Ok(()), Process::pause)
    }

    pub async fn resume(&self, member: usize) -> Result<()> {
        self.members[member].lock().process.as_mut().map_or(Ok(()), Process::resume)
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

    /// The member that leads in the newest term that any member knows of.
    pub async fn leader(&self) -> Option<usize> {
        let mut newest = None;
        for asked in 0..self.len() {
            let Ok(mut client) = self.client(asked).await else { continue };
            let (Ok(status), Ok(members)) = (client.status().await, client.member_list().await) else {
                continue;
            };
            let leads = members.members().iter().find(|member| member.id() == status.leader());
            newest = newest.max(leads.map(|leads| (status.raft_term(), leads.name().to_owned())));
        }
        let (_, name) = newest?;
        (0..self.len()).find(|&at| self.name(at) == name)
    }

    /// An error, too, where the target leads already.
    pub async fn move_leader(&self, target: usize) -> Result<()> {
        let leader = self.leader().await.ok_or(Error::NotReady(REQUEST_TIMEOUT))?;
        if leader == target {
            return Err(Error::NotInflicted("it leads already".to_owned()));
        }
        let mut client = self.client(leader).await?;
        let members = client.member_list().await?;
        let name = self.name(target);
        let id =
            members.members().iter().find(|member| member.name() == name).map_or(0, etcd_client::Member::id);
        client.move_leader(id).await?;
        Ok(())
    }

    /// From this revision on, history is still to be read: nothing of it is compacted.
    pub fn keep_from(&self, revision: i64) {
        self.needed_from.store(revision, Ordering::Relaxed);
    }

    /// Compacts all but the newest `keep` revisions and what is still to be read; returns the revision compacted to,
    /// zero if there was nothing to compact.
    pub async fn compact(&self, keep: i64) -> Result<i64> {
        let mut client = self.any_client().await?;
        let answer = client.get("compact-probe", None).await?;
        let newest = answer.header().map_or(0, |header| header.revision());
        let revision = (newest - keep).min(self.needed_from.load(Ordering::Relaxed) - 1);
        if revision <= 1 {
            return Ok(0);
        }
        client.compact(revision, None).await?;
        Ok(revision)
    }

    pub async fn defragment(&self, member: usize) -> Result<()> {
        self.client(member).await?.defragment().await?;
        Ok(())
    }
}

/// Where a member's data is, that of all its generations.
fn folder(root: &Path, member: usize) -> PathBuf {
    root.join(format!("m{member}"))
}

/// Takes away the data of `members` members below `root`, whose cluster has ended; logs stay.
pub fn discard_data(root: &Path, members: usize) -> Result<()> {
    // One more may have joined.
    for path in (0..=members).map(|at| folder(root, at)).filter(|path| path.exists()) {
        std::fs::remove_dir_all(&path).map_err(|error| Error::Io { path, error })?;
    }
    Ok(())
}

/// A client of all of these.
pub async fn connect(urls: &[String]) -> Result<Client> {
    let options = ConnectOptions::new().with_connect_timeout(REQUEST_TIMEOUT).with_timeout(REQUEST_TIMEOUT);
    Ok(Client::connect(urls, Some(options)).await?)
}
