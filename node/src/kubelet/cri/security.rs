//! The security settings of sandboxes and containers: the container's own before the pod's, before defaults.

use std::path::Path;

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, Pod, PodSecurityContext, SELinuxOptions, SeccompProfile, SecurityContext,
};
use proto::cri;
use proto::cri::security_profile::ProfileType;

use crate::kubelet::pod::spec;

const MASKED_PATHS: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READONLY_PATHS: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The user an image names for its containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageUser {
    /// A number.
    pub uid: Option<i64>,
    /// A name, where there is no number.
    pub username: String,
}

/// What the machine allows.
#[derive(Clone, Copy, Debug)]
pub struct SecurityOptions<'a> {
    /// Where localhost seccomp profiles are.
    pub seccomp_root: &'a Path,
    /// Containers without a profile get the runtime's (`seccompDefault`).
    pub seccomp_default: bool,
    /// The kernel has AppArmor.
    pub apparmor: bool,
}

fn pod_context(pod: &Pod) -> PodSecurityContext {
    pod.spec.as_ref().and_then(|s| s.security_context.clone()).unwrap_or_default()
}

fn own_context(container: &Container) -> SecurityContext {
    container.security_context.clone().unwrap_or_default()
}

/// The user a container runs as by its spec.
pub fn run_as_user(pod: &Pod, container: &Container) -> Option<i64> {
    own_context(container).run_as_user.or(pod_context(pod).run_as_user)
}

/// Refuses a container that must not be root but would be. The text is upstream's.
pub fn verify_run_as_non_root(pod: &Pod, container: &Container, image: &ImageUser) -> Result<(), String> {
    let required = own_context(container).run_as_non_root.or(pod_context(pod).run_as_non_root);
    if required != Some(true) {
        return Ok(());
    }
    let who = || format!("(pod: \"{}\", container: {})", spec::display(pod), container.name);
    match (run_as_user(pod, container), image.uid) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy {}", who())),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => Err(format!("container has runAsNonRoot and image will run as root {}", who())),
        (None, Some(_)) => Ok(()),
        (None, None) if image.username.is_empty() => {
            Err(format!("container has runAsNonRoot and image will run as root {}", who()))
        }
        (None, None) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {}",
            image.username,
            who()
        )),
    }
}

/// Namespaces shared by the pod's containers.
pub fn namespaces(pod: &Pod) -> cri::NamespaceOption {
    let spec = spec::spec(pod);
    let mode =
        |host: Option<bool>, otherwise| if host == Some(true) { cri::NamespaceMode::Node } else { otherwise };
    let shared = spec.share_process_namespace == Some(true);
    let pid = if shared { cri::NamespaceMode::Pod } else { cri::NamespaceMode::Container };
    cri::NamespaceOption {
        network: mode(spec.host_network, cri::NamespaceMode::Pod) as i32,
        pid: mode(spec.host_pid, pid) as i32,
        ipc: mode(spec.host_ipc, cri::NamespaceMode::Pod) as i32,
        target_id: String::new(),
        userns_options: None,
    }
}

fn groups(context: &PodSecurityContext) -> Vec<i64> {
    context.fs_group.into_iter().chain(context.supplemental_groups.iter().flatten().copied()).collect()
}

fn groups_policy(context: &PodSecurityContext) -> i32 {
    match context.supplemental_groups_policy.as_deref() {
        Some("Strict") => cri::SupplementalGroupsPolicy::Strict as i32,
        _ => cri::SupplementalGroupsPolicy::Merge as i32,
    }
}

fn selinux(options: Option<&SELinuxOptions>) -> Option<cri::SeLinuxOption> {
    options.map(|o| cri::SeLinuxOption {
        user: o.user.clone().unwrap_or_default(),
        role: o.role.clone().unwrap_or_default(),
        r#type: o.type_.clone().unwrap_or_default(),
        level: o.level.clone().unwrap_or_default(),
    })
}

fn int(value: Option<i64>) -> Option<cri::Int64Value> {
    value.map(|value| cri::Int64Value { value })
}

