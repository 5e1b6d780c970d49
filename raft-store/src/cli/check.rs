//! Whether the values of flags can be read, and what etcd says of those that cannot.
//!
//! A table says how Go would read each flag; also those that do nothing here, so that a command line that etcd refuses
//! is refused. What flags mean together is decided where they are used.

use super::{
    duration,
    flags::{Flag, Kind},
};

/// How a value is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Syntax {
    Unsigned,
    Integer,
    Duration,
    OneOf(&'static [&'static str]),
    /// Between members, where sockets of the file system are not offered.
    PeerUrls,
    Urls,
}

/// Flags whose values are more than text.
const SYNTAX: &[(&str, Syntax)] = &[
    ("heartbeat-interval", Syntax::Unsigned),
    ("election-timeout", Syntax::Unsigned),
    ("snapshot-count", Syntax::Unsigned),
    ("snapshot-catchup-entries", Syntax::Unsigned),
    ("experimental-snapshot-catchup-entries", Syntax::Unsigned),
    ("max-snapshots", Syntax::Unsigned),
    ("max-wals", Syntax::Unsigned),
    ("max-txn-ops", Syntax::Unsigned),
    ("max-request-bytes", Syntax::Unsigned),
    ("max-concurrent-streams", Syntax::Unsigned),
    ("self-signed-cert-validity", Syntax::Unsigned),
    ("bcrypt-cost", Syntax::Unsigned),
    ("auth-token-ttl", Syntax::Unsigned),
    ("bootstrap-defrag-threshold-megabytes", Syntax::Unsigned),
    ("experimental-bootstrap-defrag-threshold-megabytes", Syntax::Unsigned),
    ("quota-backend-bytes", Syntax::Integer),
    ("max-learners", Syntax::Integer),
    ("experimental-max-learners", Syntax::Integer),
    ("backend-batch-limit", Syntax::Integer),
    ("compaction-batch-limit", Syntax::Integer),
    ("experimental-compaction-batch-limit", Syntax::Integer),
    ("distributed-tracing-sampling-rate", Syntax::Integer),
    ("experimental-distributed-tracing-sampling-rate", Syntax::Integer),
    ("backend-batch-interval", Syntax::Duration),
    ("grpc-keepalive-min-time", Syntax::Duration),
    ("grpc-keepalive-interval", Syntax::Duration),
    ("grpc-keepalive-timeout", Syntax::Duration),
    ("raft-read-timeout", Syntax::Duration),
    ("raft-write-timeout", Syntax::Duration),
    ("discovery-dial-timeout", Syntax::Duration),
    ("discovery-request-timeout", Syntax::Duration),
    ("discovery-keepalive-time", Syntax::Duration),
    ("discovery-keepalive-timeout", Syntax::Duration),
    ("corrupt-check-time", Syntax::Duration),
    ("experimental-corrupt-check-time", Syntax::Duration),
    ("compact-hash-check-time", Syntax::Duration),
    ("experimental-compact-hash-check-time", Syntax::Duration),
    ("compaction-sleep-interval", Syntax::Duration),
    ("experimental-compaction-sleep-interval", Syntax::Duration),
    ("watch-progress-notify-interval", Syntax::Duration),
    ("experimental-watch-progress-notify-interval", Syntax::Duration),
    ("downgrade-check-time", Syntax::Duration),
    ("experimental-downgrade-check-time", Syntax::Duration),
    ("warning-apply-duration", Syntax::Duration),
    ("experimental-warning-apply-duration", Syntax::Duration),
    ("warning-unary-request-duration", Syntax::Duration),
    ("experimental-warning-unary-request-duration", Syntax::Duration),
    ("initial-cluster-state", Syntax::OneOf(&["new", "existing"])),
    ("listen-client-urls", Syntax::Urls),
    ("listen-client-http-urls", Syntax::Urls),
    ("listen-peer-urls", Syntax::PeerUrls),
    ("listen-metrics-urls", Syntax::Urls),
    ("advertise-client-urls", Syntax::Urls),
    ("initial-advertise-peer-urls", Syntax::PeerUrls),
];

/// Switches of etcd's second version, which take any value.
const TAKES_ANYTHING: [&str; 12] = [
    "cluster-active-size",
    "cluster-remove-delay",
    "cluster-sync-interval",
    "config",
    "force",
    "max-result-buffer",
    "max-retry-attempts",
    "peer-heartbeat-interval",
    "peer-election-timeout",
    "retry-interval",
    "snapshot",
    "v",
];

fn syntax(name: &str) -> Option<Syntax> {
    SYNTAX.iter().find(|(known, _)| *known == name).map(|(_, syntax)| *syntax)
}

/// Whether a flag's value is a duration.
pub fn is_duration(name: &str) -> bool {
    syntax(name) == Some(Syntax::Duration)
}

