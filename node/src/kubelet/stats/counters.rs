//! What the kernel counts of a cgroup beyond the runtime's statistics: a table of files under cAdvisor's names, and reading
//! them.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// How a number stands in a file.
#[derive(Clone, Copy, Debug)]
enum Key {
    /// The word at this place of the first line.
    Word(usize),
    /// Behind this word, on a line of its own.
    Field(&'static str),
    /// As many as there are lines.
    Lines,
    /// The weight of cgroup v2, as shares of v1.
    Weight,
}

use Key::{Field, Lines, Weight, Word};

/// Controller (which v2 does not need), file, place in it, and the factor to the metric's unit.
type Source = (&'static str, &'static str, Key, f64);

/// One metric and where each version of cgroups has it.
pub struct Counter {
    /// cAdvisor's name.
    pub name: &'static str,
    /// `counter` or `gauge`.
    pub kind: &'static str,
    /// cAdvisor's words for it.
    pub help: &'static str,
    v1: Source,
    v2: Source,
    /// Only told where CPU time is limited, as by cAdvisor.
    if_limited: bool,
}

const fn counter(name: &'static str, help: &'static str, v1: Source, v2: Source) -> Counter {
    Counter { name, kind: "counter", help, v1, v2, if_limited: false }
}

const fn gauge(name: &'static str, help: &'static str, v1: Source, v2: Source) -> Counter {
    Counter { kind: "gauge", ..counter(name, help, v1, v2) }
}

const fn if_limited(counter: Counter) -> Counter {
    Counter { if_limited: true, ..counter }
}

/// Ticks of `cpuacct.stat` are hundredths of a second.
const TICK: f64 = 0.01;
const MICRO: f64 = 1e-6;
const NANO: f64 = 1e-9;
/// What the kernel shows for no limit is more than this, or `max`; cAdvisor says 0.
const LIMIT_MAX: f64 = (1_u64 << 62) as f64;
const QUOTA: (Source, Source) = (("cpu", "cpu.cfs_quota_us", Word(0), 1.0), ("", "cpu.max", Word(0), 1.0));

/// Every metric that is one number of one file.
pub const COUNTERS: &[Counter] = &[
    counter(
        "container_cpu_user_seconds_total",
        "Cumulative user cpu time consumed in seconds.",
        ("cpuacct", "cpuacct.stat", Field("user"), TICK),
        ("", "cpu.stat", Field("user_usec"), MICRO),
    ),
    counter(
        "container_cpu_system_seconds_total",
        "Cumulative system cpu time consumed in seconds.",
        ("cpuacct", "cpuacct.stat", Field("system"), TICK),
        ("", "cpu.stat", Field("system_usec"), MICRO),
    ),
    if_limited(counter(
        "container_cpu_cfs_periods_total",
        "Number of elapsed enforcement period intervals.",
        ("cpu", "cpu.stat", Field("nr_periods"), 1.0),
        ("", "cpu.stat", Field("nr_periods"), 1.0),
    )),
    if_limited(counter(
        "container_cpu_cfs_throttled_periods_total",
        "Number of throttled period intervals.",
        ("cpu", "cpu.stat", Field("nr_throttled"), 1.0),
        ("", "cpu.stat", Field("nr_throttled"), 1.0),
    )),
    if_limited(counter(
        "container_cpu_cfs_throttled_seconds_total",
        "Total time duration the container has been throttled.",
        ("cpu", "cpu.stat", Field("throttled_time"), NANO),
        ("", "cpu.stat", Field("throttled_usec"), MICRO),
    )),
    gauge(
        "container_memory_cache",
        "Number of bytes of page cache memory.",
        ("memory", "memory.stat", Field("total_cache"), 1.0),
        ("", "memory.stat", Field("file"), 1.0),
    ),
    gauge(
        "container_memory_mapped_file",
        "Size of memory mapped files in bytes.",
        ("memory", "memory.stat", Field("total_mapped_file"), 1.0),
        ("", "memory.stat", Field("file_mapped"), 1.0),
    ),
    gauge(
        "container_memory_swap",
        "Container swap usage in bytes.",
        ("memory", "memory.stat", Field("total_swap"), 1.0),
        ("", "memory.swap.current", Word(0), 1.0),
    ),
    gauge(
        "container_memory_kernel_usage",
        "Size of kernel memory allocated in bytes.",
        ("memory", "memory.kmem.usage_in_bytes", Word(0), 1.0),
        ("", "memory.stat", Field("kernel"), 1.0),
    ),
    gauge(
        "container_memory_max_usage_bytes",
        "Maximum memory usage recorded in bytes",
        ("memory", "memory.max_usage_in_bytes", Word(0), 1.0),
        ("", "memory.peak", Word(0), 1.0),
    ),
    counter(
        "container_memory_failcnt",
        "Number of memory usage hits limits",
        ("memory", "memory.failcnt", Word(0), 1.0),
        ("", "memory.events", Field("max"), 1.0),
    ),
    counter(
        "container_oom_events_total",
        "Count of out of memory events observed for the container",
        ("memory", "memory.oom_control", Field("oom_kill"), 1.0),
        ("", "memory.events", Field("oom_kill"), 1.0),
    ),
    gauge(
        "container_processes",
        "Number of processes running inside the container.",
        ("memory", "cgroup.procs", Lines, 1.0),
        ("", "cgroup.procs", Lines, 1.0),
    ),
    gauge(
        "container_threads",
        "Number of threads running inside the container",
        ("pids", "pids.current", Word(0), 1.0),
        ("", "pids.current", Word(0), 1.0),
    ),
    gauge(
        "container_threads_max",
        "Maximum number of threads allowed inside the container, infinity if value is zero",
        ("pids", "pids.max", Word(0), 1.0),
        ("", "pids.max", Word(0), 1.0),
    ),
    gauge(
        "container_spec_cpu_period",
        "CPU period of the container.",
        ("cpu", "cpu.cfs_period_us", Word(0), 1.0),
        ("", "cpu.max", Word(1), 1.0),
    ),
    if_limited(gauge("container_spec_cpu_quota", "CPU quota of the container.", QUOTA.0, QUOTA.1)),
    gauge(
        "container_spec_cpu_shares",
        "CPU share of the container.",
        ("cpu", "cpu.shares", Word(0), 1.0),
        ("", "cpu.weight", Weight, 1.0),
    ),
    gauge(
        "container_spec_memory_limit_bytes",
        "Memory limit for the container.",
        ("memory", "memory.limit_in_bytes", Word(0), 1.0),
        ("", "memory.max", Word(0), 1.0),
    ),
    gauge(
        "container_spec_memory_reservation_limit_bytes",
        "Memory reservation limit for the container.",
        ("memory", "memory.soft_limit_in_bytes", Word(0), 1.0),
        ("", "memory.high", Word(0), 1.0),
    ),
    gauge(
        "container_spec_memory_swap_limit_bytes",
        "Memory swap limit for the container.",
        ("memory", "memory.memsw.limit_in_bytes", Word(0), 1.0),
        ("", "memory.swap.max", Word(0), 1.0),
    ),
];

const DISK_BYTES: &str = "blkio.throttle.io_service_bytes_recursive";
const DISK_REQUESTS: &str = "blkio.throttle.io_serviced_recursive";

/// Name, help, file and word of v1, and word of v2 of each count of a disk.
pub const DISK_COUNTERS: &[(&str, &str, &str, &str, &str)] = &[
    ("container_fs_reads_bytes_total", "Cumulative count of bytes read", DISK_BYTES, "Read", "rbytes"),
    ("container_fs_writes_bytes_total", "Cumulative count of bytes written", DISK_BYTES, "Write", "wbytes"),
    ("container_fs_reads_total", "Cumulative count of reads completed", DISK_REQUESTS, "Read", "rios"),
    ("container_fs_writes_total", "Cumulative count of writes completed", DISK_REQUESTS, "Write", "wios"),
];

/// What one cgroup counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// By the place in [`COUNTERS`]; what the kernel does not say is missing.
    pub numbers: Vec<Option<f64>>,
    /// By the place in [`DISK_COUNTERS`]: the disk as `major:minor`, and its count.
    pub disks: Vec<Vec<(String, u64)>>,
}

