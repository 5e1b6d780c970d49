//! Lean views of the API objects that proxy, pod network and DNS read.
//!
//! A view keeps only the fields that decide something on this machine, so that a watch over 50,000 endpoints costs
//! megabytes and not hundreds of them. Views are immutable and shared by `Arc` between the three readers.
//! Conversion happens here once; nothing behind this module sees an API type.

mod key;
mod node;
mod pod;
mod policy;
mod selector;
mod service;
mod slice;

pub use key::{Family, Key, Protocol};
pub use node::NodeView;
pub use pod::{NamedPort, NamespaceView, PodView};
pub use policy::{IpBlock, Peer, PolicyView, PortMatch, PortRule, Rule};
pub use selector::Selector;
pub use service::{PortView, ServiceKind, ServiceView};
pub use slice::{EndpointView, SlicePort, SliceView};
