//! List and watch of one kind, leaner than a general informer: objects are read into the few fields the scheduler
//! needs, handed on, and not kept. What is kept is the list of keys, so that a new list shows what has gone.
//!
//! Owns relisting, back-off and resource versions. Invariant: the core hears of every object that is there and of
//! every one that has gone, in the order of the API server per object.

use std::time::Duration;

use futures::StreamExt;
use rustc_hash::FxHashMap;
use serde::Deserialize;
use tokio::sync::mpsc::Sender;
use tokio_util::sync::CancellationToken;

use crate::core::intake::Intake;

use super::kinds::Kind;
use super::run::Message;
use super::wire::Meta;

/// Messages sent to the core at once: bounds memory while it is busy.
const BATCH_MAX: usize = 256;
/// Objects asked for in one page of a list.
const PAGE: usize = 5000;
/// The server ends a watch after this long; ends are spread by the API server's own jitter.
const WATCH_TIMEOUT_SECS: u32 = 290;
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// A watch that ends earlier than this was of no use: the next try waits, and longer each time.
const WATCH_USEFUL: Duration = Duration::from_secs(1);

/// Why a list or watch ended.
#[derive(Debug, thiserror::Error)]
pub enum ReflectError {
    #[error("cannot build the request for {path}: {source}")]
    Request { path: &'static str, source: http::Error },
    #[error("list or watch of {path} failed: {source}")]
    Api { path: &'static str, source: Box<kube::Error> },
    #[error("watch of {path} ended with status {code}: {message}")]
    Status { path: &'static str, code: u16, message: String },
    #[error("the scheduler no longer takes messages")]
    Closed,
}

#[derive(Deserialize)]
#[serde(bound = "K: Kind")]
struct List<K> {
    metadata: ListMeta,
    #[serde(default = "Vec::new", deserialize_with = "null_as_empty")]
    items: Vec<K>,
}

fn null_as_empty<'de, D: serde::Deserializer<'de>, K: Kind>(d: D) -> Result<Vec<K>, D::Error> {
    Ok(Option::<Vec<K>>::deserialize(d)?.unwrap_or_default())
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    next: String,
}

/// One kind's reflector.
pub struct Reflector<K> {
    client: kube::Client,
    out: Sender<Message>,
    /// Key and UID of every object told, with the round of listing that saw it last.
    known: FxHashMap<Box<str>, (Box<str>, u32)>,
    round: u32,
    kind: std::marker::PhantomData<K>,
}

impl<K: Kind> Reflector<K> {
    /// A reflector that reports to `out`.
    pub fn new(client: kube::Client, out: Sender<Message>) -> Self {
        Reflector { client, out, known: FxHashMap::default(), round: 0, kind: std::marker::PhantomData }
    }

    /// Lists and watches until the shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut wait = RETRY_MIN;
        loop {
            let ended = tokio::select! {
                () = shutdown.cancelled() => return,
                ended = self.list_and_watch(&mut wait) => ended,
            };
            if let Err(error) = &ended {
                if matches!(error, ReflectError::Closed) {
                    return;
                }
                tracing::warn!(%error, "starting over");
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(RETRY_MAX),
            }
        }
    }

    async fn list_and_watch(&mut self, wait: &mut Duration) -> Result<(), ReflectError> {
        let mut version = self.list().await?;
        loop {
            let began = std::time::Instant::now();
            let ended = self.watch(version).await;
            // Not after a mere list: where lists work and watches do not, every try is a whole list.
            let useful = began.elapsed() >= WATCH_USEFUL;
            if useful {
                *wait = RETRY_MIN;
            }
            version = ended?;
            if !useful {
                tokio::time::sleep(*wait).await;
                *wait = (*wait * 2).min(RETRY_MAX);
            }
        }
    }

    fn request(&self, query: &[(&str, &str)]) -> Result<http::Request<Vec<u8>>, ReflectError> {
        let mut all = url::form_urlencoded::Serializer::new(String::new());
        if !K::FIELD_SELECTOR.is_empty() {
            all.append_pair("fieldSelector", K::FIELD_SELECTOR);
        }
        all.extend_pairs(query);
        let uri = format!("{}?{}", K::PATH, all.finish());
        let request = http::Request::get(uri).header(http::header::ACCEPT, "application/json");
        request.body(Vec::new()).map_err(|source| ReflectError::Request { path: K::PATH, source })
    }

    fn api(source: kube::Error) -> ReflectError {
        ReflectError::Api { path: K::PATH, source: Box::new(source) }
    }

    async fn list(&mut self) -> Result<String, ReflectError> {
        self.round = self.round.wrapping_add(1);
        let page = PAGE.to_string();
        let mut next = String::new();
        let version = loop {
            let mut query = vec![("limit", page.as_str())];
            if !next.is_empty() {
                query.push(("continue", next.as_str()));
            }
            let list: List<K> = self.client.request(self.request(&query)?).await.map_err(Self::api)?;
            for chunk in list.items.chunks(BATCH_MAX) {
                let mut batch = Vec::with_capacity(chunk.len());
                chunk.iter().for_each(|object| self.seen(object, &mut batch));
                self.send(Message::Intake(batch)).await?;
            }
            next = list.metadata.next;
            if next.is_empty() {
                break list.metadata.resource_version;
            }
        };
        self.forget_unseen().await?;
        self.send(Message::Synced(K::PATH)).await?;
        Ok(version)
    }

    /// Reports an object; one of the same name that was there before is reported gone first.
    fn seen(&mut self, object: &K, batch: &mut Vec<Intake>) {
        let meta = object.meta();
        let key = key(meta);
        let earlier = self.known.insert(key.clone(), (meta.uid.as_str().into(), self.round));
        if let Some((uid, _)) = earlier.filter(|(uid, _)| **uid != *meta.uid) {
            batch.push(K::with_meta(meta_of(&key, &uid)).gone());
        }
        batch.push(object.present());
    }

    async fn forget_unseen(&mut self) -> Result<(), ReflectError> {
        let round = self.round;
        let unseen = self.known.extract_if(|_, (_, seen)| *seen != round);
        let gone: Vec<_> = unseen.map(|(key, (uid, _))| K::with_meta(meta_of(&key, &uid)).gone()).collect();
        if gone.is_empty() { Ok(()) } else { self.send(Message::Intake(gone)).await }
    }

    async fn watch(&mut self, mut version: String) -> Result<String, ReflectError> {
        use kube::core::WatchEvent;
        let timeout = WATCH_TIMEOUT_SECS.to_string();
        let query = [
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", timeout.as_str()),
            ("resourceVersion", version.as_str()),
        ];
        let request = self.request(&query)?;
        let events = self.client.request_events::<K>(request).await.map_err(Self::api)?;
        let mut events = std::pin::pin!(events.ready_chunks(BATCH_MAX));
        while let Some(results) = events.next().await {
            let mut chunk = Vec::with_capacity(results.len());
            let mut failed = None;
            for result in results {
                match result {
                    Ok(WatchEvent::Error(status)) => {
                        let (code, message) = (status.code, status.message.clone());
                        failed = Some(ReflectError::Status { path: K::PATH, code, message });
                    }
                    Ok(event) => chunk.push(event),
                    Err(error) => failed = Some(Self::api(error)),
                }
            }
            self.hand_on(chunk, &mut version).await?;
            if let Some(error) = failed {
                return Err(error);
            }
        }
        Ok(version)
    }

    async fn hand_on(
        &mut self,
        chunk: Vec<kube::core::WatchEvent<K>>,
        version: &mut String,
    ) -> Result<(), ReflectError> {
        use kube::core::WatchEvent;
        let mut batch = Vec::with_capacity(chunk.len());
        for event in chunk {
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    version.clone_from(&object.meta().resource_version);
                    self.seen(&object, &mut batch);
                }
                WatchEvent::Deleted(object) => {
                    version.clone_from(&object.meta().resource_version);
                    self.known.remove(&key(object.meta()));
                    batch.push(object.gone());
                }
                WatchEvent::Bookmark(bookmark) => *version = bookmark.metadata.resource_version,
                WatchEvent::Error(_) => {}
            }
        }
        if batch.is_empty() { Ok(()) } else { self.send(Message::Intake(batch)).await }
    }

