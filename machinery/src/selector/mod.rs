//! Label and field selectors: parsing with upstream's errors, matching, and their canonical text.

mod fields;
mod labels;
mod lexer;

pub use fields::{FieldRequirement, Fields};
pub use labels::{Labels, Operator, Requirement};