fn profile(profile_type: ProfileType, localhost_ref: String) -> cri::SecurityProfile {
    cri::SecurityProfile { profile_type: profile_type as i32, localhost_ref }
}

/// The sandbox's settings.
pub fn sandbox_security(pod: &Pod) -> cri::LinuxSandboxSecurityContext {
    let context = pod_context(pod);
    let privileged = |c: &Container| own_context(c).privileged == Some(true);
    cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        selinux_options: selinux(context.se_linux_options.as_ref()),
        run_as_user: int(context.run_as_user),
        run_as_group: int(context.run_as_group),
        supplemental_groups: groups(&context),
        supplemental_groups_policy: groups_policy(&context),
        privileged: spec::containers(pod).iter().chain(spec::init_containers(pod)).any(privileged),
        seccomp: Some(profile(ProfileType::RuntimeDefault, String::new())),
        ..Default::default()
    }
}

/// A container's settings. `target` is the container whose processes an ephemeral one shares.
pub fn container_security(
    pod: &Pod,
    container: &Container,
    image: &ImageUser,
    target: Option<&str>,
    options: SecurityOptions<'_>,
) -> cri::LinuxContainerSecurityContext {
    let (context, own) = (pod_context(pod), own_context(container));
    let mut namespaces = namespaces(pod);
    if let Some(target) = target.filter(|_| namespaces.pid == cri::NamespaceMode::Container as i32) {
        namespaces.pid = cri::NamespaceMode::Target as i32;
        target.clone_into(&mut namespaces.target_id);
    }
    let user = run_as_user(pod, container);
    let capabilities = own.capabilities.as_ref().map(|c| cri::Capability {
        add_capabilities: c.add.clone().unwrap_or_default(),
        drop_capabilities: c.drop.clone().unwrap_or_default(),
        ..Default::default()
    });
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    let paths =
        |list: &[&str]| if unmasked { vec![] } else { list.iter().map(|p| (*p).to_owned()).collect() };
    let privileged = own.privileged == Some(true);
    let apparmor = apparmor(pod, &context, &own, container, privileged, options);
    cri::LinuxContainerSecurityContext {
        capabilities,
        privileged,
        namespace_options: Some(namespaces),
        selinux_options: selinux(own.se_linux_options.as_ref().or(context.se_linux_options.as_ref())),
        run_as_user: int(user.or(image.uid)),
        run_as_username: if user.or(image.uid).is_none() { image.username.clone() } else { String::new() },
        run_as_group: int(own.run_as_group.or(context.run_as_group)),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(&context),
        supplemental_groups_policy: groups_policy(&context),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(MASKED_PATHS),
        readonly_paths: paths(READONLY_PATHS),
        seccomp: Some(seccomp(own.seccomp_profile.as_ref().or(context.seccomp_profile.as_ref()), options)),
        apparmor_profile: apparmor.as_ref().map(apparmor_text).unwrap_or_default(),
        apparmor,
        ..Default::default()
    }
}

fn seccomp(wanted: Option<&SeccompProfile>, options: SecurityOptions<'_>) -> cri::SecurityProfile {
    match wanted.map(|p| (p.type_.as_str(), p.localhost_profile.as_deref())) {
        Some(("RuntimeDefault", _)) => profile(ProfileType::RuntimeDefault, String::new()),
        Some(("Localhost", Some(name))) => {
            profile(ProfileType::Localhost, options.seccomp_root.join(name).to_string_lossy().into_owned())
        }
        None if options.seccomp_default => profile(ProfileType::RuntimeDefault, String::new()),
        _ => profile(ProfileType::Unconfined, String::new()),
    }
}

const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

