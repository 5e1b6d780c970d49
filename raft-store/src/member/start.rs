//! Starting and stopping a member.

use std::{fs::File, io, path::PathBuf, sync::Arc, time::Duration};

use openraft::{RaftLogReader, ServerState, async_runtime::WatchReceiver};
use parking_lot::Mutex;
use proto::raftpb::{peer_server::PeerServer, raft_server::RaftServer};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Member, PeerService, background, compare,
    consensus_thread::ConsensusThread,
    identity,
    layout::{Layout, touch_private},
    maintenance::{CLUSTER_VERSION, SERVER_VERSION},
    newcomer::establish_identity,
    propose::Proposals,
    read::Reads,
    space::Space,
    standing::Standing,
};
use crate::{
    auth::TokenProvider,
    blocking,
    config::Config,
    error::Error,
    machine::{Machine, Records},
    metrics::SERVER,
    raft::{
        haste::Haste,
        heard::Heard,
        log_store::LogStore,
        network::Network,
        peers::{PEER_MESSAGE_BYTES_MAX, Peers},
        service::RaftService,
        state_machine::StateMachine,
        types::{MemberId, MemberNode, Raft},
    },
    server,
    storage::{StateDb, View},
    tls::{ClientTls, TlsError},
    watch::{Hub, HubLimits},
};

/// A state up to this size is verified before it is served; a larger one meanwhile, since a start must be short.
pub const VERIFIED_AT_START_BYTES: u64 = 256 << 20;
/// How long stopping waits for requests that are under way.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a member did not start. The text says what to mend.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The flags contradict each other.
    #[error("{0}")]
    Config(String),
    /// Another process uses the data directory.
    #[error(
        "the data directory {0} is in use by another process; stop it first, or choose another --data-dir"
    )]
    InUse(String),
    /// The data directory cannot be read or written.
    #[error("the data directory: {0}")]
    Disk(#[from] io::Error),
    /// The state is damaged or of an unknown format.
    #[error("{0}")]
    State(#[from] Error),
    /// Another member has other data at the same revision.
    #[error(
        "the state differs from that of member {member:x} at revision {revision}: replace this member (member remove, an \
         empty data directory, member add), unless it is the other that is damaged"
    )]
    Differs {
        /// The other member.
        member: u64,
        /// Where both were looked at.
        revision: i64,
    },
    /// The log ends before where it once was.
    #[error("{0}")]
    LostLog(String),
    /// Certificates cannot be used.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// A socket cannot be opened.
    #[error("cannot listen on {url}: {cause}")]
    Listen {
        /// The address.
        url: String,
        /// Why not.
        cause: String,
    },
    /// The others know this member as one that has run, but it has lost its files.
    #[error(
        "member {0:x} has already been bootstrapped: the others know it, and its data directory holds nothing of it; remove \
         it from the cluster (member remove), add it again (member add) and start it with --initial-cluster-state=existing"
    )]
    Bootstrapped(u64),
    /// The cluster could not be joined.
    #[error("cannot join the cluster: {0}")]
    Join(String),
    /// The consensus core did not start.
    #[error("the consensus core: {0}")]
    Consensus(String),
}

impl Member {
    /// Starts a member and returns once it runs; it may not know a leader yet. Must be called within a tokio
    /// runtime: one with several threads, or, in a simulation, one where everything waits for the disk.
    pub async fn start(mut config: Config) -> Result<Arc<Self>, StartError> {
        let lock = lock_data_dir(&config)?;
        let layout = Layout::prepare(&config.data_dir)?.with_log_in(config.wal_dir.as_deref())?;
        if let Some((cluster, token)) = layout.founders()? {
            config.initial_cluster = crate::cli::parse_cluster(&cluster).map_err(StartError::Config)?;
            config.initial_cluster_token = token;
        }
        let tls = ClientTls::load(&config.peer_tls)?;
        let identity = establish_identity(&config, &layout, tls.clone()).await?;
        let consensus = ConsensusThread::start()?;
        let peers = Peers::new(identity.cluster_id, tls, &config).driven_by(consensus.handle().clone());
        let parts = open(&config, &layout, identity.member_id).await?;
        let stop = CancellationToken::new();
        let mut machine = parts.machine;
        let shared = machine.shared().clone();
        let limits = HubLimits { progress_interval: config.watch_progress_interval };
        let hub = Hub::start(shared.view.clone(), limits, stop.clone());
        machine.publish_to(hub.clone());
        let state_machine =
            StateMachine::new(machine, layout.clone(), parts.log.clone(), config.warning_apply_duration);
        let haste = Haste::default();
        let raft = Raft::new(
            identity.member_id,
            Arc::new(consensus_config(&config)?),
            Network::new(peers.clone(), haste.clone(), state_machine.transfers()),
            parts.log,
            state_machine,
        );
        let raft = consensus.run(raft).await.map_err(|error| StartError::Consensus(error.to_string()))?;
        let raft = raft.map_err(|error| StartError::Consensus(error.to_string()))?;
        let heard = Arc::new(Heard::default());
        let member = Arc::new_cyclic(|this| Self {
            this: this.clone(),
            cluster_id: identity.cluster_id,
            id: identity.member_id,
            raft,
            shared,
            hub,
            peers,
            proposals: Proposals::default(),
            reads: Reads::default(),
            leader_reads: Reads::default(),
            space: Space::default(),
            removed: CancellationToken::new(),
            doubted: Notify::new(),
            damaged: CancellationToken::new(),
            heard: heard.clone(),
            haste,
            changing: tokio::sync::Mutex::default(),
            standing: Standing::default(),
            cleaned: tokio::sync::watch::Sender::new(parts.cleaned),
            beside_consensus: consensus.handle().clone(),
            consensus: Mutex::new(Some(consensus)),
            stop,
            tasks: TaskTracker::new(),
            files: parts.files,
            lock: Mutex::new(Some(lock)),
            config,
        });
        member.serve_peers_beside_consensus(layout.copies().to_path_buf()).await?;
        member.found_cluster().await?;
        member.elect_alone().await?;
        member.follow_standing();
        if member.config.initial_corrupt_check {
            compare::before_serving(&member).await?;
        }
        background::spawn_all(&member);
        server::serve_clients(&member).await?;
        SERVER.identify(SERVER_VERSION, CLUSTER_VERSION, member.id);
        Ok(member)
    }

