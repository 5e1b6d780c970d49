//! Numbers that live elsewhere (caches, process) and are read when somebody asks.

use prometheus::{Gauge, IntCounterVec, IntGauge, IntGaugeVec};

use super::Family;
use super::sweep::sweep;
use crate::cache::counters::Counters;
use crate::registry::Registry;
use crate::registry::catalog::Snapshot;

/// The kernel's clock ticks in a second, fixed for programs.
const TICKS_PER_SEC: f64 = 100.0;
const PAGE_LEN: i64 = 4096;

/// A family, and where its number is kept.
type Followed = (IntCounterVec, fn(&Counters) -> u64);

/// The families that mirror.
pub struct Mirror {
    objects: IntGaugeVec,
    resource_objects: IntGaugeVec,
    revisions: IntGaugeVec,
    counters: Vec<Followed>,
    lists: IntCounterVec,
    pub storage_size: IntGauge,
    cpu: Gauge,
    resident: IntGauge,
    virtual_: IntGauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
    start_time: Gauge,
}

const OF_RESOURCE: [&str; 2] = ["group", "resource"];
const OF_LIST: [&str; 3] = ["group", "resource", "index"];

impl Mirror {
    pub(super) fn new(family: &Family<'_>) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| family.counter(name, help, &OF_RESOURCE);
        let version = env!("CARGO_PKG_VERSION");
        let build = family.gauge(
            "kubernetes_build_info",
            "What runs; always 1.",
            &["major", "minor", "git_version", "build_version", "platform"],
        )?;
        let git_version = crate::http::version::GIT_VERSION;
        build.with_label_values(&["1", "36", git_version, version, "linux/amd64"]).set(1);
        Ok(Self {
            objects: family.gauge("apiserver_storage_objects", "Objects of a resource.", &["resource"])?,
            resource_objects: family.gauge(
                "apiserver_resource_objects",
                "Objects of a resource.",
                &OF_RESOURCE,
            )?,
            revisions: family.gauge(
                "apiserver_watch_cache_resource_version",
                "The revision that the cache has got to.",
                &OF_RESOURCE,
            )?,
            counters: vec![
                (
                    counter("apiserver_watch_cache_events_received_total", "Events taken from the store.")?,
                    |c: &Counters| c.events.get(),
                ),
                (
                    counter(
                        "apiserver_watch_cache_events_dispatched_total",
                        "Events handed to watchers' queues.",
                    )?,
                    |c: &Counters| c.dispatched.get(),
                ),
                (
                    counter("apiserver_watch_cache_initializations_total", "Loads of the cache.")?,
                    |c: &Counters| c.loads.get(),
                ),
                (
                    counter("apiserver_terminated_watchers_total", "Watchers that did not keep up.")?,
                    |c: &Counters| c.terminated.get(),
                ),
                (
                    counter("apiserver_cache_list_returned_objects_total", "Objects in answers to lists.")?,
                    |c: &Counters| c.list_returned.get(),
                ),
            ],
            lists: family.counter("apiserver_cache_list_total", "Lists served from the cache.", &OF_LIST)?,
            storage_size: family.int("apiserver_storage_size_bytes", "Bytes of the store on disk.")?,
            cpu: family.float("process_cpu_seconds_total", "CPU time used, in seconds.")?,
            resident: family.int("process_resident_memory_bytes", "Resident memory in bytes.")?,
            virtual_: family.int("process_virtual_memory_bytes", "Virtual memory in bytes.")?,
            open_fds: family.int("process_open_fds", "Open file descriptors.")?,
            max_fds: family.int("process_max_fds", "The most file descriptors that may be open.")?,
            start_time: family
                .float("process_start_time_seconds", "When the process began, as Unix time.")?,
        })
    }

    /// Reads everything now.
    pub(super) fn refresh(&self, registry: &Registry) {
        for kind in registry.catalog.snapshot_arc().kinds() {
            let Some(storage) = &kind.storage else { continue };
            let cache = &storage.cache;
            if !cache.is_ready() {
                continue;
            }
            let labels = [kind.group.as_str(), &kind.resource];
            let dotted = if kind.group.is_empty() {
                kind.resource.clone()
            } else {
                format!("{}.{}", kind.resource, kind.group)
            };
            self.objects.with_label_values(&[&dotted]).set(i(cache.len()));
            self.resource_objects.with_label_values(&labels).set(i(cache.len()));
            self.revisions.with_label_values(&labels).set(cache.revision());
            for (family, read) in &self.counters {
                set(family, &labels, read(&cache.counters));
            }
            let labels = [labels[0], labels[1], ""];
            set(&self.lists, &labels, cache.counters.lists.get());
        }
        self.process();
    }

    /// Drops the numbers of kinds that are no longer served: they would stand still for ever.
    pub(super) fn forget_unserved(&self, served: &Snapshot) {
        for gauge in [&self.objects, &self.resource_objects, &self.revisions] {
            sweep(gauge, served);
        }
        for counter in self.counters.iter().map(|(family, _)| family).chain([&self.lists]) {
            sweep(counter, served);
        }
    }

    fn process(&self) {
        let Some(stat) = Stat::read() else { return };
        self.cpu.set(stat.cpu_secs);
        self.resident.set(stat.resident);
        self.virtual_.set(stat.virtual_);
        self.start_time.set(stat.start_time);
        self.open_fds.set(std::fs::read_dir("/proc/self/fd").map_or(0, |d| i(d.count())));
        self.max_fds.set(max_fds().unwrap_or(0));
    }
}

fn i(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A counter that follows one kept elsewhere.
fn set(family: &IntCounterVec, labels: &[&str], value: u64) {
    let counter = family.with_label_values(labels);
    counter.inc_by(value.saturating_sub(counter.get()));
}

/// What the kernel says about this process.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_secs: f64,
    resident: i64,
    virtual_: i64,
    start_time: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let boot = std::fs::read_to_string("/proc/stat").ok()?;
        let boot = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        Self::parse(&stat, boot)
    }

    /// Fields of proc(5), counted after the command's closing bracket, which may hold anything before it.
    fn parse(stat: &str, boot_secs: f64) -> Option<Self> {
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |i: usize| fields.get(i)?.parse::<f64>().ok();
        Some(Self {
            cpu_secs: (number(11)? + number(12)?) / TICKS_PER_SEC,
            start_time: boot_secs + number(19)? / TICKS_PER_SEC,
            virtual_: fields.get(20)?.parse().ok()?,
            resident: fields.get(21)?.parse::<i64>().ok()? * PAGE_LEN,
        })
    }
}

fn max_fds() -> Option<i64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line() {
        let line = "1 (a b) c) S 0 0 0 0 -1 0 0 0 0 0 150 50 0 0 20 0 1 0 1000 8192 2 0";
        let expected = Stat { cpu_secs: 2.0, resident: 8192, virtual_: 8192, start_time: 110.0 };
        assert_eq!(Stat::parse(line, 100.0), Some(expected));
        assert!(Stat::read().is_some_and(|s| s.resident > 0) && max_fds().is_some_and(|n| n > 0));
    }
}
