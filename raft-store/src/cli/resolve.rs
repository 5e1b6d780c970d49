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
    check, duration, file,
    flags::{FLAGS, Role, variable},
    gates,
};
use crate::{
    auth::TokenSpec,
    config::{AutoCompaction, ClusterState, Config},
    tls::{TlsFiles, TlsPolicy},
};

/// How often etcd checks hashes of compactions when it is told to.
pub(super) const COMPACT_HASH_CHECK_DEFAULT: Duration = Duration::from_secs(60);
/// Longest election timeout etcd takes, in milliseconds.
const ELECTION_MILLIS_MAX: u128 = 50_000;
/// Shortest pause between two progress marks; a shorter one is made this long, as in etcd.
const WATCH_PROGRESS_MIN: Duration = Duration::from_millis(100);
/// Costs bcrypt knows.
const BCRYPT_COSTS: std::ops::RangeInclusive<u32> = 4..=31;
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
            let given = args.given.get(flag.name).cloned().map(|value| (value, None));
            let variable = variable(flag.name);
            let set = || environment(&variable).filter(|value| !value.is_empty());
            if let Some((value, variable)) = given.or_else(|| set().map(|value| (value, Some(&variable)))) {
                check::value(flag, &value, variable.map(String::as_str))?;
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
        if let Some(text) = self.text(name) {
            *into =
                check::switch(text).ok_or_else(|| format!("--{name}: {text:?} is neither true nor false"))?;
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

    /// A duration; one below nothing is nothing, which is what etcd makes of it.
    fn duration(&self, name: &str, into: &mut Duration) -> Result<(), String> {
        if let Some(value) = self.text(name) {
            let nanos = duration::nanos(value).map_err(|error| format!("--{name}: {error}"))?;
            *into = Duration::from_nanos(u64::try_from(nanos).unwrap_or(0));
        }
        Ok(())
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    fn auto_compaction(&self) -> Result<AutoCompaction, String> {
        let retention = self.text("auto-compaction-retention").unwrap_or("0");
        let parsed = || {
            duration::parse(retention).map_err(|error| format!("error parsing CompactionRetention: {error}"))
        };
        match self.values.get("auto-compaction-mode").map_or("periodic", String::as_str) {
            // A duration is as many revisions as it has nanoseconds.
            "revision" => match retention.parse::<u32>().map(i64::from) {
                Ok(0) => Ok(AutoCompaction::Off),
                Ok(revisions) => Ok(AutoCompaction::Revision(revisions)),
                Err(_) => {
                    Ok(AutoCompaction::Revision(i64::try_from(parsed()?.as_nanos()).unwrap_or(i64::MAX)))
                }
            },
            "periodic" => {
                // A bare number is hours.
                let time = match retention.parse::<u32>() {
                    Ok(hours) => Duration::from_secs(u64::from(hours) * 3600),
                    Err(_) => parsed()?,
                };
                Ok(if time.is_zero() { AutoCompaction::Off } else { AutoCompaction::Periodic(time) })
            }
            "" => Err("undefined auto-compaction-mode".to_owned()),
            other => Err(format!("unknown auto-compaction-mode {other:?}")),
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

    fn check_log(&self) -> Result<(), String> {
        match self.text("log-format") {
            None | Some("json" | "console") => {}
            Some(other) => {
                return Err(format!("unknown log format: {other}, supported values json, console"));
            }
        }
        match self.text("log-level") {
            None | Some("debug" | "info" | "warn" | "error" | "dpanic" | "panic" | "fatal") => {}
            Some(other) => return Err(format!("unrecognized level: {other:?}")),
        }
        match self.text("logger") {
            None | Some("zap") => Ok(()),
            Some(other) => Err(format!("unknown logger option {other:?}")),
        }
    }

    /// The configuration; the error names the flag.
    pub fn config(&self) -> Result<Config, String> {
        self.check_log()?;
        let mut config = Config::embedded("default.etcd");
        self.parsed("name", &mut config.name)?;
        if self.values.get("name").is_some_and(String::is_empty) {
            return Err("couldn't find local name \"\" in the initial cluster configuration".to_owned());
        }
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
            other => {
                tracing::warn!(metrics = other, "neither basic nor extensive: taken for basic");
                false
            }
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
            other => return Err(format!("unexpected clusterState {other:?}")),
        };
        self.parsed("initial-cluster-token", &mut config.initial_cluster_token)
    }

    fn limits(&self, config: &mut Config) -> Result<(), String> {
        self.parsed("snapshot-count", &mut config.snapshot_count)?;
        self.parsed("snapshot-catchup-entries", &mut config.snapshot_catchup_entries)?;
        // Below nothing there is no quota.
        let mut quota = 0_i64;
        self.parsed("quota-backend-bytes", &mut quota)?;
        config.quota_backend_bytes = u64::try_from(quota).unwrap_or(0);
        self.parsed("max-request-bytes", &mut config.max_request_bytes)?;
        self.parsed("max-txn-ops", &mut config.max_txn_ops)?;
        self.parsed("max-learners", &mut config.max_learners)?;
        self.bcrypt_cost(config)?;
        self.timing(config)?;
        self.parsed("max-concurrent-streams", &mut config.max_concurrent_streams)?;
        let mut batch_limit = 0_i64;
        self.parsed("compaction-batch-limit", &mut batch_limit)?;
        if let Ok(limit @ 1..) = usize::try_from(batch_limit) {
            config.compaction_batch_limit = limit;
        }
        self.duration("compaction-sleep-interval", &mut config.compaction_sleep_interval)?;
        self.duration("grpc-keepalive-interval", &mut config.grpc_keepalive_interval)?;
        self.duration("grpc-keepalive-timeout", &mut config.grpc_keepalive_timeout)?;
        if config.grpc_keepalive_timeout.is_zero() {
            // Without time for the answer nobody is asked, as in etcd.
            config.grpc_keepalive_interval = Duration::ZERO;
        }
        self.duration("warning-apply-duration", &mut config.warning_apply_duration)?;
        self.duration("warning-unary-request-duration", &mut config.warning_request_duration)?;
        let mut progress = Duration::ZERO;
        self.duration("watch-progress-notify-interval", &mut progress)?;
        if !progress.is_zero() {
            config.watch_progress_interval = progress.max(WATCH_PROGRESS_MIN);
        }
        self.corruption_checks(config)
    }

    /// A cost that bcrypt does not have is not used, as in etcd.
    fn bcrypt_cost(&self, config: &mut Config) -> Result<(), String> {
        let mut cost = config.bcrypt_cost;
        self.parsed("bcrypt-cost", &mut cost)?;
        if BCRYPT_COSTS.contains(&cost) {
            config.bcrypt_cost = cost;
        } else {
            tracing::warn!(cost, used = config.bcrypt_cost, "bcrypt has no such cost: the default is used");
        }
        Ok(())
    }

    fn timing(&self, config: &mut Config) -> Result<(), String> {
        self.millis("heartbeat-interval", &mut config.heartbeat_interval)?;
        self.millis("election-timeout", &mut config.election_timeout)?;
        let (heartbeat, election) =
            (config.heartbeat_interval.as_millis(), config.election_timeout.as_millis());
        if heartbeat == 0 {
            return Err("--heartbeat-interval must be >0 (set to 0ms)".to_owned());
        }
        if election == 0 {
            return Err("--election-timeout must be >0 (set to 0ms)".to_owned());
        }
        if heartbeat.saturating_mul(5) > election {
            return Err(format!(
                "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
            ));
        }
        if election > ELECTION_MILLIS_MAX {
            return Err(format!(
                "--election-timeout[{election}ms] is too long, and should be set less than {ELECTION_MILLIS_MAX}ms"
            ));
        }
        Ok(())
    }

    /// Members compare their states as often as the more frequent of etcd's two checks asks for: ours is one.
    fn corruption_checks(&self, config: &mut Config) -> Result<(), String> {
        self.switch("initial-corrupt-check", &mut config.initial_corrupt_check)?;
        self.duration("corrupt-check-time", &mut config.corrupt_check_interval)?;
        let mut interval = COMPACT_HASH_CHECK_DEFAULT;
        self.duration("compact-hash-check-time", &mut interval)?;
        if interval.is_zero() {
            let set = self.text("compact-hash-check-time").unwrap_or_default();
            return Err(format!("--compact-hash-check-time must be >0 (set to {set})"));
        }
        if self.is_on("compact-hash-check-enabled")? {
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
