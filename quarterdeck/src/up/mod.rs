//! `quarterdeck up`: a whole cluster on this machine, for looking around: three servers and a node as child processes,
//! the examples applied, the service asked.
//!
//! Every child is the same binary with the flags a real machine would use; what works here works there.

mod children;
mod examples;
mod ground;
mod progress;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::agent::balancer::{self, Servers};
use crate::agent::health;
use crate::agent::memory::Memory;
use crate::failure::{Failure, Result};
use crate::kubeconfig::{self, Endpoint, Identity};
use crate::pki::files::read_text;
use crate::server::layout::Layout;
use children::{Child, Children};
use ground::Ground;
use progress::Progress;

/// A first start makes certificates and, on a cold disk, a store; seconds, but slow machines exist.
const READY_TIMEOUT: Duration = Duration::from_secs(90);
/// A server that ended is started again after this, as systemd would.
const RESTART_DELAY: Duration = Duration::from_secs(5);

/// The node joins at once.
const NODE_TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(1);
/// Upstream's thresholds are shares of the disk, made for machines that do nothing else; this one is somebody's own.
const EVICTION_HARD: &str = "memory.available<100Mi,nodefs.available<1Gi,imagefs.available<1Gi";

/// Starts a highly available cluster on this machine: three servers and a node. Ctrl-C ends it.
///
/// The node needs root and runs real containers with a containerd of its own; without that the nodes are hollow: pods are
/// scheduled and reported as running, and nothing runs. Another run goes on with the data of the last.
#[derive(Args, Clone, Debug)]
pub struct UpOptions {
    /// A file with values for these flags: a YAML map of flag names to values.
    #[arg(long, env = "QUARTERDECK_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the cluster lives between runs.
    #[arg(long, env = "QUARTERDECK_DATA_DIR", default_value = ".run")]
    data_dir: PathBuf,
    /// How many servers: 1, 3 or 5.
    #[arg(long, env = "QUARTERDECK_SERVERS", default_value_t = 3)]
    servers: usize,
    /// The port on 127.0.0.1 where kubectl reaches the cluster, whichever server is alive.
    #[arg(long, env = "QUARTERDECK_PORT", default_value_t = 6443)]
    port: u16,
    /// Manifests to apply, in the order of their file names.
    #[arg(long, env = "QUARTERDECK_EXAMPLES")]
    examples: Option<PathBuf>,
    /// Nodes without a container runtime, in place of a real one. Chosen by itself (with 3) where this user or machine
    /// cannot run containers.
    #[arg(long, env = "QUARTERDECK_HOLLOW_NODES")]
    hollow_nodes: Option<usize>,
    /// Remove what earlier runs left, and end.
    #[arg(long)]
    clean: bool,
    /// End once everything answers, instead of staying up (for tests).
    #[arg(long)]
    once: bool,
}

pub async fn run(options: UpOptions) -> Result<()> {
    if ![1, 3, 5].contains(&options.servers) {
        return Err(Failure::new(format!("--servers {} has no useful quorum", options.servers))
            .mend("choose 1, 3 or 5"));
    }
    let ground = Ground::survey(&options)?;
    if options.clean {
        return ground.clean();
    }
    ground.check()?;
    let shutdown = crate::shutdown::on_signal()?;
    crate::config_file::say(options.config.as_deref());
    ground.prepare()?;
    let mut children = Children::new(&ground.data_dir)?;
    let outcome = tokio::select! {
        outcome = bring_up(&options, &ground, &mut children, &shutdown) => outcome,
        () = shutdown.cancelled() => Ok(()),
    };
    let outcome = match outcome {
        Ok(()) if !options.once && !shutdown.is_cancelled() => {
            children.keep_alive(RESTART_DELAY, &shutdown).await;
            Ok(())
        }
        other => other,
    };
    eprintln!("stopping");
    // Nobody needs the relay from here on, nor warnings about servers that stop.
    shutdown.cancel();
    children.stop().await;
    ground.release();
    outcome
}

async fn bring_up(
    options: &UpOptions,
    ground: &Ground,
    children: &mut Children,
    shutdown: &CancellationToken,
) -> Result<()> {
    let mut progress = Progress::start();
    for remark in &ground.remarks {
        progress.note(remark);
    }
    let first = servers_up(ground, children, &mut progress).await?;
    let client = relay_up(ground, &first, shutdown).await?;
    nodes_up(ground, children, &client, &first, &mut progress).await?;
    if let Some(folder) = &options.examples {
        examples::apply(&client, folder, &mut progress).await?;
        examples::wait(&client, ground.hollow.is_none(), &mut progress).await?;
    }
    progress.summary(&ground.kubeconfig(), &children.pids());
    Ok(())
}

/// Starts every server, new ones one after the other, and waits for all. Returns the first one's directory.
async fn servers_up(ground: &Ground, children: &mut Children, progress: &mut Progress) -> Result<Layout> {
    let mut first: Option<Layout> = None;
    let mut starting = Vec::new();
    for (index, address) in ground.addresses.iter().enumerate() {
        let layout = Layout::new(&ground.server_dir(index));
        let introduction = match (layout.load()?, &first) {
            (Some(state), _) if state.removed => {
                progress.note(&format!("server-{} was taken out of the cluster and is left out", index + 1));
                continue;
            }
            (Some(_), _) => Introduction::Known,
            (None, None) => Introduction::Founder,
            (None, Some(first)) => {
                settle(ground, &mut starting, children, progress).await?;
                Introduction::Token(read_text(&first.token("server"))?)
            }
        };
        progress.begin(&format!("server-{} starts", index + 1));
        children.start(server_child(ground, index, *address, introduction)).await?;
        starting.push(index);
        first.get_or_insert(layout);
    }
    settle(ground, &mut starting, children, progress).await?;
    first.ok_or_else(|| {
        Failure::new("every server was taken out of the cluster").mend("start afresh with `make clean-run`")
    })
}

