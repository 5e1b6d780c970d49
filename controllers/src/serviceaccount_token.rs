//! Tokens in secrets of type `kubernetes.io/service-account-token`: filled with a signed token, the authority and the
//! namespace; deleted with their service account. Without a signing key it does nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use serde_json::json;

use crate::meta::{annotation, is_terminating, name, namespace, uid};
use crate::options::Options;
use crate::runtime::{
    Action, Answer, Ask, Context, Controller, Failure, Gvr, Key, Plan, ReconcileError, Store, Wiring,
};

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

struct Tokens {
    secrets: Store<Secret>,
    accounts: Store<ServiceAccount>,
    signer: Option<Signer>,
    root_ca: Option<Vec<u8>>,
    workers: usize,
}

struct Signer {
    key: EncodingKey,
    algorithm: Algorithm,
    issuer: String,
}

impl Signer {
    fn new(options: &Options) -> Option<Self> {
        let pem = options.service_account_key.as_ref()?;
        let rsa = EncodingKey::from_rsa_pem(pem).map(|key| (key, Algorithm::RS256));
        let found = rsa.or_else(|_| EncodingKey::from_ec_pem(pem).map(|key| (key, Algorithm::ES256)));
        match found {
            Ok((key, algorithm)) => {
                Some(Self { key, algorithm, issuer: options.service_account_issuer.clone() })
            }
            Err(error) => {
                tracing::error!(%error, "the service account key is not usable; token secrets will not be filled");
                None
            }
        }
    }

    fn token(&self, account: &ServiceAccount, secret: &Secret) -> Result<String, String> {
        let claims = json!({
            "iss": self.issuer,
            "sub": format!("system:serviceaccount:{}:{}", namespace(account), name(account)),
            "kubernetes.io/serviceaccount/namespace": namespace(account),
            "kubernetes.io/serviceaccount/secret.name": name(secret),
            "kubernetes.io/serviceaccount/service-account.name": name(account),
            "kubernetes.io/serviceaccount/service-account.uid": uid(account),
        });
        let header = Header { typ: None, ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, &claims, &self.key).map_err(|error| error.to_string())
    }
}

/// Builds the loop; its keys are secrets.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let secrets = wiring.on::<Secret>(|change, queue| {
        if let Some(secret) = change.new.as_ref().filter(|secret| is_token(secret)) {
            queue.add(Key::of(secret.as_ref()));
        }
    });
    let all = secrets.clone();
    let accounts = wiring.on::<ServiceAccount>(move |change, queue| {
        let Some(account) = change.latest() else { return };
        for secret in all.in_namespace(namespace(account.as_ref())) {
            if is_token(&secret) && annotation(secret.as_ref(), ACCOUNT_NAME) == Some(name(account.as_ref()))
            {
                queue.add(Key::of(secret.as_ref()));
            }
        }
    });
    let options = wiring.options();
    let (signer, root_ca) = (Signer::new(options), options.root_ca.clone());
    let workers = options.workers.serviceaccount_token;
    Box::new(Tokens { secrets, accounts, signer, root_ca, workers })
}

fn is_token(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(TYPE)
}

impl Controller for Tokens {
    fn reconcile(&self, key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let Some(signer) = &self.signer else { return Ok(plan) };
        let Some(secret) = self.secrets.get(key).filter(|secret| is_token(secret)) else { return Ok(plan) };
        let wanted_uid = annotation(secret.as_ref(), ACCOUNT_UID);
        let wanted = annotation(secret.as_ref(), ACCOUNT_NAME).unwrap_or("");
        let cached = self.accounts.named(&key.namespace, wanted).filter(|account| fits(account, wanted_uid));
        let account = match cached {
            Some(account) => account,
            None => {
                // The account may be newer than the cache; a secret is deleted only on the API server's word.
                let ask = Ask::Get(Gvr::of::<ServiceAccount>().object(&key.namespace, wanted));
                match context.answer(&ask) {
                    None => return Ok(plan.ask(ask)),
                    Some(Answer::Json(live)) => {
                        match serde_json::from_value::<ServiceAccount>(live.as_ref().clone()) {
                            Ok(live) if fits(&live, wanted_uid) => Arc::new(live),
                            _ => return Ok(delete(&secret)),
                        }
                    }
                    Some(Answer::Failed(failure)) if failure.is_not_found() => return Ok(delete(&secret)),
                    Some(Answer::Failed(failure)) => {
                        plan.problem = Some(failure.clone());
                        return Ok(plan);
                    }
                    Some(Answer::Kinds(_)) => return Ok(plan),
                }
            }
        };
        if is_terminating(secret.as_ref()) {
            return Ok(plan);
        }
        match self.filled(&secret, &account, signer) {
            Ok(Some(filled)) => plan.act(Action::update(&filled)),
            Ok(None) => {}
            Err(why) => plan.problem = Some(Failure::local(format!("signing a token failed: {why}"))),
        }
        Ok(plan)
    }

