//! The way between members, and from clients to members, where it is not TCP: the simulation passes its own in.
//!
//! Everything above it, gRPC's messages and streams included, is the same as over sockets.

use std::fmt::Debug;

use tonic::body::Body;
use tower::{BoxError, util::BoxCloneSyncService};

/// What answers, or carries, HTTP requests.
pub type Transport = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, BoxError>;

/// Replaces sockets. A member given one opens none.
pub trait Network: Debug + Send + Sync {
    /// The way to whatever serves `url`, now or later; must not wait.
    fn dial(&self, url: &str) -> Transport;
    /// Serves `url` from now on, until the member ends.
    fn serve(&self, url: &str, service: Transport);
}
