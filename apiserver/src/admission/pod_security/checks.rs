//! The checks of the Pod Security Standards, in upstream's order and words. Pure.

use serde_json::Value;

use crate::kinds::json::{at, entries, flag, has, int, items, text, texts};
use machinery::gotext::quote;

/// What a check finds wrong: a short reason and the detail behind it.
pub type Finding = (&'static str, String);

/// One check of a standard.
pub struct Check {
    id: &'static str,
    /// Part of `restricted` only.
    restricted: bool,
    /// The minor version it came with.
    since: u32,
    /// The check of `baseline` whose place it takes.
    overrides: &'static str,
    run: fn(&Pod<'_>) -> Option<Finding>,
}

/// What is checked: metadata and spec of a pod or of a template, and the minor version of the policy.
pub struct Pod<'a> {
    pub meta: &'a Value,
    pub spec: &'a Value,
    pub minor: u32,
}

/// Baseline checks by name, then restricted ones by name.
const CHECKS: [Check; 19] = [
    Check { id: "appArmorProfile", restricted: false, since: 0, overrides: "", run: app_armor },
    Check { id: "capabilities_baseline", restricted: false, since: 0, overrides: "", run: capabilities },
    Check { id: "hostNamespaces", restricted: false, since: 0, overrides: "", run: host_namespaces },
    Check { id: "hostPathVolumes", restricted: false, since: 0, overrides: "", run: host_paths },
    Check { id: "hostPorts", restricted: false, since: 0, overrides: "", run: host_ports },
    Check { id: "hostProbesAndHostLifecycle", restricted: false, since: 34, overrides: "", run: probe_hosts },
    Check { id: "privileged", restricted: false, since: 0, overrides: "", run: privileged },
    Check {
        id: "procMount",
        restricted: false,
        since: 0,
        overrides: "",
        run: proc_mount_unless_user_namespace,
    },
    Check { id: "seLinuxOptions", restricted: false, since: 0, overrides: "", run: selinux },
    Check {
        id: "seccompProfile_baseline",
        restricted: false,
        since: 0,
        overrides: "",
        run: seccomp_baseline,
    },
    Check { id: "sysctls", restricted: false, since: 0, overrides: "", run: sysctls },
    Check { id: "windowsHostProcess", restricted: false, since: 0, overrides: "", run: host_process },
    Check { id: "allowPrivilegeEscalation", restricted: true, since: 8, overrides: "", run: escalation },
    Check {
        id: "capabilities_restricted",
        restricted: true,
        since: 22,
        overrides: "capabilities_baseline",
        run: capabilities_restricted,
    },
    Check {
        id: "procMount_restricted",
        restricted: true,
        since: 35,
        overrides: "procMount",
        run: proc_mount,
    },
    Check { id: "restrictedVolumes", restricted: true, since: 0, overrides: "hostPathVolumes", run: volumes },
    Check { id: "runAsNonRoot", restricted: true, since: 0, overrides: "", run: non_root },
    Check { id: "runAsUser", restricted: true, since: 23, overrides: "", run: user_zero },
    Check {
        id: "seccompProfile_restricted",
        restricted: true,
        since: 19,
        overrides: "seccompProfile_baseline",
        run: seccomp_restricted,
    },
];

/// Everything the standard finds wrong.
pub fn evaluate(restricted: bool, pod: &Pod<'_>) -> Vec<Finding> {
    let active = |check: &&Check| check.since <= pod.minor && (restricted || !check.restricted);
    let overridden: Vec<&str> = CHECKS.iter().filter(active).map(|check| check.overrides).collect();
    let checks = CHECKS.iter().filter(active).filter(|check| !overridden.contains(&check.id));
    checks.filter_map(|check| (check.run)(pod)).collect()
}

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Safe sysctls with the minor version that allowed each.
const SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];
const SELINUX_TYPES: [(&str, u32); 5] = [
    ("", 0),
    ("container_t", 0),
    ("container_init_t", 0),
    ("container_kvm_t", 0),
    ("container_engine_t", 31),
];
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
const WINDOWS_SINCE: u32 = 25;
const USER_NAMESPACE_SINCE: u32 = 35;
const SECCOMP_FIELDS_SINCE: u32 = 19;
const APP_ARMOR_PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

