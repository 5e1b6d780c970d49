//! Whether a container that is not running is started (again).

use k8s_openapi::api::core::v1::{
    Container as ContainerSpec, ContainerRestartRule, ContainerStatus, Pod, PodStatus,
};

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

/// The action of a rule that restarts the whole pod in place.
const RESTART_ALL: &str = "RestartAllContainers";

/// True if some rule of the pod can restart all of its containers in place.
pub fn may_restart_all(pod: &Pod) -> bool {
    let rules =
        |c: &ContainerSpec| c.restart_policy_rules.iter().flatten().any(|rule| rule.action == RESTART_ALL);
    spec::init_containers(pod).iter().chain(spec::containers(pod)).any(rules)
}

/// True if a container that ended with this code asks for all to be restarted: the first rule that fits decides.
fn asks_for_all(container: &ContainerSpec, exit_code: i32) -> bool {
    let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
    rules.iter().find(|rule| rule_matches(rule, exit_code)).is_some_and(|rule| rule.action == RESTART_ALL)
}

/// True if this container of the runtime has ended and asks for all to be restarted.
pub fn wants_all(pod: &Pod, container: &Container) -> bool {
    let specs = spec::init_containers(pod).iter().chain(spec::containers(pod));
    container.state == State::Exited
        && specs.filter(|c| c.name == container.name).any(|c| asks_for_all(c, container.exit_code))
}

/// True while a pod is to be restarted in place: the newest container of some name asks for it. Such containers are
/// removed last, so that the wish outlives a restart of the agent.
pub fn restarts_all(pod: &Pod, observed: &Observed) -> bool {
    may_restart_all(pod)
        && observed
            .containers
            .iter()
            .any(|c| wants_all(pod, c) && observed.latest(&c.name).is_some_and(|newest| newest.id == c.id))
}

/// The same by what was reported last: still true when the last container has just been removed.
pub fn reported_restart_of_all(pod: &Pod, reported: &PodStatus) -> bool {
    let ended = |s: &ContainerStatus| {
        let state = s.state.as_ref()?.terminated.as_ref()?;
        let mut specs = spec::init_containers(pod).iter().chain(spec::containers(pod));
        specs.find(|c| c.name == s.name).map(|c| asks_for_all(c, state.exit_code))
    };
    let lists = reported.init_container_statuses.iter().chain(&reported.container_statuses);
    may_restart_all(pod) && lists.flatten().any(|s| ended(s) == Some(true))
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

    #[test]
    fn the_first_rule_that_fits_decides_about_all() {
        let rule = |action: &str, values: &[i32]| serde_json::json!({"action": action, "exitCodes": {"operator": "In", "values": values}});
        let container: ContainerSpec = serde_json::from_value(serde_json::json!({"name": "c",
            "restartPolicyRules": [rule("Restart", &[1]), rule(RESTART_ALL, &[1, 42])]}))
        .expect("a container");
        let asked: Vec<bool> = [0, 1, 42].map(|code| asks_for_all(&container, code)).into();
        assert_eq!(asked, [false, false, true]);
    }
}
