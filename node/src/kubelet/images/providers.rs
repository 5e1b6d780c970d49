//! Registry credentials from helper programs: the exec plugins of `--image-credential-provider-config`. A program reads
//! an image's name and writes user names and passwords by registry pattern; answers are kept as long as they allow.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use proto::cri::AuthConfig;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::credentials;
use super::names::registry_and_path;
use crate::kubelet::config::parse_duration;

/// A program may run this long (upstream's limit).
const RUN_LIMIT: Duration = Duration::from_secs(60);
/// Versions of the protocol spoken; all have the same fields.
const VERSIONS: [&str; 3] = [
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
];

/// Why credential providers cannot be used. Retrying does not help where it is about the configuration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProviderError {
    /// The configuration cannot be read.
    #[error("credential provider configuration {path}: {text}")]
    Config {
        /// Which file.
        path: String,
        /// What is wrong.
        text: String,
    },
    /// A program failed.
    #[error("credential provider {name}: {text}")]
    Run {
        /// Which.
        name: String,
        /// What happened.
        text: String,
    },
}

/// One program.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Provider {
    name: String,
    match_images: Vec<String>,
    default_cache_duration: String,
    api_version: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Deserialize)]
struct Config {
    kind: String,
    providers: Vec<Provider>,
}

/// An answer's reach.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Scope {
    Image(String),
    Registry(String),
    Global,
}

struct Kept {
    auths: Vec<(String, AuthConfig)>,
    until: Instant,
}

/// Every configured program, and what they said.
#[derive(Default)]
pub struct Providers {
    bin_dir: PathBuf,
    providers: Vec<Provider>,
    kept: Mutex<HashMap<(String, Scope), Kept>>,
}

impl Providers {
    /// Reads the configuration; none without a file.
    pub fn read(config: Option<&Path>, bin_dir: Option<&Path>) -> Result<Self, ProviderError> {
        let Some(path) = config else { return Ok(Self::default()) };
        let failed = |text: String| ProviderError::Config { path: path.display().to_string(), text };
        let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
        let providers = parse(&text).map_err(failed)?;
        let bin_dir =
            bin_dir.ok_or_else(|| failed("--image-credential-provider-bin-dir is missing".into()))?;
        for provider in &providers {
            if !bin_dir.join(&provider.name).exists() {
                return Err(failed(format!("there is no {} in {}", provider.name, bin_dir.display())));
            }
        }
        Ok(Self { bin_dir: bin_dir.to_owned(), providers, kept: Mutex::default() })
    }

    /// Every credential that fits the image, of all programs that know its registry. A program that fails is skipped,
    /// with a warning: the image may be public.
    pub async fn for_image(&self, image: &str) -> Vec<AuthConfig> {
        let mut found = Vec::new();
        for provider in &self.providers {
            if !provider.match_images.iter().any(|pattern| credentials::fits(pattern, image)) {
                continue;
            }
            match self.ask(provider, image).await {
                Ok(auths) => found.extend(
                    auths
                        .into_iter()
                        .filter(|(pattern, _)| credentials::fits(pattern, image))
                        .map(|(_, a)| a),
                ),
                Err(error) => tracing::warn!(%error, image, "no credentials from a provider"),
            }
        }
        found
    }

    async fn ask(
        &self,
        provider: &Provider,
        image: &str,
    ) -> Result<Vec<(String, AuthConfig)>, ProviderError> {
        let (registry, _) = registry_and_path(image);
        for scope in [Scope::Image(image.to_owned()), Scope::Registry(registry.clone()), Scope::Global] {
            let kept = self.kept.lock();
            let known = kept.get(&(provider.name.clone(), scope)).filter(|k| k.until > Instant::now());
            if let Some(known) = known {
                return Ok(known.auths.clone());
            }
        }
        let failed = |text: String| ProviderError::Run { name: provider.name.clone(), text };
        let output = self.run(provider, image).await.map_err(failed)?;
        let answer = read_answer(&output, image, &registry).map_err(failed)?;
        let default = parse_duration(&provider.default_cache_duration).unwrap_or_default();
        let now = Instant::now();
        // A time beyond what the clock can count is as good as none.
        let until = now.checked_add(answer.keep.unwrap_or(default)).unwrap_or(now);
        let mut kept = self.kept.lock();
        kept.retain(|_, k| k.until > Instant::now());
        kept.insert((provider.name.clone(), answer.scope), Kept { auths: answer.auths.clone(), until });
        Ok(answer.auths)
    }

