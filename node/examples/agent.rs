//! A whole agent (kubelet, service proxy, pod network, cluster DNS) without the one binary, for trying this crate beside
//! any control plane: the flags are the kubelet's, and three of its own.

use clap::Parser;
use tokio_util::sync::CancellationToken;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: node::cli::KubeletArgs,
    /// Ranges of all pods.
    #[arg(long, default_value = "")]
    cluster_cidr: String,
    /// Ranges of services.
    #[arg(long, default_value = "")]
    service_cidr: String,
    /// Clear the machine at the end.
    #[arg(long)]
    teardown: bool,
}

#[tokio::main]
async fn main() -> Result<(), node::cli::AnyError> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        token.cancel();
    });
    let command = Command::parse();
    let settings = node::agent::Settings {
        cluster_cidr: command.cluster_cidr,
        service_cidr: command.service_cidr,
        outside_names: node::dns::Outside::default(),
        teardown: command.teardown,
    };
    node::agent::run(command.args, settings, shutdown).await
}
