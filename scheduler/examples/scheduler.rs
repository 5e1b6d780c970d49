//! The scheduler alone, as a program: kube-scheduler's flags on the library. Harnesses run it beside upstream's.

use clap::Parser;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: scheduler::cli::Args,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let shutdown = tokio_util::sync::CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    scheduler::cli::run(Command::parse().args, shutdown).await
}
