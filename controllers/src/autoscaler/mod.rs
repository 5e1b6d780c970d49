//! The horizontal pod autoscaler (v2): from metrics to a number of replicas, within the limits and the pace that an
//! autoscaler's behaviour allows.
//!
//! In reading order: [`metrics`] (what the metrics APIs say), [`calc`] (from usage to replicas), [`behavior`] (how far
//! and how fast), [`conditions`], this module (one run).

pub mod behavior;
pub mod calc;
pub mod conditions;
pub mod metrics;
#[cfg(test)]
mod tests;

use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, HorizontalPodAutoscalerStatus, MetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use machinery::selector::Labels;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use serde_json::Value;

use self::behavior::History;
use self::conditions::Conditions;
use crate::meta::{name, namespace};
use crate::options::AutoscalerOptions;
use crate::runtime::{
    Action, Answer, Ask, Context, Controller, Gvr, Key, Note, Plan, ReconcileError, Store, Verb, Wiring,
};

struct Autoscalers {
    autoscalers: Store<HorizontalPodAutoscaler>,
    pods: Store<Pod>,
    options: AutoscalerOptions,
    /// Recent recommendations and changes. Losing them means scaling down a little earlier, once.
    histories: Mutex<FxHashMap<Key, History>>,
    workers: usize,
}

/// Builds the loop.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let autoscalers = wiring.on::<HorizontalPodAutoscaler>(|change, queue| {
        // Own status writes must not make the loop run faster than its period.
        let same =
            change.old.as_ref().zip(change.new.as_ref()).is_some_and(|(old, new)| old.spec == new.spec);
        if let Some(one) = change.latest().filter(|_| !same) {
            queue.add(Key::of(one.as_ref()));
        }
    });
    let pods = wiring.store::<Pod>();
    let (options, workers) = (wiring.options().autoscaler.clone(), wiring.options().workers.autoscaler);
    Box::new(Autoscalers { autoscalers, pods, options, histories: Mutex::default(), workers })
}

/// What stops a run before its end.
pub enum Stop {
    /// This must be known first.
    Ask(Ask),
    /// It cannot be known; the reason and the message of the condition that tells.
    Failed {
        /// Such as `FailedGetResourceMetric`.
        reason: &'static str,
        /// For people.
        message: String,
    },
}

impl Stop {
    /// A failure with a reason.
    pub fn failed(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Failed { reason, message: message.into() }
    }
}

/// The body of a GET, or why there is none yet.
pub fn get(path: String, reason: &'static str, context: &Context) -> Result<std::sync::Arc<Value>, Stop> {
    let ask = Ask::Get(path);
    match context.answer(&ask) {
        None => Err(Stop::Ask(ask)),
        Some(Answer::Json(body)) => Ok(body.clone()),
        Some(Answer::Failed(failure)) => Err(Stop::failed(reason, failure.message.clone())),
        Some(Answer::Kinds(_)) => Err(Stop::failed(reason, "unexpected answer")),
    }
}

/// The scaled object.
pub struct Target {
    gvr: Gvr,
    scale: Value,
    /// Replicas it asks for.
    pub current: i32,
    /// Which pods are its.
    pub selector: Option<Labels>,
    /// The selector as text.
    pub selector_text: String,
}

impl Controller for Autoscalers {
    fn reconcile(&self, key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let Some(one) = self.autoscalers.get(key) else {
            self.histories.lock().remove(key);
            return Ok(plan);
        };
        plan.again_after(self.options.sync_period);
        let mut run = Run::new(&one, self, context);
        match run.decide(&mut plan) {
            Err(Stop::Ask(ask)) => return Ok(plan.ask(ask)),
            Err(Stop::Failed { reason, message }) => plan.note(Note::warning(one.as_ref(), reason, message)),
            Ok(()) => {}
        }
        run.write(&mut plan);
        Ok(plan)
    }

    fn workers(&self) -> usize {
        self.workers
    }
}

