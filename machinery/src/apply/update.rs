//! The rules of ownership: what an apply or an update does to the sets of all managers.

use serde_json::Value;

use super::Manager;
use super::managers::{Managed, ManagerId, Managers};
use super::node::Node;
use super::set::FieldSet;
use super::walk::{self, Comparison};
use crate::schema::Schema;
use crate::status::{Cause, Reason, StatusError};
use crate::{object, time};

/// kubectl's record of its own client-side applies.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Fields that nobody owns.
fn never_owned() -> &'static FieldSet {
    static SET: std::sync::OnceLock<FieldSet> = std::sync::OnceLock::new();
    SET.get_or_init(|| {
        FieldSet::from_names(&[
            &["apiVersion"],
            &["kind"],
            &["metadata"],
            &["metadata", "name"],
            &["metadata", "namespace"],
            &["metadata", "creationTimestamp"],
            &["metadata", "selfLink"],
            &["metadata", "uid"],
            &["metadata", "clusterName"],
            &["metadata", "generation"],
            &["metadata", "managedFields"],
            &["metadata", "resourceVersion"],
        ])
    })
}

/// Upstream's failure for a configuration that the schema does not know.
pub(super) fn check_config(schema: &Schema, api_version: &str, config: &Value) -> Result<(), StatusError> {
    let mut problems = Vec::new();
    walk::problems(Node::root(schema), config, &mut String::new(), &mut problems);
    let text = match problems.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        many => format!("errors:\n{}", many.iter().map(|p| format!("  {p}")).collect::<Vec<_>>().join("\n")),
    };
    let (namespace, name, kind) = (object::namespace(config), object::name(config), object::kind(config));
    let message = format!(
        "failed to create typed patch object ({namespace}/{name}; {api_version}, Kind={kind}): {text}"
    );
    Err(StatusError::new(500, Reason::Unknown, message, None))
}

/// One write by one manager.
pub(super) struct Operation<'a> {
    pub node: Node<'a>,
    pub api_version: &'a str,
    pub manager: &'a Manager,
    pub reset: &'a FieldSet,
}

