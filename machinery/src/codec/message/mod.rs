//! Messages of built-in types to and from JSON values.

mod decode;
mod encode;

pub use decode::decode_message;
pub use encode::encode_message;
