//! Pods that wait: active, backing off, or parked until an event can help them.
//!
//! Owns the order of scheduling (priority, then time of arrival), back-off from 1 s to 10 s, the five-minute
//! flush and gates. Invariant: a pod is in exactly one place. Parked pods of one template and one set of refusing
//! plugins lie together, so an event is judged once for all of them.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::cluster::Uid;
use super::events::Event;
use super::profile::{Plugin, PluginSet};
use super::spec::{PodInput, PodSpec, ScheduledCondition, TimeMs};

/// Back-off ends at whole windows, so that pods of one window are ordered by priority.
const BACKOFF_WINDOW_MS: TimeMs = 1000;
/// Parked pods are tried again after this long whatever happened, unless told otherwise.
pub const MAX_PARKED_MS: TimeMs = 5 * 60 * 1000;

/// Where a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Active,
    Backoff,
    /// Backing off after an error, apart from pods that were refused.
    ErrorBackoff,
    Parked,
    /// Handed out by [`Queue::pop`] and not yet returned.
    InFlight,
}

/// A waiting pod.
#[derive(Clone, Debug)]
pub struct QueuedPod {
    pub uid: Uid,
    pub input: Arc<PodInput>,
    pub spec: Arc<PodSpec>,
    pub place: Place,
    pub timestamp: TimeMs,
    pub attempts: u32,
    pub first_attempt: Option<TimeMs>,
    unschedulable_count: u32,
    error_count: u32,
    backoff_until: Option<TimeMs>,
    /// Plugins that refused the pod last time.
    pub rejectors: PluginSet,
    /// The plugin that keeps the pod out of the queue.
    pub gating: Option<Plugin>,
    /// The condition last written, by us or seen from the API.
    pub condition: Option<Arc<ScheduledCondition>>,
    sequence: u64,
}

type ActiveKey = (Reverse<i32>, TimeMs, u64, Uid);
type BackoffKey = (TimeMs, Reverse<i32>, TimeMs, u64, Uid);
type ParkKey = (usize, PluginSet, Option<Plugin>);

/// Limits of back-off.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    pub initial_ms: TimeMs,
    pub max_ms: TimeMs,
    /// Parked pods are tried again after this long (`--pod-max-in-unschedulable-pods-duration`).
    pub parked_ms: TimeMs,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { initial_ms: 1000, max_ms: 10_000, parked_ms: MAX_PARKED_MS }
    }
}

/// Counts by place, as the `pending_pods` metric has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    pub active: usize,
    pub backoff: usize,
    pub unschedulable: usize,
    pub gated: usize,
}

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    pods: FxHashMap<Uid, QueuedPod>,
    active: BTreeSet<ActiveKey>,
    backoff: BTreeSet<BackoffKey>,
    error_backoff: BTreeSet<BackoffKey>,
    parked: FxHashMap<ParkKey, FxHashSet<Uid>>,
    gated: usize,
    parked_count: usize,
    limits: Backoff,
    sequence: u64,
    /// Pods whose preemption is being carried out: not to be tried meanwhile.
    preempting: FxHashSet<Uid>,
}

impl Queue {
    /// An empty queue.
    pub fn new(limits: Backoff) -> Self {
        Queue { limits, ..Queue::default() }
    }

    /// A waiting pod.
    pub fn get(&self, uid: Uid) -> Option<&QueuedPod> {
        self.pods.get(&uid)
    }

    /// All waiting pods.
    pub fn iter(&self) -> impl Iterator<Item = &QueuedPod> {
        self.pods.values()
    }

    /// Remembers the condition that was written for a pod.
    pub fn set_condition(&mut self, uid: Uid, condition: Arc<ScheduledCondition>) {
        if let Some(pod) = self.pods.get_mut(&uid) {
            pod.condition = Some(condition);
        }
    }

    /// Counts by place.
    pub fn pending(&self) -> Pending {
        Pending {
            active: self.active.len(),
            backoff: self.backoff.len() + self.error_backoff.len(),
            unschedulable: self.parked_count - self.gated,
            gated: self.gated,
        }
    }

    /// Adds a pod that has just been created.
    pub fn add(&mut self, input: Arc<PodInput>, spec: Arc<PodSpec>, now: TimeMs) {
        let uid = Uid::new(&input.uid);
        self.remove(uid);
        self.sequence += 1;
        let pod = QueuedPod {
            uid,
            condition: input.condition.clone(),
            input,
            spec,
            place: Place::InFlight,
            timestamp: now,
            attempts: 0,
            first_attempt: None,
            unschedulable_count: 0,
            error_count: 0,
            backoff_until: None,
            rejectors: PluginSet::default(),
            gating: None,
            sequence: self.sequence,
        };
        self.pods.insert(uid, pod);
        self.activate(uid, now);
    }

