//! From flags, environment and file to a configuration.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use super::{
    LogSettings,
    args::Args,
    duration, file,
    flags::{FLAGS, Role, variable},
    gates,
};
use crate::{
    auth::TokenSpec,
    config::{AutoCompaction, ClusterState, Config},
    tls::{TlsFiles, TlsPolicy},
};

/// How often etcd checks hashes of compactions when it is told to.
const COMPACT_HASH_CHECK_DEFAULT: Duration = Duration::from_secs(60);
/// How the TLS flags of a port are named, and where a certificate made for it is kept.
struct Port {
    prefix: &'static str,
    rules_prefix: &'static str,
    made: &'static str,
}

const CLIENT_PORT: Port = Port { prefix: "", rules_prefix: "client-", made: "client" };
const PEER_PORT: Port = Port { prefix: "peer-", rules_prefix: "peer-", made: "peer" };

/// Settings by flag name, wherever they came from.
pub struct Settings {
    values: BTreeMap<String, String>,
}

impl Settings {
    /// Flags over environment; or, with `--config-file`, the file alone, as in etcd.
    pub fn gather(args: &Args, environment: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let mut values = BTreeMap::new();
        for flag in FLAGS {
            let found = args.given.get(flag.name).cloned().or_else(|| environment(&variable(flag.name)));
            if let Some(value) = found {
                values.insert(flag.name.to_owned(), value);
            }
        }
        if let Some(path) = values.get("config-file") {
            values = file::read(path)?;
        }
        for flag in FLAGS {
            let Some(value) = values.get(flag.name).filter(|value| !value.is_empty()).cloned() else {
                continue;
            };
            match flag.role {
                Role::Used => {}
                Role::Unneeded => {
                    tracing::warn!(flag = flag.name, "this flag of etcd is not needed here and does nothing");
                }
                Role::Older(newer) => {
                    values.entry(newer.to_owned()).or_insert(value);
                }
                Role::Refused(instead) => return Err(format!("--{}: {instead}", flag.name)),
            }
        }
        let mut settings = Self { values };
        let gates = gates::flags(&settings.list("feature-gates").unwrap_or_default())?;
        settings.values.extend(gates.into_iter().map(|(flag, value)| (flag.to_owned(), value)));
        Ok(settings)
    }

