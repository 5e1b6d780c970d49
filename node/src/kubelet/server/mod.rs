//! The kubelet's server: logs, exec, attach, port-forward, statistics and metrics for the API server and for
//! tools, over TLS, for those who prove who they are and may.

pub mod auth;

pub mod routes;

pub mod respond;

pub mod log_stream;

pub mod streaming;

pub mod tunnel;

pub mod channels;

pub mod node_logs;

pub mod tls;

pub mod listen;

pub mod pods;
