//! Configuration file, environment and flags: a flag beats the environment, which beats the file.

use super::common::{run, run_with};

/// The server refuses for want of an introduction, and names the data directory it took.
fn check(file: &str, env: &[(&str, &str)], flags: &[&str], expected: &str) {
    let root = tempfile::tempdir().expect("a folder");
    let path = root.path().join("server.yaml");
    std::fs::write(&path, file).expect("written");
    let config = format!("--config={}", path.display());
    let args = [&["server", "--bind-address=127.77.15.1", &config], flags].concat();
    run_with(&args, env).refused(&format!("no server lives in {expected} yet"));
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file() {
    let (file, env) = ("data-dir: /tmp/of-file\n", ("QUARTERDECK_DATA_DIR", "/tmp/of-env"));
    check("{}", &[], &[], "/var/lib/quarterdeck/server");
    check(file, &[], &[], "/tmp/of-file");
    check(file, &[env], &[], "/tmp/of-env");
    check(file, &[env], &["--data-dir=/tmp/of-flag"], "/tmp/of-flag");
    check(file, &[], &["--data-dir", "/tmp/of-flag"], "/tmp/of-flag");
}

#[test]
fn the_file_may_be_named_in_the_environment_and_behind_other_options() {
    let root = tempfile::tempdir().expect("a folder");
    let path = root.path().join("server.yaml");
    std::fs::write(&path, "data-dir: /tmp/of-file\nbind-address: 127.77.15.1\n").expect("written");
    let path = path.to_str().expect("a path");
    run_with(&["server"], &[("QUARTERDECK_CONFIG", path)]).refused("no server lives in /tmp/of-file");
    let line = ["--log-format", "json", "server", "--config", path];
    run(&line).refused("no server lives in /tmp/of-file");
    run(&["server", "--config", "/nowhere/x.yaml"]).refused("/nowhere/x.yaml");
}

#[test]
fn logs_are_json_where_no_terminal_reads() {
    let root = tempfile::tempdir().expect("a folder");
    let path = root.path().join("server.yaml");
    std::fs::write(&path, "bind-address: 127.77.15.1\n").expect("written");
    let config = format!("--config={}", path.display());
    let first = |more: &[&str]| {
        let outcome = run(&[more, &["server", &config]].concat());
        outcome.stderr().lines().next().unwrap_or_default().to_owned()
    };
    let line: serde_json::Value = serde_json::from_str(&first(&[])).expect("JSON");
    assert_eq!(line["level"], "INFO");
    assert!(first(&["--log-format=text"]).contains("INFO"), "text was asked for");
    assert!(first(&["--log-level=error"]).starts_with("quarterdeck: "), "only the failure is said");
}
