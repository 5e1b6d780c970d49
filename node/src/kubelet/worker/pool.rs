//! Routes desired pods to workers: one task per pod uid, made when the pod appears and forgotten when nothing of
//! it is left.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use k8s_openapi::api::core::v1::Pod;
use parking_lot::RwLock;
use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;

use super::admission::Admission;
use super::context::Context;
use super::pod_worker::{self, Channels, Desired, Snapshot};
use super::promises::{Promised, Promises};
pub use super::view::{NodeView, View};
use crate::kubelet::cluster::objects::ObjectRef;
use crate::kubelet::pod::action::Stop;
use crate::kubelet::pod::allocation::Verdict;
use crate::kubelet::pod::phase::Phase;
use crate::kubelet::pod::resize::Standing;
use crate::kubelet::pod::spec;
use crate::kubelet::pod::status::Failure;
use crate::kubelet::volumes::source::uses;

/// What happens to the set of pods.
#[derive(Clone, Debug)]
pub enum PoolEvent {
    /// A pod exists or changed.
    Apply(Arc<Pod>),
    /// A pod is gone from where it came from.
    Delete(String),
    /// The API's whole set is known: pods of the API that are not in it are gone.
    Complete(Vec<String>),
    /// A pod must go because the machine needs its resources.
    Evict {
        /// The pod's uid.
        uid: String,
        /// The status' reason and message.
        failure: Failure,
        /// Seconds its containers get.
        grace_secs: i64,
    },
}

struct Entry {
    desired: watch::Sender<Desired>,
    nudge: Arc<Notify>,
    refresh: Arc<Notify>,
    snapshot: watch::Receiver<Snapshot>,
}

/// The pool. Shared by the feed of pods, the server and the node's status.
pub struct Pool {
    context: Arc<Context>,
    entries: RwLock<BTreeMap<String, Entry>>,
    mirrors: RwLock<HashMap<String, Arc<Pod>>>,
    /// What pods are promised. Its lock is taken before `entries`.
    promises: Promises,
    /// The API's whole set of pods has been seen: until then nobody knows what room there is.
    complete: AtomicBool,
    /// The folder of static pods has been read.
    statics_known: AtomicBool,
    /// Deleted pods of which nothing is left here, until the API says that they are gone: late news about them
    /// must not start them anew.
    ended: RwLock<BTreeSet<String>>,
    /// What admission knows of the node.
    pub node: RwLock<NodeView>,
    /// Fires when the set of pods changed.
    pub changed: Notify,
    workers: TaskTracker,
}

impl Pool {
    /// No pods yet.
    pub fn new(context: Arc<Context>) -> Arc<Self> {
        Arc::new(Self {
            promises: Promises::read(&context.config.root_dir),
            context,
            entries: RwLock::default(),
            mirrors: RwLock::default(),
            complete: AtomicBool::new(false),
            statics_known: AtomicBool::new(false),
            ended: RwLock::default(),
            node: RwLock::default(),
            changed: Notify::new(),
            workers: TaskTracker::new(),
        })
    }

    /// Ends every worker and waits for them; what they care for runs on.
    pub async fn close(&self) {
        self.workers.close();
        self.entries.write().clear();
        self.workers.wait().await;
    }

    /// What workers share.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// What pods are promised.
    pub fn promises(&self) -> &Promises {
        &self.promises
    }

    /// Every pod.
    pub fn views(&self) -> Vec<View> {
        let entries = self.entries.read();
        entries
            .values()
            .map(|e| View { pod: Arc::clone(&e.desired.borrow().pod), snapshot: e.snapshot.borrow().clone() })
            .collect()
    }

    /// One pod by uid.
    pub fn view(&self, uid: &str) -> Option<View> {
        let entries = self.entries.read();
        let entry = entries.get(uid)?;
        Some(View { pod: Arc::clone(&entry.desired.borrow().pod), snapshot: entry.snapshot.borrow().clone() })
    }

    /// One pod by name; a mirror stands for its static pod.
    pub fn find(&self, namespace: &str, name: &str) -> Option<View> {
        let named = |p: &Pod| spec::name(p) == name && spec::namespace(p) == namespace;
        self.views().into_iter().rev().find(|v| named(&v.pod))
    }

    /// Every static pod has been handed in once, or there are none.
    pub fn statics_are_known(&self) {
        self.statics_known.store(true, Ordering::Release);
    }

