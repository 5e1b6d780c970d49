//! Validation of pods and pod templates: what holds between fields. Single fields are in `tables/rules.tsv`.

use machinery::names;
use machinery::status::FieldError;
use serde_json::json;

use super::{containers, requirements, scheduling, security, update, volumes};
use crate::contract::{Object, RequestContext};
use crate::kinds::at::At;
use crate::kinds::checks::{self, Errors};
use crate::kinds::json::{flag, has, is_set};

const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_TEXT_MAX: usize = 2048;
const HOSTNAME_OVERRIDE_MAX: usize = 64;

/// A Pod on create and update.
pub fn pod(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let pod_spec = root.get("spec");
    spec(&pod_spec, true, errors);
    match old {
        Some(old) => update::check(new, old, errors),
        None => created(new, &pod_spec, errors),
    }
}

fn created(pod: &Object, spec: &At<'_, '_>, errors: &mut Errors) {
    if has(pod, &["spec", "ephemeralContainers"]) {
        errors.push(FieldError::forbidden(&spec.get("ephemeralContainers"), "cannot be set on create"));
    }
    if has(pod, &["spec", "nodeName"]) && has(pod, &["spec", "schedulingGates"]) {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.push(FieldError::forbidden(&spec.get("nodeName"), detail));
    }
}

/// A PodTemplateSpec inside another object.
pub fn template(template: &At<'_, '_>, errors: &mut Errors) {
    let metadata = template.get("metadata");
    let labels = metadata.get("labels");
    // Upstream leaves "metadata" out of these paths.
    let place = format!("{template}.labels");
    for error in checks::labels(&labels) {
        errors.push(FieldError { field: place.clone(), ..error });
    }
    let pod_spec = template.get("spec");
    spec(&pod_spec, false, errors);
    let debuggers = pod_spec.get("ephemeralContainers");
    if debuggers.has() {
        errors.push(FieldError::forbidden(&debuggers, "ephemeral containers not allowed in pod template"));
    }
}

/// A PodSpec, of a pod itself or of a template.
pub fn spec(spec: &At<'_, '_>, is_pod: bool, errors: &mut Errors) {
    let grace = spec.get("terminationGracePeriodSeconds");
    if let Some(secs) = grace.int().filter(|secs| *secs < 0 && !is_pod) {
        errors.push(FieldError::invalid(&grace, secs, "must be greater than or equal to 0"));
    }
    let names = volumes::check(&spec.get("volumes"), errors);
    containers::check(spec, &names, is_pod, errors);
    requirements::pod_level(spec, errors);
    host_network_ports(spec, is_pod, errors);
    security::pod(spec, errors);
    scheduling::check(spec, errors);
    dns(spec, errors);
    os(&spec.get("os"), errors);
    host_names(spec, errors);
    claims(&spec.get("resourceClaims"), errors);
    for alias in spec.get("hostAliases").items() {
        alias.get("hostnames").items().for_each(|name| errors.extend(checks::named("subdomain", &name)));
    }
    for (_, amount) in spec.get("overhead").entries() {
        errors.extend(checks::non_negative_quantity(&amount));
    }
}

/// On the host's network a container's port is the host's.
fn host_network_ports(spec: &At<'_, '_>, is_pod: bool, errors: &mut Errors) {
    if flag(spec.value, &["hostNetwork"]) != Some(true) {
        return;
    }
    for container in spec.get("containers").items() {
        for port in container.get("ports").items() {
            let host = port.get("hostPort");
            let (own, wanted) =
                (host.int().unwrap_or_default(), port.get("containerPort").int().unwrap_or_default());
            if (is_pod || own != 0) && own != wanted {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(&host, own, detail));
            }
        }
    }
}

fn os(os: &At<'_, '_>, errors: &mut Errors) {
    const SYSTEMS: [&str; 2] = ["linux", "windows"];
    let name = os.get("name");
    if os.is_set() && !name.has() {
        errors.push(FieldError::required(&name, ""));
    } else if os.is_set() && !SYSTEMS.contains(&name.text()) {
        errors.push(FieldError::not_supported(os, name.text(), &SYSTEMS));
    }
}

