//! Snapshots as files: etcd's own format, so that etcd's tools read ours and ours read etcd's.
//!
//! Owns the bbolt file format, what stands in it, and making a data directory from it. A running member only
//! ever gives a snapshot; taking one in needs a directory of its own.

mod bolt;
mod bolt_reader;
pub(crate) mod bolt_writer;
mod dump;
mod restore;

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use proto::etcdserverpb::{
    AuthenticateRequest, SnapshotRequest, SnapshotResponse, auth_client::AuthClient,
    maintenance_client::MaintenanceClient,
};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use crate::{
    error::Error,
    member::{Member, SERVER_VERSION},
    tls::{ClientTls, TlsFiles},
};

/// Bytes of a piece on the wire.
const PIECE_BYTES: usize = 64 << 10;

/// How a data directory is made from a snapshot file.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// The file.
    pub snapshot: PathBuf,
    /// The new data directory; must not hold a member.
    pub data_dir: PathBuf,
    /// Name of the member.
    pub name: String,
    /// Founding members: `name=url,name=url`.
    pub initial_cluster: String,
    /// Token of the new cluster.
    pub initial_cluster_token: String,
    /// Peer URLs of the member, comma-separated.
    pub peer_url: String,
}

/// What else may be asked for when a file is restored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreChanges {
    /// Take a file without a checksum behind it, or with another: one copied from a data directory.
    pub skip_hash_check: bool,
    /// Let revisions go on this much later, and everything before count as compacted, so that no client takes what it
    /// saw of the lost revisions for what comes.
    pub bump_revision: u32,
}

/// What a file holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Checksum of its records: etcdutl's.
    pub hash: u32,
    /// The newest revision.
    pub revision: i64,
    /// Keys in it; when it is restored, what is there of their history.
    pub keys: u64,
    /// Bytes.
    pub size: u64,
}

/// Why a file could not be restored; names what and where.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The options contradict each other.
    #[error("{0}")]
    Options(String),
    /// The directory is in use.
    #[error("the data directory {0} holds a member already; restore into a new one")]
    Exists(String),
    /// The file is not what was saved.
    #[error("the snapshot {0} does not match its checksum; take another")]
    Checksum(String),
    /// The file's end is lost, or it was not saved by a client.
    #[error("snapshot missing hash but --skip-hash-check=false")]
    MissingChecksum,
    /// The file is something else.
    #[error("the file has no bucket of keys; it is no snapshot of etcd or of this store")]
    NotASnapshot,
    /// The file or the directory cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The state cannot be written.
    #[error(transparent)]
    State(#[from] Error),
}

/// Streams the state as one file; its SHA-256 follows, as etcd's clients expect.
pub fn stream(member: &Member, pieces: &mpsc::Sender<Result<SnapshotResponse, Status>>) -> Result<(), Error> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = member.config().data_dir.join("member/copies").join(format!("backup-{number}.db"));
    let streamed = write_and_stream(member, &path, pieces);
    // Left-overs go at the next start.
    let _ = fs::remove_file(&path);
    streamed.map_err(Error::internal)
}

fn write_and_stream(
    member: &Member,
    path: &Path,
    pieces: &mpsc::Sender<Result<SnapshotResponse, Status>>,
) -> io::Result<()> {
    let view = member.view();
    dump::write(&view, &member.auth(), path)?;
    let header = member.header(view.revision);
    drop(view);
    let mut file = fs::File::open(path)?;
    let mut left = file.metadata()?.len();
    let mut hasher = Sha256::new();
    let piece = |blob: Vec<u8>, remaining_bytes: u64| {
        let version = SERVER_VERSION.to_owned();
        let response = SnapshotResponse { header, remaining_bytes, blob: blob.into(), version };
        pieces.blocking_send(Ok(response)).is_ok()
    };
    while left > 0 {
        let mut blob = vec![0; PIECE_BYTES.min(usize::try_from(left).unwrap_or(PIECE_BYTES))];
        file.read_exact(&mut blob)?;
        hasher.update(&blob);
        left -= blob.len() as u64;
        if !piece(blob, left) {
            return Ok(());
        }
    }
    piece(hasher.finalize().to_vec(), 0);
    Ok(())
}

