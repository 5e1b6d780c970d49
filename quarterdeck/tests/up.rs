//! `make run`, as CI sees it: three servers, a node with real containers, the examples, the Service and its DNS name.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

/// Two clusters on one machine would want the same ports.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs `up --once` in a folder of its own.
fn up(more: &[&str]) -> Output {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let root = tempfile::tempdir().expect("a folder");
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let output = Command::new(env!("CARGO_BIN_EXE_quarterdeck"))
        .args(["up", "--once", "--data-dir"])
        .arg(root.path().join("run"))
        .arg("--examples")
        .arg(examples)
        .args(more)
        .output()
        .expect("the binary runs");
    println!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    output
}

/// Why no container can run here; on CI that is a failure, because CI machines can.
fn cannot_run_containers() -> Option<&'static str> {
    let lacks = |program: &str| {
        !["/usr/bin", "/usr/sbin", "/usr/local/bin"].iter().any(|dir| Path::new(dir).join(program).exists())
    };
    let why = if !nix::unistd::geteuid().is_root() {
        "not root"
    } else if ["containerd", "runc", "nft", "ip"].iter().any(|program| lacks(program)) {
        "containerd, runc, nftables or iproute2 is not installed"
    } else {
        return None;
    };
    assert!(std::env::var_os("CI").is_none(), "CI must be able to run containers: {why}");
    Some(why)
}

#[test]
fn make_run_reaches_a_service_by_address_and_by_name() {
    if let Some(why) = cannot_run_containers() {
        println!("skipped: {why}");
        return;
    }
    let output = up(&[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for step in ["server-3 is ready", "node-1 is Ready", "the Service `web` answers", "the Job `ask` heard"] {
        assert!(text.contains(step), "{step:?} is missing in {text}");
    }
}

#[test]
fn without_containers_the_control_plane_runs_with_hollow_nodes() {
    let output = up(&["--hollow-nodes=3"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for step in ["server-3 is ready", "3 hollow nodes are Ready", "the Deployment `web` is available"] {
        assert!(text.contains(step), "{step:?} is missing in {text}");
    }
}
