//! Users, roles, permissions and tokens.
//!
//! The users and roles are replicated state and change only through the log; `AuthState` is a pure value that
//! is copied, changed, checked and swapped. Tokens are how a connection says who it is. Does not know gRPC.

mod permission;
mod state;
mod token;

pub use permission::Access;
pub use state::AuthState;
pub use token::{Identity, TokenProvider, TokenSpec};
