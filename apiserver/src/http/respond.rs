//! Answers: Status errors, objects, warnings.

use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, VARY};
use http::{HeaderValue, Response, StatusCode};
use machinery::status::StatusError;
use serde_json::Value;

use super::body::{Body, GZIP_MIN_LEN, Pieces, full};
use super::encode;
use super::negotiate::Encoding;
use crate::registry::read::CONTINUE_CAUSE;

/// Warnings longer than this together are cut (upstream's header budget).
const WARNINGS_BYTES_MAX: usize = 4096;

/// The Status object of a failure, in the encoding of the request where that is known.
pub fn error(error: &StatusError, encoding: Encoding) -> Response<Body> {
    if error.is_unknown_path() {
        // Upstream's router knows nothing of Status objects; clients make one of this.
        let mut response = text(StatusCode::NOT_FOUND, "404 page not found\n");
        no_store(&mut response);
        return response;
    }
    let mut status = error.to_value();
    move_continue(&mut status);
    let (encoding, bytes) = match encode::value(&status, encoding) {
        Ok(bytes) => (encoding, bytes),
        Err(_) => (Encoding::Json, status.to_string().into()),
    };
    let code = StatusCode::from_u16(error.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Response::new(full(bytes));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(encoding.media_type()));
    if error.retry_after_secs() > 0 {
        response.headers_mut().insert(RETRY_AFTER, error.retry_after_secs().into());
    }
    no_store(&mut response);
    response
}

/// A continue token travels inside the error as a cause and belongs into the Status' metadata.
fn move_continue(status: &mut Value) {
    let causes = status.pointer_mut("/details/causes").and_then(Value::as_array_mut);
    let Some(causes) = causes else { return };
    let Some(index) = causes.iter().position(|c| c["reason"] == CONTINUE_CAUSE) else { return };
    let cause = causes.remove(index);
    if causes.is_empty() {
        status.as_object_mut().map(|s| s.remove("details"));
    }
    status["metadata"]["continue"] = cause["message"].clone();
}

/// An answer of encoded pieces.
pub fn pieces(code: StatusCode, pieces: Pieces, encoding: Encoding, accepts_gzip: bool) -> Response<Body> {
    let gzip = accepts_gzip && pieces.len() > GZIP_MIN_LEN;
    let len = pieces.len();
    let mut response = Response::new(pieces.into_body(gzip));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(encoding.media_type()));
    if gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    } else {
        headers.insert(CONTENT_LENGTH, len.into());
    }
    no_store(&mut response);
    response
}

/// A JSON document.
pub fn json(code: StatusCode, value: &Value) -> Response<Body> {
    let mut pieces_ = Pieces::default();
    pieces_.push(value.to_string());
    pieces(code, pieces_, Encoding::Json, false)
}

/// Plain text.
pub fn text(code: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(full(text.into()));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    no_store(&mut response);
    response
}

fn no_store(response: &mut Response<Body>) {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
}

/// Adds `Warning` headers, each once.
pub fn warnings(response: &mut Response<Body>, warnings: &[String]) {
    let mut seen: Vec<&String> = Vec::new();
    let mut budget = WARNINGS_BYTES_MAX;
    for warning in warnings {
        if seen.contains(&warning) || warning.len() > budget {
            continue;
        }
        seen.push(warning);
        budget -= warning.len();
        let clean: String = warning.chars().filter(|c| !c.is_control()).collect();
        let quoted = clean.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append("warning", value);
        }
    }
}
