//! Each server in turn is killed, paused and cut off, under load.

use std::time::Duration;

use kube::Client;

use super::common::{READY, Server};
use super::ground::{Ground, on_ground};
use super::load::{Load, add_node, assert_nothing_lost};
use super::{WRITE_GAP_MAX, alone};

/// The promise: scheduler and controllers go on within this of losing the server that ran them.
const LOOPS_GAP_MAX: Duration = Duration::from_secs(5);
/// Longer than the loops' leases, so that a server that holds one loses it.
const FAULT: Duration = Duration::from_secs(5);
/// The clients share the machine's few cores with the servers, unoptimised: what they wait for the machine counts against
/// the servers. A promise is broken where it is broken each time.
pub const ATTEMPTS: usize = 2;
/// How long everything is whole between two faults.
const REST: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    Pause,
    CutOff,
}

/// Three servers on their ground, and a client for each.
pub async fn cluster(root: &std::path::Path, ground: &Ground, more: &[&str]) -> (Vec<Server>, Vec<Client>) {
    let mut servers: Vec<Server> = Vec::new();
    let mut clients = Vec::new();
    for host in 1..=3 {
        let mut server = Server::new(root, ground.address(host), host).inside(ground.prefix(host));
        let introduction = match servers.first() {
            None => "--init".to_owned(),
            Some(first) => format!("--token={}", first.token("server")),
        };
        let args: Vec<String> =
            more.iter().map(|arg| (*arg).to_owned()).chain(std::iter::once(introduction)).collect();
        server.start(&args);
        clients.push(server.ready(READY).await);
        servers.push(server);
    }
    (servers, clients)
}

async fn strike(fault: Fault, ground: &Ground, server: &mut Server, host: u8, args: &[&str]) {
    match fault {
        Fault::Kill => {
            server.kill();
            tokio::time::sleep(FAULT).await;
            server.start(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>());
        }
        Fault::Pause => {
            server.signal(nix::sys::signal::Signal::SIGSTOP);
            tokio::time::sleep(FAULT).await;
            server.signal(nix::sys::signal::Signal::SIGCONT);
        }
        Fault::CutOff => {
            ground.cut(host);
            tokio::time::sleep(FAULT).await;
            ground.mend(host);
        }
    }
    server.ready(READY).await;
}

/// Runs a fault under load. Nothing may be lost; whether nobody waited longer than promised is returned.
async fn keeps_the_promises(clients: &[Client], fault: impl AsyncFnOnce()) -> bool {
    let (writes, pods) = (Load::writes(clients.to_vec()), Load::pods(clients.to_vec()));
    tokio::time::sleep(REST).await;
    fault().await;
    let (writes, pods) = (writes.end().await, pods.end().await);
    println!(
        "  {} writes, longest gap {:?}; {} pods, longest gap {:?}",
        writes.acknowledged.len(),
        writes.longest_gap,
        pods.acknowledged.len(),
        pods.longest_gap
    );
    assert_nothing_lost(clients, &writes).await;
    writes.longest_gap <= WRITE_GAP_MAX && pods.longest_gap <= LOOPS_GAP_MAX
}

#[test]
fn any_server_may_be_killed_paused_or_cut_off() {
    let _alone = alone();
    on_ground(3, 3, async |ground| {
        let root = tempfile::tempdir().expect("a folder");
        // The node is on paper: nobody says that it lives.
        let args = ["--controllers=*,-node-lifecycle-controller"];
        let (mut servers, clients) = cluster(root.path(), &ground, &args).await;
        add_node(&clients[0]).await;
        let faults = [Fault::Kill, Fault::Pause, Fault::CutOff];
        let mut broken = Vec::new();
        for fault in faults.into_iter().filter(|fault| !matches!(fault, Fault::CutOff) || ground.can_cut()) {
            for host in 1..=3 {
                let mut kept = false;
                for _ in 0..ATTEMPTS {
                    let server = &mut servers[usize::from(host) - 1];
                    kept = keeps_the_promises(&clients, async || {
                        println!("{fault:?} server {host}");
                        strike(fault, &ground, server, host, &args).await;
                    })
                    .await;
                    if kept {
                        break;
                    }
                }
                if !kept {
                    broken.push(format!("{fault:?} of server {host}"));
                }
            }
        }
        assert!(broken.is_empty(), "a promise was broken: {broken:?}; see the gaps above");
    });
}
