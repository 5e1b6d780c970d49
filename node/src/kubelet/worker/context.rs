//! What every pod's worker shares.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::kubelet::cgroups::Cgroups;
use crate::kubelet::cluster::events::Recorder;
use crate::kubelet::cluster::objects::Objects;
use crate::kubelet::cluster::services::Services;
use crate::kubelet::config::Config;
use crate::kubelet::cri::Runtime;
use crate::kubelet::cri::resources::Machine;
use crate::kubelet::cri::security::SecurityOptions;
use crate::kubelet::csi::Plugins;
use crate::kubelet::devices::manager::Manager as DeviceManager;
use crate::kubelet::fields::Allocatable;
use crate::kubelet::images::Images;
use crate::kubelet::runtime_class::RuntimeClasses;
use crate::kubelet::volumes::Volumes;

/// Shared by every worker.
pub struct Context {
    /// The settings.
    pub config: Config,
    /// The API, as this node.
    pub client: Client,
    /// The container runtime.
    pub runtime: Runtime,
    /// Volumes.
    pub volumes: Volumes,
    /// Storage drivers.
    pub csi: Arc<Plugins>,
    /// Device plugins.
    pub devices: Arc<DeviceManager>,
    /// ConfigMaps and Secrets.
    pub objects: Arc<Objects>,
    /// Services, for variables.
    pub services: Services,
    /// Images.
    pub images: Arc<Images>,
    /// Events.
    pub recorder: Recorder,
    /// Cgroups of pods.
    pub cgroups: Cgroups,
    /// Runtime classes.
    pub runtime_classes: RuntimeClasses,
    /// The machine, as far as containers' settings depend on it.
    pub machine: Machine,
    /// The kernel has AppArmor.
    pub apparmor: bool,
    /// The node's allocatable resources.
    pub allocatable: RwLock<Allocatable>,
    /// Why pods cannot get a network, if they cannot.
    pub network_error: RwLock<Option<String>>,
    /// Fires when a pod got or lost its address.
    pub addresses_changed: Notify,
    /// Asks the lister to look at once.
    pub relist: Notify,
}

impl Context {
    /// The node's addresses as text, primary first.
    pub fn host_ips(&self) -> Vec<String> {
        self.config.node_ips.iter().map(ToString::to_string).collect()
    }

    /// True while anything of the pod is on this machine: its folder goes last.
    pub fn is_known(&self, uid: &str) -> bool {
        self.volumes.layout().pod(uid).exists()
    }

    /// The runtime's name, the scheme of container ids.
    pub fn runtime_name(&self) -> &str {
        &self.runtime.version().name
    }

    /// What containers' security settings depend on. `seccomp_root` is the folder of profiles.
    pub fn security<'a>(&self, seccomp_root: &'a std::path::Path) -> SecurityOptions<'a> {
        SecurityOptions {
            seccomp_root,
            seccomp_default: self.config.seccomp_default,
            apparmor: self.apparmor,
        }
    }

    /// The sandbox's configuration of a pod.
    pub fn sandbox_config(&self, pod: &Pod, attempt: u32) -> Result<proto::cri::PodSandboxConfig, String> {
        let cgroup_parent = self.cgroups.parent_for_runtime(pod);
        let options = crate::kubelet::cri::sandbox_config::SandboxOptions {
            log_root: &self.config.pod_logs_dir,
            dns: &self.config.dns,
            cgroup_parent: &cgroup_parent,
        };
        crate::kubelet::cri::sandbox_config::sandbox_config(pod, attempt, options)
    }
}
