//! One nftables table: what it should hold, what changed since it was last applied, and how that is applied.
//!
//! - [`Fragment`]: the objects that one owner (a service, a policy class, the fixed chains) wants.
//! - [`Ledger`]: all fragments; answers with the smallest [`Changes`] since the last question.
//! - [`script`]: changes to text for `nft -f -`. Everything of one script is one kernel transaction.
//! - [`Nft`]: the shell that runs the script.
//!
//! The first three are pure. Sets never change their declaration under one name: whoever needs another declaration
//! uses another name.

mod apply;
mod fragment;
mod ledger;
pub mod script;

pub use apply::{ApplyError, Nft};
pub use fragment::{Body, Chain, Fragment, Hook, Set, Slot};
pub use ledger::{Changes, Ledger};
