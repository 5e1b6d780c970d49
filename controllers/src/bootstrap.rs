//! Bootstrap tokens: signs the cluster's public facts (`cluster-info` in kube-public) with each token that may sign, so
//! that a joining machine that holds one can trust them, and deletes tokens whose time is over.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use crate::meta::{StringMap, name, namespace};
use crate::runtime::{Action, Context, Controller, Key, Plan, ReconcileError, Store, Wiring, clock};

const TOKEN_TYPE: &str = "bootstrap.kubernetes.io/token";
const TOKEN_NAMESPACE: &str = "kube-system";
const TOKEN_PREFIX: &str = "bootstrap-token-";
const CLUSTER_INFO: (&str, &str) = ("kube-public", "cluster-info");
const KUBECONFIG: &str = "kubeconfig";
const SIGNATURE_PREFIX: &str = "jws-kubeconfig-";

fn is_token(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(TOKEN_TYPE) && namespace(secret) == TOKEN_NAMESPACE
}

fn field(secret: &Secret, key: &str) -> Option<String> {
    let bytes = secret.data.as_ref()?.get(key)?;
    String::from_utf8(bytes.0.clone()).ok().filter(|text| !text.is_empty())
}

/// When a token's time is over; `None` for one that stays. One that cannot be read is over.
fn expires_at(secret: &Secret) -> Option<Timestamp> {
    field(secret, "expiration").map(|text| text.parse().unwrap_or(Timestamp::MIN))
}

/// The id and secret of a token that may sign.
fn signing_token(secret: &Secret, now: Timestamp) -> Option<(String, String)> {
    let id = field(secret, "token-id")?;
    let is_named_so = name(secret).strip_prefix(TOKEN_PREFIX) == Some(id.as_str());
    let is_over = expires_at(secret).is_some_and(|at| at <= now);
    let may_sign = field(secret, "usage-bootstrap-signing").as_deref() == Some("true");
    let value = field(secret, "token-secret")?;
    (is_named_so && may_sign && !is_over).then_some((id, value))
}

/// A JSON web signature of `content` that leaves the content out.
fn detached_signature(content: &str, id: &str, secret: &str) -> Option<String> {
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{id}"}}"#));
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = EncodingKey::from_secret(secret.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).ok()?;
    Some(format!("{header}..{signature}"))
}

struct Signer {
    maps: Store<ConfigMap>,
    secrets: Store<Secret>,
}

/// Builds the loop that signs; its only key is the signed map.
pub fn build_signer(wiring: &mut Wiring) -> Box<dyn Controller> {
    let key = || Key::new(CLUSTER_INFO.0, CLUSTER_INFO.1);
    let maps = wiring.on::<ConfigMap>(move |change, queue| {
        if change.latest().is_some_and(|map| Key::of(map.as_ref()) == key()) {
            queue.add(key());
        }
    });
    let secrets = wiring.on::<Secret>(move |change, queue| {
        if change.both().any(|secret| is_token(secret)) {
            queue.add(key());
        }
    });
    Box::new(Signer { maps, secrets })
}

impl Controller for Signer {
    fn reconcile(&self, key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let Some(map) = self.maps.get(key) else { return Ok(plan) };
        let data = map.data.clone().unwrap_or_default();
        let Some(content) = data.get(KUBECONFIG) else { return Ok(plan) };
        let mut wanted: StringMap = data.clone();
        wanted.retain(|key, _| !key.starts_with(SIGNATURE_PREFIX));
        let tokens = self.secrets.in_namespace(TOKEN_NAMESPACE);
        let tokens: Vec<_> = tokens.into_iter().filter(|secret| is_token(secret)).collect();
        for (id, secret) in tokens.iter().filter_map(|secret| signing_token(secret, context.now)) {
            let signature = detached_signature(content, &id, &secret);
            wanted.extend(signature.map(|signature| (format!("{SIGNATURE_PREFIX}{id}"), signature)));
        }
        let next = tokens.iter().filter_map(|secret| expires_at(secret)).filter(|at| *at > context.now).min();
        next.into_iter().for_each(|at| plan.again_after(clock::until(at, context.now)));
        if wanted != data {
            let mut map = map.as_ref().clone();
            map.data = Some(wanted);
            plan.act(Action::update(&map).tolerating(&[404]));
        }
        Ok(plan)
    }

    fn workers(&self) -> usize {
        1
    }
}