    /// What peers say goes to consensus without a change of threads.
    async fn serve_peers_beside_consensus(self: &Arc<Self>, copies: PathBuf) -> Result<(), StartError> {
        let serving = self.clone();
        let served = self.beside_consensus.spawn(async move { serving.serve_peers(copies).await }).await;
        served.map_err(|error| StartError::Consensus(error.to_string()))?
    }

    async fn serve_peers(self: Arc<Self>, copies: PathBuf) -> Result<(), StartError> {
        if self.config.listen_peer_urls.is_empty() {
            return Ok(());
        }
        let raft = RaftService::new(self.raft.clone(), copies, self.heard.clone());
        let raft = RaftServer::new(raft)
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX);
        let peer = PeerServer::new(PeerService::new(self.clone()))
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX);
        server::serve_peers(&self, raft, peer).await
    }

    /// A founder's first start: every founder writes the same first membership.
    async fn found_cluster(&self) -> Result<(), StartError> {
        let initialized = self.raft.is_initialized().await;
        let initialized = initialized.map_err(|error| StartError::Consensus(error.to_string()))?;
        // What was restored, or kept by force, has its members already.
        if initialized || !identity::is_founder(&self.config) {
            return Ok(());
        }
        match self.raft.initialize(identity::founding_members(&self.config)).await {
            Ok(()) => Ok(()),
            // Another founder was faster, and this member has already heard from it.
            Err(error) if error.api_error().is_some() => Ok(()),
            Err(error) => Err(StartError::Consensus(error.to_string())),
        }
    }

    /// Who votes alone need not wait whether another leads.
    async fn elect_alone(&self) -> Result<(), StartError> {
        let waits_alone = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            metrics.state == ServerState::Follower && metrics.membership_config.voter_ids().eq([self.id])
        };
        if waits_alone {
            let elected = self.raft.trigger().elect(false).await;
            elected.map_err(|error| StartError::Consensus(error.to_string()))?;
        }
        Ok(())
    }

    /// Hands the leadership over, stops all listeners and background work, and closes the files.
    pub async fn shutdown(&self) {
        self.hand_over().await;
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOP_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!("some requests did not end in time");
        }
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "the consensus core did not stop cleanly");
        }
        self.close_files().await;
        // What ran beside consensus ends with it; what waited for that is told.
        self.consensus.lock().take();
        self.proposals.close();
        self.reads.close();
        self.leader_reads.close();
    }

    /// Makes the state durable, lets go of the files even if this handle lives on, and frees the directory.
    async fn close_files(&self) {
        let db = self.view().db().clone();
        db.hold_until_closed(self.files.token());
        let flushing = db.clone();
        if let Ok(Err(error)) = blocking::run(move || flushing.flush()).await {
            // The log has it all; the next start only takes longer.
            tracing::warn!(%error, "could not flush the state");
        }
        match StateDb::closed() {
            Ok(closed) => self.shared.view.store(View::freeze(&closed, Arc::default(), 1, 0, 0)),
            Err(error) => tracing::warn!(%error, "the files stay open until the last handle has gone"),
        }
        drop(db);
        self.files.close();
        if tokio::time::timeout(STOP_TIMEOUT, self.files.wait()).await.is_err() {
            tracing::warn!("some files are still open: a request or a watch has not ended");
        }
        self.lock.lock().take();
    }
}

