//! Servers that are stopped in order.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};

use super::availability::{ATTEMPTS, cluster};
use super::common::{READY, Server};
use super::ground::on_ground;
use super::load::{Load, add_node, assert_nothing_lost};
use super::{WRITE_GAP_MAX, alone};

/// Handed over, not timed out: well below the leases' life.
const HAND_OVER_MAX: Duration = Duration::from_millis(2500);
const STOP_MAX: Duration = Duration::from_secs(15);

#[test]
fn an_orderly_stop_hands_over_at_once() {
    let _alone = alone();
    on_ground(3, 4, async |ground| {
        let root = tempfile::tempdir().expect("a folder");
        let args = ["--controllers=*,-node-lifecycle-controller"];
        let (mut servers, clients) = cluster(root.path(), &ground, &args).await;
        add_node(&clients[0]).await;
        for _ in 1..ATTEMPTS {
            if hands_over_at_once(&mut servers, &clients).await {
                return;
            }
        }
        assert!(
            hands_over_at_once(&mut servers, &clients).await,
            "the others waited too long; see the gaps above"
        );
    });
}

/// Stops the server that holds the leases, under load, and starts it again. Somebody takes over and nothing is lost;
/// whether that was at once is returned.
async fn hands_over_at_once(servers: &mut [Server], clients: &[Client]) -> bool {
    let (writes, pods) = (Load::writes(clients.to_vec()), Load::pods(clients.to_vec()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = holder(&clients[1]).await.expect("somebody holds the lease");
    // The one that says so.
    let leader = servers.iter().position(|server| server.log().contains(&before));
    let leader = leader.unwrap_or_else(|| panic!("{before:?} is none of the servers"));
    let others: Vec<Client> = clients
        .iter()
        .enumerate()
        .filter(|(at, _)| *at != leader)
        .map(|(_, client)| client.clone())
        .collect();
    let took = servers[leader].terminate();
    assert!(took < STOP_MAX, "stopping took {took:?}");
    let deadline = Instant::now() + READY;
    while holder(&others[0]).await.is_none_or(|now| now.is_empty() || now == before) {
        assert!(Instant::now() < deadline, "nobody took over");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (writes, pods) = (writes.end().await, pods.end().await);
    println!("longest gap of writes {:?}, of pods {:?}", writes.longest_gap, pods.longest_gap);
    assert_nothing_lost(&others, &writes).await;
    servers[leader].start(&[]);
    servers[leader].ready(READY).await;
    writes.longest_gap < WRITE_GAP_MAX && pods.longest_gap < HAND_OVER_MAX
}

async fn holder(client: &Client) -> Option<String> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-system");
    leases.get("kube-controller-manager").await.ok()?.spec?.holder_identity
}

#[test]
fn a_cluster_survives_an_orderly_stop_and_comes_back() {
    let _alone = alone();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let root = tempfile::tempdir().expect("a folder");
        let mut server = Server::new(root.path(), [127, 77, 5, 1].into(), 1);
        server.start(&["--init".to_owned()]);
        let api: Api<ConfigMap> = Api::namespaced(server.ready(READY).await, "default");
        let metadata = ObjectMeta { name: Some("kept".into()), ..Default::default() };
        let object = ConfigMap { metadata, ..Default::default() };
        api.create(&PostParams::default(), &object).await.expect("created");
        let took = server.terminate();
        assert!(took < STOP_MAX, "stopping took {took:?}");
        server.start(&[]);
        let api: Api<ConfigMap> = Api::namespaced(server.ready(READY).await, "default");
        api.get("kept").await.expect("still there");
    });
}
