//! `metadata.managedFields`: who owns which fields.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::set::FieldSet;
use crate::{gotext, object, time};

/// Most managers of updates an object keeps; older ones are merged into one (upstream's number).
pub(super) const UPDATE_MANAGERS_MAX: usize = 10;
/// The manager that merged ones become.
const ANCIENT: &str = "ancient-changes";

/// Identity of an owner. For applies the version is not part of it. Sorted as the wire lists them: applies first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ManagerId {
    pub applied: bool,
    pub name: String,
    /// Empty for applies.
    pub api_version: String,
    pub subresource: String,
}

/// What an owner owns, at which version, since when.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Managed {
    pub set: FieldSet,
    pub api_version: String,
    /// RFC 3339 with seconds; empty when unknown.
    pub time: String,
}

pub(super) type Managers = BTreeMap<ManagerId, Managed>;

impl ManagerId {
    /// How conflicts name the owner.
    pub(super) fn print(&self) -> String {
        let mut out = gotext::quote(&self.name);
        if !self.subresource.is_empty() {
            out.push_str(&format!(" with subresource {}", gotext::quote(&self.subresource)));
        }
        if !self.applied {
            out.push_str(&format!(" using {}", self.api_version));
        }
        out
    }
}

/// Reads the entries.
///
/// # Errors
/// What is wrong with the first bad entry.
pub(super) fn decode(entries: &[Value]) -> Result<Managers, String> {
    let mut out = Managers::new();
    for (i, entry) in entries.iter().enumerate() {
        let text = |name: &str| object::text_at(entry, &[name]).to_owned();
        let applied = match text("operation").as_str() {
            "Apply" => true,
            "Update" => false,
            _ => return Err("operation must be `Apply` or `Update`".to_owned()),
        };
        let api_version = text("apiVersion");
        if api_version.is_empty() {
            return Err("apiVersion must not be empty".to_owned());
        }
        match text("fieldsType").as_str() {
            "FieldsV1" => {}
            "" => return Err(format!("missing fieldsType in managed fields entry {i}")),
            other => {
                return Err(format!(
                    "invalid fieldsType {} in managed fields entry {i}",
                    gotext::quote(other)
                ));
            }
        }
        let set = FieldSet::from_fields_v1(entry.get("fieldsV1").unwrap_or(&Value::Null))?;
        let id = ManagerId {
            applied,
            name: text("manager"),
            api_version: if applied { String::new() } else { api_version.clone() },
            subresource: text("subresource"),
        };
        out.insert(id, Managed { set, api_version, time: text("time") });
    }
    Ok(out)
}

/// Writes the owners into the object, or removes the list when there are none.
pub(super) fn write(object: &mut Value, managers: &Managers) {
    if managers.is_empty() {
        clear(object);
        return;
    }
    let mut rows: Vec<(&ManagerId, &Managed)> = managers.iter().collect();
    // Operation, second, name, version, subresource.
    rows.sort_by(|(a, x), (b, y)| {
        (!a.applied, seconds(&x.time), &a.name, &x.api_version, &a.subresource).cmp(&(
            !b.applied,
            seconds(&y.time),
            &b.name,
            &y.api_version,
            &b.subresource,
        ))
    });
    let entries = rows.into_iter().map(|(id, managed)| encode(id, managed)).collect();
    object::metadata_mut(object).insert("managedFields".to_owned(), Value::Array(entries));
}

pub(super) fn clear(object: &mut Value) {
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        metadata.remove("managedFields");
    }
}

fn encode(id: &ManagerId, managed: &Managed) -> Value {
    let mut entry = Map::new();
    let mut put = |name: &str, text: &str| {
        if !text.is_empty() {
            entry.insert(name.to_owned(), json!(text));
        }
    };
    put("manager", &id.name);
    put("operation", if id.applied { "Apply" } else { "Update" });
    put("apiVersion", &managed.api_version);
    put("time", &managed.time);
    put("fieldsType", "FieldsV1");
    put("subresource", &id.subresource);
    entry.insert("fieldsV1".to_owned(), managed.set.to_fields_v1());
    Value::Object(entry)
}

fn seconds(text: &str) -> i64 {
    time::parse_rfc3339(text).map_or(0, |t| t.as_second())
}

/// Merges the oldest managers of updates, version by version, until few enough are left.
pub(super) fn cap(managers: &mut Managers) {
    let mut updaters: Vec<ManagerId> = managers.keys().filter(|id| !id.applied).cloned().collect();
    if updaters.len() <= UPDATE_MANAGERS_MAX {
        return;
    }
    updaters.sort_by_key(|id| (seconds(&managers[id].time), id.clone()));
    let mut count = updaters.len();
    let mut first_of_version: BTreeMap<String, ManagerId> = BTreeMap::new();
    for id in updaters {
        if count <= UPDATE_MANAGERS_MAX {
            return;
        }
        let Some(first) = first_of_version.get(&id.api_version) else {
            first_of_version.insert(id.api_version.clone(), id);
            continue;
        };
        let bucket = ManagerId { name: ANCIENT.to_owned(), subresource: String::new(), ..id.clone() };
        if !managers.contains_key(&bucket)
            && let Some(oldest) = managers.remove(first)
        {
            managers.insert(bucket.clone(), oldest);
        }
        if let (Some(gone), Some(into)) = (managers.remove(&id), managers.get_mut(&bucket)) {
            into.set.extend(gone.set);
            into.time = gone.time;
        }
        count -= 1;
    }
}
