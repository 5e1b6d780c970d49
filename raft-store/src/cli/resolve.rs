//! From flags, environment and file to a configuration.

use std::{collections::BTreeMap, path::PathBuf, str::FromStr, time::Duration};

use super::{
    args::Args,
    duration,
    flags::{FLAGS, variable},
};
use crate::{
    auth::TokenSpec,
    config::{AutoCompaction, ClusterState, Config},
    tls::TlsFiles,
};

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
            values = read_file(path)?;
        }
        for flag in FLAGS.iter().filter(|flag| !flag.used && values.contains_key(flag.name)) {
            tracing::warn!(flag = flag.name, "this flag of etcd is not needed here and does nothing");
        }
        Ok(Self { values })
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

    fn switch(&self, name: &str) -> bool {
        self.text(name) == Some("true")
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

    fn duration(&self, names: [&str; 2], into: &mut Duration) -> Result<(), String> {
        for name in names {
            if let Some(value) = self.text(name) {
                *into = duration::parse(value).map_err(|error| format!("--{name}: {error}"))?;
            }
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

    fn tls(&self, prefix: &str, data_dir: &std::path::Path, made: &str) -> TlsFiles {
        let name = |suffix: &str| format!("{prefix}{suffix}");
        TlsFiles {
            cert_file: self.path(&name("cert-file")),
            key_file: self.path(&name("key-file")),
            trusted_ca_file: self.path(&name("trusted-ca-file")),
            client_cert_auth: self.switch(&name("client-cert-auth")),
            client_cert_file: self.path(&name("client-cert-file")),
            client_key_file: self.path(&name("client-key-file")),
            auto_tls: self.switch(&name("auto-tls")),
            auto_tls_dir: Some(data_dir.join("fixtures").join(made)),
            allowed_names: self.list(&name("cert-allowed-cn")).unwrap_or_default(),
        }
    }

    /// The configuration; the error names the flag.
    pub fn config(&self) -> Result<Config, String> {
        let mut config = Config::embedded("default.etcd");
        self.parsed("name", &mut config.name)?;
        config.data_dir = self.path("data-dir").unwrap_or_else(|| format!("{}.etcd", config.name).into());
        self.urls(&mut config)?;
        self.limits(&mut config)?;
        config.client_tls = self.tls("", &config.data_dir, "client");
        config.peer_tls = self.tls("peer-", &config.data_dir, "peer");
        if let Some(token) = self.text("auth-token") {
            config.auth_token = TokenSpec::parse(token)?;
        }
        config.auto_compaction = self.auto_compaction()?;
        config.force_new_cluster = self.switch("force-new-cluster");
        config.promote_when_caught_up = self.switch("promote-when-caught-up");
        config.strict_reconfig_check = self.text("strict-reconfig-check") != Some("false");
        config.enable_grpc_gateway = self.text("enable-grpc-gateway") != Some("false");
        Ok(config)
    }

    fn urls(&self, config: &mut Config) -> Result<(), String> {
        let or = |name: &str, default: &str| self.list(name).unwrap_or_else(|| vec![default.to_owned()]);
        config.listen_client_urls = or("listen-client-urls", "http://localhost:2379");
        config.listen_peer_urls = or("listen-peer-urls", "http://localhost:2380");
        config.advertise_client_urls = or("advertise-client-urls", "http://localhost:2379");
        config.initial_advertise_peer_urls = or("initial-advertise-peer-urls", "http://localhost:2380");
        config.listen_metrics_urls = self.list("listen-metrics-urls").unwrap_or_default();
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
        self.duration(
            ["experimental-watch-progress-notify-interval", "watch-progress-notify-interval"],
            &mut config.watch_progress_interval,
        )?;
        self.duration(
            ["experimental-corrupt-check-time", "corrupt-check-time"],
            &mut config.corrupt_check_interval,
        )
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

/// A file of `name: value` lines; TLS settings may stand in blocks as in etcd's sample.
fn read_file(path: &str) -> Result<BTreeMap<String, String>, String> {
    use serde_yaml_ng::Value;
    let text = std::fs::read_to_string(path).map_err(|error| format!("--config-file {path}: {error}"))?;
    let file: BTreeMap<String, Value> =
        serde_yaml_ng::from_str(&text).map_err(|error| format!("--config-file {path}: {error}"))?;
    let mut values = BTreeMap::new();
    let mut put = |name: String, value: &Value| {
        if !FLAGS.iter().any(|flag| flag.name == name) {
            return Err(format!("--config-file {path}: unknown setting {name:?}"));
        }
        let text = match value {
            Value::Null => return Ok(()),
            Value::Bool(value) => value.to_string(),
            Value::Number(value) => value.to_string(),
            Value::String(value) => value.clone(),
            Value::Sequence(list) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
            _ => return Err(format!("--config-file {path}: {name} cannot be read")),
        };
        values.insert(name, text);
        Ok(())
    };
    for (name, value) in &file {
        match (name.as_str(), value) {
            ("client-transport-security", Value::Mapping(block)) => {
                for (inner, value) in block {
                    put(inner.as_str().unwrap_or_default().to_owned(), value)?;
                }
            }
            ("peer-transport-security", Value::Mapping(block)) => {
                for (inner, value) in block {
                    put(format!("peer-{}", inner.as_str().unwrap_or_default()), value)?;
                }
            }
            _ => put(name.clone(), value)?,
        }
    }
    Ok(values)
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
