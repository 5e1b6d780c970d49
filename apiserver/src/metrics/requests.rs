//! Requests: counts, durations, sizes, what is in flight, what was cut short.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::labelled::Labelled;
use super::sweep::sweep;
use super::{DURATION_BUCKETS, Family, exponential};
use crate::contract::RequestInfo;
use crate::registry::catalog::Snapshot;

const RESOURCE: [&str; 4] = ["group", "version", "resource", "subresource"];
/// Upstream's component label for what this process serves itself.
const COMPONENT: &str = "apiserver";

/// What one answered request is counted as.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    pub code: u16,
    pub dry_run: bool,
    pub took: Duration,
    /// Bytes of the answer where they were known before it was sent.
    pub len: Option<u64>,
    /// Whether it was cut short by the request's time limit.
    pub timed_out: bool,
    pub is_long_running: bool,
}

struct Handles {
    total: IntCounter,
    duration: Histogram,
    sli: Histogram,
    sizes: Histogram,
}

/// The families of requests.
pub struct Requests {
    total: IntCounterVec,
    durations: HistogramVec,
    sli: HistogramVec,
    sizes: HistogramVec,
    terminations: IntCounterVec,
    aborts: IntCounterVec,
    inflight: IntGaugeVec,
    inqueue: IntGaugeVec,
    long_running: IntGaugeVec,
    watch_events: IntCounterVec,
    watch_sizes: HistogramVec,
    handles: Labelled<Handles>,
    gauges: Labelled<IntGauge>,
}

/// One watch's counters.
#[derive(Clone)]
pub struct WatchCounters {
    events: IntCounter,
    sizes: Histogram,
}

impl WatchCounters {
    /// Counts events of one batch by their encoded sizes.
    pub fn sent(&self, sizes: impl Iterator<Item = usize>) {
        let local = self.sizes.local();
        let mut events = 0;
        for size in sizes {
            local.observe(size as f64);
            events += 1;
        }
        self.events.inc_by(events);
        local.flush();
    }
}

impl Requests {
    pub(super) fn new(family: &Family<'_>) -> Result<Self, prometheus::Error> {
        let [group, version, resource, subresource] = RESOURCE;
        let plain = ["verb", group, version, resource, subresource, "scope", "component"];
        let with_code = [&plain[..], &["code"]].concat();
        let durations = ["verb", "dry_run", group, version, resource, subresource, "scope", "component"];
        let total = [&durations[..], &["code"]].concat();
        let of_watch = [group, version, resource];
        Ok(Self {
            total: family.counter(
                "apiserver_request_total",
                "Requests by verb, resource and answer.",
                &total,
            )?,
            durations: family.histogram(
                "apiserver_request_duration_seconds",
                "Time until the answer began.",
                &durations,
                DURATION_BUCKETS.to_vec(),
            )?,
            sli: family.histogram(
                "apiserver_request_sli_duration_seconds",
                "Time until the answer began, long-running requests left out.",
                &plain,
                DURATION_BUCKETS.to_vec(),
            )?,
            sizes: family.histogram(
                "apiserver_response_sizes",
                "Bytes of answers.",
                &plain,
                exponential(1000.0, 10.0, 7),
            )?,
            terminations: family.counter(
                "apiserver_request_terminations_total",
                "Requests ended by the server to protect itself.",
                &with_code,
            )?,
            aborts: family.counter(
                "apiserver_request_aborts_total",
                "Requests that panicked or whose client went away.",
                &plain[..6],
            )?,
            inflight: family.gauge(
                "apiserver_current_inflight_requests",
                "Requests being served.",
                &["request_kind"],
            )?,
            inqueue: family.gauge(
                "apiserver_current_inqueue_requests",
                "Requests waiting for a place.",
                &["request_kind"],
            )?,
            long_running: family.gauge(
                "apiserver_longrunning_requests",
                "Open long-running requests.",
                &plain,
            )?,
            watch_events: family.counter(
                "apiserver_watch_events_total",
                "Events sent to watchers.",
                &of_watch,
            )?,
            watch_sizes: family.histogram(
                "apiserver_watch_events_sizes",
                "Bytes of events sent to watchers.",
                &of_watch,
                exponential(1024.0, 2.0, 8),
            )?,
            handles: Labelled::default(),
            gauges: Labelled::default(),
        })
    }