impl<'a> Pod<'a> {
    fn containers(&self) -> impl Iterator<Item = &'a Value> + use<'a> {
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        let spec = self.spec;
        lists.into_iter().flat_map(move |list| items(spec, &[list]))
    }

    /// Names of the containers for which this holds.
    fn named(&self, wrong: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        self.containers()
            .filter(|container| wrong(container))
            .map(|container| text(container, &["name"]))
            .collect()
    }

    fn on_windows(&self) -> bool {
        self.minor >= WINDOWS_SINCE && text(self.spec, &["os", "name"]) == "windows"
    }

    fn in_user_namespace(&self) -> bool {
        self.minor >= USER_NAMESPACE_SINCE && flag(self.spec, &["hostUsers"]) == Some(false)
    }

    /// `pod and containers "a", "b"`: who sets something wrong; empty when nobody does.
    fn setters(&self, wrong: impl Fn(&Value) -> bool) -> String {
        let mut setters = Vec::new();
        if wrong(at(self.spec, &["securityContext"])) {
            setters.push("pod".to_owned());
        }
        let bad = self.named(|container| wrong(at(container, &["securityContext"])));
        if !bad.is_empty() {
            setters.push(containers(&bad));
        }
        setters.join(" and ")
    }

    /// What the pod and its containers have at the path of their security contexts.
    fn values(&self, path: &[&str]) -> Vec<&'a str> {
        let contexts = std::iter::once(at(self.spec, &["securityContext"]))
            .chain(self.containers().map(|container| at(container, &["securityContext"])));
        contexts.map(|context| text(context, path)).collect()
    }
}

fn plural(one: &'static str, many: &'static str, count: usize) -> &'static str {
    if count == 1 { one } else { many }
}

fn quoted<S: AsRef<str>>(texts: &[S]) -> String {
    let parts: Vec<String> = texts.iter().map(|text| format!("\"{}\"", text.as_ref())).collect();
    parts.join(", ")
}

fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

fn sorted<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut list: Vec<&str> = texts.collect();
    list.sort_unstable();
    list.dedup();
    list
}

fn app_armor(pod: &Pod<'_>) -> Option<Finding> {
    let kind = ["appArmorProfile", "type"];
    let is_bad = |value: &str| !matches!(value, "RuntimeDefault" | "Localhost");
    let wrong = |context: &Value| !at(context, &kind[..1]).is_null() && is_bad(text(context, &kind));
    let mut setters = pod.setters(wrong);
    let mut values: Vec<String> =
        sorted(pod.values(&kind).into_iter().filter(|v| !v.is_empty() && is_bad(v)))
            .into_iter()
            .map(str::to_owned)
            .collect();
    let annotations = entries(pod.meta, &["annotations"]).filter_map(|(key, value)| {
        let profile = value.as_str().unwrap_or_default();
        let allowed = profile.is_empty() || profile == "runtime/default" || profile.starts_with("localhost/");
        (key.starts_with(APP_ARMOR_PREFIX) && !allowed).then(|| format!("{key}={}", quote(profile)))
    });
    let mut annotations: Vec<String> = annotations.collect();
    annotations.sort_unstable();
    if !annotations.is_empty() {
        let noun = plural("annotation", "annotations", annotations.len());
        setters = if setters.is_empty() { noun.to_owned() } else { format!("{setters} and {noun}") };
        values.extend(annotations);
    }
    if setters.is_empty() {
        return None;
    }
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    Some((reason, format!("{setters} must not set AppArmor profile type to {}", quoted(&values))))
}

fn added<'a>(container: &'a Value, allowed: &'a [&str]) -> impl Iterator<Item = &'a str> {
    texts(container, &["securityContext", "capabilities", "add"]).filter(|name| !allowed.contains(name))
}

