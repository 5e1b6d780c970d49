//! Cells of jobs and autoscalers. Pure.

use jiff::Timestamp;
use machinery::time::{duration::human as human_duration, parse_rfc3339};
use serde_json::Value;

use super::cells::{has_condition, int, list, text};

pub fn job_status(job: &Value) -> &'static str {
    let conditions =
        [("Complete", "Complete"), ("Failed", "Failed")].into_iter().find(|(t, _)| has_condition(job, t));
    if let Some((_, status)) = conditions {
        return status;
    }
    if !job["metadata"]["deletionTimestamp"].is_null() {
        return "Terminating";
    }
    let later = ["Suspended", "FailureTarget", "SuccessCriteriaMet"];
    later.into_iter().find(|t| has_condition(job, t)).unwrap_or("Running")
}

pub fn job_completions(job: &Value) -> String {
    let succeeded = int(job, "status.succeeded");
    if let Some(wanted) = job["spec"]["completions"].as_i64() {
        return format!("{succeeded}/{wanted}");
    }
    match int(job, "spec.parallelism") {
        many if many > 1 => format!("{succeeded}/1 of {many}"),
        _ => format!("{succeeded}/1"),
    }
}

pub fn job_duration(job: &Value, now: Timestamp) -> String {
    let Ok(start) = parse_rfc3339(text(job, "status.startTime")) else { return String::new() };
    let end = parse_rfc3339(text(job, "status.completionTime")).unwrap_or(now);
    human_duration(end.as_second() - start.as_second())
}

/// `cpu: 10%/50%, mem: …`
pub fn autoscaler_targets(autoscaler: &Value) -> String {
    let metrics = list(autoscaler, "spec.metrics");
    if metrics.is_empty() {
        return "<none>".to_owned();
    }
    let current = list(autoscaler, "status.currentMetrics");
    let all: Vec<String> = metrics.iter().enumerate().map(|(i, m)| target(m, current.get(i))).collect();
    let shown = all.iter().take(2).cloned().collect::<Vec<_>>().join(", ");
    if all.len() > 2 { format!("{shown} + {} more...", all.len() - 2) } else { shown }
}

fn target(metric: &Value, current: Option<&Value>) -> String {
    let source = match text(metric, "type") {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let spec = &metric[source];
    let now = current.map_or(&Value::Null, |c| &c[source]["current"]);
    let quantity = |v: &Value, field: &str| v[field].as_str().map(str::to_owned);
    let percent = |v: &Value| v["averageUtilization"].as_i64().map(|p| format!("{p}%"));
    let unknown = || "<unknown>".to_owned();
    let is_resource = matches!(source, "resource" | "containerResource");
    let body = if let Some(wanted) = quantity(&spec["target"], "averageValue") {
        let average = if source == "external" || source == "object" { " (avg)" } else { "" };
        format!("{}/{wanted}{average}", quantity(now, "averageValue").unwrap_or_else(unknown))
    } else if is_resource {
        let wanted = percent(&spec["target"]).unwrap_or_else(|| "<auto>".to_owned());
        format!("{}/{wanted}", percent(now).unwrap_or_else(unknown))
    } else {
        let wanted = quantity(&spec["target"], "value").unwrap_or_default();
        format!("{}/{wanted}", quantity(now, "value").unwrap_or_else(unknown))
    };
    if is_resource { format!("{}: {body}", text(spec, "name")) } else { body }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn jobs() {
        let job = json!({"metadata":{},"spec":{"completions":3},"status":{"succeeded":1,
            "startTime":"2026-01-01T00:00:00Z","completionTime":"2026-01-01T00:01:30Z"}});
        let cells = (job_status(&job), job_completions(&job), job_duration(&job, Timestamp::UNIX_EPOCH));
        assert_eq!(cells, ("Running", "1/3".into(), "90s".into()));
    }

    #[test]
    fn autoscalers() {
        let target = json!({"type":"Utilization","averageUtilization":50});
        let hpa = json!({"spec":{"metrics":[{"type":"Resource","resource":{"name":"cpu","target":target}}]}});
        assert_eq!(autoscaler_targets(&hpa), "cpu: <unknown>/50%");
    }
}