/// A member to save from, and how to reach it.
#[derive(Clone, Debug, Default)]
pub struct SaveOptions {
    /// URL of the member.
    pub endpoint: String,
    /// Authority the member's certificate must come from; none for plain text.
    pub cacert: Option<PathBuf>,
    /// Certificate to show.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// `name:password`, where users are required.
    pub user: Option<String>,
}

impl SaveOptions {
    fn channel(&self) -> Result<Channel, Error> {
        let failed = |error: &dyn std::fmt::Display| {
            Error::new(tonic::Code::Unavailable, format!("{}: {error}", self.endpoint))
        };
        let endpoint = |url: String| Endpoint::from_shared(url).map_err(|error| failed(&error));
        if !self.endpoint.starts_with("https://") {
            return Ok(endpoint(self.endpoint.clone())?.connect_lazy());
        }
        if self.cacert.is_none() {
            return Err(failed(&"an https endpoint needs --cacert"));
        }
        let files = TlsFiles {
            cert_file: self.cert.clone(),
            key_file: self.key.clone(),
            trusted_ca_file: self.cacert.clone(),
            ..TlsFiles::default()
        };
        let tls = ClientTls::for_client(&files).map_err(|error| failed(&error))?;
        // TLS is done by the connector underneath.
        Ok(tls.connect_lazy(endpoint(self.endpoint.replacen("https://", "http://", 1))?))
    }

    async fn token(&self, channel: &Channel) -> Result<Option<String>, Error> {
        let Some(user) = &self.user else { return Ok(None) };
        let (name, password) = user
            .split_once(':')
            .ok_or_else(|| Error::new(tonic::Code::InvalidArgument, "--user is name:password".to_owned()))?;
        let request = AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
        let answer = AuthClient::new(channel.clone()).authenticate(request).await?;
        Ok(Some(answer.into_inner().token))
    }
}

/// Saves the state of a running member into a file; returns its size. The file appears under its name only when it
/// is complete and its checksum is right.
///
/// # Errors
/// The member's, or the disk's as text.
pub async fn save(options: &SaveOptions, file: &Path) -> Result<u64, Error> {
    let channel = options.channel()?;
    let mut request = tonic::Request::new(SnapshotRequest {});
    if let Some(token) = options.token(&channel).await? {
        let token = token.parse().map_err(Error::internal)?;
        request.metadata_mut().insert("token", token);
    }
    let mut pieces = MaintenanceClient::new(channel).snapshot(request).await?.into_inner();
    let draft = beside(file, ".part");
    // It holds everything, passwords' hashes too: its owner's alone, whoever made a draft of that name before.
    if draft.exists() {
        fs::remove_file(&draft).map_err(Error::internal)?;
    }
    let options = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft);
    let mut out = options.map_err(Error::internal)?;
    let mut size = 0;
    while let Some(piece) = pieces.message().await? {
        out.write_all(&piece.blob).map_err(Error::internal)?;
        size += piece.blob.len() as u64;
    }
    out.sync_all().map_err(Error::internal)?;
    restore::check_file(&draft, false).map_err(Error::internal)?;
    fs::rename(&draft, file).map_err(Error::internal)?;
    Ok(size)
}

/// Makes a data directory from a snapshot file.
///
/// # Errors
/// When the file is damaged or no snapshot, or the directory holds a member already. Nothing is left half done
/// under the directory's name.
pub fn restore(options: &RestoreOptions) -> Result<Contents, RestoreError> {
    restore::restore(options, RestoreChanges::default())
}

/// The same, with changes.
///
/// # Errors
/// As [`restore`].
pub fn restore_changed(options: &RestoreOptions, changes: RestoreChanges) -> Result<Contents, RestoreError> {
    restore::restore(options, changes)
}

/// The path with something behind its whole name: `a.1` and `a.2` have different ones.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// What a snapshot file holds.
///
/// # Errors
/// When the file is damaged or no snapshot.
pub fn status(file: &Path) -> Result<Contents, RestoreError> {
    restore::inspect(file)
}
