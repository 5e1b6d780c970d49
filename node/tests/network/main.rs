//! Proxy, policies, pod network and DNS with real sockets, in network namespaces that the tests make themselves.
//!
//! Without root or without the nft program the tests that need namespaces print `skipped: <reason>`; with `CI=true`
//! that is a failure.

mod differences;
mod dns_server;
mod dns_zone;
mod lab;
mod plugins;
mod policies;
mod proxy;
mod routes;
mod services;
