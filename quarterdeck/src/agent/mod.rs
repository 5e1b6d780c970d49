//! `quarterdeck agent`: how a machine becomes a node, finds living servers, and starts the node agent.

pub mod balancer;
pub mod health;
pub mod memory;
pub mod options;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config_file;
use crate::failure::{Failure, Result, role};
use crate::kubeconfig::{self, Endpoint, Identity};
use crate::ops;
use crate::pki::authority::fingerprint;
use crate::pki::files::read_text;
use crate::preflight::{kernel, machine};
use crate::server::{directory, join_client};
use crate::token::{JoinToken, Role};
use balancer::Servers;
use memory::Memory;
use options::AgentOptions;

/// How often the list of servers is read afresh.
const SERVERS_INTERVAL: Duration = Duration::from_secs(10);

pub async fn run(options: AgentOptions) -> Result<()> {
    let shutdown = crate::shutdown::on_signal()?;
    if let Some(count) = options.hollow_nodes {
        return run_hollow(&options, count, shutdown).await;
    }
    config_file::say(options.config.as_deref());
    let memory = establish(&options).await?;
    let servers = Arc::new(Servers::new(memory.addresses()?));
    let relay = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), options.relay_port);
    balancer::serve(relay, servers.clone(), shutdown.clone()).await.map_err(|failure| {
        Failure::new(format!("the API relay on {relay}: {failure}")).mend("choose another --relay-port")
    })?;
    tokio::spawn(health::watch(servers.clone(), memory.ca.clone(), shutdown.clone()));
    let kubeconfig = options.data_dir.join("kubelet.kubeconfig");
    let bootstrap = write_bootstrap(&options, &memory)?;
    tokio::spawn(follow_servers(
        kubeconfig.clone(),
        options.clone(),
        memory.clone(),
        servers,
        shutdown.clone(),
    ));
    run_node(&options, &memory, &kubeconfig, &bootstrap, shutdown).await
}

/// What is remembered of the cluster, or learnt with a token. What can be known to fail is looked at first.
async fn establish(options: &AgentOptions) -> Result<Memory> {
    let known = Memory::load(&options.data_dir)?;
    let token = options.token.as_deref().map(agent_token).transpose()?;
    let fit = || {
        machine::is_fit(&options.data_dir, machine::AGENT_MEMORY_MIN_MIB)?;
        kernel::can_run_pods(options.container_runtime_endpoint.is_none())
    };
    match (known, token) {
        (Some(memory), token) => {
            same_cluster(&memory, token.as_ref(), options)?;
            fit()?;
            Ok(memory)
        }
        (None, Some(token)) => {
            fit()?;
            introduce(options, token).await
        }
        (None, None) => {
            Err(Failure::new(format!("no agent has joined from {} yet", options.data_dir.display()))
                .mend("give --token; `quarterdeck token create` on a server prints one"))
        }
    }
}

/// First start: make sure of the cluster, learn its servers and settings, remember them.
async fn introduce(options: &AgentOptions, token: JoinToken) -> Result<Memory> {
    let ca = join_client::fetch_ca(&token).await?;
    let cluster = join_client::fetch_cluster(&token, &ca).await?;
    let memory = Memory { ca, cluster, bootstrap_token: token.content.secret };
    memory.save(&options.data_dir)?;
    Ok(memory)
}

fn agent_token(text: &str) -> Result<JoinToken> {
    let token: JoinToken = text.parse()?;
    match token.role {
        Role::Agent => Ok(token),
        Role::Server => {
            Err(Failure::new("this is a server's token")
                .mend("get an agent's with `quarterdeck token create`"))
        }
    }
}

/// To a machine that has joined a token is of no more use, but it must not be another cluster's.
fn same_cluster(memory: &Memory, token: Option<&JoinToken>, options: &AgentOptions) -> Result<()> {
    let own = fingerprint(&memory.ca)?;
    if token.is_none_or(|token| token.content.ca_hash == own) {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{} is the data of another cluster than the token's",
        options.data_dir.display()
    ))
    .mend("leave --token out to go on with that cluster, or give an empty --data-dir to join the token's"))
}

/// The kubeconfig with which the node asks for its certificate.
fn write_bootstrap(options: &AgentOptions, memory: &Memory) -> Result<std::path::PathBuf> {
    let path = options.data_dir.join("bootstrap.kubeconfig");
    let endpoint =
        Endpoint { context: "quarterdeck".into(), url: format!("https://127.0.0.1:{}", options.relay_port) };
    let identity = Identity::Token(&memory.bootstrap_token);
    kubeconfig::write(&path, &kubeconfig::render("agent-bootstrap", &identity, &memory.ca, &[endpoint]))?;
    Ok(path)
}

