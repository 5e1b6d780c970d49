//! What each command does.

use proto::{
    etcdserverpb::{
        AlarmRequest, AlarmResponse, AlarmType, CompactionRequest, LeaseGrantRequest, LeaseGrantResponse,
        LeaseRevokeRequest, PutRequest, PutResponse, RequestOp, ResponseHeader, TxnRequest, TxnResponse,
        request_op::Request,
    },
    raftpb::{Answer, Command, answer::Kind, command::Op},
};

use super::{Machine, records::WriteRecords};
use crate::{
    auth::Access,
    error::Error,
    lease::LEASE_TTL_SECS_MAX,
    mvcc::{
        keys::{End, KeyRange},
        pending::Pending,
        source::Source,
        txn,
    },
    storage::Column,
};

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..Default::default() })
}

fn answer(kind: Kind) -> Answer {
    Answer { kind: Some(kind) }
}

impl Machine {
    /// Applies one command. The outer error is a failing disk, which stops the member; the inner one is the
    /// client's, and then nothing has changed.
    pub(super) fn apply_command(
        &mut self,
        pending: &mut Pending,
        command: Command,
    ) -> Result<Result<Answer, Error>, Error> {
        let result = self.check(pending, &command).and_then(|()| self.execute(pending, command));
        match result {
            Err(error) if is_fatal(&error) => Err(error),
            result => Ok(result),
        }
    }

    /// Users may have changed between the door and here, so permissions are checked where order is decided.
    fn check(&self, pending: &Pending, command: &Command) -> Result<(), Error> {
        let Some(op) = &command.op else { return Err(Error::KEY_NOT_FOUND) };
        if self.alarms.any(AlarmType::Corrupt) && touches_keys(op) {
            return Err(Error::CORRUPT);
        }
        if self.alarms.any(AlarmType::Nospace) && needs_space(op) {
            return Err(Error::NO_SPACE);
        }
        // A token that was earned with a password that is another one by now. Without a revision nothing is known of it.
        let is_old = (1..self.auth.revision()).contains(&command.auth_revision);
        if is_old && matches!(op, Op::TokenGrant(_)) {
            return Err(Error::AUTH_OLD_REVISION);
        }
        if !self.auth.enabled() || command.trusted {
            return Ok(());
        }
        let user = &command.user;
        if !user.is_empty() && command.auth_revision < self.auth.revision() {
            return Err(Error::AUTH_OLD_REVISION);
        }
        match op {
            Op::Put(put) => self.check_put(pending, user, put),
            Op::DeleteRange(op) => self.auth.check_write(user, &op.key, &op.range_end, op.prev_kv),
            Op::Txn(txn) => self.check_txn(pending, user, txn),
            Op::LeaseRevoke(revoke) => self.check_lease_keys(pending, user, revoke.id),
            Op::LeaseGrant(_) | Op::Compact(_) => Ok(()),
            _ => self.auth.check_admin(user),
        }
    }

    /// A put needs its key; tying it to a lease also needs every key the lease could delete.
    fn check_put(&self, pending: &Pending, user: &str, put: &PutRequest) -> Result<(), Error> {
        self.auth.check_write(user, &put.key, &Default::default(), put.prev_kv)?;
        if put.lease == 0 { Ok(()) } else { self.check_lease_keys(pending, user, put.lease) }
    }

