//! Event, in the words of `v1` and of `events.k8s.io/v1`.
//!
//! Both speak of one stored object; errors carry the internal names of fields, as upstream's do.

use machinery::names;
use machinery::resources::split_api_version;
use machinery::status::FieldError;
use serde_json::Value;

use super::at::At;
use super::checks::{Errors, IMMUTABLE};
use super::json::{at, has, is_set, same, text};
use super::kind::Kind;
use crate::contract::{Object, RequestContext};

const SHORT_MAX: usize = 128;
const NOTE_MAX: usize = 1024;

/// The rows of this kind.
pub const KINDS: &[Kind] = &[
    Kind { check, name: any_name, ..Kind::new("", "events") },
    Kind { check, name: any_name, ..Kind::new("events.k8s.io", "events") },
];

/// Events are exempt from the rule for names, except that `events.k8s.io` asks for subdomains (in [`check`]).
fn any_name(_: &str, _: bool) -> Vec<String> {
    Vec::new()
}

/// A field's name in `v1`, in `events.k8s.io/v1`, and what errors call it.
type Field = (&'static str, &'static str, &'static str);

const INVOLVED: Field = ("involvedObject", "regarding", "involvedObject");
const MESSAGE: Field = ("message", "note", "message");
const SOURCE: Field = ("source", "deprecatedSource", "source");
const FIRST: Field = ("firstTimestamp", "deprecatedFirstTimestamp", "firstTimestamp");
const LAST: Field = ("lastTimestamp", "deprecatedLastTimestamp", "lastTimestamp");
const COUNT: Field = ("count", "deprecatedCount", "count");
const CONTROLLER: Field = ("reportingComponent", "reportingController", "reportingController");

const fn plain(name: &'static str) -> Field {
    (name, name, name)
}

/// What an update through `events.k8s.io` may not change.
const FIXED: [Field; 12] = [
    INVOLVED,
    plain("reason"),
    MESSAGE,
    SOURCE,
    FIRST,
    LAST,
    COUNT,
    plain("type"),
    plain("action"),
    plain("related"),
    CONTROLLER,
    plain("reportingInstance"),
];

struct View<'a> {
    event: &'a Value,
    is_new: bool,
}

impl<'a> View<'a> {
    fn of(event: &'a Value) -> Self {
        View { event, is_new: split_api_version(text(event, &["apiVersion"])).0 == "events.k8s.io" }
    }

    fn get(&self, field: Field) -> &'a Value {
        at(self.event, &[if self.is_new { field.1 } else { field.0 }])
    }

    fn text(&self, field: Field) -> &'a str {
        self.get(field).as_str().unwrap_or_default()
    }
}

fn check(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let view = View::of(new);
    legacy(&view, errors);
    if !view.is_new {
        return;
    }
    match old {
        None => strict_create(&view, errors),
        Some(old) => strict_update(&view, &View::of(old), errors),
    }
}

fn legacy(view: &View<'_>, errors: &mut Errors) {
    let namespace = text(view.event, &["metadata", "namespace"]);
    let involved = text(view.get(INVOLVED), &["namespace"]);
    let mismatch =
        || FieldError::invalid(&"involvedObject.namespace", involved, "does not match event.namespace");
    let has_time = has(view.event, &["eventTime"]);
    let allowed_without: &[&str] = if has_time { &["default", "kube-system"] } else { &["", "default"] };
    let foreign = if involved.is_empty() {
        !allowed_without.contains(&namespace)
    } else {
        !has_time && involved != namespace
    };
    if foreign {
        errors.push(mismatch());
    }
    if has_time {
        reported(view, errors);
    }
    for detail in names::dns1123_subdomain(namespace) {
        errors.push(FieldError::invalid(&"namespace", namespace, detail));
    }
}

