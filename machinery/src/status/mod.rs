//! `metav1.Status` as an error: reasons, codes and the wording that clients and tests compare.
//!
//! Owns the constructors for every failure the API can answer with. It does not log and does not know HTTP
//! beyond the numeric code. [`field`] holds field-level errors, [`path`] the field paths inside them.

pub mod field;
pub mod path;

mod make;

use std::fmt;

use serde_json::{Map, Value, json};

pub use field::{FieldError, FieldErrorKind, aggregate};
pub use path::Path;

/// Machine-readable reason of a failure (`metav1.StatusReason`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    Unknown,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    ServerTimeout,
    StoreReadError,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    Expired,
    ServiceUnavailable,
}

impl Reason {
    /// The text on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Unknown => "",
            Reason::Unauthorized => "Unauthorized",
            Reason::Forbidden => "Forbidden",
            Reason::NotFound => "NotFound",
            Reason::AlreadyExists => "AlreadyExists",
            Reason::Conflict => "Conflict",
            Reason::Gone => "Gone",
            Reason::Invalid => "Invalid",
            Reason::ServerTimeout => "ServerTimeout",
            Reason::StoreReadError => "StorageReadError",
            Reason::Timeout => "Timeout",
            Reason::TooManyRequests => "TooManyRequests",
            Reason::BadRequest => "BadRequest",
            Reason::MethodNotAllowed => "MethodNotAllowed",
            Reason::NotAcceptable => "NotAcceptable",
            Reason::RequestEntityTooLarge => "RequestEntityTooLarge",
            Reason::UnsupportedMediaType => "UnsupportedMediaType",
            Reason::InternalError => "InternalError",
            Reason::Expired => "Expired",
            Reason::ServiceUnavailable => "ServiceUnavailable",
        }
    }
}

/// One cause inside the details (`metav1.StatusCause`). An empty `reason` or `field` is left out on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    pub reason: String,
    pub message: String,
    pub field: String,
}

/// `metav1.StatusDetails`; empty members are left out on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    pub name: String,
    pub group: String,
    /// The resource, or the kind for [`Reason::Invalid`].
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Cause>,
    pub retry_after_secs: u32,
}

/// A failed request as the API reports it. Small on purpose: it travels in every `Result` of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusError(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    code: u16,
    reason: Reason,
    message: String,
    details: Option<Details>,
}

impl StatusError {
    /// A status from its parts, for failures that have no constructor of their own.
    pub fn new(code: u16, reason: Reason, message: impl Into<String>, details: Option<Details>) -> Self {
        StatusError(Box::new(Inner { code, reason, message: message.into(), details }))
    }

    /// The HTTP status code.
    pub fn code(&self) -> u16 {
        self.0.code
    }

    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn details(&self) -> Option<&Details> {
        self.0.details.as_ref()
    }

    /// Whether the failure has this reason.
    pub fn is(&self, reason: Reason) -> bool {
        self.0.reason == reason
    }

    /// The `Retry-After` header's value in seconds; zero when there is none.
    pub fn retry_after_secs(&self) -> u32 {
        self.details().map_or(0, |d| d.retry_after_secs)
    }

    /// The same failure with another message.
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.0.message = message.into();
        self
    }

    /// Sets the details' uid, which says which incarnation of an object is meant.
    pub fn with_uid(mut self, uid: impl Into<String>) -> Self {
        self.0.details.get_or_insert_default().uid = uid.into();
        self
    }

    /// Adds one cause.
    pub fn with_cause(mut self, cause: Cause) -> Self {
        self.0.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// Asks the client to wait before it tries again.
    pub fn with_retry_after(mut self, secs: u32) -> Self {
        self.0.details.get_or_insert_default().retry_after_secs = secs;
        self
    }

    /// The `v1 Status` object of the answer.
    pub fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "code": self.0.code,
        });
        put(&mut status, "message", &self.0.message);
        put(&mut status, "reason", self.0.reason.as_str());
        if let Some(details) = &self.0.details {
            status["details"] = details.to_value();
        }
        status
    }

    /// Reads a `Status` object back, as answered by another server. Unknown reasons become [`Reason::Unknown`].
    pub fn from_value(status: &Value) -> Self {
        let text = |key: &str| status.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let code =
            status.get("code").and_then(Value::as_u64).and_then(|c| u16::try_from(c).ok()).unwrap_or(500);
        let details = status.get("details").map(Details::from_value);
        StatusError::new(code, reason_of(&text("reason")), text("message"), details)
    }
}

/// Every reason the wire can carry, to read them back.
const REASONS: [Reason; 19] = [
    Reason::Unauthorized,
    Reason::Forbidden,
    Reason::NotFound,
    Reason::AlreadyExists,
    Reason::Conflict,
    Reason::Gone,
    Reason::Invalid,
    Reason::ServerTimeout,
    Reason::StoreReadError,
    Reason::Timeout,
    Reason::TooManyRequests,
    Reason::BadRequest,
    Reason::MethodNotAllowed,
    Reason::NotAcceptable,
    Reason::RequestEntityTooLarge,
    Reason::UnsupportedMediaType,
    Reason::InternalError,
    Reason::Expired,
    Reason::ServiceUnavailable,
];

fn reason_of(text: &str) -> Reason {
    REASONS.into_iter().find(|r| r.as_str() == text).unwrap_or(Reason::Unknown)
}

impl Details {
    fn to_value(&self) -> Value {
        let mut out = Value::Object(Map::new());
        put(&mut out, "name", &self.name);
        put(&mut out, "group", &self.group);
        put(&mut out, "kind", &self.kind);
        put(&mut out, "uid", &self.uid);
        if !self.causes.is_empty() {
            out["causes"] = self.causes.iter().map(Cause::to_value).collect();
        }
        if self.retry_after_secs != 0 {
            out["retryAfterSeconds"] = json!(self.retry_after_secs);
        }
        out
    }

    fn from_value(value: &Value) -> Self {
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let causes = value.get("causes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        Details {
            name: text("name"),
            group: text("group"),
            kind: text("kind"),
            uid: text("uid"),
            causes: causes.iter().map(Cause::from_value).collect(),
            retry_after_secs: value
                .get("retryAfterSeconds")
                .and_then(Value::as_u64)
                .and_then(|s| u32::try_from(s).ok())
                .unwrap_or(0),
        }
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut out = Value::Object(Map::new());
        put(&mut out, "reason", &self.reason);
        put(&mut out, "message", &self.message);
        put(&mut out, "field", &self.field);
        out
    }

    fn from_value(value: &Value) -> Self {
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Cause { reason: text("reason"), message: text("message"), field: text("field") }
    }
}

fn put(target: &mut Value, key: &str, text: &str) {
    if !text.is_empty() {
        target[key] = Value::String(text.to_owned());
    }
}

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for StatusError {}

#[cfg(test)]
mod tests;
