//! Keeps claims that pods use, and volumes that are bound, from being deleted: a finalizer goes on at once and comes
//! off when nothing uses them. Before a claim is let go the API server's own list of pods is asked, for the cache may
//! not show the newest pod yet.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use serde_json::Value;

use super::{BY_CLAIM, by_claim, claims_of, is_terminated, phase_of_volume};
use crate::meta::{has_finalizer, is_controlled_by, is_terminating, name, namespace};
use crate::pods::node_name;
use crate::runtime::{
    Action, Answer, Ask, Context, Controller, Gvr, Key, Object, Plan, ReconcileError, Store, Wiring,
};

/// Of claims.
const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
/// Of volumes.
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";

struct ClaimProtection {
    claims: Store<PersistentVolumeClaim>,
    pods: Store<Pod>,
}

/// Builds the loop that protects claims.
pub fn build_claims(wiring: &mut Wiring) -> Box<dyn Controller> {
    let pods = wiring.on::<Pod>(|change, queue| {
        let ended = change.new.as_ref().is_none_or(|pod| is_terminated(pod) || node_name(pod).is_empty());
        if let Some(pod) = change.latest().filter(|_| ended) {
            claims_of(pod).for_each(|(_, claim)| queue.add(Key::new(namespace(pod.as_ref()), &claim)));
        }
    });
    pods.add_index(BY_CLAIM, by_claim);
    Box::new(ClaimProtection { claims: wiring.on_self(), pods })
}

impl Controller for ClaimProtection {
    fn reconcile(&self, key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let Some(claim) = self.claims.get(key) else { return Ok(plan) };
        if !is_terminating(claim.as_ref()) {
            plan.batches.extend(added(claim.as_ref(), CLAIM_FINALIZER).batches);
            return Ok(plan);
        }
        if !has_finalizer(&claim.metadata, CLAIM_FINALIZER) {
            return Ok(plan);
        }
        let cached = self.pods.by(BY_CLAIM, &key.to_string());
        if cached.iter().any(|pod| uses(pod, &claim)) {
            return Ok(plan);
        }
        let ask = Ask::Get(Gvr::of::<Pod>().collection(&key.namespace));
        match context.answer(&ask) {
            None => return Ok(plan.ask(ask)),
            Some(Answer::Json(list)) if !any_uses(list, &claim)? => {
                plan.act(without(claim.as_ref(), CLAIM_FINALIZER));
            }
            Some(Answer::Failed(failure)) => plan.problem = Some(failure.clone()),
            // A pod that the cache does not show yet: its own events bring the key back.
            Some(_) => plan.again_after(super::binder::LOOK_AGAIN),
        }
        Ok(plan)
    }
}

fn any_uses(list: &Value, claim: &PersistentVolumeClaim) -> Result<bool, ReconcileError> {
    for item in list["items"].as_array().into_iter().flatten() {
        let pod = serde_json::from_value::<Pod>(item.clone());
        let pod = pod.map_err(|error| ReconcileError::invalid("list of pods", error))?;
        if uses(&pod, claim) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a pod that has a node mounts the claim. A claim made for a pod's own volume is let go with the pod's
/// containers, as the pod itself only goes after it.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    if node_name(pod).is_empty() {
        return false;
    }
    let shut_down = is_terminating(pod) && pod.metadata.deletion_grace_period_seconds == Some(0);
    let mut mounted = claims_of(pod).filter(|(_, mounted)| mounted == name(claim));
    mounted.any(|(volume, _)| {
        volume.persistent_volume_claim.is_some()
            || (!shut_down && is_controlled_by(&claim.metadata, &pod.metadata))
    })
}

struct VolumeProtection {
    volumes: Store<PersistentVolume>,
}

/// Builds the loop that protects volumes.
pub fn build_volumes(wiring: &mut Wiring) -> Box<dyn Controller> {
    Box::new(VolumeProtection { volumes: wiring.on_self() })
}

impl Controller for VolumeProtection {
    fn reconcile(&self, key: &Key, _context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let Some(volume) = self.volumes.get(key) else { return Ok(plan) };
        if !is_terminating(volume.as_ref()) {
            return Ok(added(volume.as_ref(), VOLUME_FINALIZER));
        }
        if has_finalizer(&volume.metadata, VOLUME_FINALIZER) && phase_of_volume(&volume) != "Bound" {
            plan.act(without(volume.as_ref(), VOLUME_FINALIZER));
        }
        Ok(plan)
    }
}

/// The finalizer added where it is missing.
pub fn added<K: Object>(object: &K, finalizer: &str) -> Plan {
    let mut plan = Plan::nothing();
    if !has_finalizer(object.meta(), finalizer) {
        let mut object = object.clone();
        object.meta_mut().finalizers.get_or_insert_default().push(finalizer.to_string());
        plan.act(Action::update(&object).tolerating(&[404]));
    }
    plan
}

