//! Who sends a request: the chain of authenticators.
//!
//! Order as upstream: front-proxy headers, client certificate, bearer tokens (static file, service account,
//! bootstrap, OpenID Connect), then anonymous. A step says "not mine", "found" or "refused"; a refusal is remembered, later steps
//! may still find somebody, and only when none does it becomes 401. Anonymous is reached only when nobody refused.

pub mod bearer;
pub mod bootstrap_token;
pub mod certificate;
pub mod chain;
pub mod front_proxy;
pub mod oidc;
pub mod service_account;
pub mod static_token;
pub mod token_cache;
pub mod version_one;

pub use bearer::{BearerTokens, TokenStep};
pub use certificate::ClientCertificates;
pub use chain::{Anonymous, Chain, Outcome, Step};
pub use front_proxy::FrontProxy;

/// In every authenticated user.
pub const AUTHENTICATED_GROUP: &str = "system:authenticated";
/// In the anonymous user.
pub const UNAUTHENTICATED_GROUP: &str = "system:unauthenticated";
/// The anonymous user.
pub const ANONYMOUS: &str = "system:anonymous";
