//! `GET /containerLogs/{namespace}/{pod}/{container}`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::pods::find_pod;
use super::respond::{Answer, text};
use crate::kubelet::cri::names;
use crate::kubelet::logs::reader::{Options, Reader};
use crate::kubelet::pod::observed::State;
use crate::kubelet::pod::spec;
use crate::kubelet::worker::Pool;
use crate::kubelet::worker::pool::View;

/// How often a followed log is looked at.
const POLL: Duration = Duration::from_millis(200);
/// Pieces of a log waiting for a slow client.
const CHUNKS_MAX: usize = 16;
/// A piece is sent when it is this large.
const CHUNK_BYTES: usize = 32 * 1024;

/// Parses the query. The error is shown to the client.
pub fn options(query: &HashMap<String, String>) -> Result<Options, String> {
    let flag = |key: &str| query.get(key).is_some_and(|v| v == "true" || v == "1");
    let number = |key: &str| match query.get(key) {
        None => Ok(None),
        Some(v) => v.parse::<i64>().map(Some).map_err(|_| format!("invalid {key}: \"{v}\"")),
    };
    let since_secs = number("sinceSeconds")?.map(|secs| {
        Timestamp::now().saturating_sub(SignedDuration::from_secs(secs)).unwrap_or(Timestamp::MIN)
    });
    let since_time = match query.get("sinceTime") {
        None => None,
        Some(v) => Some(v.parse::<Timestamp>().map_err(|e| format!("invalid sinceTime: {e}"))?),
    };
    let unsigned = |value: Option<i64>| value.and_then(|v| u64::try_from(v).ok());
    Ok(Options {
        follow: flag("follow"),
        timestamps: flag("timestamps"),
        tail_lines: unsigned(number("tailLines")?),
        limit_bytes: unsigned(number("limitBytes")?),
        since: since_secs.or(since_time),
        stderr_only: match query.get("stream").map(String::as_str) {
            Some("Stdout") => Some(false),
            Some("Stderr") => Some(true),
            _ => None,
        },
    })
}

struct Found {
    path: PathBuf,
    id: String,
}

/// The log file of a container, or of the one before it. The error is upstream's text.
fn find_log(pool: &Pool, view: &View, container: &str, previous: bool) -> Result<Found, String> {
    let name = spec::name(&view.pod);
    if spec::find_container(&view.pod, container).is_none() {
        return Err(format!("container \"{container}\" in pod \"{name}\" not found"));
    }
    let mut history = view.snapshot.observed.history(container);
    let newest = history.next();
    let found = if previous {
        let before = history.find(|c| c.state == State::Exited);
        before.ok_or_else(|| {
            format!("previous terminated container \"{container}\" in pod \"{name}\" not found")
        })?
    } else {
        newest.filter(|c| c.state != State::Created).ok_or_else(|| {
            let status = view.snapshot.status.container_statuses.iter().flatten();
            let waiting = status
                .chain(view.snapshot.status.init_container_statuses.iter().flatten())
                .find(|s| s.name == container)
                .and_then(|s| s.state.as_ref()?.waiting.as_ref()?.reason.clone());
            let reason = waiting.unwrap_or_else(|| "ContainerCreating".into());
            match reason.as_str() {
                "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => format!(
                    "container \"{container}\" in pod \"{name}\" is waiting to start: trying and failing to pull image"
                ),
                _ => format!("container \"{container}\" in pod \"{name}\" is waiting to start: {reason}"),
            }
        })?
    };
    let (namespace, uid) = (spec::namespace(&view.pod), spec::uid(&view.pod));
    let dir = names::pod_log_dir(&pool.context().config.pod_logs_dir, namespace, name, uid);
    Ok(Found {
        path: dir.join(names::container_log_path(container, found.restart_count)),
        id: found.id.clone(),
    })
}

/// Answers with a log.
pub fn answer(pool: &Arc<Pool>, path: [&str; 3], query: &HashMap<String, String>) -> Answer {
    let [namespace, pod, container] = path;
    let view = match find_pod(pool, namespace, pod, None) {
        Ok(view) => view,
        Err(answer) => return *answer,
    };
    let options = match options(query) {
        Ok(options) => options,
        Err(error) => return text(StatusCode::UNPROCESSABLE_ENTITY, error),
    };
    let previous = query.get("previous").is_some_and(|v| v == "true");
    let found = match find_log(pool, &view, container, previous) {
        Ok(found) => found,
        Err(error) => return text(StatusCode::BAD_REQUEST, error),
    };
    let follow = options.follow && !previous;
    let reader = match Reader::open(&found.path, options) {
        Ok(reader) => reader,
        Err(error) => {
            let message = format!("failed to open log file \"{}\": {error}", found.path.display());
            return text(StatusCode::INTERNAL_SERVER_ERROR, message);
        }
    };
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    let job =
        Stream { pool: Arc::clone(pool), uid: spec::uid(&view.pod).to_owned(), id: found.id, follow, sender };
    tokio::spawn(job.run(reader));
    let mut answer = Response::new(StreamBody::new(ReceiverStream::new(receiver)).boxed_unsync());
    answer.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    answer
}

struct Stream {
    pool: Arc<Pool>,
    uid: String,
    id: String,
    follow: bool,
    sender: mpsc::Sender<Result<Frame<Bytes>, std::convert::Infallible>>,
}

impl Stream {
    async fn run(self, mut reader: Reader) {
        loop {
            // Whether it still runs is asked before reading: what it wrote last is not missed.
            let running = self.is_running();
            let sent = self.drain(&mut reader).await;
            if !sent || !self.follow || reader.is_full() {
                return;
            }
            match reader.reopen_if_rotated() {
                Ok(true) => continue,
                Ok(false) => {}
                Err(_) => return,
            }
            if !running {
                return;
            }
            tokio::time::sleep(POLL).await;
            if self.sender.is_closed() {
                return;
            }
        }
    }

    /// Sends everything written so far; false if the client is gone.
    async fn drain(&self, reader: &mut Reader) -> bool {
        let mut piece = Vec::new();
        loop {
            let chunk = match reader.next_chunk() {
                Ok(chunk) => chunk,
                Err(error) => {
                    tracing::debug!(%error, "a log cannot be read on");
                    return false;
                }
            };
            let end = chunk.is_none();
            piece.extend(chunk.unwrap_or_default());
            if (end && !piece.is_empty()) || piece.len() >= CHUNK_BYTES {
                let frame = Frame::data(Bytes::from(std::mem::take(&mut piece)));
                if self.sender.send(Ok(frame)).await.is_err() {
                    return false;
                }
            }
            if end {
                return true;
            }
        }
    }

    fn is_running(&self) -> bool {
        self.pool.view(&self.uid).is_some_and(|view| {
            let containers = &view.snapshot.observed.containers;
            containers.iter().any(|c| c.id == self.id && c.state == State::Running)
        })
    }
}
