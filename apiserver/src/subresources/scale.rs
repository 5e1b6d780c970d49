//! `/scale` of every workload and of custom resources that define it: `autoscaling/v1 Scale` as a view of the object.

use std::sync::Arc;

use async_trait::async_trait;
use http::{Response, StatusCode};
use machinery::schema::Schema;
use machinery::selector::Labels;
use machinery::status::{FieldError, StatusError};
use serde_json::{Value, json};

use crate::contract::RequestContext;
use crate::http::Api;
use crate::http::body::Body;
use crate::http::resources::ResourceRequest;
use crate::registry::decode::{self, Expected, Tree};
use crate::registry::kind::{Kind, ScalePaths};
use crate::registry::options::WriteOptions;
use crate::registry::patch::PatchType;
use crate::registry::update::{Change, served};
use crate::registry::{Answer, create, meta};

const GROUP: &str = "autoscaling";
const VERSION: &str = "v1";

fn path(text: &str) -> Vec<String> {
    text.split('.').filter(|p| !p.is_empty()).map(str::to_owned).collect()
}

/// Where the kind keeps its scale.
fn paths(kind: &Kind) -> Option<ScalePaths> {
    match &kind.custom {
        Some(custom) => custom.scale.clone(),
        None => Some(ScalePaths {
            spec_replicas: path("spec.replicas"),
            status_replicas: path("status.replicas"),
            label_selector: None,
        }),
    }
}

fn at<'a>(object: &'a Value, path: &[String]) -> &'a Value {
    path.iter().fold(object, |v, key| v.get(key).unwrap_or(&Value::Null))
}

fn set(object: &mut Value, path: &[String], value: Value) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut target = object;
    for key in parents {
        if !target[key.as_str()].is_object() {
            target[key.as_str()] = json!({});
        }
        target = &mut target[key.as_str()];
    }
    target[last.as_str()] = value;
}

/// The selector as text: replication controllers have a map, the others a label selector.
fn selector(kind: &Kind, object: &Value, paths: &ScalePaths) -> String {
    if let Some(path) = &paths.label_selector {
        return at(object, path).as_str().unwrap_or_default().to_owned();
    }
    let selector = &object["spec"]["selector"];
    match kind.resource.as_str() {
        _ if kind.is_custom() => String::new(),
        "replicationcontrollers" => Labels::from_map(selector).to_string(),
        _ => Labels::from_value(selector).map(|l| l.to_string()).unwrap_or_default(),
    }
}

/// The view of an object.
fn view(kind: &Kind, object: &Value, paths: &ScalePaths) -> Value {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    let replicas = at(object, &paths.spec_replicas).as_i64().unwrap_or(0);
    let mut status = json!({"replicas": at(object, &paths.status_replicas).as_i64().unwrap_or(0)});
    let selector = selector(kind, object, paths);
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    let spec = if replicas == 0 { json!({}) } else { json!({"replicas": replicas}) };
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

/// What a write to the view does to the object.
struct Rescale<'a> {
    kind: &'a Kind,
    paths: ScalePaths,
    input: Input<'a>,
    options: &'a WriteOptions,
    schema: Schema,
}

enum Input<'a> {
    Scale(Value),
    Patch(PatchType, &'a Value),
}

fn expected(schema: &Schema) -> Expected<'_> {
    Expected { group: GROUP, version: VERSION, kind: "Scale", schema, is_custom: false, hooks: None }
}

#[async_trait]
impl Change for Rescale<'_> {
    async fn make(&self, ctx: &RequestContext, current: Option<&Value>) -> Result<Value, StatusError> {
        let not_found = || StatusError::not_found(&self.kind.group, &self.kind.resource, &ctx.info.name);
        let current = current.ok_or_else(not_found)?;
        let scale = match &self.input {
            Input::Scale(scale) => scale.clone(),
            Input::Patch(patch_type, patch) => self.patched(ctx, current, *patch_type, patch)?,
        };
        let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
        // A custom resource's own checks refuse it, together with what else is wrong.
        if replicas < 0 && !self.kind.is_custom() {
            let error = FieldError::invalid(&"spec.replicas", replicas, "must be greater than or equal to 0");
            return Err(StatusError::invalid(GROUP, "Scale", meta::name(&scale), vec![error]));
        }
        if let Input::Patch(PatchType::Apply, _) = self.input {
            return self.applied(ctx, current, replicas);
        }
        let mut new = current.clone();
        set(&mut new, &self.paths.spec_replicas, replicas.into());
        match meta::text(&scale, "resourceVersion") {
            "" => {}
            revision => meta::set(&mut new, "resourceVersion", revision),
        }
        Ok(new)
    }

    fn tracks_managers(&self) -> bool {
        matches!(self.input, Input::Patch(PatchType::Apply, _))
    }
}

