//! Servers that are stopped in order.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};

use super::alone;
use super::availability::cluster;
use super::common::{READY, Server};
use super::ground::on_ground;
use super::load::{Load, add_node, assert_nothing_lost};

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
        let (writes, pods) = (Load::writes(clients.clone()), Load::pods(clients.clone()));
        tokio::time::sleep(Duration::from_secs(2)).await;
        // The first server started first, so it holds the leases.
        let before = holder(&clients[1]).await;
        let took = servers[0].terminate();
        assert!(took < STOP_MAX, "stopping took {took:?}");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_ne!(holder(&clients[1]).await, before, "nobody took over");
        let (writes, pods) = (writes.end().await, pods.end().await);
        println!("longest gap of writes {:?}, of pods {:?}", writes.longest_gap, pods.longest_gap);
        assert_nothing_lost(&clients[1..], &writes).await;
        assert!(writes.longest_gap < super::WRITE_GAP_MAX, "no write for {:?}", writes.longest_gap);
        assert!(pods.longest_gap < HAND_OVER_MAX, "no pod for {:?}", pods.longest_gap);
    });
}

async fn holder(client: &Client) -> Option<String> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-system");
    let lease = leases.get("kube-controller-manager").await.expect("the lease");
    lease.spec.and_then(|spec| spec.holder_identity)
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
