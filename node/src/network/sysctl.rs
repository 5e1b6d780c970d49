//! Kernel settings that routing pods needs.

use std::io;
use std::path::Path;
use std::sync::Once;

use crate::kernel_modules;

/// Path below /proc/sys, and value. What each is for:
const SETTINGS: [(&str, &str, &str); 4] = [
    ("net/ipv4/ip_forward", "1", "pods reach anything outside their node"),
    ("net/ipv6/conf/all/forwarding", "1", "IPv6 pods reach anything outside their node"),
    ("net/bridge/bridge-nf-call-iptables", "1", "services and policies work between pods of one node"),
    ("net/bridge/bridge-nf-call-ip6tables", "1", "services and policies work between IPv6 pods of one node"),
];

/// The module whose settings are those of bridges, and where they are once it is loaded.
const BRIDGE_MODULE: (&str, &str) = ("br_netfilter", "/proc/sys/net/bridge");
static LOADED: Once = Once::new();

/// Writes every setting that differs; the failures come back with what they break.
pub fn apply() -> Vec<(&'static str, &'static str, io::Error)> {
    LOADED.call_once(|| kernel_modules::load(BRIDGE_MODULE.0, Path::new(BRIDGE_MODULE.1)));
    let set = |path: &str, value: &str| {
        let path = format!("/proc/sys/{path}");
        match std::fs::read_to_string(&path)?.trim() == value {
            true => Ok(()),
            false => std::fs::write(&path, value),
        }
    };
    SETTINGS
        .iter()
        .filter_map(|(path, value, why)| set(path, value).err().map(|error| (*path, *why, error)))
        .collect()
}

/// Accepts packets whose answer would leave through another interface: routes of the two directions may differ.
pub fn loosen_reverse_path(interface: &str) {
    // Without the file there is no such check.
    let _ = std::fs::write(format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter"), "2");
}
