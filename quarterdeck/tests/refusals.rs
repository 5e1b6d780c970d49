//! Bad input and bad days at the command line: one sentence, the mend, a non-zero status, nothing half-created.

use std::net::TcpListener;
use std::process::{Command, Output};

/// Runs the binary to its end.
fn quarterdeck(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quarterdeck")).args(args).output().expect("the binary runs")
}

fn check(args: &[&str], problem: &str, mend: &str) {
    let output = quarterdeck(args);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{args:?} succeeded");
    assert!(text.contains(problem), "{args:?}: {text:?} lacks {problem:?}");
    assert!(text.contains(mend), "{args:?}: {text:?} lacks the mend {mend:?}");
}

#[test]
fn servers_refuse_what_cannot_work() {
    let root = tempfile::tempdir().expect("a folder");
    let dir = root.path().join("s");
    let data_dir = format!("--data-dir={}", dir.display());
    let base = ["server", "--name=a", "--bind-address=127.77.9.1", data_dir.as_str()];
    let with = |more: &[&'static str]| [base.as_slice(), more].concat();

    check(&with(&[]), "no server lives in", "--init");
    check(&with(&["--token=K10::x"]), "the join token does not start", "quarterdeck token create");
    check(&with(&["--token=qd1.agent.e30"]), "the join token is cut", "copy it whole");
    check(&with(&["--service-cidr=10.0.0.0/31", "--init"]), "too few addresses", "/24");
    check(&["server", "--no-such-flag"], "unexpected argument", "--help");
    assert!(!dir.join("pki").exists() && !dir.join("state.json").exists(), "something was half-created");

    let taken = TcpListener::bind("127.77.9.1:6443").expect("the port");
    check(&with(&["--init"]), "the API address 127.77.9.1:6443", "another port");
    drop(taken);

    std::fs::create_dir_all(&dir).expect("a folder");
    std::fs::write(dir.join("state.json"), r#"{"layout_version": 99}"#).expect("written");
    check(&with(&["--init"]), "newer quarterdeck", "newer version");
}

#[test]
fn agents_and_operations_refuse_what_cannot_work() {
    let root = tempfile::tempdir().expect("a folder");
    let data_dir = format!("--data-dir={}", root.path().display());
    check(&["agent", &data_dir], "no agent has joined", "--token");
    check(&["agent", &data_dir, "--token=qd1.server.e30"], "the join token", "quarterdeck token create");
    check(&["status", &data_dir], "no server lives in", "--data-dir");
    check(&["backup", &data_dir, "/tmp/never"], "no server lives in", "--data-dir");
    check(&["up", "--servers=2", &data_dir], "no useful quorum", "1, 3 or 5");
    let config = root.path().join("c.yaml");
    std::fs::write(&config, "no-such-flag: 1\n").expect("written");
    let config = format!("--config={}", config.display());
    check(&["agent", &config], "--no-such-flag", "--help");
}
