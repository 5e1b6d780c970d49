//! One set of API watches for the service proxy, the pod network and the DNS server of a machine.
//!
//! Each kind is listed and watched once, reduced to its view, and handed to every subscriber in the same order.
//! A relist is turned into the difference to what was handed out before, so that subscribers see only changes.
//! Pods are watched only from the moment somebody asks ([`Demand`]): without network policies nobody has to know the
//! pods of other machines.
//!
//! The hub holds the keys of what it handed out, never the objects.

use std::{fmt::Debug, hash::Hash, sync::Arc};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
    networking::v1::NetworkPolicy,
};
use kube::{
    Api, Client, Resource,
    runtime::{WatchStreamExt, watcher},
};
use machinery::client::watch::lasting;
use rustc_hash::FxHashSet;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::view::{Key, NamespaceView, NodeView, PodView, PolicyView, ServiceView, SliceView};

/// Events a subscriber may lag behind before the watches wait for it.
const QUEUE_LEN: usize = 1_024;
/// Objects a list page: the API server's own clients use the same.
const PAGE_SIZE: u32 = 500;

/// The kinds that can be subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Services.
    Service,
    /// EndpointSlices.
    Slice,
    /// Nodes.
    Node,
    /// Namespaces.
    Namespace,
    /// NetworkPolicies.
    Policy,
    /// Pods of the whole cluster, once demanded.
    Pod,
}

/// One object changed.
#[derive(Clone, Debug)]
pub enum Change<T> {
    /// It is like this now.
    Set(Arc<T>),
    /// It does not exist any more.
    Gone(Key),
}

/// What subscribers receive.
#[derive(Clone, Debug)]
pub enum Event {
    /// A Service changed.
    Service(Change<ServiceView>),
    /// An EndpointSlice changed.
    Slice(Change<SliceView>),
    /// A Node changed.
    Node(Change<NodeView>),
    /// A Namespace changed.
    Namespace(Change<NamespaceView>),
    /// A NetworkPolicy changed.
    Policy(Change<PolicyView>),
    /// A Pod changed.
    Pod(Change<PodView>),
    /// Everything of this kind that existed when the watch began has been handed out.
    Synced(Kind),
}

/// Asks for the pods of the whole cluster.
#[derive(Clone, Debug)]
pub struct Demand(Arc<watch::Sender<bool>>);

impl Demand {
    /// From now on pods are watched. Cheap to repeat.
    pub fn pods(&self) {
        self.0.send_if_modified(|wanted| !std::mem::replace(wanted, true));
    }
}

/// One reader's end.
#[derive(Debug)]
pub struct Subscription {
    /// Events in order; ends when the hub stops.
    pub events: mpsc::Receiver<Event>,
    /// Asks for pods.
    pub demand: Demand,
}

impl Subscription {
    /// A subscription without a hub: whoever holds the sender is the source of events.
    pub fn manual() -> (mpsc::Sender<Event>, Self) {
        let (sender, events) = mpsc::channel(QUEUE_LEN);
        (sender, Self { events, demand: Demand(Arc::new(watch::Sender::new(false))) })
    }
}

/// The watches of one machine.
pub struct Hub {
    client: Client,
    subscribers: Vec<(Vec<Kind>, mpsc::Sender<Event>)>,
    pods_wanted: Arc<watch::Sender<bool>>,
}

impl Hub {
    /// A hub that will watch through `client`.
    pub fn new(client: Client) -> Self {
        Self { client, subscribers: Vec::new(), pods_wanted: Arc::new(watch::Sender::new(false)) }
    }

    /// Adds a reader. All readers join before [`Hub::run`], because objects are not kept for late ones.
    pub fn subscribe(&mut self, kinds: &[Kind]) -> Subscription {
        let (sender, events) = mpsc::channel(QUEUE_LEN);
        self.subscribers.push((kinds.to_vec(), sender));
        Subscription { events, demand: Demand(self.pods_wanted.clone()) }
    }

