//! Backup, destruction, restore: every object comes back with its revisions, and the other servers join afresh.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DynamicObject, ListParams, ObjectMeta, PostParams};
use kube::core::discovery::{ApiResource, verbs};
use kube::{Client, Discovery, ResourceExt};

use super::beside_others;
use super::common::{READY, Server, run};

/// Changed by the servers themselves at every start or all the time; everything else must come back as it was.
const LIVE: &[&str] = &["Lease", "Event", "Endpoints", "EndpointSlice"];

/// Every object's kind, namespace and name, with its uid and resourceVersion.
async fn everything(client: &Client) -> BTreeMap<String, String> {
    let discovery = Discovery::new(client.clone()).run().await.expect("discovery");
    let mut all = BTreeMap::new();
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            if capabilities.supports_operation(verbs::LIST) && !LIVE.contains(&resource.kind.as_str()) {
                add(client, &resource, &mut all).await;
            }
        }
    }
    all
}

/// The same once the controllers have nothing more to do.
async fn settled(client: &Client) -> BTreeMap<String, String> {
    let mut before = everything(client).await;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = everything(client).await;
        if now == before {
            return now;
        }
        before = now;
    }
}

async fn add(client: &Client, resource: &ApiResource, all: &mut BTreeMap<String, String>) {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), resource);
    for object in api.list(&ListParams::default()).await.expect("a list").items {
        let key =
            format!("{} {}/{}", resource.kind, object.namespace().unwrap_or_default(), object.name_any());
        let version = object.resource_version().unwrap_or_default();
        all.insert(key, format!("{} {version}", object.uid().unwrap_or_default()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destroyed_cluster_comes_back_from_its_backup() {
    let _machine = beside_others().await;
    let root = tempfile::tempdir().expect("a folder");
    let mut servers: Vec<Server> =
        (1..=2).map(|host| Server::new(root.path(), [127, 77, 12, host].into(), host)).collect();
    servers[0].start(&["--init".to_owned()]);
    let client = servers[0].ready(READY).await;
    let second = format!("--token={}", servers[0].token("server"));
    servers[1].start(&[second]);
    servers[1].ready(READY).await;
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    for number in 0..50 {
        let metadata = ObjectMeta { name: Some(format!("kept-{number}")), ..Default::default() };
        let object = ConfigMap { metadata, ..Default::default() };
        api.create(&PostParams::default(), &object).await.expect("created");
    }
    let before = settled(&client).await;
    let file = root.path().join("backup.tar.gz");
    let said = servers[1].command(&["backup", file.to_str().expect("a path")]).succeeded();
    assert!(said.contains("holds the cluster"), "{said}");
    for private in [&file, &servers[0].dir.join("store"), &servers[0].dir.join("state.json")] {
        let mode = std::fs::metadata(private).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "others can look into {}: {mode:o}", private.display());
    }
    let metadata = ObjectMeta { name: Some("later".into()), ..Default::default() };
    api.create(&PostParams::default(), &ConfigMap { metadata, ..Default::default() }).await.expect("created");

    for server in &mut servers {
        server.kill();
        std::fs::remove_dir_all(&server.dir).expect("destroyed");
    }
    let dir = servers[0].dir.display().to_string();
    let restore = |file: &str| {
        let peer = "https://127.77.12.1:2380";
        run(&["restore", "--data-dir", &dir, "--name", "s1", "--peer-url", peer, file])
    };
    let rubbish = root.path().join("rubbish");
    std::fs::write(&rubbish, "not a backup").expect("written");
    restore(rubbish.to_str().expect("a path")).refused("rubbish is not a whole backup");
    assert!(!servers[0].dir.exists(), "something was half-created");
    restore(file.to_str().expect("a path")).succeeded();
    restore(file.to_str().expect("a path")).refused("is already a server's");

    servers[0].start(&[]);
    let client = servers[0].ready(READY).await;
    let after = everything(&client).await;
    let changed: Vec<_> = before
        .iter()
        .filter(|(key, _)| !key.contains("quarterdeck-servers"))
        .filter(|(key, was)| after.get(*key) != Some(was))
        .map(|(key, was)| format!("{key}: was {was}, is {:?}", after.get(key)))
        .collect();
    assert!(changed.is_empty(), "{changed:#?}");
    assert!(!after.keys().any(|key| key.ends_with("/later")), "what came after the backup came back, too");
    let token = format!("--token={}", servers[0].token("server"));
    servers[1].start(&[token]);
    // Who joins a restored cluster has its state, too.
    let joined = everything(&servers[1].ready(READY).await).await;
    let lacks: Vec<_> = before.keys().filter(|key| !joined.contains_key(*key)).collect();
    assert!(lacks.is_empty(), "the server that joined lacks {lacks:#?}");
    let table = servers[1].healthy_status(&[]);
    assert_eq!(table.matches(" ok ").count(), 2, "{table}");
}
