//! The commands that look at a running cluster or change it: status, tokens, kubeconfigs, backup, restore, draining.

pub mod backup;
pub mod drain_server;
pub mod kubeconfig;
pub mod status;
pub mod store;
pub mod token;

use std::path::{Path, PathBuf};

use clap::Args;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::failure::{Failure, Result};
use crate::server::layout::{Layout, State};

/// Which server of this machine a command speaks to.
#[derive(Args, Clone, Debug)]
pub struct Here {
    /// The data directory of a server on this machine.
    #[arg(long, env = "QUARTERDECK_DATA_DIR", default_value = "/var/lib/quarterdeck/server")]
    pub data_dir: PathBuf,
}

impl Here {
    /// The server's layout and state.
    pub fn load(&self) -> Result<(Layout, State)> {
        let layout = Layout::new(&self.data_dir);
        let state = layout.load()?.ok_or_else(|| {
            Failure::new(format!("no server lives in {}", self.data_dir.display()))
                .mend("run this on a server, or name its directory with --data-dir")
        })?;
        Ok((layout, state))
    }
}

/// A client from a kubeconfig file, with its current context.
pub async fn client_from(path: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(path)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Whether `/readyz` says ok.
pub async fn is_ready(client: &Client) -> bool {
    let Ok(request) = http::Request::get("/readyz").body(Vec::new()) else { return false };
    client.request_text(request).await.is_ok_and(|text| text == "ok")
}
