//! Makes the claims that pods ask for in their own spec. A claim of that name that is not the pod's is left alone and
//! reported.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{BY_CLAIM, by_claim, claim_name, pods_of};
use crate::meta::{is_controlled_by, is_terminating, name, namespace, owner_reference};
use crate::runtime::{Action, Context, Controller, Failure, Key, Note, Plan, ReconcileError, Store, Wiring};

struct Ephemeral {
    pods: Store<Pod>,
    claims: Store<PersistentVolumeClaim>,
}

fn has_own_volumes(pod: &Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    !is_terminating(pod) && volumes.into_iter().any(|volume| volume.ephemeral.is_some())
}

/// Builds the loop; its keys are pods.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let pods = wiring.on::<Pod>(|change, queue| {
        if let Some(pod) = change.new.as_ref().filter(|pod| change.old.is_none() && has_own_volumes(pod)) {
            queue.add(Key::of(pod.as_ref()));
        }
    });
    pods.add_index(BY_CLAIM, by_claim);
    let users = pods.clone();
    let claims = wiring.on::<PersistentVolumeClaim>(move |change, queue| {
        if let (Some(claim), None) = (&change.old, &change.new) {
            let pods = pods_of(&users, &Key::of(claim.as_ref()));
            pods.iter().filter(|pod| has_own_volumes(pod)).for_each(|pod| queue.add(Key::of(pod.as_ref())));
        }
    });
    Box::new(Ephemeral { pods, claims })
}

impl Controller for Ephemeral {
    fn reconcile(&self, key: &Key, _context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let Some(pod) = self.pods.get(key).filter(|pod| !is_terminating(pod.as_ref())) else {
            return Ok(plan);
        };
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let Some(wanted) = claim_name(&pod, volume).filter(|_| volume.ephemeral.is_some()) else {
                continue;
            };
            match self.claims.named(&key.namespace, &wanted) {
                None => plan.act(create(&pod, volume, wanted)),
                Some(claim) if is_controlled_by(&claim.metadata, &pod.metadata) => {}
                Some(claim) => {
                    let why = format!(
                        "ephemeral volume {}: PVC {}/{wanted} was not created for pod {}/{} (pod is not owner)",
                        volume.name,
                        namespace(claim.as_ref()),
                        namespace(pod.as_ref()),
                        name(pod.as_ref())
                    );
                    plan.note(Note::warning(pod.as_ref(), "FailedBinding", why.clone()));
                    plan.problem = Some(Failure::local(why));
                    return Ok(plan);
                }
            }
        }
        Ok(plan)
    }
}

fn create(pod: &Pod, volume: &Volume, wanted: String) -> Action {
    let template = volume.ephemeral.as_ref().and_then(|source| source.volume_claim_template.clone());
    let template = template.unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    let why = format!("ephemeral volume {}: create PVC {wanted}: {{error}}", volume.name);
    let claim = PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(wanted),
            namespace: pod.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            owner_references: Some(vec![owner_reference(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec),
        status: None,
    };
    Action::create(&claim).noting_failure(Note::warning(pod, "FailedBinding", why))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::crash::check_crashes;
    use crate::testing::world::Scenario;
    use crate::testing::{Case, check};

    fn pod() -> Value {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}});
        let own = |name: &str| json!({"name": name, "ephemeral": {"volumeClaimTemplate": template}});
        json!({"kind": "Pod", "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"containers": [], "volumes": [own("data"), own("logs"), {"name": "e", "emptyDir": {}}]}})
    }

    fn claim(name: &str, owner: &str) -> Value {
        let owner =
            json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true}]);
        json!({"kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": "ns", "ownerReferences": owner}})
    }

    #[test]
    fn cases() {
        let path = "create /api/v1/namespaces/ns/persistentvolumeclaims";
        check(super::build, "ns/p", &[pod()], &format!("{path}/p-data\n{path}/p-logs"));
        check(super::build, "ns/p", &[pod(), claim("p-data", "u")], &format!("{path}/p-logs"));
        let objects = [pod(), claim("p-data", "another")];
        let plan = Case::new(super::build, &objects).plan("ns/p");
        assert!(plan.problem.is_some() && plan.summary().is_empty());
        assert!(plan.notes[0].message.ends_with("was not created for pod ns/p (pod is not owner)"));
    }

    #[test]
    fn a_deleted_claim_is_made_again_whatever_dies() {
        let mut scenario = Scenario::new(&[super::build], &[pod()]);
        scenario.steps = vec![|model| model.remove("PersistentVolumeClaim", "ns", "p-data", None)];
        assert_eq!(check_crashes(&scenario), 3);
    }
}
