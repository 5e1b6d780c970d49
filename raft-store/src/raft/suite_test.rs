//! openraft's own conformance suite on our log store and state machine.

use std::sync::Arc;

use openraft::{
    EntryPayload, StorageError,
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