    /// A setting as text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn parsed<T: FromStr>(&self, name: &str, into: &mut T) -> Result<(), String> {
        if let Some(value) = self.text(name) {
            *into = value.parse().map_err(|_| format!("--{name}: {value:?} cannot be read"))?;
        }
        Ok(())
    }

    /// A switch, as Go reads one.
    fn switch(&self, name: &str, into: &mut bool) -> Result<(), String> {
        match self.text(name) {
            None => {}
            Some("1" | "t" | "T" | "true" | "True" | "TRUE") => *into = true,
            Some("0" | "f" | "F" | "false" | "False" | "FALSE") => *into = false,
            Some(other) => return Err(format!("--{name}: {other:?} is neither true nor false")),
        }
        Ok(())
    }

    fn is_on(&self, name: &str) -> Result<bool, String> {
        let mut is_on = false;
        self.switch(name, &mut is_on)?;
        Ok(is_on)
    }

    fn list(&self, name: &str) -> Option<Vec<String>> {
        self.text(name).map(|value| value.split(',').map(|part| part.trim().to_owned()).collect())
    }

    fn millis(&self, name: &str, into: &mut Duration) -> Result<(), String> {
        let mut millis = u64::try_from(into.as_millis()).unwrap_or(u64::MAX);
        self.parsed(name, &mut millis)?;
        *into = Duration::from_millis(millis);
        Ok(())
    }

    fn duration(&self, name: &str, into: &mut Duration) -> Result<(), String> {
        if let Some(value) = self.text(name) {
            // A bare number is nanoseconds: Go writes durations so in files.
            *into = match value.parse() {
                Ok(nanos) => Duration::from_nanos(nanos),
                Err(_) => duration::parse(value).map_err(|error| format!("--{name}: {error}"))?,
            };
        }
        Ok(())
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    fn auto_compaction(&self) -> Result<AutoCompaction, String> {
        let retention = self.text("auto-compaction-retention").unwrap_or("0");
        let bad = || format!("--auto-compaction-retention: {retention:?} cannot be read");
        match self.text("auto-compaction-mode").unwrap_or("periodic") {
            "revision" => match retention.parse().map_err(|_| bad())? {
                0 => Ok(AutoCompaction::Off),
                revisions => Ok(AutoCompaction::Revision(revisions)),
            },
            "periodic" => {
                // A bare number is hours.
                let time = match retention.parse::<u64>() {
                    Ok(hours) => Duration::from_secs(hours * 3600),
                    Err(_) => duration::parse(retention).map_err(|_| bad())?,
                };
                Ok(if time.is_zero() { AutoCompaction::Off } else { AutoCompaction::Periodic(time) })
            }
            other => Err(format!("--auto-compaction-mode: {other:?} is neither periodic nor revision")),
        }
    }

    /// The TLS settings of a port; `urls` are what a certificate of our own making is for.
    fn tls(&self, port: &Port, data_dir: &Path, urls: &[String]) -> Result<TlsFiles, String> {
        let name = |suffix: &str| format!("{}{suffix}", port.prefix);
        let rule = |suffix: &str| format!("{}{suffix}", port.rules_prefix);
        let hosts = urls.iter().filter_map(|url| url.parse::<http::Uri>().ok()?.host().map(str::to_owned));
        let mut files = TlsFiles {
            cert_file: self.path(&name("cert-file")),
            key_file: self.path(&name("key-file")),
            trusted_ca_file: self.path(&name("trusted-ca-file")),
            client_cert_auth: self.is_on(&name("client-cert-auth"))?,
            client_cert_file: self.path(&name("client-cert-file")),
            client_key_file: self.path(&name("client-key-file")),
            auto_tls: self.is_on(&name("auto-tls"))?,
            auto_tls_dir: Some(data_dir.join("fixtures").join(port.made)),
            auto_tls_hosts: hosts.map(|host| host.trim_matches(['[', ']']).to_owned()).collect(),
            auto_tls_years: 1,
            allowed_names: self.list(&rule("cert-allowed-cn")).unwrap_or_default(),
            allowed_hosts: self.list(&rule("cert-allowed-hostname")).unwrap_or_default(),
            crl_file: self.path(&rule("crl-file")),
            skip_client_san_verification: self.is_on("peer-skip-client-san-verification")?,
            policy: TlsPolicy::parse(
                self.text("tls-min-version"),
                self.text("tls-max-version"),
                &self.list("cipher-suites").unwrap_or_default(),
            )?,
        };
        self.parsed("self-signed-cert-validity", &mut files.auto_tls_years)?;
        Ok(files)
    }

    /// How to log. etcd's levels above `error` end the process, which nothing here does by logging.
    pub fn log(&self) -> LogSettings {
        let level = self.text("log-level").map(|level| match level {
            "dpanic" | "panic" | "fatal" => "error".to_owned(),
            level => level.to_owned(),
        });
        LogSettings { level, is_json: self.text("log-format").map(|format| format == "json") }
    }

    /// The configuration; the error names the flag.
    pub fn config(&self) -> Result<Config, String> {
        match self.text("log-format") {
            None | Some("json" | "console") => {}
            Some(other) => return Err(format!("--log-format: {other:?} is neither json nor console")),
        }
        let mut config = Config::embedded("default.etcd");
        self.parsed("name", &mut config.name)?;
        config.data_dir = self.path("data-dir").unwrap_or_else(|| format!("{}.etcd", config.name).into());
        config.wal_dir = self.path("wal-dir");
        self.urls(&mut config)?;
        self.limits(&mut config)?;
        config.client_tls = self.tls(&CLIENT_PORT, &config.data_dir, &config.listen_client_urls)?;
        config.peer_tls = self.tls(&PEER_PORT, &config.data_dir, &config.listen_peer_urls)?;
        config.cors = self.list("cors").unwrap_or_default();
        config.host_whitelist = self.list("host-whitelist").unwrap_or_default();
        if let Some(token) = self.text("auth-token") {
            config.auth_token = TokenSpec::parse(token)?;
        }
        let mut ttl_secs = config.auth_token_ttl.as_secs();
        self.parsed("auth-token-ttl", &mut ttl_secs)?;
        config.auth_token_ttl = Duration::from_secs(ttl_secs.max(1));
        config.extensive_metrics = match self.text("metrics").unwrap_or("basic") {
            "basic" => false,
            "extensive" => true,
            other => return Err(format!("--metrics: {other:?} is neither basic nor extensive")),
        };
        config.auto_compaction = self.auto_compaction()?;
        self.switch("force-new-cluster", &mut config.force_new_cluster)?;
        self.switch("promote-when-caught-up", &mut config.promote_when_caught_up)?;
        self.switch("strict-reconfig-check", &mut config.strict_reconfig_check)?;
        self.switch("enable-grpc-gateway", &mut config.enable_grpc_gateway)?;
        Ok(config)
    }

    fn urls(&self, config: &mut Config) -> Result<(), String> {
        let or = |name: &str, default: &str| self.list(name).unwrap_or_else(|| vec![default.to_owned()]);
        config.listen_client_urls = or("listen-client-urls", "http://localhost:2379");
        config.listen_peer_urls = or("listen-peer-urls", "http://localhost:2380");
        config.advertise_client_urls = or("advertise-client-urls", "http://localhost:2379");
        config.initial_advertise_peer_urls = or("initial-advertise-peer-urls", "http://localhost:2380");
        config.listen_metrics_urls = self.list("listen-metrics-urls").unwrap_or_default();
        config.listen_client_http_urls = self.list("listen-client-http-urls").unwrap_or_default();
        if self.text("listen-client-urls").is_some() && self.text("advertise-client-urls").is_none() {
            return Err(
                "--advertise-client-urls is required when --listen-client-urls is set explicitly".into()
            );
        }
        config.initial_cluster = match self.text("initial-cluster") {
            Some(text) => parse_cluster(text)?,
            None => {
                let own = config.initial_advertise_peer_urls.iter();
                own.map(|url| (config.name.clone(), url.clone())).collect()
            }
        };
        config.initial_cluster_state = match self.text("initial-cluster-state").unwrap_or("new") {
            "new" => ClusterState::New,
            "existing" => ClusterState::Existing,
            other => return Err(format!("--initial-cluster-state: {other:?} is neither new nor existing")),
        };
        self.parsed("initial-cluster-token", &mut config.initial_cluster_token)
    }

    fn limits(&self, config: &mut Config) -> Result<(), String> {
        self.parsed("snapshot-count", &mut config.snapshot_count)?;
        self.parsed("snapshot-catchup-entries", &mut config.snapshot_catchup_entries)?;
        self.parsed("quota-backend-bytes", &mut config.quota_backend_bytes)?;
        self.parsed("max-request-bytes", &mut config.max_request_bytes)?;
        self.parsed("max-txn-ops", &mut config.max_txn_ops)?;
        self.parsed("max-learners", &mut config.max_learners)?;
        self.parsed("bcrypt-cost", &mut config.bcrypt_cost)?;
        self.millis("heartbeat-interval", &mut config.heartbeat_interval)?;
        self.millis("election-timeout", &mut config.election_timeout)?;
        if config.election_timeout < 5 * config.heartbeat_interval {
            return Err(format!(
                "--election-timeout[{}ms] should be at least as 5 times as --heartbeat-interval[{}ms]",
                config.election_timeout.as_millis(),
                config.heartbeat_interval.as_millis()
            ));
        }
        self.parsed("max-concurrent-streams", &mut config.max_concurrent_streams)?;
        self.parsed("compaction-batch-limit", &mut config.compaction_batch_limit)?;
        self.duration("compaction-sleep-interval", &mut config.compaction_sleep_interval)?;
        self.duration("grpc-keepalive-interval", &mut config.grpc_keepalive_interval)?;
        self.duration("grpc-keepalive-timeout", &mut config.grpc_keepalive_timeout)?;
        self.duration("warning-apply-duration", &mut config.warning_apply_duration)?;
        self.duration("warning-unary-request-duration", &mut config.warning_request_duration)?;
        self.duration("watch-progress-notify-interval", &mut config.watch_progress_interval)?;
        self.corruption_checks(config)
    }

    /// Members compare their states as often as the more frequent of etcd's two checks asks for: ours is one.
    fn corruption_checks(&self, config: &mut Config) -> Result<(), String> {
        self.switch("initial-corrupt-check", &mut config.initial_corrupt_check)?;
        self.duration("corrupt-check-time", &mut config.corrupt_check_interval)?;
        if self.is_on("compact-hash-check-enabled")? {
            let mut interval = COMPACT_HASH_CHECK_DEFAULT;
            self.duration("compact-hash-check-time", &mut interval)?;
            let other = Some(config.corrupt_check_interval).filter(|other| !other.is_zero());
            config.corrupt_check_interval = other.map_or(interval, |other| other.min(interval));
        }
        Ok(())
    }
}

