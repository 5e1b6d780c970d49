//! `bench`: the product beside upstream, in one run, as a table of ratios.
//!
//! Every benchmark drives both sides with the same client code, the same load and the same machine, one after the
//! other. None of them is a test: nothing here fails because a machine is slow.

mod apiserver;
mod control_plane;
mod controllers;
mod dns;
mod node_agent;
mod proxy;
mod scheduler;
mod store;
mod table;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Side-by-side benchmarks.
#[derive(Parser)]
#[command(name = "bench")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// etcd and our store, three members each.
    Store(store::Options),
    /// The service proxy with thousands of services, in a namespace of its own (root).
    Proxy(proxy::Options),
    /// The cluster's DNS server on one core.
    Dns(dns::Options),
    /// Pods' starts and the agent's memory on a real node of a running cluster (root).
    Node(node_agent::Options),
    /// kube-apiserver with etcd, and our API server with its embedded store.
    Apiserver(apiserver::Options),
    /// The controllers and kube-controller-manager, on our API server and hollow nodes.
    Controllers(controllers::Options),
    /// The scheduler's core on upstream's scheduler_perf cases.
    Scheduler(scheduler::Options),
    /// From creation through the API to binding: three upstream processes, and ours.
    SchedulerE2e(scheduler::end_to_end::Options),
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let outcome = match Cli::parse().command {
        Command::Store(options) => store::run(&options),
        Command::Proxy(options) => proxy::run(&options).map_err(|error| error as Box<dyn std::error::Error>),
        Command::Apiserver(options) => {
            apiserver::run(&options).map_err(|error| error as Box<dyn std::error::Error>)
        }
        Command::Controllers(options) => {
            controllers::run(&options).map_err(|error| error as Box<dyn std::error::Error>)
        }
        Command::Dns(options) => dns::run(&options).map_err(|error| error as Box<dyn std::error::Error>),
        Command::Node(options) => {
            node_agent::run(&options).map_err(|error| error as Box<dyn std::error::Error>)
        }
        Command::SchedulerE2e(options) => {
            scheduler::end_to_end::run(&options).map_err(|error| error as Box<dyn std::error::Error>)
        }
        Command::Scheduler(options) => {
            scheduler::run(&options).map_err(|error| error as Box<dyn std::error::Error>)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