/// What an event with a time of its own must say.
fn reported(view: &View<'_>, errors: &mut Errors) {
    let controller = view.text(CONTROLLER);
    let place = if view.is_new { "reportingController" } else { "reportingComponent" };
    if controller.is_empty() {
        errors.push(FieldError::required(&place, ""));
    }
    for detail in names::qualified_name(controller) {
        errors.push(FieldError::invalid(&place, controller, detail));
    }
    for name in ["reportingInstance", "action", "reason"] {
        let value = text(view.event, &[name]);
        if value.is_empty() {
            errors.push(FieldError::required(&name, ""));
        }
        at_most(name, value, SHORT_MAX, errors);
    }
    at_most("message", view.text(MESSAGE), NOTE_MAX, errors);
}

fn at_most(place: &str, value: &str, max: usize, errors: &mut Errors) {
    if value.len() > max {
        errors.push(FieldError::invalid(&place, "", format!("can have at most {max} characters")));
    }
}

fn strict_create(view: &View<'_>, errors: &mut Errors) {
    let name = text(view.event, &["metadata", "name"]);
    for detail in names::dns1123_subdomain(name) {
        errors.push(FieldError::invalid(&"metadata.name", name, detail));
    }
    series(view, errors);
    if !has(view.event, &["eventTime"]) {
        errors.push(FieldError::required(&"eventTime", ""));
    }
    let kind = text(view.event, &["type"]);
    if !matches!(kind, "Normal" | "Warning") {
        errors.push(FieldError::invalid(&"type", "", format!("has invalid value: {kind}")));
    }
    for field in [FIRST, LAST, COUNT, SOURCE].into_iter().filter(|field| has(view.get(*field), &[])) {
        errors.push(FieldError::invalid(&field.2, "", "needs to be unset"));
    }
}

fn strict_update(new: &View<'_>, old: &View<'_>, errors: &mut Errors) {
    if !same(at(new.event, &["series"]), at(old.event, &["series"])) {
        series(new, errors);
    }
    let fixed = FIXED.into_iter().chain([plain("eventTime")]);
    for field in fixed.filter(|field| !same(new.get(*field), old.get(*field))) {
        errors.push(FieldError::invalid(&field.2, new.get(field).clone(), IMMUTABLE));
    }
}

fn series(view: &View<'_>, errors: &mut Errors) {
    if !is_set(view.event, &["series"]) {
        return;
    }
    let root = At::root(view.event);
    let series = root.get("series");
    if series.get("count").int().unwrap_or_default() < 2 {
        errors.push(FieldError::invalid(&"series.count", "", "should be at least 2"));
    }
    let observed = series.get("lastObservedTime");
    if !observed.has() {
        errors.push(FieldError::required(&observed, ""));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut errors = Errors::new();
        let view = View::of(new);
        legacy(&view, &mut errors);
        if view.is_new {
            match old {
                None => strict_create(&view, &mut errors),
                Some(old) => strict_update(&view, &View::of(old), &mut errors),
            }
        }
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn old_and_new_words() {
        let old =
            json!({"apiVersion": "v1", "metadata": {"namespace": "a"}, "involvedObject": {"namespace": "b"}});
        assert_eq!(
            texts(&old, None),
            [r#"involvedObject.namespace: Invalid value: "b": does not match event.namespace"#]
        );
        let new = json!({"apiVersion": "events.k8s.io/v1", "metadata": {"namespace": "a", "name": "x"},
            "regarding": {"namespace": "a"}, "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal",
            "reportingController": "x.io/y", "reportingInstance": "i", "action": "a", "reason": "r"});
        assert_eq!(texts(&new, None), [""; 0]);
        let mut changed = new.clone();
        changed["reason"] = "s".into();
        assert_eq!(texts(&changed, Some(&new)), [r#"reason: Invalid value: "s": field is immutable"#]);
        changed["type"] = "Odd".into();
        changed["deprecatedCount"] = 1.into();
        assert_eq!(
            texts(&changed, None),
            [
                r#"type: Invalid value: "": has invalid value: Odd"#,
                r#"count: Invalid value: "": needs to be unset"#,
            ]
        );
    }
}
