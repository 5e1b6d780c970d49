//! openraft's own conformance suite on our log store and state machine.

use std::sync::Arc;

use openraft::{
    EntryPayload, RaftLogReader, StorageError,
    entry::RaftEntry,
    storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine},
    testing::log::{StoreBuilder, Suite},
};
use rocksdb::{DB, Options};
use tempfile::TempDir;
use tokio_util::task::TaskTracker;

use super::{
    log_store::LogStore,
    log_writer::ENTRIES,
    state_machine::StateMachine,
    types::{Entry, LogId, TypeConfig},
};
use crate::{
    auth::{TokenProvider, TokenSpec},
    machine::Machine,
    member::layout::Layout,
    storage::StateDb,
};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::prepare(dir.path()).unwrap();
        let db: Arc<StateDb> = StateDb::open(&layout.state().unwrap()).unwrap();
        let log = LogStore::open(layout.log(), TaskTracker::new().token()).unwrap();
        let tokens = TokenProvider::new(&TokenSpec::Simple, std::time::Duration::from_secs(300)).unwrap();
        let machine = Machine::load(db, tokens).unwrap();
        Ok((dir, log.clone(), StateMachine::new(machine, layout, log, std::time::Duration::from_secs(1))))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_storage_suite_passes() {
    Suite::<TypeConfig, LogStore, StateMachine, Builder, TempDir>::test_all(Builder).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_offered_again_while_the_log_goes_on_from_it() {
    let (_dir, mut log, mut machine) = Builder.build().await.unwrap();
    let entry = |index| Entry::new(LogId::new_term_index(1, index), EntryPayload::Blank);
    let cases =
        [(9, 0, 9), (20, 0, 9), (30, 8, 9), (40, 9, 9), (50, 10, 50), (2_050, 10, 50), (2_051, 10, 2_051)];
    let mut last = 0;
    for (applied, purged, offered) in cases {
        log.blocking_append((last + 1..=applied).map(entry)).await.unwrap();
        let entries = (last + 1..=applied).map(|index| Ok((entry(index), None)));
        machine.apply(futures::stream::iter(entries)).await.unwrap();
        if purged > 0 {
            log.purge(LogId::new_term_index(1, purged)).await.unwrap();
        }
        let copy = machine.get_current_snapshot().await.unwrap().unwrap();
        let offers = copy.meta.last_log_id.map(|log_id| log_id.index());
        assert_eq!(offers, Some(offered), "applied {applied}, purged {purged}");
        last = applied;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_stays_while_a_copy_is_sent_and_the_copy_with_it() {
    let (_dir, mut log, mut machine) = Builder.build().await.unwrap();
    let entry = |index| Entry::new(LogId::new_term_index(1, index), EntryPayload::Blank);
    for (from, to) in [(1, 10), (11, 9_000)] {
        log.blocking_append((from..=to).map(entry)).await.unwrap();
        let entries = (from..=to).map(|index| Ok((entry(index), None)));
        machine.apply(futures::stream::iter(entries)).await.unwrap();
        if from == 1 {
            assert!(machine.try_create_snapshot_builder(false).await.is_some(), "nothing is sent");
            machine.get_current_snapshot().await.unwrap();
        }
    }
    let mut transfer = Some(machine.transfers().begin());
    for what in ["it is being sent", "it broke off just now"] {
        assert!(machine.try_create_snapshot_builder(false).await.is_none(), "{what}");
        let copy = machine.get_current_snapshot().await.unwrap().unwrap();
        assert_eq!(copy.meta.last_log_id.map(|log_id| log_id.index()), Some(10), "{what}");
        drop(transfer.take());
    }
    assert!(machine.try_create_snapshot_builder(true).await.is_some(), "one that must be is made");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_entries_that_are_not_there_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let entry = |index| Entry::new(LogId::new_term_index(1, index), EntryPayload::Blank);
    for (last, committed, believed) in [(5, 4, Some(4)), (7, 7, Some(7)), (9, 12, None)] {
        let files = TaskTracker::new();
        let mut log = LogStore::open(dir.path(), files.token()).unwrap();
        log.save_committed(Some(LogId::new_term_index(1, committed))).await.unwrap();
        log.blocking_append((last - 1..=last).map(entry)).await.unwrap();
        assert_eq!(log.flushed().index(), last);
        drop(log);
        files.close();
        files.wait().await;
        let mut log = LogStore::open(dir.path(), TaskTracker::new().token()).unwrap();
        let read = log.read_committed().await.unwrap().map(|log_id| log_id.index());
        assert_eq!(read, believed, "the log ends at {last}");
        log.truncate_after(Some(LogId::new_term_index(1, last - 1))).await.unwrap();
        assert_eq!(log.flushed().index(), last - 1, "what was taken back is not on disk");
        log.blocking_append([entry(last)]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_behind_a_gap_is_given_out() {
    let dir = tempfile::tempdir().unwrap();
    let files = TaskTracker::new();
    let entry = |index| Entry::new(LogId::new_term_index(1, index), EntryPayload::Blank);
    let mut log = LogStore::open(dir.path(), files.token()).unwrap();
    log.blocking_append((1..=9).map(entry)).await.unwrap();
    log.purge(LogId::new_term_index(1, 3)).await.unwrap();
    let indexes = |entries: Vec<Entry>| entries.iter().map(|entry| entry.index()).collect::<Vec<_>>();
    assert_eq!(indexes(log.try_get_log_entries(2..6).await.unwrap()), [4, 5], "the rest was removed");
    assert_eq!(indexes(log.limited_get_log_entries(3, 6).await.unwrap()), [0; 0]);
    assert_eq!(indexes(log.limited_get_log_entries(4, 6).await.unwrap()), [4, 5]);
    drop(log);
    files.close();
    files.wait().await;
    let mut log = LogStore::open(dir.path(), TaskTracker::new().token()).unwrap();
    log.blocking_append((11..=12).map(entry)).await.unwrap();
    for (from, to, is_whole) in [(8, 10, true), (9, 13, false), (10, 13, false), (11, 13, true)] {
        let read = log.try_get_log_entries(from..to).await;
        assert_eq!(read.is_ok(), is_whole, "from {from} to {to}: {read:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_end_was_cut_off_is_known_by_its_note() {
    let dir = tempfile::tempdir().unwrap();
    let files = TaskTracker::new();
    let entry = |index| Entry::new(LogId::new_term_index(1, index), EntryPayload::Blank);
    let mut log = LogStore::open(dir.path(), files.token()).unwrap();
    log.blocking_append((1..=9).map(entry)).await.unwrap();
    log.truncate_after(Some(LogId::new_term_index(1, 7))).await.unwrap();
    drop(log);
    files.close();
    files.wait().await;
    let whole = LogStore::open(dir.path(), TaskTracker::new().token()).unwrap();
    assert_eq!((whole.reach().unwrap(), whole.noted_reach()), (7, 7), "what was taken back is not missed");
    drop(whole);
    let db = DB::open_cf(&Options::default(), dir.path(), ["default", ENTRIES]).unwrap();
    db.delete_cf(db.cf_handle(ENTRIES).unwrap(), 7_u64.to_be_bytes()).unwrap();
    drop(db);
    let cut = LogStore::open(dir.path(), TaskTracker::new().token()).unwrap();
    assert_eq!((cut.reach().unwrap(), cut.noted_reach()), (6, 7));
}
