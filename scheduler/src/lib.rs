//! Which node runs which pod: kube-scheduler's decisions from columns and bitsets.

pub mod core;
