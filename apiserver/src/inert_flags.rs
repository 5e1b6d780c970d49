//! kube-apiserver's flags that have nothing to steer here, each with the reason, and those that this server must not
//! start with: passed over, they would leave open what somebody meant to close.

use machinery::flags::{Inert, LOGGING, Table, switch, value};

const AUDIT: &str = "no audit log is written";
const FLOW: &str = "requests share the two in-flight limits";
const METRICS: &str = "all metrics are served, under one name each";
const PORT: &str = "the port is not shared";
const STORE: &str = "the store is asked once a second and has two seconds to answer";
const VERSIONS: &str = "one version is emulated: 1.36";
const WATCH_CACHE: &str = "every resource has a watch cache that is as large as its objects";
const WEBHOOK_TOKENS: &str = "no webhook is asked about tokens";
const WEBHOOK_RIGHTS: &str = "no webhook is asked about permissions";
const LEADERS: &str = "leases are not handed out by this server";
const ELSEWHERE: &str = "no requests are passed on to aggregated or other API servers";

/// The list of flags without effect.
#[derive(Clone, Debug, Default)]
pub struct KubeApiserver;

impl Table for KubeApiserver {
    const ROWS: &'static [&'static [Inert]] = &[SERVING, STORAGE, AUDITING, IDENTITY, REST, LOGGING];
}

const SERVING: &[Inert] = &[
    switch("contention-profiling", "locks are not profiled"),
    value("cors-allowed-origins", "no origin is allowed"),
    value("debug-socket-path", "profiles are on the secure port"),
    value("egress-selector-config-file", "connections go out directly"),
    switch("enable-priority-and-fairness", FLOW),
    value("external-hostname", "documents name the address that is advertised"),
    value("goaway-chance", "HTTP/2 connections stay as long as clients want"),
    value("http2-max-streams-per-connection", "a connection has up to 1000 streams"),
    value("livez-grace-period", "the server is live as soon as it answers"),
    value("max-connection-bytes-per-sec", "streams to nodes are not slowed down"),
    switch("permit-address-sharing", PORT),
    switch("permit-port-sharing", PORT),
    switch("send-retry-after-while-not-ready-once", "requests are answered from the start"),
    switch("shutdown-send-retry-after", "connections are refused at once when the server ends"),
    value("shutdown-watch-termination-grace-period", "watches end at once, with a bookmark"),
    value(
        "strict-transport-security-directives",
        "no browser is told to insist on TLS; there is nothing but TLS",
    ),
    value("tls-curve-preferences", "the library's key exchanges are offered"),
    value("tls-sni-cert-key", "one certificate is served"),
];

const STORAGE: &[Inert] = &[
    switch("enable-garbage-collector", "dependents are always kept track of"),
    value("etcd-count-metric-poll-period", "objects are counted when the metrics are read"),
    value("etcd-db-metric-poll-interval", "the size is asked for when the metrics are read"),
    value("etcd-healthcheck-timeout", STORE),
    value("etcd-readycheck-timeout", STORE),
    value("lease-reuse-duration-seconds", "events of one minute share a lease"),
    value("storage-initialization-timeout", "resources are loaded when first asked for"),
    value("storage-media-type", "objects are stored as JSON; protobuf that is there is read"),
    switch("watch-cache", WATCH_CACHE),
    value("watch-cache-sizes", WATCH_CACHE),
];

const AUDITING: &[Inert] = &[
    value("audit-log-batch-buffer-size", AUDIT),
    value("audit-log-batch-max-size", AUDIT),
    value("audit-log-batch-max-wait", AUDIT),
    value("audit-log-batch-throttle-burst", AUDIT),
    switch("audit-log-batch-throttle-enable", AUDIT),
    value("audit-log-batch-throttle-qps", AUDIT),
    switch("audit-log-compress", AUDIT),
    value("audit-log-format", AUDIT),
    value("audit-log-maxage", AUDIT),
    value("audit-log-maxbackup", AUDIT),
    value("audit-log-maxsize", AUDIT),
    value("audit-log-mode", AUDIT),
    value("audit-log-path", AUDIT),
    switch("audit-log-truncate-enabled", AUDIT),
    value("audit-log-truncate-max-batch-size", AUDIT),
    value("audit-log-truncate-max-event-size", AUDIT),
    value("audit-log-version", AUDIT),
    value("audit-policy-file", AUDIT),
    value("audit-webhook-batch-buffer-size", AUDIT),
    value("audit-webhook-batch-max-size", AUDIT),
    value("audit-webhook-batch-max-wait", AUDIT),
    value("audit-webhook-batch-throttle-burst", AUDIT),
    switch("audit-webhook-batch-throttle-enable", AUDIT),
    value("audit-webhook-batch-throttle-qps", AUDIT),
    value("audit-webhook-config-file", AUDIT),
    value("audit-webhook-initial-backoff", AUDIT),
    value("audit-webhook-mode", AUDIT),
    switch("audit-webhook-truncate-enabled", AUDIT),
    value("audit-webhook-truncate-max-batch-size", AUDIT),
    value("audit-webhook-truncate-max-event-size", AUDIT),
    value("audit-webhook-version", AUDIT),
];