struct Cleaner {
    secrets: Store<Secret>,
}

/// Builds the loop that deletes tokens.
pub fn build_cleaner(wiring: &mut Wiring) -> Box<dyn Controller> {
    let secrets = wiring.on::<Secret>(|change, queue| {
        if let Some(secret) = change.new.as_ref().filter(|secret| is_token(secret)) {
            queue.add(Key::of(secret.as_ref()));
        }
    });
    Box::new(Cleaner { secrets })
}

impl Controller for Cleaner {
    fn reconcile(&self, key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let Some(secret) = self.secrets.get(key).filter(|secret| is_token(secret)) else { return Ok(plan) };
        let Some(at) = expires_at(&secret) else { return Ok(plan) };
        let left = clock::until(at, context.now);
        if left > Duration::ZERO {
            plan.again_after(left);
        } else {
            plan.act(Action::delete(secret.as_ref()).tolerating(&[404, 409]));
        }
        Ok(plan)
    }

    fn workers(&self) -> usize {
        1
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::{Value, json};

    use super::{CLUSTER_INFO, TOKEN_TYPE, build_cleaner, build_signer, detached_signature};
    use crate::testing::check;
    use crate::testing::crash::check_crashes;
    use crate::testing::world::{Scenario, World};

    fn token(id: &str, fields: &[(&str, &str)]) -> Value {
        let mut data = json!({"token-id": STANDARD.encode(id), "token-secret": STANDARD.encode("secret")});
        fields.iter().for_each(|(key, value)| data[key] = STANDARD.encode(value).into());
        json!({"kind": "Secret", "type": TOKEN_TYPE, "data": data,
            "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"}})
    }

    fn info(more: &[(&str, &str)]) -> Value {
        let mut data = json!({"kubeconfig": "content"});
        more.iter().for_each(|(key, value)| data[key] = (*value).into());
        json!({"kind": "ConfigMap", "metadata": {"namespace": CLUSTER_INFO.0, "name": CLUSTER_INFO.1}, "data": data})
    }

    const CONTENT: &str = "Hello from the other side. I must have called a thousand times.";

    /// The example of upstream's own test of the format.
    #[test]
    fn the_signature_is_the_one_kubeadm_checks() {
        let signature = detached_signature(CONTENT, "joshua", "my voice is my passcode");
        let expected =
            "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8";
        assert_eq!(signature.as_deref(), Some(expected));
    }

    #[test]
    fn cases() {
        let signs = ("usage-bootstrap-signing", "true");
        let key = "kube-public/cluster-info";
        let update = "update /api/v1/namespaces/kube-public/configmaps/cluster-info";
        let signature = detached_signature("content", "abcdef", "secret").expect("a signature");
        check(build_signer, key, &[info(&[]), token("abcdef", &[signs])], update);
        check(
            build_signer,
            key,
            &[info(&[("jws-kubeconfig-abcdef", &signature)]), token("abcdef", &[signs])],
            "",
        );
        check(build_signer, key, &[info(&[]), token("abcdef", &[])], "");
        check(build_signer, key, &[info(&[("jws-kubeconfig-gone", "x")])], update);
        let over = ("expiration", "2026-01-01T00:00:00Z");
        check(build_signer, key, &[info(&[]), token("abcdef", &[signs, over])], "");
        let path = "/api/v1/namespaces/kube-system/secrets/bootstrap-token-abcdef";
        let name = "kube-system/bootstrap-token-abcdef";
        check(build_cleaner, name, &[token("abcdef", &[over])], &format!("delete {path}"));
        check(build_cleaner, name, &[token("abcdef", &[("expiration", "2027-01-01T00:00:00Z")])], "");
        check(build_cleaner, name, &[token("abcdef", &[])], "");
    }

    #[test]
    fn a_token_signs_until_it_is_over_whatever_dies() {
        let fields = [("usage-bootstrap-signing", "true"), ("expiration", "2026-06-01T12:01:00Z")];
        let objects = [info(&[]), token("abcdef", &fields)];
        let scenario = Scenario::new(&[build_signer, build_cleaner], &objects);
        let mut world = World::start(&scenario, None, false);
        world.run();
        {
            let model = world.shared.model.lock();
            assert!(model.all("Secret").is_empty());
            assert_eq!(model.all("ConfigMap")[0]["data"], json!({"kubeconfig": "content"}));
        }
        assert_eq!(check_crashes(&scenario), 3);
    }
}