    fn workers(&self) -> usize {
        self.workers
    }
}

fn fits(account: &ServiceAccount, wanted_uid: Option<&str>) -> bool {
    wanted_uid.is_none_or(|wanted| wanted.is_empty() || wanted == uid(account))
}

fn delete(secret: &Secret) -> Plan {
    let mut plan = Plan::nothing();
    plan.act(Action::delete(secret));
    plan
}

impl Tokens {
    /// The secret with what it lacks; `None` when it lacks nothing.
    fn filled(
        &self,
        secret: &Secret,
        account: &ServiceAccount,
        signer: &Signer,
    ) -> Result<Option<Secret>, String> {
        let mut filled = secret.clone();
        let data: &mut BTreeMap<String, ByteString> = filled.data.get_or_insert_default();
        if let Some(root) = &self.root_ca {
            data.insert("ca.crt".into(), ByteString(root.clone()));
        }
        data.insert("namespace".into(), ByteString(namespace(secret).as_bytes().to_vec()));
        if data.get("token").is_none_or(|token| token.0.is_empty()) {
            data.insert("token".into(), ByteString(signer.token(account, secret)?.into_bytes()));
        }
        let annotations = filled.metadata.annotations.get_or_insert_default();
        annotations.insert(ACCOUNT_NAME.into(), name(account).into());
        annotations.insert(ACCOUNT_UID.into(), uid(account).into());
        Ok((filled != *secret).then_some(filled))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::KeyPair;
    use serde_json::{Value, json};

    use crate::options::Options;
    use crate::testing::crash::check_crashes;
    use crate::testing::model::Model;
    use crate::testing::world::{Scenario, World};
    use crate::testing::{Case, check};

    fn options() -> Options {
        let pem = KeyPair::generate().expect("a key").serialize_pem();
        Options {
            service_account_key: Some(pem.into_bytes()),
            root_ca: Some(b"CA".to_vec()),
            ..Options::default()
        }
    }

    fn secret() -> Value {
        json!({"kind": "Secret", "type": super::TYPE, "metadata": {"name": "t", "namespace": "ns",
            "annotations": {"kubernetes.io/service-account.name": "a"}}})
    }

    fn account() -> Value {
        json!({"kind": "ServiceAccount", "metadata": {"name": "a", "namespace": "ns", "uid": "u"}})
    }

    #[test]
    fn cases() {
        check(super::build, "ns/t", &[secret(), account()], "");
        let objects = [secret()];
        let asked = Case { options: options(), ..Case::new(super::build, &objects) }.plan("ns/t");
        assert_eq!(asked.asks.len(), 1, "a secret is deleted only on the API server's word");
    }

    #[test]
    fn filled_and_deleted_with_the_account() {
        let mut scenario = Scenario::new(&[super::build], &[secret(), account()]);
        scenario.options = options();
        let mut world = World::start(&scenario, None, false);
        world.run();
        let filled = world.shared.model.lock().get("Secret", "ns", "t").expect("the secret");
        assert!(filled["data"]["token"].is_string() && filled["data"]["ca.crt"].is_string(), "{filled}");
        let remove: fn(&mut Model) = |model| model.remove("ServiceAccount", "ns", "a", None);
        scenario.steps = vec![remove];
        let mut world = World::start(&scenario, None, false);
        assert!(world.run().shared.model.lock().all("Secret").is_empty());
        check_crashes(&scenario);
    }
}
