//! A small network of kernel namespaces for tests with real sockets.
//!
//! One node with a bridge for its pods, and a host outside. Sockets are made inside a namespace and used from
//! anywhere. Everything is removed when the lab is dropped.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use node::network::{
    feed::{Change, Event},
    view::{Key, NamespaceView, NodeView, PodView, PolicyView, ServiceView, SliceView},
};
use serde_json::{Value, json};

/// True when namespaces can be made here. Otherwise says why not; in CI that is a failure.
pub fn available() -> bool {
    let works = |program: &str, arg: &str| {
        Command::new(program).arg(arg).output().is_ok_and(|output| output.status.success())
    };
    let reason = if !nix::unistd::geteuid().is_root() {
        "not root"
    } else if !works("nft", "--version") {
        "the nft program is missing"
    } else if !works("ip", "-V") {
        "the ip program is missing"
    } else {
        return true;
    };
    // libtest swallows what passing tests print to the macros.
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "network tests must run in CI, but: {reason}");
    false
}

/// Runs a program and fails the test when it fails.
pub fn sh(line: &str) {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().expect("a program")).args(words).output().expect("it starts");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A network namespace of this test run.
#[derive(Clone, Debug)]
pub struct Namespace(pub String);

impl Namespace {
    /// Makes a namespace; an old one of the same name goes first.
    pub fn new(name: &str) -> Self {
        let name = format!("qd-nodenet-{name}-{}", std::process::id());
        let _ = Command::new("ip").args(["netns", "del", &name]).output();
        sh(&format!("ip netns add {name}"));
        sh(&format!("ip -n {name} link set lo up"));
        Self(name)
    }

    /// Runs `ip` inside.
    pub fn ip(&self, args: &str) {
        sh(&format!("ip -n {} {args}", self.0));
    }

    /// Runs any program inside and returns what it printed.
    pub fn output(&self, program: &str, args: &[&str]) -> String {
        let output = Command::new("ip")
            .args(["netns", "exec", &self.0, program])
            .args(args)
            .output()
            .expect("it starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs code on a thread that lives inside.
    pub fn enter<T: Send + 'static>(&self, code: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(code).join().expect("the code does not panic")
    }

    /// Starts code on a thread that lives inside.
    pub fn spawn<T: Send + 'static>(
        &self,
        code: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let name = self.0.clone();
        thread::spawn(move || {
            let file = File::open(format!("/run/netns/{name}")).expect("the namespace exists");
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).expect("it can be entered");
            code()
        })
    }

    /// A TCP server that sends `label|client address` to every client and closes.
    pub fn serve_tcp(&self, at: &str, label: &str) {
        let at: SocketAddr = at.parse().expect("an address");
        let label = label.to_owned();
        let listener = self.enter(move || TcpListener::bind(at).expect("the address is free"));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let peer = stream.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
                let _ = stream.write_all(format!("{label}|{peer}").as_bytes());
            }
        });
    }

    /// A TCP server that echoes until the client closes.
    pub fn serve_echo(&self, at: &str) {
        let at: SocketAddr = at.parse().expect("an address");
        let listener = self.enter(move || TcpListener::bind(at).expect("the address is free"));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                thread::spawn(move || {
                    let mut from = stream.try_clone().expect("a socket");
                    io::copy(&mut from, &mut { stream })
                });
            }
        });
    }

    /// A UDP server that answers every datagram with its label.
    pub fn serve_udp(&self, at: &str, label: &str) {
        let (at, label) = (at.parse::<SocketAddr>().expect("an address"), label.to_owned());
        let socket = self.enter(move || UdpSocket::bind(at).expect("the address is free"));
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, client)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(label.as_bytes(), client);
            }
        });
    }

    /// Connects.
    pub fn connect(&self, to: &str) -> io::Result<TcpStream> {
        let to: SocketAddr = to.parse().expect("an address");
        self.enter(move || {
            let stream = TcpStream::connect_timeout(&to, Duration::from_millis(700))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            Ok(stream)
        })
    }

    /// Sets a kernel parameter of the namespace, written `a.b=1`; the program for it is not on every machine.
    pub fn set(&self, setting: &str) {
        let (name, value) = setting.split_once('=').expect("a name and a value");
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let value = value.to_owned();
        self.enter(move || std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}")));
    }

    /// Connects and reads all that the server sends; otherwise the kind of failure in brackets.
    pub fn fetch(&self, to: &str) -> String {
        let read = self.connect(to).and_then(|mut stream| {
            let mut text = String::new();
            stream.read_to_string(&mut text).map(|_| text)
        });
        read.unwrap_or_else(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => "<refused>".to_owned(),
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "<timeout>".to_owned(),
            kind => format!("<{kind}>"),
        })
    }

    /// A UDP socket.
    pub fn udp(&self, family: IpAddr) -> UdpSocket {
        self.enter(move || {
            let socket = UdpSocket::bind((family, 0)).expect("a port is free");
            socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a socket");
            socket
        })
    }
}

