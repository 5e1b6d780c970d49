//! The configuration of one container.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use proto::cri;

use super::names;
use super::resources::{Machine, container_resources};
use super::security::{ImageUser, SecurityOptions, container_security, verify_run_as_non_root};
use crate::kubelet::env::expand;

/// Everything a container's configuration is built from.
#[derive(Clone, Debug)]
pub struct ContainerInputs<'a> {
    /// Its pod.
    pub pod: &'a Pod,
    /// Its spec.
    pub container: &'a Container,
    /// How often a container of this name was restarted before.
    pub restart_count: u32,
    /// The pulled image's reference for the runtime.
    pub image_ref: &'a str,
    /// The user the image names.
    pub image_user: &'a ImageUser,
    /// Its environment.
    pub env: &'a BTreeMap<String, String>,
    /// Its mounts, ready on the host.
    pub mounts: Vec<cri::Mount>,
    /// Devices from plugins and block volumes.
    pub devices: Vec<cri::Device>,
    /// Annotations that device plugins want the runtime to see.
    pub annotations: BTreeMap<String, String>,
    /// Devices by CDI name.
    pub cdi_devices: Vec<cri::CdiDevice>,
    /// The container whose processes an ephemeral one shares.
    pub target: Option<&'a str>,
    /// What the machine has.
    pub machine: Machine,
    /// What the machine allows.
    pub security: SecurityOptions<'a>,
}

/// Builds the configuration. The error is shown as `CreateContainerConfigError`.
pub fn container_config(inputs: ContainerInputs<'_>) -> Result<cri::ContainerConfig, String> {
    let ContainerInputs { pod, container, restart_count, env, .. } = inputs;
    verify_run_as_non_root(pod, container, inputs.image_user)?;
    let words = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|word| expand(word, |name| env.get(name).cloned())).collect()
    };
    let security = container_security(pod, container, inputs.image_user, inputs.target, inputs.security);
    let mut devices = inputs.devices;
    devices.sort_by(|a, b| a.container_path.cmp(&b.container_path));
    Ok(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: container.name.clone(), attempt: restart_count }),
        image: Some(cri::ImageSpec {
            image: inputs.image_ref.to_owned(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: words(&container.command),
        args: words(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: env
            .iter()
            .map(|(key, value)| cri::KeyValue { key: key.clone(), value: value.clone().into() })
            .collect(),
        mounts: inputs.mounts,
        devices,
        cdi_devices: inputs.cdi_devices,
        labels: names::container_labels(pod, container),
        annotations: names::container_annotations(pod, container, restart_count)
            .into_iter()
            .chain(inputs.annotations)
            .collect(),
        log_path: names::container_log_path(&container.name, restart_count),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(container_resources(pod, container, inputs.machine)),
            security_context: Some(security),
        }),
        windows: None,
        stop_signal: stop_signal(container),
    })
}

fn stop_signal(container: &Container) -> i32 {
    let name = container.lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref()).unwrap_or_default();
    cri::Signal::from_str_name(name).unwrap_or(cri::Signal::RuntimeDefault) as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    #[test]
    fn commands_are_expanded_and_identity_is_annotated() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"terminationGracePeriodSeconds": 7, "containers": []}}))
            .expect("a pod");
        let container: Container = serde_json::from_value(json!({"name": "c", "image": "i",
            "command": ["echo", "$(A)"], "args": ["$$(A)"], "lifecycle": {"stopSignal": "SIGUSR1"}}))
        .expect("a container");
        let env = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        let config = container_config(ContainerInputs {
            pod: &pod,
            container: &container,
            restart_count: 3,
            image_ref: "sha256:1",
            image_user: &ImageUser::default(),
            env: &env,
            mounts: vec![],
            devices: vec![],
            annotations: BTreeMap::new(),
            cdi_devices: vec![],
            target: None,
            machine: Machine { memory_bytes: 1, cfs_quota: true, group_oom: false, no_swap: false },
            security: SecurityOptions {
                seccomp_root: Path::new("/"),
                seccomp_default: false,
                apparmor: false,
            },
        })
        .expect("a config");
        assert_eq!(config.command, ["echo", "1"]);
        assert_eq!(config.args, ["$(A)"]);
        assert_eq!(config.log_path, "c/3.log");
        assert_eq!(config.annotations.get(names::RESTART_COUNT).map(String::as_str), Some("3"));
        assert_eq!(config.annotations.get(names::POD_GRACE).map(String::as_str), Some("7"));
        assert_eq!(config.stop_signal, cri::Signal::Sigusr1 as i32);
    }
}
