//! The shell: everything that touches the API, clocks or sockets. Decisions are made in [`crate::core`].

pub mod api;
pub mod convert;
pub mod events;
pub mod execute;
pub mod extender;
pub mod kinds;
pub mod metrics;
pub mod reflector;
pub mod requests;
pub mod run;
pub mod server;
pub mod service;
pub mod tls;
pub mod translate;
pub mod wire;
