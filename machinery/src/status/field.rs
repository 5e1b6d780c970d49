//! Field-level validation errors (`field.Error`): kinds, texts, and their causes inside a 422.

use std::fmt::{self, Display};

use serde_json::Value;

use super::Cause;
use crate::gotext;

/// What is wrong with a field (`field.ErrorType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldErrorKind {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooShort,
    TooMany,
    TooFew,
    Internal,
    TypeInvalid,
}

impl FieldErrorKind {
    /// The cause's reason on the wire.
    pub fn cause(self) -> &'static str {
        match self {
            FieldErrorKind::NotFound => "FieldValueNotFound",
            FieldErrorKind::Required => "FieldValueRequired",
            FieldErrorKind::Duplicate => "FieldValueDuplicate",
            FieldErrorKind::Invalid => "FieldValueInvalid",
            FieldErrorKind::NotSupported => "FieldValueNotSupported",
            FieldErrorKind::Forbidden => "FieldValueForbidden",
            FieldErrorKind::TooLong => "FieldValueTooLong",
            FieldErrorKind::TooShort => "FieldValueTooShort",
            FieldErrorKind::TooMany => "FieldValueTooMany",
            FieldErrorKind::TooFew => "FieldValueTooFew",
            FieldErrorKind::Internal => "InternalError",
            FieldErrorKind::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn label(self) -> &'static str {
        match self {
            FieldErrorKind::NotFound => "Not found",
            FieldErrorKind::Required => "Required value",
            FieldErrorKind::Duplicate => "Duplicate value",
            FieldErrorKind::Invalid | FieldErrorKind::TypeInvalid => "Invalid value",
            FieldErrorKind::NotSupported => "Unsupported value",
            FieldErrorKind::Forbidden => "Forbidden",
            FieldErrorKind::TooLong => "Too long",
            FieldErrorKind::TooShort => "Too short",
            FieldErrorKind::TooMany => "Too many",
            FieldErrorKind::TooFew => "Too few",
            FieldErrorKind::Internal => "Internal error",
        }
    }

    fn shows_value(self) -> bool {
        !matches!(
            self,
            FieldErrorKind::Required
                | FieldErrorKind::Forbidden
                | FieldErrorKind::TooLong
                | FieldErrorKind::TooShort
                | FieldErrorKind::Internal
        )
    }
}

/// One thing wrong with one field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    pub kind: FieldErrorKind,
    /// The printed path.
    pub field: String,
    /// Shown by the kinds that show values; `None` leaves it out.
    pub value: Option<Value>,
    pub detail: String,
}

impl FieldError {
    fn make(
        kind: FieldErrorKind,
        path: &impl Display,
        value: Option<Value>,
        detail: impl Into<String>,
    ) -> Self {
        FieldError { kind, field: path.to_string(), value, detail: detail.into() }
    }

    /// The value is missing or empty.
    pub fn required(path: &impl Display, detail: impl Into<String>) -> Self {
        Self::make(FieldErrorKind::Required, path, None, detail)
    }

    /// The value is malformed or out of bounds.
    pub fn invalid(path: &impl Display, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::make(FieldErrorKind::Invalid, path, Some(value.into()), detail)
    }

