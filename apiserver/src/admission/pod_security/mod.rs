//! PodSecurity: pods must keep to the standard that their namespace's labels ask for; templates only warn.
//!
//! Audit findings have nowhere to go until there is an audit log.

pub mod checks;

use async_trait::async_trait;
use machinery::status::{FieldError, StatusError};
use serde_json::Value;

use super::plugin::Plugin;
use crate::contract::{Admission, Object, Operation};
use crate::kinds::json::{at, items, text};
use checks::{Finding, Pod, evaluate};

const LABEL: &str = "pod-security.kubernetes.io/";
/// The policy version of this release, which `latest` stands for.
const LATEST: u32 = 36;
/// Pods looked at when a namespace's level rises.
const PODS_MAX: usize = 3000;
const IGNORED_SUBRESOURCES: [&str; 8] =
    ["attach", "binding", "eviction", "exec", "log", "portforward", "proxy", "status"];
/// Where kinds keep their pod template.
const TEMPLATES: [(&str, &str, &[&str]); 8] = [
    ("", "replicationcontrollers", &["spec", "template"]),
    ("", "podtemplates", &["template"]),
    ("apps", "replicasets", &["spec", "template"]),
    ("apps", "deployments", &["spec", "template"]),
    ("apps", "statefulsets", &["spec", "template"]),
    ("apps", "daemonsets", &["spec", "template"]),
    ("batch", "jobs", &["spec", "template"]),
    ("batch", "cronjobs", &["spec", "jobTemplate", "spec", "template"]),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// A level at a version; no minor means `latest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standard {
    level: Level,
    minor: Option<u32>,
}

impl std::fmt::Display for Standard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.minor {
            Some(minor) => write!(f, "{level}:v1.{minor}"),
            None => write!(f, "{level}:latest"),
        }
    }
}

impl Standard {
    fn findings(self, meta: &Value, spec: &Value) -> Vec<Finding> {
        if self.level == Level::Privileged {
            return Vec::new();
        }
        let minor = self.minor.unwrap_or(LATEST);
        evaluate(self.level == Level::Restricted, &Pod { meta, spec, minor })
    }
}

/// What a namespace asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Policy {
    enforce: Standard,
    warn: Standard,
}

/// The policy of the labels, and which labels do not parse; those count as upstream counts them.
fn policy(namespace: &Object) -> (Policy, Vec<FieldError>) {
    let mut errors = Vec::new();
    let label = |name: &str| at(namespace, &["metadata", "labels", &format!("{LABEL}{name}")]).as_str();
    let mut level = |name: &str, otherwise: Level| {
        let value = label(name)?;
        Some(parse_level(value).map_err(|why| errors.push(bad_label(name, value, why))).unwrap_or(otherwise))
    };
    let enforce_level = level("enforce", Level::Restricted);
    level("audit", Level::Privileged);
    let warn_level = level("warn", Level::Privileged);
    let mut version = |name: &str| {
        let value = label(name)?;
        Some(parse_version(value).map_err(|why| errors.push(bad_label(name, value, why))).unwrap_or(None))
    };
    let enforce_version = version("enforce-version");
    version("audit-version");
    let warn_version = version("warn-version");
    let enforce = Standard {
        level: enforce_level.unwrap_or(Level::Privileged),
        minor: enforce_version.unwrap_or(None),
    };
    let mut warn =
        Standard { level: warn_level.unwrap_or(Level::Privileged), minor: warn_version.unwrap_or(None) };
    let enforce_is_valid = label("enforce").is_some_and(|value| parse_level(value).is_ok());
    if warn_level.is_none() && enforce_is_valid && enforce.level > warn.level {
        warn.level = enforce.level;
        warn.minor = warn_version.unwrap_or(enforce.minor);
    }
    (Policy { enforce, warn }, errors)
}

fn bad_label(name: &str, value: &str, why: &'static str) -> FieldError {
    FieldError::invalid(&format!("metadata.labels[{LABEL}{name}]"), value, why)
}

