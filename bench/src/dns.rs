//! The cluster's DNS server on one core: questions a second of wall clock, and a second of the server's own processor
//! time, which other load on the machine does not disturb.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use hickory_server::proto::{
    op::{Message, Query},
    rr::{Name, RecordType},
};
use kube::{Client, Config};
use node::{
    dns::{self, Options as DnsOptions},
    network::{
        feed::{Change, Event, Kind, Subscription},
        view::{Key, NamespaceView, ServiceKind, ServiceView},
    },
};
use tokio_util::sync::CancellationToken;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Asks for service names over UDP on loopback.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Services in the cluster.
    #[arg(long, default_value_t = 5_000)]
    services: usize,
    /// Seconds.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Questions on the way at once.
    #[arg(long, default_value_t = 64)]
    window: usize,
    /// Port on 127.0.0.1.
    #[arg(long, default_value_t = 27_953)]
    port: u16,
}

/// Runs the measurement and prints it.
pub fn run(options: &Options) -> Result<()> {
    let at = SocketAddr::from(([127, 0, 0, 1], options.port));
    let (events, feed) = Subscription::manual();
    let shutdown = CancellationToken::new();
    let cpu_ns = Arc::new(AtomicU64::new(0));
    let (token, cpu) = (shutdown.clone(), cpu_ns.clone());
    let server = thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            // Fed by hand; nothing ever uses the client.
            let mut dns =
                DnsOptions::new(Client::try_from(Config::new("http://127.0.0.1:1".parse()?))?, vec![at.ip()]);
            (dns.feed, dns.port, dns.manage_addresses) = (Some(feed), at.port(), false);
            dns.upstreams = vec![SocketAddr::from(([127, 0, 0, 1], 9))];
            let watch_cpu = async {
                loop {
                    cpu.store(thread_cpu_ns(), Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::select! {
                outcome = dns::run(dns, token) => Ok(outcome?),
                () = watch_cpu => Ok(()),
            }
        })
    });
    let view = NamespaceView { name: "bench".into(), labels: Default::default() };
    events.blocking_send(Event::Namespace(Change::Set(Arc::new(view))))?;
    for number in 0..options.services {
        events.blocking_send(Event::Service(Change::Set(Arc::new(service(number)))))?;
    }
    for kind in [Kind::Service, Kind::Slice, Kind::Namespace] {
        events.blocking_send(Event::Synced(kind))?;
    }
    thread::sleep(Duration::from_millis(500));
    let before = cpu_ns.load(Ordering::Relaxed);
    let answered = load(options, at)?;
    thread::sleep(Duration::from_millis(50));
    let busy = (cpu_ns.load(Ordering::Relaxed) - before) as f64 / 1e9;
    shutdown.cancel();
    server.join().map_err(|_| "the server panicked")??;
    println!("| answered a second | answered a second of one core |\n|--:|--:|");
    println!("| {:.0} | {:.0} |", answered as f64 / options.seconds as f64, answered as f64 / busy);
    Ok(())
}

/// Processor time of the calling thread.
fn thread_cpu_ns() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or_default()
}

/// Keeps `window` questions on the way; counts the answers.
fn load(options: &Options, at: SocketAddr) -> Result<u64> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(at)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let until = Instant::now() + Duration::from_secs(options.seconds);
    let questions: Vec<Vec<u8>> =
        (0..1_000).map(|number| question(number % options.services)).collect::<Result<_>>()?;
    let (mut sent, mut answered) = (0usize, 0u64);
    let mut buffer = [0; 512];
    let mut on_the_way = 0;
    while Instant::now() < until {
        while on_the_way < options.window {
            socket.send(&questions[sent % questions.len()])?;
            (sent, on_the_way) = (sent + 1, on_the_way + 1);
        }
        match socket.recv(&mut buffer) {
            Ok(_) => (answered, on_the_way) = (answered + 1, on_the_way - 1),
            // Lost datagrams: begin a new window.
            Err(_) => on_the_way = 0,
        }
    }
    Ok(answered)
}

fn question(number: usize) -> Result<Vec<u8>> {
    let mut request = Message::query();
    let name = Name::from_ascii(format!("svc-{number}.bench.svc.cluster.local."))?;
    request.queries.push(Query::query(name, RecordType::A));
    Ok(request.to_vec()?)
}

fn service(number: usize) -> ServiceView {
    let octet = |value: usize| u8::try_from(value % 250).unwrap_or_default();
    ServiceView {
        key: Key::new("bench", &format!("svc-{number}")),
        kind: ServiceKind::ClusterIp,
        cluster_ips: vec![[10, 96, octet(number / 250), octet(number)].into()],
        headless: false,
        external_name: None,
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        ports: Vec::new(),
        affinity_secs: None,
        internal_local: false,
        external_local: false,
        health_check_node_port: None,
        foreign_proxy: false,
    }
}
