//! Questions about names outside the cluster: asks upstream servers, remembers their answers.
//!
//! Every question leaves from a socket and with a number of its own, both random, so that nobody can slip in a forged
//! answer. Servers are asked in turn, beginning with the one that answered last.

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use hickory_server::proto::{
    op::{Edns, Message, Query, ResponseCode},
    rr::Name,
};
use parking_lot::{Mutex, RwLock};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::{cache::Cache, wire::PAYLOAD_LEN};

/// How long one server may take. Resolver libraries give up after five seconds in all.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Servers (or repetitions) tried for one question.
const ATTEMPTS: usize = 3;
/// Answers kept, and their bytes on the wire: most take a hundred or two, but over TCP one may take 64 KiB.
const CACHE_ENTRIES_MAX: usize = 10_000;
const CACHE_LEN_MAX: usize = 4 * 1024 * 1024;
const DATAGRAM_LEN_MAX: usize = 4_096;

/// Why a question has no answer. The client may ask again.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// No upstream server is known.
    #[error("no upstream DNS server is known; name one in resolv.conf or in the options")]
    NoServer,
    /// No server answered.
    #[error("no upstream DNS server answered; the last error was: {0}")]
    NoAnswer(io::Error),
}

/// The upstream servers with their cache.
pub struct Forwarder {
    servers: RwLock<Vec<SocketAddr>>,
    stubs: Vec<(Name, Vec<SocketAddr>)>,
    cache: Mutex<Cache>,
    epoch: Instant,
    preferred: AtomicUsize,
}

/// An answer, and whether it came from the cache.
pub struct Forwarded {
    /// The upstream's message.
    pub message: Message,
    /// True when nobody had to be asked.
    pub cached: bool,
}

impl Forwarder {
    /// A forwarder; `stubs` are domains (lower case) with servers of their own.
    pub fn new(servers: Vec<SocketAddr>, stubs: Vec<(Name, Vec<SocketAddr>)>) -> Self {
        Self {
            servers: RwLock::new(servers),
            stubs,
            cache: Mutex::new(Cache::new(CACHE_ENTRIES_MAX, CACHE_LEN_MAX)),
            epoch: Instant::now(),
            preferred: AtomicUsize::new(0),
        }
    }

    /// Other upstream servers from now on.
    pub fn set_servers(&self, servers: Vec<SocketAddr>) {
        *self.servers.write() = servers;
    }

    /// An answer from the cache.
    pub fn cached(&self, query: &Query, dnssec_ok: bool) -> Option<Message> {
        let question = (query.name().to_lowercase(), query.query_type(), dnssec_ok);
        self.cache.lock().get(&question, self.epoch.elapsed())
    }

    /// An answer from the cache or from a server.
    pub async fn resolve(&self, query: &Query, dnssec_ok: bool) -> Result<Forwarded, ForwardError> {
        if let Some(message) = self.cached(query, dnssec_ok) {
            return Ok(Forwarded { message, cached: true });
        }
        let lower = query.name().to_lowercase();
        let servers = self.servers_for(&lower);
        let mut last = None;
        let start = self.preferred.load(Ordering::Relaxed);
        for attempt in 0..ATTEMPTS {
            let Some(server) = servers.get((start + attempt) % servers.len().max(1)) else {
                return Err(ForwardError::NoServer);
            };
            match ask(*server, query, dnssec_ok).await {
                // A server that fails may be alone in failing.
                Ok(message) if refuses(&message) && attempt + 1 < ATTEMPTS.min(servers.len()) => {}
                Ok(message) => {
                    self.preferred.store((start + attempt) % servers.len(), Ordering::Relaxed);
                    let question = (lower, query.query_type(), dnssec_ok);
                    self.cache.lock().put(question, &message, self.epoch.elapsed());
                    return Ok(Forwarded { message, cached: false });
                }
                Err(error) => last = Some(error),
            }
        }
        Err(ForwardError::NoAnswer(last.unwrap_or_else(|| io::Error::other("every server refused"))))
    }

    /// The servers of the longest stub domain that holds the name, else the general ones.
    fn servers_for(&self, name: &Name) -> Vec<SocketAddr> {
        let stubs = self.stubs.iter().filter(|(domain, _)| domain.zone_of(name));
        match stubs.max_by_key(|(domain, _)| domain.num_labels()) {
            Some((_, servers)) => servers.clone(),
            None => self.servers.read().clone(),
        }
    }
}

fn refuses(message: &Message) -> bool {
    matches!(message.metadata.response_code, ResponseCode::ServFail | ResponseCode::Refused)
}

async fn ask(server: SocketAddr, query: &Query, dnssec_ok: bool) -> io::Result<Message> {
    let mut request = Message::query();
    request.metadata.recursion_desired = true;
    request.queries.push(query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD_LEN);
    edns.set_dnssec_ok(dnssec_ok);
    request.edns = Some(edns);
    let bytes = request.to_vec().map_err(io::Error::other)?;
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("{server} did not answer in time"));
    let answer = timeout(ATTEMPT_TIMEOUT, over_udp(server, &request, &bytes)).await.map_err(late)??;
    if !answer.metadata.truncation {
        return Ok(answer);
    }
    timeout(ATTEMPT_TIMEOUT, over_tcp(server, &request, &bytes)).await.map_err(late)?
}

fn answers(request: &Message, answer: &Message) -> bool {
    answer.metadata.id == request.metadata.id && answer.queries == request.queries
}

async fn over_udp(server: SocketAddr, request: &Message, bytes: &[u8]) -> io::Result<Message> {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; DATAGRAM_LEN_MAX];
    loop {
        let len = socket.recv(&mut buffer).await?;
        // Forged or late datagrams are skipped; the time limit ends the wait.
        if let Ok(answer) = Message::from_vec(&buffer[..len])
            && answers(request, &answer)
        {
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, request: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let len = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut framed = len.to_be_bytes().to_vec();
    framed.extend_from_slice(bytes);
    stream.write_all(&framed).await?;
    let len = stream.read_u16().await?;
    let mut buffer = vec![0; len.into()];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer).map_err(io::Error::other)?;
    match answers(request, &answer) {
        true => Ok(answer),
        false => {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("{server} answered another question")))
        }
    }
}
