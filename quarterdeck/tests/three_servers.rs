//! Three servers on loopback, and what is promised when one of them dies.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::Server;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};

/// Starting includes making certificates, and a loaded CI machine is slow.
const READY: Duration = Duration::from_secs(60);
/// The promise: clients with a list of servers see at most this without a successful write.
const GAP_MAX: Duration = Duration::from_secs(2);
/// A single request that takes longer is given up and tried on the next server.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);

/// Writes one object after the other, to whichever server answers, and records what was acknowledged.
struct Writer {
    clients: Vec<Client>,
    stop: Arc<AtomicBool>,
}

struct Written {
    acknowledged: BTreeSet<String>,
    longest_gap: Duration,
}

impl Writer {
    async fn run(self) -> Written {
        let mut written = Written { acknowledged: BTreeSet::new(), longest_gap: Duration::ZERO };
        let (mut last, mut server, mut number) = (Instant::now(), 0, 0_u64);
        while !self.stop.load(Ordering::Relaxed) {
            number += 1;
            let name = format!("w-{number}");
            let object = ConfigMap {
                metadata: ObjectMeta { name: Some(name.clone()), ..Default::default() },
                ..Default::default()
            };
            let api: Api<ConfigMap> = Api::namespaced(self.clients[server].clone(), "default");
            let params = PostParams::default();
            match tokio::time::timeout(REQUEST_TIMEOUT, api.create(&params, &object)).await {
                Ok(Ok(_)) => {
                    written.acknowledged.insert(name);
                    written.longest_gap = written.longest_gap.max(last.elapsed());
                    last = Instant::now();
                }
                // Not acknowledged: it may or may not be there. The next one goes to the next server.
                Ok(Err(_)) | Err(_) => server = (server + 1) % self.clients.len(),
            }
        }
        written
    }
}

async fn cluster(root: &std::path::Path, net: u8) -> (Vec<Server>, Vec<Client>) {
    let mut servers: Vec<Server> = (1..=3).map(|host| Server::new(root, net, host)).collect();
    let mut clients = Vec::new();
    for index in 0..servers.len() {
        let introduction =
            if index == 0 { "--init".to_owned() } else { format!("--token={}", servers[0].token("server")) };
        servers[index].start(&[introduction]);
        clients.push(servers[index].ready(READY).await);
    }
    (servers, clients)
}

#[tokio::test(flavor = "multi_thread")]
async fn any_server_may_die_without_losing_a_write() {
    let root = tempfile::tempdir().expect("a folder");
    let (mut servers, clients) = cluster(root.path(), 3).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(Writer { clients: clients.clone(), stop: stop.clone() }.run());
    for server in &mut servers {
        tokio::time::sleep(Duration::from_secs(2)).await;
        server.kill();
        tokio::time::sleep(Duration::from_secs(4)).await;
        server.start(&[]);
        server.ready(READY).await;
    }
    stop.store(true, Ordering::Relaxed);
    let written = writer.await.expect("the writer");
    println!("{} writes, longest gap {:?}", written.acknowledged.len(), written.longest_gap);
    assert!(written.acknowledged.len() > 100, "only {} writes", written.acknowledged.len());
    for (server, client) in servers.iter().zip(&clients) {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
        let there: BTreeSet<String> = api
            .list(&ListParams::default())
            .await
            .expect("a list")
            .items
            .iter()
            .map(ResourceExt::name_any)
            .collect();
        let lost: Vec<_> = written.acknowledged.difference(&there).collect();
        assert!(lost.is_empty(), "{} lost {lost:?}", server.name);
    }
    assert!(written.longest_gap <= GAP_MAX, "no write for {:?}", written.longest_gap);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_survives_an_orderly_stop_and_comes_back() {
    let root = tempfile::tempdir().expect("a folder");
    let mut server = Server::new(root.path(), 4, 1);
    server.start(&["--init".to_owned()]);
    let client = server.ready(READY).await;
    let api: Api<ConfigMap> = Api::namespaced(client, "default");
    let object = ConfigMap {
        metadata: ObjectMeta { name: Some("kept".into()), ..Default::default() },
        ..Default::default()
    };
    api.create(&PostParams::default(), &object).await.expect("created");
    let took = server.terminate();
    assert!(took < Duration::from_secs(15), "stopping took {took:?}");
    server.start(&[]);
    let api: Api<ConfigMap> = Api::namespaced(server.ready(READY).await, "default");
    api.get("kept").await.expect("still there");
}
