//! Legacy tokens (made for accounts by themselves, in old clusters) that nobody has used for long are first marked as
//! invalid, then, after as long again, deleted. Tokens that pods mount, or that are not listed by their account, stay.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use serde_json::json;

use crate::meta::{annotation, created_at, label, name, namespace};
use crate::runtime::{Action, Context, Controller, Key, Pace, Plan, ReconcileError, Store, Wiring, clock};

const TYPE: &str = "kubernetes.io/service-account-token";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// Where the API server writes since when it tracks uses.
const TRACKING: (&str, &str) = ("kube-system", "kube-apiserver-legacy-service-account-token-tracking");
/// Between two sweeps (upstream's).
const PERIOD: Duration = Duration::from_secs(24 * 3600);

struct Cleaner {
    secrets: Store<Secret>,
    accounts: Store<ServiceAccount>,
    pods: Store<Pod>,
    maps: Store<ConfigMap>,
    after: Duration,
}

/// Builds the loop; its only key is the sweep.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    wiring.at_start(Key::cluster("sweep"));
    let after = wiring.options().legacy_token_cleanup;
    Box::new(Cleaner {
        secrets: wiring.store(),
        accounts: wiring.store(),
        pods: wiring.store(),
        maps: wiring.store(),
        after,
    })
}

fn date(text: &str) -> Option<Timestamp> {
    let date: Date = text.parse().ok()?;
    Some(date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
}

impl Controller for Cleaner {
    fn reconcile(&self, _key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        plan.again_after(PERIOD);
        let tracking = self.maps.named(TRACKING.0, TRACKING.1);
        let since = tracking.and_then(|map| date(map.data.as_ref()?.get("since")?));
        // Only after a whole period of tracking does silence mean that a token is not used.
        let Some(since) = since.filter(|since| clock::since(*since, context.now) >= self.after) else {
            return Ok(plan);
        };
        let actions =
            self.secrets.all().iter().filter_map(|secret| self.judge(secret, since, context)).collect();
        plan.act_all(Pace::Parallel, actions);
        Ok(plan)
    }

    fn workers(&self) -> usize {
        1
    }
}

impl Cleaner {
    fn judge(&self, secret: &Secret, since: Timestamp, context: &Context) -> Option<Action> {
        if secret.type_.as_deref() != Some(TYPE) || !self.is_listed(secret) || self.is_mounted(secret) {
            return None;
        }
        let created = Timestamp::from_millisecond(created_at(&secret.metadata)).unwrap_or(context.now);
        let used = label(secret, LAST_USED).and_then(date).unwrap_or(since).max(created);
        if clock::since(used, context.now) < self.after {
            return None;
        }
        match label(secret, INVALID_SINCE).and_then(date) {
            None => {
                let today = context.now.to_zoned(jiff::tz::TimeZone::UTC).date().to_string();
                let meta = json!({"uid": secret.metadata.uid, "resourceVersion": secret.metadata.resource_version,
                    "labels": {INVALID_SINCE: today}});
                Some(Action::merge(secret, json!({ "metadata": meta })).tolerating(&[404, 409]))
            }
            Some(invalid) if clock::since(invalid, context.now) >= self.after => Some(Action::delete(secret)),
            Some(_) => None,
        }
    }

    /// Whether the account lists the secret, which only tokens made by themselves are.
    fn is_listed(&self, secret: &Secret) -> bool {
        let account = annotation(secret, "kubernetes.io/service-account.name").unwrap_or("");
        let account = self.accounts.named(namespace(secret), account);
        account.is_some_and(|account| {
            account.secrets.iter().flatten().any(|listed| listed.name.as_deref() == Some(name(secret)))
        })
    }

    fn is_mounted(&self, secret: &Secret) -> bool {
        let mounts = |pod: &Pod| {
            let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
            volumes.into_iter().any(|volume| {
                volume
                    .secret
                    .as_ref()
                    .is_some_and(|source| source.secret_name.as_deref() == Some(name(secret)))
            })
        };
        self.pods.in_namespace(namespace(secret)).iter().any(|pod| mounts(pod))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::check;
    use crate::testing::crash::check_crashes;
    use crate::testing::world::{Scenario, World};

    fn objects(labels: Value) -> Vec<Value> {
        vec![
            json!({"kind": "ConfigMap", "metadata": {"namespace": super::TRACKING.0, "name": super::TRACKING.1}, "data": {"since": "2024-01-01"}}),
            json!({"kind": "ServiceAccount", "metadata": {"name": "a", "namespace": "ns"}, "secrets": [{"name": "t"}]}),
            json!({"kind": "Secret", "type": super::TYPE, "metadata": {"name": "t", "namespace": "ns", "labels": labels,
                "creationTimestamp": "2024-01-01T00:00:00Z", "annotations": {"kubernetes.io/service-account.name": "a"}}}),
        ]
    }

    #[test]
    fn cases() {
        let path = "/api/v1/namespaces/ns/secrets/t";
        check(super::build, "sweep", &objects(Value::Null), &format!("patch {path}"));
        check(
            super::build,
            "sweep",
            &objects(json!({"kubernetes.io/legacy-token-last-used": "2026-05-01"})),
            "",
        );
        let invalid = json!({"kubernetes.io/legacy-token-invalid-since": "2025-01-01"});
        check(super::build, "sweep", &objects(invalid.clone()), &format!("delete {path}"));
        let mut mounted = objects(invalid);
        mounted.push(json!({"kind": "Pod", "metadata": {"name": "p", "namespace": "ns"},
            "spec": {"containers": [], "volumes": [{"name": "v", "secret": {"secretName": "t"}}]}}));
        check(super::build, "sweep", &mounted, "");
    }

    #[test]
    fn crashes() {
        let mut scenario = Scenario::new(&[super::build], &objects(Value::Null));
        scenario.horizon = std::time::Duration::from_secs(400 * 24 * 3600);
        let mut world = World::start(&scenario, None, false);
        assert!(
            world.run().shared.model.lock().all("Secret").is_empty(),
            "marked, then deleted a year later"
        );
        check_crashes(&scenario);
    }
}
