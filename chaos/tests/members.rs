//! Real members, as processes of this build: short runs on each kind of ground, and every fault that cannot be simulated
//! with every workload and its checkers.

use std::process::Command;
use std::thread;
use std::time::Duration;

use chaos::cluster::{Cluster, Ground, Program, Started};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

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

/// A fault may end a member after its window, and a run that fails may find its members ended.
#[tokio::test(flavor = "multi_thread")]
async fn members_that_end_by_themselves_are_started_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let command = [env!("CARGO_BIN_EXE_chaos"), "store"].map(str::to_owned).to_vec();
    let program = Program { command, flags: Vec::new(), env: Vec::new(), is_etcd: false };
    let ground = Ground::loopback((std::process::id() % 20_000) as u16);
    let cluster = Cluster::start_all(ground, program, folder.path(), 1, false).await.expect("a cluster");
    let end = || async {
        let pid = cluster.pid(0).expect("it runs");
        signal::kill(Pid::from_raw(pid as i32), Signal::SIGKILL).expect("killed");
        assert_eq!(cluster.outcome(0, Duration::from_secs(60)).await, Started::Ended);
    };
    end().await;
    cluster.await_answer(0).await.expect("started again by one that needs it");
    end().await;
    cluster.heal().await.expect("started again at the end");
    cluster.await_answer(0).await.expect("it answers");
}