/// Sends a datagram and waits for the answer.
pub fn exchange(socket: &UdpSocket, to: &str) -> String {
    let mut buffer = [0; 64];
    match socket.send_to(b"?", to).and_then(|_| socket.recv_from(&mut buffer)) {
        Ok((len, _)) => String::from_utf8_lossy(&buffer[..len]).into_owned(),
        Err(error) => format!("<{:?}>", error.kind()),
    }
}

/// Waits until a condition holds; fails with the last thing seen.
pub fn eventually<T: std::fmt::Debug>(
    what: &str,
    mut look: impl FnMut() -> T,
    holds: impl Fn(&T) -> bool,
) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let seen = look();
        if holds(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what}: still {seen:?}");
        thread::sleep(Duration::from_millis(30));
    }
}

/// A node with pods behind a bridge, and a host outside.
pub struct Lab {
    /// The node: 192.168.77.1 and fd77::1 outside, 10.77.1.1 and fd77:1::1 on the bridge.
    pub node: Namespace,
    /// The host outside: 192.168.77.2 and fd77::2.
    pub outside: Namespace,
    /// Pods: number k has 10.77.1.(10+k) and fd77:1::(10+k).
    pub pods: Vec<Namespace>,
}

impl Lab {
    /// Builds the network.
    pub fn new(name: &str, pods: usize) -> Self {
        let node = Namespace::new(&format!("{name}-n"));
        let outside = Namespace::new(&format!("{name}-o"));
        for setting in [
            "net.ipv4.ip_forward=1",
            "net.ipv6.conf.all.forwarding=1",
            "net.bridge.bridge-nf-call-iptables=1",
            "net.bridge.bridge-nf-call-ip6tables=1",
            "net.ipv4.conf.all.rp_filter=0",
        ] {
            node.set(setting);
        }
        sh(&format!("ip -n {} link add up0 type veth peer name eth0 netns {}", node.0, outside.0));
        node.ip("link add br0 type bridge");
        for (device, v4, v6) in
            [("up0", "192.168.77.1/24", "fd77::1/64"), ("br0", "10.77.1.1/24", "fd77:1::1/64")]
        {
            node.ip(&format!("addr add {v4} dev {device}"));
            node.ip(&format!("addr add {v6} dev {device} nodad"));
            node.ip(&format!("link set {device} up"));
        }
        // As on real machines, service addresses are routable: without a route nothing reaches the rules.
        node.ip("route add default via 192.168.77.2");
        node.ip("route add default via fd77::2");
        outside.ip("addr add 192.168.77.2/24 dev eth0");
        outside.ip("addr add fd77::2/64 dev eth0 nodad");
        outside.ip("link set eth0 up");
        outside.ip("route add default via 192.168.77.1");
        outside.ip("route add default via fd77::1");
        let mut lab = Self { node, outside, pods: Vec::new() };
        for number in 0..pods {
            lab.add_pod(name, number);
        }
        lab
    }

