//! Which IP families a service gets. Pure: the families of the cluster are passed in, its default first.

use machinery::status::FieldError;
use serde_json::{Value, json};

use super::validate_ips;
use super::{HEADLESS, family_of, is_external_name, same_list, service_type, spec_list};
use crate::contract::Object;
use crate::kinds::json::{at, has, items, keep, push, set, text, texts};

const POLICY: [&str; 2] = ["spec", "ipFamilyPolicy"];

/// Fills `ipFamilyPolicy` and `ipFamilies` in, or says why the wish cannot be met.
pub fn init(new: &mut Object, old: Option<&Object>, cluster: &[&'static str]) -> Result<(), Vec<FieldError>> {
    if is_external_name(new) || old.is_some_and(|old| stays_prefer_dual(new, old)) {
        return Ok(());
    }
    infer_policy(new, old);
    let errors = validate_ips::related_fields(new);
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut errors = Vec::new();
    if let Some(old) = old {
        release_secondary(new, old, &mut errors);
    }
    check_policy_fits(new, &mut errors);
    infer_families(new, cluster, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    if text(new, &["spec", "clusterIP"]) == HEADLESS && !has(new, &["spec", "selector"]) {
        complete(new, cluster, true);
        return Ok(());
    }
    check_configured(new, cluster, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    complete(new, cluster, cluster.len() == 2);
    Ok(())
}

/// PreferDualStack services are neither upgraded nor downgraded by a change of the cluster alone.
fn stays_prefer_dual(new: &Object, old: &Object) -> bool {
    let policy = text(new, &POLICY);
    let old_policy = text(old, &POLICY);
    policy == "PreferDualStack"
        && (old_policy.is_empty() || old_policy == policy)
        && service_type(old) == service_type(new)
        && same_list(old, new, "clusterIPs")
        && same_list(old, new, "ipFamilies")
}

fn infer_policy(new: &mut Object, old: Option<&Object>) {
    if has(new, &POLICY) {
        return;
    }
    match old {
        Some(old) if has(old, &POLICY) => keep(new, old, &POLICY),
        _ if text(new, &["spec", "clusterIP"]) == HEADLESS && !has(new, &["spec", "selector"]) => {
            set(new, &POLICY, "RequireDualStack");
        }
        _ => set(new, &POLICY, "SingleStack"),
    }
}

fn policy_error(new: &Object, detail: &str) -> FieldError {
    FieldError::invalid(&"spec.ipFamilyPolicy", at(new, &POLICY).clone(), detail)
}

fn release_secondary(new: &mut Object, old: &Object, errors: &mut Vec<FieldError>) {
    let fields = [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")];
    let single = text(new, &POLICY) == "SingleStack";
    for (field, what) in fields {
        let (now, before) = (items(new, &["spec", field]).len(), items(old, &["spec", field]).len());
        if single && same_list(old, new, field) && now > 1 {
            let first = items(new, &["spec", field])[0].clone();
            set(new, &["spec", field], json!([first]));
        } else if !single && now > 0 && now < before {
            errors.push(policy_error(new, &format!("must be 'SingleStack' to release the secondary {what}")));
        }
    }
}

fn check_policy_fits(new: &Object, errors: &mut Vec<FieldError>) {
    if text(new, &POLICY) != "SingleStack" {
        return;
    }
    for (field, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
        if items(new, &["spec", field]).len() == 2 {
            let detail =
                format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
            errors.push(policy_error(new, &detail));
        }
    }
}

fn infer_families(new: &mut Object, cluster: &[&'static str], errors: &mut Vec<FieldError>) {
    let ips: Vec<String> = texts(new, &["spec", "clusterIPs"]).map(str::to_owned).collect();
    for (index, ip) in ips.iter().enumerate() {
        if ip == HEADLESS {
            break;
        }
        let family = family_of(ip);
        if index < items(new, &["spec", "ipFamilies"]).len() {
            continue;
        }
        if cluster.contains(&family) {
            push(new, &["spec", "ipFamilies"], json!(family));
        } else {
            let path = format!("spec.clusterIPs[{index}]");
            let detail = format!("{family} is not configured on this cluster");
            errors.push(FieldError::invalid(&path, spec_list(new, "clusterIPs"), detail));
        }
    }
}

fn check_configured(new: &Object, cluster: &[&'static str], errors: &mut Vec<FieldError>) {
    if text(new, &POLICY) == "RequireDualStack" && cluster.len() < 2 {
        errors.push(policy_error(new, "this cluster is not configured for dual-stack services"));
    }
    for (index, family) in texts(new, &["spec", "ipFamilies"]).enumerate() {
        if !cluster.contains(&family) {
            let path = format!("spec.ipFamilies[{index}]");
            errors.push(FieldError::invalid(&path, family, "not configured on this cluster"));
        }
    }
}

/// The default family where none was asked for, and the other one where two are wanted and allowed.
fn complete(new: &mut Object, cluster: &[&'static str], may_add: bool) {
    if items(new, &["spec", "ipFamilies"]).is_empty() {
        let default = cluster.first().copied().unwrap_or("IPv4");
        set(new, &["spec", "ipFamilies"], json!([default]));
    }
    let families = items(new, &["spec", "ipFamilies"]);
    if may_add && families.len() == 1 && text(new, &POLICY) != "SingleStack" {
        let other = if families[0] == "IPv4" { "IPv6" } else { "IPv4" };
        push(new, &["spec", "ipFamilies"], Value::from(other));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec: Value, cluster: &[&'static str], expected: Result<(&str, &[&str]), &str>) {
        let mut service = json!({ "spec": spec });
        let got = init(&mut service, None, cluster);
        let families: Vec<&str> = texts(&service, &["spec", "ipFamilies"]).collect();
        match expected {
            Ok((policy, wanted)) => {
                assert!(got.is_ok(), "{got:?}");
                assert_eq!((text(&service, &POLICY), families.as_slice()), (policy, wanted), "{spec}");
            }
            Err(message) => assert_eq!(got.unwrap_err()[0].to_string(), message, "{spec}"),
        }
    }

    #[test]
    fn creation() {
        let (v4, dual) = (&["IPv4"][..], &["IPv4", "IPv6"][..]);
        let base = || json!({"type": "ClusterIP", "selector": {"a": "b"}});
        let with = |key: &str, value: Value| {
            let mut spec = base();
            spec[key] = value;
            spec
        };
        check(base(), v4, Ok(("SingleStack", &["IPv4"])));
        check(with("ipFamilyPolicy", json!("PreferDualStack")), v4, Ok(("PreferDualStack", &["IPv4"])));
        check(
            with("ipFamilyPolicy", json!("PreferDualStack")),
            dual,
            Ok(("PreferDualStack", &["IPv4", "IPv6"])),
        );
        check(
            with("ipFamilyPolicy", json!("RequireDualStack")),
            v4,
            Err(
                r#"spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services"#,
            ),
        );
        check(
            with("ipFamilies", json!(["IPv6"])),
            v4,
            Err(r#"spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster"#),
        );
        let headless = json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]});
        check(headless, v4, Ok(("RequireDualStack", &["IPv4", "IPv6"])));
    }
}