/// Files of one cgroup, each read once.
struct Files<'a> {
    folder: &'a dyn Fn(&str) -> PathBuf,
    read: HashMap<PathBuf, Option<String>>,
}

impl Files<'_> {
    fn text(&mut self, controller: &str, file: &str) -> Option<&str> {
        let path = (self.folder)(controller).join(file);
        let text = self.read.entry(path).or_insert_with_key(|path| fs::read_to_string(path).ok());
        text.as_deref()
    }

    fn number(&mut self, (controller, file, key, factor): Source) -> Option<f64> {
        let text = self.text(controller, file)?;
        let word = match key {
            Lines => return Some(text.lines().count() as f64),
            Word(place) => text.split_whitespace().nth(place)?,
            Weight => text.split_whitespace().next()?,
            Field(name) => text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?.trim(),
        };
        let number = if word == "max" { 0.0 } else { word.parse::<f64>().ok()? };
        let number = if number > LIMIT_MAX { 0.0 } else { number };
        Some(if matches!(key, Weight) { shares(number) } else { number * factor })
    }
}

/// Shares of v1 for a weight of v2: 2 to 262144 for 1 to 10000, as container runtimes convert them.
fn shares(weight: f64) -> f64 {
    (2.0 + (weight - 1.0) * 262_142.0 / 9_999.0).round()
}

