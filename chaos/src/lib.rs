//! Faults, workloads, checkers and reports: runs that can convict the cluster, and do convict a broken one.
//!
//! A run is a function of its seed: [`plan`] turns the seed into faults and their times, [`run`] starts real members,
//! drives them with [`workloads`] from outside while [`faults`] are inflicted, heals, and hands the [`history`] to the
//! [`checkers`]; [`report`] says what came of it. Nothing here is needed by the product, and nothing here touches an
//! address it did not make.

pub mod checkers;
pub mod cluster;
pub mod faults;
pub mod history;
pub mod plan;
pub mod report;
pub mod run;
pub mod workloads;
