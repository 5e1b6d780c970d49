//! The conditions of an autoscaler: AbleToScale, ScalingActive, ScalingLimited.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The conditions during one run.
pub struct Conditions {
    list: Vec<HorizontalPodAutoscalerCondition>,
    now: Timestamp,
}

impl Conditions {
    /// Those written last.
    pub fn new(list: Vec<HorizontalPodAutoscalerCondition>, now: Timestamp) -> Self {
        Self { list, now }
    }

    /// Sets a condition; its time changes with its value only.
    pub fn set(&mut self, kind: &str, value: bool, reason: &str, message: &str) {
        let status = if value { "True" } else { "False" };
        let new = HorizontalPodAutoscalerCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_transition_time: Some(Time(self.now)),
        };
        match self.list.iter_mut().find(|have| have.type_ == kind) {
            None => self.list.push(new),
            Some(have) => {
                let since = have.last_transition_time.clone().filter(|_| have.status == status);
                *have = HorizontalPodAutoscalerCondition {
                    last_transition_time: since.or(new.last_transition_time.clone()),
                    ..new
                };
            }
        }
    }

    /// Sets a condition to true unless it tells of a stabilization, which says more.
    pub fn set_unless_stabilized(&mut self, kind: &str, reason: &str, message: &str) {
        let current =
            self.list.iter().find(|have| have.type_ == kind).and_then(|have| have.reason.as_deref());
        if !matches!(current, Some("ScaleDownStabilized" | "ScaleUpStabilized")) {
            self.set(kind, true, reason, message);
        }
    }

    /// The list to be written.
    pub fn into_list(self) -> Vec<HorizontalPodAutoscalerCondition> {
        self.list
    }
}
