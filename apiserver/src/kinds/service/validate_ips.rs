//! Validation of `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy`, alone and against the old service.

use machinery::status::FieldError;
use serde_json::Value;

use super::{HEADLESS, is_external_name, is_headless};
use crate::contract::Object;
use crate::kinds::at::At;
use crate::kinds::checks::{Errors, ip};
use crate::kinds::json::{at, has, is_set, items, text};

const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
const POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];
const FIXED: &str = "may not change once set";

/// What must hold between the four fields.
pub fn related_fields(service: &Object) -> Errors {
    let mut errors = Vec::new();
    if is_external_name(service) {
        return errors;
    }
    let root = At::root(service);
    let spec = root.get("spec");
    first_matches(&spec, &mut errors);
    families(&spec.get("ipFamilies"), &mut errors);
    let policy = spec.get("ipFamilyPolicy");
    if policy.is_set() && !POLICIES.contains(&policy.text()) {
        errors.push(FieldError::not_supported(&policy, policy.value.clone(), &POLICIES));
    }
    let ips = spec.get("clusterIPs");
    if !well_formed(&ips, &mut errors) {
        return errors;
    }
    let of_family = |v6: bool| ips.items().filter(|ip| ip.text().contains(':') == v6).count();
    if ips.len() > 1 && (of_family(true) == 0 || of_family(false) == 0) {
        let detail = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid(&ips, ips.value.clone(), detail));
    }
    if !is_headless(service) {
        match_families(&ips, &spec.get("ipFamilies"), &mut errors);
    }
    errors
}

fn first_matches(spec: &At<'_, '_>, errors: &mut Errors) {
    let (ip, ips) = (spec.get("clusterIP"), spec.get("clusterIPs"));
    if !ip.has() && !ips.is_empty() {
        let detail = "must be empty when `clusterIP` is not specified";
        errors.push(FieldError::invalid(&ips, ips.value.clone(), detail));
    } else if ip.has() && ips.is_empty() {
        errors.push(FieldError::required(&ips, ""));
    } else if ip.has() && ips.index(0).text() != ip.text() {
        errors.push(FieldError::invalid(&ips, ips.value.clone(), "first value must match `clusterIP`"));
    }
}

fn families(families: &At<'_, '_>, errors: &mut Errors) {
    let mut seen = Vec::new();
    for family in families.items() {
        if !FAMILIES.contains(&family.text()) {
            errors.push(FieldError::not_supported(&family, family.text(), &FAMILIES));
        }
        if seen.contains(&family.text()) {
            errors.push(FieldError::duplicate(&family, family.text()));
        }
        seen.push(family.text());
    }
}

/// Whether every address parses, so that rules between them make sense.
fn well_formed(ips: &At<'_, '_>, errors: &mut Errors) -> bool {
    let before = errors.len();
    for (index, one) in ips.items().enumerate() {
        if index == 0 && one.text() == HEADLESS {
            if ips.len() > 1 {
                let detail = "'None' must be the first and only value";
                errors.push(FieldError::invalid(ips, ips.value.clone(), detail));
            }
            continue;
        }
        errors.extend(ip(&one));
    }
    let all_parse = errors.len() == before;
    if ips.len() > 2 {
        errors.push(FieldError::invalid(ips, ips.value.clone(), "may only hold up to 2 values"));
    }
    all_parse
}

fn match_families(ips: &At<'_, '_>, families: &At<'_, '_>, errors: &mut Errors) {
    for (index, (ip, family)) in ips.items().zip(families.items()).enumerate() {
        let is_v6 = ip.text().contains(':');
        let expected = match (family.text(), is_v6) {
            ("IPv4", true) => "an IPv4",
            ("IPv6", false) => "an IPv6",
            _ => continue,
        };
        let detail = format!("expected {expected} value as indicated by `ipFamilies[{index}]`");
        errors.push(FieldError::invalid(&ip, ip.text(), detail));
    }
}

/// Addresses may be added and released, but not exchanged.
pub fn cluster_ip_changes(new: &Object, old: &Object, errors: &mut Errors) {
    if is_external_name(new) || is_external_name(old) || (is_headless(new) && is_headless(old)) {
        return;
    }
    list_changes(new, old, "clusterIPs", "clusterIP", errors);
}

/// Likewise for families.
pub fn family_changes(new: &Object, old: &Object, errors: &mut Errors) {
    let headless = is_headless(new) || is_headless(old);
    if is_external_name(new) || is_external_name(old) || headless {
        return;
    }
    list_changes(new, old, "ipFamilies", "ipFamily", errors);
}

fn list_changes(new: &Object, old: &Object, field: &str, singular: &str, errors: &mut Errors) {
    let (now, before) = (items(new, &["spec", field]), items(old, &["spec", field]));
    let value = || Value::Array(now.to_vec());
    let fixed = |index: usize, errors: &mut Errors| {
        errors.push(FieldError::invalid(&format!("spec.{field}[{index}]"), value(), FIXED));
    };
    if now.len() == before.len() {
        let changed = now.iter().zip(before).enumerate().filter(|(_, (a, b))| a != b);
        changed.for_each(|(index, _)| fixed(index, errors));
        return;
    }
    if now.is_empty() {
        let detail = format!("primary {singular} can not be unset");
        errors.push(FieldError::invalid(&format!("spec.{field}[0]"), value(), detail));
    } else if !before.is_empty() && now[0] != before[0] {
        fixed(0, errors);
    }
    if now.len() == 1 && before.len() > 1 && text(new, &["spec", "ipFamilyPolicy"]) != "SingleStack" {
        let policy = at(new, &["spec", "ipFamilyPolicy"]).clone();
        let detail = format!("must be set to 'SingleStack' when releasing the secondary {singular}");
        errors.push(FieldError::invalid(&"spec.ipFamilyPolicy", policy, detail));
    }
}

/// What an ExternalName service may not have.
pub fn forbidden_for_external_name(service: &Object, errors: &mut Errors) {
    let detail = "may not be set for ExternalName services";
    for (field, set) in [
        ("clusterIPs", has(service, &["spec", "clusterIPs"])),
        ("ipFamilies", has(service, &["spec", "ipFamilies"])),
        ("ipFamilyPolicy", is_set(service, &["spec", "ipFamilyPolicy"])),
    ] {
        if set {
            errors.push(FieldError::forbidden(&format!("spec.{field}"), detail));
        }
    }
}
