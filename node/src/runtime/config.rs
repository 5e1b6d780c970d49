//! The configuration of a supervised containerd. Pure text from facts about the machine.

use std::path::PathBuf;

/// Where a supervised containerd keeps everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Images and snapshots; survives reboots.
    pub root: PathBuf,
    /// Sockets and the state of running containers; short, for sockets' names are limited.
    pub state: PathBuf,
    /// Where CNI configurations are looked for.
    pub cni_conf_dir: PathBuf,
    /// Where CNI plugins are.
    pub cni_bin_dir: PathBuf,
}

impl Paths {
    /// The socket.
    pub fn socket(&self) -> PathBuf {
        self.state.join("containerd.sock")
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// Where its messages go.
    pub fn log(&self) -> PathBuf {
        self.root.join("containerd.log")
    }

    /// The process id of the one that was started.
    pub fn pid(&self) -> PathBuf {
        self.state.join("containerd.pid")
    }
}

/// What the machine allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Processes may be protected from the out-of-memory killer (`CAP_SYS_RESOURCE`).
    pub may_lower_oom_score: bool,
    /// The kernel has AppArmor.
    pub apparmor: bool,
    /// The file system of images can carry overlays.
    pub overlayfs: bool,
    /// systemd manages cgroups.
    pub systemd_cgroups: bool,
}

/// The configuration file's text.
pub fn text(paths: &Paths, machine: Machine, sandbox_image: &str) -> String {
    let show = |path: &PathBuf| path.display().to_string();
    format!(
        r#"version = 2
root = "{root}"
state = "{state}"

[grpc]
  address = "{socket}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{sandbox_image}"
  disable_apparmor = {no_apparmor}
  restrict_oom_score_adj = {restrict_oom}
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_bin}"
    conf_dir = "{cni_conf}"

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    default_runtime_name = "runc"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = {systemd}
"#,
        root = show(&paths.root),
        state = show(&paths.state),
        socket = show(&paths.socket()),
        no_apparmor = !machine.apparmor,
        restrict_oom = !machine.may_lower_oom_score,
        cni_bin = show(&paths.cni_bin_dir),
        cni_conf = show(&paths.cni_conf_dir),
        snapshotter = if machine.overlayfs { "overlayfs" } else { "native" },
        systemd = machine.systemd_cgroups,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_become_settings() {
        let paths = Paths {
            root: "/r".into(),
            state: "/s".into(),
            cni_conf_dir: "/c".into(),
            cni_bin_dir: "/b".into(),
        };
        let machine =
            Machine { may_lower_oom_score: false, apparmor: false, overlayfs: true, systemd_cgroups: false };
        let text = text(&paths, machine, "pause:v1");
        for line in [
            "address = \"/s/containerd.sock\"",
            "sandbox_image = \"pause:v1\"",
            "restrict_oom_score_adj = true",
            "disable_apparmor = true",
            "snapshotter = \"overlayfs\"",
            "conf_dir = \"/c\"",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
