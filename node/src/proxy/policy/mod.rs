//! NetworkPolicy for the pods of this machine.
//!
//! Every isolated local pod stands, by address, in one or both verdict maps; the map jumps to a chain that holds the
//! rules of all policies that select the pod, one after the other, and ends in `drop`. A rule that matches returns to
//! the base chain, where the other direction is checked. Pods under the same rules share a chain, because the chain is
//! named after its content. The addresses of peers stand in sets that belong to the policy, so a pod that appears
//! somewhere in the cluster is one new element.
//!
//! Enforced on forwarded and bridged packets after service addresses were rewritten. Traffic between a pod and its own
//! machine is always allowed, as the API demands; established connections stay.

mod chain;
mod peers;
mod ranges;
mod state;

pub use state::{POLICY_CHAIN, PolicyOwner, PolicyState};
