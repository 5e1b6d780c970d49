//! The controllers alone, against any API server: for benchmarks and the tour. The product's binary is `quarterdeck`.

use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), controllers::cli::AnyError> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let args = controllers::cli::Args::from_flags(std::env::args().skip(1))?;
    let stop = CancellationToken::new();
    let on_signal = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            on_signal.cancel();
        }
    });
    controllers::cli::run(args, stop).await
}
