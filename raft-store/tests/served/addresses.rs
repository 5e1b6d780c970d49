//! A peer's certificate must be for the address it connects from; a client's need not.

use raft_store::{Config, Member, TlsFiles};

use crate::{
    ports::free_port,
    rules::{BOTH, files, is_served},
    tls::Authority,
};

#[tokio::test(flavor = "multi_thread")]
async fn peers_connect_from_where_their_certificates_are_for() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let authority = Authority::new();
    authority.write_authority(dir);
    authority.write_leaf(dir, "server", "server");
    // Name of a certificate, what it is for, whether a peer may show it from 127.0.0.1.
    let cases: [(&str, &[&str], bool); 5] = [
        ("address", &["127.0.0.1"], true),
        ("elsewhere", &["192.0.2.7"], false),
        ("nothing", &[], true),
        ("host", &["192.0.2.7", "localhost"], true),
        ("domain", &["*.invalid"], false),
    ];
    for (serial, (name, hosts, _)) in (20..).zip(&cases) {
        authority.write_leaf_for(dir, name, name, serial, hosts);
    }
    for skips in [false, true] {
        let data = tempfile::tempdir().unwrap();
        let [client_url, peer_url] = [(); 2].map(|()| format!("https://127.0.0.1:{}", free_port()));
        let config = Config {
            listen_client_urls: vec![client_url.clone()],
            advertise_client_urls: vec![client_url.clone()],
            listen_peer_urls: vec![peer_url.clone()],
            initial_advertise_peer_urls: vec![peer_url.clone()],
            initial_cluster: vec![("default".into(), peer_url.clone())],
            client_tls: files(dir),
            peer_tls: TlsFiles { skip_client_san_verification: skips, ..files(dir) },
            ..Config::embedded(data.path())
        };
        let member = Member::start(config).await.unwrap();
        for (name, hosts, is_of_here) in &cases {
            let by_peer_port = is_served(&peer_url, dir, name, BOTH).await;
            assert_eq!(by_peer_port, skips || *is_of_here, "{hosts:?} at the peer port, {skips}");
            assert!(is_served(&client_url, dir, name, BOTH).await, "{hosts:?} at the client port");
        }
        member.shutdown().await;
    }
}