impl Rescale<'_> {
    /// An applied scale owns one field of the object itself, and conflicts over it.
    fn applied(&self, ctx: &RequestContext, current: &Value, replicas: i64) -> Result<Value, StatusError> {
        let api_version = self.kind.api_version();
        let mut config = json!({
            "apiVersion": api_version,
            "kind": self.kind.kind,
            "metadata": {"name": meta::name(current)},
        });
        if self.kind.namespaced {
            meta::set(&mut config, "namespace", meta::namespace(current));
        }
        set(&mut config, &self.paths.spec_replicas, replicas.into());
        let manager = create::manager(ctx, "scale", self.options);
        let (schema, force) = (&self.kind.schema, self.options.force);
        let none = machinery::apply::ResetFields::none();
        machinery::apply::apply(schema, &api_version, Some(current), &config, &manager, force, &none)
    }

    fn patched(
        &self,
        ctx: &RequestContext,
        current: &Value,
        patch_type: PatchType,
        patch: &Value,
    ) -> Result<Value, StatusError> {
        let scale = view(self.kind, current, &self.paths);
        let value = match patch_type {
            PatchType::Json => machinery::patch::json_patch(&scale, patch).map_err(|e| e.to_status())?,
            PatchType::Merge => machinery::patch::merge_patch(&scale, patch),
            PatchType::Strategic => {
                machinery::patch::strategic(&self.schema, &scale, patch).map_err(|e| e.to_status())?
            }
            // Of an applied scale only the replicas mean anything.
            PatchType::Apply => machinery::patch::merge_patch(&scale, &json!({"spec": patch["spec"]})),
        };
        let tree = Tree::new(value, Vec::new());
        decode::tree_to_object(ctx, &expected(&self.schema), tree, self.options.field_validation)
    }
}

impl Api {
    /// Serves get, update and patch of a scale.
    pub async fn scale(&self, request: &ResourceRequest<'_>) -> Result<Response<Body>, StatusError> {
        let kind = request.kind;
        let paths = paths(kind).ok_or_else(StatusError::not_found_path)?;
        let schema =
            machinery::schema::for_kind(GROUP, VERSION, "Scale").ok_or_else(StatusError::not_found_path)?;
        let target = request.target();
        let object = match request.ctx.info.verb.as_str() {
            "get" => {
                let revision = request.query.get("resourceVersion").unwrap_or_default();
                served(kind, &*self.registry.get(kind, target, revision).await?)
            }
            "update" | "patch" => self.rescale(request, paths.clone(), schema).await?,
            other => return Err(StatusError::method_not_supported(&kind.group, &kind.resource, other)),
        };
        let scale = view(kind, &object, &paths);
        request.answer(StatusCode::OK, &Answer::Object(Arc::new(scale)))
    }

    async fn rescale(
        &self,
        request: &ResourceRequest<'_>,
        paths: ScalePaths,
        schema: Schema,
    ) -> Result<Value, StatusError> {
        let is_patch = request.ctx.info.verb == "patch";
        let options = request.write_options(if is_patch { "PatchOptions" } else { "UpdateOptions" })?;
        let document;
        let input = if is_patch {
            let patch_type = request.patch_type()?;
            let format = if patch_type == PatchType::Apply {
                decode::BodyFormat::Yaml
            } else {
                decode::BodyFormat::Json
            };
            document = decode::parse(request.body, format)
                .map_err(|text| StatusError::bad_request(format!("error decoding patch: {text}")))?;
            Input::Patch(patch_type, &document.value)
        } else {
            Input::Scale(request.decode(&expected(&schema), &options)?)
        };
        let change = Rescale { kind: request.kind, paths, input, options: &options, schema: schema.clone() };
        let (answer, _) =
            self.registry.update(request.ctx, request.kind, request.target(), &change, &options).await?;
        Ok(match answer {
            Answer::Stored(entry) => served(request.kind, &entry),
            Answer::Object(object) => (*object).clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_set_and_found_along_paths() {
        let mut object = json!({});
        set(&mut object, &path(".spec.size.replicas"), 3.into());
        assert_eq!(at(&object, &path("spec.size.replicas")), 3);
    }
}
