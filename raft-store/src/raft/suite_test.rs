//! openraft's own conformance suite on our log store and state machine.

use std::sync::Arc;

use openraft::{
    StorageError,
    testing::log::{StoreBuilder, Suite},
};
use tempfile::TempDir;
use tokio_util::task::TaskTracker;

use super::{log_store::LogStore, state_machine::StateMachine, types::TypeConfig};
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
        let log = LogStore::open(&layout.log(), TaskTracker::new().token()).unwrap();
        let tokens = TokenProvider::new(&TokenSpec::Simple, std::time::Duration::from_secs(300)).unwrap();
        let machine = Machine::load(db, tokens).unwrap();
        Ok((dir, log.clone(), StateMachine::new(machine, layout, log, std::time::Duration::from_secs(1))))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_storage_suite_passes() {
    Suite::<TypeConfig, LogStore, StateMachine, Builder, TempDir>::test_all(Builder).await.unwrap();
}