fn dns(spec: &At<'_, '_>, errors: &mut Errors) {
    let config = spec.get("dnsConfig");
    let servers = config.get("nameservers");
    if spec.get("dnsPolicy").text() == "None" {
        if !config.is_set() {
            let detail = "must provide `dnsConfig` when `dnsPolicy` is None";
            errors.push(FieldError::required(&config, detail));
            return;
        }
        if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(FieldError::required(&servers, detail));
            return;
        }
    }
    if servers.len() > NAMESERVERS_MAX {
        let detail = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.push(FieldError::invalid(&servers, servers.value.clone(), detail));
    }
    servers.items().for_each(|server| errors.extend(checks::ip(&server)));
    searches(&config.get("searches"), errors);
    for option in config.get("options").items().filter(|option| !option.get("name").has()) {
        errors.push(FieldError::required(&option, "must not be empty"));
    }
}

fn searches(searches: &At<'_, '_>, errors: &mut Errors) {
    if searches.len() > SEARCHES_MAX {
        let detail = format!("must not have more than {SEARCHES_MAX} search paths");
        errors.push(FieldError::invalid(searches, searches.value.clone(), detail));
    }
    let length: usize = searches.items().map(|search| search.text().len() + 1).sum();
    if length > SEARCH_TEXT_MAX + 1 {
        let detail = format!(
            "must not have more than {SEARCH_TEXT_MAX} characters (including spaces) in the search list"
        );
        errors.push(FieldError::invalid(searches, searches.value.clone(), detail));
    }
    for search in searches.items().filter(|search| search.text() != ".") {
        let bare = json!(search.text().strip_suffix('.').unwrap_or(search.text()));
        let texts = names::dns1123_subdomain_with_underscore(bare.as_str().unwrap_or_default());
        errors.extend(checks::invalid(&search.with(&bare), texts));
    }
}

fn host_names(spec: &At<'_, '_>, errors: &mut Errors) {
    let name = spec.get("hostnameOverride");
    if !name.is_set() {
        return;
    }
    for (field, other) in [("setHostnameAsFQDN", "setHostnameAsFQDN"), ("hostNetwork", "hostNetwork")] {
        if flag(spec.value, &[field]) == Some(true) {
            let detail = format!("may not be specified when {other} is true");
            errors.push(FieldError::forbidden(&name, detail));
        }
    }
    if name.text().len() > HOSTNAME_OVERRIDE_MAX {
        errors.push(FieldError::too_long(&name, "", HOSTNAME_OVERRIDE_MAX));
    }
    errors.extend(checks::named("subdomain", &name));
}

fn claims(claims: &At<'_, '_>, errors: &mut Errors) {
    let mut seen = Vec::new();
    for claim in claims.items() {
        let name = claim.get("name");
        if !name.has() {
            errors.push(FieldError::required(&name, ""));
        } else if seen.contains(&name.text()) {
            errors.push(FieldError::duplicate(&name, name.text()));
        } else {
            errors.extend(checks::named("label", &name));
            seen.push(name.text());
        }
        let set = |field: &str| is_set(claim.value, &[field]);
        let detail = match (set("resourceClaimName"), set("resourceClaimTemplateName")) {
            (true, true) => {
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"
            }
            (false, false) => "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            _ => {
                errors.extend(
                    checks::named("subdomain", &claim.get("resourceClaimName"))
                        .into_iter()
                        .filter(|_| set("resourceClaimName")),
                );
                errors.extend(
                    checks::named("subdomain", &claim.get("resourceClaimTemplateName"))
                        .into_iter()
                        .filter(|_| set("resourceClaimTemplateName")),
                );
                continue;
            }
        };
        errors.push(FieldError::invalid(&claim, claim.value.clone(), detail));
    }
}