    async fn send(&self, message: Message) -> Result<(), ReflectError> {
        self.out.send(message).await.map_err(|_| ReflectError::Closed)
    }
}

fn key(meta: &Meta) -> Box<str> {
    format!("{}/{}", meta.namespace, meta.name).into()
}

fn meta_of(key: &str, uid: &str) -> Meta {
    let (namespace, name) = key.split_once('/').unwrap_or(("", key));
    Meta { namespace: namespace.to_owned(), name: name.to_owned(), uid: uid.to_owned(), ..Meta::default() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use kube::client::Body;

    use super::super::wire;
    use super::*;

    /// Lists are answered at once; watches with `status`. Returns how long the first `tries` requests that match took.
    async fn check(status: u16, counted: fn(&str) -> bool, tries: usize) -> Duration {
        let seen = Arc::new(AtomicUsize::new(0));
        let count = seen.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let watch = query.contains("watch=true");
            count.fetch_add(usize::from(counted(&query)), Ordering::SeqCst);
            let answer = match (watch, status) {
                (false, _) => r#"{"metadata":{"resourceVersion":"5"},"items":[]}"#,
                (true, 200) => "",
                (true, _) => {
                    r#"{"kind":"Status","status":"Failure","reason":"Forbidden","message":"no","code":403}"#
                }
            };
            let code = if watch { status } else { 200 };
            async move {
                let answer =
                    http::Response::builder().status(code).body(Body::from(answer.as_bytes().to_vec()));
                Ok::<_, std::convert::Infallible>(answer.expect("a response"))
            }
        });
        let (out, mut inbox) = tokio::sync::mpsc::channel(64);
        let client = kube::Client::new(service, "default");
        let stop = CancellationToken::new();
        let began = std::time::Instant::now();
        let running = tokio::spawn(Reflector::<wire::Namespace>::new(client, out).run(stop.clone()));
        while seen.load(Ordering::SeqCst) < tries && began.elapsed() < Duration::from_secs(60) {
            while inbox.try_recv().is_ok() {}
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let took = began.elapsed();
        stop.cancel();
        running.await.expect("it ends");
        assert!(seen.load(Ordering::SeqCst) >= tries, "it goes on trying");
        took
    }

    #[tokio::test]
    async fn watches_that_are_refused_or_end_at_once_are_tried_ever_more_rarely() {
        let pauses = RETRY_MIN + RETRY_MIN * 2 + RETRY_MIN * 4;
        let lists = check(403, |query| !query.contains("watch=true"), 4).await;
        assert!(lists >= pauses, "four lists after {lists:?}");
        let watches = check(200, |query| query.contains("watch=true"), 4).await;
        assert!(watches >= pauses, "four watches after {watches:?}");
    }
}
