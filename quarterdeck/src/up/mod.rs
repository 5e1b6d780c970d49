//! `quarterdeck up`: a whole cluster on this machine, for looking around: three servers and a node as child processes,
//! the examples applied, the service asked.
//!
//! Every child is the same binary with the flags a real machine would use; what works here works there.

mod children;
mod examples;
mod ground;
mod progress;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use kube::Client;

use crate::failure::{At, Failure, Result};
use children::{Child, Children};
use ground::Ground;
use progress::Progress;

/// A first start makes certificates and, on a cold disk, a store; seconds, but slow machines exist.
const READY_TIMEOUT: Duration = Duration::from_secs(90);
/// A server that ended is started again after this, as systemd would.
const RESTART_DELAY: Duration = Duration::from_secs(5);

/// Upstream's thresholds are shares of the disk, made for machines that do nothing else; this one is somebody's own.
const EVICTION_HARD: &str = "memory.available<100Mi,nodefs.available<1Gi,imagefs.available<1Gi";

/// Starts a highly available cluster on this machine: three servers and a node, with the examples applied. Ctrl-C ends it.
#[derive(Args, Clone, Debug)]
pub struct UpOptions {
    /// Where the cluster lives between runs.
    #[arg(long, default_value = ".run")]
    data_dir: PathBuf,
    /// How many servers: 1, 3 or 5.
    #[arg(long, default_value_t = 3)]
    servers: usize,
    /// Manifests to apply, in the order of their file names.
    #[arg(long)]
    examples: Option<PathBuf>,
    /// Nodes without a container runtime, in place of a real one. Chosen by itself (with 3) where this user or machine
    /// cannot run containers.
    #[arg(long)]
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
    let shutdown = crate::shutdown::on_signal()?;
    let mut children = Children::new(&ground.data_dir)?;
    let outcome = tokio::select! {
        outcome = bring_up(&options, &ground, &mut children) => outcome,
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
    children.stop().await;
    ground.release();
    outcome
}

async fn bring_up(options: &UpOptions, ground: &Ground, children: &mut Children) -> Result<()> {
    let mut progress = Progress::start();
    for remark in &ground.remarks {
        progress.note(remark);
    }
    ground.prepare()?;
    let client = servers_up(options, ground, children, &mut progress).await?;
    nodes_up(ground, children, &client, &mut progress).await?;
    if let Some(folder) = &options.examples {
        examples::apply(&client, folder, &mut progress).await?;
        examples::wait(&client, ground.hollow.is_none(), &mut progress).await?;
    }
    progress.summary(&ground.admin_kubeconfig(), &children.pids());
    Ok(())
}

async fn servers_up(
    options: &UpOptions,
    ground: &Ground,
    children: &mut Children,
    progress: &mut Progress,
) -> Result<Client> {
    let known = ground.server_dir(0).join("state.json").exists();
    let mut client = None;
    for (index, address) in ground.addresses.iter().enumerate().take(options.servers) {
        let introduction = match (known, index) {
            (true, _) => None,
            (false, 0) => Some("--init".to_owned()),
            (false, _) => Some(format!("--token={}", read_token(&ground.server_dir(0), "server")?)),
        };
        children.start(server_child(ground, index, *address, introduction)).await?;
        if !known {
            client = Some(wait_ready(ground, index, children).await?);
            progress.step(&format!("server-{} is ready at https://{address}:6443", index + 1));
        }
    }
    if known {
        for (index, address) in ground.addresses.iter().enumerate().take(options.servers) {
            client = Some(wait_ready(ground, index, children).await?);
            progress.step(&format!("server-{} is ready again at https://{address}:6443", index + 1));
        }
    }
    client.ok_or_else(|| Failure::new("no server was started"))
}

fn server_child(ground: &Ground, index: usize, address: IpAddr, introduction: Option<String>) -> Child {
    let name = format!("server-{}", index + 1);
    let mut args = vec![
        "server".to_owned(),
        format!("--name={name}"),
        format!("--data-dir={}", ground.server_dir(index).display()),
        format!("--bind-address={address}"),
        format!("--advertise-address={address}"),
    ];
    // A restart of the child must not start a second cluster: the data directory remembers.
    let first_start_args = introduction.into_iter().collect();
    args.extend(ground.server_flags.iter().cloned());
    Child { name, args, first_start_args }
}

async fn nodes_up(
    ground: &Ground,
    children: &mut Children,
    client: &Client,
    progress: &mut Progress,
) -> Result<()> {
    let mut args = vec![
        "agent".to_owned(),
        format!("--data-dir={}", ground.data_dir.join("agent").display()),
        format!("--token={}", read_token(&ground.server_dir(0), "agent")?),
    ];
    match ground.hollow {
        Some(count) => args.extend([
            format!("--hollow-nodes={count}"),
            format!("--hollow-kubeconfig={}", ground.admin_kubeconfig().display()),
        ]),
        None => args.extend([
            "--name=node-1".to_owned(),
            "--teardown".to_owned(),
            format!("--eviction-hard={EVICTION_HARD}"),
        ]),
    }
    if let Some(address) = ground.node_address {
        args.push(format!("--node-ip={address}"));
    }
    children.start(Child { name: "agent".into(), args, first_start_args: Vec::new() }).await?;
    let expected = ground.hollow.unwrap_or(1);
    children.watched("agent", examples::nodes_ready(client, expected, READY_TIMEOUT)).await?;
    progress.step(&match ground.hollow {
        Some(count) => format!("{count} hollow nodes are Ready"),
        None => "node-1 is Ready, with a container runtime of its own".to_owned(),
    });
    Ok(())
}

fn read_token(server: &Path, role: &str) -> Result<String> {
    let path = server.join(format!("{role}.token"));
    Ok(std::fs::read_to_string(&path).at("read", &path)?.trim().to_owned())
}

/// Waits until the server answers its own admin kubeconfig with a ready API, and has written the tokens, which is the
/// last it does.
async fn wait_ready(ground: &Ground, index: usize, children: &mut Children) -> Result<Client> {
    let path = ground.server_dir(index).join("admin.kubeconfig");
    let name = format!("server-{}", index + 1);
    let ready = async {
        loop {
            if ground.server_dir(index).join("agent.token").exists()
                && let Ok(client) = crate::ops::client_from(&path).await
                && crate::ops::is_ready(&client).await
            {
                return Ok(client);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let timed = async {
        tokio::time::timeout(READY_TIMEOUT, ready).await.unwrap_or_else(|_| {
            Err(Failure::new(format!("{name} was not ready in {} s", READY_TIMEOUT.as_secs())))
        })
    };
    children.watched(&name, timed).await
}
