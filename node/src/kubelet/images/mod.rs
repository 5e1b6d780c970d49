//! Images of containers: pulled by policy with the right credentials, and removed when the disk runs full.

pub mod names;

pub mod access;

pub mod credentials;

pub mod providers;

pub mod manager;

pub mod gc;

pub use manager::{ImageError, Images, Pulled};
