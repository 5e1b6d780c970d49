//! Bootstrap tokens: `id.secret` pairs kept in Secrets of kube-system, with which new nodes join.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::bearer::{TokenOutcome, TokenStep};
use crate::contract::{ClusterReader, Object, UserInfo};
use crate::kinds::json::{is_set, text};

const NAMESPACE: &str = "kube-system";
const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
const DEFAULT_GROUP: &str = "system:bootstrappers";

/// Looks tokens up in the cluster's Secrets.
pub struct BootstrapTokens {
    pub cluster: Arc<dyn ClusterReader>,
}

#[async_trait]
impl TokenStep for BootstrapTokens {
    async fn check(&self, token: &str, audiences: &[String]) -> TokenOutcome {
        let Some((id, secret)) = split(token) else { return TokenOutcome::NotMine };
        let name = format!("bootstrap-token-{id}");
        // Machines join through whichever server answers, right after another one has made the token.
        let stored = match self.cluster.find("", "secrets", NAMESPACE, &name).await {
            Ok(Some(stored)) => stored,
            Ok(None) => return TokenOutcome::NotMine,
            Err(error) => return TokenOutcome::Refused(format!("secret {name} cannot be read: {error}")),
        };
        match user_of(&stored, id, secret, Timestamp::now()) {
            Some(user) => TokenOutcome::Found { user, audiences: audiences.to_vec() },
            None => TokenOutcome::NotMine,
        }
    }
}

/// Splits `[a-z0-9]{6}.[a-z0-9]{16}`.
pub fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |part: &str| part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

/// The user a stored token stands for, when id, secret, usage and expiry agree.
fn user_of(stored: &Object, id: &str, secret: &str, now: Timestamp) -> Option<UserInfo> {
    let deleted = is_set(stored, &["metadata", "deletionTimestamp"]);
    if deleted || text(stored, &["type"]) != SECRET_TYPE {
        return None;
    }
    // Digests are compared, so that the time taken says nothing about the secret.
    let matches = Sha256::digest(data(stored, "token-secret")) == Sha256::digest(secret);
    let usable = matches
        && data(stored, "token-id") == id
        && data(stored, "usage-bootstrap-authentication") == "true"
        && !expired(&data(stored, "expiration"), now);
    if !usable {
        return None;
    }
    let groups = groups(&data(stored, "auth-extra-groups"))?;
    Some(UserInfo { name: format!("system:bootstrap:{id}"), groups, ..UserInfo::default() })
}

fn data(stored: &Object, key: &str) -> String {
    let decoded = STANDARD.decode(text(stored, &["data", key])).ok();
    decoded.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
}

/// A time that does not parse counts as past, as upstream has it.
fn expired(expiration: &str, now: Timestamp) -> bool {
    !expiration.is_empty() && expiration.parse::<Timestamp>().map_or(true, |until| until <= now)
}

/// The default group and the listed ones; `None` when a name is not allowed.
fn groups(extra: &str) -> Option<Vec<String>> {
    let mut groups = vec![DEFAULT_GROUP.to_owned()];
    for group in extra.split(',').filter(|group| !group.is_empty()) {
        let suffix = group.strip_prefix("system:bootstrappers:")?;
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b':' || b == b'-';
        if suffix.is_empty() || !suffix.bytes().all(plain) || suffix.ends_with([':', '-']) {
            return None;
        }
        groups.push(group.to_owned());
    }
    groups.sort();
    groups.dedup();
    Some(groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn stored(changes: Value) -> Object {
        let mut data = json!({
            "token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true"
        });
        for (key, value) in changes.as_object().unwrap() {
            data[key] = value.clone();
        }
        let encoded: serde_json::Map<String, Value> = data
            .as_object()
            .unwrap()
            .iter()
            .map(|(key, value)| (key.clone(), json!(STANDARD.encode(value.as_str().unwrap()))))
            .collect();
        json!({"type": SECRET_TYPE, "data": encoded})
    }

    fn check(changes: Value, token: &str, expected: Option<usize>) {
        let (id, secret) = split(token).unwrap();
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let got = user_of(&stored(changes.clone()), id, secret, now).map(|user| user.groups.len());
        assert_eq!(got, expected, "{changes} {token}");
    }

    #[test]
    fn tokens_hold_while_everything_agrees() {
        let token = "abcdef.0123456789abcdef";
        check(json!({}), token, Some(1));
        check(json!({"auth-extra-groups": "system:bootstrappers:a,system:bootstrappers:b"}), token, Some(3));
        check(json!({"auth-extra-groups": "system:masters"}), token, None);
        check(json!({"expiration": "2026-01-02T00:00:00Z"}), token, Some(1));
        check(json!({"expiration": "2025-01-02T00:00:00Z"}), token, None);
        check(json!({"expiration": "soon"}), token, None);
        check(json!({"usage-bootstrap-authentication": "false"}), token, None);
        check(json!({}), "abcdef.0123456789abcdee", None);
        assert_eq!(split("abcde.0123456789abcdef"), None);
        assert_eq!(split("ABCDEF.0123456789abcdef"), None);
    }
}
