//! ServiceAccount: pods run as an account that exists, with its token mounted and its pull secrets.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use machinery::status::StatusError;
use rand::Rng;
use serde_json::{Value, json};

use super::plugin::Plugin;
use crate::authz::node_graph::{Target, refers};
use crate::contract::{Admission, Object, Operation};
use crate::kinds::json::{at, flag, has, is_set, items, items_mut, push, set, text};
use crate::tokens::issue::WARN_ONLY_EXPIRATION_SECS;

const DEFAULT_ACCOUNT: &str = "default";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
const ENFORCE_ANNOTATION: &str = "kubernetes.io/enforce-mountable-secrets";
/// A controller makes the default account soon after its namespace: it is waited for this often and long.
const DEFAULT_TRIES: usize = 10;
const RETRY: Duration = Duration::from_millis(150);
/// The characters of generated names, as upstream chooses them.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LEN: usize = 5;

/// The step.
pub struct ServiceAccount;

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    async fn mutate(&self, request: &mut Admission<'_>) -> Result<(), StatusError> {
        if !request.is_for("", "pods", "") || !request.creates() {
            return Ok(());
        }
        if is_mirror(request.new_object()) {
            return check_mirror(request);
        }
        if let Some(pod) = request.object.as_deref_mut()
            && !has(pod, &["spec", "serviceAccountName"])
        {
            set(pod, &["spec", "serviceAccountName"], DEFAULT_ACCOUNT);
            set(pod, &["spec", "serviceAccount"], DEFAULT_ACCOUNT);
        }
        let account = find(request).await?;
        if let Some(pod) = request.object.as_deref_mut() {
            if automounts(&account, pod) {
                mount_token(pod);
            }
            if !has(pod, &["spec", "imagePullSecrets"]) && has(&account, &["imagePullSecrets"]) {
                set(pod, &["spec", "imagePullSecrets"], at(&account, &["imagePullSecrets"]).clone());
            }
        }
        Ok(())
    }

    async fn validate(&self, request: &Admission<'_>) -> Result<(), StatusError> {
        let creates = request.is_for("", "pods", "") && request.creates();
        let debugs =
            request.is_for("", "pods", "ephemeralcontainers") && request.operation == Operation::Update;
        if !creates && !debugs {
            return Ok(());
        }
        let pod = request.new_object();
        if is_mirror(pod) {
            return if creates { check_mirror(request) } else { Ok(()) };
        }
        if !has(pod, &["spec", "serviceAccountName"]) {
            let (namespace, name) = (&request.ctx.info.namespace, text(pod, &["metadata", "name"]));
            return Err(request.forbidden(format!("no service account specified for pod {namespace}/{name}")));
        }
        let account = find(request).await?;
        if flag_annotation(&account, ENFORCE_ANNOTATION) {
            check_secrets(pod, &account, debugs).map_err(|why| request.forbidden(why))?;
        }
        Ok(())
    }
}

fn is_mirror(pod: &Object) -> bool {
    is_set(pod, &["metadata", "annotations", MIRROR_ANNOTATION])
}

fn flag_annotation(object: &Object, key: &str) -> bool {
    matches!(text(object, &["metadata", "annotations", key]), "1" | "t" | "T" | "true" | "TRUE" | "True")
}

fn check_mirror(request: &Admission<'_>) -> Result<(), StatusError> {
    let pod = request.new_object();
    let tokens = items(pod, &["spec", "volumes"])
        .iter()
        .flat_map(|volume| items(volume, &["projected", "sources"]))
        .any(|source| is_set(source, &["serviceAccountToken"]));
    let why = if has(pod, &["spec", "serviceAccountName"]) {
        "a mirror pod may not reference service accounts"
    } else if refers_to_any_secret(pod) {
        "a mirror pod may not reference secrets"
    } else if tokens {
        "a mirror pod may not use ServiceAccountToken volume projections"
    } else {
        return Ok(());
    };
    Err(request.forbidden(why))
}

fn refers_to_any_secret(pod: &Object) -> bool {
    let volumes = items(pod, &["spec", "volumes"])
        .iter()
        .any(|volume| !text(volume, &["secret", "secretName"]).is_empty());
    volumes || secret_names(pod).iter().any(|name| refers(pod, Target::Secret, name))
}

