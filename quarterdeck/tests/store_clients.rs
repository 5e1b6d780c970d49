//! Client libraries against our store: a Rust, a Go and a Python one, each a tour that passes on etcd itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use chaos::cluster::{Cluster, Ground, Program};
use etcd_client::{Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp, WatchOptions};

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/clients")
}

async fn store(root: &Path, members: usize, port_shift: u16) -> Cluster {
    let program = Program {
        command: vec![env!("CARGO_BIN_EXE_quarterdeck").into(), "store".into()],
        flags: Vec::new(),
        env: Vec::new(),
        is_etcd: false,
    };
    let cluster = Cluster::start_all(Ground::loopback(port_shift), program, root, members, false).await;
    cluster.unwrap_or_else(|error| {
        let log = std::fs::read_to_string(root.join("m0.log")).unwrap_or_default();
        panic!("the store does not start: {error}\n{log}")
    })
}

fn endpoints(members: usize, port_shift: u16) -> String {
    let host_port = |at| Ground::loopback(port_shift).client_url(at).replace("http://", "");
    (0..members).map(host_port).collect::<Vec<_>>().join(",")
}

/// Runs one tour; its output is shown, and it must succeed.
fn tour(command: &mut Command) {
    let output = command.output().expect("the tour runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{command:?}:\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.matches("ok ").count() > 5, "the tour was short:\n{text}");
}

/// Why a tour cannot run here. On CI everything that the set-up installs must be there.
fn missing(program: &str) -> bool {
    let there = Command::new(program).arg("version").output().is_ok();
    if !there {
        println!("skipped: {program} is not installed");
    }
    !there
}

#[tokio::test(flavor = "multi_thread")]
async fn a_go_client_tours_three_members() {
    if missing("go") {
        return;
    }
    let root = tempfile::tempdir().expect("a folder");
    let _cluster = store(root.path(), 3, 1_020).await;
    let mut go = Command::new("go");
    tour(go.args(["run", ".", &endpoints(3, 1_020)]).current_dir(clients().join("etcd-go")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_client_tours_a_member() {
    let root = tempfile::tempdir().expect("a folder");
    let venv = root.path().join("venv");
    let made = Command::new("python3").args(["-m", "venv"]).arg(&venv).output();
    if !made.is_ok_and(|output| output.status.success()) {
        println!("skipped: python3 with venv is not installed");
        return;
    }
    let python = clients().join("etcd-python");
    let installed = Command::new(venv.join("bin/pip"))
        .args(["install", "--quiet", "-r"])
        .arg(python.join("requirements.txt"))
        .output()
        .expect("pip runs");
    if !installed.status.success() {
        println!(
            "skipped: the package index cannot be reached: {}",
            String::from_utf8_lossy(&installed.stderr)
        );
        return;
    }
    let _cluster = store(root.path(), 1, 1_030).await;
    tour(
        Command::new(venv.join("bin/python"))
            .arg(python.join("tour.py"))
            .arg(Ground::loopback(1_030).client_url(0)),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rust_client_tours_three_members() {
    let root = tempfile::tempdir().expect("a folder");
    let cluster = store(root.path(), 3, 1_040).await;
    let mut client = cluster.any_client().await.expect("a client");

    client.put("rs/a", "1", None).await.expect("put");
    let put = client.put("rs/a", "2", Some(PutOptions::new().with_prev_key())).await.expect("put");
    assert_eq!(put.prev_key().map(|kv| kv.value().to_vec()), Some(b"1".to_vec()));
    let revision = put.header().expect("a header").revision();
    let old = client.get("rs/a", Some(GetOptions::new().with_revision(revision - 1))).await.expect("get");
    assert_eq!(old.kvs()[0].value(), b"1");

    let txn = Txn::new()
        .when([Compare::version("rs/b", CompareOp::Equal, 0)])
        .and_then([TxnOp::put("rs/b", "x", None)])
        .or_else([TxnOp::delete("rs/b", None)]);
    assert!(client.txn(txn.clone()).await.expect("txn").succeeded());
    assert!(!client.txn(txn).await.expect("txn").succeeded());

    let options = WatchOptions::new().with_prefix().with_start_revision(revision);
    let mut events = client.watch("rs/", Some(options)).await.expect("watch");
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let response = events.message().await.expect("a response").expect("an open stream");
        seen.extend(response.events().iter().map(|event| event.kv().map(|kv| kv.mod_revision())));
    }
    assert_eq!(seen, [Some(revision), Some(revision + 1), Some(revision + 2)]);

    let lease = client.lease_grant(60, None).await.expect("a lease").id();
    client.put("rs/l", "x", Some(PutOptions::new().with_lease(lease))).await.expect("put");
    client.lease_revoke(lease).await.expect("revoked");
    assert!(client.get("rs/l", None).await.expect("get").kvs().is_empty());
}
