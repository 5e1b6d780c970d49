//! The Watch service: many watches on one stream.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use prost::Message;
use proto::{
    etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse, watch_request::RequestUnion},
    mvccpb::Event,
};
use tokio::time::Interval;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status, Streaming};

use super::{
    identity::{Credentials, check_leader, requires_leader},
    wire::{Wire, WireStream},
};
use crate::{
    auth::Access,
    error::Error,
    member::Member,
    watch::{WatchStream, WatchUpdate, watch_range},
};

/// How often a stream that needs a leader looks whether there is one.
const LEADER_CHECK: Duration = Duration::from_millis(500);
/// The id in answers that belong to no watch.
const NO_WATCH: i64 = -1;

/// Begins a session for a client's stream of requests; its answers come as the stream that is returned.
pub fn open_session(
    member: Arc<Member>,
    request: Request<Streaming<WatchRequest>>,
) -> Result<WireStream, Status> {
    check_leader(&member, &request)?;
    let needs_leader = requires_leader(&request);
    let session = Session {
        credentials: Credentials::of(&request),
        stream: member.watch_stream(),
        responses: VecDeque::new(),
        fragmented: HashSet::new(),
        leader_check: needs_leader.then(|| tokio::time::interval(LEADER_CHECK)),
        checks_without_leader: 0,
        stop: member.stopping().clone(),
        is_over: false,
        requests: request.into_inner(),
        member,
    };
    let responses = futures::stream::unfold(session, async |mut session| {
        let response = session.next().await?;
        Some((response, session))
    });
    Ok(Box::pin(responses))
}

/// One stream of a client. It runs only when the client takes its answers; what happens meanwhile waits, bounded, in
/// the hub.
struct Session {
    member: Arc<Member>,
    credentials: Credentials,
    requests: Streaming<WatchRequest>,
    stream: WatchStream,
    /// Made and not yet taken; a request or an update makes a few at most.
    responses: VecDeque<Wire>,
    /// Watches whose client takes large messages in pieces.
    fragmented: HashSet<i64>,
    /// Set when the stream must end with the leader.
    leader_check: Option<Interval>,
    checks_without_leader: u32,
    stop: CancellationToken,
    is_over: bool,
}

/// What a session waits for.
enum Next {
    Request(WatchRequest),
    Update(WatchUpdate),
    LeaderCheck,
    Over,
}

impl Session {
    /// The next message to the client; nothing when the stream is over.
    async fn next(&mut self) -> Option<Result<Wire, Status>> {
        loop {
            if let Some(response) = self.responses.pop_front() {
                return Some(Ok(response));
            }
            if self.is_over {
                return None;
            }
            match self.wait().await {
                Next::Request(request) => self.handle(request),
                Next::Update(update) => self.take_update(update),
                Next::LeaderCheck => {
                    let lost = self.member.leader().is_none();
                    self.checks_without_leader = if lost { self.checks_without_leader + 1 } else { 0 };
                    if self.leader_lost_too_long(self.checks_without_leader) {
                        // The client asked to be told; nothing more follows.
                        self.is_over = true;
                        return Some(Err(Error::NO_LEADER.into()));
                    }
                }
                Next::Over => return None,
            }
        }
    }

    async fn wait(&mut self) -> Next {
        let leader_check = async {
            match &mut self.leader_check {
                Some(ticks) => ticks.tick().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Next::Over,
            request = self.requests.message() => match request {
                Ok(Some(request)) => Next::Request(request),
                Ok(None) | Err(_) => Next::Over,
            },
            update = self.stream.next() => update.map_or(Next::Over, Next::Update),
            _ = leader_check => Next::LeaderCheck,
        }
    }

    fn leader_lost_too_long(&self, checks: u32) -> bool {
        LEADER_CHECK * checks > self.member.config().election_timeout * 3
    }

    /// Carries out one request of the client.
    fn handle(&mut self, request: WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(&create),
            Some(RequestUnion::CancelRequest(cancel)) => {
                if !self.stream.cancel(cancel.watch_id) {
                    return;
                }
                self.fragmented.remove(&cancel.watch_id);
                let revision = self.member.view().revision;
                self.send(self.response(cancel.watch_id, revision, |response| response.canceled = true));
            }
            Some(RequestUnion::ProgressRequest(_)) => self.stream.request_progress(),
            None => {}
        }
    }

    fn create(&mut self, create: &WatchCreateRequest) {
        let revision = self.member.view().revision;
        if create.start_revision < 0 {
            return self.refuse(revision, Error::COMPACTED.text());
        }
        if let Err(error) = self.permit(create) {
            // Clients look for these very words, and ask again with a new token.
            let reason = format!("rpc error: code = {:?} desc = {error}", error.code());
            return self.refuse(revision, &reason);
        }
        match self.stream.create(create) {
            Ok((watch_id, revision)) => {
                if create.fragment {
                    self.fragmented.insert(watch_id);
                }
                self.send(self.response(watch_id, revision, |response| response.created = true));
            }
            Err(reason) => self.refuse(revision, reason),
        }
    }

    /// All that is watched must be readable to the user of the stream's credentials, who may be another than when it began.
    fn permit(&self, create: &WatchCreateRequest) -> Result<(), Error> {
        let caller = self.credentials.caller(&self.member)?;
        self.member.auth().check(&caller.user, &watch_range(create), Access::Read)
    }

    fn refuse(&mut self, revision: i64, reason: &str) {
        let refused = self.response(NO_WATCH, revision, |response| {
            response.created = true;
            response.canceled = true;
            response.cancel_reason = reason.to_owned();
        });
        self.send(refused);
    }

    fn take_update(&mut self, update: WatchUpdate) {
        match update {
            WatchUpdate::Events { watch_id, revision, events, prev_kv } => {
                if self.fragmented.contains(&watch_id) {
                    let messages = events.events().iter().map(|event| event.message(prev_kv)).collect();
                    return self.send_fragments(watch_id, revision, messages);
                }
                let head = Box::new(self.response(watch_id, revision, |_| {}));
                self.responses.push_back(Wire { head, events: Some((events, prev_kv)) });
            }
            WatchUpdate::Progress { watch_id, revision } => {
                self.send(self.response(watch_id, revision, |_| {}));
            }
            WatchUpdate::Canceled { watch_id, revision, compact_revision, reason } => {
                self.fragmented.remove(&watch_id);
                let canceled = self.response(watch_id, revision, |response| {
                    response.canceled = true;
                    response.compact_revision = compact_revision;
                    response.cancel_reason = reason;
                });
                self.send(canceled);
            }
        }
    }

    /// Splits events over messages no larger than a request may be; all but the last say that more follows.
    fn send_fragments(&mut self, watch_id: i64, revision: i64, events: Vec<Event>) {
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
                self.send(fragment);
                bytes = 0;
            }
            bytes += size;
            piece.push(event);
        }
        self.send(self.response(watch_id, revision, |response| response.events = piece));
    }

    fn response(&self, watch_id: i64, revision: i64, fill: impl FnOnce(&mut WatchResponse)) -> WatchResponse {
        let mut response =
            WatchResponse { header: self.member.header(revision), watch_id, ..WatchResponse::default() };
        fill(&mut response);
        response
    }

    fn send(&mut self, response: WatchResponse) {
        self.responses.push_back(Wire { head: Box::new(response), events: None });
    }
}
