//! The node's certificates: the first one asked for with a bootstrap token, renewed before they end, used by
//! every connection opened after that.

pub mod files;

pub mod request;

mod identity;

mod keeper;

pub use keeper::{CertificateError, NodeClient, client, keep_current};

pub mod transport;
