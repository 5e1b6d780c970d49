//! The Node object of this machine: registration, status and lease.

pub mod facts;

pub mod status;

pub mod register;

pub mod lease;

pub mod reporter;
