//! `quarterdeck backup` and `quarterdeck restore`: the store's snapshot with the authorities and the cluster's state,
//! in one file. Whoever holds it holds the cluster's keys.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use proto::etcdserverpb::SnapshotRequest;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;

use super::{Here, store};
use crate::failure::{At, Failure, Result};
use crate::pki::files::{create_private, keep_to_owner};
use crate::server::join::check_name;
use crate::server::layout::{Layout, State};
use crate::token::random_word;

/// The snapshot's name inside the file.
const SNAPSHOT: &str = "store.snapshot";
const STATE: &str = "state.json";
const PKI: &str = "pki";
/// Where a backup is unpacked, inside the data directory.
const UNPACKED: &str = "restore.new";

/// Writes a backup of the whole cluster to one file: all objects, the authorities and the cluster's state.
///
/// Taken from a running cluster, at one revision of the store; works while this machine's own server is down if another
/// answers. Of the servers that answer one is asked that has all changes; where no majority is left any one is, and a
/// warning says so. Keep it as secret as the cluster itself.
#[derive(Args, Clone, Debug)]
pub struct BackupOptions {
    #[command(flatten)]
    here: Here,
    /// The file to write (a gzipped tar).
    file: PathBuf,
}

/// Makes an empty data directory the first server of the cluster that a backup holds.
///
/// All objects come back with their revisions, with the authorities, keys and tokens, so that agents and kubeconfigs go
/// on working. Start it with `quarterdeck server` afterwards; empty the data directories of the other servers and let
/// them join afresh with --token.
#[derive(Args, Clone, Debug)]
pub struct RestoreOptions {
    #[command(flatten)]
    here: Here,
    /// The file that `quarterdeck backup` wrote.
    file: PathBuf,
    /// The server's name; by default the one that made the backup.
    #[arg(long)]
    name: Option<String>,
    /// `https://address:port` of this server's store for other members; by default that of the server that made the
    /// backup.
    #[arg(long)]
    peer_url: Option<String>,
}

pub async fn backup(options: BackupOptions) -> Result<()> {
    keep_to_owner();
    let (layout, state) = options.here.load()?;
    let mut beside = options.file.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let snapshot = layout.root().join(SNAPSHOT).with_extension("backup");
    let fetched = fetch_snapshot(&layout, &state, &snapshot).await;
    let packed = fetched.and_then(|()| pack(&layout, &snapshot, &beside));
    // The temporary files go whatever happened; the outcome is reported.
    if snapshot.exists() {
        std::fs::remove_file(&snapshot).at("remove", &snapshot)?;
    }
    match packed {
        Ok(()) => {
            std::fs::rename(&beside, &options.file).at("rename into place", &options.file)?;
            let bytes = std::fs::metadata(&options.file).at("look at", &options.file)?.len();
            println!("{} holds the cluster ({bytes} bytes)", options.file.display());
            Ok(())
        }
        Err(failure) => {
            if beside.exists() {
                std::fs::remove_file(&beside).at("remove", &beside)?;
            }
            Err(failure)
        }
    }
}

async fn fetch_snapshot(layout: &Layout, state: &State, path: &Path) -> Result<()> {
    let channel = match store::connect_current(layout, state).await {
        Some(channel) => channel,
        None => {
            let channel = store::connect_long(layout, state).await?;
            eprintln!(
                "quarterdeck: no majority of the servers answers; the backup holds what one server knows, which may lack \
                 the last changes"
            );
            channel
        }
    };
    let mut parts = MaintenanceClient::new(channel).snapshot(SnapshotRequest {}).await?.into_inner();
    let mut file = create_private(path)?;
    while let Some(part) = parts.message().await? {
        file.write_all(&part.blob).at("write", path)?;
    }
    file.sync_all().at("sync", path)
}

