//! Registry credentials from pull secrets: `kubernetes.io/dockerconfigjson` and the older `dockercfg`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use proto::cri::AuthConfig;
use serde_json::Value;

use super::names::registry_and_path;

/// Every credential in the secrets that fits the image, most specific first.
pub fn for_image(image: &str, secrets: &[Secret]) -> Vec<AuthConfig> {
    let (registry, path) = registry_and_path(image);
    let mut found: Vec<(usize, AuthConfig)> = secrets
        .iter()
        .flat_map(entries)
        .filter(|(pattern, _)| matches(pattern, &registry, &path))
        .filter_map(|(pattern, entry)| Some((pattern.len(), auth(&entry)?)))
        .collect();
    found.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
    found.into_iter().map(|(_, auth)| auth).collect()
}

fn entries(secret: &Secret) -> Vec<(String, Value)> {
    let data = secret.data.clone().unwrap_or_default();
    let parse = |key: &str| data.get(key).and_then(|b| serde_json::from_slice::<Value>(&b.0).ok());
    let map = parse(".dockerconfigjson").map(|v| v["auths"].clone()).or_else(|| parse(".dockercfg"));
    let object = map.and_then(|m| m.as_object().cloned()).unwrap_or_default();
    object.into_iter().collect()
}

/// True if a pattern (`*.example.com/team`) covers the image.
pub fn fits(pattern: &str, image: &str) -> bool {
    let (registry, path) = registry_and_path(image);
    matches(pattern, &registry, &path)
}

/// A pattern is a host (with `*` for one label), maybe a port, maybe the beginning of a path.
fn matches(pattern: &str, registry: &str, path: &str) -> bool {
    let pattern = pattern.trim_start_matches("https://").trim_start_matches("http://");
    let (host, prefix) = pattern.split_once('/').unwrap_or((pattern, ""));
    let docker = |h: &str| matches!(h, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    if docker(host) && docker(registry) {
        return matches!(prefix.trim_end_matches('/'), "" | "v1" | "v2") || path.starts_with(prefix);
    }
    let (wanted, given): (Vec<_>, Vec<_>) = (host.split('.').collect(), registry.split('.').collect());
    let labels = wanted.len() == given.len() && wanted.iter().zip(&given).all(|(w, g)| *w == "*" || w == g);
    let prefix = prefix.trim_end_matches('/');
    labels && (matches!(prefix, "" | "v1" | "v2") || path.starts_with(prefix))
}

fn auth(entry: &Value) -> Option<AuthConfig> {
    let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let (mut username, mut password) = (text("username"), text("password"));
    if username.is_empty() && !text("auth").is_empty() {
        let decoded = STANDARD.decode(text("auth").trim()).ok()?;
        let decoded = String::from_utf8(decoded).ok()?;
        let (user, secret) = decoded.split_once(':')?;
        (username, password) = (user.to_owned(), secret.trim_end_matches('\0').to_owned());
    }
    Some(AuthConfig {
        username,
        password,
        // No server address: it was matched here already, and a runtime takes `reg.io` for a path and drops the rest.
        identity_token: text("identitytoken"),
        registry_token: text("registrytoken"),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(image: &str, expected: &[&str]) {
        let config = json!({"auths": {
            "reg.io": {"auth": STANDARD.encode("host:p")},
            "reg.io/team": {"username": "team", "password": "p"},
            "*.example.com": {"username": "wild", "password": "p"},
            "https://index.docker.io/v1/": {"username": "hub", "password": "p"},
        }});
        let secret: Secret = serde_json::from_value(json!({"data":
            {".dockerconfigjson": STANDARD.encode(config.to_string())}}))
        .expect("a secret");
        let users: Vec<_> = for_image(image, &[secret]).into_iter().map(|a| a.username).collect();
        assert_eq!(users, expected, "{image}");
    }

    #[test]
    fn the_most_specific_fits_first() {
        check("reg.io/x", &["host"]);
        check("reg.io/team/x:1", &["team", "host"]);
        check("a.example.com/x", &["wild"]);
        check("a.b.example.com/x", &[]);
        check("busybox", &["hub"]);
    }
}
