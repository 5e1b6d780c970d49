//! The command line: every role and every operation, each with the help that teaches it.

use std::ffi::OsString;

use clap::{CommandFactory, Parser, Subcommand};

use crate::agent::options::AgentOptions;
use crate::failure::{Result, role};
use crate::logging::LogFormat;
use crate::ops::backup::{BackupOptions, RestoreOptions};
use crate::ops::drain_server::DrainServerOptions;
use crate::ops::kubeconfig::KubeconfigOptions;
use crate::ops::status::StatusOptions;
use crate::ops::token::TokenOptions;
use crate::server::options::ServerOptions;
use crate::up::UpOptions;
use crate::{agent, config_file, ops, server, shutdown, up};

const AFTER_HELP: &str = "\
Try it on this machine:     quarterdeck up
Three machines:             quarterdeck server --init                 (first)
                            quarterdeck token create --role server    (on the first; prints a token for servers)
                            quarterdeck server --token TOKEN          (second and third)
                            quarterdeck token create                  (on any; prints a token for agents)
                            quarterdeck agent --token TOKEN           (every node)
Look:                       quarterdeck status, quarterdeck kubeconfig
In place of one component:  quarterdeck store|apiserver|scheduler|controller-manager|kubelet|proxy, with its own flags

Every flag of server, agent and up can also stand in the file given with --config (a YAML map of flag names to values)
or in the environment (QUARTERDECK_ and the flag's name in capitals). A flag beats the environment, which beats the
file.

Exit status: 0 well, 1 failed (one sentence says why, a second how to mend it), 2 wrong usage, 3 this server was taken
out of its cluster.";

/// A Kubernetes control plane and node agent on its own etcd-compatible store, in one binary.
#[derive(Parser, Debug)]
#[command(name = "quarterdeck", bin_name = "quarterdeck", version, after_help = AFTER_HELP)]
pub struct Cli {
    /// Text for people or JSON for machines; `auto` looks whether a terminal reads.
    #[arg(long, global = true, env = "QUARTERDECK_LOG_FORMAT", value_enum, default_value_t = LogFormat::Auto)]
    pub log_format: LogFormat,
    /// What is logged, such as `info` or `info,raft_store=debug`.
    #[arg(long, global = true, env = "QUARTERDECK_LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// How the log looks and what is in it. The store has etcd's own flags for that, and they come first.
    pub fn logging(&self) -> (LogFormat, String) {
        let said = match &self.command {
            Command::Store(args) => args.log(),
            _ => raft_store::cli::LogSettings::default(),
        };
        let format = match said.is_json {
            Some(true) => LogFormat::Json,
            Some(false) => LogFormat::Text,
            None => self.log_format,
        };
        (format, said.level.unwrap_or_else(|| self.log_level.clone()))
    }
}

#[derive(Subcommand, Debug)]
pub enum Command {
    Up(UpOptions),
    Server(Box<ServerOptions>),
    Agent(Box<AgentOptions>),
    Status(StatusOptions),
    Token(TokenOptions),
    Kubeconfig(KubeconfigOptions),
    Backup(BackupOptions),
    Restore(RestoreOptions),
    DrainServer(DrainServerOptions),
    /// The etcd v3 server, in place of etcd.
    Store(Box<raft_store::cli::Args>),
    /// The API server, in place of kube-apiserver.
    Apiserver(Box<apiserver::cli::Args>),
    /// The scheduler, in place of kube-scheduler.
    Scheduler(Box<scheduler::cli::Args>),
    /// The controllers, in place of kube-controller-manager.
    ControllerManager(Box<controllers::cli::Args>),
    /// The node agent's pod half, in place of kubelet.
    Kubelet(Box<node::cli::KubeletArgs>),
    /// The service proxy, in place of kube-proxy.
    Proxy(Box<node::proxy::cli::Args>),
    /// Prints a completion script for a shell.
    ///
    /// For bash: `quarterdeck completion bash >/usr/share/bash-completion/completions/quarterdeck` (`make install` does it).
    Completion {
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Whether this process is a role's, which runs for long.
    pub fn is_role(&self) -> bool {
        matches!(
            self,
            Command::Server(_)
                | Command::Agent(_)
                | Command::Store(_)
                | Command::Apiserver(_)
                | Command::Scheduler(_)
                | Command::ControllerManager(_)
                | Command::Kubelet(_)
                | Command::Proxy(_)
        )
    }
}

/// Parses, or prints help or a usage error and ends the process as clap does.
pub fn parse(args: Vec<OsString>) -> Cli {
    Cli::parse_from(with_double_dashes(args))
}

/// The store's flags may have one dash, as etcd's; those of the Kubernetes components never had.
fn with_double_dashes(mut args: Vec<OsString>) -> Vec<OsString> {
    if let Some(at) = config_file::subcommand(&args).filter(|at| args[*at] == "store") {
        let flags = args.split_off(at + 1);
        args.extend(raft_store::cli::double_dashes(flags));
    }
    args
}

pub async fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Up(options) => up::run(options).await,
        Command::Server(options) => server::run(*options).await,
        Command::Agent(options) => agent::run(*options).await,
        Command::Status(options) => ops::status::run(options).await,
        Command::Token(options) => ops::token::run(options).await,
        Command::Kubeconfig(options) => ops::kubeconfig::run(options).await,
        Command::Backup(options) => ops::backup::backup(options).await,
        Command::Restore(options) => ops::backup::restore(options).await,
        Command::DrainServer(options) => ops::drain_server::run(options).await,
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "quarterdeck", &mut std::io::stdout());
            Ok(())
        }
        component => run_component(component).await,
    }
}

/// The drop-ins: each crate's own flags and entry point.
async fn run_component(command: Command) -> Result<()> {
    let stop = shutdown::on_signal()?;
    match command {
        Command::Store(args) => raft_store::cli::run(*args, stop).await.map_err(|error| role("store", error)),
        Command::Apiserver(args) => {
            apiserver::cli::run(*args, stop).await.map_err(|error| role("apiserver", error))
        }
        Command::Scheduler(args) => {
            scheduler::cli::run(*args, stop).await.map_err(|error| role("scheduler", error))
        }
        Command::ControllerManager(args) => {
            controllers::cli::run(*args, stop).await.map_err(|error| role("controller-manager", error))
        }
        Command::Kubelet(args) => {
            node::cli::run_kubelet(*args, stop).await.map_err(|error| role("kubelet", error))
        }
        Command::Proxy(args) => {
            node::proxy::cli::run(*args, stop).await.map_err(|error| role("proxy", error))
        }
        other => unreachable!("dispatch handles {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_stores_flags_alone_may_have_one_dash() {
        let cases = [
            ("quarterdeck store -name x -auto-tls=false", Some("x")),
            ("quarterdeck --log-level warn --log-format=json store -name=x -data-dir /d", Some("x")),
            ("quarterdeck --log-level store store -name=x", Some("x")),
            ("quarterdeck store --name=x -log-level debug", Some("x")),
            ("quarterdeck store -no-such-flag=x", None),
            ("quarterdeck apiserver -etcd-servers=http://127.0.0.1:1", None),
            ("quarterdeck status -name x", None),
        ];
        for (line, expected) in cases {
            let args = with_double_dashes(line.split(' ').map(OsString::from).collect());
            let name = Cli::try_parse_from(args).ok().map(|cli| match cli.command {
                Command::Store(args) => args.config().unwrap().name,
                other => panic!("{line}: {other:?}"),
            });
            assert_eq!(name.as_deref(), expected, "{line}");
        }
    }
}
