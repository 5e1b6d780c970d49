//! Probes and lifecycle hooks of a container.

use machinery::status::FieldError;

use super::containers::PodView;
use crate::kinds::at::At;
use crate::kinds::checks::Errors;

const PROBE_HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];
const HOOK_HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "sleep"];
const WINDOWS_SIGNALS: [&str; 2] = ["SIGKILL", "SIGTERM"];

/// All probes and hooks.
pub fn all(container: &At<'_, '_>, view: &PodView<'_>, errors: &mut Errors) {
    let lifecycle = container.get("lifecycle");
    for name in ["postStart", "preStop"] {
        let hook = lifecycle.get(name);
        if hook.is_set() {
            handler(&hook, &HOOK_HANDLERS, errors);
            sleep(&hook.get("sleep"), view.grace_secs, errors);
        }
    }
    stop_signal(&lifecycle.get("stopSignal"), &view.os, errors);
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = container.get(name);
        if probe.is_set() {
            handler(&probe, &PROBE_HANDLERS, errors);
            thresholds(&probe, name, errors);
        }
    }
}

fn thresholds(probe: &At<'_, '_>, name: &str, errors: &mut Errors) {
    let (successes, grace) = (probe.get("successThreshold"), probe.get("terminationGracePeriodSeconds"));
    if name == "readinessProbe" {
        if grace.is_set() {
            let detail = "must not be set for readinessProbes";
            errors.push(FieldError::invalid(&grace, grace.value.clone(), detail));
        }
    } else if successes.int().unwrap_or_default() != 1 {
        errors.push(FieldError::invalid(&successes, successes.int().unwrap_or_default(), "must be 1"));
    }
}

/// Exactly one handler.
fn handler(at: &At<'_, '_>, handlers: &[&str], errors: &mut Errors) {
    let set: Vec<&&str> = handlers.iter().filter(|name| at.get(name).is_set()).collect();
    for extra in set.iter().skip(1) {
        errors.push(FieldError::forbidden(&at.get(extra), "may not specify more than 1 handler type"));
    }
    if set.is_empty() {
        errors.push(FieldError::required(at, "must specify a handler type"));
    }
}

fn sleep(at: &At<'_, '_>, grace_secs: Option<i64>, errors: &mut Errors) {
    let (Some(grace), true) = (grace_secs, at.is_set()) else { return };
    let secs = at.get("seconds").int().unwrap_or_default();
    if !(0..=grace).contains(&secs) {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.push(FieldError::invalid(at, secs, detail));
    }
}

fn stop_signal(at: &At<'_, '_>, os: &str, errors: &mut Errors) {
    if !at.is_set() {
        return;
    }
    match os {
        "" => {
            errors.push(FieldError::forbidden(at, "may not be set for containers with empty `spec.os.name`"))
        }
        "windows" if !WINDOWS_SIGNALS.contains(&at.text()) => {
            errors.push(FieldError::not_supported(at, at.text(), &WINDOWS_SIGNALS));
        }
        _ => {}
    }
}