/// The secrets that containers and pull secrets name.
fn secret_names(pod: &Object) -> Vec<String> {
    let pulls = items(pod, &["spec", "imagePullSecrets"]).iter().map(|secret| text(secret, &["name"]));
    let containers =
        ["initContainers", "containers"].into_iter().flat_map(|list| items(pod, &["spec", list]));
    let envs = containers.flat_map(|container| {
        let keys =
            items(container, &["env"]).iter().map(|env| text(env, &["valueFrom", "secretKeyRef", "name"]));
        let whole = items(container, &["envFrom"]).iter().map(|env| text(env, &["secretRef", "name"]));
        keys.chain(whole)
    });
    pulls.chain(envs).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

async fn find(request: &Admission<'_>) -> Result<Arc<Object>, StatusError> {
    let namespace = request.ctx.info.namespace.as_str();
    let name = text(request.new_object(), &["spec", "serviceAccountName"]);
    let tries = if name == DEFAULT_ACCOUNT { DEFAULT_TRIES } else { 1 };
    for attempt in 0..tries {
        if attempt > 0 {
            tokio::time::sleep(RETRY).await;
        }
        if let Some(account) = request.ctx.cluster.find("", "serviceaccounts", namespace, name).await? {
            return Ok(account);
        }
    }
    let quoted = machinery::gotext::quote(name);
    let why =
        format!("error looking up service account {namespace}/{name}: serviceaccount {quoted} not found");
    Err(request.forbidden(why))
}

fn automounts(account: &Object, pod: &Object) -> bool {
    flag(pod, &["spec", "automountServiceAccountToken"])
        .or_else(|| flag(account, &["automountServiceAccountToken"]))
        .unwrap_or(true)
}

fn mount_token(pod: &mut Object) {
    let existing = items(pod, &["spec", "volumes"])
        .iter()
        .map(|volume| text(volume, &["name"]))
        .find(|name| name.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let name = existing.clone().unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", suffix()));
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        for container in items_mut(pod, &["spec", list]) {
            let mounts = items(container, &["volumeMounts"]);
            if mounts.iter().any(|mount| text(mount, &["mountPath"]) == MOUNT_PATH) {
                continue;
            }
            push(
                container,
                &["volumeMounts"],
                json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}),
            );
            needed = true;
        }
    }
    if needed && existing.is_none() {
        push(pod, &["spec", "volumes"], json!({"name": name, "projected": token_source()}));
    }
}

fn suffix() -> String {
    let mut random = rand::rng();
    (0..SUFFIX_LEN)
        .map(|_| char::from(SUFFIX_ALPHABET[random.random_range(0..SUFFIX_ALPHABET.len())]))
        .collect()
}

/// The token, the cluster's authority and the namespace.
fn token_source() -> Value {
    json!({
        "defaultMode": 420,
        "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": WARN_ONLY_EXPIRATION_SECS}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ],
    })
}

/// Pods of accounts that ask for it may only use the secrets the account lists.
fn check_secrets(pod: &Object, account: &Object, only_ephemeral: bool) -> Result<(), String> {
    let account_name = text(account, &["metadata", "name"]);
    let listed =
        |field: &str, name: &str| items(account, &[field]).iter().any(|entry| text(entry, &["name"]) == name);
    let refuse = |what: String| {
        Err(format!(
            "{what} is not allowed because service account {account_name} does not reference that secret"
        ))
    };
    let lists: &[(&str, &str)] = if only_ephemeral {
        &[("ephemeralContainers", "ephemeral container")]
    } else {
        &[("initContainers", "init container"), ("containers", "container")]
    };
    if !only_ephemeral {
        let volumes = items(pod, &["spec", "volumes"]).iter().filter(|volume| is_set(volume, &["secret"]));
        for secret in volumes.map(|volume| text(volume, &["secret", "secretName"])) {
            if !listed("secrets", secret) {
                return refuse(format!("volume with secret.secretName=\"{secret}\""));
            }
        }
    }
    for (list, label) in lists {
        for container in items(pod, &["spec", list]) {
            let name = text(container, &["name"]);
            for env in
                items(container, &["env"]).iter().filter(|env| is_set(env, &["valueFrom", "secretKeyRef"]))
            {
                let secret = text(env, &["valueFrom", "secretKeyRef", "name"]);
                if !listed("secrets", secret) {
                    let env = text(env, &["name"]);
                    return refuse(format!(
                        "{label} {name} with envVar {env} referencing secret.secretName=\"{secret}\""
                    ));
                }
            }
            for env in items(container, &["envFrom"]).iter().filter(|env| is_set(env, &["secretRef"])) {
                let secret = text(env, &["secretRef", "name"]);
                if !listed("secrets", secret) {
                    return refuse(format!(
                        "{label} {name} with envFrom referencing secret.secretName=\"{secret}\""
                    ));
                }
            }
        }
    }
    for (index, pull) in
        items(pod, &["spec", "imagePullSecrets"]).iter().enumerate().filter(|_| !only_ephemeral)
    {
        let name = text(pull, &["name"]);
        if !listed("imagePullSecrets", name) {
            return Err(format!(
                "imagePullSecrets[{index}].name=\"{name}\" is not allowed because service account {account_name} does not reference that imagePullSecret"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_mounted_where_nothing_else_is() {
        let mut pod = json!({"spec": {"containers": [
            {"name": "a"}, {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}]}});
        mount_token(&mut pod);
        let volume = text(&pod["spec"]["volumes"][0], &["name"]).to_owned();
        assert!(volume.starts_with(VOLUME_PREFIX) && volume.len() == VOLUME_PREFIX.len() + SUFFIX_LEN);
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["name"], volume.as_str());
        assert_eq!(items(&pod["spec"]["containers"][1], &["volumeMounts"]).len(), 1);
        let again = pod.clone();
        mount_token(&mut pod);
        assert_eq!(pod, again);
    }

    #[test]
    fn preferences() {
        let check =
            |pod: Value, account: Value, expected: bool| assert_eq!(automounts(&account, &pod), expected);
        check(json!({"spec": {}}), json!({}), true);
        check(json!({"spec": {}}), json!({"automountServiceAccountToken": false}), false);
        check(
            json!({"spec": {"automountServiceAccountToken": true}}),
            json!({"automountServiceAccountToken": false}),
            true,
        );
    }
}
