//! Every flag of etcd, what it does here, and that it does just that.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use super::{
    args::Args,
    flags::{FLAGS, Role},
    resolve::Settings,
};
use crate::{
    config::{AutoCompaction, ClusterState, Config},
    tls::TlsPolicy,
};

/// What a flag does.
enum Does {
    /// It changes the configuration: a value (further flags may follow it), and what is to be seen then.
    Acts(&'static str, fn(&Config) -> bool),
    /// It is looked at elsewhere, before there is a configuration or where there are files: see the tests there.
    Elsewhere,
    /// It is taken, said to be needless, and changes nothing.
    Nothing(&'static str),
    /// The same as the flag the table of flags names.
    As(&'static str),
    /// With it no member starts: it would be taken to work.
    Refused,
}
use Does::{Acts, As, Elsewhere, Nothing, Refused};

type Row = (&'static str, Does);

fn p(path: &str) -> PathBuf {
    path.into()
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Flags of etcd 3.6 and 3.7.
const OF_36_AND_37: &[Row] = &[
    ("wal-dir", Acts("/w", |c| c.wal_dir == Some(p("/w")))),
    ("name", Acts("m7", |c| c.name == "m7" && c.data_dir == p("m7.etcd"))),
    ("data-dir", Acts("/d", |c| c.data_dir == p("/d"))),
    (
        "listen-client-urls",
        Acts("http://a:1 --advertise-client-urls=http://b:2", |c| c.listen_client_urls == ["http://a:1"]),
    ),
    ("advertise-client-urls", Acts("http://b:2,http://c:3", |c| c.advertise_client_urls.len() == 2)),
    ("listen-peer-urls", Acts("http://a:1", |c| c.listen_peer_urls == ["http://a:1"])),
    ("initial-advertise-peer-urls", Acts("http://a:1", |c| c.initial_cluster[0].1 == "http://a:1")),
    ("listen-client-http-urls", Acts("http://a:1", |c| c.listen_client_http_urls == ["http://a:1"])),
    ("listen-metrics-urls", Acts("http://a:1", |c| c.listen_metrics_urls == ["http://a:1"])),
    ("initial-cluster", Acts("a=http://a:1,b=http://b:1", |c| c.initial_cluster.len() == 2)),
    ("initial-cluster-state", Acts("existing", |c| c.initial_cluster_state == ClusterState::Existing)),
    ("initial-cluster-token", Acts("t", |c| c.initial_cluster_token == "t")),
    ("snapshot-count", Acts("7", |c| c.snapshot_count == 7)),
    ("snapshot-catchup-entries", Acts("7", |c| c.snapshot_catchup_entries == 7)),
    ("quota-backend-bytes", Acts("7", |c| c.quota_backend_bytes == 7)),
    (
        "auto-compaction-mode",
        Acts("revision --auto-compaction-retention=7", |c| c.auto_compaction == AutoCompaction::Revision(7)),
    ),
    ("auto-compaction-retention", Acts("7s", |c| c.auto_compaction == AutoCompaction::Periodic(secs(7)))),
    ("max-request-bytes", Acts("7", |c| c.max_request_bytes == 7)),
    ("max-txn-ops", Acts("7", |c| c.max_txn_ops == 7)),
    ("max-learners", Acts("7", |c| c.max_learners == 7)),
    ("max-concurrent-streams", Acts("7", |c| c.max_concurrent_streams == 7)),
    ("heartbeat-interval", Acts("7", |c| c.heartbeat_interval.as_millis() == 7)),
    ("election-timeout", Acts("7000", |c| c.election_timeout == secs(7))),
    ("cert-file", Acts("/x", |c| c.client_tls.cert_file == Some(p("/x")))),
    ("key-file", Acts("/x", |c| c.client_tls.key_file == Some(p("/x")))),
    ("trusted-ca-file", Acts("/x", |c| c.client_tls.trusted_ca_file == Some(p("/x")))),
    ("client-cert-file", Acts("/x", |c| c.client_tls.client_cert_file == Some(p("/x")))),
    ("client-key-file", Acts("/x", |c| c.client_tls.client_key_file == Some(p("/x")))),
    ("client-cert-auth", Acts("", |c| c.client_tls.client_cert_auth)),
    ("auto-tls", Acts("", |c| c.client_tls.auto_tls)),
    ("peer-cert-file", Acts("/x", |c| c.peer_tls.cert_file == Some(p("/x")))),
    ("peer-key-file", Acts("/x", |c| c.peer_tls.key_file == Some(p("/x")))),
    ("peer-trusted-ca-file", Acts("/x", |c| c.peer_tls.trusted_ca_file == Some(p("/x")))),
    ("peer-client-cert-file", Acts("/x", |c| c.peer_tls.client_cert_file == Some(p("/x")))),
    ("peer-client-key-file", Acts("/x", |c| c.peer_tls.client_key_file == Some(p("/x")))),
    ("peer-client-cert-auth", Acts("", |c| c.peer_tls.client_cert_auth)),
    ("peer-auto-tls", Acts("", |c| c.peer_tls.auto_tls)),
    ("peer-cert-allowed-cn", Acts("a,b", |c| c.peer_tls.allowed_names == ["a", "b"])),
    ("peer-cert-allowed-hostname", Acts("a", |c| c.peer_tls.allowed_hosts == ["a"])),
    ("peer-crl-file", Acts("/x", |c| c.peer_tls.crl_file == Some(p("/x")))),
    ("peer-skip-client-san-verification", Acts("", |c| c.peer_tls.skip_client_san_verification)),
    ("client-cert-allowed-hostname", Acts("a", |c| c.client_tls.allowed_hosts == ["a"])),
    ("client-crl-file", Acts("/x", |c| c.client_tls.crl_file == Some(p("/x")))),
    (
        "self-signed-cert-validity",
        Acts("7", |c| c.client_tls.auto_tls_years == 7 && c.peer_tls.auto_tls_years == 7),
    ),
    ("tls-min-version", Acts("TLS1.3", |c| c.client_tls.policy.versions().len() == 1)),
    ("tls-max-version", Acts("TLS1.2", |c| c.peer_tls.policy.versions().len() == 1)),
    (
        "cipher-suites",
        Acts("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", |c| c.peer_tls.policy != TlsPolicy::default()),
    ),
    ("cors", Acts("a,b", |c| c.cors == ["a", "b"])),
    ("host-whitelist", Acts("a", |c| c.host_whitelist == ["a"])),
    ("auth-token", Elsewhere),
    ("auth-token-ttl", Acts("7", |c| c.auth_token_ttl == secs(7))),
    ("bcrypt-cost", Acts("7", |c| c.bcrypt_cost == 7)),
    ("watch-progress-notify-interval", Acts("7s", |c| c.watch_progress_interval == secs(7))),
    ("corrupt-check-time", Acts("7s", |c| c.corrupt_check_interval == secs(7))),
    (
        "compact-hash-check-time",
        Acts("7s --compact-hash-check-enabled", |c| c.corrupt_check_interval == secs(7)),
    ),
    ("feature-gates", Acts("InitialCorruptCheck=true", |c| c.initial_corrupt_check)),
    ("compaction-batch-limit", Acts("7", |c| c.compaction_batch_limit == 7)),
    ("compaction-sleep-interval", Acts("7s", |c| c.compaction_sleep_interval == secs(7))),
    ("grpc-keepalive-interval", Acts("7s", |c| c.grpc_keepalive_interval == secs(7))),
    ("grpc-keepalive-timeout", Acts("7s", |c| c.grpc_keepalive_timeout == secs(7))),
    ("warning-apply-duration", Acts("7s", |c| c.warning_apply_duration == secs(7))),
    ("warning-unary-request-duration", Acts("7s", |c| c.warning_request_duration == secs(7))),
    ("metrics", Acts("extensive", |c| c.extensive_metrics)),
    ("strict-reconfig-check", Acts("false", |c| !c.strict_reconfig_check)),
    ("force-new-cluster", Acts("", |c| c.force_new_cluster)),
    ("enable-grpc-gateway", Acts("0", |c| !c.enable_grpc_gateway)),
    ("config-file", Elsewhere),
    ("version", Elsewhere),
    ("log-level", Elsewhere),
    ("log-format", Elsewhere),
    ("max-wals", Nothing("7")),
    ("max-snapshots", Nothing("7")),
    ("initial-election-tick-advance", Nothing("")),
    ("backend-bbolt-freelist-type", Nothing("7")),
    ("backend-batch-interval", Nothing("7s")),
    ("backend-batch-limit", Nothing("7")),
    ("grpc-keepalive-min-time", Nothing("7s")),
    ("socket-reuse-port", Nothing("")),
    ("socket-reuse-address", Nothing("")),
    ("raft-read-timeout", Nothing("7s")),
    ("raft-write-timeout", Nothing("7s")),
    ("discovery-dial-timeout", Nothing("7s")),
    ("discovery-request-timeout", Nothing("7s")),
    ("discovery-keepalive-time", Nothing("7s")),
    ("discovery-keepalive-timeout", Nothing("7s")),
    ("discovery-insecure-transport", Nothing("")),
    ("discovery-insecure-skip-tls-verify", Nothing("")),
    ("discovery-cert", Nothing("7")),
    ("discovery-key", Nothing("7")),
    ("discovery-cacert", Nothing("7")),
    ("discovery-user", Nothing("7")),
    ("discovery-password", Nothing("7")),
    ("discovery-srv-name", Nothing("7")),
    ("discovery-fallback", Nothing("7")),
    ("pre-vote", Nothing("")),
    ("logger", Nothing("zap")),
    ("log-outputs", Nothing("7")),
    ("enable-log-rotation", Nothing("")),
    ("log-rotation-config-json", Nothing("7")),
    ("enable-pprof", Nothing("")),
    ("enable-distributed-tracing", Nothing("")),
    ("distributed-tracing-address", Nothing("7")),
    ("distributed-tracing-service-name", Nothing("7")),
    ("distributed-tracing-instance-id", Nothing("7")),
    ("distributed-tracing-sampling-rate", Nothing("7")),
    ("downgrade-check-time", Nothing("7s")),
    ("memory-mlock", Nothing("")),
    ("bootstrap-defrag-threshold-megabytes", Nothing("7")),
    ("unsafe-no-fsync", Nothing("")),
    ("v2-deprecation", Nothing("7")),
    ("cluster-active-size", Nothing("")),
    ("cluster-remove-delay", Nothing("")),
    ("cluster-sync-interval", Nothing("")),
    ("config", Nothing("")),
    ("force", Nothing("")),
    ("max-result-buffer", Nothing("")),
    ("max-retry-attempts", Nothing("")),
    ("peer-heartbeat-interval", Nothing("")),
    ("peer-election-timeout", Nothing("")),
    ("retry-interval", Nothing("")),
    ("snapshot", Nothing("")),
    ("v", Nothing("")),
    ("vv", Nothing("")),
    ("discovery-endpoints", Refused),
    ("discovery-token", Refused),
    ("discovery-srv", Refused),
];

/// Flags of etcd 3.6 that 3.7 has no more.
const OF_36_ALONE: &[Row] = &[
    ("experimental-enable-lease-checkpoint", Nothing("")),
    ("experimental-memory-mlock", Nothing("")),
    ("experimental-bootstrap-defrag-threshold-megabytes", Nothing("7")),
    ("experimental-txn-mode-write-with-shared-buffer", Nothing("")),
    ("experimental-stop-grpc-service-on-defrag", Nothing("")),
    ("experimental-enable-distributed-tracing", Nothing("")),
    ("experimental-distributed-tracing-address", Nothing("7")),
    ("experimental-distributed-tracing-service-name", Nothing("7")),
    ("experimental-distributed-tracing-instance-id", Nothing("7")),
    ("experimental-distributed-tracing-sampling-rate", Nothing("7")),
    ("experimental-downgrade-check-time", Nothing("7s")),
    ("experimental-enable-lease-checkpoint-persist", Nothing("")),
    ("experimental-watch-progress-notify-interval", As("7s")),
    ("experimental-corrupt-check-time", As("7s")),
    ("experimental-compact-hash-check-enabled", As("")),
    ("experimental-compact-hash-check-time", As("7s --compact-hash-check-enabled")),
    ("experimental-initial-corrupt-check", As("")),
    ("experimental-compaction-batch-limit", As("7")),
    ("experimental-compaction-sleep-interval", As("7s")),
    ("experimental-snapshot-catchup-entries", As("7")),
    ("experimental-warning-apply-duration", As("7s")),
    ("experimental-warning-unary-request-duration", As("7s")),
    ("experimental-peer-skip-client-san-verification", As("")),
    ("discovery", Refused),
    ("discovery-proxy", Refused),
];

/// Flags of etcd 3.5 and before.
const OLDER: &[Row] = &[
    ("enable-lease-checkpoint", Nothing("")),
    ("enable-lease-checkpoint-persist", Nothing("")),
    ("enable-v2", Nothing("")),
    ("debug", Nothing("")),
    ("log-package-levels", Nothing("7")),
    ("experimental-backend-bbolt-freelist-type", Nothing("7")),
    ("proxy-failure-wait", Nothing("7")),
    ("proxy-refresh-interval", Nothing("7")),
    ("proxy-dial-timeout", Nothing("7")),
    ("proxy-write-timeout", Nothing("7")),
    ("proxy-read-timeout", Nothing("7")),
    ("experimental-max-learners", As("7")),
    ("proxy", Refused),
    ("experimental-enable-v2v3", Refused),
];

/// Flags here that etcd has only as a gate or in its file, or not at all.
const OURS: &[Row] = &[
    ("client-cert-allowed-cn", Acts("a", |c| c.client_tls.allowed_names == ["a"])),
    ("compact-hash-check-enabled", Acts("", |c| c.corrupt_check_interval == secs(60))),
    ("initial-corrupt-check", Acts("", |c| c.initial_corrupt_check)),
    ("promote-when-caught-up", Acts("", |c| c.promote_when_caught_up)),
];

fn parse(flags: &[String]) -> Result<Config, String> {
    let args = Args::from_flags(flags.iter().cloned()).map_err(|error| error.to_string())?;
    Settings::gather(&args, |_| None)?.config()
}

/// The flag and its value as they are given, and whatever follows the value.
fn given(name: &str, value: &str) -> Vec<String> {
    let mut parts = value.split(' ');
    let first = match parts.next().unwrap_or_default() {
        "" => format!("--{name}"),
        value => format!("--{name}={value}"),
    };
    std::iter::once(first).chain(parts.map(str::to_owned)).collect()
}

fn check(name: &str, does: &Does) {
    let role = FLAGS.iter().find(|flag| flag.name == name).map(|flag| flag.role);
    let role = role.unwrap_or_else(|| panic!("--{name} is not known"));
    let plain = parse(&[]).unwrap();
    match (does, role) {
        (Acts(value, is_seen), Role::Used) => {
            assert!(!is_seen(&plain), "--{name}: what is to be seen is there without it");
            let config = parse(&given(name, value)).unwrap_or_else(|error| panic!("--{name}: {error}"));
            assert!(is_seen(&config), "--{name}={value}: {config:?}");
        }
        (Elsewhere, Role::Used) => {}
        (Nothing(value), Role::Unneeded) => {
            let config = parse(&given(name, value)).unwrap_or_else(|error| panic!("--{name}: {error}"));
            assert_eq!(format!("{config:?}"), format!("{plain:?}"), "--{name}");
        }
        (As(value), Role::Older(newer)) => {
            let [older, newer] =
                [name, newer].map(|name| format!("{:?}", parse(&given(name, value)).unwrap()));
            assert_eq!(older, newer, "--{name}");
            assert_ne!(older, format!("{plain:?}"), "--{name}");
        }
        (Refused, Role::Refused(instead)) => {
            let refused = parse(&given(name, "x")).expect_err("refused");
            assert_eq!(refused, format!("--{name}: {instead}"));
        }
        (_, role) => panic!("--{name} is {role:?} in the table of flags"),
    }
}

#[test]
fn every_flag_of_etcd_does_what_the_table_says() {
    let rows = || [OF_36_AND_37, OF_36_ALONE, OLDER, OURS].into_iter().flatten();
    for (name, does) in rows() {
        check(name, does);
    }
    let tabled: BTreeSet<&str> = rows().map(|(name, _)| *name).collect();
    let known: BTreeSet<&str> = FLAGS.iter().map(|flag| flag.name).collect();
    assert_eq!(tabled, known, "each flag is in the table");
    assert_eq!(FLAGS.len(), known.len(), "none is there twice");
}

#[test]
fn logs_are_as_etcds_flags_say() {
    let log = |flags: &[&str], level: Option<&str>| {
        let args = Args::from_flags(flags.iter().map(|flag| (*flag).to_owned())).unwrap();
        let level = level.map(str::to_owned);
        let settings = Settings::gather(&args, |name| level.clone().filter(|_| name == "ETCD_LOG_LEVEL"));
        let log = settings.unwrap().log();
        (log.level, log.is_json)
    };
    let level = |level: &str| Some(level.to_owned());
    assert_eq!(log(&[], None), (None, None));
    assert_eq!(log(&["--log-level=warn", "--log-format=json"], None), (level("warn"), Some(true)));
    assert_eq!(log(&["--log-level", "fatal", "--log-format=console"], None), (level("error"), Some(false)));
    assert_eq!(log(&[], Some("debug")), (level("debug"), None));
    assert!(parse(&["--log-format=xml".to_owned()]).is_err());
}

#[test]
fn switches_are_read_as_go_reads_them_and_unknown_flags_are_errors() {
    for (value, expected) in [("", Some(true)), ("1", Some(true)), ("T", Some(true)), ("True", Some(true))] {
        let found =
            parse(&given("peer-client-cert-auth", value)).map(|config| config.peer_tls.client_cert_auth);
        assert_eq!(found.ok(), expected, "{value:?}");
    }
    for (value, expected) in [("0", Some(false)), ("f", Some(false)), ("FALSE", Some(false)), ("no", None)] {
        let found = parse(&given("strict-reconfig-check", value)).map(|config| config.strict_reconfig_check);
        assert_eq!(found.ok(), expected, "{value:?}");
    }
    let from_environment = |value: &str| {
        let args = Args::from_flags([]).unwrap();
        let settings =
            Settings::gather(&args, |name| (name == "ETCD_CLIENT_CERT_AUTH").then(|| value.to_owned()));
        settings?.config().map(|config| config.client_tls.client_cert_auth)
    };
    assert_eq!(from_environment("1"), Ok(true));
    assert_eq!(from_environment(""), Ok(false));
    assert!(from_environment("yes").unwrap_err().contains("ETCD_CLIENT_CERT_AUTH"));
    for unknown in ["no-such-flag", "listen-client-url", "discovery-srv-names"] {
        assert!(parse(&given(unknown, "x")).is_err(), "--{unknown}");
    }
}
