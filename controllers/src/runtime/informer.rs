//! The watch that fills one cache. Lists are consistent reads (no resourceVersion), so a cache that has finished a
//! list is at least as new as every write acknowledged before the list began.

use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, utils::Backoff};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use super::store::{Object, Store};

/// Objects a list request asks for at a time: large enough to be few requests, small enough that a page of pods
/// stays within a few megabytes.
const PAGE_SIZE: u32 = 1000;

/// Fills a cache for as long as it runs.
#[async_trait]
pub trait Informer: Send + Sync {
    /// Lists and watches until `stop`; every failure is retried with back-off.
    async fn run(&self, client: Client, stop: CancellationToken);
}

/// The informer of a typed kind.
pub struct KindInformer<K>(pub Store<K>);

#[async_trait]
impl<K: Object> Informer for KindInformer<K> {
    async fn run(&self, client: Client, stop: CancellationToken) {
        let config = watcher::Config::default().page_size(PAGE_SIZE);
        let stream = watcher::watcher(Api::<K>::all(client), config).backoff(WatchBackoff::default());
        feed(&self.0, stream.boxed(), stop).await;
    }
}

async fn feed<K, S>(store: &Store<K>, mut stream: S, stop: CancellationToken)
where
    K: Object,
    S: futures::Stream<Item = watcher::Result<Event<K>>> + Unpin + Send,
{
    let mut listed = Vec::new();
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = stream.try_next() => event,
        };
        match event {
            Ok(Some(Event::Init)) => {
                listed.clear();
                store.begin_list();
            }
            Ok(Some(Event::InitApply(object))) => listed.push(object),
            Ok(Some(Event::InitDone)) => store.finish_list(std::mem::take(&mut listed)),
            Ok(Some(Event::Apply(object))) => store.apply(object),
            Ok(Some(Event::Delete(object))) => store.delete(&object),
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(kind = %K::kind(&()), %error, "watch interrupted; it will be resumed")
            }
        }
    }
}

/// Delays between attempts of a broken watch: 50 ms doubling to 5 s. A control plane's own restart takes a second
/// or two, and its loops should be back right after it.
#[derive(Default)]
pub struct WatchBackoff {
    failures: u32,
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let delay = Duration::from_millis(50).saturating_mul(1 << self.failures.min(7));
        self.failures += 1;
        // A tenth of jitter keeps the watches of one process from coming back in one burst.
        Some(delay.min(Duration::from_secs(5)).mul_f64(rand::random_range(0.9..1.1)))
    }
}

impl Backoff for WatchBackoff {
    fn reset(&mut self) {
        self.failures = 0;
    }
}