struct Run<'a> {
    one: &'a HorizontalPodAutoscaler,
    spec: HorizontalPodAutoscalerSpec,
    status: HorizontalPodAutoscalerStatus,
    conditions: Conditions,
    all: &'a Autoscalers,
    context: &'a Context<'a>,
}

impl<'a> Run<'a> {
    fn new(one: &'a HorizontalPodAutoscaler, all: &'a Autoscalers, context: &'a Context<'a>) -> Self {
        let status = one.status.clone().unwrap_or_default();
        let conditions = Conditions::new(status.conditions.clone().unwrap_or_default(), context.now);
        Self { one, spec: one.spec.clone(), status, conditions, all, context }
    }

    fn decide(&mut self, plan: &mut Plan) -> Result<(), Stop> {
        let target = match self.target() {
            Err(Stop::Failed { reason, message }) => {
                let told =
                    format!("the HPA controller was unable to get the target's current scale: {message}");
                self.conditions.set("AbleToScale", false, "FailedGetScale", &told);
                return Err(Stop::failed(reason, message));
            }
            other => other?,
        };
        let told = "the HPA controller was able to get the target's current scale";
        self.conditions.set("AbleToScale", true, "SucceededGetScale", told);
        self.status.current_replicas = Some(target.current);
        let (least, most) = (self.spec.min_replicas.unwrap_or(1), self.spec.max_replicas);
        let (desired, reason) = if target.current == 0 && least != 0 {
            let told = "scaling is disabled since the replica count of the target is zero";
            self.conditions.set("ScalingActive", false, "ScalingDisabled", told);
            self.status.desired_replicas = 0;
            return Ok(());
        } else if target.current > most {
            (most, "Current number of replicas above Spec.MaxReplicas".to_string())
        } else if target.current < least {
            (least, "Current number of replicas below Spec.MinReplicas".to_string())
        } else {
            self.by_metrics(&target)?
        };
        self.status.desired_replicas = desired;
        if desired == target.current {
            let told = "recommended size matches current size";
            self.conditions.set_unless_stabilized("AbleToScale", "ReadyForNewScale", told);
            return Ok(());
        }
        self.rescale(&target, desired, &reason, plan);
        Ok(())
    }

