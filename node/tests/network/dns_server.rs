//! The DNS server over real sockets: both transports, truncation, forwarding with cache, aliases, readiness.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use hickory_server::proto::{
    op::{Edns, Message, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use kube::{Client, Config};
use node::{
    dns::{self, Options},
    network::feed::{Event, Kind, Subscription},
};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::lab::{self, Namespace, eventually, namespace, service, slice};

/// An upstream that answers every name with 192.0.2.7 and counts questions.
fn upstream() -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let (at, count) = (socket.local_addr().expect("bound"), Arc::new(AtomicUsize::new(0)));
    let counter = count.clone();
    thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((len, client)) = socket.recv_from(&mut buffer) {
            counter.fetch_add(1, Ordering::SeqCst);
            let Ok(request) = Message::from_vec(&buffer[..len]) else { continue };
            let mut reply = Message::response(request.metadata.id, OpCode::Query);
            reply.queries = request.queries.clone();
            let name = request.queries[0].name().clone();
            if name.to_string().starts_with("missing") {
                reply.metadata.response_code = ResponseCode::NXDomain;
            } else {
                reply.answers.push(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 7))));
            }
            let _ = socket.send_to(&reply.to_vec().expect("encodes"), client);
        }
    });
    (at, count)
}

struct Server {
    at: SocketAddr,
    events: mpsc::Sender<Event>,
    shutdown: CancellationToken,
}

