//! Faults, workloads, checkers and reports: runs that can convict the cluster, and do convict a broken one.
//!
//! A run is a function of its seed: [`plan`] turns the seed into faults and their times; [`drive`] lets [`workloads`]
//! play against a cluster meanwhile, by [`clients`] in processes of their own, and hands the [`history`] to the
//! [`checkers`]; [`report`] says what came of it. The cluster is real ([`run`], [`cluster`], [`faults`]: processes, namespaces, disks) or simulated ([`sim`]: one thread, one
//! seed, the same members). [`controls`] plants known bugs that must be caught; [`gaps`] measures how long clients wait.
//! Nothing here is needed by the product, and nothing here touches an address it did not make.

pub mod checkers;
pub mod clients;
pub mod clock;
pub mod cluster;
pub mod controls;
pub mod drive;
pub mod faults;
pub mod gaps;
pub mod history;
pub mod plan;
pub mod report;
pub mod run;
pub mod sim;
pub mod trial;
pub mod workloads;
