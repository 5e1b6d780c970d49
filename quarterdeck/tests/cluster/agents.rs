//! A machine's way to the API: its agent's relay goes to another server by itself while the one in use is dead, paused or
//! cut off.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use nix::sys::signal::Signal;

use super::alone;
use super::availability::cluster;
use super::common::{Agent, READY, Server, cannot_run_containers, skip};
use super::ground::{Ground, on_ground};

/// In the ground's network namespace, where nobody else listens.
const RELAY_PORT: u16 = 6443;
const NODE: &str = "node-1";
/// One request; where the server behind the relay does not answer, the next one goes elsewhere.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);
/// The fault stays until the relay answers: what is shown is that it goes elsewhere, not how fast.
const FAIL_OVER_LIMIT: Duration = Duration::from_secs(30);

/// The administrator's kubeconfig, with the relay in the server's place.
fn kubeconfig_of_relay(server: &Server, root: &Path) -> PathBuf {
    let mut kubeconfig =
        Kubeconfig::read_from(server.dir.join("admin.kubeconfig")).expect("the administrator's kubeconfig");
    for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        cluster.server = Some(format!("https://127.0.0.1:{RELAY_PORT}"));
    }
    let path = root.join("relay.kubeconfig");
    std::fs::write(&path, serde_yaml_ng::to_string(&kubeconfig).expect("YAML")).expect("written");
    path
}

/// Writes through the relay until one is acknowledged.
async fn a_write_succeeds(kubeconfig: &Path, during: &str) {
    let deadline = Instant::now() + FAIL_OVER_LIMIT;
    loop {
        // A client of its own, so that no connection to the server that is away is waited for.
        let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("the relay's kubeconfig");
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        let client = Client::try_from(config.expect("a configuration")).expect("a client");
        let api: Api<ConfigMap> = Api::namespaced(client, "default");
        let metadata = ObjectMeta { generate_name: Some("relayed-".into()), ..Default::default() };
        let object = ConfigMap { metadata, ..Default::default() };
        let parameters = PostParams::default();
        let asked = tokio::time::timeout(REQUEST_TIMEOUT, api.create(&parameters, &object)).await;
        if matches!(asked, Ok(Ok(_))) {
            return;
        }
        assert!(Instant::now() < deadline, "no write through the relay in {FAIL_OVER_LIMIT:?}: {during}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn renewed(client: &Client) -> Option<k8s_openapi::jiff::Timestamp> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let lease = leases.get_opt(NODE).await.ok().flatten()?;
    lease.spec?.renew_time.map(|time| time.0)
}

/// The node has said that it lives, later than `after`.
async fn the_node_reports(client: &Client, after: Option<k8s_openapi::jiff::Timestamp>) {
    let deadline = Instant::now() + READY;
    while renewed(client).await <= after {
        assert!(Instant::now() < deadline, "the node's lease is not renewed any more");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn each_server_goes_away(ground: &Ground, servers: &mut [Server], relay: &Path) {
    for server in &mut *servers {
        server.signal(Signal::SIGSTOP);
        a_write_succeeds(relay, &format!("{} is paused", server.name)).await;
        server.signal(Signal::SIGCONT);
        server.ready(READY).await;
    }
    for (server, host) in servers.iter_mut().zip(1..).filter(|_| ground.can_cut()) {
        ground.cut(host);
        a_write_succeeds(relay, &format!("{} is cut off", server.name)).await;
        ground.mend(host);
        server.ready(READY).await;
    }
    for server in servers {
        server.kill();
        a_write_succeeds(relay, &format!("{} is dead", server.name)).await;
        server.start(&[]);
        server.ready(READY).await;
    }
}

#[test]
fn an_agent_leaves_a_server_that_does_not_serve() {
    if let Some(why) = cannot_run_containers() {
        skip(&format!("an agent's way to the servers: {why}"));
        return;
    }
    let _alone = alone();
    on_ground(3, 8, async |ground| {
        let root = tempfile::tempdir().expect("a folder");
        let (mut servers, clients) = cluster(root.path(), &ground, &[]).await;
        let relay = kubeconfig_of_relay(&servers[0], root.path());
        let agent = [
            format!("--name={NODE}"),
            format!("--node-ip={}", ground.hub()),
            format!("--relay-port={RELAY_PORT}"),
            "--teardown".to_owned(),
        ];
        let _agent = Agent::start(&servers[0], root.path(), &agent);
        the_node_reports(&clients[0], None).await;
        each_server_goes_away(&ground, &mut servers, &relay).await;
        the_node_reports(&clients[0], renewed(&clients[0]).await).await;
    });
}
