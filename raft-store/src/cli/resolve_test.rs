//! Settings from flags, environment and file, and what etcd refuses of them.

use std::{collections::BTreeMap, time::Duration};

use super::{
    args::Args,
    resolve::{COMPACT_HASH_CHECK_DEFAULT, Settings},
};
use crate::config::{AutoCompaction, Config};

fn settings(flags: &[&str], environment: &[(&str, &str)]) -> Result<Settings, String> {
    let args = Args::from_flags(flags.iter().map(|flag| (*flag).to_owned())).unwrap();
    let environment: BTreeMap<&str, &str> = environment.iter().copied().collect();
    Settings::gather(&args, |name| environment.get(name).map(|value| (*value).to_owned()))
}

#[test]
fn flags_come_before_the_environment_and_a_file_before_both() {
    let config = settings(&["--name=flag"], &[("ETCD_NAME", "env"), ("ETCD_MAX_TXN_OPS", "7")]).unwrap();
    let config = config.config().unwrap();
    assert_eq!((config.name.as_str(), config.max_txn_ops), ("flag", 7));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("etcd.yml");
    std::fs::write(&path, "name: file\nclient-transport-security:\n  cert-file: /c\n").unwrap();
    let flag = format!("--config-file={}", path.display());
    let config = settings(&["--name=flag", &flag], &[]).unwrap().config().unwrap();
    assert_eq!(config.name, "file");
    assert_eq!(config.client_tls.cert_file, Some("/c".into()));
    std::fs::write(&path, "no-such: 1\n").unwrap();
    assert!(settings(&[&flag], &[]).is_err());
}

fn config(flags: &[&str]) -> Result<Config, String> {
    settings(flags, &[]).and_then(|settings| settings.config())
}

#[test]
fn what_is_not_offered_is_refused_and_older_names_count() {
    assert!(config(&["--discovery-srv=example.com"]).unwrap_err().contains("--initial-cluster"));
    assert!(config(&["--discovery-srv="]).is_ok(), "an empty value is none");
    assert_eq!(config(&["--experimental-max-learners=3"]).unwrap().max_learners, 3);
    assert_eq!(config(&["--experimental-max-learners=3", "--max-learners=2"]).unwrap().max_learners, 2);
    assert!(config(&["--feature-gates=InitialCorruptCheck=true"]).unwrap().initial_corrupt_check);
    let checked = config(&["--compact-hash-check-enabled", "--corrupt-check-time=10m"]).unwrap();
    assert_eq!(checked.corrupt_check_interval, COMPACT_HASH_CHECK_DEFAULT);
    assert_eq!(config(&["--auth-token-ttl=30"]).unwrap().auth_token_ttl, Duration::from_secs(30));
}

#[test]
fn rules_of_certificates_reach_their_port() {
    let found = config(&[
        "--client-crl-file=/c",
        "--peer-crl-file=/p",
        "--peer-cert-allowed-cn=a,b",
        "--client-cert-allowed-hostname=h",
        "--listen-client-urls=https://10.1.2.3:2379",
        "--advertise-client-urls=https://10.1.2.3:2379",
    ])
    .unwrap();
    assert_eq!((found.client_tls.crl_file, found.peer_tls.crl_file), (Some("/c".into()), Some("/p".into())));
    assert_eq!((found.client_tls.allowed_names.len(), found.peer_tls.allowed_names.len()), (0, 2));
    assert_eq!(found.client_tls.allowed_hosts, ["h"]);
    assert_eq!(found.client_tls.auto_tls_hosts, ["10.1.2.3"]);
    assert!(config(&["--tls-min-version=TLS1.0"]).is_err());
}

#[test]
fn a_file_has_its_tls_settings_in_blocks_and_durations_as_go_writes_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("etcd.yml");
    let text = "name: file\nwatch-progress-notify-interval: 2000000000\nlog-outputs: [stderr]\n\
                peer-transport-security:\n  allowed-cn: [one, two]\n  cert-file: /p\n  \
                skip-client-san-verification: true\nsocket-options:\n  reuse-port: true\n";
    std::fs::write(&path, text).unwrap();
    let found = config(&[&format!("--config-file={}", path.display())]).unwrap();
    assert_eq!(found.watch_progress_interval, Duration::from_secs(2));
    assert_eq!(found.peer_tls.allowed_names, ["one", "two"]);
    assert_eq!(found.peer_tls.cert_file, Some("/p".into()));
}

