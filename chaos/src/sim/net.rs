//! The simulated network: streams between hosts, carried frame by frame with a delay that the seed draws.
//!
//! It behaves as TCP does to those who use it: what is sent on a stream arrives whole and in order, or the stream
//! breaks. A lost packet is a pause; a cut link holds everything back and, if it stays cut, breaks its streams; a dead
//! host refuses new streams and breaks the old ones. Knows nothing of time but what it is told by [`Net::advance`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use parking_lot::Mutex;
use raft_store::Transport;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;

/// A machine of the simulation.
pub type HostId = usize;
/// Names a stream for as long as the simulation lives.
pub type StreamId = u64;

/// One way through the network on a quiet day.
const DELAY_MICROS: std::ops::Range<u64> = 150..1_500;
/// What a lost packet costs: TCP sends it again after this.
const RETRANSMIT: Duration = Duration::from_millis(200);
/// A link that is cut for so long loses its connections: keep-alive goes unanswered.
const BREAK_AFTER: Duration = Duration::from_millis(1_000);

/// What a packet carries.
pub enum Content {
    /// A new stream, to the service at this URL.
    Open { url: String, head: Box<http::request::Parts> },
    /// The head of the answer.
    Reply(Box<http::response::Parts>),
    /// A piece of a body, in either direction.
    Frame(Frame<Bytes>),
    /// The body is complete.
    End,
    /// The stream is broken, or not wanted any more.
    Reset,
}

struct Packet {
    stream: StreamId,
    from: HostId,
    to: HostId,
    content: Content,
}

/// A stream that has just arrived at a host.
pub struct Arrival {
    pub stream: StreamId,
    pub url: String,
    pub head: Box<http::request::Parts>,
    pub body: UnboundedReceiver<Content>,
}

#[derive(Default)]
struct HostNet {
    /// Where new streams go; none while the host is down.
    arrivals: Option<UnboundedSender<Arrival>>,
    services: BTreeMap<String, Transport>,
    /// What is sent to this host's end of a stream.
    ends: BTreeMap<StreamId, UnboundedSender<Content>>,
    /// What answers a stream here, to be stopped when the stream breaks.
    answering: BTreeMap<StreamId, AbortHandle>,
}

#[derive(Default)]
struct Link {
    cut_since: Option<Duration>,
    held: VecDeque<Packet>,
    /// When the last packet arrives: the next one cannot overtake it.
    last_at: Duration,
}

struct Stream {
    client: HostId,
    server: HostId,
    opened: Duration,
}

struct State {
    now: Duration,
    rng: StdRng,
    next_stream: StreamId,
    /// By time of arrival and order of sending.
    underway: BTreeMap<(Duration, u64), Packet>,
    sent: u64,
    hosts: Vec<HostNet>,
    links: BTreeMap<(HostId, HostId), Link>,
    streams: BTreeMap<StreamId, Stream>,
    /// Hosts that do not run, and since when.
    frozen: BTreeMap<HostId, Duration>,
    /// URLs and who serves them.
    addresses: BTreeMap<String, HostId>,
    /// Of a hundred packets.
    loss_percent: u32,
    /// Added to every delay between members.
    slowness: Duration,
}

/// The network. Clones share it.
#[derive(Clone)]
pub struct Net(Arc<Mutex<State>>);

impl Net {
    /// `hosts` machines, all down.
    pub fn new(hosts: usize, rng: StdRng) -> Self {
        Net(Arc::new(Mutex::new(State {
            now: Duration::ZERO,
            rng,
            next_stream: 0,
            underway: BTreeMap::new(),
            sent: 0,
            hosts: (0..hosts).map(|_| HostNet::default()).collect(),
            links: BTreeMap::new(),
            streams: BTreeMap::new(),
            frozen: BTreeMap::new(),
            addresses: BTreeMap::new(),
            loss_percent: 0,
            slowness: Duration::ZERO,
        })))
    }

    /// The host is there; streams to it arrive at what is returned.
    pub fn come_up(&self, host: HostId) -> UnboundedReceiver<Arrival> {
        let (sender, receiver) = unbounded_channel();
        self.0.lock().hosts[host].arrivals = Some(sender);
        receiver
    }

