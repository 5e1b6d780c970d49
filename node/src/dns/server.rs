//! Sockets of the DNS server. Cluster names are answered in the receiving task itself; only questions for upstream
//! servers, which wait, get a task of their own.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hickory_server::proto::{
    op::{Message, Query, ResponseCode},
    rr::{Record, RecordType},
};
use parking_lot::RwLock;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    forward::Forwarder,
    stats::Stats,
    wire::{self, Request, Transport},
    zone::{Outcome, Zone},
};

/// Questions that wait for upstream servers at once; more are answered SERVFAIL.
const FORWARDING_MAX: usize = 1_000;
/// TCP connections at once.
const CONNECTIONS_MAX: usize = 200;
/// An idle TCP connection is closed after this.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Aliases followed inside the cluster.
const ALIASES_MAX: usize = 8;
const REQUEST_LEN_MAX: usize = 4_096;
/// Datagrams answered before other tasks of the runtime get their turn.
const BURST: usize = 64;

/// Answers requests, whatever they came over.
pub struct Resolver {
    /// The cluster's domain.
    pub zone: RwLock<Zone>,
    /// Everything else.
    pub forwarder: Forwarder,
    /// Counters.
    pub stats: Stats,
    turn: AtomicUsize,
    forwarding: Arc<Semaphore>,
}

/// What became of a request without waiting.
enum Now {
    Nothing,
    Reply(Message),
    Forward { aliases: Vec<Record>, query: Query },
}

impl Resolver {
    /// A resolver over a zone and a forwarder.
    pub fn new(zone: Zone, forwarder: Forwarder, stats: Stats) -> Self {
        Self {
            zone: RwLock::new(zone),
            forwarder,
            stats,
            turn: AtomicUsize::new(0),
            forwarding: Arc::new(Semaphore::new(FORWARDING_MAX)),
        }
    }

    /// Answers a request that needs no upstream server; `None` when it does, or when no answer is due.
    pub fn answer_local(&self, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let request = Message::from_vec(bytes).ok()?;
        match self.decide(&request) {
            Now::Reply(reply) => self.encode(&reply, &request, transport),
            Now::Nothing | Now::Forward { .. } => None,
        }
    }

    fn decide(&self, request: &Message) -> Now {
        let query = match wire::question(request) {
            Request::Ignore => return Now::Nothing,
            Request::Refuse(code) => return Now::Reply(wire::reply(request, code)),
            Request::Ask(query) => query,
        };
        let zone = self.zone.read();
        let mut aliases: Vec<Record> = Vec::new();
        let mut name = query.name().clone();
        loop {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            match zone.resolve(&name, query.query_type(), turn) {
                Outcome::Foreign => {
                    let mut query = query;
                    query.set_name(name);
                    return self.cached_or_forward(request, aliases, query);
                }
                Outcome::NotReady => return Now::Reply(wire::reply(request, ResponseCode::ServFail)),
                // Who asks for the alias itself has it: its target is another question.
                Outcome::Alias(alias) if query.query_type() == RecordType::CNAME => {
                    aliases.push(alias.record);
                    let found = Outcome::Found { answers: vec![], additionals: vec![] };
                    return Now::Reply(authoritative(request, &zone, aliases, found));
                }
                Outcome::Alias(alias) if aliases.len() < ALIASES_MAX => {
                    aliases.push(alias.record);
                    name = alias.target;
                }
                outcome => return Now::Reply(authoritative(request, &zone, aliases, outcome)),
            }
        }
    }

    /// Upstream answers that are known already cost no task.
    fn cached_or_forward(&self, request: &Message, aliases: Vec<Record>, query: Query) -> Now {
        match self.forwarder.cached(&query, dnssec_ok(request)) {
            Some(message) => {
                self.stats.cache_hits.inc();
                let mut reply = wire::reply(request, ResponseCode::NoError);
                wire::adopt(&mut reply, aliases, message);
                Now::Reply(reply)
            }
            None => Now::Forward { aliases, query },
        }
    }

    async fn forward(&self, request: &Message, aliases: Vec<Record>, query: &Query) -> Message {
        let mut reply = wire::reply(request, ResponseCode::NoError);
        self.stats.forwarded.inc();
        match self.forwarder.resolve(query, dnssec_ok(request)).await {
            Ok(forwarded) => wire::adopt(&mut reply, aliases, forwarded.message),
            Err(error) => {
                tracing::debug!(name = %query.name(), %error, "upstream resolution failed");
                self.stats.forward_failures.inc();
                // An alias is known whatever becomes of its target.
                if aliases.is_empty() {
                    reply.metadata.response_code = ResponseCode::ServFail;
                }
                reply.answers = aliases;
            }
        }
        reply
    }