impl Operation<'_> {
    fn id(&self, name: &str, applied: bool) -> ManagerId {
        ManagerId {
            applied,
            name: if name.is_empty() { "unknown".to_owned() } else { name.to_owned() },
            api_version: if applied { String::new() } else { self.api_version.to_owned() },
            subresource: self.manager.subresource.clone(),
        }
    }

    fn now(&self) -> String {
        time::format_time(self.manager.now)
    }

    /// An object that nobody tracked gets an owner for what it has, so that an apply can conflict with it.
    pub(super) fn before_first_apply(&self, empty: &Value, live: &Value, managers: &mut Managers) {
        self.update_as(empty, live, managers, "before-first-apply");
    }

    pub(super) fn update(&self, live: &Value, new: &Value, managers: &mut Managers) {
        self.update_as(live, new, managers, &self.manager.name);
    }

    fn update_as(&self, live: &Value, new: &Value, managers: &mut Managers, name: &str) {
        let changes = walk::compare(self.node, live, new).without(self.reset);
        // Changed fields leave their owners, also the writer's own other entries.
        for managed in managers.values_mut() {
            managed.set.remove_all(&changes.added);
            managed.set.remove_all(&changes.modified);
            managed.set.remove_all(&changes.removed);
        }
        let mut set = changes.added;
        set.extend(changes.modified);
        set.remove_all(never_owned());
        if !set.is_empty() {
            let entry = managers.entry(self.id(name, false)).or_insert_with(|| Managed {
                set: FieldSet::default(),
                api_version: self.api_version.to_owned(),
                time: String::new(),
            });
            entry.set.extend(set);
            entry.time = self.now();
        }
        managers.retain(|_, managed| !managed.set.is_empty());
    }

    pub(super) fn apply(
        &self,
        live: &Value,
        config: &Value,
        managers: &mut Managers,
        force: bool,
    ) -> Result<Value, StatusError> {
        let merged = walk::merge(self.node, Some(live), Some(config)).map_err(|error| {
            StatusError::new(500, Reason::Unknown, format!("failed to merge config: {error}"), None)
        })?;
        let merged = merged.unwrap_or_else(|| live.clone());
        let id = self.id(&self.manager.name, true);
        let last = managers.get(&id).cloned();
        let owned = walk::field_set(self.node, config).1.recursive_difference(self.reset);
        managers.insert(
            id.clone(),
            Managed {
                set: owned.clone(),
                api_version: self.api_version.to_owned(),
                time: last.as_ref().map(|l| l.time.clone()).unwrap_or_default(),
            },
        );
        let mut new = match &last {
            Some(last) if !last.set.is_empty() => self.prune(&merged, managers, &last.set),
            _ => merged,
        };
        let changes = walk::compare(self.node, live, &new).without(self.reset);
        self.take(&changes, managers, &id, force, live)?;
        if let Some(mine) = managers.get_mut(&id) {
            mine.set = owned.difference(never_owned());
        }
        managers.retain(|_, managed| !managed.set.is_empty());
        let unchanged = new == *live;
        if let Some(mine) = managers.get_mut(&id).filter(|mine| !unchanged || mine.time.is_empty()) {
            mine.time = self.now();
        }
        self.refresh_last_applied(config, &mut new);
        Ok(new)
    }

    /// Takes changed fields from their owners, or reports them.
    fn take(
        &self,
        changes: &Comparison,
        managers: &mut Managers,
        id: &ManagerId,
        force: bool,
        live: &Value,
    ) -> Result<(), StatusError> {
        let written = changes.modified.union(&changes.added);
        let mut conflicts: Vec<(ManagerId, FieldSet)> = Vec::new();
        for (other, managed) in managers.iter().filter(|(other, _)| *other != id) {
            let both = managed.set.intersection(&written);
            if !both.is_empty() {
                conflicts.push((other.clone(), both));
            }
        }
        if !force && !conflicts.is_empty() && !self.allowed_by_last_applied(&conflicts, live) {
            return Err(conflict_error(&conflicts));
        }
        for (other, managed) in managers.iter_mut().filter(|(other, _)| *other != id) {
            if let Some((_, lost)) = conflicts.iter().find(|(manager, _)| manager == other) {
                managed.set.remove_all(lost);
            }
            managed.set.remove_all(&changes.removed);
        }
        Ok(())
    }

    /// Removes from the merged object what the manager applied last time, does not apply now, and nobody owns.
    fn prune(&self, merged: &Value, managers: &Managers, last: &FieldSet) -> Value {
        let named = |set: &FieldSet| walk::with_named_fields(self.node, set);
        let set_of = |value: &Value| named(&walk::field_set(self.node, value).1);
        let last = named(last);
        let pruned = walk::remove(self.node, merged, &last);
        // Back comes what somebody owns …
        let all = managers.values().fold(FieldSet::default(), |all, managed| all.union(&managed.set));
        let merged_set = set_of(merged);
        let gone = merged_set.difference(&set_of(&pruned).union(&named(&all)));
        let pruned = walk::remove(self.node, merged, &gone);
        // … and what went only because something above it went.
        let gone = merged_set.difference(&set_of(&pruned)).intersection(&last);
        walk::remove(self.node, merged, &gone)
    }

    /// A conflict with kubectl's own client-side apply is none when the live values are the ones it recorded: the
    /// user is moving from one way of applying to the other.
    fn allowed_by_last_applied(&self, conflicts: &[(ManagerId, FieldSet)], live: &Value) -> bool {
        let Some(text) = object::annotation(live, LAST_APPLIED) else { return false };
        let Ok(recorded) = serde_json::from_str::<Value>(text) else { return false };
        if !recorded.is_object() || object::api_version(&recorded) != self.api_version {
            return false;
        }
        let changes = walk::compare(self.node, &recorded, live);
        let same = walk::field_set(self.node, &recorded)
            .1
            .difference(&changes.modified)
            .difference(&changes.removed);
        conflicts.iter().all(|(_, set)| set.difference(&same).is_empty())
    }

    /// kubectl keeps its record current when it applies on the server to an object that has one.
    fn refresh_last_applied(&self, config: &Value, new: &mut Value) {
        if self.manager.name != "kubectl" || object::annotation(new, LAST_APPLIED).is_none() {
            return;
        }
        let mut record = config.clone();
        if let Some(Value::Object(annotations)) =
            record.get_mut("metadata").and_then(|metadata| metadata.get_mut("annotations"))
        {
            annotations.remove(LAST_APPLIED);
        }
        let text = format!("{}\n", crate::gotext::json(&record));
        object::set(new, &["metadata", "annotations", LAST_APPLIED], Value::String(text));
    }
}

fn conflict_error(conflicts: &[(ManagerId, FieldSet)]) -> StatusError {
    let rows: Vec<(String, Vec<String>)> =
        conflicts.iter().map(|(id, set)| (id.print(), set.paths())).collect();
    let mut causes = Vec::new();
    for (manager, paths) in &rows {
        for path in paths {
            causes.push(Cause {
                reason: "FieldManagerConflict".to_owned(),
                message: format!("conflict with {manager}"),
                field: path.clone(),
            });
        }
    }
    let message = match (causes.as_slice(), rows.first()) {
        ([one], Some((manager, _))) => {
            format!("Apply failed with 1 conflict: conflict with {manager}: {}", one.field)
        }
        _ => {
            let mut lines = Vec::new();
            for (manager, paths) in &rows {
                lines.push(format!("conflicts with {manager}:"));
                lines.extend(paths.iter().map(|path| format!("- {path}")));
            }
            format!("Apply failed with {} conflicts: {}", causes.len(), lines.join("\n"))
        }
    };
    StatusError::apply_conflict(causes, message)
}