    /// True once every pod of this machine is known, wherever it comes from: what is not among them then belongs to nobody.
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire) && self.statics_known.load(Ordering::Acquire)
    }

    /// True if a worker cares for that uid.
    pub fn knows(&self, uid: &str) -> bool {
        self.entries.read().contains_key(uid)
    }

    /// Tells a pod's worker that something changed.
    pub fn nudge(&self, uid: &str) {
        if let Some(entry) = self.entries.read().get(uid) {
            entry.nudge.notify_one();
        }
    }

    /// Has the volumes of every pod that takes files from this object brought up to date.
    pub fn refresh_users(&self, object: &ObjectRef) {
        for entry in self.entries.read().values() {
            if uses(&entry.desired.borrow().pod, object) {
                entry.refresh.notify_one();
            }
        }
    }

    /// The mirror of a static pod as the API shows it.
    pub fn mirror_of(&self, pod: &Pod) -> Option<Arc<Pod>> {
        self.mirrors.read().get(&full_name(pod)).cloned()
    }

    /// Every mirror the API shows.
    pub fn mirrors(&self) -> Vec<Arc<Pod>> {
        self.mirrors.read().values().cloned().collect()
    }

    /// Takes one change.
    pub fn handle(self: &Arc<Self>, event: PoolEvent) {
        match event {
            PoolEvent::Apply(pod) if spec::is_mirror(&pod) => self.apply_mirror(pod),
            PoolEvent::Apply(pod) => self.apply(pod),
            PoolEvent::Delete(uid) => self.gone(&uid),
            PoolEvent::Complete(uids) => {
                self.complete.store(true, Ordering::Release);
                self.ended.write().retain(|uid| uids.contains(uid));
                let known: Vec<String> = {
                    let entries = self.entries.read();
                    let from_api = |e: &Entry| !spec::is_static(&e.desired.borrow().pod);
                    entries.iter().filter(|(_, e)| from_api(e)).map(|(uid, _)| uid.clone()).collect()
                };
                for uid in known.into_iter().filter(|uid| !uids.contains(uid)) {
                    self.gone(&uid);
                }
                self.promises.retain(|uid| self.knows(uid));
            }
            PoolEvent::Evict { uid, failure, grace_secs } => {
                if let Some(entry) = self.entries.read().get(&uid) {
                    entry.desired.send_modify(|d| {
                        let stop = Stop { grace_secs, failure: Some(failure), delete: false };
                        d.stop.get_or_insert(stop);
                    });
                }
            }
        }
        self.changed.notify_one();
    }

    fn apply_mirror(&self, mirror: Arc<Pod>) {
        self.mirrors.write().insert(full_name(&mirror), Arc::clone(&mirror));
        self.with_static(&mirror, |d| d.object = Some(Arc::clone(&mirror)));
    }

    fn with_static(&self, mirror: &Pod, change: impl Fn(&mut Desired)) {
        let name = full_name(mirror);
        for entry in self.entries.read().values() {
            let fits = {
                let desired = entry.desired.borrow();
                spec::is_static(&desired.pod) && full_name(&desired.pod) == name
            };
            if fits {
                entry.desired.send_modify(&change);
            }
        }
    }

    fn apply(self: &Arc<Self>, pod: Arc<Pod>) {
        let uid = spec::uid(&pod).to_owned();
        let known = {
            let entries = self.entries.read();
            entries.get(&uid).map(|entry| {
                let shown = |p: &Pod| (p.metadata.labels.clone(), p.metadata.annotations.clone());
                let before = shown(&entry.desired.borrow().pod);
                entry.desired.send_modify(|desired| update(desired, &pod));
                if before != shown(&pod) {
                    // Files may show them.
                    entry.refresh.notify_one();
                }
            })
        };
        let closed = self.workers.is_closed();
        if known.is_none() && !closed && !self.has_ended(&uid, &pod) {
            self.start(uid, pod);
        }
    }

    /// True for late news of a deleted pod of which nothing is left here. One that is not to be deleted any more is no news
    /// of that: its store was restored from a backup, and nobody else will run it.
    fn has_ended(&self, uid: &str, pod: &Pod) -> bool {
        if pod.metadata.deletion_timestamp.is_some() {
            return self.ended.read().contains(uid);
        }
        self.ended.write().remove(uid);
        false
    }

    fn start(self: &Arc<Self>, uid: String, pod: Arc<Pod>) {
        let mut promised = self.promises.lock();
        let rejected = self.admit(&pod, &promised);
        self.promises.begin(&mut promised, &pod);
        if let Some(failure) = &rejected {
            self.context.recorder.pod(&pod, None, true, &failure.reason, failure.message.clone());
        }
        let object = if spec::is_static(&pod) { self.mirror_of(&pod) } else { Some(Arc::clone(&pod)) };
        let mut desired = Desired { pod: Arc::clone(&pod), object, stop: None, rejected };
        update(&mut desired, &pod);
        let (desired, desired_receiver) = watch::channel(desired);
        let (snapshot, snapshot_receiver) = watch::channel(Snapshot::default());
        let (nudge, refresh) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let pool = Arc::downgrade(self);
        let promise = Box::new(move |pod: &Arc<Pod>| match pool.upgrade() {
            Some(pool) => pool.promise(pod),
            None => (Arc::clone(pod), None),
        });
        let weak = Arc::downgrade(self);
        let of = uid.clone();
        let note_given = Box::new(move |given| {
            if let Some(pool) = weak.upgrade() {
                pool.promises.note_given(&of, given);
            }
        });
        let channels = Channels {
            desired: desired_receiver,
            nudge: Arc::clone(&nudge),
            refresh: Arc::clone(&refresh),
            snapshot,
            promise,
            given: self.promises.given(&uid),
            note_given,
        };
        let entry = Entry { desired, nudge, refresh, snapshot: snapshot_receiver };
        self.entries.write().insert(uid.clone(), entry);
        drop(promised);
        let (pool, context) = (Arc::clone(self), Arc::clone(&self.context));
        self.workers.spawn(async move {
            pod_worker::run(context, channels).await;
            let shown = |e: Entry| {
                let desired = e.desired.borrow();
                desired.object.is_some() && !spec::is_static(&desired.pod)
            };
            // In one go: late news find the pod either here or there.
            let mut entries = pool.entries.write();
            if entries.remove(&uid).is_some_and(shown) {
                pool.ended.write().insert(uid.clone());
            }
            drop(entries);
            // The end of the agent is not the pod's.
            if !pool.workers.is_closed() {
                pool.promises.remove(&uid);
            }
            pool.changed.notify_one();
        });
    }

    fn admit(&self, pod: &Pod, promised: &Promised) -> Option<Failure> {
        // What has run here before is not asked again: the agent was away, not the pod.
        let status = spec::status(pod);
        let started = status.start_time.is_some();
        if started || pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        self.with_admission(pod, promised, |admission, others| {
            admission.refusal(pod, others.iter().map(|p| &**p))
        })
    }

    /// The pod with the resources it is promised, and why that is not all it wants, if so.
    fn promise(&self, pod: &Arc<Pod>) -> (Arc<Pod>, Option<Standing>) {
        self.promises.promise(&mut self.promises.lock(), pod, |wanted, promised| {
            if !self.complete.load(Ordering::Acquire) {
                return Verdict::Deferred("the pods of this node are not all known yet".to_owned());
            }
            self.with_admission(wanted, promised, |admission, others| {
                admission.verdict(wanted, others.iter().map(|p| &**p))
            })
        })
    }

    /// Asks admission with the active pods beside this one, as they are promised.
    fn with_admission<T>(
        &self,
        pod: &Pod,
        promised: &Promised,
        ask: impl FnOnce(&Admission<'_>, &[Arc<Pod>]) -> T,
    ) -> T {
        let views = self.views();
        let active = views.into_iter().filter(|v| {
            let status = spec::status(&v.pod);
            let reported = v.snapshot.status.phase.as_deref().or(status.phase.as_deref());
            spec::uid(&v.pod) != spec::uid(pod)
                && !reported.and_then(Phase::parse).is_some_and(Phase::is_terminal)
        });
        let others: Vec<Arc<Pod>> =
            active.map(|v| promised.get(spec::uid(&v.pod)).cloned().unwrap_or(v.pod)).collect();
        let node = self.node.read();
        let allocatable = self.context.allocatable.read();
        let admission = Admission {
            node: node.node.as_ref(),
            allocatable: &allocatable,
            unsafe_sysctls: &self.context.config.allowed_unsafe_sysctls,
            memory_pressure: node.memory_pressure,
            disk_pressure: node.disk_pressure,
            apparmor: self.context.apparmor,
        };
        ask(&admission, &others)
    }

    fn gone(&self, uid: &str) {
        self.ended.write().remove(uid);
        let mirror = {
            let mirrors = self.mirrors.read();
            mirrors.iter().find(|(_, p)| spec::uid(p) == uid).map(|(name, p)| (name.clone(), Arc::clone(p)))
        };
        if let Some((name, mirror)) = mirror {
            self.mirrors.write().remove(&name);
            self.with_static(&mirror, |d| d.object = None);
            return;
        }
        let entries = self.entries.read();
        let Some(entry) = entries.get(uid) else { return };
        entry.desired.send_modify(|desired| {
            let grace_secs = spec::deletion_grace_secs(&desired.pod);
            let failure = desired.stop.as_ref().and_then(|s| s.failure.clone());
            desired.stop = Some(Stop { grace_secs, failure, delete: true });
            if !spec::is_static(&desired.pod) {
                desired.object = None;
            }
        });
    }
}

/// `name_namespace`, which a static pod shares with its mirror.
pub fn full_name(pod: &Pod) -> String {
    format!("{}_{}", spec::name(pod), spec::namespace(pod))
}

fn update(desired: &mut Desired, pod: &Arc<Pod>) {
    desired.pod = Arc::clone(pod);
    if !spec::is_static(pod) {
        desired.object = Some(Arc::clone(pod));
    }
    if pod.metadata.deletion_timestamp.is_some() {
        let grace_secs = spec::deletion_grace_secs(pod);
        let failure = desired.stop.as_ref().and_then(|s| s.failure.clone());
        desired.stop = Some(Stop { grace_secs, failure, delete: true });
    }
}
