//! The table of flags: etcd's names, and what becomes of them here.

/// Whether a flag takes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `--flag value`.
    Value,
    /// `--flag`, or `--flag=false`.
    Switch,
}

/// What a flag does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// What etcd does with it.
    Used,
    /// Nothing, which is said when it is given: there is no need for it here.
    Unneeded,
    /// The same as the flag of this name.
    Older(&'static str),
    /// The member does not start: without it the flag would be taken to work. The text says what to do instead.
    Refused(&'static str),
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
    /// What it does.
    pub role: Role,
}

const fn used(name: &'static str, kind: Kind, help: &'static str) -> Flag {
    Flag { name, kind, help, role: Role::Used }
}

const fn unneeded(name: &'static str, kind: Kind) -> Flag {
    Flag { name, kind, help: "Accepted for etcd's sake; not needed here.", role: Role::Unneeded }
}

const fn older(name: &'static str, kind: Kind, newer: &'static str) -> Flag {
    Flag { name, kind, help: "Older name of another flag.", role: Role::Older(newer) }
}

const fn refused(name: &'static str, kind: Kind, instead: &'static str) -> Flag {
    Flag { name, kind, help: "Not offered.", role: Role::Refused(instead) }
}

/// What stands in for every way of discovery.
const NO_DISCOVERY: &str = "discovery is not offered: name the founding members with --initial-cluster";

/// Every flag.
pub const FLAGS: &[Flag] = &[
    used("name", Kind::Value, "Human-readable name of this member."),
    used("data-dir", Kind::Value, "Path of the data directory."),
    used("wal-dir", Kind::Value, "Folder of the Raft log, when not in the data directory."),
    used("listen-client-urls", Kind::Value, "URLs to listen on for clients, comma-separated."),
    used("advertise-client-urls", Kind::Value, "URLs of this member that clients are told."),
    used("listen-peer-urls", Kind::Value, "URLs to listen on for peers."),
    used("initial-advertise-peer-urls", Kind::Value, "URLs of this member that peers are told."),
    used(
        "listen-client-http-urls",
        Kind::Value,
        "URLs for HTTP alone; the client URLs then serve gRPC alone.",
    ),
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
    used("peer-cert-allowed-hostname", Kind::Value, "Host names peers' certificates may be for."),
    used("peer-crl-file", Kind::Value, "Revocation list of peers' certificates, DER or PEM."),
    used(
        "peer-skip-client-san-verification",
        Kind::Switch,
        "Peers may connect from other addresses than those their certificates are for.",
    ),
    used("client-cert-allowed-cn", Kind::Value, "Common names clients may have."),
    used("client-cert-allowed-hostname", Kind::Value, "Host names clients' certificates may be for."),
    used("client-crl-file", Kind::Value, "Revocation list of clients' certificates, DER or PEM."),
    used("self-signed-cert-validity", Kind::Value, "Years a certificate made by auto-tls is valid."),
    used("tls-min-version", Kind::Value, "TLS1.2 or TLS1.3."),
    used("tls-max-version", Kind::Value, "TLS1.2 or TLS1.3."),
    used("cipher-suites", Kind::Value, "Suites of TLS 1.2 to offer, comma-separated."),
    used("cors", Kind::Value, "Origins that browsers may call from; empty or * is any."),
    used("host-whitelist", Kind::Value, "Host names taken in plain HTTP requests; empty or * is any."),
    used("auth-token", Kind::Value, "simple, or jwt with its options."),
    used("auth-token-ttl", Kind::Value, "Seconds a simple token lives after its last use."),
    used("bcrypt-cost", Kind::Value, "Cost of hashing a password."),
    used("watch-progress-notify-interval", Kind::Value, "How often quiet watches get a progress mark."),
    used("corrupt-check-time", Kind::Value, "How often members compare their states; 0 is never."),
    used("compact-hash-check-enabled", Kind::Switch, "Compare states every compact-hash-check-time."),
    used("compact-hash-check-time", Kind::Value, "See compact-hash-check-enabled."),
    used("feature-gates", Kind::Value, "etcd's gates, as name=true,name=false."),
    used("compaction-batch-limit", Kind::Value, "Revisions a step of compaction looks at."),
    used("compaction-sleep-interval", Kind::Value, "Pause between two steps of compaction."),
    used("max-concurrent-streams", Kind::Value, "Calls a client may have open on one connection."),
    used(
        "grpc-keepalive-interval",
        Kind::Value,
        "How often a silent client is asked whether it is there; 0 is never.",
    ),
    used("grpc-keepalive-timeout", Kind::Value, "How long its answer may take."),
    used("warning-apply-duration", Kind::Value, "Applying longer than this is logged."),
    used("warning-unary-request-duration", Kind::Value, "A request that takes longer than this is logged."),
    used("metrics", Kind::Value, "basic, or extensive for how long calls take."),
    used("initial-corrupt-check", Kind::Switch, "Compare with the peers before serving."),
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
    unneeded("max-wals", Kind::Value),
    unneeded("max-snapshots", Kind::Value),
    unneeded("initial-election-tick-advance", Kind::Switch),
    unneeded("backend-bbolt-freelist-type", Kind::Value),
    unneeded("backend-batch-interval", Kind::Value),
    unneeded("backend-batch-limit", Kind::Value),
    unneeded("grpc-keepalive-min-time", Kind::Value),
    unneeded("socket-reuse-port", Kind::Switch),
    unneeded("socket-reuse-address", Kind::Switch),
    unneeded("raft-read-timeout", Kind::Value),
    unneeded("raft-write-timeout", Kind::Value),
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
    unneeded("discovery-srv-name", Kind::Value),
    unneeded("discovery-fallback", Kind::Value),
    unneeded("pre-vote", Kind::Switch),
    unneeded("logger", Kind::Value),
    unneeded("log-outputs", Kind::Value),
    unneeded("enable-log-rotation", Kind::Switch),
    unneeded("log-rotation-config-json", Kind::Value),
    unneeded("enable-pprof", Kind::Switch),
    unneeded("enable-distributed-tracing", Kind::Switch),
    unneeded("distributed-tracing-address", Kind::Value),
    unneeded("distributed-tracing-service-name", Kind::Value),
    unneeded("distributed-tracing-instance-id", Kind::Value),
    unneeded("distributed-tracing-sampling-rate", Kind::Value),
    unneeded("downgrade-check-time", Kind::Value),
    unneeded("memory-mlock", Kind::Switch),
    unneeded("bootstrap-defrag-threshold-megabytes", Kind::Value),
    unneeded("unsafe-no-fsync", Kind::Switch),
    unneeded("enable-lease-checkpoint", Kind::Switch),
    unneeded("enable-lease-checkpoint-persist", Kind::Switch),
    unneeded("experimental-enable-lease-checkpoint", Kind::Switch),
    unneeded("experimental-memory-mlock", Kind::Switch),
    unneeded("experimental-bootstrap-defrag-threshold-megabytes", Kind::Value),
    unneeded("experimental-txn-mode-write-with-shared-buffer", Kind::Switch),
    unneeded("experimental-stop-grpc-service-on-defrag", Kind::Switch),
    unneeded("experimental-enable-distributed-tracing", Kind::Switch),
    unneeded("experimental-distributed-tracing-address", Kind::Value),
    unneeded("experimental-distributed-tracing-service-name", Kind::Value),
    unneeded("experimental-distributed-tracing-instance-id", Kind::Value),
    unneeded("enable-v2", Kind::Switch),
    unneeded("v2-deprecation", Kind::Value),
    unneeded("debug", Kind::Switch),
    unneeded("log-package-levels", Kind::Value),
    unneeded("experimental-backend-bbolt-freelist-type", Kind::Value),
    unneeded("experimental-distributed-tracing-sampling-rate", Kind::Value),
    unneeded("experimental-downgrade-check-time", Kind::Value),
    unneeded("experimental-enable-lease-checkpoint-persist", Kind::Switch),
    unneeded("cluster-active-size", Kind::Switch),
    unneeded("cluster-remove-delay", Kind::Switch),
    unneeded("cluster-sync-interval", Kind::Switch),
    unneeded("config", Kind::Switch),
    unneeded("force", Kind::Switch),
    unneeded("max-result-buffer", Kind::Switch),
    unneeded("max-retry-attempts", Kind::Switch),
    unneeded("peer-heartbeat-interval", Kind::Switch),
    unneeded("peer-election-timeout", Kind::Switch),
    unneeded("retry-interval", Kind::Switch),
    unneeded("snapshot", Kind::Switch),
    unneeded("v", Kind::Switch),
    unneeded("vv", Kind::Switch),
    unneeded("proxy-failure-wait", Kind::Value),
    unneeded("proxy-refresh-interval", Kind::Value),
    unneeded("proxy-dial-timeout", Kind::Value),
    unneeded("proxy-write-timeout", Kind::Value),
    unneeded("proxy-read-timeout", Kind::Value),
    older("experimental-watch-progress-notify-interval", Kind::Value, "watch-progress-notify-interval"),
    older("experimental-corrupt-check-time", Kind::Value, "corrupt-check-time"),
    older("experimental-compact-hash-check-enabled", Kind::Switch, "compact-hash-check-enabled"),
    older("experimental-compact-hash-check-time", Kind::Value, "compact-hash-check-time"),
    older("experimental-initial-corrupt-check", Kind::Switch, "initial-corrupt-check"),
    older("experimental-compaction-batch-limit", Kind::Value, "compaction-batch-limit"),
    older("experimental-compaction-sleep-interval", Kind::Value, "compaction-sleep-interval"),
    older("experimental-max-learners", Kind::Value, "max-learners"),
    older("experimental-snapshot-catchup-entries", Kind::Value, "snapshot-catchup-entries"),
    older("experimental-warning-apply-duration", Kind::Value, "warning-apply-duration"),
    older("experimental-warning-unary-request-duration", Kind::Value, "warning-unary-request-duration"),
    older(
        "experimental-peer-skip-client-san-verification",
        Kind::Switch,
        "peer-skip-client-san-verification",
    ),
    refused("discovery", Kind::Value, NO_DISCOVERY),
    refused("discovery-endpoints", Kind::Value, NO_DISCOVERY),
    refused("discovery-token", Kind::Value, NO_DISCOVERY),
    refused("discovery-srv", Kind::Value, NO_DISCOVERY),
    refused("discovery-proxy", Kind::Value, NO_DISCOVERY),
    refused("proxy", Kind::Value, "the proxy of etcd's second API is not offered: leave the flag out"),
    refused("experimental-enable-v2v3", Kind::Value, "etcd's second API is not offered: leave the flag out"),
];

/// The environment variable of a flag.
pub fn variable(name: &str) -> String {
    format!("ETCD_{}", name.replace('-', "_").to_uppercase())
}
