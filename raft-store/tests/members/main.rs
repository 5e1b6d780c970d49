//! Members of one cluster in one process: elections, laggards, membership, damage.

mod cluster;
mod damage;
mod full_disk;
mod harness;
mod proxy;
mod resume;