/// The object written back without one of its finalizers.
pub fn without<K: Object>(object: &K, finalizer: &str) -> Action {
    let mut object = object.clone();
    object.meta_mut().finalizers.get_or_insert_default().retain(|have| have != finalizer);
    Action::update(&object).tolerating(&[404])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{CLAIM_FINALIZER, VOLUME_FINALIZER, build_claims, build_volumes};
    use crate::testing::check;
    use crate::testing::crash::check_crashes;
    use crate::testing::model::Model;
    use crate::testing::world::Scenario;

    fn claim(more: Value) -> Value {
        let mut meta = json!({"name": "c", "namespace": "ns", "uid": "u"});
        more.as_object().into_iter().flatten().for_each(|(k, v)| meta[k] = v.clone());
        json!({"kind": "PersistentVolumeClaim", "metadata": meta})
    }

    fn volume(phase: &str, more: Value) -> Value {
        let mut meta = json!({"name": "v"});
        more.as_object().into_iter().flatten().for_each(|(k, v)| meta[k] = v.clone());
        json!({"kind": "PersistentVolume", "metadata": meta, "status": {"phase": phase}})
    }

    fn pod(node: Value, source: Value, more: Value) -> Value {
        let mut meta = json!({"name": "p", "namespace": "ns", "uid": "pod"});
        more.as_object().into_iter().flatten().for_each(|(k, v)| meta[k] = v.clone());
        let mut volume = json!({"name": "v"});
        source.as_object().into_iter().flatten().for_each(|(k, v)| volume[k] = v.clone());
        json!({"kind": "Pod", "metadata": meta,
            "spec": {"nodeName": node, "containers": [], "volumes": [volume]}})
    }

    #[test]
    fn cases() {
        let path = "/api/v1/namespaces/ns/persistentvolumeclaims/c";
        let update = format!("update {path}");
        let held = json!({"finalizers": [CLAIM_FINALIZER]});
        let going = json!({"finalizers": [CLAIM_FINALIZER], "deletionTimestamp": crate::testing::NOW});
        let mounts = || json!({"persistentVolumeClaim": {"claimName": "c"}});
        check(build_claims, "ns/c", &[claim(json!({}))], &update);
        check(build_claims, "ns/c", &[claim(held)], "");
        let user = pod(json!("n"), mounts(), json!({}));
        check(build_claims, "ns/c", &[claim(going), user], "");
        check(build_volumes, "v", &[volume("Bound", json!({}))], "update /api/v1/persistentvolumes/v");
        let going = |phase| {
            volume(phase, json!({"finalizers": [VOLUME_FINALIZER], "deletionTimestamp": crate::testing::NOW}))
        };
        check(build_volumes, "v", &[going("Bound")], "");
        check(build_volumes, "v", &[going("Released")], "update /api/v1/persistentvolumes/v");
    }

    #[test]
    fn what_counts_as_use() {
        let owned = json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "pod", "controller": true}]});
        let own = || json!({"ephemeral": {"volumeClaimTemplate": {"spec": {}}}});
        let ending = || json!({"deletionTimestamp": crate::testing::NOW, "deletionGracePeriodSeconds": 0});
        let mounts = || json!({"persistentVolumeClaim": {"claimName": "c"}});
        let cases = [
            (claim(json!({})), pod(json!("n"), mounts(), json!({})), true),
            (claim(json!({})), pod(json!("n"), mounts(), ending()), true),
            (claim(json!({})), pod(Value::Null, mounts(), json!({})), false),
            (claim(json!({})), pod(json!("n"), json!({"emptyDir": {}}), json!({})), false),
        ];
        let check = |claim: Value, pod: Value, expected: bool| {
            let text = format!("{claim} {pod}");
            let claim = serde_json::from_value(claim).expect("a claim");
            let pod = serde_json::from_value(pod).expect("a pod");
            assert_eq!(super::uses(&pod, &claim), expected, "{text}");
        };
        cases.into_iter().for_each(|(claim, pod, expected)| check(claim, pod, expected));
        let mut of_pod = claim(owned);
        of_pod["metadata"]["name"] = "p-v".into();
        check(of_pod.clone(), pod(json!("n"), own(), json!({})), true);
        check(of_pod, pod(json!("n"), own(), ending()), false);
    }

    #[test]
    fn a_claim_goes_after_its_pod_whatever_dies() {
        let pod = pod(json!("n"), json!({"persistentVolumeClaim": {"claimName": "c"}}), json!({}));
        let mut scenario = Scenario::new(
            &[build_claims, build_volumes],
            &[claim(json!({})), volume("Bound", json!({})), pod],
        );
        let steps: [fn(&mut Model); 4] = [
            |model| model.remove("PersistentVolumeClaim", "ns", "c", None),
            |model| model.remove("PersistentVolume", "", "v", None),
            |model| model.vanish("Pod", "ns", "p"),
            |model| model.edit("PersistentVolume", "", "v", |v| v["status"]["phase"] = "Released".into()),
        ];
        scenario.steps = steps.to_vec();
        assert_eq!(check_crashes(&scenario), 4);
    }
}
