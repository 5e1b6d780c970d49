//! What is counted of gRPC calls.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::RwLock;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec};

use super::{counter, counters, registered};

/// Calls by service and method.
pub struct Grpc {
    started: IntCounterVec,
    handled: IntCounterVec,
    took: HistogramVec,
    received: IntCounterVec,
    sent: IntCounterVec,
    received_bytes: IntCounter,
    sent_bytes: IntCounter,
    requests: IntCounterVec,
    methods: RwLock<HashMap<String, Arc<Method>>>,
}

impl Grpc {
    pub(super) fn new() -> Self {
        let labels = ["grpc_service", "grpc_method", "grpc_type"];
        let handled = ["grpc_service", "grpc_method", "grpc_type", "grpc_code"];
        let histogram = HistogramOpts::new("grpc_server_handling_seconds", "Time unary calls took.");
        Self {
            started: counters("grpc_server_started_total", "Calls started on the server.", &labels),
            handled: counters("grpc_server_handled_total", "Calls completed on the server.", &handled),
            took: registered(HistogramVec::new(histogram, &labels)),
            received: counters("grpc_server_msg_received_total", "Messages received from clients.", &labels),
            sent: counters("grpc_server_msg_sent_total", "Messages sent to clients.", &labels),
            received_bytes: counter(
                "etcd_network_client_grpc_received_bytes_total",
                "Bytes received from clients.",
            ),
            sent_bytes: counter("etcd_network_client_grpc_sent_bytes_total", "Bytes sent to clients."),
            requests: counters(
                "etcd_server_client_requests_total",
                "Requests by the version clients say they are.",
                &["type", "client_api_version"],
            ),
            methods: RwLock::default(),
        }
    }

    /// A call begins, of a client of this version.
    pub fn begun(&self, method: &Method, client_version: Option<&str>) {
        method.started.inc();
        let kind = if method.is_unary { "unary" } else { "stream" };
        let version = client_version.filter(|version| is_version(version)).unwrap_or("unknown");
        self.requests.with_label_values(&[kind, version]).inc();
    }

    /// The counters of a method, looked up once and then shared.
    pub fn method(&self, path: &str) -> Arc<Method> {
        if let Some(known) = self.methods.read().get(path) {
            return known.clone();
        }
        let mut parts = path.trim_start_matches('/').splitn(2, '/');
        let (service, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let kind = match name {
            "Watch" | "LeaseKeepAlive" => "bidi_stream",
            "Snapshot" | "Observe" | "RangeStream" => "server_stream",
            _ => "unary",
        };
        let method = Arc::new(Method {
            service: service.to_owned(),
            name: name.to_owned(),
            is_unary: kind == "unary",
            started: self.started.with_label_values(&[service, name, kind]),
            received: self.received.with_label_values(&[service, name, kind]),
            sent: self.sent.with_label_values(&[service, name, kind]),
            took: self.took.with_label_values(&[service, name, kind]),
            succeeded: self.handled.with_label_values(&[service, name, kind, "OK"]),
            kind,
        });
        // A client may ask for any path; only so many are remembered.
        let mut methods = self.methods.write();
        if methods.len() < METHODS_MAX {
            methods.insert(path.to_owned(), method.clone());
        }
        method
    }

    /// A call ended.
    pub fn handled(&self, method: &Method, code: tonic::Code) {
        match code {
            tonic::Code::Ok => method.succeeded.inc(),
            code => {
                let labels = [&method.service, &method.name, method.kind, &format!("{code:?}")];
                self.handled.with_label_values(&labels).inc();
            }
        }
    }

    /// A call took this long.
    pub fn took(&self, method: &Method, took: Duration) {
        method.took.observe(took.as_secs_f64());
    }

    /// Counts what comes in with a request.
    pub fn incoming<B>(&self, method: &Method, body: B) -> Counted<B> {
        Counted::new(body, self.received_bytes.clone(), method.received.clone())
    }

    /// Counts what goes out with an answer.
    pub fn outgoing<B>(&self, method: &Method, body: B) -> Counted<B> {
        Counted::new(body, self.sent_bytes.clone(), method.sent.clone())
    }
}

/// Whether this is a version such as `3.6`. A client may say anything, and each other thing said would be kept for ever.
fn is_version(text: &str) -> bool {
    let number = |part: &str| (1..=2).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    text.split_once('.').is_some_and(|(major, minor)| number(major) && number(minor))
}

/// Methods whose counters are remembered; there are fewer than a hundred real ones.
const METHODS_MAX: usize = 256;

/// One gRPC method and its counters.
pub struct Method {
    /// The service's full name.
    pub service: String,
    /// The method's name.
    pub name: String,
    /// Neither side streams.
    pub is_unary: bool,
    /// Calls begun.
    pub started: IntCounter,
    succeeded: IntCounter,
    received: IntCounter,
    sent: IntCounter,
    took: Histogram,
    kind: &'static str,
}

/// A body whose bytes and gRPC messages are counted as they pass.
pub struct Counted<B> {
    body: B,
    bytes: IntCounter,
    messages: IntCounter,
    /// Of the message that passes: bytes of its head seen so far, and bytes of its content that are left.
    head: [u8; HEAD_BYTES],
    head_seen: usize,
    left: usize,
}

/// Before each message: a flag, and four bytes of length.
const HEAD_BYTES: usize = 5;

impl<B> Counted<B> {
    fn new(body: B, bytes: IntCounter, messages: IntCounter) -> Self {
        Self { body, bytes, messages, head: [0; HEAD_BYTES], head_seen: 0, left: 0 }
    }

    fn count(&mut self, mut data: &[u8]) {
        self.bytes.inc_by(data.len() as u64);
        while !data.is_empty() {
            if self.left > 0 {
                let passed = self.left.min(data.len());
                self.left -= passed;
                data = &data[passed..];
                continue;
            }
            self.head[self.head_seen] = data[0];
            self.head_seen += 1;
            data = &data[1..];
            if self.head_seen == HEAD_BYTES {
                let [_, length @ ..] = self.head;
                self.left = u32::from_be_bytes(length) as usize;
                self.head_seen = 0;
                self.messages.inc();
            }
        }
    }
}

impl<B: http_body::Body<Data = Bytes> + Unpin> http_body::Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.count(data);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart_from_anything_else() {
        let cases =
            [("3.6", true), ("3.14", true), ("3", false), ("3.6.1", false), ("3.", false), ("x.y", false)];
        for (text, expected) in cases {
            assert_eq!(is_version(text), expected, "{text:?}");
        }
    }

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let wire = [0, 0, 0, 0, 3, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 9];
        for cut in 1..=wire.len() {
            let (bytes, messages) = (IntCounter::new("b", "b").unwrap(), IntCounter::new("m", "m").unwrap());
            let mut counted = Counted::new((), bytes.clone(), messages.clone());
            wire.chunks(cut).for_each(|piece| counted.count(piece));
            assert_eq!((bytes.get(), messages.get()), (wire.len() as u64, 3), "in pieces of {cut}");
        }
    }
}