fn parse_level(text: &str) -> Result<Level, &'static str> {
    match text {
        "privileged" => Ok(Level::Privileged),
        "baseline" => Ok(Level::Baseline),
        "restricted" => Ok(Level::Restricted),
        _ => Err("must be one of privileged, baseline, restricted"),
    }
}

fn parse_version(text: &str) -> Result<Option<u32>, &'static str> {
    let minor = || {
        let digits = text.strip_prefix("v1.")?;
        let canonical = digits == "0" || !digits.starts_with('0');
        digits.parse().ok().filter(|_| canonical && digits.chars().all(|c| c.is_ascii_digit()))
    };
    match text {
        "latest" => Ok(None),
        _ => minor().map(Some).ok_or("must be \"latest\" or \"v1.x\""),
    }
}

fn detail(findings: &[Finding]) -> String {
    let parts: Vec<String> = findings
        .iter()
        .map(
            |(reason, detail)| {
                if detail.is_empty() { (*reason).to_owned() } else { format!("{reason} ({detail})") }
            },
        )
        .collect();
    parts.join(", ")
}

/// The step.
pub struct PodSecurity;

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    async fn validate(&self, request: &Admission<'_>) -> Result<(), StatusError> {
        if !matches!(request.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        let info = &request.ctx.info;
        match (info.group.as_str(), info.resource.as_str(), info.subresource.as_str()) {
            ("", "namespaces", "") => check_namespace(request).await,
            ("", "pods", subresource) if !IGNORED_SUBRESOURCES.contains(&subresource) => {
                check_pod(request).await
            }
            (group, resource, "") => {
                let row = TEMPLATES.iter().find(|row| (row.0, row.1) == (group, resource));
                if let Some((_, _, path)) = row {
                    warn_about(request, at(request.new_object(), path)).await;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// The namespace's policy. Without its namespace nobody knows what a pod may do.
async fn namespace_policy(request: &Admission<'_>) -> Result<Policy, StatusError> {
    let name = &request.ctx.info.namespace;
    let unknown = || {
        let name = machinery::gotext::quote(name);
        StatusError::internal(format!("failed to lookup namespace {name}"))
    };
    let namespace = request.ctx.cluster.find("", "namespaces", "", name).await?.ok_or_else(unknown)?;
    Ok(policy(&namespace).0)
}

async fn check_pod(request: &Admission<'_>) -> Result<(), StatusError> {
    let pod = request.new_object();
    let unchanged = request.old.is_some_and(|old| !images_changed(pod, old));
    if unchanged && request.operation == Operation::Update {
        return Ok(());
    }
    let policy = namespace_policy(request).await?;
    let (meta, spec) = (at(pod, &["metadata"]), at(pod, &["spec"]));
    let found = policy.enforce.findings(meta, spec);
    if !found.is_empty() {
        let why = format!("violates PodSecurity \"{}\": {}", policy.enforce, detail(&found));
        return Err(request.forbidden(why));
    }
    warn(request, policy, meta, spec);
    Ok(())
}

async fn warn_about(request: &Admission<'_>, template: &Value) {
    // Only a warning: its pods are checked when they come.
    if !template.is_null()
        && let Ok(policy) = namespace_policy(request).await
    {
        warn(request, policy, at(template, &["metadata"]), at(template, &["spec"]));
    }
}

fn warn(request: &Admission<'_>, policy: Policy, meta: &Value, spec: &Value) {
    let found = policy.warn.findings(meta, spec);
    if !found.is_empty() {
        request.ctx.warn(format!("would violate PodSecurity \"{}\": {}", policy.warn, detail(&found)));
    }
}

/// Whether an update could matter: another image, or more or fewer containers.
fn images_changed(new: &Object, old: &Object) -> bool {
    let image = |container: &Value| text(container, &["image"]).to_owned();
    let lists = ["containers", "initContainers"];
    let changed = lists.iter().any(|list| {
        let (new, old) = (items(new, &["spec", list]), items(old, &["spec", list]));
        new.len() != old.len() || new.iter().zip(old).any(|(new, old)| image(new) != image(old))
    });
    changed
        || items(new, &["spec", "ephemeralContainers"]).iter().any(|container| {
            let name = text(container, &["name"]);
            let before =
                items(old, &["spec", "ephemeralContainers"]).iter().find(|old| text(old, &["name"]) == name);
            before.is_none_or(|before| image(before) != image(container))
        })
}

async fn check_namespace(request: &Admission<'_>) -> Result<(), StatusError> {
    let namespace = request.new_object();
    let (new, errors) = policy(namespace);
    let name = text(namespace, &["metadata", "name"]);
    let before = request.old.map(policy);
    if !errors.is_empty() && before.as_ref().is_none_or(|(_, old)| *old != errors) {
        return Err(StatusError::invalid("", "Namespace", name, errors));
    }
    let Some((old, _)) = before else { return Ok(()) };
    let relaxed = new.enforce.minor == old.enforce.minor && new.enforce.level <= old.enforce.level;
    if new.enforce == old.enforce || new.enforce.level == Level::Privileged || relaxed {
        return Ok(());
    }
    let pods = request.ctx.cluster.list("", "pods", name).await?;
    if pods.len() > PODS_MAX {
        let total = pods.len();
        request.ctx.warn(format!(
            "new PodSecurity enforce level only checked against the first {PODS_MAX} of {total} existing pods"
        ));
    }
    let pods = pods.iter().take(PODS_MAX).filter_map(|pod| {
        let found = new.enforce.findings(at(pod, &["metadata"]), at(pod, &["spec"]));
        let reasons: Vec<&str> = found.iter().map(|(reason, _)| *reason).collect();
        (!reasons.is_empty()).then(|| (reasons.join(", "), text(pod, &["metadata", "name"]).to_owned()))
    });
    let warnings = by_reason(pods.collect());
    if !warnings.is_empty() {
        let level = new.enforce;
        request.ctx.warn(format!(
            "existing pods in namespace \"{name}\" violate the new PodSecurity enforce level \"{level}\""
        ));
    }
    warnings.into_iter().for_each(|warning| request.ctx.warn(warning));
    Ok(())
}

/// `pod (and 2 other pods): reasons`, one for all pods with the same reasons.
fn by_reason(pods: Vec<(String, String)>) -> Vec<String> {
    let mut groups: std::collections::BTreeMap<String, Vec<String>> = std::collections::BTreeMap::new();
    for (reasons, name) in pods {
        groups.entry(reasons).or_default().push(name);
    }
    let mut warnings: Vec<String> = groups
        .into_iter()
        .filter_map(|(reasons, names)| {
            let first = names.iter().min()?.clone();
            Some(match names.len() {
                1 => format!("{first}: {reasons}"),
                2 => format!("{first} (and 1 other pod): {reasons}"),
                count => format!("{first} (and {} other pods): {reasons}", count - 1),
            })
        })
        .collect();
    warnings.sort_unstable();
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn policies_of_labels() {
        let check = |labels: Value, enforce: &str, warn: &str, wrong: usize| {
            let mut prefixed = json!({});
            for (name, value) in labels.as_object().unwrap() {
                prefixed[format!("{LABEL}{name}")] = value.clone();
            }
            let (policy, errors) = policy(&json!({"metadata": {"labels": prefixed}}));
            assert_eq!((policy.enforce.to_string(), policy.warn.to_string()), (enforce.into(), warn.into()));
            assert_eq!(errors.len(), wrong, "{labels}");
        };
        check(json!({}), "privileged:latest", "privileged:latest", 0);
        check(
            json!({"enforce": "baseline", "enforce-version": "v1.20"}),
            "baseline:v1.20",
            "baseline:v1.20",
            0,
        );
        check(
            json!({"enforce": "baseline", "warn": "restricted"}),
            "baseline:latest",
            "restricted:latest",
            0,
        );
        check(json!({"enforce": "odd", "warn-version": "v2"}), "restricted:latest", "privileged:latest", 2);
    }

    #[test]
    fn pods_with_the_same_reasons_are_counted() {
        let pods = vec![
            ("x".to_owned(), "b".to_owned()),
            ("x".to_owned(), "a".to_owned()),
            ("y".to_owned(), "c".to_owned()),
        ];
        assert_eq!(by_reason(pods), ["a (and 1 other pod): x", "c: y"]);
    }
}
