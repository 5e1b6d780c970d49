//! `chaos`: attacks a store under a seed and says whether it kept its promises.

mod commands;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};
use commands::{controls, gaps, matrix, run, simulate};

/// Jepsen-style runs against real members, and deterministic simulations of them.
#[derive(Parser)]
#[command(name = "chaos")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
    Simulate(simulate::Args),
    Matrix(matrix::Args),
    Controls(controls::Args),
    Gaps(gaps::Args),
    /// Carries out what the harness says, line by line: a client in a process of its own.
    #[command(hide = true)]
    Client,
    /// List workloads and faults.
    List,
    /// A member of the store as it was built into this program: what `controls` starts.
    #[command(hide = true)]
    Store(raft_store::cli::Args),
}

/// The store's flags may have one dash, as etcd's.
fn arguments(mut typed: Vec<OsString>) -> Vec<OsString> {
    if typed.get(1).is_some_and(|command| command == "store") {
        let flags = typed.split_off(2);
        typed.extend(raft_store::cli::double_dashes(flags));
    }
    typed
}

fn main() -> ExitCode {
    // Before anything draws a random number.
    simulate::replace_entropy();
    let cli = Cli::parse_from(arguments(std::env::args_os().collect()));
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let outcome = match cli.command {
        Command::Run(args) => run::execute(&args),
        Command::Simulate(args) => simulate::execute(&args),
        Command::Matrix(args) => matrix::execute(&args),
        Command::Controls(args) => controls::execute(&args),
        Command::Gaps(args) => gaps::execute(&args),
        Command::Client => commands::client(),
        Command::List => {
            commands::list();
            Ok(true)
        }
        Command::Store(args) => commands::store(args),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error}");
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stores_flags_may_have_one_dash() {
        let cases = [
            ("chaos store -name x -data-dir=/d", true),
            ("chaos store --name x -client-cert-auth=false", true),
            ("chaos store -no-such-flag", false),
            ("chaos matrix -seed 1", false),
        ];
        for (line, is_taken) in cases {
            let parsed = Cli::try_parse_from(arguments(line.split(' ').map(OsString::from).collect()));
            assert_eq!(parsed.is_ok(), is_taken, "{line}");
        }
    }
}
