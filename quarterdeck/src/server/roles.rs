//! The roles of one server in one process, each started with the flags its drop-in has. The order is the caller's.

use std::sync::Arc;
use std::time::Duration;

use raft_store::Member;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::layout::{Layout, State};
use super::options::ServerOptions;
use crate::failure::{Failure, Result, role};

/// Heartbeats missed before an election. A follower waits up to twice this, and grants no vote while its leader's lease
/// runs: clients then see about a second without a leader, and a short stall of a machine is still forgiven.
const ELECTION_HEARTBEATS: u64 = 6;

/// The storage class that claims get where nothing else is installed: a folder on the pod's node.
const LOCAL_PATH_CLASS: &str = "local-path";

/// What ended, with its outcome.
type Ended = (&'static str, std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>);

/// How long scheduler and controllers may take to hand over.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(10);

/// Starts the store member. It runs until [`Member::shutdown`].
pub async fn start_store(
    layout: &Layout,
    state: &State,
    options: &ServerOptions,
    shutdown: &CancellationToken,
) -> Result<Arc<Member>> {
    let args = raft_store::cli::Args::from_flags(store_flags(layout, state, options)?)?;
    tokio::select! {
        started = raft_store::cli::start(args) => started.map_err(|error| role("store", error)),
        () = shutdown.cancelled() => Err(Failure::new("stopped while the store was starting")),
    }
}

/// Starts the API server over the member of this process. It drains and ends when `stop` is cancelled.
pub async fn start_api(
    layout: &Layout,
    state: &State,
    options: &ServerOptions,
    member: Arc<Member>,
    stop: CancellationToken,
) -> Result<apiserver::server::Handle> {
    let args = apiserver::cli::Args::from_flags(api_flags(layout, state, options)?)?;
    apiserver::cli::start(args, Some(member), stop).await.map_err(|error| role("apiserver", error))
}

/// The scheduler and the controllers, which act where they hold their leases.
pub struct Loops {
    tasks: JoinSet<Ended>,
    stop: CancellationToken,
}

impl Loops {
    /// Starts both, with the kubeconfigs as they are on the disk now.
    pub fn start(layout: &Layout, state: &State, options: &ServerOptions) -> Result<Self> {
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let args = scheduler::cli::Args::from_flags(loop_flags(layout, "scheduler"))?;
        let token = stop.clone();
        tasks.spawn(async move { ("scheduler", scheduler::cli::run(args, token).await) });
        let args = controllers::cli::Args::from_flags(controller_flags(layout, state, options))?;
        let token = stop.clone();
        tasks.spawn(async move { ("controller-manager", controllers::cli::run(args, token).await) });
        Ok(Loops { tasks, stop })
    }

    /// Returns when one of them ends by itself: its server ends then, and a supervisor starts it afresh.
    pub async fn ended(&mut self) -> Failure {
        match self.tasks.join_next().await {
            Some(Ok((name, Ok(())))) => Failure::new(format!("the {name} ended by itself")),
            Some(Ok((name, Err(error)))) => role(name, error),
            Some(Err(error)) => Failure::new(format!("a role broke: {error}")),
            None => Failure::new("scheduler and controllers have ended"),
        }
    }

    /// Gives the leases up, so that another server goes on at once.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let all = async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Ok((name, Err(error))) = ended {
                    tracing::warn!(role = name, %error, "a role did not stop in order");
                }
            }
        };
        if tokio::time::timeout(HAND_OVER_LIMIT, all).await.is_err() {
            tracing::warn!("scheduler and controllers did not hand over in {} s", HAND_OVER_LIMIT.as_secs());
        }
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
        // Servers on one machine reach each other from each other's addresses; the authority signs for servers alone.
        ("peer-skip-client-san-verification", "true"),
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
        // Network and storage agents need it; Pod Security refuses it to others.
        ("allow-privileged", "true"),
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
        ("local-path-class", LOCAL_PATH_CLASS),
        ("cluster-cidr", &state.cluster_cidr),
        ("allocate-node-cidrs", "true"),
        ("service-cluster-ip-range", &state.service_cidr),
        ("root-ca-file", &file("ca.crt")),
        ("cluster-signing-cert-file", &file("ca.crt")),
        ("cluster-signing-key-file", &file("ca.key")),
        ("cluster-signing-duration", &format!("{}s", options.certificate_lifetime.as_secs())),
        ("service-account-private-key-file", &file("sa.key")),
        ("use-service-account-credentials", "true"),
    ]));
    all
}

/// What scheduler and controllers share. Their own listeners stay off: one process, one set of metrics at the API. The
/// leases are short, so that another server goes on within five seconds, and longer than an election of the store, which
/// must not cost them.
fn loop_flags(layout: &Layout, user: &str) -> Vec<String> {
    let kubeconfig = layout.kubeconfig(user).display().to_string();
    flags(&[
        ("kubeconfig", kubeconfig.as_str()),
        ("leader-elect", "true"),
        ("leader-elect-lease-duration", "3s"),
        ("leader-elect-renew-deadline", "2s"),
        ("leader-elect-retry-period", "400ms"),
        ("secure-port", "0"),
    ])
}

fn flags(pairs: &[(&str, &str)]) -> Vec<String> {
    pairs.iter().map(|(name, value)| format!("--{name}={value}")).collect()
}
