//! openraft's state machine over the machine: applying, copying and replacing the state.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt, Stream, TryStreamExt};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder, SnapshotMeta as OpenSnapshotMeta,
    alias::SnapshotOf,
    storage::{EntryResponder, RaftStateMachine},
};

use super::{
    log_store::LogStore,
    snapshot::SnapshotDir,
    transfers::Transfers,
    types::{Answers, Entry, LogId, SnapshotMeta, StoredMembership, TypeConfig},
};
use crate::{
    blocking,
    machine::Machine,
    member::layout::Layout,
    metrics::{DISK, SERVER},
    storage::StateDb,
};

/// Entries applied by one call into the machine.
const APPLY_ENTRIES_MAX: usize = 512;
/// Bytes of them, so that a call stays short.
const APPLY_BYTES_MAX: usize = 2 << 20;
/// A copy for a lagging member is sent again, and resumed, while the log goes on from it (it would only be followed by the
/// next copy otherwise) and it is at most this many entries old, or was being sent until a moment ago.
const COPY_ENTRIES_OLD_MAX: u64 = 2_000;
/// Bytes of log, or as many as the state has where these are more, that are kept for whoever is being sent a copy. A log
/// that outgrows what is sent grows faster than it can be sent.
const LOG_KEPT_BYTES_MAX: u64 = 1 << 30;

/// The applied state of one member, as openraft drives it.
pub struct StateMachine {
    machine: Machine,
    layout: Layout,
    log: LogStore,
    copy: Option<(SnapshotMeta, SnapshotDir)>,
    copies: u64,
    transfers: Transfers,
    slow_apply: Duration,
}

impl StateMachine {
    /// Wraps a loaded machine, whose entries come from `log`. Applying that takes longer than `slow_apply` is reported.
    pub fn new(mut machine: Machine, layout: Layout, log: LogStore, slow_apply: Duration) -> Self {
        machine.follow_log(log.flushed());
        Self { machine, layout, log, copy: None, copies: 0, transfers: Transfers::default(), slow_apply }
    }

    /// The copies that are being sent: to be told of each.
    pub fn transfers(&self) -> Transfers {
        self.transfers.clone()
    }

    /// Whether the log is kept for a member that goes on from a copy of the state.
    fn keeps_log(&self) -> bool {
        let bytes_max = self.machine.db().size_bytes().max(LOG_KEPT_BYTES_MAX);
        self.transfers.need_log(tokio::time::Instant::now()) && self.log.size_bytes() < bytes_max
    }

    fn meta(&self) -> SnapshotMeta {
        let (last_log_id, last_membership) = self.machine.position();
        OpenSnapshotMeta { last_log_id, last_membership }
    }

    /// A copy of the state as it is now, or a recent one.
    fn make_copy(&mut self) -> io::Result<Option<(SnapshotMeta, SnapshotDir)>> {
        let meta = self.meta();
        if meta.last_log_id.is_none() {
            return Ok(None);
        }
        self.drop_old_copy()?;
        if self.copy.is_some() {
            return Ok(self.copy.clone());
        }
        self.copies += 1;
        let path = self.layout.new_copy(self.copies)?;
        self.machine.db().checkpoint(&path).map_err(io::Error::other)?;
        self.copy = Some((meta, SnapshotDir::new(path)));
        Ok(self.copy.clone())
    }

    /// Lets go of a copy that would not help anybody. Whoever is being sent it keeps its files.
    fn drop_old_copy(&mut self) -> io::Result<()> {
        let index = |log_id: &Option<LogId>| log_id.as_ref().map_or(0, |log_id| log_id.index());
        let Some((copied, _)) = &self.copy else { return Ok(()) };
        let (copied, now) = (index(&copied.last_log_id), index(&self.machine.position().0));
        let is_old = now.saturating_sub(copied) > COPY_ENTRIES_OLD_MAX && !self.keeps_log();
        if copied < self.log.purged()? || is_old {
            self.copy = None;
        }
        Ok(())
    }

