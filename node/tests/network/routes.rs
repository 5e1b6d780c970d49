//! Two and three nodes with the pod network between them: direct routes, VXLAN, masquerading, stepping aside.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

use kube::{Client, Config};
use node::network::{
    self, Options,
    feed::{Change, Event, Kind, Subscription},
    view::NodeView,
};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::lab::{self, Namespace, eventually, sh};

struct Network {
    events: mpsc::Sender<Event>,
    shutdown: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Network {
    fn start(node: &Namespace, name: &str, cni_dir: PathBuf, nodes: &[Event]) -> Self {
        let (events, feed) = Subscription::manual();
        let (shutdown, name) = (CancellationToken::new(), name.to_owned());
        let token = shutdown.clone();
        let thread = node.spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                // Fed by hand; nothing ever uses the client.
                let config = Config::new("http://127.0.0.1:1".parse().expect("a URL"));
                let mut options = Options::new(Client::try_from(config).expect("a client"), name);
                options.feed = Some(feed);
                options.cni_conf_dir = cni_dir;
                network::run(options, token).await.expect("it starts");
            });
        });
        let network = Self { events, shutdown, thread: Some(thread) };
        network.send(nodes.iter().cloned().chain([Event::Synced(Kind::Node)]));
        network
    }

    fn send(&self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.events.blocking_send(event).expect("the network runs");
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn node(name: &str, ip: &str, ranges: &[&str]) -> Event {
    let node = json!({"metadata": {"name": name}, "spec": {"podCIDRs": ranges},
        "status": {"addresses": [{"type": "InternalIP", "address": ip}]}});
    let node = serde_json::from_value(node).expect("a node");
    Event::Node(Change::Set(Arc::new(NodeView::from_api(&node))))
}

/// A namespace for a pod, wired to a bridge of its node as the CNI plugins would.
fn pod(node: &Namespace, name: &str, range: &str) -> Namespace {
    let pod = Namespace::new(name);
    node.ip("link add qd0 type bridge");
    node.ip(&format!("addr add {range}.1/24 dev qd0"));
    node.ip("link set qd0 up");
    sh(&format!("ip -n {} link add pod0 type veth peer name eth0 netns {}", node.0, pod.0));
    node.ip("link set pod0 master qd0");
    node.ip("link set pod0 up");
    pod.ip(&format!("addr add {range}.2/24 dev eth0"));
    pod.ip("link set eth0 mtu 1450");
    pod.ip("link set eth0 up");
    pod.ip(&format!("route add default via {range}.1"));
    pod
}

/// Nodes a and b on one segment, node c behind a router (which is also the world outside).
struct Lab {
    nodes: [Namespace; 3],
    router: Namespace,
    pods: Vec<Namespace>,
}

impl Lab {
    fn new() -> Self {
        let nodes = ["ra", "rb", "rc"].map(Namespace::new);
        let router = Namespace::new("rr");
        router.set("net.ipv4.ip_forward=1");
        router.ip("link add seg type bridge");
        router.ip("link set seg up");
        router.ip("addr add 192.168.78.254/24 dev seg");
        for (number, node) in nodes.iter().enumerate() {
            let device = format!("n{number}");
            sh(&format!("ip -n {} link add {device} type veth peer name eth0 netns {}", router.0, node.0));
            router.ip(&format!("link set {device} up"));
            node.ip("link set eth0 up");
        }
        for (number, ip) in [(0, "192.168.78.1"), (1, "192.168.78.2")] {
            router.ip(&format!("link set n{number} master seg"));
            nodes[number].ip(&format!("addr add {ip}/24 dev eth0"));
            nodes[number].ip("route add default via 192.168.78.254");
        }
        router.ip("addr add 192.168.79.254/24 dev n2");
        nodes[2].ip("addr add 192.168.79.1/24 dev eth0");
        nodes[2].ip("route add default via 192.168.79.254");
        let pods = ["10.78.1", "10.78.2", "10.78.3"];
        let pods = pods.iter().zip(&nodes).enumerate();
        let pods = pods.map(|(number, (range, node))| pod(node, &format!("rp{number}"), range)).collect();
        Self { nodes, router, pods }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in self.nodes.iter().chain(&self.pods).chain([&self.router]) {
            let _ = std::process::Command::new("ip").args(["netns", "del", &namespace.0]).output();
        }
    }
}

#[test]
fn pods_reach_each_other_directly_and_over_vxlan() {
    if !lab::available() {
        return;
    }
    let lab = Lab::new();
    let dirs = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    let networks = networks(&lab, &dirs);
    everybody_is_reached(&lab);
    let routes = lab.nodes[0].output("ip", &["route"]);
    assert!(routes.contains("10.78.2.0/24 via 192.168.78.2 dev eth0"), "{routes}");
    assert!(routes.contains("10.78.3.0/24 via 10.78.3.0 dev qd-overlay"), "{routes}");
    let conflist = eventually(
        "the CNI configuration is written",
        || std::fs::read_to_string(dirs[0].path().join(network::cni::FILE_NAME)).unwrap_or_default(),
        |text| !text.is_empty(),
    );
    assert!(conflist.contains("10.78.1.0/24") && conflist.contains("1450"), "{conflist}");
    a_node_moves(&lab, &networks);
    a_node_leaves(&lab, &networks[0]);
    a_plugin_comes(&lab.nodes[1], &networks[1], dirs[1].path());
}

fn networks(lab: &Lab, dirs: &[TempDir; 3]) -> Vec<Network> {
    let all = [
        node("a", "192.168.78.1", &["10.78.1.0/24"]),
        node("b", "192.168.78.2", &["10.78.2.0/24"]),
        node("c", "192.168.79.1", &["10.78.3.0/24"]),
        // The kernel takes no network address for a next hop: one odd node must not stop the others.
        node("odd", "192.168.78.0", &["10.78.4.0/24"]),
    ];
    let start = |(number, name): (usize, &&str)| {
        Network::start(&lab.nodes[number], name, dirs[number].path().into(), &all)
    };
    ["a", "b", "c"].iter().enumerate().map(start).collect()
}

fn everybody_is_reached(lab: &Lab) {
    for (number, pod) in lab.pods.iter().enumerate() {
        pod.serve_tcp(&format!("10.78.{}.2:80", number + 1), &format!("p{number}"));
    }
    lab.router.serve_tcp("192.168.78.254:80", "world");
    for from in 0..3 {
        for to in 0..3 {
            let (target, expected) =
                (format!("10.78.{}.2:80", to + 1), format!("p{to}|10.78.{}.2", from + 1));
            eventually(
                &format!("pod {from} reaches pod {to} with its own address"),
                || lab.pods[from].fetch(&target),
                |answer| *answer == expected,
            );
        }
    }
    assert!(lab.nodes[0].fetch("10.78.3.2:80").starts_with("p2"), "processes of a node reach pods elsewhere");
    assert_eq!(
        lab.pods[0].fetch("192.168.78.254:80"),
        "world|192.168.78.1",
        "outside sees the node's address"
    );
}

/// Node c gets another address: what the overlay sends must come from that one from now on.
fn a_node_moves(lab: &Lab, networks: &[Network]) {
    lab.nodes[2].ip("addr del 192.168.79.1/24 dev eth0");
    lab.nodes[2].ip("addr add 192.168.79.7/24 dev eth0");
    lab.nodes[2].ip("route add default via 192.168.79.254");
    for network in networks {
        network.send([node("c", "192.168.79.7", &["10.78.3.0/24"])]);
    }
    eventually(
        "the overlay of the moved node has its new address",
        || lab.nodes[2].output("ip", &["-d", "link", "show", "qd-overlay"]),
        |text| text.contains("local 192.168.79.7"),
    );
    for (from, to) in [(0, 3), (2, 1)] {
        eventually(
            &format!("pod {from} reaches range {to} after the move"),
            || lab.pods[from].fetch(&format!("10.78.{to}.2:80")),
            |answer| answer.ends_with(&format!("|10.78.{}.2", from + 1)),
        );
    }
}

/// Node c leaves: its route goes, and with it the overlay.
fn a_node_leaves(lab: &Lab, network: &Network) {
    network.send([Event::Node(Change::Gone(node::network::view::Key::new("", "c")))]);
    eventually(
        "the overlay goes with the last node that needed it",
        || lab.nodes[0].output("ip", &["-o", "link"]) + &lab.nodes[0].output("ip", &["route"]),
        |text| !text.contains("qd-overlay") && !text.contains("10.78.3.0/24"),
    );
    assert!(lab.pods[0].fetch("10.78.2.2:80").starts_with("p1"), "the other route stayed");
}

/// The user installs a CNI plugin: everything is taken back.
fn a_plugin_comes(machine: &Namespace, running: &Network, dir: &Path) {
    std::fs::write(dir.join("05-other.conflist"), "{}").expect("writable");
    running.send([node("d", "192.168.78.9", &["10.78.9.0/24"])]);
    eventually(
        "it steps aside",
        || {
            let tables = machine.output("nft", &["list", "tables"]);
            let routes = machine.output("ip", &["route"]);
            (dir.join(network::cni::FILE_NAME).exists(), tables, routes)
        },
        |(ours, tables, routes)| {
            !ours && !tables.contains("quarterdeck-network") && !routes.contains("10.78.1.0/24")
        },
    );
}
