//! Where things are under the agent's root folder.

use std::path::{Path, PathBuf};

/// Paths under one agent's root.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Paths under `root` (upstream's `--root-dir`, `/var/lib/kubelet`).
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The root itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of every pod.
    pub fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// One pod's folder.
    pub fn pod(&self, uid: &str) -> PathBuf {
        self.pods().join(uid)
    }

    /// Where the pod's volumes are.
    pub fn volumes(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("volumes")
    }

    /// One volume; `plugin` is `kubernetes.io/empty-dir` and the like.
    pub fn volume(&self, uid: &str, plugin: &str, name: &str) -> PathBuf {
        self.volumes(uid).join(plugin.replace('/', "~")).join(name)
    }

    /// Where block devices of the pod are.
    pub fn devices(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("volumeDevices")
    }

    /// Bind mounts of sub-paths.
    pub fn subpaths(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("volume-subpaths")
    }

    /// The pod's `/etc/hosts`.
    pub fn etc_hosts(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("etc-hosts")
    }

    /// A folder for one container's own files.
    pub fn container(&self, uid: &str, container: &str) -> PathBuf {
        self.pod(uid).join("containers").join(container)
    }

    /// Sockets of plugins that register themselves.
    pub fn plugins_registry(&self) -> PathBuf {
        self.root.join("plugins_registry")
    }

    /// Data of plugins; CSI's machine-wide mounts are under it.
    pub fn plugins(&self) -> PathBuf {
        self.root.join("plugins")
    }

    /// Sockets of device plugins.
    pub fn device_plugins(&self) -> PathBuf {
        self.root.join("device-plugins")
    }

    /// Localhost seccomp profiles.
    pub fn seccomp(&self) -> PathBuf {
        self.root.join("seccomp")
    }
}
