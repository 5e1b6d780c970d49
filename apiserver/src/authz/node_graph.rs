//! What a node may see because of the pods bound to it. Pure: pods and volumes in, yes or no out.
//!
//! The relations are upstream's graph (`plugin/pkg/auth/authorizer/node/graph.go`), gathered for one node at a time.
//! Mirror pods give no access beyond themselves.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::Value;

use crate::contract::Object;
use crate::kinds::json::{at, entries, items, text};

const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// What kind of thing a pod refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    Secret,
    ConfigMap,
    Claim,
    ServiceAccount,
    ResourceClaim,
}

/// Everything that the pods of one node refer to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct References(FxHashMap<Target, FxHashSet<String>>);

impl References {
    /// Gathers the references of all pods that give access; mirror pods give none.
    pub fn of(pods: &[Arc<Object>]) -> Self {
        let mut all = Self::default();
        for pod in pods.iter().filter(|pod| gives_access(pod)) {
            let namespace = text(pod, &["metadata", "namespace"]);
            references(pod, &mut |target, name| {
                if !name.is_empty() {
                    all.0.entry(target).or_default().insert(format!("{namespace}/{name}"));
                }
            });
        }
        all
    }

    /// Whether any pod refers to the named object.
    pub fn contains(&self, target: Target, namespace: &str, name: &str) -> bool {
        self.0.get(&target).is_some_and(|names| names.contains(&format!("{namespace}/{name}")))
    }

    /// Namespace and name of every claim.
    pub fn claims(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.get(&Target::Claim).into_iter().flatten().filter_map(|name| name.split_once('/'))
    }
}

fn gives_access(pod: &Object) -> bool {
    at(pod, &["metadata", "annotations", MIRROR_ANNOTATION]).is_null()
}

/// Whether this pod refers to the named object of its namespace.
pub fn refers(pod: &Object, target: Target, name: &str) -> bool {
    let mut found = false;
    references(pod, &mut |kind, other| found |= kind == target && other == name);
    found
}

/// Tells every name that the pod refers to.
fn references(pod: &Object, found: &mut dyn FnMut(Target, &str)) {
    found(Target::ServiceAccount, text(pod, &["spec", "serviceAccountName"]));
    for secret in items(pod, &["spec", "imagePullSecrets"]) {
        found(Target::Secret, text(secret, &["name"]));
    }
    for volume in items(pod, &["spec", "volumes"]) {
        volume_references(pod, volume, found);
    }
    for container in containers(pod) {
        for source in items(container, &["envFrom"]) {
            found(Target::Secret, text(source, &["secretRef", "name"]));
            found(Target::ConfigMap, text(source, &["configMapRef", "name"]));
        }
        for env in items(container, &["env"]) {
            found(Target::Secret, text(env, &["valueFrom", "secretKeyRef", "name"]));
            found(Target::ConfigMap, text(env, &["valueFrom", "configMapKeyRef", "name"]));
        }
    }
    let spec = items(pod, &["spec", "resourceClaims"]).iter();
    for claim in spec.chain(items(pod, &["status", "resourceClaimStatuses"])) {
        found(Target::ResourceClaim, text(claim, &["resourceClaimName"]));
    }
    let extended = &["status", "extendedResourceClaimStatus", "resourceClaimName"];
    found(Target::ResourceClaim, text(pod, extended));
}

fn volume_references(pod: &Object, volume: &Value, found: &mut dyn FnMut(Target, &str)) {
    found(Target::Secret, text(volume, &["secret", "secretName"]));
    found(Target::Secret, text(volume, &["azureFile", "secretName"]));
    for (_, source) in entries(volume, &[]) {
        found(Target::Secret, text(source, &["secretRef", "name"]));
        found(Target::Secret, text(source, &["nodePublishSecretRef", "name"]));
    }
    found(Target::ConfigMap, text(volume, &["configMap", "name"]));
    for source in items(volume, &["projected", "sources"]) {
        found(Target::Secret, text(source, &["secret", "name"]));
        found(Target::ConfigMap, text(source, &["configMap", "name"]));
    }
    if let Some(claim) = claim_of(pod, volume) {
        found(Target::Claim, &claim);
    }
}

