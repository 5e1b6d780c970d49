//! Request bodies to checked objects: format, version, unknown and duplicate fields, types, defaults.

use std::sync::Arc;

use machinery::schema::Schema;
use machinery::status::{FieldError, StatusError};
use machinery::{codec, json, schema, yaml};
use serde_json::Value;

use super::kind::Kind;
use super::options::FieldValidation;
use crate::contract::{KindHooks, RequestContext};

/// The format of a request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFormat {
    Json,
    Yaml,
    Protobuf,
}

/// Deepest nesting of a stored object: what reads lists of it reads two levels more.
const OBJECT_DEPTH_MAX: usize = json::DEPTH_MAX - 2;

/// Bytes of a summary in the error about an unreadable body (upstream `summarizeData`).
const SUMMARY_LEN_MAX: usize = 30;

/// Upstream names its table of kinds by the place in its source.
const SCHEME: &str = "pkg/api/legacyscheme/scheme.go:30";

/// The definition of metadata.
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// What a body must be.
pub struct Expected<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
    pub schema: &'a Schema,
    pub is_custom: bool,
    /// Defaults that depend on other fields.
    pub hooks: Option<Arc<dyn KindHooks>>,
}

impl<'a> Expected<'a> {
    /// The kind itself.
    pub fn of(kind: &'a Kind) -> Self {
        Self {
            group: &kind.group,
            version: &kind.version,
            kind: &kind.kind,
            schema: &kind.schema,
            is_custom: kind.is_custom(),
            hooks: Some(kind.hooks("")),
        }
    }

    fn api_version(&self) -> String {
        machinery::resources::api_version(self.group, self.version)
    }
}

/// A body as a tree, with the paths of fields that stood in it twice.
#[derive(Debug)]
pub struct Tree {
    pub value: Value,
    pub duplicates: Vec<String>,
    /// The text, kept where the order of what is wrong in it may be asked for.
    pub text: Vec<u8>,
}

impl Tree {
    /// What was not read from a text.
    pub fn new(value: Value, duplicates: Vec<String>) -> Self {
        Self { value, duplicates, text: Vec::new() }
    }
}

/// Reads a body into a tree, without knowing what it should be. The error is the decoder's text.
pub fn parse(body: &[u8], format: BodyFormat) -> Result<Tree, String> {
    match format {
        BodyFormat::Json => json::parse(body).map(|p| {
            let text = if p.duplicates.is_empty() { Vec::new() } else { body.to_vec() };
            Tree { value: p.value, duplicates: p.duplicates, text }
        }),
        BodyFormat::Yaml => yaml::parse(body).map(|p| Tree::new(p.value, p.duplicates)),
        BodyFormat::Protobuf => {
            codec::decode(body).map(|d| Tree::new(d.value, Vec::new())).map_err(|e| e.to_string())
        }
    }
}

/// Reads a body as the expected kind, defaults put in.
pub fn object(
    ctx: &RequestContext,
    expected: &Expected<'_>,
    body: &[u8],
    format: BodyFormat,
    validation: FieldValidation,
) -> Result<Value, StatusError> {
    let tree = parse(body, format).map_err(|text| unrecognized(expected.kind, &text, body, format))?;
    let says_nothing = |field: &str| tree.value.get(field).and_then(Value::as_str).is_none_or(str::is_empty);
    if expected.is_custom && says_nothing("kind") {
        return Err(StatusError::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): Object 'Kind' is missing in '{}' ({})",
            expected.kind,
            String::from_utf8_lossy(body),
            summary(body)
        )));
    }
    let tree = check_version(expected, tree)?;
    tree_to_object(ctx, expected, tree, validation)
}

