//! An API server in memory: names, uids, resource versions, generations, status as a subresource, finalizers,
//! graceful deletion of pods and conflicts, as far as controllers rely on them. It runs no admission and no defaults.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::kinds;
use crate::runtime::plan::{Action, Failure, PatchKind, Propagation, Verb};
use crate::runtime::{Gvr, Key};

/// Grace of a pod that is bound to a node.
const GRACE_SECS: i64 = 30;
/// Kinds whose status is written apart from the rest.
const WITH_STATUS: [&str; 19] = [
    "Pod",
    "Node",
    "Namespace",
    "Service",
    "ReplicationController",
    "ResourceQuota",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Deployment",
    "ReplicaSet",
    "StatefulSet",
    "DaemonSet",
    "Job",
    "CronJob",
    "HorizontalPodAutoscaler",
    "CertificateSigningRequest",
    "PodDisruptionBudget",
    "VolumeAttachment",
    "ServiceCIDR",
];

/// One visible change.
#[derive(Debug, Clone)]
pub struct Event {
    /// The object after it (before it, for deletions).
    pub object: Value,
    /// Whether it is gone.
    pub deleted: bool,
}

/// The whole state.
#[derive(Default)]
pub struct Model {
    objects: BTreeMap<(String, Key), Value>,
    revision: u64,
    /// All changes since the beginning.
    pub log: Vec<Event>,
    /// Objects created so far, by kind.
    pub created: BTreeMap<String, usize>,
    /// The wall clock.
    pub now: Timestamp,
    /// Plurals that are not served.
    pub unserved: Vec<&'static str>,
}

fn failure(code: u16, reason: &str, message: String) -> Failure {
    Failure { code, reason: reason.into(), message, creating: false }
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or("")
}

fn has_finalizers(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty())
        || (object["kind"] == "Namespace"
            && object["spec"]["finalizers"].as_array().is_some_and(|l| !l.is_empty()))
}

