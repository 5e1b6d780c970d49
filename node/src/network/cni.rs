//! The CNI configuration for this node's pods, and whether it is ours to write. Pure, but for [`write`] and [`remove`].

use std::{
    io,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::whole_file;

/// Our file. Runtimes take the first file by name; a user's plugin makes ours go away, whatever its name.
pub const FILE_NAME: &str = "10-quarterdeck.conflist";
const NETWORK_NAME: &str = "quarterdeck";
const CNI_VERSION: &str = "1.0.0";

/// What the configuration depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniConfig {
    /// Name of the bridge.
    pub bridge: String,
    /// Largest packet.
    pub mtu: u32,
    /// This node's pod ranges, at most one a family.
    pub pod_cidrs: Vec<IpNet>,
    /// Where host-local keeps addresses that are in use.
    pub state_dir: PathBuf,
}

impl CniConfig {
    /// The file's content.
    pub fn render(&self) -> String {
        let ranges: Vec<Value> =
            self.pod_cidrs.iter().map(|net| json!([{"subnet": net.trunc().to_string()}])).collect();
        let default = |net: &IpNet| json!({"dst": if net.addr().is_ipv4() { "0.0.0.0/0" } else { "::/0" }});
        let routes: Vec<Value> = self.pod_cidrs.iter().map(default).collect();
        // Host ports are served by rules of our own (`host_ports`): the portmap plugin needs iptables.
        let plugins = [json!({
            "type": "bridge",
            "bridge": self.bridge,
            "mtu": self.mtu,
            "isGateway": true,
            // Traffic that leaves the cluster is masqueraded by the node's own rules.
            "ipMasq": false,
            // A pod may reach itself through a service.
            "hairpinMode": true,
            "ipam": {"type": "host-local", "ranges": ranges, "routes": routes, "dataDir": self.state_dir},
        })];
        let list = json!({"cniVersion": CNI_VERSION, "name": NETWORK_NAME, "plugins": plugins});
        format!("{list:#}\n")
    }
}

/// The file of another CNI plugin among the names in the configuration folder, if any.
pub fn foreign<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let is_config = |name: &&str| [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end));
    names.into_iter().filter(|name| *name != FILE_NAME && !name.starts_with('.')).filter(is_config).min()
}

/// Names in the configuration folder; an absent folder has none.
pub fn list(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned())).collect()
}

/// Writes our file as a whole, if its content differs; true when it was written.
pub fn write(dir: &Path, content: &str) -> io::Result<bool> {
    let path = dir.join(FILE_NAME);
    if std::fs::read_to_string(&path).is_ok_and(|known| known == content) {
        return Ok(false);
    }
    // Runtimes watch the folder: the name must appear with its whole content.
    whole_file::replace(&path, content.as_bytes())?;
    Ok(true)
}

/// Removes our file, if it is there.
pub fn remove(dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(dir.join(FILE_NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_get_a_range_and_a_default_route() {
        let config = CniConfig {
            bridge: "qd0".into(),
            mtu: 1_450,
            pod_cidrs: ["10.1.2.0/24", "fd00:2::/64"].map(|net| net.parse().expect("a range")).into(),
            state_dir: "/state".into(),
        };
        let parsed: Value = serde_json::from_str(&config.render()).expect("JSON");
        assert_eq!(
            parsed["plugins"][0]["ipam"]["ranges"],
            json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:2::/64"}]])
        );
        assert_eq!(parsed["plugins"][0]["ipam"]["routes"], json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]));
        assert_eq!(parsed["plugins"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn another_plugin_is_seen_but_leftovers_are_not() {
        for (names, expected) in [
            (vec![FILE_NAME], None),
            (vec![FILE_NAME, "README", ".10-x.conflist", "x.bak"], None),
            (vec!["99-z.json", FILE_NAME, "05-cilium.conflist"], Some("05-cilium.conflist")),
            (vec!["99-loopback.conf"], Some("99-loopback.conf")),
        ] {
            assert_eq!(foreign(names.iter().copied()), expected, "{names:?}");
        }
    }

    #[test]
    fn the_file_is_written_once_and_removed() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(write(dir.path(), "a").expect("writable"));
        assert!(!write(dir.path(), "a").expect("writable"));
        assert!(write(dir.path(), "b").expect("writable"));
        assert_eq!(list(dir.path()).expect("readable"), [FILE_NAME]);
        remove(dir.path()).expect("removable");
        remove(dir.path()).expect("nothing left to remove");
        assert!(list(&dir.path().join("absent")).expect("no folder").is_empty());
    }
}
