//! Runs the API server alone, for trying clients against it: `serve --etcd-servers=http://127.0.0.1:2379 …`. The
//! allocator is the binary's, so that measurements mean the same.

use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let args = apiserver::cli::Args::from_flags(std::env::args().skip(1))?;
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        token.cancel();
    });
    apiserver::cli::run(args, shutdown).await
}
