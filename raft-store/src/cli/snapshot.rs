//! `snapshot save`, `restore` and `status`.

use std::path::PathBuf;

use clap::Subcommand;

use super::CliError;
use crate::backup::{self, RestoreChanges, RestoreOptions, SaveOptions};

/// Work on snapshot files.
#[derive(Clone, Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Saves the state of a running member into a file.
    Save {
        /// The file.
        file: PathBuf,
        /// URL of the member.
        #[arg(long, alias = "endpoints", env = "ETCDCTL_ENDPOINTS", default_value = "http://127.0.0.1:2379")]
        endpoint: String,
        /// Authority of the member's certificate.
        #[arg(long, env = "ETCDCTL_CACERT")]
        cacert: Option<PathBuf>,
        /// Certificate to show to the member.
        #[arg(long, env = "ETCDCTL_CERT")]
        cert: Option<PathBuf>,
        /// Its key.
        #[arg(long, env = "ETCDCTL_KEY")]
        key: Option<PathBuf>,
        /// name:password, where users are required.
        #[arg(long, env = "ETCDCTL_USER", hide_env_values = true)]
        user: Option<String>,
    },
    /// Makes a data directory from a snapshot file, of this store or of etcd.
    Restore {
        /// The file.
        file: PathBuf,
        /// The new data directory; by default the name and `.etcd`.
        #[arg(long)]
        data_dir: Option<PathBuf>,
        /// Name of the member.
        #[arg(long, default_value = "default")]
        name: String,
        /// Founding members of the restored cluster.
        #[arg(long, default_value = "default=http://localhost:2380")]
        initial_cluster: String,
        /// Token of the restored cluster.
        #[arg(long, default_value = "etcd-cluster")]
        initial_cluster_token: String,
        /// Peer URLs of the member, comma-separated.
        #[arg(long, default_value = "http://localhost:2380")]
        initial_advertise_peer_urls: String,
        /// Take a file without a checksum: one copied from a data directory.
        #[arg(long)]
        skip_hash_check: bool,
        /// How much later revisions go on.
        #[arg(long, default_value_t = 0)]
        bump_revision: u32,
        /// Let everything count as compacted; required with --bump-revision, and refused without.
        #[arg(long)]
        mark_compacted: bool,
    },
    /// Prints hash, revision, number of keys and size of a file.
    Status {
        /// The file.
        file: PathBuf,
    },
}

/// Carries out a command.
pub async fn run(command: &SnapshotCommand) -> Result<(), CliError> {
    match command.clone() {
        SnapshotCommand::Save { file, endpoint, cacert, cert, key, user } => {
            let options = SaveOptions { endpoint, cacert, cert, key, user };
            let bytes = backup::save(&options, &file).await?;
            println!("Snapshot saved at {} ({bytes} bytes)", file.display());
        }
        SnapshotCommand::Restore {
            file,
            data_dir,
            name,
            initial_cluster,
            initial_cluster_token,
            initial_advertise_peer_urls,
            skip_hash_check,
            bump_revision,
            mark_compacted,
        } => {
            if mark_compacted != (bump_revision > 0) {
                return Err("--bump-revision and --mark-compacted need each other".into());
            }
            let changes = RestoreChanges { skip_hash_check, bump_revision };
            let options = RestoreOptions {
                snapshot: file,
                data_dir: data_dir.unwrap_or_else(|| format!("{name}.etcd").into()),
                name,
                initial_cluster,
                initial_cluster_token,
                peer_url: initial_advertise_peer_urls,
            };
            let restored =
                tokio::task::spawn_blocking(move || backup::restore_changed(&options, changes)).await??;
            println!("Restored {} keys at revision {}", restored.keys, restored.revision);
        }
        SnapshotCommand::Status { file } => {
            let status = tokio::task::spawn_blocking(move || backup::status(&file)).await??;
            println!("{:x}, {}, {}, {}", status.hash, status.revision, status.keys, status.size);
        }
    }
    Ok(())
}
