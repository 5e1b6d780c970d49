//! The types openraft is instantiated with.

use std::fmt;

use bytes::Bytes;
use openraft::alias;
use proto::raftpb::Answer;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The payload of one log entry: an encoded `raftpb::Batch`, requests of many clients.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The encoded batch.
    pub wire: Bytes,
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.wire.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What applying one entry gave, one result a command. Never leaves this process.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Answers {
    /// In the order of the batch.
    #[serde(skip)]
    pub results: Vec<Result<Answer, Error>>,
}

/// A member as every member knows it; stands in the replicated membership.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberNode {
    /// Empty until the member has started for the first time.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it has started.
    pub client_urls: Vec<String>,
    /// It was added as a voter and becomes one as soon as it has caught up. Until then it does not count
    /// towards quorum, so that adding a member that never starts cannot stop the others.
    pub becomes_voter: bool,
}

openraft::declare_raft_types!(
    /// openraft as this store uses it.
    pub TypeConfig:
        D = Proposal,
        R = Answers,
        Node = MemberNode,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
);

/// A member's identity.
pub type MemberId = u64;
/// A position in the log.
pub type LogId = alias::LogIdOf<TypeConfig>;
/// A vote, cast or won.
pub type Vote = alias::VoteOf<TypeConfig>;
/// A log entry.
pub type Entry = alias::EntryOf<TypeConfig>;
/// A membership with the log position it stands at.
pub type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
/// What a snapshot covers.
pub type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
/// The consensus core over our state machine.
pub type Raft = openraft::Raft<TypeConfig, super::state_machine::StateMachine>;