    /// The host is dead: all its streams break.
    pub fn go_down(&self, host: HostId) {
        let gone = {
            let mut state = self.0.lock();
            let gone = std::mem::take(&mut state.hosts[host]);
            let broken: Vec<StreamId> =
                state.streams_of(|stream| stream.client == host || stream.server == host);
            for stream in broken {
                if let Some(ends) = state.streams.remove(&stream) {
                    let other = if ends.client == host { ends.server } else { ends.client };
                    state.send(Packet { stream, from: host, to: other, content: Content::Reset });
                }
            }
            gone
        };
        // Outside the lock: what is dropped here may hold streams of its own.
        drop(gone);
    }

    pub fn serve(&self, host: HostId, url: &str, service: Transport) {
        let mut state = self.0.lock();
        state.addresses.insert(url.to_owned(), host);
        state.hosts[host].services.insert(url.to_owned(), service);
    }

    pub fn service(&self, host: HostId, url: &str) -> Option<Transport> {
        self.0.lock().hosts[host].services.get(url).cloned()
    }

    /// Opens a stream to whoever serves `url`. Nothing if nobody ever did.
    pub fn open(
        &self,
        from: HostId,
        url: &str,
        head: http::request::Parts,
    ) -> Option<(StreamId, UnboundedReceiver<Content>)> {
        let mut state = self.0.lock();
        let to = *state.addresses.get(url)?;
        let stream = state.next_stream;
        state.next_stream += 1;
        let (sender, receiver) = unbounded_channel();
        state.hosts[from].ends.insert(stream, sender);
        let opened = state.now;
        state.streams.insert(stream, Stream { client: from, server: to, opened });
        let content = Content::Open { url: url.to_owned(), head: Box::new(head) };
        state.send(Packet { stream, from, to, content });
        Some((stream, receiver))
    }

    /// Sends to the other end of the stream; nothing happens if it is gone.
    pub fn send(&self, from: HostId, stream: StreamId, content: Content) {
        let mut state = self.0.lock();
        let Some(ends) = state.streams.get(&stream) else { return };
        let to = if ends.client == from { ends.server } else { ends.client };
        state.send(Packet { stream, from, to, content });
    }

    /// This end is done with the stream; the other one hears of it unless both are.
    pub fn close(&self, host: HostId, stream: StreamId, complete: bool) {
        let mut state = self.0.lock();
        state.hosts[host].ends.remove(&stream);
        state.hosts[host].answering.remove(&stream);
        let Some(ends) = state.streams.get(&stream) else { return };
        let other = if ends.client == host { ends.server } else { ends.client };
        if !complete {
            state.send(Packet { stream, from: host, to: other, content: Content::Reset });
        }
        if !state.hosts[other].ends.contains_key(&stream) {
            state.streams.remove(&stream);
        }
    }

    /// What answers the stream, to be stopped when it breaks.
    pub fn answers(&self, host: HostId, stream: StreamId, task: AbortHandle) {
        self.0.lock().hosts[host].answering.insert(stream, task);
    }

    /// Makes exactly these links deaf; what was held back on the others goes on its way.
    pub fn cut(&self, cuts: &std::collections::BTreeSet<(HostId, HostId)>) {
        let mut state = self.0.lock();
        let now = state.now;
        for &link in cuts {
            state.links.entry(link).or_default().cut_since.get_or_insert(now);
        }
        let healed: Vec<(HostId, HostId)> = state
            .links
            .iter()
            .filter(|(link, at)| at.cut_since.is_some() && !cuts.contains(link))
            .map(|(link, _)| *link)
            .collect();
        for link in healed {
            let held = state.links.get_mut(&link).map(|at| {
                at.cut_since = None;
                std::mem::take(&mut at.held)
            });
            for packet in held.unwrap_or_default() {
                state.send(packet);
            }
        }
    }

