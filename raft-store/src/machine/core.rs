//! The machine itself: what it holds in memory, and committing what was applied.

use std::sync::Arc;

use arc_swap::ArcSwap;
use openraft::{EntryPayload, entry::RaftEntry};
use parking_lot::RwLock;
use prost::Message;
use proto::raftpb::{Answer, Batch};
use tokio::time::Instant;

use super::{Alarms, Records, records::WriteRecords};
use crate::{
    auth::{AuthState, TokenProvider},
    error::Error,
    lease::{LeaseTable, Millis},
    metrics::STORE,
    mvcc::{
        pending::{Parts, Pending},
        source::Source,
    },
    raft::{
        log_writer::Flushed,
        types::{Entry, LogId, StoredMembership},
    },
    storage::{Column, KeyCounts, StateDb, View},
    watch::{Hub, WatchEvent},
};

/// Bytes of changes after which they are committed although more entries wait: bounds memory.
const COMMIT_BYTES_MAX: usize = 4 << 20;

/// What the machine shows to readers. The machine is its only writer.
pub struct Shared {
    /// The newest applied state.
    pub view: Arc<ArcSwap<View>>,
    /// Leases; deadlines in it belong to the leader's lease keeper.
    pub leases: RwLock<LeaseTable>,
    /// Users and roles.
    pub auth: ArcSwap<AuthState>,
    /// Raised alarms.
    pub alarms: ArcSwap<Alarms>,
    /// The version an announced downgrade leads to.
    pub downgrade: ArcSwap<String>,
    /// Tokens learned from the log.
    pub tokens: TokenProvider,
    /// The compact revision, for whoever removes what lies behind it; tells also when the whole state was replaced.
    pub compacted: tokio::sync::watch::Sender<i64>,
    /// The applied log index, for those who wait for it.
    pub applied: tokio::sync::watch::Sender<u64>,
    /// Where this process's monotonic clock starts.
    started: Instant,
}