impl Server {
    fn start(stub: Option<(String, SocketAddr)>, upstream: SocketAddr) -> Self {
        // The port is free a moment ago; nobody else asks for ports in this test's address.
        let at = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
        let (events, feed) = Subscription::manual();
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                // Fed by hand; nothing ever uses the client.
                let config = Config::new("http://127.0.0.1:1".parse().expect("a URL"));
                let mut options = Options::new(Client::try_from(config).expect("a client"), vec![at.ip()]);
                options.feed = Some(feed);
                options.port = at.port();
                options.manage_addresses = false;
                options.upstreams = vec![upstream];
                options.stub_domains =
                    stub.into_iter().map(|(domain, server)| (domain, vec![server])).collect();
                dns::run(options, token).await.expect("it starts");
            });
        });
        Self { at, events, shutdown }
    }

    fn send(&self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.events.blocking_send(event).expect("the server runs");
        }
    }

    fn sync(&self) {
        self.send([Kind::Service, Kind::Slice, Kind::Namespace].map(Event::Synced));
    }

    fn udp(&self, name: &str, kind: RecordType, payload: Option<u16>) -> Option<Message> {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        socket.set_read_timeout(Some(Duration::from_secs(3))).expect("a socket");
        socket.send_to(&question(name, kind, payload), self.at).ok()?;
        let mut buffer = [0; 8192];
        let (len, _) = socket.recv_from(&mut buffer).ok()?;
        Message::from_vec(&buffer[..len]).ok()
    }

    fn tcp(&self, name: &str, kind: RecordType) -> Message {
        let mut stream = TcpStream::connect(self.at).expect("listening");
        let bytes = question(name, kind, None);
        let len = u16::try_from(bytes.len()).expect("short");
        stream.write_all(&[&len.to_be_bytes()[..], &bytes].concat()).expect("open");
        let mut len = [0; 2];
        stream.read_exact(&mut len).expect("an answer");
        let mut answer = vec![0; u16::from_be_bytes(len).into()];
        stream.read_exact(&mut answer).expect("an answer");
        Message::from_vec(&answer).expect("a message")
    }

    /// Code and addresses of an answer.
    fn ask(&self, name: &str) -> (ResponseCode, Vec<IpAddr>) {
        let answer = self.udp(name, RecordType::A, None).expect("an answer");
        let ip = |record: &Record| match &record.data {
            RData::A(ip) => Some(IpAddr::V4(ip.0)),
            _ => None,
        };
        (answer.metadata.response_code, answer.answers.iter().filter_map(ip).collect())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn question(name: &str, kind: RecordType, payload: Option<u16>) -> Vec<u8> {
    let mut request = Message::query();
    request.metadata.recursion_desired = true;
    request.queries.push(Query::query(Name::from_ascii(name).expect("a name"), kind));
    request.edns = payload.map(|payload| {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        edns
    });
    request.to_vec().expect("encodes")
}

#[test]
fn cluster_names_upstream_names_and_what_lies_between() {
    let (general, asked) = upstream();
    let (stub, stub_asked) = upstream();
    let server = Server::start(Some(("corp.example".to_owned(), stub)), general);
    eventually("listening", || server.udp("x.svc.cluster.local.", RecordType::A, None).is_some(), |up| *up);
    assert_eq!(server.ask("web.ns.svc.cluster.local.").0, ResponseCode::ServFail, "not known yet");

    let endpoints: Vec<_> = (1..=100).map(|n| json!({"addresses": [format!("10.2.0.{n}")]})).collect();
    server.send([
        namespace("ns", json!({})),
        service(
            "web",
            json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ports": [{"port": 80}]}),
        ),
        service("many", json!({"clusterIP": "None"})),
        slice("many", json!([]), json!(endpoints)),
        service("alias", json!({"type": "ExternalName", "externalName": "www.example.com"})),
        service("inner", json!({"type": "ExternalName", "externalName": "web.ns.svc.cluster.local"})),
        service("ring", json!({"type": "ExternalName", "externalName": "ring.ns.svc.cluster.local"})),
    ]);
    server.sync();
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    let web = eventually(
        "synced",
        || server.ask("web.ns.svc.cluster.local."),
        |answer| answer.0 == ResponseCode::NoError,
    );
    assert_eq!(web.1, [ip("10.96.0.5")]);
    assert_eq!(server.ask("inner.ns.svc.cluster.local."), (ResponseCode::NoError, vec![ip("10.96.0.5")]));
    assert_eq!(server.ask("ring.ns.svc.cluster.local.").0, ResponseCode::ServFail, "aliases in a circle end");

    let missing = server.udp("nope.ns.svc.cluster.local.", RecordType::A, None).expect("an answer");
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    assert!(matches!(missing.authorities[0].data, RData::SOA(_)) && missing.metadata.authoritative);
    assert_eq!(asked.load(Ordering::SeqCst), 0, "searching in the cluster asks nobody else");

    for _ in 0..3 {
        assert_eq!(server.ask("WWW.example.com."), (ResponseCode::NoError, vec![ip("192.0.2.7")]));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1, "the answer was kept");
    let alias = server.udp("alias.ns.svc.cluster.local.", RecordType::A, None).expect("an answer");
    assert_eq!(alias.answers.len(), 2, "alias and address: {alias:?}");
    let only = server.udp("alias.ns.svc.cluster.local.", RecordType::CNAME, None).expect("an answer");
    assert_eq!(only.answers.len(), 1, "the alias alone, without asking about its target: {only:?}");
    assert_eq!(server.ask("missing.example.com.").0, ResponseCode::NXDomain);
    assert_eq!(server.ask("db.corp.example.").0, ResponseCode::NoError);
    assert_eq!(stub_asked.load(Ordering::SeqCst), 1, "the stub domain's server was asked");

    let cut = server.udp("many.ns.svc.cluster.local.", RecordType::A, None).expect("an answer");
    assert!(cut.metadata.truncation && cut.answers.len() < 100);
    let larger = server.udp("many.ns.svc.cluster.local.", RecordType::A, Some(4_096)).expect("an answer");
    let seen = (larger.metadata.truncation, larger.answers.len(), larger.edns.is_some());
    assert_eq!(seen, (false, 100, true));
    assert_eq!(server.tcp("many.ns.svc.cluster.local.", RecordType::A).answers.len(), 100);
}

#[test]
fn what_is_no_question_is_refused_and_rubbish_is_survived() {
    let (general, _) = upstream();
    let server = Server::start(None, general);
    eventually("listening", || server.udp("x.svc.cluster.local.", RecordType::A, None).is_some(), |up| *up);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.set_read_timeout(Some(Duration::from_secs(3))).expect("a socket");
    for rubbish in [&b""[..], b"x", &[0xff; 600], &question("a.example.", RecordType::A, None)[..13]] {
        socket.send_to(rubbish, server.at).expect("sent");
    }
    let mut update = Message::new(7, hickory_server::proto::op::MessageType::Query, OpCode::Update);
    update.queries.push(Query::query(Name::from_ascii("cluster.local.").expect("a name"), RecordType::SOA));
    let ask = |message: &Message| {
        socket.send_to(&message.to_vec().expect("encodes"), server.at).expect("sent");
        let mut buffer = [0; 1500];
        let (len, _) = socket.recv_from(&mut buffer).expect("an answer");
        Message::from_vec(&buffer[..len]).expect("a message").metadata.response_code
    };
    assert_eq!(ask(&update), ResponseCode::NotImp);
    let none = Message::query();
    assert_eq!(ask(&none), ResponseCode::FormErr);
    let mut transfer = Message::query();
    transfer
        .queries
        .push(Query::query(Name::from_ascii("cluster.local.").expect("a name"), RecordType::AXFR));
    assert_eq!(ask(&transfer), ResponseCode::Refused);
    assert_eq!(
        server.tcp("x.svc.cluster.local.", RecordType::A).metadata.response_code,
        ResponseCode::ServFail
    );
}

/// The cluster address itself: on the loopback interface, outside of connection tracking, gone afterwards.
#[test]
fn the_cluster_address_is_held_and_released() {
    if !lab::available() {
        return;
    }
    let node = Namespace::new("dnsaddr");
    let (events, feed) = Subscription::manual();
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    let thread = node.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let config = Config::new("http://127.0.0.1:1".parse().expect("a URL"));
            let ip = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));
            let mut options = Options::new(Client::try_from(config).expect("a client"), vec![ip]);
            options.feed = Some(feed);
            options.resolv_conf = "/nonexistent".into();
            dns::run(options, token).await.expect("it starts");
        });
    });
    for kind in [Kind::Service, Kind::Slice, Kind::Namespace] {
        events.blocking_send(Event::Synced(kind)).expect("the server runs");
    }
    let client = node.clone();
    let ask = move || {
        client.enter(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
            socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a socket");
            let _ = socket
                .send_to(&question("dns-version.cluster.local.", RecordType::TXT, None), "10.96.0.10:53");
            let mut buffer = [0; 1500];
            socket.recv_from(&mut buffer).ok().and_then(|(len, _)| Message::from_vec(&buffer[..len]).ok())
        })
    };
    let answer = eventually("it answers", ask, Option::is_some).expect("just seen");
    assert_eq!(answer.answers.len(), 1);
    assert_eq!(node.output("conntrack", &["-L", "-p", "udp"]), "", "no tracked flow");
    shutdown.cancel();
    thread.join().expect("it ends");
    assert!(!node.output("ip", &["addr", "show", "lo"]).contains("10.96.0.10"));
    assert!(!node.output("nft", &["list", "tables"]).contains("quarterdeck-dns"));
    lab::sh(&format!("ip netns del {}", node.0));
}