/// Waits for the servers that were started.
async fn settle(
    ground: &Ground,
    starting: &mut Vec<usize>,
    children: &mut Children,
    progress: &mut Progress,
) -> Result<()> {
    for index in starting.drain(..) {
        wait_ready(ground, index, children).await?;
        progress.step(&format!("server-{} is ready at https://{}:6443", index + 1, ground.addresses[index]));
    }
    Ok(())
}

/// Opens the relay, and writes the kubeconfig that goes through it.
async fn relay_up(ground: &Ground, first: &Layout, shutdown: &CancellationToken) -> Result<Client> {
    let servers = ground.addresses.iter().map(|address| SocketAddr::new(*address, 6443)).collect();
    let servers = Arc::new(Servers::new(servers));
    let pki = |name: &str| read_text(&first.pki_file(name));
    let (ca, cert, key) = (pki("ca.crt")?, pki("admin.crt")?, pki("admin.key")?);
    balancer::serve(ground.relay, servers.clone(), shutdown.clone()).await?;
    tokio::spawn(health::watch(servers, ca.clone(), shutdown.clone()));
    let identity = Identity::Certificate { cert: &cert, key: &key };
    let endpoint = Endpoint { context: "quarterdeck".to_owned(), url: format!("https://{}", ground.relay) };
    let config = kubeconfig::render("kubernetes-admin", &identity, &ca, &[endpoint]);
    kubeconfig::write(&ground.kubeconfig(), &config)?;
    crate::ops::client_from(&ground.kubeconfig()).await
}

/// How a server comes to the cluster.
enum Introduction {
    Known,
    Founder,
    Token(String),
}

fn server_child(ground: &Ground, index: usize, address: IpAddr, introduction: Introduction) -> Child {
    let name = format!("server-{}", index + 1);
    let args = vec![
        "server".to_owned(),
        format!("--name={name}"),
        format!("--data-dir={}", ground.server_dir(index).display()),
        format!("--bind-address={address}"),
        format!("--advertise-address={address}"),
    ];
    // A restart of the child must not start a second cluster: the data directory remembers.
    let (first_start_args, first_start_token) = match introduction {
        Introduction::Known => (Vec::new(), None),
        Introduction::Founder => (vec!["--init".to_owned()], None),
        Introduction::Token(token) => (Vec::new(), Some(token)),
    };
    Child { name, args, first_start_args, first_start_token }
}

async fn nodes_up(
    ground: &Ground,
    children: &mut Children,
    client: &Client,
    first: &Layout,
    progress: &mut Progress,
) -> Result<()> {
    let dir = ground.data_dir.join("agent");
    let mut args = vec!["agent".to_owned(), format!("--data-dir={}", dir.display())];
    let mut first_start_token = None;
    match ground.hollow {
        Some(count) => args.extend([
            format!("--hollow-nodes={count}"),
            format!("--hollow-kubeconfig={}", ground.kubeconfig().display()),
        ]),
        None => {
            args.extend([
                "--name=node-1".to_owned(),
                "--teardown".to_owned(),
                format!("--eviction-hard={EVICTION_HARD}"),
            ]);
            if Memory::load(&dir)?.is_none() {
                first_start_token = Some(agent_token(client, first).await?);
            }
        }
    }
    if let Some(address) = ground.node_address {
        args.push(format!("--node-ip={address}"));
    }
    progress.begin("the node starts");
    let since = Timestamp::now();
    let first_start_args = Vec::new();
    children.start(Child { name: "agent".into(), args, first_start_args, first_start_token }).await?;
    let expected = ground.hollow.unwrap_or(1);
    children.watched("agent", examples::nodes_ready(client, expected, since, READY_TIMEOUT)).await?;
    progress.step(&match ground.hollow {
        Some(count) => format!("{count} hollow nodes are Ready"),
        None => "node-1 is Ready, with a container runtime of its own".to_owned(),
    });
    Ok(())
}

async fn agent_token(client: &Client, first: &Layout) -> Result<String> {
    let state = first.load()?.ok_or_else(|| Failure::new("the first server has no state yet"))?;
    let token = crate::ops::token::create_agent_token(client, first, &state, Some(NODE_TOKEN_LIFE)).await?;
    Ok(token.to_string())
}

/// Waits until the server answers its own admin kubeconfig with a ready API, and has written its token, which is the
/// last it does.
async fn wait_ready(ground: &Ground, index: usize, children: &mut Children) -> Result<()> {
    let layout = Layout::new(&ground.server_dir(index));
    let name = format!("server-{}", index + 1);
    let ready = async {
        loop {
            if layout.token("server").exists()
                && let Ok(client) = crate::ops::client_from(&layout.admin_kubeconfig()).await
                && crate::ops::is_ready(&client).await
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let timed = async {
        tokio::time::timeout(READY_TIMEOUT, ready).await.unwrap_or_else(|_| {
            Err(Failure::new(format!("{name} was not ready in {} s", READY_TIMEOUT.as_secs()))
                .mend("a busy or slow machine needs a second try; `make clean-run` starts afresh"))
        })
    };
    children.watched(&name, timed).await
}
