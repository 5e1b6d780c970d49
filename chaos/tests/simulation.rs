//! The simulation as CI runs it: a seed replays, and a fixed budget of simulated time, in which every simulated fault
//! meets every workload and its checkers, convicts nobody.

use std::process::Command;

fn chaos(args: &[&str]) -> (bool, String) {
    let folder = tempfile::tempdir().expect("a folder for reports");
    let output = Command::new(env!("CARGO_BIN_EXE_chaos"))
        .args(args)
        .arg(format!("--dir={}", folder.path().display()))
        .output()
        .expect("the harness runs");
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), text)
}

#[test]
fn a_seed_replays_to_the_same_history() {
    let (same, text) =
        chaos(&["simulate", "--seed=7", "--seconds=15", "--workload=all", "--pause-ms=100", "--twice"]);
    assert!(same, "{text}");
}

#[test]
fn each_simulated_fault_with_each_checker() {
    let (valid, text) =
        chaos(&["simulate", "--each-once", "--seed=3", "--seconds=1", "--workload=all", "--pause-ms=100"]);
    assert!(valid, "{text}");
    // All sixteen with each workload; a clock that jumps says nothing of leases.
    assert_eq!(text.matches(", 16 fault windows").count(), 7, "{text}");
    assert_eq!(text.matches(", 15 fault windows").count(), 1, "{text}");
}
