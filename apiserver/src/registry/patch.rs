//! The verb patch in its four kinds, as a [`Change`] of the update loop.

use async_trait::async_trait;
use machinery::apply::ResetFields;
use machinery::patch::{self, PatchError};
use machinery::status::{FieldError, StatusError};
use machinery::yaml;
use serde_json::Value;

use super::create::{manager, reset_fields};
use super::decode::{self, BodyFormat, Expected, Tree};
use super::kind::Kind;
use super::options::{FieldValidation, WriteOptions};
use super::update::Change;
use crate::contract::RequestContext;

/// What upstream's YAML library says it was doing.
const CONVERTING: &str = "error converting YAML to JSON";

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
    /// Keys that stand twice in an applied configuration, as sentences.
    duplicate_keys: Vec<String>,
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
            PatchType::Apply => {
                StatusError::bad_request(format!("error decoding YAML: {CONVERTING}: {text}"))
            }
            _ => StatusError::bad_request(format!("error decoding patch: {text}")),
        })?;
        if patch_type == PatchType::Apply && !document.value.is_object() {
            return Err(StatusError::bad_request("error decoding YAML: the configuration is not a map"));
        }
        let twice = patch_type == PatchType::Apply && !document.duplicates.is_empty();
        let duplicate_keys = if twice { yaml::duplicate_keys(body) } else { Vec::new() };
        let expected = Expected::of(kind);
        Ok(Self { kind, expected, subresource, patch_type, document, duplicate_keys, options })
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
        let value = patched.map_err(|error| match error {
            PatchError::TooDeep(text) => self.misfit(text),
            other => other.to_status(),
        })?;
        self.finish(ctx, value, self.document.duplicates.clone())
    }

    fn server_side(&self, ctx: &RequestContext, current: Option<&Value>) -> Result<Value, StatusError> {
        let manager = manager(ctx, self.subresource, self.options);
        let reset: ResetFields = reset_fields(self.kind, self.subresource);
        let api_version = machinery::resources::api_version(self.expected.group, self.expected.version);
        let (schema, config) = (self.expected.schema, &self.document.value);
        let force = self.options.force;
        let applied =
            machinery::apply::apply(schema, &api_version, current, config, &manager, force, &reset)?;
        self.refuse_duplicate_keys(ctx)?;
        self.finish(ctx, applied, Vec::new())
    }

    /// Keys that stand twice in an applied configuration, in the words of upstream's strict YAML reader.
    fn refuse_duplicate_keys(&self, ctx: &RequestContext) -> Result<(), StatusError> {
        let strict = match self.options.field_validation {
            FieldValidation::Ignore => return Ok(()),
            FieldValidation::Warn => false,
            FieldValidation::Strict => true,
        };
        if strict && !self.duplicate_keys.is_empty() {
            let text = format!("yaml: unmarshal errors:\n  {}", self.duplicate_keys.join("\n  "));
            return Err(StatusError::bad_request(format!(
                "error strict decoding YAML: {CONVERTING}: {text}"
            )));
        }
        self.duplicate_keys.iter().for_each(|text| ctx.warn(text));
        Ok(())
    }

    fn finish(
        &self,
        ctx: &RequestContext,
        value: Value,
        duplicates: Vec<String>,
    ) -> Result<Value, StatusError> {
        let tree = Tree::new(value, duplicates);
        decode::tree_to_object(ctx, &self.expected, tree, self.options.field_validation)
            .map_err(|error| self.misfit(error.message().to_owned()))
    }

    /// A patch that makes an object of the wrong shape is the patch's fault.
    fn misfit(&self, text: String) -> StatusError {
        let document = self.document.value.to_string();
        StatusError::invalid("", "", "", vec![FieldError::invalid(&"patch", document, text)])
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
