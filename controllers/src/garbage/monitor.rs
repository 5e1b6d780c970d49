//! Keeps the graph up to date: a watch per kind that discovery names. Kinds that another controller caches are fed
//! from that cache; for the rest only metadata is watched. Kinds that appear or disappear are noticed within
//! [`PERIOD`], or at once when a custom resource definition changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use machinery::client::watch::lasting;
use parking_lot::RwLock;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::graph::{Graph, Node};
use crate::runtime::client::{ApiClient, EventSink};
use crate::runtime::controller::BackgroundContext;
use crate::runtime::discovery::discover;
use crate::runtime::identity::Process;
use crate::runtime::informer::WatchBackoff;
use crate::runtime::plan::{Note, ServedResource};
use crate::runtime::queue::Queue;
use crate::runtime::store::AnyStore;
use crate::runtime::{Gvr, Key};

/// Between two discoveries (upstream's).
const PERIOD: Duration = Duration::from_secs(30);
/// After a change of a custom resource definition, so that the API server serves the kind by then.
const SETTLE: Duration = Duration::from_millis(500);
/// A kind that cannot be listed holds the collector up no longer than this.
const PATIENCE: Duration = Duration::from_secs(30);

struct Watch {
    stop: CancellationToken,
    listed: Arc<AtomicBool>,
    since: tokio::time::Instant,
}

/// What the watches of one collector share.
#[derive(Clone)]
pub struct Feed {
    graph: Arc<RwLock<Graph>>,
    queue: Arc<Queue>,
    kinds_changed: Arc<Notify>,
}

impl Feed {
    /// A feed into `graph` that runs keys of `queue`.
    pub fn new(graph: Arc<RwLock<Graph>>, queue: Arc<Queue>) -> Self {
        Self { graph, queue, kinds_changed: Arc::new(Notify::new()) }
    }

    fn look_at(&self, uids: Vec<Arc<str>>) {
        uids.iter().for_each(|uid| self.queue.add(Key::cluster(uid), Duration::ZERO));
    }

    fn apply(&self, gvr: &Arc<Gvr>, meta: &ObjectMeta) {
        if let Some(node) = Node::of(gvr.clone(), meta) {
            let concerned = self.graph.write().apply(node);
            self.look_at(concerned);
        }
    }

    fn delete(&self, uid: &str) {
        let concerned = self.graph.write().delete(uid);
        self.look_at(concerned);
    }

    fn forget(&self, gvr: &Gvr, uid: &str) {
        let concerned = self.graph.write().forget(gvr, uid);
        self.look_at(concerned);
    }

    /// Follows the cache of another controller.
    pub fn attach(&self, gvr: Gvr, store: &dyn AnyStore) {
        let (feed, gvr) = (self.clone(), Arc::new(gvr));
        let (own, own_gvr) = (feed.clone(), gvr.clone());
        store.on_meta(Box::new(move |old, new| own.follow(&own_gvr, old, new)));
        store.each_meta(&mut |meta| feed.apply(&gvr, meta));
    }

    fn follow(&self, gvr: &Arc<Gvr>, old: Option<&ObjectMeta>, new: Option<&ObjectMeta>) {
        let uid = |meta: Option<&ObjectMeta>| meta.and_then(|meta| meta.uid.clone());
        if let Some(gone) = uid(old).filter(|_| uid(old) != uid(new)) {
            self.delete(&gone);
        }
        if let Some(meta) = new {
            self.apply(gvr, meta);
        }
    }
}

struct Silent;