/// What is opened from the disk.
struct Opened {
    machine: Machine,
    log: LogStore,
    cleaned: i64,
    files: TaskTracker,
}

async fn open(config: &Config, layout: &Layout, id: MemberId) -> Result<Opened, StartError> {
    let db = StateDb::open(&layout.state()?)?;
    if db.size_bytes() <= VERIFIED_AT_START_BYTES {
        let verified = db.clone();
        blocking::run(move || verified.verify()).await.map_err(io::Error::other)??;
    }
    let records = Records::load(&db)?;
    let tokens = TokenProvider::new(&config.auth_token, config.auth_token_ttl).map_err(StartError::Config)?;
    let mut machine = Machine::load(db, tokens)?;
    let files = TaskTracker::new();
    let mut log = LogStore::open(layout.log(), files.token())?;
    if config.force_new_cluster {
        apply_log(&mut machine, &mut log).await?;
        let peer_urls = config.initial_advertise_peer_urls.clone();
        let own = MemberNode { name: config.name.clone(), peer_urls, ..MemberNode::default() };
        machine.begin_cluster(identity::beginning([(id, own)].into())?)?;
        drop(log);
        layout.set_log_aside()?;
        log = LogStore::open(layout.log(), files.token())?;
        tracing::warn!("the old cluster is forgotten; this member begins a new one with what it has");
    } else {
        check_log_reaches(&log, records.logged, layout)?;
    }
    Ok(Opened { machine, log, cleaned: records.cleaned_revision, files })
}

/// A log whose end is gone has lost entries this member vouched for: with it, the member could help to undo what was
/// acknowledged.
fn check_log_reaches(log: &LogStore, logged: u64, layout: &Layout) -> Result<(), StartError> {
    let (reach, was) = (log.reach()?, logged.max(log.noted_reach()));
    if reach >= was {
        return Ok(());
    }
    Err(StartError::LostLog(format!(
        "the raft log {} ends at entry {reach}, but has held entry {was}: the end of the log is lost; replace \
         this member (member remove, an empty data directory, member add): its peers rebuild it; or, without peers, start it once \
         with --force-new-cluster",
        layout.log().display()
    )))
}

/// Applies what the log holds beyond the state, so that nothing acknowledged is lost when the log goes. What was under
/// way and may not have been acknowledged is applied, too: how far a majority had it, nobody can tell any more.
async fn apply_log(machine: &mut Machine, log: &mut LogStore) -> Result<(), StartError> {
    let from = machine.position().0.map_or(0, |applied| applied.index() + 1);
    let entries = log.try_get_log_entries(from..).await?;
    machine.apply(entries)?;
    Ok(())
}

/// One process a data directory, which is made where there is none.
fn lock_data_dir(config: &Config) -> Result<File, StartError> {
    let member = config.data_dir.join("member");
    touch_private(&config.data_dir)?;
    touch_private(&member)?;
    let file = File::create(member.join("LOCK"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(StartError::InUse(config.data_dir.display().to_string()))
        }
        Err(std::fs::TryLockError::Error(error)) => Err(error.into()),
    }
}

fn consensus_config(config: &Config) -> Result<openraft::Config, StartError> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (election_timeout_min, election_timeout_max) = election_timeouts(millis(config.election_timeout));
    let consensus = openraft::Config {
        cluster_name: config.initial_cluster_token.clone(),
        heartbeat_interval: millis(config.heartbeat_interval),
        election_timeout_min,
        election_timeout_max,
        snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(config.snapshot_count),
        max_in_snapshot_log_to_keep: config.snapshot_catchup_entries,
        replication_lag_threshold: config.snapshot_count + config.snapshot_catchup_entries,
        // One entry may hold megabytes of commands.
        max_payload_entries: 64,
        purge_batch_size: 512,
        install_snapshot_timeout: 3_600_000,
        enable_pre_vote: Some(true),
        // A leader that starts again must be elected again: a disk that lost the end of its log would otherwise give
        // positions its followers hold already to other entries.
        enable_leader_restore: Some(false),
        // Followers write an entry while the leader still does, not after it.
        broadcast_submitted_on_append: Some(true),
        // A leader that hears no majority falls silent for as long as the others need to elect another: they may hear it.
        quorum_loss_probe_interval: Some(election_timeout_max * 2),
        ..openraft::Config::default()
    };
    consensus.validate().map_err(|error| StartError::Config(error.to_string()))
}

/// What openraft calls the shortest and the longest election timeout, in milliseconds, so that a follower stands for
/// election once it has heard of no leader for one to one and a half times `election`, as clients of etcd expect.
///
/// openraft waits for the leader's lease first, which is as long as its longest timeout, and for a timeout drawn between
/// the two after that. An election nobody wins is tried again after the drawn timeout alone.
fn election_timeouts(election: u64) -> (u64, u64) {
    (election.div_ceil(4), (election * 3).div_ceil(4))
}
