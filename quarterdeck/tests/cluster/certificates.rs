//! Certificates with a short life: everything goes on beyond their end, without a restart.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::api::{Api, ObjectMeta, PostParams};

use super::beside_others;
use super::common::{READY, Server};

/// The first certificates end here; renewal begins when a third is left.
const LIFE: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_before_they_end_and_nothing_restarts() {
    let _machine = beside_others().await;
    let root = tempfile::tempdir().expect("a folder");
    let lifetime = format!("--certificate-lifetime={}s", LIFE.as_secs());
    let mut first = Server::new(root.path(), [127, 77, 13, 1].into(), 1);
    let mut second = Server::new(root.path(), [127, 77, 13, 2].into(), 2);
    let started = Instant::now();
    first.start(&["--init".to_owned(), lifetime.clone()]);
    first.ready(READY).await;
    second.start(&[format!("--token={}", first.token("server")), lifetime.clone()]);
    second.ready(READY).await;
    let pki = |name: &str| std::fs::read_to_string(first.dir.join("pki").join(name)).expect("a file");
    let (serving, authority) = (pki("apiserver.crt"), pki("ca.crt"));
    assert!(second.healthy_status(&[]).contains("ends in"), "short lives are pointed out");

    // Beyond the end of everything that was issued at the start, with time for the second server's.
    tokio::time::sleep((LIFE + Duration::from_secs(12)).saturating_sub(started.elapsed())).await;
    assert_ne!(pki("apiserver.crt"), serving, "not renewed");
    assert_eq!(pki("ca.crt"), authority, "the authority stays");
    // New connections to the API (administrator's and serving certificate), and a write through both store members.
    for (server, name) in [(&first, "one"), (&second, "two")] {
        let client = server.ready(READY).await;
        let api: Api<ConfigMap> = Api::namespaced(client, "default");
        let metadata = ObjectMeta { name: Some(name.into()), ..Default::default() };
        api.create(&PostParams::default(), &ConfigMap { metadata, ..Default::default() })
            .await
            .expect("created");
    }
    // The store's client port, by its etcd API.
    let table = second.healthy_status(&[]);
    assert_eq!(table.matches(" ok ").count(), 2, "{table}");
    // The controllers still act.
    namespaces_get_their_account(&first).await;
    // The join service shows a certificate that is good.
    let mut third = Server::new(root.path(), [127, 77, 13, 3].into(), 3);
    third.start(&[format!("--token={}", first.token("server")), lifetime]);
    third.ready(READY).await;
    assert!(first.has_ended().is_none() && second.has_ended().is_none(), "a server ended");
}

async fn namespaces_get_their_account(server: &Server) {
    let client = server.client().await.expect("a client");
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
    let metadata = ObjectMeta { name: Some("late".into()), ..Default::default() };
    let namespace = k8s_openapi::api::core::v1::Namespace { metadata, ..Default::default() };
    namespaces.create(&PostParams::default(), &namespace).await.expect("created");
    let accounts: Api<ServiceAccount> = Api::namespaced(client, "late");
    let deadline = Instant::now() + READY;
    while accounts.get_opt("default").await.expect("an answer").is_none() {
        assert!(Instant::now() < deadline, "the controllers do not act\n{}", server.log_tail());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