/// Reads a cgroup: `folder` gives the folder of a controller (v1) or the one folder (v2).
pub fn read(folder: &dyn Fn(&str) -> PathBuf, unified: bool) -> Counts {
    let mut files = Files { folder, read: HashMap::new() };
    let version = |v1, v2| if unified { v2 } else { v1 };
    let is_limited = files.number(version(QUOTA.0, QUOTA.1)).is_some_and(|quota| quota > 0.0);
    let told = |counter: &&Counter| is_limited || !counter.if_limited;
    let numbers = COUNTERS.iter().map(|counter| {
        Some(counter).filter(told).and_then(|counter| files.number(version(counter.v1, counter.v2)))
    });
    let numbers = numbers.collect();
    let disks = DISK_COUNTERS.iter().map(|(.., file, v1, v2)| {
        let text = if unified { files.text("", "io.stat") } else { files.text("blkio", file) };
        let text = text.unwrap_or_default();
        text.lines().filter_map(|line| if unified { of_v2(line, v2) } else { of_v1(line, v1) }).collect()
    });
    Counts { disks: disks.collect(), numbers }
}

/// `254:0 Read 4096`.
fn of_v1(line: &str, word: &str) -> Option<(String, u64)> {
    let (disk, rest) = line.split_once(' ')?;
    Some((disk.to_owned(), rest.strip_prefix(word)?.trim().parse().ok()?))
}

/// `254:0 rbytes=4096 wbytes=0`.
fn of_v2(line: &str, word: &str) -> Option<(String, u64)> {
    let mut words = line.split_whitespace();
    let disk = words.next()?.to_owned();
    let count = words.find_map(|pair| pair.strip_prefix(word)?.strip_prefix('='))?;
    Some((disk, count.parse().ok()?))
}

