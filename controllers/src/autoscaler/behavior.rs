//! How far and how fast a recommendation may be followed: windows over which the calmer of recent recommendations
//! counts, policies that limit the change within a period, and the limits of the autoscaler itself.

use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerSpec};

use super::conditions::Conditions;
use crate::options::AutoscalerOptions;

/// The longest window the API allows; nothing is remembered for longer.
const MEMORY: Duration = Duration::from_secs(3600);

/// What happened to one autoscaler lately. Times are since the process began.
#[derive(Debug, Default)]
pub struct History {
    recommended: Vec<(Duration, i32)>,
    changed: Vec<(Duration, i32)>,
}

impl History {
    /// Remembers a change of the replicas.
    pub fn changed(&mut self, by: i32, at: Duration) {
        self.changed.push((at, by));
    }

    fn recommend(&mut self, replicas: i32, now: Duration) {
        self.recommended.retain(|(at, _)| now.saturating_sub(*at) <= MEMORY);
        self.changed.retain(|(at, _)| now.saturating_sub(*at) <= MEMORY);
        self.recommended.push((now, replicas));
    }

    fn within(&self, window: Duration, now: Duration) -> impl Iterator<Item = i32> + '_ {
        self.recommended
            .iter()
            .filter(move |(at, _)| now.saturating_sub(*at) < window)
            .map(|(_, replicas)| *replicas)
    }

    /// Replicas added (or, with `down`, removed) within a period.
    fn moved(&self, period: Duration, now: Duration, down: bool) -> i32 {
        let recent = self.changed.iter().filter(|(at, _)| now.saturating_sub(*at) < period);
        recent.map(|(_, by)| if down { (-by).max(0) } else { (*by).max(0) }).sum()
    }
}

fn policy(kind: &str, value: i32, period_seconds: i32) -> HPAScalingPolicy {
    HPAScalingPolicy { type_: kind.into(), value, period_seconds }
}

/// Rules with the API's defaults filled in.
struct Rules {
    window: Duration,
    policies: Vec<HPAScalingPolicy>,
    select: String,
}

fn rules(given: Option<&HPAScalingRules>, window: Duration, policies: Vec<HPAScalingPolicy>) -> Rules {
    let secs =
        given.and_then(|rules| rules.stabilization_window_seconds).and_then(|secs| u64::try_from(secs).ok());
    Rules {
        window: secs.map_or(window, Duration::from_secs),
        policies: given.and_then(|rules| rules.policies.clone()).unwrap_or(policies),
        select: given.and_then(|rules| rules.select_policy.clone()).unwrap_or_else(|| "Max".into()),
    }
}

/// The most replicas there may be now, by the rules for scaling up.
fn up_limit(rules: &Rules, current: i32, history: &History, now: Duration) -> i32 {
    if rules.select == "Disabled" {
        return current;
    }
    let limits = rules.policies.iter().map(|policy| {
        let period = Duration::from_secs(u64::try_from(policy.period_seconds).unwrap_or(0));
        let start = current - history.moved(period, now, false) + history.moved(period, now, true);
        match policy.type_.as_str() {
            "Pods" => start.saturating_add(policy.value),
            _ => (f64::from(start) * (1.0 + f64::from(policy.value) / 100.0)).ceil() as i32,
        }
    });
    let picked = if rules.select == "Min" { limits.min() } else { limits.max() };
    picked.unwrap_or(current).max(current)
}

/// The fewest replicas there may be now, by the rules for scaling down.
fn down_limit(rules: &Rules, current: i32, history: &History, now: Duration) -> i32 {
    if rules.select == "Disabled" {
        return current;
    }
    let limits = rules.policies.iter().map(|policy| {
        let period = Duration::from_secs(u64::try_from(policy.period_seconds).unwrap_or(0));
        let start = current + history.moved(period, now, true) - history.moved(period, now, false);
        match policy.type_.as_str() {
            "Pods" => start - policy.value,
            _ => (f64::from(start) * (1.0 - f64::from(policy.value) / 100.0)) as i32,
        }
    });
    let picked = if rules.select == "Min" { limits.max() } else { limits.min() };
    picked.unwrap_or(current).min(current)
}

/// What becomes of a proposal.
pub fn apply(
    spec: &HorizontalPodAutoscalerSpec,
    current: i32,
    proposed: i32,
    history: &mut History,
    now: Duration,
    options: &AutoscalerOptions,
    conditions: &mut Conditions,
) -> i32 {
    let behavior = spec.behavior.as_ref();
    let up = rules(
        behavior.and_then(|behavior| behavior.scale_up.as_ref()),
        Duration::ZERO,
        vec![policy("Percent", 100, 15), policy("Pods", 4, 15)],
    );
    let down = rules(
        behavior.and_then(|behavior| behavior.scale_down.as_ref()),
        options.downscale_stabilization,
        vec![policy("Percent", 100, 15)],
    );
    history.recommend(proposed, now);
    let stable = stabilize(current, proposed, history, now, &up, &down, conditions);
    limit(spec, current, stable, history, now, &up, &down, conditions)
}

fn stabilize(
    current: i32,
    proposed: i32,
    history: &History,
    now: Duration,
    up: &Rules,
    down: &Rules,
    conditions: &mut Conditions,
) -> i32 {
    let lowest = history.within(up.window, now).min().unwrap_or(proposed).min(proposed);
    let highest = history.within(down.window, now).max().unwrap_or(proposed).max(proposed);
    let stable = current.max(lowest).min(highest);
    if stable == proposed {
        let told = "recommended size matches current size";
        conditions.set("AbleToScale", true, "ReadyForNewScale", told);
    } else if proposed < stable {
        let told =
            "recent recommendations were higher than current one, applying the highest recent recommendation";
        conditions.set("AbleToScale", true, "ScaleDownStabilized", told);
    } else {
        let told =
            "recent recommendations were lower than current one, applying the lowest recent recommendation";
        conditions.set("AbleToScale", true, "ScaleUpStabilized", told);
    }
    stable
}

#[allow(clippy::too_many_arguments, reason = "each is one fact of the decision, and there is one caller")]
fn limit(
    spec: &HorizontalPodAutoscalerSpec,
    current: i32,
    wanted: i32,
    history: &History,
    now: Duration,
    up: &Rules,
    down: &Rules,
    conditions: &mut Conditions,
) -> i32 {
    let (least, most) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
    let within = "the desired count is within the acceptable range";
    if wanted > current {
        let pace = up_limit(up, current, history, now);
        let (bound, reason, told) = if most <= pace {
            (most, "TooManyReplicas", "the desired replica count is more than the maximum replica count")
        } else {
            (
                pace,
                "ScaleUpLimit",
                "the desired replica count is increasing faster than the maximum scale rate",
            )
        };
        if wanted > bound {
            conditions.set("ScalingLimited", true, reason, told);
            return bound;
        }
    } else if wanted < current {
        let pace = down_limit(down, current, history, now);
        let (bound, reason, told) = if least >= pace {
            (least, "TooFewReplicas", "the desired replica count is less than the minimum replica count")
        } else {
            (
                pace,
                "ScaleDownLimit",
                "the desired replica count is decreasing faster than the maximum scale rate",
            )
        };
        if wanted < bound {
            conditions.set("ScalingLimited", true, reason, told);
            return bound;
        }
    }
    conditions.set("ScalingLimited", false, "DesiredWithinRange", within);
    wanted.clamp(least.min(most), most)
}
