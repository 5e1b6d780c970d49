//! The Watch service: many watches on one stream.

use std::{collections::HashSet, sync::Arc, time::Duration};

use prost::Message;
use proto::{
    etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse, watch_request::RequestUnion},
    mvccpb::Event,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use super::{
    identity::{caller, requires_leader},
    wire::{Wire, WireStream},
};
use crate::{
    error::Error,
    member::{Caller, Member},
    watch::{WatchStream, WatchUpdate},
};

/// Messages that may wait for a slow client; what is behind them waits in the hub, bounded.
const RESPONSES_WAITING: usize = 16;
/// How often a stream that needs a leader looks whether there is one.
const LEADER_CHECK: Duration = Duration::from_millis(500);
/// The id in answers that belong to no watch.
const NO_WATCH: i64 = -1;

type Sender = mpsc::Sender<Result<Wire, Status>>;

/// Begins a session for a client's stream of requests; its answers come as the stream that is returned.
pub fn open_session(
    member: Arc<Member>,
    request: Request<Streaming<WatchRequest>>,
) -> Result<WireStream, Status> {
    let caller = caller(&member, &request)?;
    let needs_leader = requires_leader(&request);
    let (responses, stream) = mpsc::channel(RESPONSES_WAITING);
    let session =
        Session { caller, stream: member.watch_stream(), responses, fragmented: HashSet::new(), member };
    tokio::spawn(session.run(request.into_inner(), needs_leader));
    Ok(Box::pin(ReceiverStream::new(stream)))
}

struct Session {
    member: Arc<Member>,
    caller: Caller,
    stream: WatchStream,
    responses: Sender,
    /// Watches whose client takes large messages in pieces.
    fragmented: HashSet<i64>,
}

impl Session {
    async fn run(mut self, mut requests: Streaming<WatchRequest>, needs_leader: bool) {
        let mut leader_check = tokio::time::interval(LEADER_CHECK);
        let mut checks_without_leader = 0;
        let stop = self.member.stopping().clone();
        loop {
            let sent = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.responses.closed() => return,
                request = requests.message() => match request {
                    Ok(Some(request)) => self.handle(request).await,
                    Ok(None) | Err(_) => return,
                },
                update = self.stream.next() => match update {
                    Some(update) => self.send_update(update).await,
                    None => return,
                },
                _ = leader_check.tick(), if needs_leader => {
                    let lost = self.member.leader().is_none();
                    checks_without_leader = if lost { checks_without_leader + 1 } else { 0 };
                    if self.leader_lost_too_long(checks_without_leader) {
                        // The client asked to be told; it may have gone meanwhile.
                        let _ = self.responses.send(Err(Error::NO_LEADER.into())).await;
                        return;
                    }
                    Some(())
                }
            };
            if sent.is_none() {
                return;
            }
        }
    }

    fn leader_lost_too_long(&self, checks: u32) -> bool {
        LEADER_CHECK * checks > self.member.config().election_timeout * 3
    }

    /// Carries out one request of the client; nothing when the client has gone.
    async fn handle(&mut self, request: WatchRequest) -> Option<()> {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(create).await,
            Some(RequestUnion::CancelRequest(cancel)) => {
                if !self.stream.cancel(cancel.watch_id) {
                    return Some(());
                }
                self.fragmented.remove(&cancel.watch_id);
                let revision = self.member.view().revision;
                self.send(self.response(cancel.watch_id, revision, |response| response.canceled = true)).await
            }
            Some(RequestUnion::ProgressRequest(_)) => {
                self.stream.request_progress();
                Some(())
            }
            None => Some(()),
        }
    }

    async fn create(&mut self, create: WatchCreateRequest) -> Option<()> {
        let revision = self.member.view().revision;
        if let Err(error) = self.permit(&create) {
            return self.refuse(revision, error.text()).await;
        }
        match self.stream.create(&create) {
            Ok((watch_id, revision)) => {
                if create.fragment {
                    self.fragmented.insert(watch_id);
                }
                self.send(self.response(watch_id, revision, |response| response.created = true)).await
            }
            Err(reason) => self.refuse(revision, reason).await,
        }
    }

    /// The caller must be allowed to read all that is watched.
    fn permit(&self, create: &WatchCreateRequest) -> Result<(), Error> {
        if self.caller.is_trusted() {
            return Ok(());
        }
        self.member.auth().check_read(&self.caller.user, &create.key, &create.range_end)
    }

    async fn refuse(&self, revision: i64, reason: &str) -> Option<()> {
        let refused = self.response(NO_WATCH, revision, |response| {
            response.created = true;
            response.canceled = true;
            response.cancel_reason = reason.to_owned();
        });
        self.send(refused).await
    }

    async fn send_update(&mut self, update: WatchUpdate) -> Option<()> {
        match update {
            WatchUpdate::Events { watch_id, revision, events, prev_kv } => {
                if self.fragmented.contains(&watch_id) {
                    let messages = events.events().iter().map(|event| event.message(prev_kv)).collect();
                    return self.send_fragments(watch_id, revision, messages).await;
                }
                let head = Box::new(self.response(watch_id, revision, |_| {}));
                self.responses.send(Ok(Wire::Watch(head, Some((events, prev_kv))))).await.ok()
            }
            WatchUpdate::Progress { watch_id, revision } => {
                self.send(self.response(watch_id, revision, |_| {})).await
            }
            WatchUpdate::Canceled { watch_id, revision, compact_revision, reason } => {
                self.fragmented.remove(&watch_id);
                let canceled = self.response(watch_id, revision, |response| {
                    response.canceled = true;
                    response.compact_revision = compact_revision;
                    response.cancel_reason = reason;
                });
                self.send(canceled).await
            }
        }
    }

    /// Splits events over messages no larger than a request may be; all but the last say that more follows.
    async fn send_fragments(&self, watch_id: i64, revision: i64, events: Vec<Event>) -> Option<()> {
        let limit = self.member.config().max_request_bytes;
        let mut bytes = 0;
        let mut piece = Vec::new();
        for event in events {
            let size = event.encoded_len();
            if bytes + size > limit && !piece.is_empty() {
                let full = std::mem::take(&mut piece);
                let fragment = self.response(watch_id, revision, |response| {
                    response.fragment = true;
                    response.events = full;
                });
                self.send(fragment).await?;
                bytes = 0;
            }
            bytes += size;
            piece.push(event);
        }
        self.send(self.response(watch_id, revision, |response| response.events = piece)).await
    }

    fn response(&self, watch_id: i64, revision: i64, fill: impl FnOnce(&mut WatchResponse)) -> WatchResponse {
        let mut response =
            WatchResponse { header: self.member.header(revision), watch_id, ..WatchResponse::default() };
        fill(&mut response);
        response
    }

    async fn send(&self, response: WatchResponse) -> Option<()> {
        self.responses.send(Ok(Wire::Watch(Box::new(response), None))).await.ok()
    }
}