async fn run_node(
    options: &AgentOptions,
    memory: &Memory,
    kubeconfig: &Path,
    bootstrap: &Path,
    shutdown: CancellationToken,
) -> Result<()> {
    let dir = |name: &str| options.data_dir.join(name).display().to_string();
    let mut flags = vec![
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--bootstrap-kubeconfig={}", bootstrap.display()),
        format!("--root-dir={}", dir("kubelet")),
        format!("--cert-dir={}", dir("pki")),
        format!("--client-ca-file={}", memory.write_ca(&options.data_dir)?.display()),
        format!("--cluster-dns={}", memory.cluster.dns_address),
        format!("--cluster-domain={}", memory.cluster.cluster_domain),
        format!("--max-pods={}", options.max_pods),
        "--rotate-certificates=true".to_owned(),
    ];
    flags.extend(options.name.iter().map(|name| format!("--hostname-override={name}")));
    flags.extend(options.node_ip.iter().map(|address| format!("--node-ip={address}")));
    flags.extend(
        options.container_runtime_endpoint.iter().map(|url| format!("--container-runtime-endpoint={url}")),
    );
    flags.extend(options.node_labels.iter().map(|label| format!("--node-labels={label}")));
    flags.extend(options.node_taints.iter().map(|taint| format!("--register-with-taints={taint}")));
    if !options.eviction_hard.is_empty() {
        flags.push(format!("--eviction-hard={}", options.eviction_hard.join(",")));
    }
    overlay(&mut flags, &options.kubelet_args);
    let args = node::cli::KubeletArgs::from_flags(flags)?;
    let outside_names = node::dns::Outside::parse(&options.dns_upstreams, &options.dns_stub_domains)
        .map_err(|error| {
            Failure::new(error.to_string()).mend("correct --dns-upstream or --dns-stub-domain")
        })?;
    let settings = node::agent::Settings {
        cluster_cidr: memory.cluster.cluster_cidr.clone(),
        service_cidr: memory.cluster.service_cidr.clone(),
        outside_names,
        teardown: options.teardown,
    };
    node::agent::run(args, settings, shutdown).await.map_err(|error| role("agent", error))
}

/// Lays the user's flags over the agent's own: of two with one name the user's stays.
fn overlay(flags: &mut Vec<String>, given: &[String]) {
    let named = |flag: &str| flag.split('=').next().unwrap_or(flag).trim_start_matches('-').to_owned();
    flags.retain(|flag| given.iter().all(|other| named(other) != named(flag)));
    flags.extend(given.iter().map(|flag| format!("--{}", flag.trim_start_matches('-'))));
}

/// A fleet acts as many nodes at once, so it takes an administrator's kubeconfig in place of a node's certificate.
async fn run_hollow(options: &AgentOptions, count: usize, shutdown: CancellationToken) -> Result<()> {
    let kubeconfig = options.hollow_kubeconfig.as_ref().ok_or_else(|| {
        Failure::new("hollow nodes need an administrator's kubeconfig")
            .mend("give --hollow-kubeconfig; `quarterdeck kubeconfig` on a server prints one")
    })?;
    let prefix = options.name.clone().unwrap_or_else(|| "hollow".to_owned());
    let client = ops::client_from(kubeconfig).await?;
    node::hollow::run(client, &prefix, count, shutdown).await.map_err(|error| role("hollow nodes", error))
}

/// Keeps the relay's list, and the remembered one, as the servers themselves have it.
async fn follow_servers(
    kubeconfig: std::path::PathBuf,
    options: AgentOptions,
    mut memory: Memory,
    servers: Arc<Servers>,
    shutdown: CancellationToken,
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(SERVERS_INTERVAL) => {}
            () = shutdown.cancelled() => return,
        }
        // Until the node has its certificate there is nobody to ask as; the remembered list serves.
        if read_text(&kubeconfig).is_err() {
            continue;
        }
        if let Err(failure) = follow_once(&kubeconfig, &options, &mut memory, &servers).await {
            tracing::debug!(%failure, "the list of servers could not be read");
        }
    }
}

async fn follow_once(
    kubeconfig: &Path,
    options: &AgentOptions,
    memory: &mut Memory,
    servers: &Servers,
) -> Result<()> {
    let client = ops::client_from(kubeconfig).await?;
    let servers_now = directory::list(&client).await?;
    let urls: Vec<String> = servers_now.into_values().map(|addresses| addresses.api_url).collect();
    if urls.is_empty() || urls == memory.cluster.api_urls {
        return Ok(());
    }
    memory.cluster.api_urls = urls;
    servers.replace(&memory.addresses()?);
    memory.save(&options.data_dir)
}

#[cfg(test)]
mod tests {
    use super::overlay;

    #[test]
    fn the_users_flags_win() {
        let mut flags = vec!["--max-pods=110".to_owned(), "--root-dir=/r".to_owned()];
        overlay(&mut flags, &["max-pods=7".to_owned(), "--seccomp-default=true".to_owned()]);
        assert_eq!(flags, ["--root-dir=/r", "--max-pods=7", "--seccomp-default=true"]);
    }
}
