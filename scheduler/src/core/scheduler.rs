//! The scheduler as one machine: events of the cluster in, commands to the API out.
//!
//! Owns cluster, queue, templates and storage together and keeps them in step. Invariants: a pod is waiting, or
//! on a node (bound or assumed), or unknown; a pod is assumed from the decision until the API confirms it or the
//! binding fails. Synchronous: time and dice are passed in, commands are carried out elsewhere.

use std::sync::Arc;

use super::cluster::{Cluster, Uid};
use super::decide::{self, Choice, Request};
use super::evaluate::Dice;
use super::events::Event;
use super::filter::VolumeFilter;
use super::hints::{EventPod, Occurrence, Payload};
use super::preempt::{self, Budget, Candidate, Outcome};
use super::profile::{Plugin, PluginSet, Profile};
use super::queue::{Backoff, Queue};
use super::spec::{PodInput, PodSpec, ScheduledCondition, TimeMs};
use super::status::{self, Diagnosis, NO_NODES};
use super::storage::{Storage, VolumeCycle};
use super::templates::Templates;

pub use super::commands::*;

/// Counters for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub scheduled: u64,
    pub unschedulable: u64,
    pub errors: u64,
    pub preemption_attempts: u64,
}

/// The machine.
pub struct Scheduler {
    pub cluster: Cluster,
    pub queue: Queue,
    pub storage: Storage,
    pub templates: Templates,
    pub profiles: Vec<Profile>,
    pub(super) budgets: Vec<Budget>,
    pub counters: Counters,
    dice: Dice,
    sample_start: usize,
    extenders: Option<Box<dyn Extenders + Send>>,
}

impl Scheduler {
    /// A machine with these profiles; `seed` decides ties.
    pub fn new(profiles: Vec<Profile>, backoff: Backoff, seed: u64) -> Self {
        Scheduler {
            cluster: Cluster::default(),
            queue: Queue::new(backoff),
            storage: Storage::default(),
            templates: Templates::default(),
            profiles,
            budgets: Vec::new(),
            counters: Counters::default(),
            dice: Dice::new(seed),
            sample_start: 0,
            extenders: None,
        }
    }

    /// Adds extenders.
    pub fn set_extenders(&mut self, extenders: Box<dyn Extenders + Send>) {
        self.extenders = Some(extenders);
    }

    /// The profile that answers to a scheduler name.
    pub fn profile_of(&self, scheduler_name: &str) -> Option<usize> {
        self.profiles.iter().position(|p| *p.scheduler_name == *scheduler_name)
    }

    /// Schedules the next pod, if one is ready.
    pub fn schedule_one(&mut self, now: TimeMs) -> Option<Vec<Command>> {
        let pod = self.queue.pop(now)?;
        let (uid, spec, input) = (pod.uid, pod.spec.clone(), pod.input.clone());
        let Some(index) = self.profile_of(&spec.scheduler_name) else {
            self.queue.remove(uid);
            return Some(Vec::new());
        };
        let reference = pod_ref(&input, &spec);
        if input.terminating {
            self.queue.remove(uid);
            return Some(vec![Command::SkipDeleting { pod: reference, profile: index }]);
        }
        if self.cluster.nodes.count() == 0 {
            return Some(self.fail(
                uid,
                index,
                NO_NODES.to_owned(),
                None,
                PluginSet::default(),
                REASON_UNSCHEDULABLE,
                now,
            ));
        }
        let volumes = match self.storage.begin(uid, &spec, &self.profiles[index], &self.cluster) {
            Ok(volumes) => volumes,
            Err(refusal) => {
                let diagnosis = decide::refused_outright(refusal);
                return Some(self.unschedulable(uid, index, &spec, &diagnosis, None, now));
            }
        };
        Some(self.place(uid, index, &spec, &input, volumes, now))
    }