/// Checks unknown and duplicate fields and types, and puts defaults in.
pub fn tree_to_object(
    ctx: &RequestContext,
    expected: &Expected<'_>,
    tree: Tree,
    validation: FieldValidation,
) -> Result<Value, StatusError> {
    let Tree { mut value, duplicates, text } = tree;
    let bad = |text: &str| schema::decode::bad_request(expected.kind, &expected.api_version(), text);
    let unknown = check_fields(expected, &mut value).map_err(|text| bad(&text))?;
    match validation {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => {
            let warnings = json::strict_warnings_of(&text, &unknown, &duplicates);
            warnings.into_iter().for_each(|w| ctx.warn(w));
        }
        FieldValidation::Strict => {
            let warnings = json::strict_warnings_of(&text, &unknown, &duplicates);
            if let Some(text) = json::strict_error(&warnings) {
                return Err(bad(&text));
            }
        }
    }
    schema::default::apply(expected.schema, &mut value);
    if let Some(hooks) = &expected.hooks {
        hooks.default(&mut value);
    }
    Ok(value)
}

/// Removes and names unknown fields; the error is about a value of the wrong type.
pub fn check_fields(expected: &Expected<'_>, value: &mut Value) -> Result<Vec<String>, String> {
    if expected.is_custom {
        let unknown = schema::prune::prune(expected.schema, value);
        // Metadata is the same Go type for every kind.
        if let (Some(meta), Some(metadata)) = (schema::definition(OBJECT_META), value.get_mut("metadata")) {
            schema::decode::decode(&meta, metadata)?;
        }
        return Ok(unknown);
    }
    schema::decode::decode(expected.schema, value)
}

/// Fills in a missing kind and version, refuses others.
fn check_version(expected: &Expected<'_>, mut tree: Tree) -> Result<Tree, StatusError> {
    let wanted = expected.api_version();
    let Some(map) = tree.value.as_object_mut() else {
        let text = "json: cannot unmarshal value into Go value of type struct";
        return Err(schema::decode::bad_request(expected.kind, &wanted, text));
    };
    for (field, default) in [("apiVersion", wanted.as_str()), ("kind", expected.kind)] {
        if expected.is_custom {
            break;
        }
        let absent = map.get(field).is_none_or(|v| v.is_null() || *v == "");
        if absent {
            map.insert(field.to_owned(), default.into());
        }
    }
    let text = |field: &str| map.get(field).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if api_version == wanted && kind == expected.kind {
        return Ok(tree);
    }
    let (group, version) = machinery::resources::split_api_version(api_version);
    if expected.is_custom && api_version == wanted && !kind.is_empty() {
        let error = FieldError::invalid(&"kind", kind, format!("must be {}", expected.kind));
        let name = map.get("metadata").and_then(|m| m.get("name")).and_then(Value::as_str);
        return Err(StatusError::invalid(expected.group, kind, name.unwrap_or_default(), vec![error]));
    }
    if expected.is_custom || schema::for_kind(group, version, kind).is_some() {
        return Err(StatusError::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({wanted})"
        )));
    }
    let why = format!("no kind {kind:?} is registered for version {api_version:?} in scheme {SCHEME:?}");
    let version = expected.version;
    let message = format!("{kind} in version {version:?} cannot be handled as a {}: {why}", expected.kind);
    Err(StatusError::bad_request(message))
}

/// Refuses an object that could be stored and not be read again: with what the server adds, its managedFields above all,
/// it nests deeper than what it comes from, and lists and watches wrap it once more.
pub fn refuse_too_deep(kind: &Kind, object: &Value) -> Result<(), StatusError> {
    match json::too_deep(object, OBJECT_DEPTH_MAX) {
        None => Ok(()),
        Some(text) => Err(unrecognized(&kind.kind, &text, object.to_string().as_bytes(), BodyFormat::Json)),
    }
}

fn unrecognized(kind: &str, text: &str, body: &[u8], format: BodyFormat) -> StatusError {
    // Only JSON is looked into for its kind before it is decoded.
    let step = if format == BodyFormat::Json { "couldn't get version/kind; json parse error: " } else { "" };
    StatusError::bad_request(format!(
        "the object provided is unrecognized (must be of type {kind}): {step}{text} ({})",
        summary(body)
    ))
}

fn summary(body: &[u8]) -> String {
    let cut = &body[..body.len().min(SUMMARY_LEN_MAX)];
    let more = if body.len() > SUMMARY_LEN_MAX { " ..." } else { "" };
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(cut)),
        Some(_) => format!("{}{more}", hex::encode(cut)),
    }
}