impl Shared {
    /// Milliseconds on this process's monotonic clock.
    pub fn now_millis(&self) -> Millis {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Applies commands. One per member, driven by openraft's state machine task.
pub struct Machine {
    pub(super) shared: Arc<Shared>,
    pub(super) auth: AuthState,
    pub(super) alarms: Alarms,
    db: Arc<StateDb>,
    hub: Option<Arc<Hub>>,
    applied: Option<LogId>,
    membership: StoredMembership,
    logged: Flushed,
    /// Users or roles changed since the last commit.
    pub(super) auth_changed: bool,
}

impl Machine {
    /// Loads the state of a database.
    pub fn load(db: Arc<StateDb>, tokens: TokenProvider) -> Result<Self, Error> {
        let records = Records::load(&db)?;
        let view = view_of(&db, &records)?;
        let auth = AuthState::from_record(records.auth.clone());
        let alarms = Alarms::from_record(&records.alarms);
        let shared = Shared {
            leases: RwLock::new(load_leases(&view)?),
            applied: tokio::sync::watch::Sender::new(view.applied_index),
            compacted: tokio::sync::watch::Sender::new(view.compact_revision),
            view: Arc::new(ArcSwap::new(view)),
            auth: ArcSwap::from_pointee(auth.clone()),
            alarms: ArcSwap::from_pointee(alarms.clone()),
            downgrade: ArcSwap::from_pointee(records.downgrade.clone()),
            tokens,
            started: Instant::now(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            auth,
            alarms,
            db,
            hub: None,
            applied: records.applied,
            membership: records.membership,
            logged: Flushed::default(),
            auth_changed: false,
        })
    }

    /// What readers see.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// From now on entries come from a log that is on disk as far as `logged` says.
    pub fn follow_log(&mut self, logged: Flushed) {
        self.logged = logged;
    }

    /// From now on changes are published here.
    pub fn publish_to(&mut self, hub: Arc<Hub>) {
        self.hub = Some(hub);
    }

    /// The database applied to.
    pub fn db(&self) -> &Arc<StateDb> {
        &self.db
    }

    /// How far the log has been applied, and the membership by then.
    pub fn position(&self) -> (Option<LogId>, StoredMembership) {
        (self.applied, self.membership.clone())
    }

    /// Applies entries in order and makes them visible. One list of results for each entry.
    pub fn apply(&mut self, entries: Vec<Entry>) -> Result<Vec<Vec<Result<Answer, Error>>>, Error> {
        let mut results = Vec::with_capacity(entries.len());
        let mut pending = Pending::new(self.shared.view.load_full());
        for entry in entries {
            let log_id = entry.log_id();
            let _span = tracing::debug_span!("apply", index = log_id.index()).entered();
            let mut answers = Vec::new();
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(log_id), membership);
                    pending.put_membership(&self.membership)?;
                }
                EntryPayload::Normal(proposal) => {
                    let batch = Batch::decode(proposal.wire).map_err(Error::internal)?;
                    #[cfg(feature = "planted-bugs")]
                    if crate::planted::Bug::ApplyTwice.is_planted()
                        && log_id.index() % crate::planted::APPLIED_TWICE_EVERY == 0
                    {
                        for command in batch.commands.clone() {
                            let _ = self.apply_command(&mut pending, command)?;
                        }
                    }
                    answers.reserve(batch.commands.len());
                    for command in batch.commands {
                        answers.push(self.apply_command(&mut pending, command)?);
                    }
                }
            }
            self.applied = Some(log_id);
            results.push(answers);
            if pending.size_bytes() > COMMIT_BYTES_MAX {
                pending = self.commit(pending)?;
            }
        }
        self.commit(pending)?;
        Ok(results)
    }

    /// Writes what is pending with the applied index that covers it, shows it to readers and watchers, and
    /// starts anew on top of it. Only between entries: the index names whole entries.
    fn commit(&mut self, mut pending: Pending) -> Result<Pending, Error> {
        let revision = pending.finished_revision();
        let compact_revision = pending.compact_revision();
        if let Some(applied) = &self.applied {
            pending.put_applied(applied)?;
            pending.put_logged(applied.index().min(self.logged.index()));
        }
        pending.put_revision(revision);
        let Parts { batch, changes, mut counts } = pending.into_parts();
        self.db.commit(batch)?;
        if counts.has_large() {
            Arc::make_mut(&mut counts).cut_large(&self.db)?;
        }
        let applied_index = self.applied.map_or(0, |log_id| log_id.index());
        let view = View::freeze(&self.db, counts, revision, compact_revision, applied_index);
        // Before the state: whoever reads takes the state first, and is never judged by older rules than it.
        if self.auth_changed {
            self.auth_changed = false;
            self.shared.auth.store(Arc::new(self.auth.clone()));
        }
        self.shared.view.store(view.clone());
        STORE.applied(revision, compact_revision, &changes);
        if let Some(hub) = &self.hub {
            let events = changes.into_iter().map(|change| WatchEvent::new(change.event));
            hub.publish(events.collect(), revision);
        }
        self.shared.applied.send_replace(applied_index);
        // Most commits compact nothing, and must not wake anybody for it.
        self.shared
            .compacted
            .send_if_modified(|known| std::mem::replace(known, compact_revision) != compact_revision);
        Ok(Pending::new(view))
    }

    /// Keeps keys, leases and users, at the beginning of another cluster's log.
    pub fn begin_cluster(&mut self, founders: StoredMembership) -> Result<(), Error> {
        let mut batch = rocksdb::WriteBatch::default();
        Records::begin_cluster(&self.db, &mut batch, &founders)?;
        self.db.commit(batch)?;
        self.db.flush()?;
        self.applied = *founders.log_id();
        self.membership = founders;
        Ok(())
    }

    /// Replaces the whole state by that of another database, which a snapshot brought.
    pub fn replace(&mut self, db: Arc<StateDb>) -> Result<(), Error> {
        let records = Records::load(&db)?;
        let view = view_of(&db, &records)?;
        let mut leases = load_leases(&view)?;
        leases.become_follower();
        *self.shared.leases.write() = leases;
        let auth = AuthState::from_record(records.auth.clone());
        if auth != self.auth {
            // Which users went or got another password is not known; who asks again gets a new token.
            self.shared.tokens.forget(None);
        }
        self.auth = auth;
        self.alarms = Alarms::from_record(&records.alarms);
        self.applied = records.applied;
        self.membership = records.membership.clone();
        self.db = db;
        self.shared.auth.store(Arc::new(self.auth.clone()));
        self.shared.alarms.store(Arc::new(self.alarms.clone()));
        self.shared.downgrade.store(Arc::new(records.downgrade));
        self.shared.view.store(view.clone());
        if let Some(hub) = &self.hub {
            hub.replaced();
        }
        self.shared.applied.send_replace(view.applied_index);
        self.shared.compacted.send_replace(view.compact_revision);
        Ok(())
    }
}

fn view_of(db: &Arc<StateDb>, records: &Records) -> Result<Arc<View>, Error> {
    let applied = records.applied.map_or(0, |log_id| log_id.index());
    let counts = Arc::new(KeyCounts::load(db)?);
    Ok(View::freeze(db, counts, records.revision, records.compact_revision, applied))
}

fn load_leases(view: &View) -> Result<LeaseTable, Error> {
    let mut leases = LeaseTable::default();
    let mut cursor = view.cursor(Column::Leases, &[], None);
    while let Some((id, ttl)) = cursor.row() {
        let number = |bytes: &[u8]| bytes.try_into().map(i64::from_be_bytes);
        let (Ok(id), Ok(ttl)) = (number(id), number(ttl)) else {
            return Err(Error::new(tonic::Code::DataLoss, "etcdserver: a lease row of the state is damaged"));
        };
        leases.grant(id, ttl, 0);
        cursor.advance();
    }
    cursor.finish()?;
    Ok(leases)
}
