//! Sockets of the file system, as `--listen-client-urls=unix:///run/store.sock` asks for them.

use std::path::Path;

use proto::etcdserverpb::{PutRequest, RangeRequest, kv_client::KvClient};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};
use tonic::transport::Endpoint;

use crate::{
    listening::Listening,
    rules::{BOTH, files, is_served_over},
    tls::Authority,
};

/// The answer to a plain request.
async fn get(at: &Path, path: &str) -> String {
    let mut stream = UnixStream::connect(at).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: store\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_and_metrics_are_served_over_sockets_of_the_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let (clients, metrics) = (dir.path().join("clients.sock"), dir.path().join("metrics.sock"));
    let url = format!("unix://{}", clients.display());
    let listening = Listening::start(|config| {
        config.listen_client_urls.push(url.clone());
        config.advertise_client_urls.push(url.clone());
        config.listen_metrics_urls = vec![format!("unix://{}", metrics.display())];
    })
    .await;
    let channel = Endpoint::from_shared(url.clone()).unwrap().connect().await.unwrap();
    let mut kv = KvClient::new(channel);
    kv.put(PutRequest { key: "a".into(), value: "1".into(), ..Default::default() }).await.unwrap();
    let found = kv.range(RangeRequest { key: "a".into(), ..Default::default() }).await.unwrap().into_inner();
    assert_eq!(found.kvs[0].value, "1");
    assert!(get(&clients, "/health").await.contains("\"health\":\"true\""));
    let page = get(&metrics, "/metrics").await;
    assert!(page.contains("\netcd_server_has_leader "), "{page}");
    listening.member.shutdown().await;
    assert!(!clients.exists() && !metrics.exists(), "they go with the member");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_socket_asks_for_the_same_certificates_as_a_port() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.write_authority(dir.path());
    for name in ["server", "alice"] {
        authority.write_leaf(dir.path(), name, name);
    }
    // A client that no authority of the member's vouches for.
    Authority::new().write_leaf(dir.path(), "mallory", "mallory");
    let at = dir.path().join("private.sock");
    let listening = Listening::start(|config| {
        config.listen_client_urls = vec![format!("unixs://{}", at.display())];
        config.client_tls = files(dir.path());
    })
    .await;
    for (client, expected) in [("alice", true), ("mallory", false)] {
        let stream = UnixStream::connect(&at).await.unwrap();
        assert_eq!(is_served_over(stream, dir.path(), client, BOTH).await, expected, "{client}");
    }
    listening.member.shutdown().await;
}