impl EventSink for Silent {
    fn record(&self, _component: &'static str, _note: Note) {}
}

/// Runs until told to stop.
pub async fn run(graph: Arc<RwLock<Graph>>, queue: Arc<Queue>, context: BackgroundContext) {
    let feed = Feed::new(graph, queue);
    let api =
        ApiClient::new(context.client.clone(), Arc::new(Process), Arc::new(Silent), "garbage-collector");
    let mut watches: FxHashMap<Gvr, Watch> = FxHashMap::default();
    let mut due = tokio::time::Instant::now();
    loop {
        if tokio::time::Instant::now() >= due {
            match discover(&api).await {
                Ok(found) => {
                    due = tokio::time::Instant::now() + PERIOD;
                    let kinds = found.resources.iter().map(|r| (r.gvr.clone(), r.namespaced)).collect();
                    feed.graph.write().set_kinds(kinds);
                    follow_kinds(&found.resources, &mut watches, &feed, &context, found.failed.is_empty());
                }
                Err(failure) => {
                    tracing::debug!(%failure, "discovery failed; it will be tried again");
                    due = tokio::time::Instant::now() + SETTLE;
                }
            }
        }
        update_complete(&feed, &watches);
        let pause =
            if feed.graph.read().is_complete() { Duration::from_secs(1) } else { Duration::from_millis(20) };
        tokio::select! {
            () = context.stop.cancelled() => break,
            () = feed.kinds_changed.notified() => due = due.min(tokio::time::Instant::now() + SETTLE),
            () = tokio::time::sleep(pause) => {}
        }
    }
    watches.values().for_each(|watch| watch.stop.cancel());
}

fn is_watched(resource: &ServedResource) -> bool {
    let events = resource.gvr.plural == "events" && matches!(&*resource.gvr.group, "" | "events.k8s.io");
    !events && ["list", "watch", "delete"].iter().all(|verb| resource.can(verb))
}

fn follow_kinds(
    resources: &[ServedResource],
    watches: &mut FxHashMap<Gvr, Watch>,
    feed: &Feed,
    context: &BackgroundContext,
    all_known: bool,
) {
    let wanted: FxHashSet<&Gvr> = resources.iter().filter(|r| is_watched(r)).map(|r| &r.gvr).collect();
    // While a group cannot be asked its kinds are unknown, not gone.
    watches.retain(|gvr, watch| {
        let keep = wanted.contains(gvr) || !all_known;
        if !keep {
            watch.stop.cancel();
        }
        keep
    });
    for gvr in wanted {
        if watches.contains_key(gvr) {
            continue;
        }
        let stop = context.stop.child_token();
        let listed = Arc::new(AtomicBool::new(false));
        match context.stores.find(gvr) {
            Some(store) => {
                feed.attach(gvr.clone(), store.as_ref());
                tokio::spawn(await_listed(store, listed.clone(), stop.clone()));
            }
            None => {
                let (feed, client) = (feed.clone(), context.client.clone());
                tokio::spawn(watch(gvr.clone(), feed, client, listed.clone(), stop.clone()));
            }
        }
        watches.insert(gvr.clone(), Watch { stop, listed, since: tokio::time::Instant::now() });
    }
}

fn update_complete(feed: &Feed, watches: &FxHashMap<Gvr, Watch>) {
    let ready = |watch: &Watch| watch.listed.load(Ordering::Acquire) || watch.since.elapsed() > PATIENCE;
    let complete = !watches.is_empty() && watches.values().all(ready);
    let mut graph = feed.graph.write();
    if graph.set_complete(complete) && complete {
        let suspects = graph.suspects();
        drop(graph);
        feed.look_at(suspects);
    }
}

async fn await_listed(store: Arc<dyn AnyStore>, listed: Arc<AtomicBool>, stop: CancellationToken) {
    while store.observed().lists_done == 0 {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_millis(10)) => {}
        }
    }
    listed.store(true, Ordering::Release);
}

/// Watches the metadata of one kind.
async fn watch(gvr: Gvr, feed: Feed, client: kube::Client, listed: Arc<AtomicBool>, stop: CancellationToken) {
    let resource = ApiResource {
        group: gvr.group.to_string(),
        version: gvr.version.to_string(),
        api_version: gvr.api_version(),
        kind: gvr.kind.to_string(),
        plural: gvr.plural.to_string(),
    };
    let definitions = gvr.plural == "customresourcedefinitions";
    let gvr = Arc::new(gvr);
    let api = Api::<PartialObjectMeta<DynamicObject>>::all_with(client, &resource);
    let stream = lasting(api, watcher::Config::default()).backoff(WatchBackoff::default());
    let mut stream = stream.boxed();
    let (mut known, mut seen) = (FxHashSet::<String>::default(), FxHashSet::<String>::default());
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => break,
            event = stream.try_next() => event,
        };
        match event {
            Ok(Some(Event::Init)) => seen.clear(),
            Ok(Some(Event::InitApply(object))) => {
                seen.extend(object.metadata.uid.clone());
                feed.apply(&gvr, &object.metadata);
            }
            Ok(Some(Event::InitDone)) => {
                known.difference(&seen).for_each(|uid| feed.delete(uid));
                known = std::mem::take(&mut seen);
                listed.store(true, Ordering::Release);
            }
            Ok(Some(Event::Apply(object))) => {
                known.extend(object.metadata.uid.clone());
                feed.apply(&gvr, &object.metadata);
                if definitions {
                    feed.kinds_changed.notify_one();
                }
            }
            Ok(Some(Event::Delete(object))) => {
                if let Some(uid) = &object.metadata.uid {
                    known.remove(uid);
                    feed.delete(uid);
                }
                if definitions {
                    feed.kinds_changed.notify_one();
                }
            }
            Ok(None) => break,
            Err(error) => tracing::debug!(%gvr, %error, "watch interrupted; it will be resumed"),
        }
    }
    // Discovery names the kind no more, or this process stops: neither says that its objects are gone. An API server
    // that has not loaded its custom resources yet must not cost their dependents.
    if stop.is_cancelled() {
        known.iter().for_each(|uid| feed.forget(&gvr, uid));
    }
}