    fn check_txn(&self, pending: &Pending, user: &str, txn: &TxnRequest) -> Result<(), Error> {
        self.auth.check_txn(user, txn)?;
        for op in txn.success.iter().chain(&txn.failure) {
            match &op.request {
                Some(Request::RequestPut(put)) => self.check_put(pending, user, put)?,
                Some(Request::RequestTxn(nested)) => self.check_txn(pending, user, nested)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn check_lease_keys(&self, pending: &Pending, user: &str, lease: i64) -> Result<(), Error> {
        for key in pending.keys_of_lease(lease)? {
            self.auth.check(user, &KeyRange { start: key, end: End::Point }, Access::Write)?;
        }
        Ok(())
    }

    fn execute(&mut self, pending: &mut Pending, command: Command) -> Result<Answer, Error> {
        let Some(op) = command.op else { return Err(Error::KEY_NOT_FOUND) };
        match op {
            Op::Put(put) => self.put(pending, put).map(|response| answer(Kind::Put(response))),
            Op::DeleteRange(delete) => {
                txn::delete_range(pending, &delete).map(|response| answer(Kind::DeleteRange(response)))
            }
            Op::Txn(txn) => self.txn(pending, txn).map(|response| answer(Kind::Txn(response))),
            Op::Compact(request) => compact(pending, &request),
            Op::LeaseGrant(grant) => self.lease_grant(pending, &grant),
            Op::LeaseRevoke(LeaseRevokeRequest { id }) => self.lease_revoke(pending, id),
            Op::LeaseExpire(expire) => {
                for id in expire.ids {
                    // One that was revoked meanwhile is no error.
                    match self.lease_revoke(pending, id) {
                        Err(error) if error != Error::LEASE_NOT_FOUND => return Err(error),
                        _ => {}
                    }
                }
                Ok(revision_answer(pending))
            }
            Op::LeaseCheckpoint(_) => Ok(revision_answer(pending)),
            Op::Alarm(request) => self.alarm(pending, &request),
            Op::TokenGrant(grant) => {
                self.shared.tokens.learn(&grant.user, &grant.token);
                Ok(revision_answer(pending))
            }
            Op::Downgrade(info) => {
                let version = if info.enabled { info.target_version } else { String::new() };
                pending.put_downgrade(&version);
                self.shared.downgrade.store(version.into());
                Ok(revision_answer(pending))
            }
            auth => self.auth_command(pending, auth),
        }
    }

    fn put(&self, pending: &mut Pending, put: PutRequest) -> Result<PutResponse, Error> {
        let leases = self.shared.leases.read();
        txn::put(pending, put, &|id| leases.contains(id))
    }

    fn txn(&self, pending: &mut Pending, request: TxnRequest) -> Result<TxnResponse, Error> {
        let leases = self.shared.leases.read();
        txn::txn(pending, request, &|id| leases.contains(id))
    }

    fn lease_grant(&self, pending: &mut Pending, grant: &LeaseGrantRequest) -> Result<Answer, Error> {
        if grant.ttl > LEASE_TTL_SECS_MAX {
            return Err(Error::LEASE_TTL_TOO_LARGE);
        }
        let now = self.shared.now_millis();
        if !self.shared.leases.write().grant(grant.id, grant.ttl, now) {
            return Err(Error::LEASE_EXIST);
        }
        pending.put_row(Column::Leases, &grant.id.to_be_bytes(), &grant.ttl.to_be_bytes());
        let response = LeaseGrantResponse {
            header: header(pending.revision()),
            id: grant.id,
            ttl: grant.ttl,
            error: String::new(),
        };
        Ok(answer(Kind::LeaseGrant(response)))
    }

    fn lease_revoke(&self, pending: &mut Pending, id: i64) -> Result<Answer, Error> {
        if !self.shared.leases.read().contains(id) {
            return Err(Error::LEASE_NOT_FOUND);
        }
        pending.delete_lease_keys(id)?;
        pending.finish_transaction();
        pending.delete_row(Column::Leases, &id.to_be_bytes());
        self.shared.leases.write().revoke(id);
        Ok(revision_answer(pending))
    }

    fn alarm(&mut self, pending: &mut Pending, request: &AlarmRequest) -> Result<Answer, Error> {
        let (alarms, changed) = self.alarms.apply(request);
        if changed {
            pending.put_alarms(&self.alarms.to_record());
            self.shared.alarms.store(self.alarms.clone().into());
        }
        Ok(answer(Kind::Alarm(AlarmResponse { header: header(pending.revision()), alarms })))
    }
}

/// The answer of a command that gives nothing but the revision.
pub(super) fn revision_answer(pending: &Pending) -> Answer {
    answer(Kind::Revision(pending.revision()))
}

/// Refuses reads below the revision from now on; the rows go later, in the background.
fn compact(pending: &mut Pending, request: &CompactionRequest) -> Result<Answer, Error> {
    if request.revision <= pending.compact_revision() {
        return Err(Error::COMPACTED);
    }
    if request.revision > pending.revision() {
        return Err(Error::FUTURE_REV);
    }
    pending.compact_to(request.revision);
    pending.put_compact_revision(request.revision);
    Ok(revision_answer(pending))
}

/// A disk that cannot be read makes applying meaningless.
fn is_fatal(error: &Error) -> bool {
    matches!(error.code(), tonic::Code::Unknown | tonic::Code::DataLoss) && *error != Error::CORRUPT
}

fn touches_keys(op: &Op) -> bool {
    matches!(
        op,
        Op::Put(_)
            | Op::DeleteRange(_)
            | Op::Txn(_)
            | Op::Compact(_)
            | Op::LeaseGrant(_)
            | Op::LeaseRevoke(_)
    )
}

fn puts(ops: &[RequestOp]) -> bool {
    ops.iter().any(|op| match &op.request {
        Some(Request::RequestPut(_)) => true,
        Some(Request::RequestTxn(nested)) => puts(&nested.success) || puts(&nested.failure),
        _ => false,
    })
}

fn needs_space(op: &Op) -> bool {
    match op {
        Op::Put(_) | Op::LeaseGrant(_) => true,
        Op::Txn(txn) => puts(&txn.success) || puts(&txn.failure),
        _ => false,
    }
}
