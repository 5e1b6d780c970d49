//! The `quarterdeck` binary: one program, every role of a cluster.
//!
//! This crate chooses and wires: it reads flags, prepares certificates and joins, starts the roles' own entry points
//! and stops them in order. What a role does is in the role's crate.

mod agent;
mod cli;
mod config_file;
mod failure;
mod footprint;
mod https;
mod kubeconfig;
mod logging;
mod ops;
mod pki;
mod preflight;
mod server;
mod shutdown;
mod token;
mod up;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = match config_file::expand(std::env::args_os().collect()) {
        Ok(args) => args,
        Err(failure) => return failure.report(),
    };
    let cli = cli::parse(args);
    let (format, level) = cli.logging();
    logging::start(format, &level);
    if cli.command.is_role() {
        footprint::keep_small();
        footprint::give_back_after_start();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return failure::Failure::new(format!("the thread pool does not start: {error}"))
                .mend("raise the process limit (ulimit -u)")
                .report();
        }
    };
    match runtime.block_on(cli::dispatch(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
