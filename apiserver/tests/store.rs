//! Both store implementations against the one suite.

use std::sync::Arc;

use apiserver::storage::conformance;
use apiserver::storage::embedded::EmbeddedStore;
use apiserver::storage::remote::{RemoteConfig, RemoteStore};
use raft_store::{Config, Member};

#[tokio::test(flavor = "multi_thread")]
async fn embedded_store_conforms() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let member = Member::start(Config::embedded(folder.path())).await.expect("member");
    conformance::run(Arc::new(EmbeddedStore::new(member)), "/conformance").await;
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    socket.local_addr().expect("its address").port()
}

#[tokio::test(flavor = "multi_thread")]
async fn remote_store_conforms_and_passes_over_dead_endpoints() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let url = format!("http://127.0.0.1:{}", free_port());
    let config = Config {
        listen_client_urls: vec![url.clone()],
        advertise_client_urls: vec![url.clone()],
        ..Config::embedded(folder.path())
    };
    let _member = Member::start(config).await.expect("member");
    let dead = format!("http://127.0.0.1:{}", free_port());
    let config = RemoteConfig { endpoints: vec![dead, url], ..RemoteConfig::default() };
    let store = RemoteStore::new(&config).expect("client");
    conformance::run(Arc::new(store), "/conformance").await;
}
