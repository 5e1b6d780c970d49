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
        *wait = RETRY_MIN;
        loop {
            version = self.watch(version).await?;
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
