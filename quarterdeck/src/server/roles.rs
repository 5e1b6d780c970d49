//! The roles of one server in one process, each started with the flags its drop-in has.

use std::sync::Arc;

use raft_store::Member;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::layout::{Layout, State};
use super::options::ServerOptions;
use crate::failure::{Failure, Result, role};

/// Heartbeats missed before an election. A follower waits up to twice this, and grants no vote while its leader's lease
/// runs: clients then see about a second without a leader, and a short stall of a machine is still forgiven.
const ELECTION_HEARTBEATS: u64 = 6;

/// What ended, with its outcome.
type Ended = (&'static str, std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>);

/// The running roles.
pub struct Roles {
    member: Arc<Member>,
    api: apiserver::server::Handle,
    loops: JoinSet<Ended>,
    /// Stops scheduler and controllers, which release their leases through a living API server.
    stop_loops: CancellationToken,
    /// Stops the API server, which drains through a living store.
    stop_api: CancellationToken,
}

impl Roles {
    pub async fn start(
        layout: &Layout,
        state: &State,
        options: &ServerOptions,
        shutdown: &CancellationToken,
    ) -> Result<Self> {
        let args = raft_store::cli::Args::from_flags(store_flags(layout, state, options)?)?;
        let starting = raft_store::cli::start(args);
        let member = tokio::select! {
            started = starting => started.map_err(|error| role("store", error))?,
            () = shutdown.cancelled() => return Err(Failure::new("stopped while the store was starting")),
        };
        let stop_api = CancellationToken::new();
        let args = apiserver::cli::Args::from_flags(api_flags(layout, state, options)?)?;
        let api = apiserver::cli::start(args, Some(member.clone()), stop_api.clone())
            .await
            .map_err(|error| role("apiserver", error))?;
        let stop_loops = CancellationToken::new();
        let mut loops = JoinSet::new();
        let args = scheduler::cli::Args::from_flags(loop_flags(layout, "scheduler"))?;
        let stop = stop_loops.clone();
        loops.spawn(async move { ("scheduler", scheduler::cli::run(args, stop).await) });
        let args = controllers::cli::Args::from_flags(controller_flags(layout, state, options))?;
        let stop = stop_loops.clone();
        loops.spawn(async move { ("controller-manager", controllers::cli::run(args, stop).await) });
        Ok(Roles { member, api, loops, stop_loops, stop_api })
    }

    pub fn member(&self) -> Arc<Member> {
        self.member.clone()
    }

    /// Until the shutdown, or until a role ends by itself, which ends the server: its supervisor starts it afresh.
    pub async fn run_until(mut self, shutdown: &CancellationToken) -> Result<()> {
        let outcome = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            Some(ended) = self.loops.join_next() => match ended {
                Ok((name, Ok(()))) => Err(Failure::new(format!("the {name} ended by itself"))),
                Ok((name, Err(error))) => Err(role(name, error)),
                Err(error) => Err(Failure::new(format!("a role broke: {error}"))),
            },
        };
        self.stop_loops.cancel();
        while let Some(ended) = self.loops.join_next().await {
            if let Ok((name, Err(error))) = ended {
                tracing::warn!(role = name, %error, "a role did not stop in order");
            }
        }
        self.stop_api.cancel();
        self.api.stopped().await;
        self.member.shutdown().await;
        outcome
    }
}

fn store_flags(layout: &Layout, state: &State, options: &ServerOptions) -> Result<Vec<String>> {
    let file = |name: &str| layout.pki_file(name).display().to_string();
    let bind = |port: u16| options.listen(port).map(|address| format!("https://{address}"));
    Ok(flags(&[
        ("name", &state.name),
        ("data-dir", &layout.store().display().to_string()),
        ("listen-client-urls", &bind(options.store_client_port)?),
        ("advertise-client-urls", &options.url(options.store_client_port)?),
        ("listen-peer-urls", &bind(options.store_peer_port)?),
        ("initial-advertise-peer-urls", &options.url(options.store_peer_port)?),
        ("initial-cluster", &state.initial_cluster),
        ("initial-cluster-state", &state.initial_cluster_state),
        ("initial-cluster-token", &state.cluster_id),
        ("promote-when-caught-up", "true"),
        ("heartbeat-interval", &options.heartbeat_interval_ms.to_string()),
        ("election-timeout", &(options.heartbeat_interval_ms * ELECTION_HEARTBEATS).to_string()),
        ("cert-file", &file("store.crt")),
        ("key-file", &file("store.key")),
        ("trusted-ca-file", &file("store-ca.crt")),
        ("client-cert-auth", "true"),
        ("peer-cert-file", &file("store.crt")),
        ("peer-key-file", &file("store.key")),
        ("peer-trusted-ca-file", &file("store-ca.crt")),
        ("peer-client-cert-auth", "true"),
    ]))
}

