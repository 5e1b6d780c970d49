//! The standard CNI plugins with the configuration that the pod network writes.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use node::network::cni::CniConfig;
use serde_json::{Value, json};

use crate::lab::{self, Namespace, eventually};

/// Folder of the plugins. In CI they have to be there.
fn plugins() -> Option<PathBuf> {
    let dirs = ["/opt/cni/bin", "/usr/lib/cni"].map(PathBuf::from);
    let found = dirs.into_iter().find(|dir| dir.join("bridge").exists() && dir.join("host-local").exists());
    if found.is_none() {
        let _ = writeln!(std::io::stderr(), "skipped: the CNI plugins bridge and host-local are missing");
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CNI plugins must be installed in CI");
    }
    found
}

/// Runs the first plugin of a configuration list for a pod, as a runtime does.
fn run(node: &Namespace, dir: &Path, list: &Value, command: &str, pod: &Namespace) -> Value {
    let mut config = list["plugins"][0].clone();
    config["cniVersion"] = list["cniVersion"].clone();
    config["name"] = list["name"].clone();
    let mut child = Command::new("ip")
        .args(["netns", "exec", &node.0])
        .arg(dir.join("bridge"))
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", &pod.0)
        .env("CNI_NETNS", format!("/run/netns/{}", pod.0))
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the plugin starts");
    child.stdin.take().expect("piped").write_all(config.to_string().as_bytes()).expect("the plugin reads");
    let output = child.wait_with_output().expect("the plugin ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{command}: {text}");
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

#[test]
fn pods_get_addresses_of_both_families_and_give_them_back() {
    let Some(dir) = plugins().filter(|_| lab::available()) else { return };
    let state = tempfile::tempdir().expect("a folder");
    let config = CniConfig {
        bridge: "qd0".into(),
        mtu: 1_450,
        pod_cidrs: ["10.79.1.0/24", "fd79:1::/64"].map(|net| net.parse().expect("a range")).into(),
        state_dir: state.path().into(),
    };
    let list: Value = serde_json::from_str(&config.render()).expect("JSON");
    let node = Namespace::new("plug-n");
    let pods = [Namespace::new("plug-a"), Namespace::new("plug-b")];
    let addresses: Vec<Value> =
        pods.iter().map(|pod| run(&node, &dir, &list, "ADD", pod)["ips"].clone()).collect();
    let expected = json!([{"address": "10.79.1.2/24", "gateway": "10.79.1.1", "interface": 2},
                          {"address": "fd79:1::2/64", "gateway": "fd79:1::1", "interface": 2}]);
    assert_eq!(addresses[0], expected);
    pods[1].serve_tcp("0.0.0.0:80", "b");
    eventually("pods reach each other", || pods[0].fetch("10.79.1.3:80"), |a| a == "b|10.79.1.2");
    assert_eq!(node.fetch("10.79.1.3:80"), "b|10.79.1.1", "and the node reaches them");
    let link = pods[0].output("ip", &["link", "show", "eth0"]);
    assert!(link.contains("mtu 1450"), "{link}");
    let routes = pods[0].output("ip", &["route"]);
    assert!(routes.contains("default via 10.79.1.1"), "{routes}");
    let port = node.output("bridge", &["-d", "link"]);
    assert!(port.contains("hairpin on"), "a pod may reach itself through a service: {port}");
    for pod in &pods {
        run(&node, &dir, &list, "DEL", pod);
    }
    let left = std::fs::read_dir(state.path().join("quarterdeck")).expect("host-local's folder");
    let left = left.filter_map(Result::ok).map(|entry| entry.file_name().to_string_lossy().into_owned());
    assert_eq!(
        left.filter(|name| name.starts_with("10.") || name.starts_with("fd")).count(),
        0,
        "addresses leaked"
    );
    for namespace in pods.iter().chain([&node]) {
        lab::sh(&format!("ip netns del {}", namespace.0));
    }
}
