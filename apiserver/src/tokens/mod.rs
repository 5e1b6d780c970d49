//! Service account tokens: the keys that sign and verify them, their claims, the TokenRequest subresource and the
//! OIDC discovery documents.
//!
//! Invariants: only tokens whose issuer is ours are ever verified with our keys; a token bound to an object dies
//! with that object. Nothing here caches: [`crate::authn`] does.

pub mod claims;
pub mod discovery;
pub mod issue;
pub mod keys;

pub use claims::{Bindings, ServiceAccountClaims};
pub use issue::TokenIssuer;
pub use keys::{KeyError, SigningKey, VerifyingKey};
