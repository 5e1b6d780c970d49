//! What the machine, pods and containers use: collected on request, shown as summary JSON (which
//! `metrics.k8s.io` and eviction read), as `/metrics/resource` and as cAdvisor's names.

pub mod usage;

pub mod local;

pub mod disks;

pub mod rates;

pub mod summary;

pub mod resource;

pub mod counters;

pub mod network;

pub mod cadvisor;