    /// The value is not one of an enumeration; `valid` is printed in the given order.
    pub fn not_supported<S: AsRef<str>>(path: &impl Display, value: impl Into<Value>, valid: &[S]) -> Self {
        let quoted: Vec<String> = valid.iter().map(|v| gotext::quote(v.as_ref())).collect();
        let detail = if quoted.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", quoted.join(", "))
        };
        Self::make(FieldErrorKind::NotSupported, path, Some(value.into()), detail)
    }

    /// The value must be unique and is not.
    pub fn duplicate(path: &impl Display, value: impl Into<Value>) -> Self {
        Self::make(FieldErrorKind::Duplicate, path, Some(value.into()), "")
    }

    /// The value is well formed but not allowed here.
    pub fn forbidden(path: &impl Display, detail: impl Into<String>) -> Self {
        Self::make(FieldErrorKind::Forbidden, path, None, detail)
    }

    /// The thing the value names does not exist.
    pub fn not_found(path: &impl Display, value: impl Into<Value>) -> Self {
        Self::make(FieldErrorKind::NotFound, path, Some(value.into()), "")
    }

    /// More than `max_bytes` bytes. The value is taken for symmetry and never printed.
    pub fn too_long(path: &impl Display, _value: impl Into<Value>, max_bytes: usize) -> Self {
        let unit = if max_bytes == 1 { "byte" } else { "bytes" };
        Self::make(FieldErrorKind::TooLong, path, None, format!("may not be more than {max_bytes} {unit}"))
    }

    /// More than `max_chars` characters.
    pub fn too_long_characters(path: &impl Display, max_chars: usize) -> Self {
        let unit = if max_chars == 1 { "character" } else { "characters" };
        Self::make(FieldErrorKind::TooLong, path, None, format!("may not be more than {max_chars} {unit}"))
    }

    /// Fewer than `min_chars` characters.
    pub fn too_short(path: &impl Display, min_chars: usize) -> Self {
        let unit = if min_chars == 1 { "character" } else { "characters" };
        Self::make(FieldErrorKind::TooShort, path, None, format!("must be at least {min_chars} {unit}"))
    }

    /// More than `max` items.
    pub fn too_many(path: &impl Display, actual: usize, max: usize) -> Self {
        let unit = if max == 1 { "item" } else { "items" };
        let detail = format!("must have at most {max} {unit}");
        Self::make(FieldErrorKind::TooMany, path, Some(actual.into()), detail)
    }

    /// Fewer than `min` items.
    pub fn too_few(path: &impl Display, actual: usize, min: usize) -> Self {
        let unit = if min == 1 { "item" } else { "items" };
        let detail = format!("must have at least {min} {unit}");
        Self::make(FieldErrorKind::TooFew, path, Some(actual.into()), detail)
    }

    /// The value has the wrong JSON type.
    pub fn type_invalid(path: &impl Display, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::make(FieldErrorKind::TypeInvalid, path, Some(value.into()), detail)
    }

    /// The server's own failure while it checked the field.
    pub fn internal(path: &impl Display, detail: impl Into<String>) -> Self {
        Self::make(FieldErrorKind::Internal, path, None, detail)
    }

    /// The text without the field's path; it is also the cause's message.
    pub fn body(&self) -> String {
        let mut out = self.kind.label().to_owned();
        if let (true, Some(value)) = (self.kind.shows_value(), &self.value) {
            out.push_str(": ");
            match value {
                Value::String(s) => out.push_str(&gotext::quote(s)),
                other => out.push_str(&gotext::json(other)),
            }
        }
        if !self.detail.is_empty() {
            out.push_str(": ");
            out.push_str(&self.detail);
        }
        out
    }

    /// The cause inside a 422's details.
    pub fn to_cause(&self) -> Cause {
        Cause { reason: self.kind.cause().to_owned(), message: self.body(), field: self.field.clone() }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

impl std::error::Error for FieldError {}

/// The errors as one text: alone, or `[a, b]` without repetitions; `None` when there are none.
pub fn aggregate(errors: &[FieldError]) -> Option<String> {
    aggregate_texts(errors.iter().map(ToString::to_string))
}

/// As [`aggregate`], for texts.
pub fn aggregate_texts(texts: impl IntoIterator<Item = String>) -> Option<String> {
    let mut seen: Vec<String> = Vec::new();
    for text in texts {
        if !seen.contains(&text) {
            seen.push(text);
        }
    }
    match seen.len() {
        0 => None,
        1 => seen.pop(),
        _ => Some(format!("[{}]", seen.join(", "))),
    }
}
