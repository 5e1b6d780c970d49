//! Roles and bindings compiled for look-up by subject.
//!
//! An index is immutable and belongs to one state of the four resources; [`super::rbac`] replaces it when any of
//! them changed. Role rules are resolved on building, so that a decision touches only the subject's own grants.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde_json::Value;

use super::rules::Rule;
use crate::contract::{Object, UserInfo};
use crate::kinds::json::{items, text};
use crate::tokens::claims::username;

/// The objects an index is built from.
pub struct RbacObjects {
    pub cluster_roles: Vec<Arc<Object>>,
    pub roles: Vec<Arc<Object>>,
    pub cluster_role_bindings: Vec<Arc<Object>>,
    pub role_bindings: Vec<Arc<Object>>,
}

/// The rules one binding gives to one subject; `Err` when its role does not exist.
pub struct Grant {
    pub rules: Result<Arc<[Rule]>, String>,
    /// Completes "RBAC: allowed by …".
    pub source: String,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

type BySubject = FxHashMap<Subject, Vec<Arc<Grant>>>;

/// Grants by subject, cluster-wide and by namespace.
#[derive(Default)]
pub struct RbacIndex {
    cluster: BySubject,
    namespaced: FxHashMap<String, BySubject>,
    cluster_roles: FxHashMap<String, Arc<[Rule]>>,
    roles: FxHashMap<(String, String), Arc<[Rule]>>,
}

impl RbacIndex {
    pub fn build(objects: &RbacObjects) -> Self {
        let mut index = RbacIndex::default();
        for role in &objects.cluster_roles {
            index.cluster_roles.insert(name(role).to_owned(), Rule::list(role).into());
        }
        for role in &objects.roles {
            index.roles.insert((namespace(role).to_owned(), name(role).to_owned()), Rule::list(role).into());
        }
        for binding in &objects.cluster_role_bindings {
            index.add_binding(binding, "");
        }
        for binding in &objects.role_bindings {
            index.add_binding(binding, namespace(binding));
        }
        index
    }

    /// The grants of a user in the namespace (empty for cluster-wide ones only), cluster-wide ones first.
    pub fn grants<'a>(&'a self, user: &'a UserInfo, namespace: &str) -> impl Iterator<Item = &'a Grant> {
        let local = if namespace.is_empty() { None } else { self.namespaced.get(namespace) };
        [Some(&self.cluster), local].into_iter().flatten().flat_map(move |map| grants_in(map, user))
    }

    /// The rules a role reference stands for, in the binding's namespace.
    pub fn role_rules(&self, role_ref: &Value, namespace: &str) -> Result<Arc<[Rule]>, String> {
        let role = text(role_ref, &["name"]);
        let quoted = machinery::gotext::quote(role);
        match text(role_ref, &["kind"]) {
            "ClusterRole" => {
                let found = self.cluster_roles.get(role).cloned();
                found.ok_or_else(|| format!("clusterrole.rbac.authorization.k8s.io {quoted} not found"))
            }
            "Role" => {
                let found = self.roles.get(&(namespace.to_owned(), role.to_owned())).cloned();
                found.ok_or_else(|| format!("role.rbac.authorization.k8s.io {quoted} not found"))
            }
            kind => Err(format!("unsupported role reference kind: {}", machinery::gotext::quote(kind))),
        }
    }

    fn add_binding(&mut self, binding: &Object, namespace: &str) {
        let rules = self.role_rules(&binding["roleRef"], namespace);
        for subject in items(binding, &["subjects"]) {
            let Some(key) = subject_key(subject, namespace) else { continue };
            let grant = Grant { rules: rules.clone(), source: describe(binding, subject, namespace) };
            let map = if namespace.is_empty() {
                &mut self.cluster
            } else {
                self.namespaced.entry(namespace.to_owned()).or_default()
            };
            map.entry(key).or_default().push(Arc::new(grant));
        }
    }
}

fn grants_in<'a>(map: &'a BySubject, user: &'a UserInfo) -> impl Iterator<Item = &'a Grant> {
    let groups = user.groups.iter().map(|group| Subject::Group(group.clone()));
    let keys = std::iter::once(Subject::User(user.name.clone())).chain(groups);
    keys.filter_map(|key| map.get(&key)).flatten().map(AsRef::as_ref)
}

/// Service accounts are looked up by their user name; without a namespace they match nobody.
fn subject_key(subject: &Value, binding_namespace: &str) -> Option<Subject> {
    let name = text(subject, &["name"]);
    match text(subject, &["kind"]) {
        "User" => Some(Subject::User(name.to_owned())),
        "Group" => Some(Subject::Group(name.to_owned())),
        "ServiceAccount" => {
            let own = text(subject, &["namespace"]);
            let namespace = if own.is_empty() { binding_namespace } else { own };
            (!namespace.is_empty()).then(|| Subject::User(username(namespace, name)))
        }
        _ => None,
    }
}

fn describe(binding: &Object, subject: &Value, namespace: &str) -> String {
    let quote = machinery::gotext::quote;
    let (kind, full) = if namespace.is_empty() {
        ("ClusterRoleBinding", name(binding).to_owned())
    } else {
        ("RoleBinding", format!("{}/{namespace}", name(binding)))
    };
    let role = &binding["roleRef"];
    let who = match text(subject, &["kind"]) {
        "ServiceAccount" => {
            let own = text(subject, &["namespace"]);
            let namespace = if own.is_empty() { namespace } else { own };
            format!("{}/{namespace}", text(subject, &["name"]))
        }
        _ => text(subject, &["name"]).to_owned(),
    };
    format!(
        "{kind} {} of {} {} to {} {}",
        quote(&full),
        text(role, &["kind"]),
        quote(text(role, &["name"])),
        text(subject, &["kind"]),
        quote(&who)
    )
}

fn name(object: &Object) -> &str {
    text(object, &["metadata", "name"])
}

fn namespace(object: &Object) -> &str {
    text(object, &["metadata", "namespace"])
}
