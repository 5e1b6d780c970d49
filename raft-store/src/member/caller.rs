//! On whose behalf a request is made.

use proto::raftpb::{Command, command::Op};

/// A client, or the process itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// The user; empty when none was given.
    pub user: String,
    /// The auth revision the user was identified at.
    pub auth_revision: u64,
    trusted: bool,
}

impl Caller {
    /// The process that embeds the member, or the member itself: everything is allowed.
    pub fn trusted() -> Self {
        Self { trusted: true, ..Self::default() }
    }

    /// The member itself, on the strength of the users and roles of this auth revision.
    pub fn at(auth_revision: u64) -> Self {
        Self { auth_revision, ..Self::trusted() }
    }

    /// A client that proved to be this user.
    pub fn user(user: String, auth_revision: u64) -> Self {
        Self { user, auth_revision, trusted: false }
    }

    /// A client without credentials.
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// Whether no permission is to be checked.
    pub fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// The command that does `op` for this caller.
    pub fn command(&self, op: Op) -> Command {
        Command {
            user: self.user.clone(),
            auth_revision: self.auth_revision,
            trusted: self.trusted,
            op: Some(op),
        }
    }
}
