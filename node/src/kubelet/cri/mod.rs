//! The container runtime: a client for any CRI v1 server, what it reports as [`super::pod::Observed`], and the
//! pure builders of the configurations it is given.

pub mod names;

pub mod client;

pub mod observe;

pub mod resources;

pub mod security;

pub mod sandbox_config;

pub mod container_config;

pub use client::{CriError, Runtime};
