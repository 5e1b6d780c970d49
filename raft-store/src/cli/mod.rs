//! The command line: etcd's flags, environment and configuration file.

pub mod duration;