fn api_flags(layout: &Layout, state: &State, options: &ServerOptions) -> Result<Vec<String>> {
    let file = |name: &str| layout.pki_file(name).display().to_string();
    let bind = options.listen(options.api_port)?;
    Ok(flags(&[
        ("bind-address", &bind.ip().to_string()),
        ("advertise-address", &options.advertised()?.to_string()),
        ("secure-port", &options.api_port.to_string()),
        ("tls-cert-file", &file("apiserver.crt")),
        ("tls-private-key-file", &file("apiserver.key")),
        ("client-ca-file", &file("ca.crt")),
        ("service-account-key-file", &file("sa.pub")),
        ("service-account-signing-key-file", &file("sa.key")),
        ("service-account-issuer", &format!("https://kubernetes.default.svc.{}", state.cluster_domain)),
        ("service-cluster-ip-range", &state.service_cidr),
        ("authorization-mode", "Node,RBAC"),
        ("enable-bootstrap-token-auth", "true"),
        ("enable-admission-plugins", "NodeRestriction"),
        ("kubelet-client-certificate", &file("apiserver-kubelet-client.crt")),
        ("kubelet-client-key", &file("apiserver-kubelet-client.key")),
        // Node names need not resolve; their addresses do.
        ("kubelet-preferred-address-types", "InternalIP,ExternalIP,Hostname"),
        ("requestheader-client-ca-file", &file("front-proxy-ca.crt")),
        ("requestheader-allowed-names", "front-proxy-client"),
        ("requestheader-username-headers", "X-Remote-User"),
        ("requestheader-group-headers", "X-Remote-Group"),
        ("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
        ("proxy-client-cert-file", &file("front-proxy-client.crt")),
        ("proxy-client-key-file", &file("front-proxy-client.key")),
    ]))
}

fn controller_flags(layout: &Layout, state: &State, options: &ServerOptions) -> Vec<String> {
    let file = |name: &str| layout.pki_file(name).display().to_string();
    let mut all = loop_flags(layout, "controller-manager");
    all.extend(flags(&[
        ("controllers", &options.controllers.join(",")),
        ("cluster-cidr", &state.cluster_cidr),
        ("allocate-node-cidrs", "true"),
        ("service-cluster-ip-range", &state.service_cidr),
        ("root-ca-file", &file("ca.crt")),
        ("cluster-signing-cert-file", &file("ca.crt")),
        ("cluster-signing-key-file", &file("ca.key")),
        ("service-account-private-key-file", &file("sa.key")),
        ("use-service-account-credentials", "true"),
    ]));
    all
}

/// What scheduler and controllers share. Their own listeners stay off: one process, one set of metrics at the API.
fn loop_flags(layout: &Layout, user: &str) -> Vec<String> {
    let kubeconfig = layout.kubeconfig(user).display().to_string();
    flags(&[
        ("kubeconfig", kubeconfig.as_str()),
        ("authentication-kubeconfig", kubeconfig.as_str()),
        ("authorization-kubeconfig", kubeconfig.as_str()),
        ("leader-elect", "true"),
        ("leader-elect-lease-duration", "4s"),
        ("leader-elect-renew-deadline", "3s"),
        ("leader-elect-retry-period", "500ms"),
        ("secure-port", "0"),
    ])
}

fn flags(pairs: &[(&str, &str)]) -> Vec<String> {
    pairs.iter().map(|(name, value)| format!("--{name}={value}")).collect()
}