const IDENTITY: &[Inert] = &[
    value("authentication-token-webhook-cache-ttl", WEBHOOK_TOKENS),
    value("authentication-token-webhook-config-file", WEBHOOK_TOKENS),
    value("authentication-token-webhook-version", WEBHOOK_TOKENS),
    value("authorization-webhook-cache-authorized-ttl", WEBHOOK_RIGHTS),
    value("authorization-webhook-cache-unauthorized-ttl", WEBHOOK_RIGHTS),
    value("authorization-webhook-version", WEBHOOK_RIGHTS),
    switch("service-account-lookup", "tokens of accounts that are gone are never taken"),
    value("service-account-signing-endpoint", "tokens are signed with the key file"),
];

const REST: &[Inert] = &[
    switch("aggregator-reject-forwarding-redirect", ELSEWHERE),
    value("allow-metric-labels", METRICS),
    value("allow-metric-labels-manifest", METRICS),
    value("coordinated-leadership-lease-duration", LEADERS),
    value("coordinated-leadership-renew-deadline", LEADERS),
    value("coordinated-leadership-retry-period", LEADERS),
    value("disabled-metrics", METRICS),
    value("emulated-version", VERSIONS),
    switch("emulation-forward-compatible", VERSIONS),
    switch("enable-aggregator-routing", ELSEWHERE),
    switch("enable-logs-handler", "log files are not served"),
    value("endpoint-reconciler-type", "servers find each other by their leases"),
    value("kubelet-timeout", "requests to nodes have the time of the request that they are for"),
    value("kubernetes-service-node-port", "the service kubernetes has no node port"),
    value("min-compatibility-version", VERSIONS),
    value("peer-advertise-ip", ELSEWHERE),
    value("peer-advertise-port", ELSEWHERE),
    value("peer-ca-file", ELSEWHERE),
    switch("runtime-config-emulation-forward-compatible", VERSIONS),
    value("show-hidden-metrics-for-version", METRICS),
    value("tracing-config-file", "spans are not exported"),
];

/// The list of flags that a server does not start with.
#[derive(Clone, Debug, Default)]
pub struct Refused;

impl Table for Refused {
    const ROWS: &'static [&'static [Inert]] = &[&[
        value("admission-control", "use --enable-admission-plugins and --disable-admission-plugins"),
        value("admission-control-config-file", "admission steps are not configured by a file"),
        value("authorization-config", "use --authorization-mode"),
        value("authorization-policy-file", "there is no authorization mode ABAC"),
        value("authorization-webhook-config-file", "there is no authorization mode Webhook"),
        value("encryption-provider-config", "objects are not encrypted in the store"),
        switch("encryption-provider-config-automatic-reload", "objects are not encrypted in the store"),
    ]];
}

/// The sentence for flags of [`Refused`] that were given; `None` when there is none.
pub fn refusal(names: &[&str]) -> Option<String> {
    let rows = Refused::ROWS.iter().copied().flatten().filter(|row| names.contains(&row.name));
    let said: Vec<String> = rows.map(|row| format!("--{} cannot be used: {}", row.name, row.why)).collect();
    (!said.is_empty()).then(|| said.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refused_flag_says_why() {
        assert_eq!(refusal(&[]), None);
        let said = refusal(&["encryption-provider-config"]);
        assert!(said.is_some_and(|said| said.contains("not encrypted")));
    }
}
