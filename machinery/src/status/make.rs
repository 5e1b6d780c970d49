//! The constructors of [`StatusError`], one a failure the API knows, with upstream's wording.
//!
//! Source of codes and texts: apimachinery `api/errors`. `group` is empty for the core group.

use std::fmt::Display;

use super::{Cause, Details, FieldError, Reason, StatusError, aggregate};
use crate::gotext::quote;

/// What is said of paths that lead nowhere.
const UNKNOWN_PATH: &str = "the server could not find the requested resource";

/// `resource.group`, or `resource` alone in the core group.
fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

fn about(group: &str, kind: &str, name: &str) -> Option<Details> {
    Some(Details {
        group: group.to_owned(),
        kind: kind.to_owned(),
        name: name.to_owned(),
        ..Details::default()
    })
}

fn after(secs: u32) -> Option<Details> {
    Some(Details { retry_after_secs: secs, ..Details::default() })
}

impl StatusError {
    /// 404: the object does not exist.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {} not found", qualified(group, resource), quote(name));
        Self::new(404, Reason::NotFound, message, about(group, resource, name))
    }

    /// 404 for paths that name no resource at all.
    pub fn not_found_path() -> Self {
        Self::new(404, Reason::NotFound, UNKNOWN_PATH, Some(Details::default()))
    }

    /// Whether it is [`StatusError::not_found_path`]: no handler, and not a missing object.
    pub fn is_unknown_path(&self) -> bool {
        self.code() == 404 && self.message() == UNKNOWN_PATH
    }

    /// 409: an object of that name exists.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {} already exists", qualified(group, resource), quote(name));
        Self::new(409, Reason::AlreadyExists, message, about(group, resource, name))
    }

    /// 409: every name made from `generateName` was taken.
    pub fn generate_name_conflict(group: &str, resource: &str, name: &str, retry_secs: u32) -> Self {
        let message = format!(
            "{} {} already exists, the server was not able to generate a unique name for the object",
            qualified(group, resource),
            quote(name)
        );
        Self::new(409, Reason::AlreadyExists, message, about(group, resource, name))
            .with_retry_after(retry_secs)
    }

    /// 401; an empty message becomes `not authorized`. The server itself answers `Unauthorized`.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        let message = message.into();
        let message = if message.is_empty() { "not authorized".to_owned() } else { message };
        Self::new(401, Reason::Unauthorized, message, None)
    }

    /// 403; `why` follows the colon. An empty resource or name is left out of the sentence.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: impl Display) -> Self {
        let message = if resource.is_empty() && group.is_empty() {
            format!("forbidden: {why}")
        } else if name.is_empty() {
            format!("{} is forbidden: {why}", qualified(group, resource))
        } else {
            format!("{} {} is forbidden: {why}", qualified(group, resource), quote(name))
        };
        Self::new(403, Reason::Forbidden, message, about(group, resource, name))
    }

    /// 409: the write cannot be done on the object's present state.
    pub fn conflict(group: &str, resource: &str, name: &str, why: impl Display) -> Self {
        let message =
            format!("Operation cannot be fulfilled on {} {}: {why}", qualified(group, resource), quote(name));
        Self::new(409, Reason::Conflict, message, about(group, resource, name))
    }

    /// 409 for an optimistic write whose resourceVersion is not the stored one.
    pub fn conflict_modified(group: &str, resource: &str, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, resource, name, why)
    }

    /// 409 of server-side apply; one cause a field that another manager owns.
    pub fn apply_conflict(causes: Vec<Cause>, message: impl Into<String>) -> Self {
        Self::new(409, Reason::Conflict, message, Some(Details { causes, ..Details::default() }))
    }

    /// 410 without hope that the same request succeeds later.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, Reason::Gone, message, None)
    }

    /// 410: the resourceVersion or continue token is too old; the client lists again.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, Reason::Expired, message, None)
    }

    /// 422 with one cause a field error. `kind` is the object's kind, not its resource.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: Vec<FieldError>) -> Self {
        let mut message = format!("{} {} is invalid", qualified(group, kind), quote(name));
        if let Some(text) = aggregate(&errors) {
            message.push_str(": ");
            message.push_str(&text);
        }
        let causes = errors.iter().map(FieldError::to_cause).collect();
        let details = Details { causes, ..about(group, kind, name).unwrap_or_default() };
        Self::new(422, Reason::Invalid, message, Some(details))
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, Reason::BadRequest, message, None)
    }

    /// 429 with the time after which the client may try again.
    pub fn too_many_requests(message: impl Into<String>, retry_secs: u32) -> Self {
        Self::new(429, Reason::TooManyRequests, message, after(retry_secs))
    }

    /// 503.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(503, Reason::ServiceUnavailable, message, None)
    }

    /// 405; `action` is the verb (`create`, `patch` …).
    pub fn method_not_supported(group: &str, resource: &str, action: &str) -> Self {
        let kind = qualified(group, resource);
        let message = format!("{action} is not supported on resources of kind {}", quote(&kind));
        Self::new(405, Reason::MethodNotAllowed, message, about(group, resource, ""))
    }

    /// 500 with reason ServerTimeout: the operation may be tried again.
    pub fn server_timeout(group: &str, resource: &str, operation: &str, retry_secs: u32) -> Self {
        let message = format!(
            "The {operation} operation against {} could not be completed at this time, please try again.",
            qualified(group, resource)
        );
        Self::new(500, Reason::ServerTimeout, message, about(group, resource, operation))
            .with_retry_after(retry_secs)
    }

    /// 500; the cause carries the bare text.
    pub fn internal(why: impl Display) -> Self {
        let why = why.to_string();
        let message = format!("Internal error occurred: {why}");
        let causes = vec![Cause { message: why, ..Cause::default() }];
        Self::new(500, Reason::InternalError, message, Some(Details { causes, ..Details::default() }))
    }

    /// 504: the request took longer than it may.
    pub fn timeout(message: impl Display, retry_secs: u32) -> Self {
        Self::new(504, Reason::Timeout, format!("Timeout: {message}"), after(retry_secs))
    }

    /// 504: the asked resourceVersion has not been reached by this server (yet).
    pub fn too_large_resource_version(asked: u64, current: u64, retry_secs: u32) -> Self {
        let message = format!("Too large resource version: {asked}, current: {current}");
        let cause = Cause {
            reason: "ResourceVersionTooLarge".to_owned(),
            message: "Too large resource version".to_owned(),
            field: String::new(),
        };
        Self::timeout(message, retry_secs).with_cause(cause)
    }

    /// 413.
    pub fn request_entity_too_large(message: impl Display) -> Self {
        let message = format!("Request entity too large: {message}");
        Self::new(413, Reason::RequestEntityTooLarge, message, None)
    }

    /// 406: nothing the client accepts can be produced.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(406, Reason::NotAcceptable, message, None)
    }

    /// The same for what is not a custom resource, in the words of the library that routes such requests there.
    pub fn not_acceptable_form(offered: &[&str]) -> Self {
        let message = format!("406: Not Acceptable\n\nAvailable representations: {}", offered.join(", "));
        Self::new(406, Reason::NotAcceptable, message, Some(Details::default()))
    }

    /// 406 for an object transformation (`as=Table;…`) that the media type cannot carry.
    pub fn not_acceptable_conversion(target: &str, accepted: &[&str]) -> Self {
        let list = accepted.join(", ");
        let message =
            format!("only the following media types are accepted when converting to {target}: {list}");
        Self::new(406, Reason::NotAcceptable, message, None)
    }

    /// 415: the body's content type is not known.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, Reason::UnsupportedMediaType, message, None)
    }
}
