//! Real members, as processes of this build: short runs on each kind of ground, and every fault that cannot be simulated
//! with every workload and its checkers.

use std::process::Command;
use std::thread;

/// Clusters at a time: they wait more than they work.
const AT_A_TIME: usize = 3;
/// Every workload of the harness.
const WORKLOADS: [&str; 8] =
    ["register", "set", "append", "write-read", "bank", "watch", "lock", "kubernetes"];
/// The faults that the simulation, and so its matrix, cannot have.
const UNSIMULATED: &str = "add-member,remove-member,replace-member,torn-write,lost-writes,disk-full,disk-error,\
    flip-log,truncate-log,flip-state,truncate-state";

fn run(flags: &[&str]) -> (bool, String) {
    let folder = tempfile::tempdir().expect("a folder for the run");
    let program = env!("CARGO_BIN_EXE_chaos");
    let output = Command::new(program)
        .arg("run")
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
        "--seconds=14",
        "--pause-ms=20",
        "--seed=2",
        "--workload=write-read",
        "--faults=isolate-leader,kill-leader,one-way,lossy",
        "--combine=1",
    ]);
    assert!(valid, "{text}");
    assert!(text.contains("fault windows (all whole)"), "{text}");
}

#[test]
fn each_unsimulated_fault_with_each_checker() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root for namespaces and failing disks");
        return;
    }
    for workloads in WORKLOADS.chunks(AT_A_TIME) {
        let outcomes = thread::scope(|scope| {
            let start = |workload: &&str| {
                let workload = format!("--workload={workload}");
                let faults = format!("--faults={UNSIMULATED}");
                let shape = ["--each-once", "--seconds=1", "--seed=5", "--pause-ms=150"];
                scope.spawn(move || run(&[&shape[..], &[workload.as_str(), faults.as_str()]].concat()))
            };
            let running: Vec<_> = workloads.iter().map(start).collect();
            running.into_iter().map(|run| run.join().expect("the run's thread")).collect::<Vec<_>>()
        });
        for (valid, text) in outcomes {
            assert!(valid, "{text}");
            // Each was really inflicted, and undone.
            assert!(text.contains("11 fault windows (all whole)"), "{text}");
        }
    }
}