    fn add_pod(&mut self, name: &str, number: usize) {
        let pod = Namespace::new(&format!("{name}-p{number}"));
        let device = format!("veth{number}");
        sh(&format!("ip -n {} link add {device} type veth peer name eth0 netns {}", self.node.0, pod.0));
        self.node.ip(&format!("link set {device} master br0"));
        // A pod that reaches itself through a service comes back through the port it came from.
        self.node.ip(&format!("link set {device} type bridge_slave hairpin on"));
        self.node.ip(&format!("link set {device} up"));
        pod.ip(&format!("addr add {}/24 dev eth0", pod_v4(number)));
        pod.ip(&format!("addr add {}/64 dev eth0 nodad", pod_v6(number)));
        pod.ip("link set eth0 up");
        pod.ip("route add default via 10.77.1.1");
        pod.ip("route add default via fd77:1::1");
        self.pods.push(pod);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in self.pods.iter().chain([&self.node, &self.outside]) {
            let _ = Command::new("ip").args(["netns", "del", &namespace.0]).output();
        }
    }
}

/// IPv4 address of a pod.
pub fn pod_v4(number: usize) -> String {
    format!("10.77.1.{}", 10 + number)
}

/// IPv6 address of a pod.
pub fn pod_v6(number: usize) -> String {
    format!("fd77:1::{}", 10 + number)
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a well-formed object")
}

/// The lab's Node object.
pub fn node_event() -> Event {
    let node = object(json!({"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z1"}},
        "spec": {"podCIDRs": ["10.77.1.0/24", "fd77:1::/64"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.77.1"},
                                 {"type": "InternalIP", "address": "fd77::1"}]}}));
    Event::Node(Change::Set(Arc::new(NodeView::from_api(&node))))
}

/// A service in namespace `ns`.
pub fn service(name: &str, spec: Value) -> Event {
    service_with_status(name, spec, json!({}))
}

/// A service with a status.
pub fn service_with_status(name: &str, spec: Value, status: Value) -> Event {
    let service =
        object(json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec, "status": status}));
    Event::Service(Change::Set(Arc::new(ServiceView::from_api(&service))))
}

/// A service that is gone.
pub fn no_service(name: &str) -> Event {
    Event::Service(Change::Gone(Key::new("ns", name)))
}

/// Endpoints of a service: address and node; one unnamed port.
pub fn endpoints(service: &str, protocol: &str, port: u16, list: &[(&str, &str)]) -> Event {
    let endpoints: Vec<Value> =
        list.iter().map(|(ip, node)| json!({"addresses": [ip], "nodeName": node})).collect();
    slice(service, json!([{"protocol": protocol, "port": port}]), json!(endpoints))
}

/// A slice of a service.
pub fn slice(service: &str, ports: Value, endpoints: Value) -> Event {
    let slice = object(json!({"metadata": {"namespace": "ns", "name": format!("{service}-1"),
        "labels": {"kubernetes.io/service-name": service}}, "addressType": "IPv4", "ports": ports, "endpoints": endpoints}));
    Event::Slice(Change::Set(Arc::new(SliceView::from_api(&slice).expect("it names a service"))))
}

/// A pod of the lab.
pub fn pod(namespace: &str, number: usize, labels: Value, ports: Value) -> Event {
    let pod =
        object(json!({"metadata": {"namespace": namespace, "name": format!("p{number}"), "labels": labels},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": ports}]},
        "status": {"phase": "Running", "podIPs": [{"ip": pod_v4(number)}, {"ip": pod_v6(number)}]}}));
    Event::Pod(Change::Set(Arc::new(PodView::from_api(&pod))))
}

/// A namespace with labels.
pub fn namespace(name: &str, labels: Value) -> Event {
    let view = NamespaceView { name: name.into(), labels: object(labels) };
    Event::Namespace(Change::Set(Arc::new(view)))
}

/// A network policy in namespace `ns`.
pub fn policy(name: &str, spec: Value) -> Event {
    let policy = object(json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec}));
    Event::Policy(Change::Set(Arc::new(PolicyView::from_api(&policy))))
}

/// A network policy that is gone.
pub fn no_policy(name: &str) -> Event {
    Event::Policy(Change::Gone(Key::new("ns", name)))
}
