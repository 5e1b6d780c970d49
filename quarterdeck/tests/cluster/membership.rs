//! Servers are added, replaced and removed one at a time, while writes go on.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client};

use super::availability::cluster;
use super::common::{READY, Server, skip};
use super::ground::{Ground, on_ground};
use super::load::{Load, assert_nothing_lost};
use super::{WRITE_GAP_MAX, alone};

/// A removed member asks the others after a few election time-outs.
const NOTICE_LIMIT: Duration = Duration::from_secs(20);
/// The exit status of a server that was taken out.
const REMOVED_STATUS: i32 = 3;

#[test]
fn servers_come_and_go_without_downtime() {
    let _alone = alone();
    on_ground(5, 6, async |ground| {
        let root = tempfile::tempdir().expect("a folder");
        let (mut servers, mut clients) = cluster(root.path(), &ground, &[]).await;
        let load = Load::writes(clients.clone());

        // Added: a fourth and, once that votes, a fifth.
        for host in [4, 5] {
            let mut server = Server::new(root.path(), ground.address(host), host).inside(ground.prefix(host));
            server.start(&[format!("--token={}", servers[0].token("server"))]);
            clients.push(server.ready(READY).await);
            servers.push(server);
        }
        let table = servers[4].healthy_status(&[]);
        assert_eq!(table.matches(" ok ").count(), 5, "{table}");
        service_leads_to(&clients[4], &ground, &[1, 2, 3, 4, 5]).await;

        // Removed while it runs: the first, which leads.
        let said = servers[1].command(&["drain-server", "s1"]).succeeded();
        assert!(said.contains("s1 is no longer a member"), "{said}");
        assert_eq!(ended(&mut servers[0]).await, Some(REMOVED_STATUS), "{}", servers[0].log_tail());
        assert!(servers[0].log_tail().contains("was taken out of its cluster"), "{}", servers[0].log_tail());

        // Replaced after it died: the second. The name is free again only once the dead one is out.
        servers[1].kill();
        let token = servers[2].token("server");
        std::fs::remove_dir_all(&servers[1].dir).expect("its disk is lost");
        servers[1].start(&[format!("--token={token}")]);
        assert_ne!(ended(&mut servers[1]).await, Some(0));
        assert!(servers[1].log_tail().contains("is already a member"), "{}", servers[1].log_tail());
        servers[2].command(&["drain-server", "s2"]).succeeded();
        servers[1].start(&[format!("--token={token}")]);
        servers[1].ready(READY).await;
        service_leads_to(&clients[4], &ground, &[2, 3, 4, 5]).await;

        let seen = load.end().await;
        println!("{} writes, longest gap {:?}", seen.acknowledged.len(), seen.longest_gap);
        assert_nothing_lost(&clients[1..], &seen).await;
        assert!(seen.longest_gap <= WRITE_GAP_MAX, "no write for {:?}", seen.longest_gap);

        // Four vote now. With one of them dead another may go; then each of the two that live is needed.
        servers[4].kill();
        servers[2].command(&["drain-server", "s4"]).succeeded();
        servers[2].command(&["drain-server", "s3"]).refused("without s3, 1 of 2 servers answer");
    });
}

/// Waits until the endpoints of the service `kubernetes` are these servers and no other, in both of their forms.
async fn service_leads_to(client: &Client, ground: &Ground, hosts: &[u8]) {
    if !ground.can_cut() {
        skip("endpoints of servers on loopback addresses: nobody else could use them, so none are written");
        return;
    }
    let wanted: Vec<String> = hosts.iter().map(|host| ground.address(*host).to_string()).collect();
    let deadline = Instant::now() + READY;
    loop {
        let found = endpoints(client).await;
        if found.iter().all(|addresses| *addresses == wanted) {
            return;
        }
        assert!(Instant::now() < deadline, "{found:?} instead of {wanted:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The addresses in the Endpoints and in the EndpointSlice; empty lists where they cannot be read.
async fn endpoints(client: &Client) -> [Vec<String>; 2] {
    let old = Api::<Endpoints>::namespaced(client.clone(), "default").get("kubernetes").await;
    let subsets = old.ok().and_then(|e| e.subsets).unwrap_or_default();
    let old = subsets.into_iter().flat_map(|s| s.addresses.unwrap_or_default()).map(|a| a.ip);
    let new = Api::<EndpointSlice>::namespaced(client.clone(), "default").get("kubernetes").await;
    let new = new.map(|s| s.endpoints).unwrap_or_default();
    let mut found = [
        old.collect::<Vec<_>>(),
        new.into_iter().flatten().flat_map(|endpoint| endpoint.addresses).collect(),
    ];
    found.iter_mut().for_each(|addresses| addresses.sort());
    found
}

async fn ended(server: &mut Server) -> Option<i32> {
    let deadline = Instant::now() + NOTICE_LIMIT;
    while Instant::now() < deadline {
        if let Some(status) = server.has_ended() {
            return status.code();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    None
}
