//! The verb patch in its four kinds, as a [`Change`] of the update loop.

use async_trait::async_trait;
use machinery::apply::ResetFields;
use machinery::status::{FieldError, StatusError};
use machinery::{json, patch};
use serde_json::Value;

use super::create::{manager, reset_fields};
use super::decode::{self, BodyFormat, Expected, Tree};
use super::kind::Kind;
use super::options::{FieldValidation, WriteOptions};
use super::update::Change;
use crate::contract::RequestContext;

/// How a patch describes the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl PatchType {
    /// By media type.
    pub fn of(media_type: &str) -> Option<Self> {
        match media_type {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" => Some(Self::Apply),
            _ => None,
        }
    }
}

/// One patch request against one kind (or a computed kind such as Scale).
pub struct Patch<'a> {
    pub kind: &'a Kind,
    pub expected: Expected<'a>,
    pub subresource: &'a str,
    pub patch_type: PatchType,
    pub document: Tree,
    pub options: &'a WriteOptions,
}

impl<'a> Patch<'a> {
    /// Reads the patch document.
    pub fn parse(
        kind: &'a Kind,
        subresource: &'a str,
        patch_type: PatchType,
        body: &[u8],
        options: &'a WriteOptions,
    ) -> Result<Self, StatusError> {
        if patch_type == PatchType::Apply && !options.manager_is_explicit {
            let error = FieldError::required(&"fieldManager", "is required for apply patch");
            return Err(StatusError::invalid("meta.k8s.io", "PatchOptions", "", vec![error]));
        }
        if patch_type != PatchType::Apply && options.force {
            let error = FieldError::forbidden(&"force", "may not be specified for non-apply patch");
            return Err(StatusError::invalid("meta.k8s.io", "PatchOptions", "", vec![error]));
        }
        let format = if patch_type == PatchType::Apply { BodyFormat::Yaml } else { BodyFormat::Json };
        let document = decode::parse(body, format).map_err(|text| match patch_type {
            PatchType::Apply => StatusError::bad_request(format!("error decoding YAML: {text}")),
            _ => StatusError::bad_request(format!("error decoding patch: {text}")),
        })?;
        Ok(Self { kind, expected: Expected::of(kind), subresource, patch_type, document, options })
    }

    /// The patched object, decoded and defaulted.
    pub fn apply_to(&self, ctx: &RequestContext, current: Option<&Value>) -> Result<Value, StatusError> {
        let not_found = || StatusError::not_found(&self.kind.group, &self.kind.resource, &ctx.info.name);
        let patched = match self.patch_type {
            PatchType::Apply => return self.server_side(ctx, current),
            PatchType::Json => patch::json_patch(current.ok_or_else(not_found)?, &self.document.value),
            PatchType::Merge => Ok(patch::merge_patch(current.ok_or_else(not_found)?, &self.document.value)),
            PatchType::Strategic if self.kind.is_custom() => {
                return Err(StatusError::unsupported_media_type(&[
                    "application/json-patch+json",
                    "application/merge-patch+json",
                    "application/apply-patch+yaml",
                ]));
            }
            PatchType::Strategic => {
                patch::strategic(self.expected.schema, current.ok_or_else(not_found)?, &self.document.value)
            }
        };
        let value = patched.map_err(|e| e.to_status())?;
        self.finish(ctx, value, self.document.duplicates.clone())
    }

    fn server_side(&self, ctx: &RequestContext, current: Option<&Value>) -> Result<Value, StatusError> {
        let mut config = self.document.value.clone();
        self.check_config(ctx, &mut config)?;
        let manager = manager(ctx, self.subresource, self.options);
        let reset: ResetFields = reset_fields(self.kind, self.subresource);
        let api_version = machinery::resources::api_version(self.expected.group, self.expected.version);
        let schema = self.expected.schema;
        let force = self.options.force;
        let applied =
            machinery::apply::apply(schema, &api_version, current, &config, &manager, force, &reset)?;
        self.finish(ctx, applied, Vec::new())
    }

    /// Unknown and duplicate fields of an applied configuration.
    fn check_config(&self, ctx: &RequestContext, config: &mut Value) -> Result<(), StatusError> {
        let api_version = machinery::resources::api_version(self.expected.group, self.expected.version);
        let found = config["apiVersion"].as_str().unwrap_or_default();
        if found != api_version {
            return Err(StatusError::bad_request(format!(
                "failed to create typed live object: apiVersion of the request ({found}) does not match the endpoint ({api_version})"
            )));
        }
        let mut probe = config.clone();
        let unknown = decode::check_fields(&self.expected, &mut probe).map_err(|text| {
            StatusError::bad_request(format!("failed to create typed patch object: {text}"))
        })?;
        match self.options.field_validation {
            FieldValidation::Ignore => {}
            FieldValidation::Warn => {
                json::strict_warnings(&unknown, &self.document.duplicates)
                    .into_iter()
                    .for_each(|w| ctx.warn(w));
            }
            FieldValidation::Strict => {
                if let Some(text) = json::strict_error(&unknown, &self.document.duplicates) {
                    return Err(StatusError::bad_request(format!("error decoding YAML: {text}")));
                }
            }
        }
        if !unknown.is_empty() {
            *config = probe;
        }
        Ok(())
    }

    fn finish(
        &self,
        ctx: &RequestContext,
        value: Value,
        duplicates: Vec<String>,
    ) -> Result<Value, StatusError> {
        let tree = Tree { value, duplicates };
        decode::tree_to_object(ctx, &self.expected, tree, self.options.field_validation).map_err(|error| {
            // A patch that makes an object of the wrong shape is the patch's fault.
            let text = error.message().to_owned();
            let document = self.document.value.to_string();
            StatusError::invalid("", "", "", vec![FieldError::invalid(&"patch", document, text)])
        })
    }
}

#[async_trait]
impl Change for Patch<'_> {
    async fn make(&self, ctx: &RequestContext, current: Option<&Value>) -> Result<Value, StatusError> {
        self.apply_to(ctx, current)
    }

    fn creates(&self) -> bool {
        self.patch_type == PatchType::Apply && self.subresource.is_empty()
    }

    fn tracks_managers(&self) -> bool {
        self.patch_type == PatchType::Apply
    }
}