    fn place(
        &mut self,
        uid: Uid,
        index: usize,
        spec: &Arc<PodSpec>,
        input: &Arc<PodInput>,
        volumes: Option<VolumeCycle>,
        now: TimeMs,
    ) -> Vec<Command> {
        let profile = &self.profiles[index];
        let template = self.templates.get(spec, index, profile, &mut self.cluster);
        if let Some(refusal) = decide::pre_filter(template, spec, profile) {
            let diagnosis = decide::refused_outright(refusal);
            return self.unschedulable(uid, index, spec, &diagnosis, volumes, now);
        }
        let bound_volumes = volumes.as_ref().map(|v| v.on(&self.storage, &self.cluster));
        let request = Request {
            uid,
            spec,
            nominated: self.cluster.nominated_node(uid),
            profile,
            volumes: bound_volumes.as_ref().map(|v| v as &dyn VolumeFilter),
        };
        if let Some(extenders) = self.extenders.as_mut().filter(|e| e.interested(input)) {
            let reference = pod_ref(input, spec);
            let rated = super::extend::decide(
                template,
                &request,
                &self.cluster,
                &mut self.dice,
                &mut **extenders,
                &reference,
            );
            return match rated {
                Ok(Ok(choice)) => self.assume(uid, index, spec, input, choice, volumes, now),
                Ok(Err(diagnosis)) => self.unschedulable(uid, index, spec, &diagnosis, volumes, now),
                Err(error) => self.fail(uid, index, error, None, PluginSet::default(), REASON_ERROR, now),
            };
        }
        match decide::decide(template, &request, &self.cluster, &mut self.dice, &mut self.sample_start) {
            Some(choice) => self.assume(uid, index, spec, input, choice, volumes, now),
            None => {
                let diagnosis = self.diagnosis(uid, index, spec, volumes.as_ref());
                self.unschedulable(uid, index, spec, &diagnosis, volumes, now)
            }
        }
    }