    /// Watches until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let watches = async {
            tokio::join!(
                self.pump::<Service, _>(Kind::Service, |o| Some(ServiceView::from_api(o)), Event::Service),
                self.pump::<EndpointSlice, _>(Kind::Slice, SliceView::from_api, Event::Slice),
                self.pump::<Node, _>(Kind::Node, |o| Some(NodeView::from_api(o)), Event::Node),
                self.pump::<Namespace, _>(
                    Kind::Namespace,
                    |o| Some(NamespaceView::from_api(o)),
                    Event::Namespace
                ),
                self.pump::<NetworkPolicy, _>(Kind::Policy, |o| Some(PolicyView::from_api(o)), Event::Policy),
                self.pump_pods(),
            )
        };
        tokio::select! {
            _ = watches => {}
            () = shutdown.cancelled() => {}
        }
    }

    async fn pump_pods(&self) {
        let mut wanted = self.pods_wanted.subscribe();
        if wanted.wait_for(|wanted| *wanted).await.is_ok() {
            self.pump::<Pod, _>(Kind::Pod, |o| Some(PodView::from_api(o)), Event::Pod).await;
        }
    }

    async fn pump<K, V>(&self, kind: Kind, view: fn(&K) -> Option<V>, event: fn(Change<V>) -> Event)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
        V: Clone,
    {
        let readers: Vec<_> = self
            .subscribers
            .iter()
            .filter(|(kinds, _)| kinds.contains(&kind))
            .map(|(_, to)| to.clone())
            .collect();
        if readers.is_empty() {
            return;
        }
        let config = watcher::Config::default().page_size(PAGE_SIZE);
        let stream = lasting(Api::<K>::all(self.client.clone()), config).default_backoff();
        let mut stream = stream
            .inspect_err(|error| tracing::warn!(?kind, %error, "watch failed; it is retried with back-off"))
            .boxed();
        let mut relist = Relist::default();
        while let Some(next) = stream.next().await {
            let Ok(next) = next else { continue };
            for step in relist.step(next) {
                let event = match step {
                    Step::Set(object) => match view(&object) {
                        Some(seen) => event(Change::Set(Arc::new(seen))),
                        None => event(Change::Gone(Key::of(object.meta()))),
                    },
                    Step::Gone(key) => event(Change::Gone(key)),
                    Step::Synced => Event::Synced(kind),
                };
                for reader in &readers {
                    // A reader that went away needs nothing more.
                    let _ = reader.send(event.clone()).await;
                }
            }
        }
    }
}

enum Step<K> {
    Set(K),
    Gone(Key),
    Synced,
}

/// Turns a watcher's relists into differences.
#[derive(Default)]
struct Relist {
    known: FxHashSet<Key>,
    listing: FxHashSet<Key>,
    synced: bool,
}

impl Relist {
    fn step<K: Resource>(&mut self, event: watcher::Event<K>) -> Vec<Step<K>> {
        match event {
            watcher::Event::Apply(object) => {
                self.known.insert(Key::of(object.meta()));
                vec![Step::Set(object)]
            }
            watcher::Event::Delete(object) => {
                let key = Key::of(object.meta());
                self.known.remove(&key);
                vec![Step::Gone(key)]
            }
            watcher::Event::Init => {
                // A listing that broke off handed objects out too; the next complete one decides about them.
                self.known.extend(self.listing.drain());
                Vec::new()
            }
            watcher::Event::InitApply(object) => {
                self.listing.insert(Key::of(object.meta()));
                vec![Step::Set(object)]
            }
            watcher::Event::InitDone => {
                let listed = std::mem::take(&mut self.listing);
                let before = std::mem::replace(&mut self.known, listed);
                let mut steps: Vec<_> =
                    before.into_iter().filter(|key| !self.known.contains(key)).map(Step::Gone).collect();
                if !std::mem::replace(&mut self.synced, true) {
                    steps.push(Step::Synced);
                }
                steps
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(name: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.to_owned());
        object
    }

    fn names(steps: Vec<Step<ConfigMap>>) -> Vec<String> {
        let name = |step| match step {
            Step::Set(object) => format!("+{}", Key::of(Resource::meta(&object))),
            Step::Gone(key) => format!("-{key}"),
            Step::Synced => "synced".to_owned(),
        };
        steps.into_iter().map(name).collect()
    }

    #[test]
    fn a_relist_reports_what_vanished_while_the_watch_was_away() {
        let mut relist = Relist::default();
        let mut seen = Vec::new();
        for event in [
            watcher::Event::Init,
            watcher::Event::InitApply(object("a")),
            watcher::Event::InitApply(object("b")),
            watcher::Event::InitDone,
            watcher::Event::Apply(object("c")),
            watcher::Event::Init,
            watcher::Event::InitApply(object("b")),
            watcher::Event::InitApply(object("c")),
            watcher::Event::InitDone,
            watcher::Event::Delete(object("c")),
        ] {
            seen.extend(names(relist.step(event)));
        }
        assert_eq!(seen, ["+a", "+b", "synced", "+c", "+b", "+c", "-a", "-c"]);
    }
}
