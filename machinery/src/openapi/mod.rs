//! OpenAPI documents of the served resources: one version 3 document a group-version, one version 2 document for all.
//!
//! Pure: from tables (and custom schemas) to JSON values; serving, hashing and caching are the caller's. Definitions
//! carry the extensions that clients work with: group-version-kind, list types and keys, merge strategies.

mod custom;
mod definitions;
mod descriptions;
mod paths;
pub mod protobuf;

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::resources::{Resource, api_version};

pub use custom::definition_name as custom_definition_name;

/// A resource as it is served, built-in or custom.
#[derive(Clone, Debug, PartialEq)]
pub struct Served {
    pub group: String,
    pub version: String,
    pub resource: String,
    pub kind: String,
    /// `<kind>List` for built-in kinds; custom ones may choose.
    pub list_kind: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
    pub subresources: Vec<ServedSubresource>,
    /// The `openAPIV3Schema` of a custom resource; `None` for a built-in one.
    pub custom: Option<CustomSchema>,
}

/// A subresource with the kind of its bodies.
#[derive(Clone, Debug, PartialEq)]
pub struct ServedSubresource {
    pub name: String,
    pub group: String,
    pub version: String,
    pub kind: String,
    pub verbs: Vec<String>,
}

/// What a custom resource's definition says about its objects.
#[derive(Clone, Debug, PartialEq)]
pub struct CustomSchema {
    pub schema: Value,
    /// The definition's `preserveUnknownFields`.
    pub preserve_unknown: bool,
}

impl From<&Resource> for Served {
    fn from(r: &Resource) -> Self {
        let owned = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect();
        Served {
            group: r.group.to_owned(),
            version: r.version.to_owned(),
            resource: r.resource.to_owned(),
            kind: r.kind.to_owned(),
            list_kind: format!("{}List", r.kind),
            namespaced: r.namespaced,
            verbs: owned(&r.verbs),
            subresources: r
                .subresources
                .iter()
                .map(|s| ServedSubresource {
                    name: s.name.to_owned(),
                    group: s.group.to_owned(),
                    version: s.version.to_owned(),
                    kind: s.kind.to_owned(),
                    verbs: owned(&s.verbs),
                })
                .collect(),
            custom: None,
        }
    }
}

/// Which of the two formats is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    V2,
    V3,
}

impl Format {
    fn reference(self, definition: &str) -> Value {
        match self {
            Format::V2 => json!({"$ref": format!("#/definitions/{definition}")}),
            Format::V3 => json!({"$ref": format!("#/components/schemas/{definition}")}),
        }
    }
}

/// Path of a group-version's resources: `/api/v1`, `/apis/apps/v1`.
fn base_path(group: &str, version: &str) -> String {
    let root = if group.is_empty() { "/api" } else { "/apis" };
    format!("{root}/{}", api_version(group, version))
}

/// The version 3 document of one group-version; resources of others are left out.
pub fn v3_document(served: &[Served], group: &str, version: &str) -> Value {
    let here: Vec<&Served> = served.iter().filter(|s| s.group == group && s.version == version).collect();
    let mut used = BTreeSet::new();
    let mut all_paths = Map::new();
    all_paths.insert(
        format!("{}/", base_path(group, version)),
        paths::discovery(Format::V3, group, version, &mut used),
    );
    for resource in &here {
        paths::add(Format::V3, resource, &mut all_paths, &mut used);
        custom::mark_used(resource, &mut used);
    }
    let mut schemas = definitions::closure(Format::V3, &mut used);
    for resource in &here {
        custom::add(Format::V3, resource, &mut schemas);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": all_paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"BearerToken": {
                "type": "apiKey", "in": "header", "name": "authorization", "description": "Bearer token authentication"}},
        },
    })
}

/// The version 2 document of everything; `server_version` is the `gitVersion` of `/version`.
pub fn v2_document(served: &[Served], server_version: &str) -> Value {
    let mut used = BTreeSet::new();
    let mut all_paths = Map::new();
    for resource in served {
        let base = format!("{}/", base_path(&resource.group, &resource.version));
        if !all_paths.contains_key(&base) {
            all_paths
                .insert(base, paths::discovery(Format::V2, &resource.group, &resource.version, &mut used));
        }
        paths::add(Format::V2, resource, &mut all_paths, &mut used);
        custom::mark_used(resource, &mut used);
    }
    let mut schemas = definitions::closure(Format::V2, &mut used);
    for resource in served {
        custom::add(Format::V2, resource, &mut schemas);
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": server_version},
        "paths": all_paths,
        "definitions": schemas,
        "securityDefinitions": {"BearerToken": {
            "type": "apiKey", "in": "header", "name": "authorization", "description": "Bearer token authentication"}},
        "security": [{"BearerToken": []}],
    })
}

#[cfg(test)]
mod tests;