    /// Counts one answered request. What names no served resource is counted without its names, so that strangers
    /// cannot fill the memory with made-up ones.
    pub fn answered(&self, info: &RequestInfo, is_served: impl FnOnce() -> bool, answer: Answered) {
        let code = code_text(answer.code);
        let dry_run = if answer.dry_run { "All" } else { "" };
        let nameless = RequestInfo::default();
        let info = if info.is_resource && !is_served() { &nameless } else { info };
        let labels = [
            verb(&info.verb),
            dry_run,
            &info.group,
            &info.version,
            &info.resource,
            &info.subresource,
            scope(info),
            COMPONENT,
            &code,
        ];
        let handles = self.handles.get(&labels, || {
            let plain = [&labels[..1], &labels[2..8]].concat();
            Handles {
                total: self.total.with_label_values(&labels),
                duration: self.durations.with_label_values(&labels[..8]),
                sli: self.sli.with_label_values(&plain),
                sizes: self.sizes.with_label_values(&plain),
            }
        });
        let secs = answer.took.as_secs_f64();
        handles.total.inc();
        handles.duration.observe(secs);
        if !answer.is_long_running {
            handles.sli.observe(secs);
        }
        if let Some(len) = answer.len {
            handles.sizes.observe(len as f64);
        }
        if answer.timed_out || answer.code == 429 {
            let labels = [&labels[..1], &labels[2..9]].concat();
            self.terminations.with_label_values(&labels).inc();
        }
    }

    /// Counts a request whose handler panicked, or whose client went away before it was answered.
    pub fn aborted(&self, info: &RequestInfo) {
        let labels =
            [verb(&info.verb), &info.group, &info.version, &info.resource, &info.subresource, scope(info)];
        self.aborts.with_label_values(&labels).inc();
    }

    /// Counts a request as in flight until the guard is dropped.
    pub fn enter(&self, is_mutating: bool) -> GaugeGuard {
        self.hold("inflight", &self.inflight, is_mutating)
    }

    /// Counts a request as waiting for a place until the guard is dropped.
    pub fn wait(&self, is_mutating: bool) -> GaugeGuard {
        self.hold("inqueue", &self.inqueue, is_mutating)
    }

    fn hold(&self, name: &str, family: &IntGaugeVec, is_mutating: bool) -> GaugeGuard {
        let kind = if is_mutating { "mutating" } else { "readOnly" };
        GaugeGuard::new(self.gauges.get(&[name, kind], || family.with_label_values(&[kind])))
    }

    /// Counts a long-running request until the guard is dropped.
    pub fn enter_long_running(&self, info: &RequestInfo) -> GaugeGuard {
        let labels = [
            verb(&info.verb),
            &info.group,
            &info.version,
            &info.resource,
            &info.subresource,
            scope(info),
            COMPONENT,
        ];
        GaugeGuard::new(self.gauges.get(&labels, || self.long_running.with_label_values(&labels)))
    }

    /// Drops what was counted about kinds that are no longer served.
    pub(super) fn forget_unserved(&self, served: &Snapshot) {
        let counters = [&self.total, &self.terminations, &self.aborts, &self.watch_events];
        let histograms = [&self.durations, &self.sli, &self.sizes, &self.watch_sizes];
        let dropped = counters.into_iter().map(|family| sweep(family, served)).sum::<usize>()
            + histograms.into_iter().map(|family| sweep(family, served)).sum::<usize>()
            + sweep(&self.long_running, served);
        if dropped > 0 {
            self.handles.clear();
            self.gauges.clear();
        }
    }

    /// The counters of a watch on this resource.
    pub fn watch(&self, info: &RequestInfo) -> WatchCounters {
        let labels = [info.group.as_str(), &info.version, &info.resource];
        WatchCounters {
            events: self.watch_events.with_label_values(&labels),
            sizes: self.watch_sizes.with_label_values(&labels),
        }
    }
}

/// Upstream writes verbs in capitals and lumps unknown methods together.
fn verb(verb: &str) -> &'static str {
    const VERBS: [&str; 16] = [
        "GET",
        "LIST",
        "WATCH",
        "CREATE",
        "UPDATE",
        "PATCH",
        "DELETE",
        "DELETECOLLECTION",
        "PROXY",
        "CONNECT",
        "HEAD",
        "OPTIONS",
        "POST",
        "PUT",
        "APPLY",
        "WATCHLIST",
    ];
    VERBS.into_iter().find(|known| known.eq_ignore_ascii_case(verb)).unwrap_or("OTHER")
}

fn code_text(code: u16) -> std::borrow::Cow<'static, str> {
    match code {
        200 => "200".into(),
        201 => "201".into(),
        404 => "404".into(),
        409 => "409".into(),
        other => other.to_string().into(),
    }
}

fn scope(info: &RequestInfo) -> &'static str {
    match (info.is_resource, info.name.is_empty(), info.namespace.is_empty()) {
        (false, ..) => "",
        (true, false, _) => "resource",
        (true, true, false) => "namespace",
        (true, true, true) => "cluster",
    }
}

/// Holds a gauge up by one.
pub struct GaugeGuard(Arc<IntGauge>);

impl GaugeGuard {
    fn new(gauge: Arc<IntGauge>) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_upstreams() {
        assert_eq!(
            (verb("list"), verb("deletecollection"), verb("brew")),
            ("LIST", "DELETECOLLECTION", "OTHER")
        );
        let info = |name: &str, namespace: &str| RequestInfo {
            is_resource: true,
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            ..RequestInfo::default()
        };
        for (name, namespace, expected) in
            [("a", "n", "resource"), ("", "n", "namespace"), ("", "", "cluster")]
        {
            assert_eq!(scope(&info(name, namespace)), expected);
        }
    }
}
