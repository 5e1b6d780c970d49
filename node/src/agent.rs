//! Everything a machine needs in one process: kubelet, service proxy, cluster DNS and pod network.
//!
//! [`run`] is what `quarterdeck agent` calls; [`run_kubelet_only`] is the drop-in beside an upstream control
//! plane.

use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::cli::{AnyError, KubeletArgs, resolve};
use crate::kubelet::run::start;

/// Runs a kubelet alone until the token fires.
pub async fn run_kubelet_only(args: KubeletArgs, shutdown: CancellationToken) -> Result<(), AnyError> {
    let config = resolve(&args)?;
    let client = client(&args).await?;
    let kubelet = start(config, client, shutdown).await?;
    kubelet.ended().await;
    Ok(())
}

async fn client(args: &KubeletArgs) -> Result<Client, AnyError> {
    let path = args.kubeconfig.clone().ok_or("--kubeconfig is missing")?;
    let file = kube::config::Kubeconfig::read_from(path)?;
    let config =
        kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}
