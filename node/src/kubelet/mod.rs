//! The kubelet: pods of the API (and of files) as containers of a CRI runtime.
//!
//! [`run::start`] runs one in this process.

pub mod config;

pub mod configz;

pub mod quantity;

pub mod pod;

pub mod fields;

pub mod env;

pub mod env_file;

pub mod names_in_pod;

pub mod cri;

pub mod tls;

pub mod cluster;

pub mod csi;

pub mod devices;

pub mod volumes;

pub mod images;

pub mod probes;

pub mod logs;

pub mod cgroup_limits;

pub mod cgroups;

pub mod runtime_class;

pub mod metrics;

pub mod stats;

pub mod eviction;

pub mod worker;

pub mod node;

pub mod server;

pub mod certificates;

pub mod static_pods;

pub mod run;
