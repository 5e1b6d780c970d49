//! Real members, as processes of this build: a short run of each kind of ground.

use std::process::Command;

fn run(flags: &[&str]) -> (bool, String) {
    let folder = tempfile::tempdir().expect("a folder for the run");
    let program = env!("CARGO_BIN_EXE_chaos");
    let output = Command::new(program)
        .args(["run", "--seconds=14", "--pause-ms=20"])
        .args(flags)
        .arg(format!("--dir={}", folder.path().display()))
        .arg(format!("--binary={program}"))
        .output()
        .expect("the harness runs");
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), text)
}

#[test]
fn members_behind_proxies_keep_their_promises() {
    let (valid, text) = run(&[
        "--loopback",
        "--seed=2",
        "--workload=write-read",
        "--faults=isolate-leader,kill-leader,one-way,lossy",
    ]);
    assert!(valid, "{text}");
}

#[test]
fn members_in_namespaces_on_failing_disks_keep_their_promises() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let (valid, text) = run(&["--seed=5", "--workload=set", "--faults=lost-writes,disk-full,disk-error"]);
    assert!(valid, "{text}");
}
