//! Container logs on disk: reading them for clients and rotating them.

pub mod format;

pub mod reader;

pub mod rotate;