    /// The host does not run, though its machine takes packets; or it runs again.
    pub fn freeze(&self, host: HostId, is_frozen: bool) {
        let mut state = self.0.lock();
        let now = state.now;
        match is_frozen {
            true => drop(state.frozen.entry(host).or_insert(now)),
            false => drop(state.frozen.remove(&host)),
        }
    }

    /// Loses a share of all packets and delays the rest.
    pub fn trouble(&self, loss_percent: u32, slowness: Duration) {
        let mut state = self.0.lock();
        state.loss_percent = loss_percent;
        state.slowness = slowness;
    }

    /// Moves time on: what is due arrives, and streams over links that have been cut for too long break.
    pub fn advance(&self, now: Duration) {
        self.0.lock().now = now;
        loop {
            let due = {
                let mut state = self.0.lock();
                match state.underway.first_entry().filter(|entry| entry.key().0 <= now) {
                    Some(entry) => entry.remove(),
                    None => break,
                }
            };
            self.deliver(due);
        }
        for (stream, ends) in self.broken() {
            for host in [ends.client, ends.server] {
                let packet = Packet { stream, from: host, to: host, content: Content::Reset };
                self.deliver(packet);
            }
        }
    }

    /// Takes out the streams that break now.
    fn broken(&self) -> Vec<(StreamId, Stream)> {
        let mut state = self.0.lock();
        let now = state.now;
        let dead: Vec<(HostId, HostId, Duration)> = state
            .links
            .iter()
            .filter_map(|(&(from, to), link)| Some((from, to, link.cut_since?)))
            .chain(state.frozen.iter().flat_map(|(&frozen, &since)| {
                (0..state.hosts.len())
                    .filter(move |&other| other != frozen)
                    .map(move |other| (frozen, other, since))
            }))
            .filter(|(.., since)| now.saturating_sub(*since) > BREAK_AFTER)
            .collect();
        if dead.is_empty() {
            return Vec::new();
        }
        let over_dead_link = |stream: &Stream| {
            dead.iter().any(|&(from, to, since)| {
                let same = (stream.client, stream.server) == (from, to)
                    || (stream.server, stream.client) == (from, to);
                same && now.saturating_sub(stream.opened.max(since)) > BREAK_AFTER
            })
        };
        let broken = state.streams_of(over_dead_link);
        for (from, to, _) in dead {
            if let Some(link) = state.links.get_mut(&(from, to)) {
                link.held.retain(|packet| !broken.contains(&packet.stream));
            }
        }
        broken.into_iter().filter_map(|stream| Some((stream, state.streams.remove(&stream)?))).collect()
    }

    fn deliver(&self, packet: Packet) {
        let mut state = self.0.lock();
        let Packet { stream, from, to, content } = packet;
        let host = &mut state.hosts[to];
        match content {
            Content::Open { url, head } => {
                let Some(arrivals) = host.arrivals.clone() else {
                    // Nobody is there.
                    state.streams.remove(&stream);
                    state.send(Packet { stream, from: to, to: from, content: Content::Reset });
                    return;
                };
                let (sender, body) = unbounded_channel();
                host.ends.insert(stream, sender);
                drop(state);
                // A host that ends in this very moment refuses by not answering; its end is noticed by all.
                let _ = arrivals.send(Arrival { stream, url, head, body });
            }
            Content::Reset => {
                let task = host.answering.remove(&stream);
                let end = host.ends.remove(&stream);
                state.streams.remove(&stream);
                drop(state);
                if let Some(end) = end {
                    // Whoever listened may have gone.
                    let _ = end.send(Content::Reset);
                }
                if let Some(task) = task {
                    task.abort();
                }
            }
            content => {
                if let Some(end) = host.ends.get(&stream) {
                    // Whoever listened may have gone.
                    let _ = end.send(content);
                }
            }
        }
    }
}

impl State {
    fn streams_of(&self, wanted: impl Fn(&Stream) -> bool) -> Vec<StreamId> {
        self.streams.iter().filter(|(_, stream)| wanted(stream)).map(|(id, _)| *id).collect()
    }

