//! Members of one cluster in one process: elections, laggards, membership, damage.

mod cluster;
mod damage;
mod full_disk;
mod harness;
mod leases;
#[path = "../common/ports.rs"]
mod ports;
mod proxy;
mod resume;
