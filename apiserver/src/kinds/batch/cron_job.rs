//! Defaults and validation of cron jobs.

use machinery::status::FieldError;

use super::{cron, job, job_prepare};
use crate::contract::{Object, RequestContext};
use crate::kinds::at::At;
use crate::kinds::checks::Errors;
use crate::kinds::json::{at, flag, text};

/// Eleven characters are left for the time in the names of the jobs.
const NAME_MAX: usize = 52;

/// Defaults of the pod template.
pub fn default(object: &mut Object) {
    job_prepare::spec(object, &["spec", "jobTemplate", "spec"]);
}

/// The whole object.
pub fn check(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    schedule(&spec, old, errors);
    let zone = spec.get("timeZone");
    if zone.is_set() && old.is_none_or(|old| at(old, &["spec", "timeZone"]) != zone.value) {
        errors.extend(
            time_zone(zone.text()).err().map(|detail| FieldError::invalid(&zone, zone.text(), detail)),
        );
    }
    let template = spec.get("jobTemplate");
    let job_spec = template.get("spec");
    job::spec(&job_spec, errors);
    let selector = job_spec.get("selector");
    if selector.is_set() {
        errors.push(FieldError::invalid(
            &selector,
            selector.value.clone(),
            "`selector` will be auto-generated",
        ));
    }
    if flag(job_spec.value, &["manualSelector"]) == Some(true) {
        errors.push(FieldError::not_supported(&job_spec.get("manualSelector"), true, &["nil", "false"]));
    }
    let name = text(new, &["metadata", "name"]);
    if old.is_none() && name.len() > NAME_MAX {
        errors.push(FieldError::invalid(&"metadata.name", name, "must be no more than 52 characters"));
    }
}

fn schedule(spec: &At<'_, '_>, old: Option<&Object>, errors: &mut Errors) {
    let schedule = spec.get("schedule");
    if !schedule.has() {
        errors.push(FieldError::required(&schedule, ""));
        return;
    }
    let text_now = schedule.text();
    let mut refuse = |detail: String| errors.push(FieldError::invalid(&schedule, text_now, detail));
    if let Err(why) = cron::check(text_now) {
        refuse(why);
    }
    if !text_now.contains("TZ") {
        return;
    }
    let had_zone = old.is_some_and(|old| text(old, &["spec", "schedule"]).contains("TZ"));
    if !had_zone {
        refuse("cannot use TZ or CRON_TZ in schedule, use timeZone field instead".to_owned());
    } else if spec.get("timeZone").is_set() {
        refuse("cannot use both timeZone field and TZ or CRON_TZ in schedule".to_owned());
    }
}

fn time_zone(zone: &str) -> Result<(), String> {
    if zone.is_empty() {
        return Err("timeZone must be nil or non-empty string".to_owned());
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_+".contains(c);
    let good = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part.len() <= 14
            && !part.starts_with('-')
            && part.chars().all(plain)
    };
    if !zone.split('/').all(good) {
        return Err(format!("unknown time zone {zone}"));
    }
    if zone.eq_ignore_ascii_case("local") {
        return Err(
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones".to_owned()
        );
    }
    jiff::tz::TimeZone::get(zone).map(drop).map_err(|_| format!("unknown time zone {zone}"))
}