/// A switch, as Go reads one.
pub fn switch(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// What is wrong with the value of a flag; `variable` where it stands in the environment.
pub fn value(flag: &Flag, value: &str, variable: Option<&str>) -> Result<(), String> {
    let is_switch = flag.kind == Kind::Switch && !TAKES_ANYTHING.contains(&flag.name) && flag.name != "vv";
    let wrong = match syntax(flag.name) {
        None if is_switch && switch(value).is_none() => Some("parse error".to_owned()),
        None => None,
        Some(Syntax::Unsigned) => value.parse::<u64>().is_err().then(|| "parse error".to_owned()),
        Some(Syntax::Integer) => value.parse::<i64>().is_err().then(|| "parse error".to_owned()),
        Some(Syntax::Duration) => duration::nanos(value).is_err().then(|| "parse error".to_owned()),
        Some(Syntax::OneOf(known)) => (!known.contains(&value)).then(|| "invalid value".to_owned()),
        Some(Syntax::Urls) => urls(value, true).err(),
        Some(Syntax::PeerUrls) => urls(value, false).err(),
    };
    let Some(wrong) = wrong else { return Ok(()) };
    Err(match variable {
        Some(variable) => format!("invalid value {value:?} for {variable}: {wrong}"),
        None if is_switch => format!("invalid boolean value {value:?} for -{}: {wrong}", flag.name),
        None => format!("invalid value {value:?} for flag -{}: {wrong}", flag.name),
    })
}

/// Etcd's rules for URLs; an empty list is none.
fn urls(list: &str, may_be_files: bool) -> Result<(), String> {
    list.split(',').map(str::trim).filter(|_| !list.is_empty()).try_for_each(|it| url(it, may_be_files))
}

fn url(url: &str, may_be_file: bool) -> Result<(), String> {
    let Some((scheme, rest)) = url.split_once("://").filter(|(scheme, _)| !scheme.contains(':')) else {
        return Err(format!("URL scheme must be http, https, unix, or unixs: {url}"));
    };
    if matches!(scheme, "unix" | "unixs") {
        let refused = || format!("sockets of the file system are not offered between members: {url}");
        return if may_be_file { Ok(()) } else { Err(refused()) };
    }
    if !matches!(scheme, "http" | "https") {
        return Err(format!("URL scheme must be http, https, unix, or unixs: {url}"));
    }
    let (authority, path) =
        rest.split_once('/').map_or((rest, None), |(authority, path)| (authority, Some(path)));
    let port = authority.rsplit_once(':').filter(|(host, _)| !host.contains(':') || host.ends_with(']'));
    if port.is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
        return Err(format!("URL address does not have the form \"host:port\": {url}"));
    }
    if path.is_some() { Err(format!("URL must not contain a path: {url}")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags::FLAGS;

    fn check(name: &str, text: &str) -> Result<(), String> {
        let flag = FLAGS.iter().find(|flag| flag.name == name).unwrap_or_else(|| panic!("no flag {name}"));
        value(flag, text, None)
    }

    #[test]
    fn values_are_refused_in_etcds_words() {
        let cases = [
            ("heartbeat-interval", "-1", "invalid value \"-1\" for flag -heartbeat-interval: parse error"),
            ("max-wals", "x", "invalid value \"x\" for flag -max-wals: parse error"),
            ("quota-backend-bytes", "", "invalid value \"\" for flag -quota-backend-bytes: parse error"),
            ("corrupt-check-time", "5", "invalid value \"5\" for flag -corrupt-check-time: parse error"),
            ("pre-vote", "maybe", "invalid boolean value \"maybe\" for -pre-vote: parse error"),
            (
                "initial-cluster-state",
                "",
                "invalid value \"\" for flag -initial-cluster-state: invalid value",
            ),
            (
                "listen-peer-urls",
                "ftp://a:1",
                "invalid value \"ftp://a:1\" for flag -listen-peer-urls: URL scheme must be http, https, unix, or \
                 unixs: ftp://a:1",
            ),
            (
                "advertise-client-urls",
                "http://a",
                "invalid value \"http://a\" for flag -advertise-client-urls: URL address does not have the form \
                 \"host:port\": http://a",
            ),
            (
                "listen-peer-urls",
                "unix:///a",
                "invalid value \"unix:///a\" for flag -listen-peer-urls: sockets of the file system are not offered between \
                 members: unix:///a",
            ),
            (
                "listen-client-urls",
                "http://a:1,http://a:1/x",
                "invalid value \"http://a:1,http://a:1/x\" for flag -listen-client-urls: URL must not contain a path: \
                 http://a:1/x",
            ),
        ];
        for (name, text, expected) in cases {
            assert_eq!(check(name, text), Err(expected.to_owned()), "{name}={text}");
        }
        let flag = FLAGS.iter().find(|flag| flag.name == "max-wals").unwrap();
        let from_environment = "invalid value \"x\" for ETCD_MAX_WALS: parse error";
        assert_eq!(value(flag, "x", Some("ETCD_MAX_WALS")), Err(from_environment.to_owned()));
    }

    #[test]
    fn what_etcd_takes_is_taken() {
        let cases = [
            ("quota-backend-bytes", "-1"),
            ("compaction-sleep-interval", "-1s"),
            ("force", "anything"),
            ("pre-vote", "T"),
            ("listen-client-urls", ""),
            ("listen-client-urls", "https://[::1]:2379, http://localhost:1"),
            ("listen-client-urls", "unix:///run/store.sock,unixs://localhost:2379"),
            ("advertise-client-urls", "unix://store.sock"),
            ("listen-metrics-urls", "unix:///run/metrics.sock"),
            ("name", ""),
        ];
        for (name, text) in cases {
            assert_eq!(check(name, text), Ok(()), "{name}={text}");
        }
        assert!(SYNTAX.iter().all(|(name, _)| FLAGS.iter().any(|flag| flag.name == *name)));
    }
}