/// The name of the claim a volume uses; generated ones are named after pod and volume.
pub fn claim_of(pod: &Object, volume: &Value) -> Option<String> {
    let claim = text(volume, &["persistentVolumeClaim", "claimName"]);
    if !claim.is_empty() {
        return Some(claim.to_owned());
    }
    if at(volume, &["ephemeral"]).is_null() {
        return None;
    }
    Some(format!("{}-{}", text(pod, &["metadata", "name"]), text(volume, &["name"])))
}

/// Whether a PersistentVolume's driver needs the secret, `namespace` being its claim's when the source names none.
pub fn volume_needs_secret(volume: &Object, namespace: &str, name: &str) -> bool {
    let claim_namespace = text(volume, &["spec", "claimRef", "namespace"]);
    let refs = [
        (&["csi", "nodePublishSecretRef"][..], "namespace"),
        (&["csi", "nodeStageSecretRef"], "namespace"),
        (&["csi", "nodeExpandSecretRef"], "namespace"),
        (&["csi", "controllerPublishSecretRef"], "namespace"),
        (&["cephfs", "secretRef"], "namespace"),
        (&["flexVolume", "secretRef"], "namespace"),
        (&["rbd", "secretRef"], "namespace"),
        (&["scaleIO", "secretRef"], "namespace"),
        (&["iscsi", "secretRef"], "namespace"),
        (&["storageos", "secretRef"], "namespace"),
    ];
    let spec = at(volume, &["spec"]);
    let generic = refs.iter().any(|(path, key)| {
        let secret = at(spec, path);
        let own = text(secret, &[key]);
        let secret_namespace = if own.is_empty() { claim_namespace } else { own };
        text(secret, &["name"]) == name && secret_namespace == namespace
    });
    let azure = at(spec, &["azureFile"]);
    let azure_namespace = text(azure, &["secretNamespace"]);
    let azure_namespace = if azure_namespace.is_empty() { claim_namespace } else { azure_namespace };
    generic || (text(azure, &["secretName"]) == name && azure_namespace == namespace && !azure.is_null())
}

fn containers(pod: &Object) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|list| items(pod, &["spec", list]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references() {
        let pod = json!({
            "metadata": {"name": "p", "namespace": "ns"},
            "spec": {
                "nodeName": "n", "serviceAccountName": "sa",
                "imagePullSecrets": [{"name": "pull"}],
                "initContainers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "key"}}}]}],
                "containers": [{"envFrom": [{"configMapRef": {"name": "env"}}, {"secretRef": {"name": "envs"}}]}],
                "volumes": [
                    {"name": "a", "secret": {"secretName": "vol"}},
                    {"name": "b", "projected": {"sources": [{"configMap": {"name": "proj"}}, {"secret": {"name": "projs"}}]}},
                    {"name": "c", "csi": {"nodePublishSecretRef": {"name": "csi"}}},
                    {"name": "d", "persistentVolumeClaim": {"claimName": "claim"}},
                    {"name": "e", "ephemeral": {}}
                ]
            }
        });
        let all = References::of(&[Arc::new(pod.clone())]);
        let check = |target, name: &str, expected| {
            assert_eq!(all.contains(target, "ns", name), expected, "{target:?} {name}")
        };
        for name in ["pull", "key", "envs", "vol", "projs", "csi"] {
            check(Target::Secret, name, true);
            check(Target::ConfigMap, name, false);
        }
        check(Target::ConfigMap, "env", true);
        check(Target::ConfigMap, "proj", true);
        check(Target::Claim, "claim", true);
        check(Target::Claim, "p-e", true);
        check(Target::Claim, "p-d", false);
        check(Target::ServiceAccount, "sa", true);
        assert!(!all.contains(Target::Secret, "other", "pull"));
        assert_eq!(all.claims().count(), 2);
        let mut mirror = pod;
        mirror["metadata"]["annotations"] = json!({MIRROR_ANNOTATION: "x"});
        assert_eq!(References::of(&[Arc::new(mirror)]), References::default());
    }

    #[test]
    fn driver_secrets() {
        let volume = json!({"spec": {"claimRef": {"namespace": "ns"}, "csi": {"nodeStageSecretRef": {"name": "s", "namespace": "x"}}}});
        assert!(volume_needs_secret(&volume, "x", "s"));
        assert!(!volume_needs_secret(&volume, "ns", "s"));
        assert!(volume_needs_secret(
            &json!({"spec": {"claimRef": {"namespace": "ns"}, "rbd": {"secretRef": {"name": "s"}}}}),
            "ns",
            "s"
        ));
    }
}