    /// The proposals of all metrics, the highest of them, and what the behaviour makes of it.
    fn by_metrics(&mut self, target: &Target) -> Result<(i32, String), Stop> {
        let metrics = self.spec.metrics.clone().unwrap_or_default();
        let (mut best, mut from, mut statuses): (Option<i32>, String, Vec<MetricStatus>) =
            (None, String::new(), Vec::new());
        let mut failure: Option<(&'static str, String)> = None;
        for metric in &metrics {
            match metrics::proposal(metric, self.one, target, &self.all.pods, &self.all.options, self.context)
            {
                Err(Stop::Ask(ask)) => return Err(Stop::Ask(ask)),
                Err(Stop::Failed { reason, message }) => failure = failure.or(Some((reason, message))),
                Ok(proposal) => {
                    if best.is_none_or(|best| proposal.replicas > best) {
                        best = Some(proposal.replicas);
                        from = proposal.name;
                    }
                    statuses.push(proposal.status);
                }
            }
        }
        // With a metric missing, scaling down on the others could hurt; scaling up cannot.
        let usable = best.filter(|best| failure.is_none() || *best > target.current);
        let Some(proposed) = usable else {
            let (reason, message) =
                failure.unwrap_or(("InvalidMetricSourceType", "no metrics are configured".into()));
            let told = format!("the HPA was unable to compute the replica count: {message}");
            self.conditions.set("ScalingActive", false, reason, &told);
            return Err(Stop::failed(reason, message));
        };
        self.status.current_metrics = Some(statuses);
        let told = format!("the HPA was able to successfully calculate a replica count from {from}");
        self.conditions.set("ScalingActive", true, "ValidMetricFound", &told);
        let key = Key::of(self.one);
        let mut histories = self.all.histories.lock();
        let history = histories.entry(key).or_default();
        let desired = behavior::apply(
            &self.spec,
            target.current,
            proposed,
            history,
            self.context.elapsed,
            &self.all.options,
            &mut self.conditions,
        );
        let word = if desired > target.current {
            format!("{from} above target")
        } else {
            "All metrics below target".into()
        };
        Ok((desired, word))
    }

    fn target(&self) -> Result<Target, Stop> {
        let reference = &self.spec.scale_target_ref;
        let api_version = reference.api_version.as_deref().unwrap_or("v1");
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let gvr = self.resource(group, version, &reference.kind)?;
        let path = format!("{}/scale", gvr.object(namespace(self.one), &reference.name));
        let scale = get(path, "FailedGetScale", self.context)?;
        let selector_text = scale["status"]["selector"].as_str().unwrap_or("").to_string();
        let selector = Some(selector_text.as_str())
            .filter(|text| !text.is_empty())
            .and_then(|text| Labels::parse(text).ok());
        let current = scale["spec"]["replicas"].as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(0);
        Ok(Target { gvr, scale: scale.as_ref().clone(), current, selector, selector_text })
    }

    fn resource(&self, group: &str, version: &str, kind: &str) -> Result<Gvr, Stop> {
        let known = match (group, kind) {
            ("apps", "Deployment") => Some("deployments"),
            ("apps", "ReplicaSet") => Some("replicasets"),
            ("apps", "StatefulSet") => Some("statefulsets"),
            ("", "ReplicationController") => Some("replicationcontrollers"),
            _ => None,
        };
        if let Some(plural) = known {
            return Ok(Gvr::new(group, version, plural, kind));
        }
        match self.context.answer(&Ask::Kinds) {
            None => Err(Stop::Ask(Ask::Kinds)),
            Some(Answer::Kinds(found)) => {
                let same = |gvr: &Gvr| gvr.group == group && gvr.kind == kind;
                let gvr = found.resources.iter().map(|resource| &resource.gvr).find(|gvr| same(gvr));
                let gvr = gvr.map(|gvr| Gvr { version: version.to_string().into(), ..gvr.clone() });
                gvr.ok_or_else(|| {
                    Stop::failed("FailedGetScale", format!("no matches for kind {kind:?} in group {group:?}"))
                })
            }
            Some(_) => Err(Stop::failed("FailedGetScale", "discovery failed")),
        }
    }

    fn rescale(&mut self, target: &Target, desired: i32, reason: &str, plan: &mut Plan) {
        let mut body = target.scale.clone();
        body["spec"]["replicas"] = desired.into();
        let reference = &self.spec.scale_target_ref;
        let verb = Verb::Update { body, subresource: "scale" };
        let told = format!("New size: {desired}; reason: {reason}");
        let failed = format!("New size: {desired}; reason: {reason}; error: {{error}}");
        let action = Action::on(&target.gvr, namespace(self.one), &reference.name, verb)
            .noting(Note::normal(self.one, "SuccessfulRescale", told))
            .noting_failure(Note::warning(self.one, "FailedRescale", failed));
        plan.act(action);
        let told = format!("the HPA controller was able to update the target scale to {desired}");
        self.conditions.set("AbleToScale", true, "SucceededRescale", &told);
        self.status.last_scale_time = Some(Time(self.context.now));
        let change = desired - target.current;
        let mut histories = self.all.histories.lock();
        histories.entry(Key::of(self.one)).or_default().changed(change, self.context.elapsed);
    }

    fn write(mut self, plan: &mut Plan) {
        self.status.observed_generation = self.one.metadata.generation;
        self.status.conditions = Some(self.conditions.into_list());
        if self.one.status.as_ref() != Some(&self.status) {
            let updated = HorizontalPodAutoscaler { status: Some(self.status), ..self.one.clone() };
            plan.act(Action::update_status(&updated));
        }
        tracing::trace!(autoscaler = name(self.one), "looked at");
    }
}
