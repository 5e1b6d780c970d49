//! Cells of pods: readiness, the one-word status, restarts. Pure.

use jiff::Timestamp;
use machinery::time::parse_rfc3339;
use serde_json::{Value, json};

use super::cells::{age_of, at, condition, has_condition, int, list, or, text};

/// What the status columns show.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub ready: usize,
    pub total: usize,
    pub status: String,
    pub restarts: i64,
    /// RFC 3339, empty when nothing has restarted.
    pub last_restart: String,
}

fn is_restartable(pod: &Value, name: &str) -> bool {
    list(pod, "spec.initContainers").iter().any(|c| c["name"] == name && c["restartPolicy"] == "Always")
}

fn later<'a>(a: &'a str, b: &'a str) -> &'a str {
    match (parse_rfc3339(a), parse_rfc3339(b)) {
        (Ok(x), Ok(y)) if x >= y => a,
        (Ok(_), Err(_)) => a,
        _ => b,
    }
}

/// How a container ended, in one word.
fn ended(terminated: &Value, prefix: &str) -> String {
    match text(terminated, "reason") {
        "" if int(terminated, "signal") != 0 => format!("{prefix}Signal:{}", int(terminated, "signal")),
        "" => format!("{prefix}ExitCode:{}", int(terminated, "exitCode")),
        reason => format!("{prefix}{reason}"),
    }
}

/// Everything that the columns say about a pod's containers.
pub fn summary(pod: &Value) -> Summary {
    let phase = text(pod, "status.phase");
    let mut out = Summary {
        total: list(pod, "spec.containers").len()
            + list(pod, "spec.initContainers").iter().filter(|c| c["restartPolicy"] == "Always").count(),
        status: or(text(pod, "status.reason"), phase).to_owned(),
        ..Summary::default()
    };
    if condition(pod, "PodScheduled").is_some_and(|c| c["reason"] == "SchedulingGated") {
        "SchedulingGated".clone_into(&mut out.status);
    }
    let (initializing, sidecars) = init_containers(pod, &mut out);
    if !initializing || has_condition(pod, "Initialized") {
        (out.restarts, out.last_restart) = sidecars;
        containers(pod, &mut out);
    }
    let deleting = !at(pod, "metadata.deletionTimestamp").is_null();
    if deleting && text(pod, "status.reason") == "NodeLost" {
        "Unknown".clone_into(&mut out.status);
    } else if deleting && !matches!(phase, "Succeeded" | "Failed") {
        "Terminating".clone_into(&mut out.status);
    }
    out
}

fn count_restarts(status: &Value, restarts: &mut i64, last: &mut String) {
    *restarts += int(status, "restartCount");
    *last = later(last, text(status, "lastState.terminated.finishedAt")).to_owned();
}

/// Whether initialization is still going on, and the restarts of restartable init containers alone.
fn init_containers(pod: &Value, out: &mut Summary) -> (bool, (i64, String)) {
    let mut sidecars = (0, String::new());
    let total = list(pod, "spec.initContainers").len();
    for (i, status) in list(pod, "status.initContainerStatuses").iter().enumerate() {
        let restartable = is_restartable(pod, text(status, "name"));
        count_restarts(status, &mut out.restarts, &mut out.last_restart);
        if restartable {
            count_restarts(status, &mut sidecars.0, &mut sidecars.1);
        }
        let terminated = at(status, "state.terminated");
        if terminated.is_object() && int(terminated, "exitCode") == 0 {
            continue;
        }
        if restartable && status["started"] == true {
            out.ready += usize::from(status["ready"] == true);
            continue;
        }
        let waiting = text(status, "state.waiting.reason");
        out.status = if terminated.is_object() {
            ended(terminated, "Init:")
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{i}/{total}")
        };
        return (true, sidecars);
    }
    (false, sidecars)
}

fn containers(pod: &Value, out: &mut Summary) {
    let mut running = false;
    let mut failure = String::new();
    for status in list(pod, "status.containerStatuses").iter().rev() {
        count_restarts(status, &mut out.restarts, &mut out.last_restart);
        let terminated = at(status, "state.terminated");
        match text(status, "state.waiting.reason") {
            "" if terminated.is_object() => {
                out.status = ended(terminated, "");
                if int(terminated, "exitCode") != 0 {
                    failure.clone_from(&out.status);
                }
            }
            "" => {
                if status["ready"] == true && at(status, "state.running").is_object() {
                    running = true;
                    out.ready += 1;
                }
            }
            waiting => waiting.clone_into(&mut out.status),
        }
    }
    if out.status == "Completed" {
        if running && has_condition(pod, "Ready") {
            "Running".clone_into(&mut out.status);
        } else if !failure.is_empty() {
            out.status = failure;
        } else if running {
            "NotReady".clone_into(&mut out.status);
        }
    }
}

/// `2 (5m ago)`
pub fn restarts(pod: &Value, now: Timestamp) -> String {
    let summary = summary(pod);
    if summary.restarts == 0 || summary.last_restart.is_empty() {
        return summary.restarts.to_string();
    }
    format!("{} ({} ago)", summary.restarts, age_of(&summary.last_restart, now))
}

pub fn readiness_gates(pod: &Value) -> String {
    let gates = list(pod, "spec.readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates.iter().filter(|g| has_condition(pod, text(g, "conditionType"))).count();
    format!("{open}/{}", gates.len())
}

/// Marks rows of pods that have ended, which kubectl's printers can hide.
pub fn row_conditions(pod: &Value) -> Option<Value> {
    let (reason, message) = match text(pod, "status.phase") {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pod: &Value, expected: &str) {
        let s = summary(pod);
        assert_eq!(format!("{}/{} {} {}", s.ready, s.total, s.status, s.restarts), expected);
    }

    #[test]
    fn one_word_for_each_state() {
        let spec = json!({"containers":[{"name":"a"}],"initContainers":[{"name":"i"}]});
        let with = |status: Value| json!({"metadata":{},"spec":spec,"status":status});
        check(&with(json!({"phase":"Pending"})), "0/1 Pending 0");
        check(
            &with(
                json!({"phase":"Pending","initContainerStatuses":[{"name":"i","state":{"waiting":{"reason":"PodInitializing"}}}]}),
            ),
            "0/1 Init:0/1 0",
        );
        let done = json!([{"name":"i","state":{"terminated":{"exitCode":0}}}]);
        check(
            &with(json!({"phase":"Running","initContainerStatuses":done,
                "containerStatuses":[{"ready":true,"restartCount":2,"state":{"running":{}}}]})),
            "1/1 Running 2",
        );
        check(
            &with(json!({"phase":"Running","initContainerStatuses":done,
                "containerStatuses":[{"restartCount":1,"state":{"waiting":{"reason":"CrashLoopBackOff"}}}]})),
            "0/1 CrashLoopBackOff 1",
        );
        check(
            &with(json!({"phase":"Failed","initContainerStatuses":done,
                "containerStatuses":[{"state":{"terminated":{"exitCode":3}}}]})),
            "0/1 ExitCode:3 0",
        );
        let mut deleting = with(json!({"phase":"Running"}));
        deleting["metadata"]["deletionTimestamp"] = "t".into();
        check(&deleting, "0/1 Terminating 0");
    }
}
