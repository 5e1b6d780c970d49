//! One served resource at one version: everything the pipeline looks up, built-in or custom.

use std::sync::Arc;

use machinery::resources::Resource;
use machinery::schema::Schema;
use serde_json::Value;

use super::convert::Conversion;
use super::facts::Facts;
use super::place::Place;
use crate::cache::ResourceCache;
use crate::cache::layout::lead;
use crate::contract::KindHooks;

/// Where objects of one group and resource are stored, whatever version they are served at.
pub struct Storage {
    pub group: String,
    pub resource: String,
    pub kind: String,
    /// The version the store holds.
    pub api_version: String,
    pub namespaced: bool,
    /// Changes with the schema that stored objects are read by; 0 for built-in kinds.
    pub shape: u64,
    pub place: Arc<Place>,
    pub cache: Arc<ResourceCache>,
}

impl Storage {
    /// The object's own part of the store key.
    pub fn object_key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced { format!("{namespace}/{name}") } else { name.to_owned() }
    }

    /// The whole store key.
    pub fn store_key(&self, object_key: &str) -> bytes::Bytes {
        format!("{}{}{object_key}", crate::cache::hub::REGISTRY, self.cache.spec.prefix).into()
    }
}

/// A subresource as discovery shows it.
#[derive(Clone, Debug)]
pub struct SubKind {
    pub name: String,
    pub group: String,
    pub version: String,
    pub kind: String,
    pub verbs: Vec<String>,
}

/// Where a custom resource keeps its scale.
#[derive(Clone, Debug, Default)]
pub struct ScalePaths {
    pub spec_replicas: Vec<String>,
    pub status_replicas: Vec<String>,
    pub label_selector: Option<Vec<String>>,
}

/// One printer column of a custom resource.
#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    pub type_name: String,
    pub format: String,
    pub description: String,
    pub priority: i64,
    pub json_path: String,
}

/// What only custom resources have.
#[derive(Clone, Debug, Default)]
pub struct CustomFacts {
    pub columns: Vec<Column>,
    pub scale: Option<ScalePaths>,
    pub has_status: bool,
    /// The schema as written in the definition, for OpenAPI.
    pub openapi: Option<Value>,
    /// `spec.preserveUnknownFields`.
    pub preserve_unknown: bool,
    /// The definition's name.
    pub definition: String,
    pub deprecation_warning: Option<String>,
    /// New objects are refused while the definition is being deleted.
    pub terminating: bool,
}

/// Finds the hooks of a subresource of the kind (`""` is the resource itself).
pub type HooksOf = Arc<dyn Fn(&str) -> Arc<dyn KindHooks> + Send + Sync>;

/// One served resource at one version.
pub struct Kind {
    pub group: String,
    pub version: String,
    pub resource: String,
    pub singular: String,
    pub kind: String,
    pub list_kind: String,
    pub namespaced: bool,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub verbs: Vec<String>,
    pub subresources: Vec<SubKind>,
    pub schema: Schema,
    /// `None` for resources that are only computed (reviews, bindings, component statuses).
    pub storage: Option<Arc<Storage>>,
    pub conversion: Conversion,
    pub hooks: HooksOf,
    pub facts: Arc<Facts>,
    pub custom: Option<CustomFacts>,
    /// `{"kind":…,"apiVersion":…,` at this version.
    pub lead: Vec<u8>,
    /// Which version of its group this is, for memos keyed by version.
    pub version_index: u8,
}

impl Kind {
    /// `v1` or `group/version`.
    pub fn api_version(&self) -> String {
        machinery::resources::api_version(&self.group, &self.version)
    }

    /// The group that errors about an object name: where it is stored, whichever group it came through.
    pub fn error_group(&self) -> &str {
        self.storage.as_ref().map_or(&self.group, |storage| &storage.group)
    }

    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    pub fn subresource(&self, name: &str) -> Option<&SubKind> {
        self.subresources.iter().find(|s| s.name == name)
    }

    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    pub fn is_custom(&self) -> bool {
        self.custom.is_some()
    }

    pub fn hooks(&self, subresource: &str) -> Arc<dyn KindHooks> {
        (self.hooks)(subresource)
    }

    /// The storage, which every resource that can be read has.
    pub fn storage(&self) -> Result<&Arc<Storage>, machinery::status::StatusError> {
        let none =
            || machinery::status::StatusError::method_not_supported(&self.group, &self.resource, "get");
        self.storage.as_ref().ok_or_else(none)
    }

    /// A built-in kind from the resource table.
    pub fn builtin(
        table: &'static Resource,
        schema: Schema,
        storage: Option<Arc<Storage>>,
        facts: Arc<Facts>,
        hooks: HooksOf,
    ) -> Self {
        let owned = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect();
        let subresources = table.subresources.iter().map(|s| SubKind {
            name: s.name.to_owned(),
            group: s.group.to_owned(),
            version: s.version.to_owned(),
            kind: s.kind.to_owned(),
            verbs: owned(&s.verbs),
        });
        let api_version = table.api_version();
        let same = storage.as_ref().is_none_or(|s| s.api_version == api_version);
        Self {
            group: table.group.to_owned(),
            version: table.version.to_owned(),
            resource: table.resource.to_owned(),
            singular: table.singular.to_owned(),
            kind: table.kind.to_owned(),
            list_kind: format!("{}List", table.kind),
            namespaced: table.namespaced,
            short_names: owned(&table.short_names),
            categories: owned(&table.categories),
            verbs: owned(&table.verbs),
            subresources: subresources.collect(),
            schema,
            storage,
            conversion: if same {
                Conversion::Same
            } else {
                Conversion::builtin(table.group, table.resource)
            },
            hooks,
            facts,
            custom: None,
            lead: lead(table.kind, &api_version),
            version_index: u8::from(!same),
        }
    }
}

/// Hooks for kinds without rules of their own.
pub struct NoHooks;

impl KindHooks for NoHooks {}

/// As [`NoHooks`], with names that only have to fit into a path (roles and their bindings).
pub struct PathSegmentNames;

impl KindHooks for PathSegmentNames {
    fn validate_name(&self, name: &str, _prefix: bool) -> Vec<String> {
        machinery::names::path_segment_name(name)
    }
}
