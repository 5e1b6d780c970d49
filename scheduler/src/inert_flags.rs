//! kube-scheduler's flags that have nothing to steer here, each with the reason.

use machinery::flags::{Inert, Table, switch, value};

const METRICS: &str = "all metrics are served, under one name each";
const REVIEWS: &str = "who reads the metrics is reviewed with the process' own credentials, every time";
const CERTIFICATES: &str = "readers of the metrics are known by bearer tokens alone";
const LOG: &str = "the environment (RUST_LOG) sets what is logged";
const TLS: &str = "TLS 1.2 and 1.3 with the library's suites, all of them with forward secrecy, are spoken";
const PORT: &str = "the port is not shared";
const VERSIONS: &str = "one version is emulated: 1.36";

/// The list.
#[derive(Clone, Debug, Default)]
pub struct KubeScheduler;

impl Table for KubeScheduler {
    const ROWS: &'static [Inert] = &[
        value("allow-metric-labels", METRICS),
        value("allow-metric-labels-manifest", METRICS),
        value("authentication-kubeconfig", REVIEWS),
        switch("authentication-skip-lookup", REVIEWS),
        value("authentication-token-webhook-cache-ttl", REVIEWS),
        switch("authentication-tolerate-lookup-failure", REVIEWS),
        value("authorization-kubeconfig", REVIEWS),
        value("authorization-webhook-cache-authorized-ttl", REVIEWS),
        value("authorization-webhook-cache-unauthorized-ttl", REVIEWS),
        value("cert-dir", "without --tls-cert-file a certificate is made in memory"),
        value("client-ca-file", CERTIFICATES),
        switch("contention-profiling", "no profiles are served"),
        switch("disable-http2-serving", "the port speaks both versions of HTTP"),
        value("disabled-metrics", METRICS),
        value("emulated-version", VERSIONS),
        value("feature-gates", "features are as 1.36 has them by default"),
        value("http2-max-streams-per-connection", "the library's limit holds"),
        value("kube-api-content-type", "JSON is spoken"),
        value("log-flush-frequency", LOG),
        value("log-json-info-buffer-size", LOG),
        switch("log-json-split-stream", LOG),
        value("log-text-info-buffer-size", LOG),
        switch("log-text-split-stream", LOG),
        value("logging-format", LOG),
        value("min-compatibility-version", VERSIONS),
        switch("permit-address-sharing", PORT),
        switch("permit-port-sharing", PORT),
        switch("profiling", "no profiles are served"),
        value("requestheader-allowed-names", CERTIFICATES),
        value("requestheader-client-ca-file", CERTIFICATES),
        value("requestheader-extra-headers-prefix", CERTIFICATES),
        value("requestheader-group-headers", CERTIFICATES),
        value("requestheader-uid-headers", CERTIFICATES),
        value("requestheader-username-headers", CERTIFICATES),
        value("show-hidden-metrics-for-version", METRICS),
        value("tls-cipher-suites", TLS),
        value("tls-curve-preferences", TLS),
        value("tls-min-version", TLS),
        value("tls-sni-cert-key", "one certificate is served"),
        switch("unsupported-kube-api-over-localhost", "--master says where the API server is"),
        value("v", LOG),
        value("vmodule", LOG),
        value("write-config-to", "the configuration is not written out"),
    ];
}