    fn encode(&self, reply: &Message, request: &Message, transport: Transport) -> Option<Vec<u8>> {
        self.stats.responses.with_label_values(&[code_label(reply.metadata.response_code)]).inc();
        wire::encode(reply, request, transport).ok()
    }

    /// Answers datagrams until `shutdown`.
    pub async fn serve_udp(self: Arc<Self>, socket: UdpSocket, shutdown: CancellationToken) {
        let socket = Arc::new(socket);
        let mut buffer = vec![0; REQUEST_LEN_MAX];
        let counter = self.stats.requests.with_label_values(&["udp"]);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                // Errors of single clients (unreachable port) appear here too and mean nothing.
                _ = socket.readable() => {}
            }
            for _ in 0..BURST {
                match socket.try_recv_from(&mut buffer) {
                    Ok((len, client)) => {
                        counter.inc();
                        self.datagram(&socket, &buffer[..len], client);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => {}
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn datagram(self: &Arc<Self>, socket: &Arc<UdpSocket>, bytes: &[u8], client: SocketAddr) {
        let Ok(request) = Message::from_vec(bytes) else { return };
        match self.decide(&request) {
            Now::Nothing => {}
            Now::Reply(reply) => self.send(socket, &reply, &request, client),
            Now::Forward { aliases, query } => {
                let Ok(slot) = self.forwarding.clone().try_acquire_owned() else {
                    self.stats.overload.inc();
                    self.send(socket, &wire::reply(&request, ResponseCode::ServFail), &request, client);
                    return;
                };
                let (resolver, socket) = (self.clone(), socket.clone());
                tokio::spawn(async move {
                    let _slot = slot;
                    let reply = resolver.forward(&request, aliases, &query).await;
                    resolver.send(&socket, &reply, &request, client);
                });
            }
        }
    }

    fn send(&self, socket: &UdpSocket, reply: &Message, request: &Message, client: SocketAddr) {
        if let Some(bytes) = self.encode(reply, request, Transport::Udp) {
            // A full send queue loses the answer as the network might; the client asks again.
            let _ = socket.try_send_to(&bytes, client);
        }
    }

    /// Answers connections until `shutdown`.
    pub async fn serve_tcp(self: Arc<Self>, listener: TcpListener, shutdown: CancellationToken) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                // Out of file descriptors: waiting a moment beats spinning.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
            let (resolver, shutdown) = (self.clone(), shutdown.clone());
            tokio::spawn(async move {
                let _slot = slot;
                tokio::select! {
                    // A broken connection concerns its client only.
                    _ = resolver.connection(stream) => {}
                    () = shutdown.cancelled() => {}
                }
            });
        }
    }

    async fn connection(&self, mut stream: TcpStream) -> io::Result<()> {
        let counter = self.stats.requests.with_label_values(&["tcp"]);
        loop {
            let len = timeout(IDLE_MAX, stream.read_u16()).await??;
            let mut buffer = vec![0; len.into()];
            timeout(IDLE_MAX, stream.read_exact(&mut buffer)).await??;
            counter.inc();
            let request = Message::from_vec(&buffer).map_err(io::Error::other)?;
            let reply = match self.decide(&request) {
                Now::Nothing => return Ok(()),
                Now::Reply(reply) => reply,
                Now::Forward { aliases, query } => self.forward(&request, aliases, &query).await,
            };
            let Some(bytes) = self.encode(&reply, &request, Transport::Tcp) else { return Ok(()) };
            let len = u16::try_from(bytes.len()).map_err(io::Error::other)?;
            let mut framed = len.to_be_bytes().to_vec();
            framed.extend_from_slice(&bytes);
            timeout(IDLE_MAX, stream.write_all(&framed)).await??;
        }
    }
}

fn dnssec_ok(request: &Message) -> bool {
    request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok)
}

fn code_label(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::Refused => "REFUSED",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::NotImp => "NOTIMP",
        _ => "other",
    }
}

fn authoritative(request: &Message, zone: &Zone, aliases: Vec<Record>, outcome: Outcome) -> Message {
    let mut reply = wire::reply(request, ResponseCode::NoError);
    reply.metadata.authoritative = true;
    reply.answers = aliases;
    match outcome {
        Outcome::Found { answers, additionals } => {
            reply.answers.extend(answers);
            reply.additionals = additionals;
        }
        Outcome::NoData => reply.authorities.push(zone.soa()),
        Outcome::NoName => {
            reply.metadata.response_code = ResponseCode::NXDomain;
            reply.authorities.push(zone.soa());
        }
        // Aliases in a circle.
        _ => reply.metadata.response_code = ResponseCode::ServFail,
    }
    reply
}
