//! The commands that look at a running cluster or change it: status, tokens, kubeconfigs, backup, restore, draining.

pub mod backup;
pub mod drain_server;
pub mod kubeconfig;
pub mod status;
pub mod store;
mod table;
pub mod token;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use kube::Client;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::failure::{Failure, Result};
use crate::server::layout::{Layout, State};

/// Which server of this machine a command speaks to.
#[derive(Args, Clone, Debug)]
pub struct Here {
    /// The data directory of a server on this machine.
    #[arg(long, global = true, env = "QUARTERDECK_DATA_DIR", default_value = "/var/lib/quarterdeck/server")]
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

/// An API server that has not answered by then is taken as down.
const READY_LIMIT: Duration = Duration::from_secs(5);

/// Whether `/readyz` says ok.
pub async fn is_ready(client: &Client) -> bool {
    let Ok(request) = http::Request::get("/readyz").body(Vec::new()) else { return false };
    let answer = tokio::time::timeout(READY_LIMIT, client.request_text(request)).await;
    answer.is_ok_and(|answer| answer.is_ok_and(|text| text == "ok"))
}

/// How many nodes are Ready, and how many there are.
pub async fn count_nodes(client: &Client) -> Result<(usize, usize)> {
    let nodes: Api<Node> = Api::all(client.clone());
    let nodes = nodes.list(&ListParams::default()).await?.items;
    Ok((nodes.iter().filter(|node| node_is_ready(node)).count(), nodes.len()))
}

pub fn node_is_ready(node: &Node) -> bool {
    ready_condition(node).is_some_and(|condition| condition.status == "True")
}

/// What the node last said of its readiness.
pub fn ready_condition(node: &Node) -> Option<&NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == "Ready")
}

/// A client of the administrator for one API server.
pub async fn admin_client(layout: &Layout, api_url: &str) -> Result<Client> {
    let mut kubeconfig = Kubeconfig::read_from(layout.admin_kubeconfig())?;
    for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        cluster.server = Some(api_url.to_owned());
    }
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// A client of the administrator for the first API server that is ready, this machine's own first.
pub async fn any_client(layout: &Layout, state: &State) -> Result<Client> {
    for (_, addresses) in state.everywhere() {
        let client = admin_client(layout, &addresses.api_url).await?;
        if is_ready(&client).await {
            return Ok(client);
        }
    }
    let asked: Vec<&str> = state.everywhere().map(|(_, addresses)| addresses.api_url.as_str()).collect();
    Err(Failure::new(format!("no API server is ready (asked {})", asked.join(", ")))
        .mend("start the servers; a majority of them must run"))
}
