//! Device plugins (v1beta1): resources such as GPUs that a plugin counts, gives out and prepares, and the pod resources
//! API (v1) that tells monitors who has which. Dynamic resource allocation is not served.

pub mod ledger;

pub mod manager;

pub mod server;