fn capabilities(pod: &Pod<'_>) -> Option<Finding> {
    let bad = pod.named(|container| added(container, &CAPABILITIES).next().is_some());
    let names = sorted(pod.containers().flat_map(|container| added(container, &CAPABILITIES)));
    let detail = || {
        format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&bad),
            quoted(&names)
        )
    };
    (!bad.is_empty()).then(|| ("non-default capabilities", detail()))
}

fn capabilities_restricted(pod: &Pod<'_>) -> Option<Finding> {
    const ALLOWED: [&str; 1] = ["NET_BIND_SERVICE"];
    if pod.on_windows() {
        return None;
    }
    let keeps = |container: &Value| {
        !texts(container, &["securityContext", "capabilities", "drop"]).any(|c| c == "ALL")
    };
    let (keeping, adding) =
        (pod.named(keeps), pod.named(|container| added(container, &ALLOWED).next().is_some()));
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details
            .push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keeping)));
    }
    if !adding.is_empty() {
        let names = sorted(pod.containers().flat_map(|container| added(container, &ALLOWED)));
        let (who, what) = (containers(&adding), quoted(&names));
        details.push(format!("{who} must not include {what} in securityContext.capabilities.add"));
    }
    (!details.is_empty()).then(|| ("unrestricted capabilities", details.join("; ")))
}

fn host_namespaces(pod: &Pod<'_>) -> Option<Finding> {
    let fields = ["hostNetwork", "hostPID", "hostIPC"].into_iter();
    let set: Vec<String> = fields
        .filter(|field| flag(pod.spec, &[field]) == Some(true))
        .map(|field| format!("{field}=true"))
        .collect();
    (!set.is_empty()).then(|| ("host namespaces", set.join(", ")))
}

fn host_paths(pod: &Pod<'_>) -> Option<Finding> {
    let volumes = items(pod.spec, &["volumes"]).iter().filter(|volume| !at(volume, &["hostPath"]).is_null());
    let names: Vec<&str> = volumes.map(|volume| text(volume, &["name"])).collect();
    let detail = || format!("{} {}", plural("volume", "volumes", names.len()), quoted(&names));
    (!names.is_empty()).then(|| ("hostPath volumes", detail()))
}

fn host_ports(pod: &Pod<'_>) -> Option<Finding> {
    let of = |container: &Value| -> Vec<String> {
        let ports = items(container, &["ports"]).iter().filter_map(|port| int(port, &["hostPort"]));
        ports.filter(|port| *port != 0).map(|port| port.to_string()).collect()
    };
    let bad = pod.named(|container| !of(container).is_empty());
    let all: Vec<String> = pod.containers().flat_map(of).collect();
    let ports = sorted(all.iter().map(String::as_str));
    let detail = || {
        let (verb, noun) = (plural("uses", "use", bad.len()), plural("hostPort", "hostPorts", ports.len()));
        format!("{} {verb} {noun} {}", containers(&bad), ports.join(", "))
    };
    (!bad.is_empty()).then(|| ("hostPort", detail()))
}

fn probe_hosts(pod: &Pod<'_>) -> Option<Finding> {
    fn of(container: &Value) -> Vec<&str> {
        let handlers: [&[&str]; 5] = [
            &["livenessProbe"],
            &["readinessProbe"],
            &["startupProbe"],
            &["lifecycle", "postStart"],
            &["lifecycle", "preStop"],
        ];
        let hosts = handlers.into_iter().flat_map(|path| {
            let handler = at(container, path);
            ["httpGet", "tcpSocket"].map(|kind| text(handler, &[kind, "host"]))
        });
        hosts.filter(|host| !host.is_empty()).collect()
    }
    let bad = sorted(pod.named(|container| !of(container).is_empty()).into_iter());
    let hosts = sorted(pod.containers().flat_map(of));
    let detail = || {
        let noun = plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len());
        format!("{} {} {noun} {}", containers(&bad), plural("uses", "use", bad.len()), quoted(&hosts))
    };
    (!bad.is_empty()).then(|| ("probe or lifecycle host", detail()))
}