    /// Takes over a new version of a waiting pod without moving it. Returns false when the pod is not here.
    pub fn replace(&mut self, input: Arc<PodInput>, spec: Arc<PodSpec>) -> bool {
        let uid = Uid::new(&input.uid);
        let Some(place) = self.pods.get(&uid).map(|p| p.place) else { return false };
        self.unlink(uid);
        if let Some(pod) = self.pods.get_mut(&uid) {
            pod.condition = input.condition.clone();
            pod.input = input;
            pod.spec = spec;
        }
        self.link(uid, place);
        true
    }

    /// Removes a pod: bound, or deleted.
    pub fn remove(&mut self, uid: Uid) -> Option<QueuedPod> {
        self.unlink(uid);
        self.preempting.remove(&uid);
        self.pods.remove(&uid)
    }

    /// The next pod to schedule. When no pod is active, one that is backing off is taken early.
    pub fn pop(&mut self, now: TimeMs) -> Option<&QueuedPod> {
        let uid = match self.active.first() {
            Some(key) => key.3,
            None => self.backoff.first()?.4,
        };
        self.unlink(uid);
        let pod = self.pods.get_mut(&uid)?;
        pod.place = Place::InFlight;
        pod.attempts += 1;
        pod.first_attempt.get_or_insert(now);
        pod.backoff_until = None;
        Some(pod)
    }

    /// Takes a pod back that no node could hold (`rejectors` say why) or whose attempt failed (none).
    pub fn give_back(&mut self, uid: Uid, rejectors: PluginSet, now: TimeMs) {
        let Some(pod) = self.pods.get_mut(&uid) else { return };
        pod.rejectors = rejectors;
        pod.gating = None;
        pod.timestamp = now;
        pod.backoff_until = None;
        if rejectors.is_empty() {
            pod.error_count += 1;
            self.requeue(uid, now);
        } else {
            pod.unschedulable_count += 1;
            pod.error_count = 0;
            self.link(uid, Place::Parked);
        }
    }

    /// Moves parked pods that `wakes` says the event can help. It is asked once per template and refusing plugins.
    pub fn move_on(&mut self, event: Event, now: TimeMs, mut wakes: impl FnMut(Plugin, &QueuedPod) -> bool) {
        let interested = event.interested();
        let mut chosen: Vec<Uid> = Vec::new();
        for ((_, rejectors, gating), uids) in &self.parked {
            if gating.is_some_and(|plugin| !interested.has(plugin)) {
                continue;
            }
            let Some(sample) = uids.iter().next().and_then(|u| self.pods.get(u)) else { continue };
            if rejectors.iter().any(|plugin| interested.has(plugin) && wakes(plugin, sample)) {
                // Those whose victims are still going would only be held again, and there is an event for every victim.
                let held = |uid: &Uid| gating.is_some() && self.preempting.contains(uid);
                chosen.extend(uids.iter().filter(|uid| !held(uid)));
            }
        }
        for uid in chosen {
            self.requeue(uid, now);
        }
    }

    /// Moves one parked pod if an event about itself helps it.
    pub fn move_one(
        &mut self,
        uid: Uid,
        event: Event,
        now: TimeMs,
        mut wakes: impl FnMut(Plugin, &QueuedPod) -> bool,
    ) {
        let Some(pod) = self.pods.get(&uid).filter(|p| p.place == Place::Parked) else { return };
        let interested = event.interested();
        if pod.rejectors.is_empty() || pod.rejectors.iter().any(|p| interested.has(p) && wakes(p, pod)) {
            self.requeue(uid, now);
        }
    }

    /// Moves pods whose back-off is over to the active part, and parked ones that have waited too long.
    pub fn tick(&mut self, now: TimeMs) {
        let window = align(now);
        let mut over: Vec<Uid> = Vec::new();
        for queue in [&self.backoff, &self.error_backoff] {
            over.extend(queue.iter().take_while(|key| key.0 < window).map(|key| key.4));
        }
        for uid in over {
            self.unlink(uid);
            self.link(uid, Place::Active);
        }
    }

    /// Retries parked pods that no event has woken for five minutes.
    pub fn flush_parked(&mut self, now: TimeMs) {
        let stale = |p: &&QueuedPod| p.place == Place::Parked && now - p.timestamp > self.limits.parked_ms;
        let stale: Vec<Uid> =
            self.pods.values().filter(stale).filter(|p| p.gating.is_none()).map(|p| p.uid).collect();
        for uid in stale {
            self.requeue(uid, now);
        }
    }

    /// When [`Queue::tick`] has something to do next.
    pub fn next_tick(&self) -> Option<TimeMs> {
        let first = |q: &BTreeSet<BackoffKey>| q.first().map(|k| k.0);
        let next = [first(&self.backoff), first(&self.error_backoff)].into_iter().flatten().min();
        next.map(|at| at + BACKOFF_WINDOW_MS)
    }

    /// Keeps a pod out while its victims are being evicted.
    pub fn preemption_started(&mut self, uid: Uid) {
        self.preempting.insert(uid);
    }

