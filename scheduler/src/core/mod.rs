//! The pure core: cluster and pod in, decision and reasons out. No IO, clock or randomness of its own.

pub mod cluster;
pub mod decide;
pub mod evaluate;
pub mod events;
pub mod explain;
pub mod extend;
pub mod filter;
pub mod groups;
pub mod hints;
pub mod intake;
pub mod labels;
pub mod nodes;
pub mod preempt;
pub mod profile;
pub mod queue;
pub mod scheduler;
pub mod score;
pub mod series;
pub mod spec;
pub mod status;
pub mod storage;
pub mod template;
pub mod templates;
pub mod terms;
pub mod topology;
pub mod volumes;
