//! Commands that change users and roles. The change is made on a copy and kept only when it succeeds.

use proto::raftpb::{Answer, command::Op};

use super::{Machine, apply::revision_answer, records::WriteRecords};
use crate::{error::Error, mvcc::pending::Pending};

impl Machine {
    pub(super) fn auth_command(&mut self, pending: &mut Pending, op: Op) -> Result<Answer, Error> {
        let mut auth = self.auth.clone();
        match &op {
            Op::AuthEnable(_) => auth.enable()?,
            Op::AuthDisable(_) => auth.disable(),
            Op::UserAdd(request) => auth.user_add(request)?,
            Op::UserDelete(request) => auth.user_delete(&request.name)?,
            Op::UserChangePassword(request) => auth.user_change_password(request)?,
            Op::UserGrantRole(request) => auth.user_grant_role(&request.user, &request.role)?,
            Op::UserRevokeRole(request) => auth.user_revoke_role(&request.name, &request.role)?,
            Op::RoleAdd(request) => auth.role_add(&request.name)?,
            Op::RoleDelete(request) => auth.role_delete(&request.role)?,
            Op::RoleGrantPermission(request) => auth.role_grant_permission(request)?,
            Op::RoleRevokePermission(request) => auth.role_revoke_permission(request)?,
            // `execute` has handled every other command.
            _ => return Err(Error::KEY_NOT_FOUND),
        }
        self.auth = auth;
        self.auth_changed = true;
        pending.put_auth(&self.auth.to_record());
        match &op {
            Op::AuthDisable(_) => self.shared.tokens.forget(None),
            Op::UserDelete(request) => self.shared.tokens.forget(Some(&request.name)),
            Op::UserChangePassword(request) => self.shared.tokens.forget(Some(&request.name)),
            _ => {}
        }
        Ok(revision_answer(pending))
    }
}
