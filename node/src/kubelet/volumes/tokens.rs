//! Tokens of service accounts for pods: asked from the API, bound to the pod, and renewed before they end.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;

use crate::kubelet::pod::spec;

/// Life of a token where the volume names none, seconds.
const EXPIRATION_DEFAULT_SECS: i64 = 3600;
/// A token older than this is renewed whatever its life.
const AGE_MAX: SignedDuration = SignedDuration::from_hours(24);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    pod_uid: String,
    account: String,
    audience: Option<String>,
    expiration_secs: i64,
}

#[derive(Clone, Debug)]
struct Held {
    token: String,
    issued: Timestamp,
    expires: Timestamp,
}

impl Held {
    /// Due when four fifths of its life are over, or after a day.
    fn due(&self, now: Timestamp) -> bool {
        let life = self.expires.duration_since(self.issued);
        let age = now.duration_since(self.issued);
        age > AGE_MAX || age.as_secs() * 5 > life.as_secs() * 4
    }
}

/// Tokens of every pod on this machine.
pub struct Tokens {
    client: Client,
    held: Mutex<HashMap<Key, Held>>,
}

impl Tokens {
    /// No tokens yet.
    pub fn new(client: Client) -> Self {
        Self { client, held: Mutex::default() }
    }

    /// A token for the pod's account.
    pub async fn get(
        &self,
        pod: &Pod,
        audience: Option<&str>,
        expiration_secs: Option<i64>,
    ) -> Result<String, String> {
        self.get_with_end(pod, audience, expiration_secs).await.map(|(token, _)| token)
    }

    /// The same, and when it ends. While the API is away, a token that still lives is good enough.
    pub async fn get_with_end(
        &self,
        pod: &Pod,
        audience: Option<&str>,
        expiration_secs: Option<i64>,
    ) -> Result<(String, Timestamp), String> {
        let account = spec::spec(pod)
            .service_account_name
            .clone()
            .filter(|n| !n.is_empty())
            .unwrap_or("default".into());
        let key = Key {
            pod_uid: spec::uid(pod).to_owned(),
            account,
            audience: audience.filter(|a| !a.is_empty()).map(str::to_owned),
            expiration_secs: expiration_secs.unwrap_or(EXPIRATION_DEFAULT_SECS),
        };
        let now = Timestamp::now();
        let known = self.held.lock().get(&key).cloned();
        if let Some(held) = known.as_ref().filter(|h| !h.due(now)) {
            return Ok((held.token.clone(), held.expires));
        }
        match self.request(pod, &key, now).await {
            Ok(held) => {
                self.held.lock().insert(key, held.clone());
                Ok((held.token, held.expires))
            }
            Err(error) => match known.filter(|h| h.expires > now) {
                Some(held) => Ok((held.token, held.expires)),
                None => Err(format!("failed to fetch token: {error}")),
            },
        }
    }

    async fn request(&self, pod: &Pod, key: &Key, now: Timestamp) -> Result<Held, kube::Error> {
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(key.audience.iter().cloned().collect()),
                expiration_seconds: Some(key.expiration_secs),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
            }),
            ..Default::default()
        };
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), spec::namespace(pod));
        let answer = api.create_token_request(&key.account, &PostParams::default(), &request).await?;
        let status = answer.status.unwrap_or_default();
        let expires = status.expiration_timestamp.map_or(now, |t| t.0);
        Ok(Held { token: status.token.unwrap_or_default(), issued: now, expires })
    }

    /// Forgets a pod's tokens.
    pub fn forget(&self, pod_uid: &str) {
        self.held.lock().retain(|key, _| key.pod_uid != pod_uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_due_before_they_end() {
        let at = |secs| Timestamp::from_second(secs).expect("in range");
        let held = |life| Held { token: String::new(), issued: at(0), expires: at(life) };
        let cases = [(3600, 0, false), (3600, 2880, false), (3600, 2881, true), (1_000_000, 86_401, true)];
        for (life, age, due) in cases {
            assert_eq!(held(life).due(at(age)), due, "{life} {age}");
        }
    }
}