#[test]
fn compaction_is_read_as_etcd_reads_it() {
    let cases: [(&[&str], Result<AutoCompaction, ()>); 9] = [
        (&[], Ok(AutoCompaction::Off)),
        (&["--auto-compaction-retention=1"], Ok(AutoCompaction::Periodic(Duration::from_secs(3600)))),
        (&["--auto-compaction-retention=5m"], Ok(AutoCompaction::Periodic(Duration::from_secs(300)))),
        (
            &["--auto-compaction-mode=revision", "--auto-compaction-retention=1000"],
            Ok(AutoCompaction::Revision(1000)),
        ),
        (
            &["--auto-compaction-mode=revision", "--auto-compaction-retention=1us"],
            Ok(AutoCompaction::Revision(1000)),
        ),
        (&["--auto-compaction-mode=revision", "--auto-compaction-retention=-5"], Err(())),
        (&["--auto-compaction-retention=-1h"], Err(())),
        (&["--auto-compaction-mode="], Err(())),
        (&["--auto-compaction-mode=never"], Err(())),
    ];
    for (flags, expected) in cases {
        let found = settings(flags, &[]).unwrap().config().map(|config| config.auto_compaction);
        assert_eq!(found.map_err(|_| ()), expected, "{flags:?}");
    }
}

#[test]
fn intervals_that_cannot_be_are_refused_in_etcds_words() {
    let cases = [
        ("--heartbeat-interval=0", "--heartbeat-interval must be >0 (set to 0ms)"),
        ("--election-timeout=0", "--election-timeout must be >0 (set to 0ms)"),
        (
            "--election-timeout=499",
            "--election-timeout[499ms] should be at least as 5 times as --heartbeat-interval[100ms]",
        ),
        (
            "--election-timeout=50001",
            "--election-timeout[50001ms] is too long, and should be set less than 50000ms",
        ),
        ("--compact-hash-check-time=0s", "--compact-hash-check-time must be >0 (set to 0s)"),
        ("--compact-hash-check-time=-1s", "--compact-hash-check-time must be >0 (set to -1s)"),
        ("--auto-compaction-mode=foo", "unknown auto-compaction-mode \"foo\""),
        ("--name=", "couldn't find local name \"\" in the initial cluster configuration"),
        ("--log-level=foo", "unrecognized level: \"foo\""),
        ("--logger=foo", "unknown logger option \"foo\""),
        (
            "--watch-progress-notify-interval=5",
            "invalid value \"5\" for flag -watch-progress-notify-interval: parse error",
        ),
    ];
    for (flag, expected) in cases {
        assert_eq!(config(&[flag]).err().as_deref(), Some(expected), "{flag}");
    }
    assert!(config(&["--election-timeout=50000"]).is_ok());
}

#[test]
fn what_etcd_reads_as_never_or_as_the_default_is_read_so() {
    let found = config(&[
        "--watch-progress-notify-interval=0",
        "--quota-backend-bytes=-1",
        "--bcrypt-cost=3",
        "--compaction-batch-limit=0",
        "--compaction-sleep-interval=-1s",
        "--grpc-keepalive-timeout=-1s",
        "--metrics=foo",
    ])
    .unwrap();
    let plain = config(&[]).unwrap();
    assert_eq!(found.watch_progress_interval, plain.watch_progress_interval);
    assert_eq!((found.quota_backend_bytes, found.bcrypt_cost), (0, plain.bcrypt_cost));
    assert_eq!(found.compaction_batch_limit, plain.compaction_batch_limit);
    assert_eq!((found.compaction_sleep_interval, found.grpc_keepalive_interval), Default::default());
    assert!(!found.extensive_metrics);
    let often = config(&["--watch-progress-notify-interval=1ns"]).unwrap();
    assert_eq!(often.watch_progress_interval, Duration::from_millis(100));
}
