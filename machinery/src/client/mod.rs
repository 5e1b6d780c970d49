//! The client of scheduler, controllers and node: where the API server is, with which credentials, how fast.
//!
//! Opens no socket itself: connections are made when the client is first used.

mod limit;
pub mod requests;
pub mod unverified;
pub mod watch;

use std::path::PathBuf;

use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use thiserror::Error;

pub use limit::{Bucket, QpsLayer};
pub use requests::RequestsLayer;

/// How to reach the API server; the fields are upstream's flags.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// `--kubeconfig`. Without it: the service account of a pod, else the default kubeconfig.
    pub kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context; its current one when absent.
    pub context: Option<String>,
    /// `--master`: replaces the server's URL.
    pub master: Option<String>,
    /// `--kube-api-qps`; zero or less means no limit.
    pub qps: f32,
    /// `--kube-api-burst`.
    pub burst: u32,
}

/// Why no client could be made. Each names the input to mend.
#[derive(Debug, Error)]
pub enum ClientError {
    #[error("cannot read kubeconfig {path:?}: {source}")]
    Kubeconfig { path: PathBuf, source: kube::config::KubeconfigError },
    #[error("no kubeconfig given and none found: {0}")]
    Infer(#[from] kube::config::InferConfigError),
    #[error("--master {url:?} is no URL: {source}")]
    Master { url: String, source: http::uri::InvalidUri },
    #[error("cannot set up TLS or credentials: {0}")]
    Build(#[source] kube::Error),
}

/// Reads the options into the client library's configuration.
pub async fn config(options: &Options) -> Result<kube::Config, ClientError> {
    let mut config = match &options.kubeconfig {
        Some(path) => {
            let wrap = |source| ClientError::Kubeconfig { path: path.clone(), source };
            let file = Kubeconfig::read_from(path).map_err(wrap)?;
            let choice =
                KubeConfigOptions { context: options.context.clone(), ..KubeConfigOptions::default() };
            kube::Config::from_custom_kubeconfig(file, &choice).await.map_err(wrap)?
        }
        None => kube::Config::infer().await?,
    };
    if let Some(url) = &options.master {
        config.cluster_url =
            url.parse().map_err(|source| ClientError::Master { url: url.clone(), source })?;
    }
    // Watches are long; the client must not cut them. Requests that should end carry their own time-outs.
    config.read_timeout = None;
    Ok(config)
}

/// A client with the options' rate limit.
pub async fn build(options: &Options) -> Result<kube::Client, ClientError> {
    from_config(config(options).await?, options.qps, options.burst)
}

/// A client from a ready configuration. Requests beyond `qps` (after a `burst`) wait their turn; all are counted.
pub fn from_config(config: kube::Config, qps: f32, burst: u32) -> Result<kube::Client, ClientError> {
    let counting = RequestsLayer::of(&config);
    let builder = ClientBuilder::try_from(config).map_err(ClientError::Build)?.with_layer(&counting);
    Ok(if qps > 0.0 { builder.with_layer(&QpsLayer::new(qps, burst)).build() } else { builder.build() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reads_a_kubeconfig_and_replaces_the_server() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("config");
        let text = r#"{"apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "k", "cluster": {"server": "https://127.0.0.1:1"}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "n"}}]}"#;
        std::fs::write(&path, text).expect("is written");
        let mut options = Options { kubeconfig: Some(path.clone()), ..Options::default() };
        let read = config(&options).await.expect("reads");
        assert_eq!(
            (read.cluster_url.to_string().as_str(), read.default_namespace.as_str()),
            ("https://127.0.0.1:1/", "n")
        );
        options.master = Some("https://127.0.0.1:2".to_owned());
        assert_eq!(config(&options).await.expect("reads").cluster_url.to_string(), "https://127.0.0.1:2/");
        options.kubeconfig = Some(path.with_extension("missing"));
        assert!(matches!(config(&options).await, Err(ClientError::Kubeconfig { .. })));
    }
}
