//! Counters of the DNS server.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry, TextEncoder};

/// Counters, registered in a registry of their own.
pub struct Stats {
    registry: Registry,
    /// Requests by transport.
    pub requests: IntCounterVec,
    /// Answers by code.
    pub responses: IntCounterVec,
    /// Questions sent upstream.
    pub forwarded: IntCounter,
    /// Answers from the cache.
    pub cache_hits: IntCounter,
    /// Questions without answer from upstream.
    pub forward_failures: IntCounter,
    /// Requests dropped because too many wait for upstream.
    pub overload: IntCounter,
}

impl Stats {
    /// Registers everything.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let opts = |name: &str, help: &str| Opts::new(name, help).namespace("quarterdeck_dns");
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::with_opts(opts(name, help))?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let labelled = |name: &str, help: &str, label: &str| -> Result<IntCounterVec, prometheus::Error> {
            let counter = IntCounterVec::new(opts(name, help), &[label])?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        Ok(Self {
            requests: labelled("requests_total", "Requests", "proto")?,
            responses: labelled("responses_total", "Answers", "rcode")?,
            forwarded: counter("forward_requests_total", "Questions sent upstream")?,
            cache_hits: counter("cache_hits_total", "Answers from the cache")?,
            forward_failures: counter(
                "forward_failures_total",
                "Questions that no upstream server answered",
            )?,
            overload: counter("overload_total", "Requests dropped because too many wait for upstream")?,
            registry,
        })
    }

    /// The text form.
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}