fn apparmor(
    pod: &Pod,
    context: &PodSecurityContext,
    own: &SecurityContext,
    container: &Container,
    privileged: bool,
    options: SecurityOptions<'_>,
) -> Option<cri::SecurityProfile> {
    let annotation = spec::annotation(pod, &format!("{APPARMOR_ANNOTATION}{}", container.name));
    let wanted = own.app_armor_profile.as_ref().or(context.app_armor_profile.as_ref());
    let from_field = |p: &AppArmorProfile| match p.type_.as_str() {
        "Unconfined" => profile(ProfileType::Unconfined, String::new()),
        "Localhost" => profile(ProfileType::Localhost, p.localhost_profile.clone().unwrap_or_default()),
        _ => profile(ProfileType::RuntimeDefault, String::new()),
    };
    let from_annotation = |text: &str| match text.strip_prefix("localhost/") {
        Some(name) => profile(ProfileType::Localhost, name.to_owned()),
        None if text == "unconfined" => profile(ProfileType::Unconfined, String::new()),
        None => profile(ProfileType::RuntimeDefault, String::new()),
    };
    let chosen = wanted.map(from_field).or_else(|| annotation.map(from_annotation));
    // What somebody named is asked of the runtime in any case: where there is no AppArmor it refuses to start the container.
    chosen.or_else(|| {
        (options.apparmor && !privileged).then(|| profile(ProfileType::RuntimeDefault, String::new()))
    })
}

/// True if a container of the pod is to be confined by a profile that somebody named.
pub fn asks_for_apparmor(pod: &Pod) -> bool {
    let asks = |p: Option<&AppArmorProfile>| p.is_some_and(|p| p.type_ != "Unconfined");
    let containers = spec::init_containers(pod).iter().chain(spec::containers(pod));
    let debuggers = spec::ephemeral_containers(pod).iter();
    let debuggers = debuggers.filter_map(|c| c.security_context.as_ref()?.app_armor_profile.as_ref());
    let annotations = pod.metadata.annotations.iter().flatten();
    asks(pod_context(pod).app_armor_profile.as_ref())
        || containers.map(own_context).any(|own| asks(own.app_armor_profile.as_ref()))
        || debuggers.map(Some).any(asks)
        || annotations.into_iter().any(|(k, v)| k.starts_with(APPARMOR_ANNOTATION) && v != "unconfined")
}