    async fn run(&self, provider: &Provider, image: &str) -> Result<Vec<u8>, String> {
        let request =
            json!({"kind": "CredentialProviderRequest", "apiVersion": provider.api_version, "image": image});
        let mut child = Command::new(self.bin_dir.join(&provider.name))
            .args(&provider.args)
            .envs(provider.env.iter().map(|v| (&v.name, &v.value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| e.to_string())?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read its input says why on its error output.
            let _ = stdin.write_all(request.to_string().as_bytes()).await;
        }
        let output = tokio::time::timeout(RUN_LIMIT, child.wait_with_output()).await;
        let output = output.map_err(|_| format!("no answer after {RUN_LIMIT:?}"))?;
        let output = output.map_err(|e| e.to_string())?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
    }
}

fn parse(text: &str) -> Result<Vec<Provider>, String> {
    let config: Config = serde_yaml_ng::from_str(text).map_err(|e| e.to_string())?;
    if config.kind != "CredentialProviderConfig" {
        return Err(format!("kind is {}, not CredentialProviderConfig", config.kind));
    }
    if config.providers.is_empty() {
        return Err("at least 1 item in plugins is required".into());
    }
    for provider in &config.providers {
        let name = &provider.name;
        if name.is_empty() || name.contains(['/', ' ']) || name == "." || name == ".." {
            return Err(format!("{name:?} is no provider name: it must be a file in the folder of programs"));
        }
        if provider.match_images.is_empty() {
            return Err(format!("provider {name}: at least 1 item in matchImages is required"));
        }
        if !VERSIONS.contains(&provider.api_version.as_str()) {
            return Err(format!("provider {name}: apiVersion {} is not supported", provider.api_version));
        }
        if parse_duration(&provider.default_cache_duration).is_none() {
            return Err(format!(
                "provider {name}: defaultCacheDuration {} is no duration",
                provider.default_cache_duration
            ));
        }
    }
    Ok(config.providers)
}

struct Answer {
    scope: Scope,
    keep: Option<Duration>,
    auths: Vec<(String, AuthConfig)>,
}

fn read_answer(output: &[u8], image: &str, registry: &str) -> Result<Answer, String> {
    let value: Value = serde_json::from_slice(output).map_err(|e| format!("its answer is no JSON: {e}"))?;
    let scope = match value["cacheKeyType"].as_str() {
        Some("Image") => Scope::Image(image.to_owned()),
        Some("Registry") => Scope::Registry(registry.to_owned()),
        Some("Global") => Scope::Global,
        other => return Err(format!("cacheKeyType {} is unknown", other.unwrap_or_default())),
    };
    let keep = value["cacheDuration"].as_str().and_then(parse_duration);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entry = |(pattern, auth): (&String, &Value)| {
        let config = AuthConfig {
            username: text(&auth["username"]),
            password: text(&auth["password"]),
            ..Default::default()
        };
        (pattern.clone(), config)
    };
    let auths = value["auth"].as_object().map(|map| map.iter().map(entry).collect()).unwrap_or_default();
    Ok(Answer { scope, keep, auths })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn config(body: &str) -> Result<usize, String> {
        parse(&format!("kind: CredentialProviderConfig\nproviders:\n{body}")).map(|p| p.len())
    }

    #[test]
    fn configurations_are_checked() {
        let good = "- name: p\n  matchImages: ['*.io']\n  defaultCacheDuration: 1m\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n";
        assert_eq!(config(good), Ok(1));
        for (from, to, expected) in [
            ("name: p", "name: ../p", "is no provider name"),
            ("['*.io']", "[]", "matchImages is required"),
            ("k8s.io/v1\n", "k8s.io/v9\n", "is not supported"),
            ("1m", "soon", "is no duration"),
        ] {
            let error = config(&good.replace(from, to)).expect_err(to);
            assert!(error.contains(expected), "{error}");
        }
        assert!(parse("kind: Other\nproviders: []").is_err());
    }

    #[tokio::test]
    async fn a_program_is_asked_once_a_registry() {
        let dir = tempfile::tempdir().expect("a folder");
        let program = dir.path().join("helper");
        let script = format!(
            "#!/bin/sh\ncat > /dev/null\necho x >> {}\necho '{}'\n",
            dir.path().join("calls").display(),
            json!({"kind": "CredentialProviderResponse", "apiVersion": VERSIONS[0], "cacheKeyType": "Registry",
                "cacheDuration": "1h", "auth": {"reg.io": {"username": "u", "password": "p"}, "other.io": {}}})
        );
        std::fs::write(&program, script).expect("written");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("executable");
        let file = dir.path().join("config.yaml");
        let text = "kind: CredentialProviderConfig\nproviders:\n- name: helper\n  matchImages: [reg.io]\n  defaultCacheDuration: 0s\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n";
        std::fs::write(&file, text).expect("written");
        let providers = Providers::read(Some(&file), Some(dir.path())).expect("configured");
        for _ in 0..2 {
            let users: Vec<_> =
                providers.for_image("reg.io/team/app:1").await.into_iter().map(|a| a.username).collect();
            assert_eq!(users, ["u"]);
        }
        assert!(providers.for_image("busybox").await.is_empty());
        let calls = std::fs::read_to_string(dir.path().join("calls")).expect("called");
        assert_eq!(calls.lines().count(), 1);
        assert!(Providers::read(Some(&file), Some(Path::new("/nonexistent"))).is_err());
    }
}