fn is_terminating(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

impl Model {
    /// Puts an object there as a user would.
    pub fn apply(&mut self, object: Value) -> Value {
        let gvr = kinds::gvr_of(object["kind"].as_str().unwrap_or("")).expect("a kind of the table");
        let (space, name) = (text(&object, "namespace").to_string(), text(&object, "name").to_string());
        let key = (gvr.to_string(), Key::new(&space, &name));
        let (object, old) = match self.objects.get(&key).cloned() {
            None => return self.create(&gvr, &space, object).expect("a valid object"),
            Some(old) => (object, old),
        };
        let mut merged = old.clone();
        merge(&mut merged, &object);
        self.store(&gvr, old, merged)
    }

    /// Changes an object in place as some other client would; no precondition.
    pub fn edit(&mut self, kind: &str, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let gvr = kinds::gvr_of(kind).expect("a kind of the table");
        if let Some(old) = self.objects.get(&(gvr.to_string(), Key::new(namespace, name))).cloned() {
            let mut new = old.clone();
            change(&mut new);
            self.store(&gvr, old, new);
        }
    }

    /// Deletes as a user would.
    pub fn remove(&mut self, kind: &str, namespace: &str, name: &str, propagation: Option<Propagation>) {
        let gvr = kinds::gvr_of(kind).expect("a kind of the table");
        let verb = Verb::Delete { uid: None, resource_version: None, propagation, grace_secs: None };
        // That it is gone already is what the caller wants.
        let _ = self.write(&Action::on(&gvr, namespace, name, verb));
    }

    /// Takes an object away at once (a node's agent that has stopped a pod does that).
    pub fn vanish(&mut self, kind: &str, namespace: &str, name: &str) {
        let gvr = kinds::gvr_of(kind).expect("a kind of the table");
        let key = (gvr.to_string(), Key::new(namespace, name));
        if let Some(object) = self.objects.get_mut(&key) {
            object["metadata"]["deletionGracePeriodSeconds"] = json!(0);
            if !has_finalizers(object) {
                self.purge(&key);
            }
        }
    }

    /// The same under a condition, which it returns.
    pub fn vanish_if(&mut self, condition: bool, kind: &str, namespace: &str, name: &str) -> bool {
        if condition {
            self.vanish(kind, namespace, name);
        }
        condition
    }

    /// All objects of a kind.
    pub fn all(&self, kind: &str) -> Vec<Value> {
        self.objects.values().filter(|object| object["kind"] == kind).cloned().collect()
    }

    /// Everything.
    pub fn everything(&self) -> impl Iterator<Item = &Value> {
        self.objects.values()
    }

    /// One object.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let gvr = kinds::gvr_of(kind)?;
        self.objects.get(&(gvr.to_string(), Key::new(namespace, name))).cloned()
    }

    /// GET of a path: an object, or a list of one resource.
    pub fn read(&self, path: &str) -> Result<Value, Failure> {
        if let Some(path) = path.strip_suffix("/scale") {
            return self.read(path).map(|object| scale_of(&object));
        }
        let (resource, namespace, name) = parse(path);
        if !name.is_empty() {
            let found = self.objects.get(&(resource, Key::new(&namespace, &name)));
            return found.cloned().ok_or_else(|| failure(404, "NotFound", format!("{path} not found")));
        }
        let of_resource = self.objects.iter().filter(|((have, _), _)| *have == resource);
        let within = of_resource.filter(|((_, key), _)| namespace.is_empty() || *key.namespace == *namespace);
        let items: Vec<Value> = within.map(|(_, object)| object.clone()).collect();
        Ok(
            json!({"kind": "List", "metadata": {"resourceVersion": self.revision.to_string()}, "items": items}),
        )
    }

    /// Carries out one write.
    pub fn write(&mut self, action: &Action) -> Result<Value, Failure> {
        let key = (action.gvr.to_string(), Key::new(&action.namespace, &action.name));
        if let Verb::Create { body, subresource: "" } = &action.verb {
            return self.create(&action.gvr, &action.namespace, body.clone());
        }
        if action.verb == Verb::DeleteCollection {
            return self.delete_all(action);
        }
        let Some(old) = self.objects.get(&key).cloned() else {
            return Err(failure(404, "NotFound", format!("{} {:?} not found", action.gvr, action.name)));
        };
        match &action.verb {
            Verb::Update { body, subresource } => self.update(&action.gvr, old, body.clone(), subresource),
            Verb::Patch { body, kind, subresource } => {
                let new = patched(&old, body, *kind)?;
                self.update(&action.gvr, old, new, subresource)
            }
            Verb::Delete { uid, propagation, grace_secs, .. } => {
                if uid.as_deref().is_some_and(|uid| uid != text(&old, "uid")) {
                    return Err(failure(409, "Conflict", "the uid does not match".into()));
                }
                Ok(self.delete(&action.gvr, &key, old, *propagation, *grace_secs))
            }
            // Subresources that are created (eviction, binding) change nothing here.
            Verb::Create { .. } | Verb::DeleteCollection => Ok(json!({"kind": "Status"})),
        }
    }

    fn delete_all(&mut self, action: &Action) -> Result<Value, Failure> {
        let resource = action.gvr.to_string();
        let doomed = self.objects.keys().filter(|(r, k)| *r == resource && *k.namespace == *action.namespace);
        let doomed: Vec<_> = doomed.cloned().collect();
        for key in doomed {
            if let Some(old) = self.objects.get(&key).cloned() {
                self.delete(&action.gvr, &key, old, None, None);
            }
        }
        Ok(json!({"kind": "Status"}))
    }

    fn next_revision(&mut self) -> String {
        self.revision += 1;
        self.revision.to_string()
    }

    fn create(&mut self, gvr: &Gvr, namespace: &str, mut object: Value) -> Result<Value, Failure> {
        let number = self.revision + 1;
        if text(&object, "name").is_empty() {
            object["metadata"]["name"] = format!("{}{number:05}", text(&object, "generateName")).into();
        }
        let key = (gvr.to_string(), Key::new(namespace, text(&object, "name")));
        if self.objects.contains_key(&key) {
            return Err(failure(409, "AlreadyExists", format!("{gvr} {:?} already exists", key.1.name)));
        }
        object["apiVersion"] = gvr.api_version().into();
        object["kind"] = gvr.kind.as_ref().into();
        let revision = self.next_revision();
        let now = self.now.to_string();
        let meta = &mut object["metadata"];
        meta["resourceVersion"] = revision.into();
        if meta["uid"].is_null() {
            meta["uid"] = format!("uid-{number}").into();
        }
        if meta["creationTimestamp"].is_null() {
            meta["creationTimestamp"] = now.into();
        }
        meta["generation"] = json!(1);
        if gvr.kind == "Pod" && object["status"]["phase"].is_null() {
            object["status"] = json!({"phase": "Pending"});
        }
        if gvr.kind == "Namespace" && object["spec"]["finalizers"].is_null() {
            object["spec"]["finalizers"] = json!(["kubernetes"]);
        }
        *self.created.entry(gvr.kind.to_string()).or_default() += 1;
        self.objects.insert(key, object.clone());
        self.log.push(Event { object: object.clone(), deleted: false });
        Ok(object)
    }

    fn update(&mut self, gvr: &Gvr, old: Value, mut new: Value, subresource: &str) -> Result<Value, Failure> {
        let asked = text(&new, "resourceVersion");
        if !asked.is_empty() && asked != text(&old, "resourceVersion") {
            let why = format!(
                "Operation cannot be fulfilled on {gvr} {:?}: the object has been modified",
                text(&old, "name")
            );
            return Err(failure(409, "Conflict", why));
        }
        if !text(&new, "uid").is_empty() && text(&new, "uid") != text(&old, "uid") {
            return Err(failure(409, "Conflict", "the uid does not match".into()));
        }
        if subresource == "status" || subresource == "approval" {
            let mut kept = old.clone();
            kept["status"] = new["status"].take();
            if !new["metadata"]["annotations"].is_null() {
                kept["metadata"]["annotations"] = new["metadata"]["annotations"].take();
            }
            new = kept;
        } else if subresource == "scale" {
            let mut kept = old.clone();
            kept["spec"]["replicas"] = new["spec"]["replicas"].take();
            new = kept;
        } else if subresource == "finalize" {
            let mut kept = old.clone();
            kept["spec"]["finalizers"] = new["spec"]["finalizers"].take();
            new = kept;
        } else if WITH_STATUS.contains(&gvr.kind.as_ref()) {
            new["status"] = old["status"].clone();
        }
        for field in
            ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"]
        {
            new["metadata"][field] = old["metadata"][field].clone();
        }
        Ok(self.store(gvr, old, new))
    }

    fn store(&mut self, gvr: &Gvr, old: Value, mut new: Value) -> Value {
        let key = (gvr.to_string(), Key::new(text(&old, "namespace"), text(&old, "name")));
        new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        strip_nulls(&mut new);
        let mut same = old.clone();
        strip_nulls(&mut same);
        if new == same {
            return old;
        }
        if new["spec"] != old["spec"] {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            new["metadata"]["generation"] = generation.into();
        }
        new["metadata"]["resourceVersion"] = self.next_revision().into();
        self.objects.insert(key.clone(), new.clone());
        self.log.push(Event { object: new.clone(), deleted: false });
        let waits = new["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) > 0;
        if is_terminating(&new) && !has_finalizers(&new) && !waits {
            self.purge(&key);
        }
        new
    }

    fn delete(
        &mut self,
        gvr: &Gvr,
        key: &(String, Key),
        old: Value,
        propagation: Option<Propagation>,
        grace: Option<i64>,
    ) -> Value {
        let mut new = old.clone();
        let finalizer = match propagation {
            Some(Propagation::Foreground) => Some(crate::meta::FOREGROUND),
            Some(Propagation::Orphan) => Some(crate::meta::ORPHAN),
            _ => None,
        };
        if let Some(finalizer) = finalizer.filter(|_| !is_terminating(&old)) {
            let mut list = new["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
            list.push(finalizer.into());
            new["metadata"]["finalizers"] = list.into();
        }
        let finished = matches!(old["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let bound = gvr.kind == "Pod" && !old["spec"]["nodeName"].is_null() && !finished;
        let grace = if bound { grace.unwrap_or(GRACE_SECS) } else { 0 };
        let grace =
            old["metadata"]["deletionGracePeriodSeconds"].as_i64().map_or(grace, |had| had.min(grace));
        if grace == 0 && !has_finalizers(&new) {
            self.purge(key);
            return old;
        }
        new["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        if !is_terminating(&old) {
            new["metadata"]["deletionTimestamp"] = self.now.to_string().into();
        }
        self.store(gvr, old, new)
    }

    fn purge(&mut self, key: &(String, Key)) {
        if let Some(mut object) = self.objects.remove(key) {
            object["metadata"]["resourceVersion"] = self.next_revision().into();
            self.log.push(Event { object, deleted: true });
        }
    }
}

/// The scale of an object with replicas.
fn scale_of(object: &Value) -> Value {
    let labels = object["spec"]["selector"]["matchLabels"].as_object().cloned().unwrap_or_default();
    let selector: Vec<String> =
        labels.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or(""))).collect();
    json!({"kind": "Scale", "metadata": object["metadata"], "spec": {"replicas": object["spec"]["replicas"]},
        "status": {"replicas": object["spec"]["replicas"], "selector": selector.join(",")}})
}

fn patched(old: &Value, body: &Value, kind: PatchKind) -> Result<Value, Failure> {
    match kind {
        PatchKind::Merge => {
            let mut new = old.clone();
            merge(&mut new, body);
            Ok(new)
        }
        PatchKind::Json | PatchKind::Apply => {
            Err(failure(415, "UnsupportedMediaType", "the model knows merge patches only".into()))
        }
    }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            target.as_object_mut().map(|target| target.remove(name));
        } else {
            merge(&mut target[name], value);
        }
    }
}

fn strip_nulls(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.retain(|_, field| !field.is_null());
        fields.values_mut().for_each(strip_nulls);
    }
}

/// Resource, namespace and name of a path.
fn parse(path: &str) -> (String, String, String) {
    let path = path.split('?').next().unwrap_or(path);
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let group = if parts.first() == Some(&"api") { "" } else { parts[1] };
    parts.drain(..if group.is_empty() { 2 } else { 3 });
    let namespace = if parts.first() == Some(&"namespaces") && parts.len() > 2 { parts[1] } else { "" };
    if !namespace.is_empty() {
        parts.drain(..2);
    }
    let resource = if group.is_empty() { parts[0].to_string() } else { format!("{}.{group}", parts[0]) };
    (resource, namespace.to_string(), parts.get(1).unwrap_or(&"").to_string())
}
