//! A member as clients reach it: every service, and certificates that change.

mod addresses;
mod as_etcd;
mod gateway;
mod listening;
mod pages;
#[path = "../common/ports.rs"]
mod ports;
mod rules;
mod saving;
mod services;
mod sockets;
mod tls;
mod users;
mod watching;
