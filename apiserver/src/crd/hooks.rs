//! The rules of definition objects themselves: defaults, stored versions, the cleanup finalizer, checks.

use machinery::status::FieldError;
use serde_json::{Value, json};

use super::validate;
use crate::contract::{KindHooks, Object, RequestContext};

/// Hooks of `customresourcedefinitions`.
pub struct DefinitionHooks;

/// Hooks of its status: stored versions may be taken out there.
pub struct DefinitionStatusHooks;

impl KindHooks for DefinitionHooks {
    fn default(&self, object: &mut Object) {
        let names = &mut object["spec"]["names"];
        let kind = names["kind"].as_str().unwrap_or_default().to_owned();
        if !kind.is_empty() {
            for (field, value) in [("singular", kind.to_lowercase()), ("listKind", format!("{kind}List"))] {
                if names[field].as_str().unwrap_or_default().is_empty() {
                    names[field] = value.into();
                }
            }
        }
        if !object["spec"]["conversion"].is_object() {
            object["spec"]["conversion"] = json!({"strategy": "None"});
        }
    }

    fn prepare_for_create(&self, _: &RequestContext, object: &mut Object) {
        object["status"] =
            json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": []});
        add_stored_version(object);
    }

    fn prepare_for_update(&self, _: &RequestContext, new: &mut Object, _: &Object) {
        add_stored_version(new);
    }

    fn validate_create(&self, _: &RequestContext, object: &Object) -> Vec<FieldError> {
        validate::definition(object, None)
    }

    fn validate_update(&self, _: &RequestContext, new: &Object, old: &Object) -> Vec<FieldError> {
        validate::definition(new, Some(old))
    }
}

impl KindHooks for DefinitionStatusHooks {
    fn default(&self, object: &mut Object) {
        DefinitionHooks.default(object);
    }
}

/// The storage version is remembered for as long as objects of it may exist.
fn add_stored_version(object: &mut Value) {
    let versions = object["spec"]["versions"].as_array();
    let storage = versions.into_iter().flatten().find(|v| v["storage"] == true).map(|v| v["name"].clone());
    let Some(name) = storage else { return };
    if !object["status"]["storedVersions"].is_array() {
        object["status"]["storedVersions"] = json!([]);
    }
    if let Some(stored) = object["status"]["storedVersions"].as_array_mut()
        && !stored.contains(&name)
    {
        stored.push(name);
    }
}