/// The device file of a disk that is known as `major:minor`; empty where there is none.
pub fn device(disk: &str) -> String {
    let text = fs::read_to_string(Path::new("/sys/dev/block").join(disk).join("uevent")).unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    name.map(|name| format!("/dev/{name}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &[(&str, &str)] = &[
        ("cpuacct.stat", "user 250\nsystem 50\n"),
        ("cpu.stat", "nr_periods 8\nnr_throttled 3\nthrottled_time 1500000000\n"),
        ("cpu.cfs_quota_us", "50000\n"),
        ("cpu.cfs_period_us", "100000\n"),
        ("cpu.shares", "256\n"),
        ("memory.stat", "cache 1\ntotal_cache 4096\ntotal_mapped_file 5\ntotal_swap 6\n"),
        ("memory.kmem.usage_in_bytes", "7\n"),
        ("memory.max_usage_in_bytes", "8\n"),
        ("memory.failcnt", "9\n"),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
        ("cgroup.procs", "11\n12\n"),
        ("pids.current", "5\n"),
        ("pids.max", "max\n"),
        ("memory.limit_in_bytes", "67108864\n"),
        ("memory.soft_limit_in_bytes", "9223372036854771712\n"),
        ("memory.memsw.limit_in_bytes", "67108864\n"),
        (
            "blkio.throttle.io_service_bytes_recursive",
            "254:0 Read 40\n254:0 Write 41\n254:0 Sync 9\nTotal 81\n",
        ),
        ("blkio.throttle.io_serviced_recursive", "254:0 Read 4\n254:0 Write 5\nTotal 9\n"),
    ];
    const V2: &[(&str, &str)] = &[
        (
            "cpu.stat",
            "usage_usec 9\nuser_usec 2500000\nsystem_usec 500000\nnr_periods 8\nnr_throttled 3\nthrottled_usec 1500000\n",
        ),
        ("cpu.max", "50000 100000\n"),
        ("cpu.weight", "10\n"),
        ("memory.stat", "anon 1\nfile 4096\nkernel 7\nfile_mapped 5\n"),
        ("memory.swap.current", "6\n"),
        ("memory.peak", "8\n"),
        ("memory.events", "low 0\nhigh 0\nmax 9\noom 2\noom_kill 2\n"),
        ("cgroup.procs", "11\n12\n"),
        ("pids.current", "5\n"),
        ("pids.max", "max\n"),
        ("memory.max", "67108864\n"),
        ("memory.high", "max\n"),
        ("memory.swap.max", "67108864\n"),
        ("io.stat", "254:0 rbytes=40 wbytes=41 rios=4 wios=5 dbytes=0 dios=0\n"),
    ];

    fn counts(files: &[(&str, &str)], but: &str, unified: bool) -> Counts {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, text) in files.iter().filter(|(name, _)| *name != but) {
            fs::write(dir.path().join(name), text).expect("written");
        }
        read(&|_| dir.path().to_owned(), unified)
    }

    #[test]
    fn both_versions_tell_the_same() {
        let disk = |count| vec![("254:0".to_owned(), count)];
        for (files, unified, shares) in [(V1, false, 256.0), (V2, true, 238.0)] {
            let expected = [
                2.5,
                0.5,
                8.0,
                3.0,
                1.5,
                4096.0,
                5.0,
                6.0,
                7.0,
                8.0,
                9.0,
                2.0,
                2.0,
                5.0,
                0.0,
                100_000.0,
                50_000.0,
                shares,
                67_108_864.0,
                0.0,
                67_108_864.0,
            ];
            let counts = counts(files, "", unified);
            for ((counter, found), expected) in COUNTERS.iter().zip(&counts.numbers).zip(expected) {
                let is_near = found.is_some_and(|found: f64| (found - expected).abs() < 1e-9);
                assert!(is_near, "{}: {found:?} instead of {expected}", counter.name);
            }
            assert_eq!(counts.numbers.len(), expected.len());
            assert_eq!(counts.disks, [disk(40), disk(41), disk(4), disk(5)]);
        }
    }

    #[test]
    fn what_the_kernel_does_not_say_is_left_out() {
        let place = |name: &str| COUNTERS.iter().position(|c| c.name == name).expect("a name of the table");
        let quota = place("container_spec_cpu_quota");
        for (files, without, unified, missing) in [
            (V1, "cpu.cfs_quota_us", false, "container_cpu_cfs_periods_total"),
            (V1, "memory.memsw.limit_in_bytes", false, "container_spec_memory_swap_limit_bytes"),
            (V2, "cpu.max", true, "container_cpu_cfs_throttled_seconds_total"),
            (V2, "memory.peak", true, "container_memory_max_usage_bytes"),
        ] {
            let counts = counts(files, without, unified);
            assert_eq!(counts.numbers[place(missing)], None, "{missing}");
            assert_eq!(counts.numbers[quota].is_some(), !without.starts_with("cpu."), "{missing}");
        }
        let nothing = counts(&[], "", true);
        assert!(nothing.numbers.iter().all(Option::is_none) && nothing.disks.iter().all(Vec::is_empty));
    }
}
