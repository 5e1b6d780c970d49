//! Everything a machine needs in one process: a container runtime, kubelet, service proxy, cluster DNS and pod
//! network.
//!
//! [`run`] is what `quarterdeck agent` calls; [`run_kubelet_only`] is the drop-in beside an upstream control
//! plane. Ending either leaves containers running; only [`Settings::teardown`] clears the machine.

mod host_ports;

mod network;

mod teardown;

use std::path::PathBuf;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use crate::cli::{AnyError, KubeletArgs, resolve};
use crate::kubelet::certificates::{self, NodeClient};
use crate::kubelet::config::Config;
use crate::kubelet::run::{Kubelet, start};
use crate::runtime::bundled;
use crate::runtime::supervisor::{self, Supervisor};

/// The bridge of the pod network.
const BRIDGE: &str = "qd0";

/// What the whole agent needs beyond the kubelet's flags.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Ranges of all pods, one or a dual-stack pair separated by a comma.
    pub cluster_cidr: String,
    /// Ranges of services, likewise.
    pub service_cidr: String,
    /// Name servers for what is not in the cluster.
    pub outside_names: crate::dns::Outside,
    /// At the end, remove every pod, mount, rule and interface, and stop the runtime this agent started.
    pub teardown: bool,
}

/// Runs the whole agent until the token fires.
pub async fn run(args: KubeletArgs, settings: Settings, shutdown: CancellationToken) -> Result<(), AnyError> {
    let mut config = resolve(&args)?;
    let supervisor = runtime_for(&args, &mut config, &shutdown).await?;
    let client = certificates::client(&args, &config, &shutdown).await?;
    // The pods' network goes first: without it the node is not ready.
    let network = network::start(&client.client, &config, &settings, supervisor.as_ref(), &shutdown)?;
    let kubelet = start_kubelet(config.clone(), &args, client, &shutdown).await?;
    let ports = tokio::spawn(host_ports::run(
        std::sync::Arc::clone(&kubelet.pool),
        network::cni_conf_dir(supervisor.as_ref()),
        shutdown.clone(),
    ));
    notify_ready();
    kubelet.ended().await;
    network.ended().await;
    ports.await?;
    if settings.teardown {
        teardown::run(&config, supervisor).await;
    }
    Ok(())
}

/// Runs a kubelet alone until the token fires.
pub async fn run_kubelet_only(args: KubeletArgs, shutdown: CancellationToken) -> Result<(), AnyError> {
    let config = resolve(&args)?;
    let client = certificates::client(&args, &config, &shutdown).await?;
    let kubelet = start_kubelet(config, &args, client, &shutdown).await?;
    notify_ready();
    kubelet.ended().await;
    Ok(())
}

async fn start_kubelet(
    config: Config,
    args: &KubeletArgs,
    client: NodeClient,
    shutdown: &CancellationToken,
) -> Result<Kubelet, AnyError> {
    let kubelet = start(config.clone(), client.client.clone(), shutdown.clone()).await?;
    tokio::spawn(certificates::keep_current(
        client,
        config,
        args.clone(),
        std::sync::Arc::clone(&kubelet.serving),
        shutdown.clone(),
    ));
    Ok(kubelet)
}

/// Takes the runtime that was named, or starts one of its own, and brings the bundled images into it. A runtime that
/// happens to run on the machine is left alone: it has its own network configuration and its own images.
async fn runtime_for(
    args: &KubeletArgs,
    config: &mut Config,
    shutdown: &CancellationToken,
) -> Result<Option<Supervisor>, AnyError> {
    let named = args.container_runtime_endpoint.clone();
    if let Some(endpoint) = named.filter(|endpoint| !supervisor::is_own(&config.root_dir, endpoint)) {
        // Another runtime may be none of containerd's kind, or may get its images elsewhere.
        if let Err(error) = bundled::import_all(&endpoint, &config.root_dir).await {
            tracing::warn!(%error, endpoint, "the bundled images are not in the given runtime");
        }
        config.runtime_endpoint = endpoint;
        return Ok(None);
    }
    let supervisor = Supervisor::start(&config.root_dir, shutdown.clone()).await?;
    config.runtime_endpoint = supervisor.endpoint();
    bundled::import_all(&config.runtime_endpoint, &supervisor.paths().root).await?;
    Ok(Some(supervisor))
}

/// Tells systemd, where it started us, that the node serves.
fn notify_ready() {
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        tracing::debug!(%error, "no one to notify");
    }
}

/// Where a file of the agent's own is.
fn agent_file(config: &Config, name: &str) -> PathBuf {
    config.root_dir.join(name)
}
