//! The patch forms of the API on JSON values: JSON patch (RFC 6902), merge patch (RFC 7386) and strategic merge.
//!
//! Server-side apply is a module of its own. All functions take the document by value or reference and never leave
//! it half changed: on error the caller still has the original.

mod json_patch;
mod merge;
mod strategic;

use thiserror::Error;

use crate::status::{Details, FieldError, Reason, StatusError};

pub use json_patch::{OPERATIONS_MAX, json_patch};
pub use merge::merge_patch;
pub use strategic::strategic;

/// Why a patch does not apply. The same patch may apply to another version of the object.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PatchError {
    /// The patch itself is wrong.
    #[error("{0}")]
    Malformed(String),
    /// The patch is well formed and does not fit the object.
    #[error("{0}")]
    Unprocessable(String),
    /// The patch asks for something that upstream answers as its own failure.
    #[error("{0}")]
    Internal(String),
    /// The patched object would nest deeper than what can be read.
    #[error("{0}")]
    TooDeep(String),
    /// More work than one request may ask for.
    #[error("{0}")]
    TooLarge(String),
}

impl PatchError {
    /// The answer upstream gives; for patches that do not fit, its message is the same for all of them.
    pub fn to_status(&self) -> StatusError {
        match self {
            PatchError::Malformed(text) => StatusError::bad_request(text.clone()),
            PatchError::TooDeep(text) => {
                let error = FieldError::invalid(&"patch", "", text.clone());
                StatusError::invalid("", "", "", vec![error])
            }
            PatchError::Unprocessable(_) => {
                let message = "the server rejected our request due to an error in our request";
                StatusError::new(422, Reason::Invalid, message, Some(Details::default()))
            }
            PatchError::Internal(text) => StatusError::new(500, Reason::Unknown, text.clone(), None),
            PatchError::TooLarge(text) => StatusError::request_entity_too_large(text),
        }
    }
}
