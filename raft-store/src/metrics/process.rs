//! What the kernel counts of this process, under the names Prometheus' clients use.

use prometheus::{Counter, Gauge, IntGauge};

use super::{float, gauge, registered};

/// Ticks of processor time in a second, as the kernel shows it everywhere.
const TICKS_A_SECOND: f64 = 100.0;
const PAGE_BYTES: i64 = 4096;

/// Gauges that are read when asked for.
pub struct Process {
    resident: IntGauge,
    virtual_size: IntGauge,
    cpu_seconds: Counter,
    open_files: IntGauge,
    open_files_max: IntGauge,
    files_used: IntGauge,
    files_limit: IntGauge,
    /// Keeps the start time registered.
    _started: Gauge,
}

impl Process {
    pub(super) fn new() -> Self {
        let started =
            float("process_start_time_seconds", "Start time of the process since 1970, in seconds.");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        started.set(now.map_or(0.0, |now| now.as_secs_f64()));
        Self {
            resident: gauge("process_resident_memory_bytes", "Resident memory in bytes."),
            virtual_size: gauge("process_virtual_memory_bytes", "Virtual memory in bytes."),
            cpu_seconds: registered(Counter::new(
                "process_cpu_seconds_total",
                "Processor time spent, in seconds.",
            )),
            open_files: gauge("process_open_fds", "Open file descriptors."),
            open_files_max: gauge("process_max_fds", "Open file descriptors allowed."),
            files_used: gauge("os_fd_used", "Open file descriptors."),
            files_limit: gauge("os_fd_limit", "Open file descriptors allowed."),
            _started: started,
        }
    }

    /// Reads what can be read; what cannot stays as it was.
    pub fn look(&self) {
        if let Ok(statm) = std::fs::read_to_string("/proc/self/statm") {
            let mut pages = statm.split(' ').filter_map(|pages| pages.parse::<i64>().ok());
            self.virtual_size.set(pages.next().unwrap_or(0) * PAGE_BYTES);
            self.resident.set(pages.next().unwrap_or(0) * PAGE_BYTES);
        }
        if let Ok(stat) = std::fs::read_to_string("/proc/self/stat") {
            // The name, in brackets, may hold anything; user and system time are the 12th and 13th field behind it.
            let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
            let ticks: f64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
            let more = ticks / TICKS_A_SECOND - self.cpu_seconds.get();
            self.cpu_seconds.inc_by(more.max(0.0));
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            let open = i64::try_from(files.count()).unwrap_or(i64::MAX);
            self.open_files.set(open);
            self.files_used.set(open);
        }
        if let Ok((limit, _)) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) {
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            self.open_files_max.set(limit);
            self.files_limit.set(limit);
        }
    }
}