fn privileged(pod: &Pod<'_>) -> Option<Finding> {
    let bad = pod.named(|container| flag(container, &["securityContext", "privileged"]) == Some(true));
    let detail = || format!("{} must not set securityContext.privileged=true", containers(&bad));
    (!bad.is_empty()).then(|| ("privileged", detail()))
}

fn proc_mount_unless_user_namespace(pod: &Pod<'_>) -> Option<Finding> {
    if pod.in_user_namespace() { None } else { proc_mount(pod) }
}

fn proc_mount(pod: &Pod<'_>) -> Option<Finding> {
    fn own(container: &Value) -> &str {
        text(container, &["securityContext", "procMount"])
    }
    let is_bad = |kind: &str| !matches!(kind, "" | "Default");
    let bad = pod.named(|container| is_bad(own(container)));
    let kinds = sorted(pod.containers().map(own).filter(|kind| is_bad(kind)));
    let detail =
        || format!("{} must not set securityContext.procMount to {}", containers(&bad), quoted(&kinds));
    (!bad.is_empty()).then(|| ("procMount", detail()))
}

fn selinux(pod: &Pod<'_>) -> Option<Finding> {
    let known = |kind: &str| SELINUX_TYPES.iter().any(|(name, since)| *name == kind && *since <= pod.minor);
    let wrong = |context: &Value| {
        let options = at(context, &["seLinuxOptions"]);
        !known(text(options, &["type"])) || has(options, &["user"]) || has(options, &["role"])
    };
    let setters = pod.setters(wrong);
    if setters.is_empty() {
        return None;
    }
    let types = sorted(pod.values(&["seLinuxOptions", "type"]).into_iter().filter(|kind| !known(kind)));
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(format!("{} {}", plural("type", "types", types.len()), quoted(&types)));
    }
    for field in ["user", "role"] {
        if pod.values(&["seLinuxOptions", field]).iter().any(|value| !value.is_empty()) {
            data.push(format!("{field} may not be set"));
        }
    }
    let detail = format!("{setters} set forbidden securityContext.seLinuxOptions: {}", data.join("; "));
    Some(("seLinuxOptions", detail))
}

const SECCOMP_TYPE: [&str; 2] = ["seccompProfile", "type"];

fn is_seccomp(kind: &str) -> bool {
    matches!(kind, "Localhost" | "RuntimeDefault")
}

fn seccomp_baseline(pod: &Pod<'_>) -> Option<Finding> {
    if pod.minor >= SECCOMP_FIELDS_SINCE { seccomp_explicit(pod) } else { seccomp_annotations(pod) }
}

fn seccomp_annotations(pod: &Pod<'_>) -> Option<Finding> {
    let valid = |value: &str| {
        matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/")
    };
    let keys = std::iter::once(SECCOMP_POD.to_owned()).chain(
        pod.containers().map(|container| format!("{SECCOMP_CONTAINER}{}", text(container, &["name"]))),
    );
    let bad = keys.filter_map(|key| {
        let value = at(pod.meta, &["annotations", &key]).as_str()?;
        (!valid(value)).then(|| format!("{key}={}", quote(value)))
    });
    let mut bad: Vec<String> = bad.collect();
    bad.sort_unstable();
    bad.dedup();
    let noun = plural("annotation", "annotations", bad.len());
    (!bad.is_empty()).then(|| ("seccompProfile", format!("forbidden {noun} {}", bad.join(", "))))
}

fn seccomp_explicit(pod: &Pod<'_>) -> Option<Finding> {
    let wrong =
        |context: &Value| has(context, &["seccompProfile"]) && !is_seccomp(text(context, &SECCOMP_TYPE));
    let setters = pod.setters(wrong);
    let kinds =
        sorted(pod.values(&SECCOMP_TYPE).into_iter().filter(|kind| !kind.is_empty() && !is_seccomp(kind)));
    let detail =
        || format!("{setters} must not set securityContext.seccompProfile.type to {}", quoted(&kinds));
    (!setters.is_empty()).then(|| ("seccompProfile", detail()))
}