    /// The diagnosis of a failed cycle; pods of one template share it as long as nothing changes.
    fn diagnosis(
        &mut self,
        uid: Uid,
        index: usize,
        spec: &Arc<PodSpec>,
        volumes: Option<&VolumeCycle>,
    ) -> Arc<Diagnosis> {
        let profile = &self.profiles[index];
        let template = self.templates.get(spec, index, profile, &mut self.cluster);
        let shareable = volumes.is_none() && self.cluster.nominated_nodes().next().is_none();
        let position = template.position();
        if shareable
            && let Some((at, diagnosis)) = &template.last_failure
            && *at == position
        {
            return diagnosis.clone();
        }
        let bound = volumes.map(|v| v.on(&self.storage, &self.cluster));
        let request = Request {
            uid,
            spec,
            nominated: None,
            profile,
            volumes: bound.as_ref().map(|v| v as &dyn VolumeFilter),
        };
        let diagnosis = Arc::new(decide::diagnose(template, &request, &self.cluster));
        if shareable {
            template.last_failure = Some((position, diagnosis.clone()));
        }
        diagnosis
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one cycle, each used once")]
    fn assume(
        &mut self,
        uid: Uid,
        index: usize,
        spec: &Arc<PodSpec>,
        input: &Arc<PodInput>,
        choice: Choice,
        volumes: Option<VolumeCycle>,
        now: TimeMs,
    ) -> Vec<Command> {
        let node = self.cluster.nodes.nodes[choice.node as usize].name.clone();
        let plan = volumes.and_then(|v| v.plan(choice.node, &mut self.storage, &self.cluster));
        self.cluster.add_pod(input, spec.clone(), &node, true);
        self.cluster.nominate(uid, spec.clone(), None);
        self.counters.scheduled += 1;
        let (attempts, first_attempt) =
            self.queue.get(uid).map_or((1, now), |p| (p.attempts, p.first_attempt.unwrap_or(now)));
        let pod = pod_ref(input, spec);
        vec![Command::Bind { pod, node, volumes: plan, attempts, first_attempt, profile: index }]
    }

    fn unschedulable(
        &mut self,
        uid: Uid,
        index: usize,
        spec: &Arc<PodSpec>,
        diagnosis: &Diagnosis,
        volumes: Option<VolumeCycle>,
        now: TimeMs,
    ) -> Vec<Command> {
        let mut message = diagnosis.message(self.cluster.nodes.count());
        let (said, nominate, mut commands) = self.post_filter(uid, index, spec, diagnosis, volumes);
        if let Some(said) = said {
            message.push_str(&format!(" {said}"));
        }
        let mut all =
            self.fail(uid, index, message, Some(nominate), diagnosis.plugins, REASON_UNSCHEDULABLE, now);
        all.append(&mut commands);
        all
    }

    /// Runs the PostFilter plugins in order until one helps: what they say, what becomes of the nomination, what to
    /// evict. Upstream's DynamicResources has nothing to go by where PreFilter refused the pod, and ends the round
    /// with its error's words.
    fn post_filter(
        &mut self,
        uid: Uid,
        index: usize,
        spec: &Arc<PodSpec>,
        diagnosis: &Diagnosis,
        mut volumes: Option<VolumeCycle>,
    ) -> (Option<String>, Nominate, Vec<Command>) {
        let mut reasons: Vec<String> = Vec::new();
        let mut nominate = Nominate::Keep;
        let plugins = self.profiles[index].post_filter.clone();
        if plugins.is_empty() {
            return (None, Nominate::Set("".into()), Vec::new());
        }
        for plugin in plugins {
            match plugin {
                Plugin::DynamicResources if diagnosis.pre_filter.is_some() => {
                    return (Some(status::STATE_NOT_FOUND.to_owned()), Nominate::Keep, Vec::new());
                }
                Plugin::DynamicResources => reasons.push(status::NO_CLAIMS_TO_DEALLOCATE.to_owned()),
                Plugin::DefaultPreemption => {
                    self.counters.preemption_attempts += 1;
                    let (said, nominated, evictions) =
                        self.try_preemption(uid, index, spec, diagnosis, volumes.take());
                    let Some(said) = said else { return (None, nominated, evictions) };
                    reasons.push(format!("preemption: {said}"));
                    nominate = nominated;
                }
                _ => {}
            }
        }
        ((!reasons.is_empty()).then(|| reasons.join(", ")), nominate, Vec::new())
    }

    /// Runs the dry run: what to say, what becomes of the nomination, what to evict.
    fn try_preemption(
        &mut self,
        uid: Uid,
        index: usize,
        spec: &Arc<PodSpec>,
        diagnosis: &Diagnosis,
        volumes: Option<VolumeCycle>,
    ) -> (Option<String>, Nominate, Vec<Command>) {
        let profile = &self.profiles[index];
        let template = self.templates.get(spec, index, profile, &mut self.cluster);
        let bound = volumes.as_ref().map(|v| v.on(&self.storage, &self.cluster));
        let nominated = self.cluster.nominated_node(uid);
        let request = Request {
            uid,
            spec,
            nominated,
            profile,
            volumes: bound.as_ref().map(|v| v as &dyn VolumeFilter),
        };
        let who = decide::preemptor(template, &request);
        let outcome =
            preempt::preempt(&who, nominated, diagnosis, &self.budgets, &self.cluster, &mut self.dice);
        match outcome {
            Outcome::NotEligible(reason) => (Some(reason.to_owned()), Nominate::Keep, Vec::new()),
            Outcome::NotHelpful(message) => (Some(message), Nominate::Set("".into()), Vec::new()),
            Outcome::Candidates(candidates) => self.actuate(uid, index, spec, candidates),
        }
    }

    fn actuate(
        &mut self,
        uid: Uid,
        index: usize,
        spec: &Arc<PodSpec>,
        candidates: Vec<Candidate>,
    ) -> (Option<String>, Nominate, Vec<Command>) {
        let candidates = match self.ask_extenders(uid, spec, candidates) {
            Ok(candidates) => candidates,
            Err(error) => return (Some(error), Nominate::Keep, Vec::new()),
        };
        let Some(best) = preempt::choose(&candidates, &self.cluster).cloned() else {
            return (Some("no candidate node for preemption".to_owned()), Nominate::Keep, Vec::new());
        };
        let node = self.cluster.nodes.nodes[best.node as usize].name.clone();
        let leaving = |slot: &u32| self.cluster.pod(*slot).filter(|p| !p.terminating).map(assigned_ref);
        let victims: Vec<PodRef> = best.victims.iter().filter_map(leaving).collect();
        let mut commands = Vec::new();
        let yielding = self.yielding(spec.priority, best.node);
        if !yielding.is_empty() {
            commands.push(Command::Yield { pods: yielding });
        }
        if let Some(pod) = self.queue.get(uid).filter(|_| !victims.is_empty()) {
            let preemptor = pod_ref(&pod.input, spec);
            commands.push(Command::Preempt { preemptor, node: node.clone(), victims, profile: index });
            self.queue.preemption_started(uid);
        }
        (None, Nominate::Set((*node).into()), commands)
    }

    /// Less important pods nominated to the node lose their nomination.
    fn yielding(&mut self, priority: i32, node: u32) -> Vec<PodRef> {
        let lower: Vec<(Uid, Arc<PodSpec>)> = self
            .cluster
            .nominated_on(node)
            .iter()
            .filter(|n| n.spec.priority < priority)
            .map(|n| (n.uid, n.spec.clone()))
            .collect();
        for (uid, spec) in &lower {
            self.cluster.nominate(*uid, spec.clone(), None);
        }
        let find = |uid: &Uid| self.queue.get(*uid).map(|p| pod_ref(&p.input, &p.spec));
        lower.iter().filter_map(|(uid, _)| find(uid)).collect()
    }

    fn ask_extenders(
        &mut self,
        uid: Uid,
        spec: &PodSpec,
        candidates: Vec<Candidate>,
    ) -> Result<Vec<Candidate>, String> {
        let Some(extenders) = self.extenders.as_mut() else { return Ok(candidates) };
        let Some(pod) = self.queue.get(uid) else { return Ok(candidates) };
        let cluster = &self.cluster;
        let shown = candidates
            .iter()
            .map(|c| ExtenderVictims {
                node: cluster.nodes.nodes[c.node as usize].name.clone(),
                victims: c.victims.iter().filter_map(|v| cluster.pod(*v)).map(assigned_ref).collect(),
                violations: c.violations,
            })
            .collect();
        let answer = extenders.preempt(&pod_ref(&pod.input, spec), shown)?;
        let find = |wanted: &PodRef, node: u32| {
            let uid = Uid::new(&wanted.uid);
            let on_node = &cluster.nodes.nodes[node as usize].pods;
            on_node.iter().copied().find(|slot| cluster.pod(*slot).is_some_and(|p| p.uid == uid))
        };
        let back = answer.into_iter().filter_map(|c| {
            let node = cluster.nodes.find(&c.node)?;
            let victims = c.victims.iter().filter_map(|v| find(v, node)).collect();
            Some(Candidate { node, victims, violations: c.violations })
        });
        Ok(back.collect())
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one report, each used once")]
    fn fail(
        &mut self,
        uid: Uid,
        index: usize,
        message: String,
        nominate: Option<Nominate>,
        plugins: PluginSet,
        reason: &'static str,
        now: TimeMs,
    ) -> Vec<Command> {
        let counter =
            if reason == REASON_ERROR { &mut self.counters.errors } else { &mut self.counters.unschedulable };
        *counter += 1;
        self.queue.give_back(uid, plugins, now);
        let Some(pod) = self.queue.get(uid) else { return Vec::new() };
        let nominate = nominate.unwrap_or_else(|| Nominate::Set("".into()));
        let (spec, input) = (pod.spec.clone(), pod.input.clone());
        if let Nominate::Set(node) = &nominate {
            self.cluster.nominate(uid, spec.clone(), Some(node).filter(|n| !n.is_empty()).map(|n| &**n));
        }
        let condition = ScheduledCondition { reason: reason.into(), message: message.as_str().into() };
        let condition_is_new = pod.condition.as_deref() != Some(&condition);
        if condition_is_new {
            self.queue.set_condition(uid, Arc::new(condition));
        }
        let nominate = match nominate {
            Nominate::Set(node) if node == input.nominated_node => Nominate::Keep,
            other => other,
        };
        let pod = pod_ref(&input, &spec);
        vec![Command::Report { pod, reason, message, nominate, condition_is_new, profile: index }]
    }

    /// The API has accepted a binding; the informer will confirm it.
    pub fn bound(&mut self, uid: &str) {
        self.queue.remove(Uid::new(uid));
    }

    /// A binding failed: the pod's place is free again and the pod waits.
    pub fn bind_failed(&mut self, uid: &str, error: String, now: TimeMs) -> Vec<Command> {
        let uid = Uid::new(uid);
        if self.cluster.find_pod(uid).is_some_and(|p| p.assumed)
            && let Some(pod) = self.cluster.remove_pod(uid)
        {
            self.storage.forget(uid);
            let gone = EventPod { uid, spec: pod.spec, placed: true };
            let payload = Payload::Pod { old: Some(gone), new: None };
            self.announce(Occurrence { event: Event::AssignedPodDelete, payload }, now);
        }
        let Some(pod) = self.queue.get(uid) else { return Vec::new() };
        let index = self.profile_of(&pod.spec.scheduler_name).unwrap_or(0);
        self.fail(uid, index, error, None, PluginSet::default(), REASON_ERROR, now)
    }

    /// Pods that were bound but that no informer has shown as bound: to be looked up, should this last.
    pub fn unconfirmed(&self) -> Vec<PodRef> {
        let waits = |p: &&super::cluster::Pod| p.assumed && self.queue.get(p.uid).is_none();
        self.cluster.pods().filter(waits).map(assigned_ref).collect()
    }

    /// The eviction of a preemptor's victims is done, or has failed.
    pub fn preemption_done(&mut self, uid: &str, victims: &[PodRef], failed: bool, now: TimeMs) {
        let gone = victims.iter().all(|v| self.cluster.find_pod(Uid::new(&v.uid)).is_none());
        self.queue.preemption_ended(Uid::new(uid), failed || gone, now);
    }

    /// Wakes the pods that an event may help.
    pub fn announce(&mut self, occurrence: Occurrence, now: TimeMs) {
        let (profiles, cluster) = (&self.profiles, &self.cluster);
        self.queue.move_on(occurrence.event, now, |plugin, pod| {
            let profile = profiles.iter().find(|p| p.scheduler_name == pod.spec.scheduler_name);
            profile.is_none_or(|p| super::hints::hint(plugin, pod.uid, &pod.spec, &occurrence, p, cluster))
        });
    }

    /// Wakes one pod if an event about itself helps it.
    pub(super) fn announce_to(&mut self, uid: Uid, occurrence: &Occurrence, now: TimeMs) {
        let (profiles, cluster) = (&self.profiles, &self.cluster);
        self.queue.move_one(uid, occurrence.event, now, |plugin, pod| {
            let profile = profiles.iter().find(|p| p.scheduler_name == pod.spec.scheduler_name);
            profile.is_none_or(|p| super::hints::hint(plugin, uid, &pod.spec, occurrence, p, cluster))
        });
    }
}

/// A waiting pod by name.
pub fn pod_ref(input: &PodInput, spec: &PodSpec) -> PodRef {
    PodRef {
        uid: input.uid.clone(),
        namespace: spec.class.namespace.clone(),
        name: input.name.clone(),
        generation: input.generation,
    }
}

/// A pod on a node by name. Its UID text is rebuilt from the number.
fn assigned_ref(pod: &super::cluster::Pod) -> PodRef {
    let n = format!("{:032x}", pod.uid.0);
    let uid = format!("{}-{}-{}-{}-{}", &n[..8], &n[8..12], &n[12..16], &n[16..20], &n[20..]);
    PodRef {
        uid: uid.into(),
        namespace: pod.spec.class.namespace.clone(),
        name: pod.name.clone(),
        generation: pod.generation,
    }
}
