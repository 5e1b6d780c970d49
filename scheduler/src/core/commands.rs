//! What the core says to the world: commands for the API, and the questions it asks extenders.
//!
//! Owns these types only; they hold no references into the core.

use std::sync::Arc;

use super::spec::{PodInput, TimeMs};
use super::volumes::VolumePlan;

/// Why a pod is not scheduled, as its condition says it.
pub const REASON_UNSCHEDULABLE: &str = "Unschedulable";
/// The reason where the attempt itself failed.
pub const REASON_ERROR: &str = "SchedulerError";

/// What a nomination becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nominate {
    /// Stays as it is.
    Keep,
    /// Becomes this node; empty withdraws it.
    Set(Box<str>),
}

/// A pod by name, for API calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    pub uid: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// The generation that was looked at; zero where it does not matter.
    pub generation: i64,
}

/// What the shell is to do.
#[derive(Debug)]
pub enum Command {
    /// Bind the pod, after its volumes. The answer is [`Scheduler::bound`] or [`Scheduler::bind_failed`].
    Bind {
        pod: PodRef,
        node: Arc<str>,
        volumes: Option<VolumePlan>,
        attempts: u32,
        first_attempt: TimeMs,
        profile: usize,
    },
    /// Say why the pod waits: event, and the condition if it is new.
    Report {
        pod: PodRef,
        reason: &'static str,
        message: String,
        nominate: Nominate,
        condition_is_new: bool,
        profile: usize,
    },
    /// Evict the victims. The answer is [`Scheduler::preemption_done`].
    Preempt { preemptor: PodRef, node: Arc<str>, victims: Vec<PodRef>, profile: usize },
    /// Withdraw the nomination of pods that yield to a more important one.
    Yield { pods: Vec<PodRef> },
    /// The pod is being deleted and is left alone.
    SkipDeleting { pod: PodRef, profile: usize },
}

impl Command {
    /// Index of the profile whose decision this is, where it is one.
    pub fn profile(&self) -> Option<usize> {
        match self {
            Command::Bind { profile, .. }
            | Command::Report { profile, .. }
            | Command::Preempt { profile, .. }
            | Command::SkipDeleting { profile, .. } => Some(*profile),
            Command::Yield { .. } => None,
        }
    }
}

/// Extenders, called in the middle of a cycle.
pub trait Extenders {
    /// Whether any extender wants to see the pod.
    fn interested(&self, pod: &PodInput) -> bool;
    /// Filters and scores feasible nodes; nodes that are missing in the answer are refused.
    fn rate(&mut self, pod: &PodRef, nodes: &[Arc<str>]) -> Result<ExtenderAnswer, String>;
    /// Lets the extenders that care narrow preemption: node and victims' UIDs in, the same out.
    fn preempt(
        &mut self,
        pod: &PodRef,
        candidates: Vec<ExtenderVictims>,
    ) -> Result<Vec<ExtenderVictims>, String>;
}

/// What the extenders said.
#[derive(Clone, Debug, Default)]
pub struct ExtenderAnswer {
    /// Nodes that are left, with the score to add.
    pub nodes: Vec<(Arc<str>, i64)>,
    /// Refused nodes: name, message, whether preemption cannot help.
    pub refused: Vec<(Arc<str>, String, bool)>,
}

/// A candidate of preemption as extenders see it.
#[derive(Clone, Debug, PartialEq)]
pub struct ExtenderVictims {
    pub node: Arc<str>,
    pub victims: Vec<PodRef>,
    pub violations: usize,
}