    fn apply_now(&mut self, entries: Vec<Entry>) -> io::Result<Vec<Answers>> {
        let started = Instant::now();
        let count = entries.len();
        let results = self.machine.apply(entries).map_err(io::Error::other)?;
        let took = started.elapsed();
        DISK.observe_commit(took);
        if took > self.slow_apply {
            SERVER.slow_applies.inc();
            tracing::warn!(took_millis = took.as_millis() as u64, entries = count, "apply took too long");
        }
        Ok(results.into_iter().map(|results| Answers { results }).collect())
    }
}

/// Makes the state durable up to a position, so that the log before it may go.
pub struct SnapshotBuilder {
    db: Arc<StateDb>,
    meta: SnapshotMeta,
    folder: PathBuf,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotDir;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, SnapshotDir>, io::Error> {
        let db = self.db.clone();
        let flushed = blocking::run(move || db.flush()).await;
        flushed.map_err(io::Error::other)?.map_err(io::Error::other)?;
        // The state itself is the snapshot; a copy is made when a member needs one.
        Ok(SnapshotOf::<TypeConfig, _> {
            meta: self.meta.clone(),
            snapshot: SnapshotDir::new(self.folder.join("none")),
        })
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotDir;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok(self.machine.position())
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut next = entries.try_next().await?;
        while let Some((entry, responder)) = next.take() {
            let mut bytes = size_of_entry(&entry);
            let mut group = vec![entry];
            let mut responders = vec![responder];
            while group.len() < APPLY_ENTRIES_MAX && bytes < APPLY_BYTES_MAX {
                match entries.try_next().now_or_never() {
                    Some(Ok(Some((entry, responder)))) => {
                        bytes += size_of_entry(&entry);
                        group.push(entry);
                        responders.push(responder);
                    }
                    Some(Ok(None)) | None => break,
                    Some(Err(error)) => return Err(error),
                }
            }
            for (answers, responder) in self.apply_now(group)?.into_iter().zip(responders) {
                if let Some(responder) = responder {
                    responder.send(answers);
                }
            }
            // Consensus shares the thread: its messages come in between.
            tokio::task::yield_now().await;
            next = entries.try_next().await?;
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Self::SnapshotBuilder> {
        // What is built allows the log before it to be removed; openraft asks again after as many entries.
        if !force && self.keeps_log() {
            return None;
        }
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        // A copy keeps files that the state itself has long replaced.
        if let Err(error) = self.drop_old_copy() {
            tracing::warn!(%error, "cannot tell whether an old copy of the state is still of use");
        }
        SnapshotBuilder {
            db: self.machine.db().clone(),
            meta: self.meta(),
            folder: self.layout.copies().to_path_buf(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotDir,
    ) -> Result<(), io::Error> {
        if meta.last_log_id <= self.machine.position().0 {
            // At start openraft offers the copy of what is already applied.
            return Ok(());
        }
        if let Some(position) = &meta.last_log_id {
            self.log.note_snapshot(position).await?;
        }
        let path = self.layout.adopt_state(snapshot.path())?;
        let db = open_state(&path)?;
        let old = self.machine.db().clone();
        self.machine.replace(db).map_err(io::Error::other)?;
        let arrived = self.machine.position().0;
        if arrived != meta.last_log_id {
            return Err(io::Error::other(format!(
                "the snapshot holds the state at {arrived:?} instead of {:?}",
                meta.last_log_id
            )));
        }
        old.remove_when_unused();
        self.copy = None;
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, SnapshotDir>>, io::Error> {
        let copy = self.make_copy()?;
        Ok(copy.map(|(meta, snapshot)| SnapshotOf::<TypeConfig, _> { meta, snapshot }))
    }
}

fn size_of_entry(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(proposal) => proposal.wire.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}

fn open_state(path: &Path) -> io::Result<Arc<StateDb>> {
    StateDb::open(path).map_err(io::Error::other)
}
