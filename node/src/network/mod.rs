//! The pod network: addresses for pods, and routes to the pods of other nodes.
//!
//! Pods get their addresses from the standard CNI plugins (bridge, host-local), which read the configuration written
//! here ([`cni`]). Other nodes' pod ranges are routed directly where the nodes share a segment, and over VXLAN with
//! fixed forwarding entries elsewhere ([`plan`]); nothing is learnt from traffic, everything follows from the Node
//! objects. When the user installs a CNI plugin, everything of this module is taken back.
//!
//! The modules [`view`], [`feed`] and [`nft`] are shared with the service proxy and DNS.

pub mod cni;
mod diff;
pub mod feed;
pub mod host_ports;
mod kernel;
pub mod masquerade;
pub mod nft;
mod options;
pub mod plan;
mod shell;
mod sysctl;
pub mod view;

pub use kernel::OVERLAY;
pub use options::{NEEDS, Options};
pub use shell::run;