/// `name=url,name=url`.
pub fn parse_cluster(text: &str) -> Result<Vec<(String, String)>, String> {
    let pair = |part: &str| {
        let (name, url) = part
            .trim()
            .split_once('=')
            .ok_or_else(|| format!("--initial-cluster: {part:?} is not name=URL"))?;
        Ok((name.to_owned(), url.to_owned()))
    };
    text.split(',').map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(flags: &[&str], environment: &[(&str, &str)]) -> Result<Settings, String> {
        let args = Args::from_flags(flags.iter().map(|flag| (*flag).to_owned())).unwrap();
        let environment: BTreeMap<&str, &str> = environment.iter().copied().collect();
        Settings::gather(&args, |name| environment.get(name).map(|value| (*value).to_owned()))
    }

    #[test]
    fn flags_come_before_the_environment_and_a_file_before_both() {
        let config = settings(&["--name=flag"], &[("ETCD_NAME", "env"), ("ETCD_MAX_TXN_OPS", "7")]).unwrap();
        let config = config.config().unwrap();
        assert_eq!((config.name.as_str(), config.max_txn_ops), ("flag", 7));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etcd.yml");
        std::fs::write(&path, "name: file\nclient-transport-security:\n  cert-file: /c\n").unwrap();
        let flag = format!("--config-file={}", path.display());
        let config = settings(&["--name=flag", &flag], &[]).unwrap().config().unwrap();
        assert_eq!(config.name, "file");
        assert_eq!(config.client_tls.cert_file, Some("/c".into()));
        std::fs::write(&path, "no-such: 1\n").unwrap();
        assert!(settings(&[&flag], &[]).is_err());
    }

    fn config(flags: &[&str]) -> Result<Config, String> {
        settings(flags, &[]).and_then(|settings| settings.config())
    }

    #[test]
    fn what_is_not_offered_is_refused_and_older_names_count() {
        assert!(config(&["--discovery-srv=example.com"]).unwrap_err().contains("--initial-cluster"));
        assert!(config(&["--discovery-srv="]).is_ok(), "an empty value is none");
        assert_eq!(config(&["--experimental-max-learners=3"]).unwrap().max_learners, 3);
        assert_eq!(config(&["--experimental-max-learners=3", "--max-learners=2"]).unwrap().max_learners, 2);
        assert!(config(&["--feature-gates=InitialCorruptCheck=true"]).unwrap().initial_corrupt_check);
        let checked = config(&["--compact-hash-check-enabled", "--corrupt-check-time=10m"]).unwrap();
        assert_eq!(checked.corrupt_check_interval, COMPACT_HASH_CHECK_DEFAULT);
        assert_eq!(config(&["--auth-token-ttl=30"]).unwrap().auth_token_ttl, Duration::from_secs(30));
    }

    #[test]
    fn rules_of_certificates_reach_their_port() {
        let found = config(&[
            "--client-crl-file=/c",
            "--peer-crl-file=/p",
            "--peer-cert-allowed-cn=a,b",
            "--client-cert-allowed-hostname=h",
            "--listen-client-urls=https://10.1.2.3:2379",
            "--advertise-client-urls=https://10.1.2.3:2379",
        ])
        .unwrap();
        assert_eq!(
            (found.client_tls.crl_file, found.peer_tls.crl_file),
            (Some("/c".into()), Some("/p".into()))
        );
        assert_eq!((found.client_tls.allowed_names.len(), found.peer_tls.allowed_names.len()), (0, 2));
        assert_eq!(found.client_tls.allowed_hosts, ["h"]);
        assert_eq!(found.client_tls.auto_tls_hosts, ["10.1.2.3"]);
        assert!(config(&["--tls-min-version=TLS1.0"]).is_err());
    }

    #[test]
    fn a_file_has_its_tls_settings_in_blocks_and_durations_as_go_writes_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etcd.yml");
        let text = "name: file\nwatch-progress-notify-interval: 2000000000\nlog-outputs: [stderr]\n\
                    peer-transport-security:\n  allowed-cn: [one, two]\n  cert-file: /p\n  \
                    skip-client-san-verification: true\nsocket-options:\n  reuse-port: true\n";
        std::fs::write(&path, text).unwrap();
        let found = config(&[&format!("--config-file={}", path.display())]).unwrap();
        assert_eq!(found.watch_progress_interval, Duration::from_secs(2));
        assert_eq!(found.peer_tls.allowed_names, ["one", "two"]);
        assert_eq!(found.peer_tls.cert_file, Some("/p".into()));
    }

    #[test]
    fn compaction_is_read_as_etcd_reads_it() {
        let cases: [(&[&str], Result<AutoCompaction, ()>); 5] = [
            (&[], Ok(AutoCompaction::Off)),
            (&["--auto-compaction-retention=1"], Ok(AutoCompaction::Periodic(Duration::from_secs(3600)))),
            (&["--auto-compaction-retention=5m"], Ok(AutoCompaction::Periodic(Duration::from_secs(300)))),
            (
                &["--auto-compaction-mode=revision", "--auto-compaction-retention=1000"],
                Ok(AutoCompaction::Revision(1000)),
            ),
            (&["--auto-compaction-mode=never"], Err(())),
        ];
        for (flags, expected) in cases {
            let found = settings(flags, &[]).unwrap().config().map(|config| config.auto_compaction);
            assert_eq!(found.map_err(|_| ()), expected, "{flags:?}");
        }
    }
}
