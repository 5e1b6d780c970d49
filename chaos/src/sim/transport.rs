//! HTTP over the simulated network: what calls on one host and what answers on another.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::Frame;
use http_body_util::BodyExt;
use raft_store::{Network, Transport};
use tokio::sync::mpsc::UnboundedReceiver;
use tonic::Status;
use tonic::body::Body;
use tower::{BoxError, Service, ServiceExt};

use super::net::{Arrival, Content, HostId, Net, StreamId};

/// The network as one host sees it.
#[derive(Clone)]
pub struct Card {
    net: Net,
    host: HostId,
}

impl fmt::Debug for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the simulated network at host {}", self.host)
    }
}

impl Card {
    pub fn new(net: Net, host: HostId) -> Self {
        Card { net, host }
    }

    /// Answers whatever arrives, until the host goes down.
    pub async fn answer_all(self, mut arrivals: UnboundedReceiver<Arrival>) {
        while let Some(arrival) = arrivals.recv().await {
            let card = self.clone();
            let stream = arrival.stream;
            let task = tokio::spawn(card.answer(arrival));
            self.net.answers(self.host, stream, task.abort_handle());
        }
    }

    async fn answer(self, arrival: Arrival) {
        let end = End { card: self.clone(), stream: arrival.stream, complete: false };
        let Some(service) = self.net.service(self.host, &arrival.url) else { return };
        let body = Body::new(Incoming { frames: arrival.body, end: None, ended: false });
        let request = http::Request::from_parts(*arrival.head, body);
        let Ok(response) = service.oneshot(request).await else { return };
        let (head, body) = response.into_parts();
        self.net.send(self.host, arrival.stream, Content::Reply(Box::new(head)));
        self.pump(arrival.stream, body).await;
        let mut end = end;
        end.complete = true;
    }

    /// Sends a body to the other end.
    async fn pump(&self, stream: StreamId, mut body: Body) {
        while let Some(frame) = body.frame().await {
            let content = frame.map_or(Content::Reset, Content::Frame);
            let broken = matches!(content, Content::Reset);
            self.net.send(self.host, stream, content);
            if broken {
                return;
            }
        }
        self.net.send(self.host, stream, Content::End);
    }
}

impl Network for Card {
    fn dial(&self, url: &str) -> Transport {
        Transport::new(Caller { card: self.clone(), url: url.to_owned() })
    }

    fn serve(&self, url: &str, service: Transport) {
        self.net.serve(self.host, url, service);
    }
}

/// Calls whoever serves a URL.
#[derive(Clone)]
struct Caller {
    card: Card,
    url: String,
}

impl Service<http::Request<Body>> for Caller {
    type Response = http::Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Caller { card, url } = self.clone();
        Box::pin(async move {
            let refused = || BoxError::from(Status::unavailable("tcp connect error: connection refused"));
            let (head, body) = request.into_parts();
            let limit = head.headers.get("grpc-timeout").and_then(|value| patience(value.to_str().ok()?));
            let (stream, mut frames) = card.net.open(card.host, &url, head).ok_or_else(refused)?;
            let mut end = End { card: card.clone(), stream, complete: false };
            let sending = card.clone();
            let sender = tokio::spawn(async move { sending.pump(stream, body).await });
            let _sender = AbortOnDrop(sender.abort_handle());
            let first = match limit {
                // As gRPC's own channels do.
                Some(limit) => match tokio::time::timeout(limit, frames.recv()).await {
                    Ok(first) => first,
                    Err(_) => return Err(Status::cancelled("Timeout expired").into()),
                },
                None => frames.recv().await,
            };
            match first {
                Some(Content::Reply(head)) => {
                    let end = Some((end, _sender));
                    let body = Incoming { frames, end, ended: false };
                    Ok(http::Response::from_parts(*head, Body::new(body)))
                }
                _ => {
                    end.complete = true;
                    Err(broken().into())
                }
            }
        })
    }
}

/// gRPC's `grpc-timeout`: a number and a unit.
fn patience(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

fn broken() -> Status {
    Status::unavailable("the connection broke")
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One end of a stream; the other is told when it goes before the stream is complete.
struct End {
    card: Card,
    stream: StreamId,
    complete: bool,
}

impl Drop for End {
    fn drop(&mut self) {
        self.card.net.close(self.card.host, self.stream, self.complete);
    }
}

/// A body that arrives.
struct Incoming {
    frames: UnboundedReceiver<Content>,
    /// The caller's end, which lives as long as the answer is read.
    end: Option<(End, AbortOnDrop)>,
    ended: bool,
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let content = std::task::ready!(self.frames.poll_recv(context));
        Poll::Ready(match content {
            Some(Content::Frame(frame)) => Some(Ok(frame)),
            Some(Content::End) => {
                self.finish();
                None
            }
            _ => {
                self.finish();
                Some(Err(broken()))
            }
        })
    }
}

impl Incoming {
    fn finish(&mut self) {
        self.ended = true;
        if let Some((end, _)) = &mut self.end {
            end.complete = true;
        }
    }
}