fn pack(layout: &Layout, snapshot: &Path, to: &Path) -> Result<()> {
    let file = create_private(to)?;
    let mut tar = tar::Builder::new(GzEncoder::new(file, Compression::fast()));
    tar.append_path_with_name(snapshot, SNAPSHOT).at("pack", snapshot)?;
    tar.append_path_with_name(layout.root().join(STATE), STATE).at("pack", layout.root())?;
    tar.append_dir_all(PKI, layout.pki()).at("pack", &layout.pki())?;
    let file = tar.into_inner().and_then(GzEncoder::finish).at("write", to)?;
    file.sync_all().at("sync", to)
}

pub async fn restore(options: RestoreOptions) -> Result<()> {
    let layout = Layout::new(&options.here.data_dir);
    if layout.load()?.is_some() {
        return Err(Failure::new(format!("{} is already a server's", layout.root().display()))
            .mend("give an empty --data-dir"));
    }
    for taken in [layout.pki(), layout.store()] {
        if taken.exists() {
            return Err(Failure::new(format!("{} is there already", taken.display()))
                .mend("give an empty --data-dir"));
        }
    }
    keep_to_owner();
    restore_within(&options, &layout)?;
    println!("{} is restored; start it with `quarterdeck server`", layout.root().display());
    Ok(())
}

/// Unpacks inside the data directory, which may be a file system of its own, and takes away what is not needed.
fn restore_within(options: &RestoreOptions, layout: &Layout) -> Result<()> {
    let found = layout.root().exists();
    let unpacked = layout.root().join(UNPACKED);
    if unpacked.exists() {
        std::fs::remove_dir_all(&unpacked).at("remove the leftover", &unpacked)?;
    }
    let outcome = restore_into(options, layout, &unpacked);
    if unpacked.exists() {
        std::fs::remove_dir_all(&unpacked).at("remove", &unpacked)?;
    }
    if outcome.is_err() && !found && layout.root().exists() {
        // Made above; it stays where something else is in it, and the failure that is told is the first.
        let _ = std::fs::remove_dir(layout.root());
    }
    outcome
}

fn restore_into(options: &RestoreOptions, layout: &Layout, unpacked: &Path) -> Result<()> {
    let file = File::open(&options.file).at("read", &options.file)?;
    std::fs::create_dir_all(unpacked).at("create", unpacked)?;
    let wrong = |why: String| {
        Failure::new(format!("{} is not a whole backup{why}", options.file.display()))
            .mend("give a file that `quarterdeck backup` wrote, and see that the disk has room for it")
    };
    let mut archive = tar::Archive::new(GzDecoder::new(file));
    archive.unpack(unpacked).map_err(|error| wrong(format!(": {error}")))?;
    let mut state = Layout::new(unpacked).load()?.ok_or_else(|| wrong(String::new()))?;
    if let Some(name) = &options.name {
        check_name(name)?;
        state.name.clone_from(name);
    }
    let peer_url = match &options.peer_url {
        Some(url) => url.clone(),
        None => own_peer_url(&state).ok_or_else(|| {
            Failure::new("the backup does not say the server's peer address").mend("give --peer-url")
        })?,
    };
    // Servers of the old cluster that still run must not take this one, which has the same name and address and lacks
    // their newest changes, for their member: the store's identity is made of this.
    state.cluster_id = random_word(16);
    state.initial_cluster = format!("{}={peer_url}", state.name);
    state.initial_cluster_state = "new".to_owned();
    state.servers.clear();
    state.removed = false;
    raft_store::backup::restore(&raft_store::backup::RestoreOptions {
        snapshot: unpacked.join(SNAPSHOT),
        data_dir: layout.store(),
        name: state.name.clone(),
        initial_cluster: state.initial_cluster.clone(),
        initial_cluster_token: state.cluster_id.clone(),
        peer_url,
    })?;
    std::fs::rename(unpacked.join(PKI), layout.pki()).at("rename into place", &layout.pki())?;
    layout.save(&state)
}

fn own_peer_url(state: &State) -> Option<String> {
    let entries = state.initial_cluster.split(',').filter_map(|entry| entry.split_once('='));
    entries.filter(|(name, _)| *name == state.name).map(|(_, url)| url.to_owned()).next()
}