    fn send(&mut self, packet: Packet) {
        let link = self.links.entry((packet.from, packet.to)).or_default();
        if link.cut_since.is_some() {
            link.held.push_back(packet);
            return;
        }
        let mut delay = Duration::from_micros(self.rng.random_range(DELAY_MICROS));
        if packet.from != packet.to {
            delay += self.slowness.mul_f64(self.rng.random_range(0.5..1.5));
            while self.loss_percent > 0 && self.rng.random_range(0..100) < self.loss_percent {
                delay += RETRANSMIT;
            }
        }
        link.last_at = link.last_at.max(self.now + delay);
        self.sent += 1;
        self.underway.insert((link.last_at, self.sent), packet);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use std::collections::BTreeSet;
    use tonic::body::Body;

    const URL: &str = "http://m1:2380";

    fn head() -> http::request::Parts {
        http::Request::new(()).into_parts().0
    }

    /// Host 1 serves, host 0 calls.
    fn net() -> (Net, UnboundedReceiver<Arrival>) {
        let net = Net::new(2, StdRng::seed_from_u64(4));
        let arrivals = net.come_up(1);
        let service = tower::service_fn(|_: http::Request<Body>| async {
            Ok::<_, tower::BoxError>(http::Response::new(Body::empty()))
        });
        net.serve(1, URL, Transport::new(service));
        (net, arrivals)
    }

    fn bytes(content: Content) -> Option<Bytes> {
        match content {
            Content::Frame(frame) => frame.into_data().ok(),
            _ => None,
        }
    }

    #[test]
    fn what_is_sent_arrives_in_order_also_over_a_link_that_was_cut_for_a_while() {
        let (net, mut arrivals) = net();
        let (stream, _answers) = net.open(0, URL, head()).expect("somebody serves it");
        let send = |byte: u8| net.send(0, stream, Content::Frame(Frame::data(Bytes::from(vec![byte]))));
        (0..5).for_each(send);
        net.advance(Duration::from_millis(50));
        let mut body = arrivals.try_recv().expect("it arrived").body;
        net.cut(&BTreeSet::from([(0, 1)]));
        (5..9).for_each(send);
        net.advance(Duration::from_millis(500));
        let mut seen = Vec::new();
        while let Ok(content) = body.try_recv() {
            seen.extend(bytes(content).expect("a frame"));
        }
        assert_eq!(seen, [0, 1, 2, 3, 4], "the rest is held back");
        net.cut(&BTreeSet::new());
        net.advance(Duration::from_millis(900));
        while let Ok(content) = body.try_recv() {
            seen.extend(bytes(content).expect("a frame"));
        }
        assert_eq!(seen, (0..9).collect::<Vec<u8>>());
    }

    #[test]
    fn streams_break_with_their_link_or_their_host() {
        let (net, mut arrivals) = net();
        let broken =
            |answers: &mut UnboundedReceiver<Content>| matches!(answers.try_recv(), Ok(Content::Reset));
        let (_, mut cut) = net.open(0, URL, head()).expect("served");
        net.advance(Duration::from_millis(50));
        let mut body = arrivals.try_recv().expect("it arrived").body;
        net.cut(&BTreeSet::from([(1, 0)]));
        net.advance(Duration::from_millis(900));
        assert!(!broken(&mut cut), "not yet");
        net.advance(Duration::from_millis(1_200));
        assert!(broken(&mut cut) && broken(&mut body), "both ends hear of it");
        net.cut(&BTreeSet::new());
        let (_, mut frozen) = net.open(0, URL, head()).expect("served");
        net.freeze(1, true);
        net.advance(Duration::from_millis(2_500));
        assert!(broken(&mut frozen), "nobody answers its keep-alive");
        net.freeze(1, false);
        let (_, mut killed) = net.open(0, URL, head()).expect("served");
        net.advance(Duration::from_millis(2_600));
        net.go_down(1);
        let (_, mut refused) = net.open(0, URL, head()).expect("known");
        net.advance(Duration::from_millis(2_700));
        net.advance(Duration::from_millis(2_800));
        assert!(broken(&mut killed) && broken(&mut refused));
        assert!(net.open(0, "http://nobody:1", head()).is_none());
    }
}