/// The older text form, for runtimes that read only that.
fn apparmor_text(chosen: &cri::SecurityProfile) -> String {
    match ProfileType::try_from(chosen.profile_type) {
        Ok(ProfileType::Unconfined) => "unconfined".to_owned(),
        Ok(ProfileType::Localhost) => format!("localhost/{}", chosen.localhost_ref),
        _ => "runtime/default".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn non_root(pod: serde_json::Value, own: serde_json::Value, image: ImageUser) -> String {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [], "securityContext": pod}}))
            .expect("a pod");
        let container: Container =
            serde_json::from_value(json!({"name": "c", "securityContext": own})).expect("a container");
        verify_run_as_non_root(&pod, &container, &image).err().unwrap_or_default()
    }

    #[test]
    fn non_root_policy() {
        let uid = |uid| ImageUser { uid: Some(uid), username: String::new() };
        let named = ImageUser { uid: None, username: "web".into() };
        assert_eq!(non_root(json!({}), json!({}), uid(0)), "");
        let required = json!({"runAsNonRoot": true});
        assert_eq!(
            non_root(required.clone(), json!({}), uid(0)),
            "container has runAsNonRoot and image will run as root (pod: \"p_n(u)\", container: c)"
        );
        assert_eq!(non_root(required.clone(), json!({}), uid(7)), "");
        assert_eq!(non_root(required.clone(), json!({"runAsUser": 5}), uid(0)), "");
        assert!(
            non_root(required.clone(), json!({"runAsUser": 0}), uid(7)).starts_with("container's runAsUser")
        );
        assert!(non_root(required.clone(), json!({}), named).contains("non-numeric user (web)"));
        assert_eq!(non_root(required, json!({"runAsNonRoot": false}), uid(0)), "");
    }

    #[test]
    fn container_settings_win_over_the_pods() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [], "hostPID": true,
            "securityContext": {"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4],
                "seccompProfile": {"type": "RuntimeDefault"}}}}))
        .expect("a pod");
        let container: Container = serde_json::from_value(json!({"name": "c", "securityContext":
            {"runAsUser": 9, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
             "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}}}))
        .expect("a container");
        let options =
            SecurityOptions { seccomp_root: Path::new("/s"), seccomp_default: false, apparmor: false };
        let c = container_security(&pod, &container, &ImageUser::default(), None, options);
        assert_eq!(c.run_as_user.map(|u| u.value), Some(9));
        assert_eq!(c.run_as_group.map(|u| u.value), Some(2));
        assert_eq!(c.supplemental_groups, [3, 4]);
        assert!(c.no_new_privs && c.readonly_rootfs && !c.privileged);
        assert_eq!(c.namespace_options.map(|n| n.pid), Some(cri::NamespaceMode::Node as i32));
        assert_eq!(c.seccomp.map(|s| s.profile_type), Some(ProfileType::RuntimeDefault as i32));
        assert_eq!(c.capabilities.map(|c| c.drop_capabilities), Some(vec!["ALL".to_owned()]));
    }

    /// The seccomp and AppArmor profiles that a container with this security context gets.
    fn profiles(own: serde_json::Value, annotation: Option<&str>, seccomp_default: bool) -> (String, String) {
        let annotations = annotation.map(|text| json!({format!("{APPARMOR_ANNOTATION}c"): text}));
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"annotations": annotations}, "spec": {"containers": []}}),
        )
        .expect("a pod");
        let container: Container =
            serde_json::from_value(json!({"name": "c", "securityContext": own})).expect("a container");
        let options = SecurityOptions { seccomp_root: Path::new("/s"), seccomp_default, apparmor: true };
        let c = container_security(&pod, &container, &ImageUser::default(), None, options);
        let show = |profile: Option<cri::SecurityProfile>| {
            profile.map_or_else(String::new, |p| format!("{:?} {}", p.profile_type(), p.localhost_ref))
        };
        (show(c.seccomp), show(c.apparmor))
    }

    #[test]
    fn a_profile_that_somebody_named_is_asked_for_where_there_is_no_apparmor() {
        let check = |own: serde_json::Value, expected: Option<ProfileType>| {
            let pod = json!({"spec": {"containers": [{"name": "c", "securityContext": own}]}});
            let pod: Pod = serde_json::from_value(pod).expect("a pod");
            let options =
                SecurityOptions { seccomp_root: Path::new("/s"), seccomp_default: false, apparmor: false };
            let c =
                container_security(&pod, &spec::containers(&pod)[0], &ImageUser::default(), None, options);
            assert_eq!(c.apparmor.map(|p| p.profile_type()), expected, "{own}");
        };
        let named = |kind: &str| json!({"appArmorProfile": {"type": kind}});
        check(json!({}), None);
        check(named("RuntimeDefault"), Some(ProfileType::RuntimeDefault));
        check(named("Localhost"), Some(ProfileType::Localhost));
        check(named("Unconfined"), Some(ProfileType::Unconfined));
    }

    #[test]
    fn profiles_by_field_annotation_and_default() {
        let localhost = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "p.json"},
            "appArmorProfile": {"type": "Localhost", "localhostProfile": "k8s-x"}});
        let free =
            json!({"seccompProfile": {"type": "Unconfined"}, "appArmorProfile": {"type": "Unconfined"}});
        for (own, annotation, seccomp_default, seccomp, apparmor) in [
            (json!({}), None, false, "Unconfined ", "RuntimeDefault "),
            (json!({}), None, true, "RuntimeDefault ", "RuntimeDefault "),
            (json!({"privileged": true}), None, false, "Unconfined ", ""),
            (localhost, None, false, "Localhost /s/p.json", "Localhost k8s-x"),
            (free, None, true, "Unconfined ", "Unconfined "),
            (json!({}), Some("localhost/old"), false, "Unconfined ", "Localhost old"),
            (json!({}), Some("unconfined"), false, "Unconfined ", "Unconfined "),
        ] {
            let expected = (seccomp.to_owned(), apparmor.to_owned());
            assert_eq!(profiles(own.clone(), annotation, seccomp_default), expected, "{own} {annotation:?}");
        }
    }
}
