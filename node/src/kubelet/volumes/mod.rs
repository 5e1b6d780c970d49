//! A pod's volumes on this machine: made before its containers start, kept current while they run, and gone
//! with nothing left behind when they end.
//!
//! Layout under the agent's root, the same as upstream's so that either can take over from the other:
//! `pods/<uid>/volumes/<plugin>/<name>`, `pods/<uid>/volume-subpaths/…`, `pods/<uid>/etc-hosts`,
//! `pods/<uid>/containers/<container>/…`.

pub mod layout;

pub mod payload;

pub mod atomic;

pub mod mounts;

pub mod host_path;

pub mod subpath;

pub mod fs_group;

pub mod source;

pub mod tokens;

mod trust;

pub mod setup;

pub mod container_mounts;

pub mod manager;

pub use manager::{VolumeError, Volumes};
