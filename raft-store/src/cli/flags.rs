//! The table of flags: etcd's names, and whether we need them.

/// Whether a flag takes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `--flag value`.
    Value,
    /// `--flag`, or `--flag=false`.
    Switch,
}

/// One flag; its environment variable is `ETCD_` and the name in capitals, its key in the file is the name.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Without dashes.
    pub name: &'static str,
    /// Whether it takes a value.
    pub kind: Kind,
    /// For `--help`.
    pub help: &'static str,
    /// Whether it does anything here.
    pub used: bool,
}

const fn used(name: &'static str, kind: Kind, help: &'static str) -> Flag {
    Flag { name, kind, help, used: true }
}

const fn unneeded(name: &'static str, kind: Kind) -> Flag {
    Flag { name, kind, help: "Accepted for etcd's sake; not needed here.", used: false }
}

/// Every flag.
pub const FLAGS: &[Flag] = &[
    used("name", Kind::Value, "Human-readable name of this member."),
    used("data-dir", Kind::Value, "Path of the data directory."),
    used("listen-client-urls", Kind::Value, "URLs to listen on for clients, comma-separated."),
    used("advertise-client-urls", Kind::Value, "URLs of this member that clients are told."),
    used("listen-peer-urls", Kind::Value, "URLs to listen on for peers."),
    used("initial-advertise-peer-urls", Kind::Value, "URLs of this member that peers are told."),
    used("listen-metrics-urls", Kind::Value, "URLs that serve only metrics and health."),
    used("initial-cluster", Kind::Value, "Founding members: name=peerURL,name=peerURL."),
    used("initial-cluster-state", Kind::Value, "new, or existing when joining a running cluster."),
    used("initial-cluster-token", Kind::Value, "Tells clusters with the same addresses apart."),
    used("snapshot-count", Kind::Value, "Log entries between two points from which the log may be dropped."),
    used("snapshot-catchup-entries", Kind::Value, "Log entries kept behind that point."),
    used(
        "quota-backend-bytes",
        Kind::Value,
        "Bytes the state may take before writes are refused; 0 for no limit.",
    ),
    used("auto-compaction-mode", Kind::Value, "periodic or revision."),
    used(
        "auto-compaction-retention",
        Kind::Value,
        "Time (hours, or a duration) or revisions to keep; 0 is off.",
    ),
    used("max-request-bytes", Kind::Value, "Largest client request."),
    used("max-txn-ops", Kind::Value, "Most operations in a transaction."),
    used("max-learners", Kind::Value, "Most learners at a time."),
    used("heartbeat-interval", Kind::Value, "Milliseconds between heartbeats."),
    used("election-timeout", Kind::Value, "Milliseconds without a leader before an election."),
    used("cert-file", Kind::Value, "Server certificate for clients."),
    used("key-file", Kind::Value, "Its key."),
    used("trusted-ca-file", Kind::Value, "Authority of client certificates."),
    used("client-cert-auth", Kind::Switch, "Clients must show a certificate."),
    used("auto-tls", Kind::Switch, "Make a certificate for clients."),
    used("client-cert-file", Kind::Value, "Certificate this member shows as a client, when another."),
    used("client-key-file", Kind::Value, "Its key."),
    used("peer-cert-file", Kind::Value, "Certificate for peers."),
    used("peer-key-file", Kind::Value, "Its key."),
    used("peer-trusted-ca-file", Kind::Value, "Authority of peer certificates."),
    used("peer-client-cert-auth", Kind::Switch, "Peers must show a certificate."),
    used("peer-auto-tls", Kind::Switch, "Make a certificate for peers."),
    used("peer-client-cert-file", Kind::Value, "Certificate shown to peers, when another."),
    used("peer-client-key-file", Kind::Value, "Its key."),
    used("peer-cert-allowed-cn", Kind::Value, "Common names peers may have."),
    used("auth-token", Kind::Value, "simple, or jwt with its options."),
    used("bcrypt-cost", Kind::Value, "Cost of hashing a password."),
    used("watch-progress-notify-interval", Kind::Value, "How often quiet watches get a progress mark."),
    used(
        "experimental-watch-progress-notify-interval",
        Kind::Value,
        "Older name of watch-progress-notify-interval.",
    ),
    used("corrupt-check-time", Kind::Value, "How often members compare their states; 0 is never."),
    used("experimental-corrupt-check-time", Kind::Value, "Older name of corrupt-check-time."),
    used("strict-reconfig-check", Kind::Switch, "Refuse membership changes that would lose quorum."),
    used("force-new-cluster", Kind::Switch, "Make a one-member cluster of what is on the disk."),
    used("enable-grpc-gateway", Kind::Switch, "Serve the JSON paths."),
    used(
        "promote-when-caught-up",
        Kind::Switch,
        "A learner asks to become a voter once it has caught up. Not a flag of etcd.",
    ),
    used(
        "config-file",
        Kind::Value,
        "YAML file with these settings; other flags and the environment are then ignored.",
    ),
    used("log-level", Kind::Value, "debug, info, warn or error."),
    used("log-format", Kind::Value, "json or console."),
    used("version", Kind::Switch, "Print the version and exit."),
    unneeded("wal-dir", Kind::Value),
    unneeded("max-wals", Kind::Value),
    unneeded("max-snapshots", Kind::Value),
    unneeded("initial-election-tick-advance", Kind::Value),
    unneeded("backend-bbolt-freelist-type", Kind::Value),
    unneeded("backend-batch-interval", Kind::Value),
    unneeded("backend-batch-limit", Kind::Value),
    unneeded("grpc-keepalive-min-time", Kind::Value),
    unneeded("grpc-keepalive-interval", Kind::Value),
    unneeded("grpc-keepalive-timeout", Kind::Value),
    unneeded("socket-reuse-port", Kind::Switch),
    unneeded("socket-reuse-address", Kind::Switch),
    unneeded("max-concurrent-streams", Kind::Value),
    unneeded("raft-read-timeout", Kind::Value),
    unneeded("raft-write-timeout", Kind::Value),
    unneeded("discovery", Kind::Value),
    unneeded("discovery-endpoints", Kind::Value),
    unneeded("discovery-token", Kind::Value),
    unneeded("discovery-dial-timeout", Kind::Value),
    unneeded("discovery-request-timeout", Kind::Value),
    unneeded("discovery-keepalive-time", Kind::Value),
    unneeded("discovery-keepalive-timeout", Kind::Value),
    unneeded("discovery-insecure-transport", Kind::Switch),
    unneeded("discovery-insecure-skip-tls-verify", Kind::Switch),
    unneeded("discovery-cert", Kind::Value),
    unneeded("discovery-key", Kind::Value),
    unneeded("discovery-cacert", Kind::Value),
    unneeded("discovery-user", Kind::Value),
    unneeded("discovery-password", Kind::Value),
    unneeded("discovery-srv", Kind::Value),
    unneeded("discovery-srv-name", Kind::Value),
    unneeded("discovery-fallback", Kind::Value),
    unneeded("discovery-proxy", Kind::Value),
    unneeded("pre-vote", Kind::Switch),
    unneeded("client-crl-file", Kind::Value),
    unneeded("client-cert-allowed-hostname", Kind::Value),
    unneeded("self-signed-cert-validity", Kind::Value),
    unneeded("peer-crl-file", Kind::Value),
    unneeded("peer-cert-allowed-hostname", Kind::Value),
    unneeded("cipher-suites", Kind::Value),
    unneeded("peer-skip-client-san-verification", Kind::Switch),
    unneeded("tls-min-version", Kind::Value),
    unneeded("tls-max-version", Kind::Value),
    unneeded("cors", Kind::Value),
    unneeded("host-whitelist", Kind::Value),
    unneeded("logger", Kind::Value),
    unneeded("log-outputs", Kind::Value),
    unneeded("enable-log-rotation", Kind::Switch),
    unneeded("log-rotation-config-json", Kind::Value),
    unneeded("enable-pprof", Kind::Switch),
    unneeded("metrics", Kind::Value),
    unneeded("enable-distributed-tracing", Kind::Switch),
    unneeded("distributed-tracing-address", Kind::Value),
    unneeded("distributed-tracing-service-name", Kind::Value),
    unneeded("distributed-tracing-instance-id", Kind::Value),
    unneeded("distributed-tracing-sampling-rate", Kind::Value),
    unneeded("auth-token-ttl", Kind::Value),
    unneeded("compact-hash-check-enabled", Kind::Switch),
    unneeded("compact-hash-check-time", Kind::Value),
    unneeded("compaction-batch-limit", Kind::Value),
    unneeded("compaction-sleep-interval", Kind::Value),
    unneeded("downgrade-check-time", Kind::Value),
    unneeded("warning-apply-duration", Kind::Value),
    unneeded("warning-unary-request-duration", Kind::Value),
    unneeded("memory-mlock", Kind::Switch),
    unneeded("bootstrap-defrag-threshold-megabytes", Kind::Value),
    unneeded("unsafe-no-fsync", Kind::Switch),
    unneeded("enable-lease-checkpoint", Kind::Switch),
    unneeded("enable-lease-checkpoint-persist", Kind::Switch),
    unneeded("feature-gates", Kind::Value),
    unneeded("experimental-initial-corrupt-check", Kind::Switch),
    unneeded("experimental-enable-lease-checkpoint", Kind::Switch),
    unneeded("experimental-compact-hash-check-enabled", Kind::Switch),
    unneeded("experimental-compact-hash-check-time", Kind::Value),
    unneeded("experimental-compaction-batch-limit", Kind::Value),
    unneeded("experimental-max-learners", Kind::Value),
    unneeded("experimental-memory-mlock", Kind::Switch),
    unneeded("experimental-warning-apply-duration", Kind::Value),
    unneeded("experimental-snapshot-catchup-entries", Kind::Value),
    unneeded("experimental-peer-skip-client-san-verification", Kind::Switch),
    unneeded("experimental-bootstrap-defrag-threshold-megabytes", Kind::Value),
    unneeded("experimental-txn-mode-write-with-shared-buffer", Kind::Switch),
    unneeded("experimental-stop-grpc-service-on-defrag", Kind::Switch),
    unneeded("experimental-enable-distributed-tracing", Kind::Switch),
    unneeded("experimental-distributed-tracing-address", Kind::Value),
    unneeded("experimental-distributed-tracing-service-name", Kind::Value),
    unneeded("experimental-distributed-tracing-instance-id", Kind::Value),
    unneeded("listen-client-http-urls", Kind::Value),
    unneeded("enable-v2", Kind::Switch),
    unneeded("proxy", Kind::Value),
];

/// The environment variable of a flag.
pub fn variable(name: &str) -> String {
    format!("ETCD_{}", name.replace('-', "_").to_uppercase())
}