fn seccomp_restricted(pod: &Pod<'_>) -> Option<Finding> {
    if pod.on_windows() {
        return None;
    }
    let by_pod = is_seccomp(text(pod.spec, &["securityContext", "seccompProfile", "type"]));
    seccomp_explicit(pod).or_else(|| {
        let unset = |container: &Value| !has(container, &["securityContext", "seccompProfile"]) && !by_pod;
        let bad = pod.named(unset);
        let what = "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
        (!bad.is_empty()).then(|| ("seccompProfile", format!("pod or {} {what}", containers(&bad))))
    })
}

fn sysctls(pod: &Pod<'_>) -> Option<Finding> {
    let allowed = |name: &str| SYSCTLS.iter().any(|(known, since)| *known == name && *since <= pod.minor);
    let names = items(pod.spec, &["securityContext", "sysctls"]).iter().map(|sysctl| text(sysctl, &["name"]));
    let bad: Vec<&str> = names.filter(|name| !allowed(name)).collect();
    (!bad.is_empty()).then(|| ("forbidden sysctls", bad.join(", ")))
}

fn host_process(pod: &Pod<'_>) -> Option<Finding> {
    let setters = pod.setters(|context| flag(context, &["windowsOptions", "hostProcess"]) == Some(true));
    let detail = || format!("{setters} must not set securityContext.windowsOptions.hostProcess=true");
    (!setters.is_empty()).then(|| ("hostProcess", detail()))
}

fn escalation(pod: &Pod<'_>) -> Option<Finding> {
    if pod.on_windows() {
        return None;
    }
    let path = ["securityContext", "allowPrivilegeEscalation"];
    let bad = pod.named(|container| flag(container, &path) != Some(false));
    let detail = || format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&bad));
    (!bad.is_empty()).then(|| ("allowPrivilegeEscalation != false", detail()))
}

fn volumes(pod: &Pod<'_>) -> Option<Finding> {
    let source = |volume: &Value| -> Option<String> {
        let own = entries(volume, &[]).find(|(name, value)| *name != "name" && !value.is_null());
        own.map(|(name, _)| name.to_owned())
    };
    let is_bad = |volume: &&Value| source(volume).is_none_or(|kind| !VOLUMES.contains(&kind.as_str()));
    let bad: Vec<&Value> = items(pod.spec, &["volumes"]).iter().filter(is_bad).collect();
    if bad.is_empty() {
        return None;
    }
    let names: Vec<&str> = bad.iter().map(|volume| text(volume, &["name"])).collect();
    let kinds: Vec<String> = bad.iter().map(|v| source(v).unwrap_or_else(|| "unknown".to_owned())).collect();
    let kinds = sorted(kinds.iter().map(String::as_str));
    let (who, verb) = (plural("volume", "volumes", bad.len()), plural("uses", "use", bad.len()));
    let what = plural("restricted volume type", "restricted volume types", kinds.len());
    let detail = format!("{who} {} {verb} {what} {}", quoted(&names), quoted(&kinds));
    Some(("restricted volume types", detail))
}

fn non_root(pod: &Pod<'_>) -> Option<Finding> {
    const REASON: &str = "runAsNonRoot != true";
    if pod.in_user_namespace() {
        return None;
    }
    let setters = pod.setters(|context| flag(context, &["runAsNonRoot"]) == Some(false));
    if !setters.is_empty() {
        return Some((REASON, format!("{setters} must not set securityContext.runAsNonRoot=false")));
    }
    let by_pod = flag(pod.spec, &["securityContext", "runAsNonRoot"]) == Some(true);
    let bad =
        pod.named(|container| flag(container, &["securityContext", "runAsNonRoot"]).is_none() && !by_pod);
    let detail = || format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&bad));
    (!bad.is_empty()).then(|| (REASON, detail()))
}

fn user_zero(pod: &Pod<'_>) -> Option<Finding> {
    if pod.in_user_namespace() {
        return None;
    }
    let setters = pod.setters(|context| int(context, &["runAsUser"]) == Some(0));
    (!setters.is_empty()).then(|| ("runAsUser=0", format!("{setters} must not set runAsUser=0")))
}

#[cfg(test)]
#[path = "checks_tests.rs"]
mod tests;
