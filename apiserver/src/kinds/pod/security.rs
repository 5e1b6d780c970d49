//! Security contexts of pods and containers.

use machinery::status::FieldError;
use rustc_hash::FxHashSet;

use super::env::descending_path;
use crate::kinds::at::At;
use crate::kinds::checks::Errors;
use crate::kinds::json::{flag, texts};

const SECCOMP_TYPES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];
const ID_MAX: i64 = i32::MAX as i64;
const SYSCTL_MAX: usize = 253;
const PROFILE_MAX: usize = 4095;

/// `spec.securityContext` and the host namespaces.
pub fn pod(spec: &At<'_, '_>, errors: &mut Errors) {
    let context = spec.get("securityContext");
    for group in context.get("supplementalGroups").items() {
        if let Some(id) = group.int().filter(|id| !(0..=ID_MAX).contains(id)) {
            errors.push(FieldError::invalid(&group, id, machinery::names::inclusive_range_error(0, ID_MAX)));
        }
    }
    let host = |name: &str| flag(spec.value, &[name]) == Some(true);
    if host("shareProcessNamespace") && host("hostPID") {
        let place = context.get("shareProcessNamespace");
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(&place, true, detail));
    }
    sysctls(&context.get("sysctls"), host("hostNetwork"), host("hostIPC"), errors);
    profile(&context.get("seccompProfile"), Profile::Seccomp, errors);
    profile(&context.get("appArmorProfile"), Profile::AppArmor, errors);
    if flag(spec.value, &["hostUsers"]) == Some(false) {
        for (name, place) in [("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
            if host(name) {
                errors.push(FieldError::forbidden(&spec.get(place), "when `hostUsers` is false"));
            }
        }
    }
}

/// `securityContext` of a container.
pub fn container(context: &At<'_, '_>, host_users: bool, errors: &mut Errors) {
    if !context.is_set() {
        return;
    }
    let mount = context.get("procMount");
    if host_users && mount.text() == "Unmasked" {
        errors.push(FieldError::invalid(&mount, mount.text(), "`hostUsers` must be false to use `Unmasked`"));
    }
    profile(&context.get("seccompProfile"), Profile::Seccomp, errors);
    if flag(context.value, &["allowPrivilegeEscalation"]) == Some(false) {
        let mut refuse = |what: &str| {
            let detail = format!("cannot set `allowPrivilegeEscalation` to false and {what}");
            errors.push(FieldError::invalid(context, context.value.clone(), detail));
        };
        if flag(context.value, &["privileged"]) == Some(true) {
            refuse("`privileged` to true");
        }
        if texts(context.value, &["capabilities", "add"]).any(|capability| capability == "CAP_SYS_ADMIN") {
            refuse("`capabilities.Add` CAP_SYS_ADMIN");
        }
    }
    profile(&context.get("appArmorProfile"), Profile::AppArmor, errors);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Profile {
    Seccomp,
    AppArmor,
}

fn profile(at: &At<'_, '_>, kind: Profile, errors: &mut Errors) {
    if !at.is_set() {
        return;
    }
    let (name, field) = match kind {
        Profile::Seccomp => ("seccomp", "seccompProfile"),
        Profile::AppArmor => ("AppArmor", "appArmorProfile"),
    };
    let (type_, local) = (at.get("type"), at.get("localhostProfile"));
    match type_.text() {
        "" => errors.push(FieldError::required(&type_, format!("type is required when {field} is set"))),
        kind if !SECCOMP_TYPES.contains(&kind) => {
            errors.push(FieldError::not_supported(&type_, kind, &SECCOMP_TYPES));
        }
        _ => {}
    }
    if type_.text() != "Localhost" {
        if local.is_set() {
            let shown = if kind == Profile::Seccomp { at.value.clone() } else { local.value.clone() };
            let detail = format!("can only be set when {name} type is Localhost");
            errors.push(FieldError::invalid(&local, shown, detail));
        }
        return;
    }
    if !local.has() {
        errors.push(FieldError::required(&local, format!("must be set when {name} type is Localhost")));
        return;
    }
    match kind {
        Profile::Seccomp => errors.extend(descending_path(&local)),
        Profile::AppArmor => {
            if local.text().trim() != local.text() {
                errors.push(FieldError::invalid(&local, local.text(), "must not be padded with whitespace"));
            }
            if local.text().len() > PROFILE_MAX {
                errors.push(FieldError::too_long(&local, "", PROFILE_MAX));
            }
        }
    }
}

fn sysctls(list: &At<'_, '_>, host_network: bool, host_ipc: bool, errors: &mut Errors) {
    const PATTERN: &str = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
    let mut seen = FxHashSet::default();
    for sysctl in list.items() {
        let name = sysctl.get("name");
        if !name.has() {
            errors.push(FieldError::required(&name, ""));
            continue;
        }
        if !is_sysctl(name.text()) {
            let detail = format!("must have at most {SYSCTL_MAX} characters and match regex {PATTERN}");
            errors.push(FieldError::invalid(&name, name.text(), detail));
        } else if !seen.insert(name.text()) {
            errors.push(FieldError::duplicate(&name, name.text()));
        }
        let dotted = name.text().replace('/', ".");
        let ipc =
            ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."].iter().any(|p| dotted.starts_with(p));
        if host_network && dotted.starts_with("net.") {
            let detail = "may not be specified when 'hostNetwork' is true";
            errors.push(FieldError::invalid(&name, name.text(), detail));
        } else if host_ipc && ipc {
            errors.push(FieldError::invalid(
                &name,
                name.text(),
                "may not be specified when 'hostIPC' is true",
            ));
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let segment = |part: &str| {
        let bytes = part.as_bytes();
        bytes.first().is_some_and(|b| edge(*b))
            && bytes.last().is_some_and(|b| edge(*b))
            && bytes.iter().all(|b| edge(*b) || matches!(b, b'-' | b'_'))
    };
    name.len() <= SYSCTL_MAX && name.split(['.', '/']).all(segment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(context: Value, expected: &[&str]) {
        let spec = json!({ "securityContext": context });
        let mut errors = Vec::new();
        let root = At::root(&spec);
        pod(&root, &mut errors);
        let got: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(got, expected, "{context}");
    }

    #[test]
    fn profiles_and_sysctls() {
        check(
            json!({"seccompProfile": {"type": "RuntimeDefault"}, "sysctls": [{"name": "net.core/x"}]}),
            &[],
        );
        check(
            json!({"seccompProfile": {"type": "Localhost"}}),
            &[
                "securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
            ],
        );
        check(
            json!({"appArmorProfile": {"type": "Moon"}}),
            &[
                r#"securityContext.appArmorProfile.type: Unsupported value: "Moon": supported values: "Localhost", "RuntimeDefault", "Unconfined""#,
            ],
        );
        check(
            json!({"sysctls": [{"name": "foo-"}]}),
            &[
                r#"securityContext.sysctls[0].name: Invalid value: "foo-": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"#,
            ],
        );
    }
}
