//! The watch that fills one cache. Lists are consistent reads (no resourceVersion), so a cache that has finished a
//! list is at least as new as every write acknowledged before the list began.

use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, utils::Backoff};
use kube::{Api, Client};
use machinery::client::watch::lasting;
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
        let stream = lasting(Api::<K>::all(client), config).backoff(WatchBackoff::default());
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::{Request, Response};
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    /// A server whose store was restored after the first list: the revision of that list is not one of its own.
    fn restored() -> Client {
        let lists = Arc::new(AtomicUsize::new(0));
        let service = tower::service_fn(move |request: Request<Body>| {
            let query = request.uri().query().unwrap_or_default();
            let (code, body) = if query.contains("resourceVersion=9000") {
                let message = "Too large resource version: 9000, current: 7";
                (
                    504,
                    json!({"kind": "Status", "status": "Failure", "code": 504, "reason": "Timeout", "message": message}),
                )
            } else if query.contains("watch=") {
                (200, json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "7"}}}))
            } else {
                let (revision, name) =
                    [("9000", "before"), ("7", "after")][lists.fetch_add(1, Ordering::SeqCst).min(1)];
                let item = json!({"metadata": {"name": name, "namespace": "n", "resourceVersion": revision}});
                (
                    200,
                    json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": {"resourceVersion": revision},
                    "items": [item]}),
                )
            };
            let answer = Response::builder().status(code).body(Body::from(body.to_string().into_bytes()));
            std::future::ready(answer)
        });
        Client::new(service, "n")
    }

    #[tokio::test]
    async fn a_store_that_went_back_is_listed_again() {
        let (store, stop) = (Store::<ConfigMap>::default(), CancellationToken::new());
        let informer = KindInformer(store.clone());
        let running = tokio::spawn({
            let stop = stop.clone();
            async move { informer.run(restored(), stop).await }
        });
        let is_there = || store.all().iter().any(|map| map.metadata.name.as_deref() == Some("after"));
        for _ in 0..6000 {
            if is_there() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(is_there() && store.all().len() == 1, "what is cached is what the server has now");
        stop.cancel();
        running.await.expect("it ends");
    }
}
