//! Kubeconfig files: one user, one context a server, so that `kubectl --context` reaches any of them.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::failure::Result;
use crate::pki::files::write_private;

/// One way to reach the cluster: the context's name and the URL.
pub struct Endpoint {
    pub context: String,
    pub url: String,
}

/// How the user proves who they are.
pub enum Identity<'a> {
    /// PEM of the certificate chain and of its key.
    Certificate { cert: &'a str, key: &'a str },
    /// A bearer token.
    Token(&'a str),
}

/// The file's content. The first endpoint is the current context.
pub fn render(user: &str, identity: &Identity<'_>, ca: &str, endpoints: &[Endpoint]) -> Value {
    let credentials = match identity {
        Identity::Certificate { cert, key } => {
            json!({"client-certificate-data": STANDARD.encode(cert), "client-key-data": STANDARD.encode(key)})
        }
        Identity::Token(token) => json!({"token": token}),
    };
    let clusters: Vec<Value> = endpoints
        .iter()
        .map(|endpoint| {
            let cluster = json!({"server": endpoint.url, "certificate-authority-data": STANDARD.encode(ca)});
            json!({"name": endpoint.context, "cluster": cluster})
        })
        .collect();
    let contexts: Vec<Value> = endpoints
        .iter()
        .map(|endpoint| json!({"name": endpoint.context, "context": {"cluster": endpoint.context, "user": user}}))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": clusters,
        "contexts": contexts,
        "current-context": endpoints.first().map_or("", |endpoint| endpoint.context.as_str()),
        "users": [{"name": user, "user": credentials}],
    })
}

/// Writes the file so that only its owner can read it, whole or not at all.
pub fn write(path: &Path, config: &Value) -> Result<()> {
    write_private(path, serde_yaml_ng::to_string(config)?.as_bytes())
}

/// The same where the file does not hold this already; says whether it was written.
pub fn write_if_new(path: &Path, config: &Value) -> Result<bool> {
    let text = serde_yaml_ng::to_string(config)?;
    if std::fs::read(path).is_ok_and(|have| have == text.as_bytes()) {
        return Ok(false);
    }
    write_private(path, text.as_bytes()).map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_for_every_server_and_the_first_is_current() {
        let endpoints: Vec<Endpoint> = ["a", "b"]
            .iter()
            .map(|name| Endpoint { context: (*name).into(), url: format!("https://{name}:6443") })
            .collect();
        let config = render("admin", &Identity::Token("t"), "CA", &endpoints);
        assert_eq!(config["current-context"], "a");
        assert_eq!(config["clusters"][1]["cluster"]["server"], "https://b:6443");
        assert_eq!(config["clusters"][1]["cluster"]["certificate-authority-data"], "Q0E=");
        assert_eq!(config["contexts"][1]["context"]["user"], "admin");
        assert_eq!(config["users"][0]["user"]["token"], "t");
    }
}
