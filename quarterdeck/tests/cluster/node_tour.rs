//! The node's promises as CI sees them: a cluster of one server and a node with real containers, and promises asked for
//! with kubectl, one by one: parts of the tour in `node/tests/tour`, those that users meet first.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::common::{cannot_run_containers, skip};
use super::up::Up;
use super::{alone, kubectl};

/// Not the default, which another cluster of this machine may have.
const PORT: u16 = 27444;
/// What the tour's scripts need beside what containers need.
const PROGRAMS: [&str; 5] = ["ctr", "busybox", "python3", "curl", "script"];
/// The parts that run here, beside each other: logs to debug; services, names and policies.
const PARTS: [&str; 2] = ["streams", "network"];
/// Every wait of the tour may take so many times as long as on an idle machine.
const PATIENCE: &str = "6";
/// Something hangs if the tour takes longer than this, seconds.
const LIMIT_SECS: &str = "600";

/// Why the tour cannot run here; on CI that is a failure.
fn cannot_run() -> Option<String> {
    if let Some(why) = cannot_run_containers() {
        return Some(why.to_owned());
    }
    let there = |program: &&str| {
        ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/bin", "/sbin"]
            .iter()
            .any(|dir| Path::new(dir).join(program).exists())
    };
    if let Some(absent) = PROGRAMS.iter().find(|program| !there(program)) {
        assert!(std::env::var_os("CI").is_none(), "CI must have {absent}");
        return Some(format!("{absent} is not installed"));
    }
    kubectl::too_old()
}

#[test]
fn the_nodes_promises_one_by_one() {
    if let Some(why) = cannot_run() {
        skip(&why);
        return;
    }
    let _alone = alone();
    let root = tempfile::tempdir().expect("a folder");
    let data_dir = root.path().join("run");
    let mut command = Command::new(env!("CARGO_BIN_EXE_quarterdeck"));
    command.args(["up", "--servers=1", "--data-dir"]).arg(&data_dir).arg(format!("--port={PORT}"));
    let up = Up::launch(command, data_dir.clone(), &["node-1 is Ready"]);
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../node/tests/tour/run.sh");
    let tour = Command::new("timeout")
        .args(["--kill-after=60", LIMIT_SECS, "bash"])
        .arg(script)
        .args(PARTS)
        .env("KUBECONFIG", data_dir.join("kubeconfig"))
        .env("PATIENCE", PATIENCE)
        .output()
        .expect("the tour starts");
    up.end();
    let said = String::from_utf8_lossy(&tour.stdout);
    println!("{said}\n{}", String::from_utf8_lossy(&tour.stderr));
    assert!(tour.status.success(), "{}: a promise is broken, see FAILED above", tour.status);
    // A part that was left out must not look like one that passed.
    assert_eq!(said.matches(" passed, 0 failed").count(), PARTS.len(), "every part has run");
    assert!(!Path::new("/sys/class/net/quarterdeck0").exists(), "the interface stays");
}
