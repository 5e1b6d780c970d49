//! Whether a container that is not running is started (again).

use k8s_openapi::api::core::v1::{Container as ContainerSpec, ContainerRestartRule, Pod};

use super::observed::{Container, Observed, State};
use super::spec;

/// True if policy and rules want a container with this exit code to run again.
pub fn policy_restarts(container: &ContainerSpec, pod: &Pod, exit_code: i32) -> bool {
    if let Some(policy) = container.restart_policy.as_deref() {
        let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
        return rules.iter().any(|rule| rule_matches(rule, exit_code)) || by_policy(policy, exit_code);
    }
    by_policy(spec::restart_policy(pod), exit_code)
}

fn by_policy(policy: &str, exit_code: i32) -> bool {
    match policy {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

fn rule_matches(rule: &ContainerRestartRule, exit_code: i32) -> bool {
    let Some(codes) = &rule.exit_codes else { return false };
    let listed = codes.values.as_deref().unwrap_or_default().contains(&exit_code);
    match codes.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    }
}

/// True if the container must be started: it never ran, has no certain state, or its policy says so.
pub fn should_start(container: &ContainerSpec, pod: &Pod, latest: Option<&Container>) -> bool {
    if pod.metadata.deletion_timestamp.is_some() {
        return false;
    }
    let Some(latest) = latest else { return true };
    match latest.state {
        State::Running => false,
        State::Created | State::Unknown => true,
        State::Exited => policy_restarts(container, pod, latest.exit_code),
    }
}

/// True if the newest container of that name ended with 0.
pub fn succeeded(name: &str, observed: &Observed) -> bool {
    observed.latest(name).is_some_and(|c| c.state == State::Exited && c.exit_code == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pod_policy: &str, container: serde_json::Value, exit_code: i32, expected: bool) {
        let pod: Pod = serde_json::from_value(
            serde_json::json!({"spec": {"restartPolicy": pod_policy, "containers": []}}),
        )
        .expect("a pod");
        let container: ContainerSpec = serde_json::from_value(container).expect("a container");
        assert_eq!(policy_restarts(&container, &pod, exit_code), expected, "{pod_policy} {container:?}");
    }

    #[test]
    fn policies_and_rules() {
        use serde_json::json;
        let plain = json!({"name": "c"});
        check("Always", plain.clone(), 0, true);
        check("OnFailure", plain.clone(), 0, false);
        check("OnFailure", plain.clone(), 3, true);
        check("Never", plain, 3, false);
        let rules = json!({"name": "c", "restartPolicy": "Never", "restartPolicyRules":
            [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]});
        check("Always", rules.clone(), 42, true);
        check("Always", rules, 1, false);
        let not_in = json!({"name": "c", "restartPolicy": "Never", "restartPolicyRules":
            [{"action": "Restart", "exitCodes": {"operator": "NotIn", "values": [1]}}]});
        check("Never", not_in.clone(), 1, false);
        check("Never", not_in, 2, true);
    }
}
