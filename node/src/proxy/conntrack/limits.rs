//! The kernel's limits on tracked connections: how many, and for how long an idle one is remembered.

use std::{io, time::Duration};

/// What to set. The defaults are upstream's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tracked connections a processor; zero leaves the kernel's limit alone.
    pub max_per_core: u32,
    /// Tracked connections in all, at least.
    pub min: u32,
    /// Idle established TCP connections; zero leaves the kernel's value.
    pub tcp_established: Duration,
    /// TCP connections that only one side closed; zero leaves the kernel's value.
    pub tcp_close_wait: Duration,
    /// Treat TCP packets outside of the window as part of their connection.
    pub tcp_be_liberal: bool,
    /// UDP flows without answer; zero leaves the kernel's value.
    pub udp: Duration,
    /// UDP flows with answers; zero leaves the kernel's value.
    pub udp_stream: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_per_core: 32_768,
            min: 131_072,
            tcp_established: Duration::from_secs(24 * 3_600),
            tcp_close_wait: Duration::from_secs(3_600),
            tcp_be_liberal: false,
            udp: Duration::ZERO,
            udp_stream: Duration::ZERO,
        }
    }
}

/// Upstream's cap: beyond it the table of a machine with very many processors costs too much memory.
const MAX_CAP: u32 = 1_048_576;
/// Connections a bucket of the kernel's hash table.
const PER_BUCKET: u32 = 4;
const MAX_PATH: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
const BUCKETS_PATH: &str = "/sys/module/nf_conntrack/parameters/hashsize";

impl Limits {
    /// Largest number of tracked connections for a machine; `None` leaves it alone.
    fn max(&self, cores: u32) -> Option<u32> {
        let scaled = self.max_per_core.saturating_mul(cores);
        (scaled > 0).then(|| if scaled > MAX_CAP { MAX_CAP } else { scaled.max(self.min) })
    }

    /// Files and the values they should have.
    fn settings(&self) -> Vec<(String, u64)> {
        let timeouts = [
            ("nf_conntrack_tcp_timeout_established", self.tcp_established),
            ("nf_conntrack_tcp_timeout_close_wait", self.tcp_close_wait),
            ("nf_conntrack_udp_timeout", self.udp),
            ("nf_conntrack_udp_timeout_stream", self.udp_stream),
        ];
        let path = |name: &str| format!("/proc/sys/net/netfilter/{name}");
        let mut all: Vec<_> = timeouts
            .iter()
            .filter(|(_, value)| !value.is_zero())
            .map(|(name, value)| (path(name), value.as_secs()))
            .collect();
        if self.tcp_be_liberal {
            all.push((path("nf_conntrack_tcp_be_liberal"), 1));
        }
        all
    }

    /// Writes what differs. Failures are logged: in a network namespace of a container the limit of the machine stands,
    /// and everything works with it.
    pub fn apply(&self) {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if let Some(max) = self.max(u32::try_from(cores).unwrap_or(u32::MAX)) {
            log(MAX_PATH, set(MAX_PATH, max.into()));
            let enough = read(BUCKETS_PATH).is_ok_and(|buckets| buckets >= u64::from(max / PER_BUCKET));
            if !enough {
                log(BUCKETS_PATH, set(BUCKETS_PATH, (max / PER_BUCKET).into()));
            }
        }
        for (path, value) in self.settings() {
            log(&path, set(&path, value));
        }
    }
}

fn read(path: &str) -> io::Result<u64> {
    std::fs::read_to_string(path)?.trim().parse().map_err(io::Error::other)
}

fn set(path: &str, value: u64) -> io::Result<()> {
    if read(path)? == value {
        return Ok(());
    }
    std::fs::write(path, value.to_string())
}

fn log(path: &str, outcome: io::Result<()>) {
    if let Err(error) = outcome {
        tracing::info!(setting = path, %error, "left as it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_grows_with_the_machine_within_bounds() {
        let limits = Limits::default();
        for (cores, expected) in [(1, 131_072), (8, 262_144), (64, MAX_CAP)] {
            assert_eq!(limits.max(cores), Some(expected), "{cores} cores");
        }
        assert_eq!(Limits { max_per_core: 0, ..limits }.max(8), None);
    }

    #[test]
    fn zero_leaves_the_kernel_alone() {
        let names =
            |limits: &Limits| limits.settings().into_iter().map(|(_, value)| value).collect::<Vec<_>>();
        assert_eq!(names(&Limits::default()), [86_400, 3_600]);
        let liberal = Limits { tcp_established: Duration::ZERO, tcp_be_liberal: true, ..Limits::default() };
        assert_eq!(names(&liberal), [3_600, 1]);
    }
}
