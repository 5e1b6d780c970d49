//! What a node may see because of the pods bound to it. Pure: pods and volumes in, yes or no out.
//!
//! The relations are upstream's graph (`plugin/pkg/auth/authorizer/node/graph.go`), walked from the pods instead of
//! kept as a second copy of the cluster. Mirror pods give no access beyond themselves.

use serde_json::Value;

use crate::contract::Object;
use crate::kinds::json::{at, entries, items, text};

const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// What kind of thing is looked for in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Secret,
    ConfigMap,
    Claim,
    ServiceAccount,
    ResourceClaim,
}

/// Whether the pod is bound to the node and may give it access to other objects.
pub fn gives_access(pod: &Object, node: &str) -> bool {
    text(pod, &["spec", "nodeName"]) == node
        && at(pod, &["metadata", "annotations", MIRROR_ANNOTATION]).is_null()
}

/// Whether the pod refers to the named object of its namespace.
pub fn refers(pod: &Object, target: Target, name: &str) -> bool {
    match target {
        Target::Secret => volumes(pod).any(|v| volume_secret(v, name)) || pod_secret(pod, name),
        Target::ConfigMap => {
            volumes(pod).any(|v| volume_config_map(v, name))
                || env_refers(pod, "configMapRef", "configMapKeyRef", name)
        }
        Target::Claim => volumes(pod).any(|v| claim_of(pod, v).is_some_and(|claim| claim == name)),
        Target::ServiceAccount => text(pod, &["spec", "serviceAccountName"]) == name,
        Target::ResourceClaim => resource_claim(pod, name),
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

fn volumes(pod: &Object) -> impl Iterator<Item = &Value> {
    items(pod, &["spec", "volumes"]).iter()
}

fn containers(pod: &Object) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|list| items(pod, &["spec", list]))
}

fn volume_secret(volume: &Value, name: &str) -> bool {
    let direct =
        text(volume, &["secret", "secretName"]) == name || text(volume, &["azureFile", "secretName"]) == name;
    let by_ref = entries(volume, &[]).any(|(_, source)| {
        text(source, &["secretRef", "name"]) == name
            || text(source, &["nodePublishSecretRef", "name"]) == name
    });
    let projected =
        items(volume, &["projected", "sources"]).iter().any(|s| text(s, &["secret", "name"]) == name);
    direct || by_ref || projected
}

fn volume_config_map(volume: &Value, name: &str) -> bool {
    text(volume, &["configMap", "name"]) == name
        || items(volume, &["projected", "sources"]).iter().any(|s| text(s, &["configMap", "name"]) == name)
}

fn pod_secret(pod: &Object, name: &str) -> bool {
    items(pod, &["spec", "imagePullSecrets"]).iter().any(|secret| text(secret, &["name"]) == name)
        || env_refers(pod, "secretRef", "secretKeyRef", name)
}

fn env_refers(pod: &Object, whole: &str, key: &str, name: &str) -> bool {
    containers(pod).any(|container| {
        items(container, &["envFrom"]).iter().any(|source| text(source, &[whole, "name"]) == name)
            || items(container, &["env"]).iter().any(|env| text(env, &["valueFrom", key, "name"]) == name)
    })
}

fn resource_claim(pod: &Object, name: &str) -> bool {
    let spec = items(pod, &["spec", "resourceClaims"]).iter();
    let status = items(pod, &["status", "resourceClaimStatuses"]).iter();
    spec.chain(status).any(|claim| text(claim, &["resourceClaimName"]) == name)
        || text(pod, &["status", "extendedResourceClaimStatus", "resourceClaimName"]) == name
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references() {
        let pod = json!({
            "metadata": {"name": "p"},
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
        let check = |target, name: &str, expected| {
            assert_eq!(refers(&pod, target, name), expected, "{target:?} {name}")
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
        assert!(gives_access(&pod, "n") && !gives_access(&pod, "m"));
        let mirror =
            json!({"metadata": {"annotations": {MIRROR_ANNOTATION: "x"}}, "spec": {"nodeName": "n"}});
        assert!(!gives_access(&mirror, "n"));
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