    /// Lets the pod in again; with `wake` it is tried at once.
    pub fn preemption_ended(&mut self, uid: Uid, wake: bool, now: TimeMs) {
        self.preempting.remove(&uid);
        if wake && self.pods.get(&uid).is_some_and(|p| p.place != Place::InFlight) {
            self.activate(uid, now);
        }
    }

    /// Whether the pod's victims are being evicted.
    pub fn is_preempting(&self, uid: Uid) -> bool {
        self.preempting.contains(&uid)
    }

    fn requeue(&mut self, uid: Uid, now: TimeMs) {
        let window = align(now);
        let Some(until) = self.backoff_until(uid) else { return };
        if until >= window { self.back_off(uid) } else { self.activate(uid, now) }
    }

    fn back_off(&mut self, uid: Uid) {
        self.unlink(uid);
        if self.gate(uid) {
            return self.link(uid, Place::Parked);
        }
        let refused = self.pods.get(&uid).is_some_and(|p| !p.rejectors.is_empty());
        self.link(uid, if refused { Place::Backoff } else { Place::ErrorBackoff });
    }

    fn activate(&mut self, uid: Uid, now: TimeMs) {
        self.unlink(uid);
        if self.gate(uid) {
            return self.link(uid, Place::Parked);
        }
        if let Some(pod) = self.pods.get_mut(&uid) {
            pod.first_attempt.get_or_insert(now);
        }
        self.link(uid, Place::Active);
    }

    /// Runs the gates; true when one holds the pod.
    fn gate(&mut self, uid: Uid) -> bool {
        let preempting = self.preempting.contains(&uid);
        let Some(pod) = self.pods.get_mut(&uid) else { return false };
        pod.gating = if !pod.input.gates.is_empty() {
            Some(Plugin::SchedulingGates)
        } else if preempting {
            Some(Plugin::DefaultPreemption)
        } else {
            None
        };
        if let Some(plugin) = pod.gating {
            pod.rejectors.insert(plugin);
        }
        pod.gating.is_some()
    }

    /// When the pod's back-off ends; a time long past when it has none.
    fn backoff_until(&mut self, uid: Uid) -> Option<TimeMs> {
        let limits = self.limits;
        let pod = self.pods.get_mut(&uid)?;
        let count = if pod.error_count > 0 { pod.error_count } else { pod.unschedulable_count };
        if count == 0 || limits.max_ms == 0 {
            return Some(TimeMs::MIN);
        }
        let until = *pod.backoff_until.get_or_insert_with(|| {
            let doublings = count - 1;
            let wait = if doublings >= 62 || limits.initial_ms > limits.max_ms >> doublings {
                limits.max_ms
            } else {
                limits.initial_ms << doublings
            };
            align(pod.timestamp + wait)
        });
        Some(until)
    }

    fn link(&mut self, uid: Uid, place: Place) {
        let until = self.backoff_until(uid).unwrap_or(TimeMs::MIN);
        let Some(pod) = self.pods.get_mut(&uid) else { return };
        pod.place = place;
        let priority = Reverse(pod.spec.priority);
        match place {
            Place::Active => drop(self.active.insert((priority, pod.timestamp, pod.sequence, uid))),
            Place::Backoff => drop(self.backoff.insert((until, priority, pod.timestamp, pod.sequence, uid))),
            Place::ErrorBackoff => {
                self.error_backoff.insert((until, priority, pod.timestamp, pod.sequence, uid));
            }
            Place::Parked => {
                self.gated += usize::from(pod.gating.is_some());
                self.parked_count += 1;
                let key = park_key(pod);
                self.parked.entry(key).or_default().insert(uid);
            }
            Place::InFlight => {}
        }
    }

    fn unlink(&mut self, uid: Uid) {
        let until = self.backoff_until(uid).unwrap_or(TimeMs::MIN);
        let Some(pod) = self.pods.get_mut(&uid) else { return };
        let priority = Reverse(pod.spec.priority);
        match pod.place {
            Place::Active => drop(self.active.remove(&(priority, pod.timestamp, pod.sequence, uid))),
            Place::Backoff => drop(self.backoff.remove(&(until, priority, pod.timestamp, pod.sequence, uid))),
            Place::ErrorBackoff => {
                self.error_backoff.remove(&(until, priority, pod.timestamp, pod.sequence, uid));
            }
            Place::Parked => {
                self.gated -= usize::from(pod.gating.is_some());
                self.parked_count -= 1;
                let key = park_key(pod);
                if let Some(uids) = self.parked.get_mut(&key) {
                    uids.remove(&uid);
                    if uids.is_empty() {
                        self.parked.remove(&key);
                    }
                }
            }
            Place::InFlight => {}
        }
        pod.place = Place::InFlight;
    }
}

fn align(time: TimeMs) -> TimeMs {
    time - time.rem_euclid(BACKOFF_WINDOW_MS)
}

fn park_key(pod: &QueuedPod) -> ParkKey {
    (Arc::as_ptr(&pod.spec) as usize, pod.rejectors, pod.gating)
}
