//! The pod failure policy (what a failed pod means) and the success policy (when enough indexes have succeeded).

use k8s_openapi::api::batch::v1::{
    Job, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::facts;
use super::indexes::Indexes;
use crate::meta::{name, namespace};

/// What a failed pod means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It counts against the limit.
    Count,
    /// It does not count.
    Ignore,
    /// Its index has failed.
    FailIndex,
    /// The job has failed, with this message.
    FailJob(String),
}

impl Verdict {
    /// Whether the failure counts.
    pub fn counts(&self) -> bool {
        *self != Self::Ignore
    }
}

/// Judges a failed pod: the first rule that fits decides.
pub fn judge(job: &Job, pod: &Pod) -> Verdict {
    let policy = job.spec.as_ref().and_then(|spec| spec.pod_failure_policy.as_ref());
    let rules = policy.map(|policy| policy.rules.as_slice()).unwrap_or_default();
    for (at, rule) in rules.iter().enumerate() {
        let Some(why) = matches(rule, pod) else { continue };
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            "FailJob" => Verdict::FailJob(format!("{why} matching {} rule at index {at}", rule.action)),
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

/// How a rule fits a pod, in words.
fn matches(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let subject = format!("{}/{}", namespace(pod), name(pod));
    if let Some(requirement) = &rule.on_exit_codes {
        let (container, code) = exit_code(requirement, pod)?;
        return Some(format!("Container {container} for pod {subject} failed with exit code {code}"));
    }
    let condition = pod_condition(rule.on_pod_conditions.as_deref()?, pod)?;
    Some(format!("Pod {subject} has condition {condition}"))
}

fn exit_code(requirement: &PodFailurePolicyOnExitCodesRequirement, pod: &Pod) -> Option<(String, i32)> {
    let status = pod.status.as_ref()?;
    let fits = |status: &&ContainerStatus| {
        let Some(code) = code_of(status).filter(|code| *code != 0) else { return false };
        let named = requirement.container_name.as_ref().is_none_or(|name| *name == status.name);
        let listed = requirement.values.contains(&code);
        named
            && if requirement.operator == "In" { listed } else { requirement.operator == "NotIn" && !listed }
    };
    let all =
        status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let found = all.into_iter().find(fits)?;
    Some((found.name.clone(), code_of(found)?))
}

fn code_of(status: &ContainerStatus) -> Option<i32> {
    Some(status.state.as_ref()?.terminated.as_ref()?.exit_code)
}

fn pod_condition(patterns: &[PodFailurePolicyOnPodConditionsPattern], pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.iter().flatten();
    let wanted = |pattern: &PodFailurePolicyOnPodConditionsPattern| {
        pattern.status.as_deref().unwrap_or("True").to_string()
    };
    conditions
        .into_iter()
        .find(|have| patterns.iter().any(|p| p.type_ == have.type_ && wanted(p) == have.status))
        .map(|have| have.type_.clone())
}

/// The message of a job failed by a pod, if the policy says so.
pub fn fail_job_message(job: &Job, pods: &[std::sync::Arc<Pod>]) -> Option<String> {
    job.spec.as_ref()?.pod_failure_policy.as_ref()?;
    pods.iter().filter(|pod| facts::is_failed(pod, job)).find_map(|pod| match judge(job, pod) {
        Verdict::FailJob(message) => Some(message),
        _ => None,
    })
}

/// The message of a job that has succeeded by its success policy.
pub fn success_message(job: &Job, succeeded: &Indexes) -> Option<String> {
    let policy = job.spec.as_ref()?.success_policy.as_ref()?;
    let completions = facts::completions(job)?;
    if succeeded.total() == 0 {
        return None;
    }
    let met = policy.rules.iter().position(|rule| match &rule.succeeded_indexes {
        None => rule.succeeded_count.is_some_and(|count| succeeded.total() >= count),
        Some(text) => {
            let required = Indexes::parse(text, completions);
            let have = required.overlap(succeeded);
            required.total() > 0
                && (have == required.total() || rule.succeeded_count.is_some_and(|count| have >= count))
        }
    })?;
    Some(format!("Matched rules at index {met}"))
}
