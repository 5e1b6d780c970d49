//! Leases: granting and revoking through the log, keeping alive at the leader.

use bytes::Bytes;
use proto::{
    etcdserverpb::{
        LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
        LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest,
        LeaseTimeToLiveResponse,
    },
    raftpb::{LeaseRemainingRequest, LeaseRenewRequest, answer::Kind, command::Op},
};
use rand::Rng;
use tokio::time::Instant;

use super::{
    Caller, Member,
    kv::{on_thread, unexpected},
};
use crate::{
    auth::Access,
    error::Error,
    lease::{LEASE_TTL_SECS_MAX, Remaining},
    metrics::STORE,
    mvcc::{
        keys::{End, KeyRange},
        pending::{keys_of_lease, keys_of_leases},
    },
    raft::types::MemberId,
};

impl Member {
    /// Grants a lease, under the id the client chose or one of ours.
    pub async fn lease_grant_as(
        &self,
        caller: &Caller,
        request: LeaseGrantRequest,
    ) -> Result<LeaseGrantResponse, Error> {
        self.check_user(caller)?;
        if request.ttl > LEASE_TTL_SECS_MAX {
            return Err(Error::LEASE_TTL_TOO_LARGE);
        }
        let ttl = request.ttl.max(self.config.lease_ttl_secs_min());
        let chosen = request.id != 0;
        loop {
            let id = if chosen { request.id } else { rand::rng().random_range(1..=i64::MAX) };
            match self.propose_kind(caller, Op::LeaseGrant(LeaseGrantRequest { ttl, id })).await {
                Ok(Kind::LeaseGrant(mut response)) => {
                    STORE.lease_granted.inc();
                    STORE.lease_ttl.observe(ttl as f64);
                    self.complete(&mut response.header);
                    return Ok(response);
                }
                Ok(other) => return Err(unexpected(&other)),
                Err(error) if error == Error::LEASE_EXIST && !chosen => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Revokes a lease and deletes its keys.
    pub async fn lease_revoke_as(
        &self,
        caller: &Caller,
        request: LeaseRevokeRequest,
    ) -> Result<LeaseRevokeResponse, Error> {
        self.check_user(caller)?;
        let revision = self.propose_revision(caller, Op::LeaseRevoke(request)).await?;
        STORE.lease_revoked.inc();
        Ok(LeaseRevokeResponse { header: self.header(revision) })
    }

    /// Starts the full time of a lease again, for who may write its keys. A time of 0 says that there is no such lease.
    pub async fn lease_keep_alive_as(
        &self,
        caller: &Caller,
        request: LeaseKeepAliveRequest,
    ) -> Result<LeaseKeepAliveResponse, Error> {
        self.check_user(caller)?;
        if !self.may_do_all(caller) {
            let keys = on_thread(self.readable()?, move |view| keys_of_lease(view, request.id)).await?;
            self.check_keys(caller, keys.iter(), Access::Write)?;
        }
        let ttl = self.lease_renew(request.id).await?;
        STORE.lease_renewed.inc();
        Ok(LeaseKeepAliveResponse { header: self.header(self.view().revision), id: request.id, ttl })
    }

    async fn lease_renew(&self, id: i64) -> Result<i64, Error> {
        let deadline = Instant::now() + self.config.request_timeout();
        loop {
            let leader = self.wait_leader().await?;
            match self.lease_renew_at(leader, id).await {
                Ok(ttl) => return Ok(ttl),
                Err(error) => self.pause_between_leaders(error, deadline).await?,
            }
        }
    }

    async fn lease_renew_at(&self, leader: MemberId, id: i64) -> Result<i64, Error> {
        if leader == self.id {
            return self.lease_renew_here(id).await;
        }
        let node = self.node(leader).ok_or(Error::NO_LEADER)?;
        let mut client = self.peers.peer(&node.peer_urls)?;
        tokio::select! {
            answer = client.lease_renew(LeaseRenewRequest { id }) => Ok(answer?.into_inner().ttl),
            // A leader that is paused or cut off does not say so, and the lease's time goes on.
            () = self.deposed(leader) => Err(Error::LEADER_CHANGED),
        }
    }

    /// Before a question that changes nothing, or nothing more the second time, is asked again; fails with what it came to
    /// last when there is no time for it.
    pub(super) async fn pause_between_leaders(&self, error: Error, deadline: Instant) -> Result<(), Error> {
        if self.stop.is_cancelled() || Instant::now() > deadline {
            return Err(error);
        }
        tokio::time::sleep(self.config.heartbeat_interval).await;
        Ok(())
    }

    fn may_do_all(&self, caller: &Caller) -> bool {
        caller.is_trusted() || self.auth().check_admin(&caller.user).is_ok()
    }

    fn check_keys<'k>(
        &self,
        caller: &Caller,
        mut keys: impl Iterator<Item = &'k Bytes>,
        access: Access,
    ) -> Result<(), Error> {
        let auth = self.auth();
        keys.try_for_each(|key| {
            auth.check(&caller.user, &KeyRange { start: key.clone(), end: End::Point }, access)
        })
    }

    /// As the leader. A majority must confirm that it still is one: otherwise another might already have
    /// let the lease run out.
    pub(crate) async fn lease_renew_here(&self, id: i64) -> Result<i64, Error> {
        let index = self.leader_read_index().await?;
        self.wait_applied(index).await?;
        let now = self.shared.now_millis();
        let mut leases = self.shared.leases.write();
        match leases.renew(id, now) {
            Some(ttl) => Ok(ttl),
            None if !leases.contains(id) => Ok(0),
            // It leads, but has not taken over the leases yet, or the lease is about to go: ask again.
            None => Err(Error::NOT_LEADER),
        }
    }

    /// What is left of a lease, and its keys when asked for. A time of -1 says that there is no such lease.
    pub async fn lease_time_to_live_as(
        &self,
        caller: &Caller,
        request: LeaseTimeToLiveRequest,
    ) -> Result<LeaseTimeToLiveResponse, Error> {
        self.check_user(caller)?;
        self.read_barrier().await?;
        let remaining = self.lease_remaining(request.id).await?;
        let view = self.readable()?;
        let header = self.header(view.revision);
        let Some(remaining) = remaining else {
            return Ok(LeaseTimeToLiveResponse { header, id: request.id, ttl: -1, ..Default::default() });
        };
        let mut keys = Vec::new();
        if request.keys {
            keys = on_thread(view, move |view| keys_of_lease(view, request.id)).await?;
            if !self.may_do_all(caller) {
                self.check_keys(caller, keys.iter(), Access::Read)?;
            }
        }
        Ok(LeaseTimeToLiveResponse {
            header,
            id: request.id,
            ttl: remaining.ttl_secs,
            granted_ttl: remaining.granted_secs,
            keys,
        })
    }

    async fn lease_remaining(&self, id: i64) -> Result<Option<Remaining>, Error> {
        let deadline = Instant::now() + self.config.request_timeout();
        loop {
            let leader = self.wait_leader().await?;
            match self.lease_remaining_at(leader, id).await {
                Ok(remaining) => return Ok(remaining),
                Err(error) => self.pause_between_leaders(error, deadline).await?,
            }
        }
    }

    async fn lease_remaining_at(&self, leader: MemberId, id: i64) -> Result<Option<Remaining>, Error> {
        if leader == self.id {
            return self.lease_remaining_here(id).await;
        }
        let node = self.node(leader).ok_or(Error::NO_LEADER)?;
        let mut client = self.peers.peer(&node.peer_urls)?;
        let answer = tokio::select! {
            answer = client.lease_remaining(LeaseRemainingRequest { id }) => answer?.into_inner(),
            () = self.deposed(leader) => return Err(Error::LEADER_CHANGED),
        };
        let found = answer.ttl >= 0;
        Ok(found.then_some(Remaining { ttl_secs: answer.ttl, granted_secs: answer.granted_ttl }))
    }

    /// As the leader, which alone keeps the time. Whoever leads no more, has not applied all it leads with or has not taken
    /// over the leases yet knows neither which there are nor what is left of them.
    pub(crate) async fn lease_remaining_here(&self, id: i64) -> Result<Option<Remaining>, Error> {
        let index = self.leader_read_index().await?;
        self.wait_applied(index).await?;
        let leases = self.shared.leases.read();
        if leases.is_primary() {
            Ok(leases.remaining(id, self.shared.now_millis()))
        } else {
            Err(Error::NOT_LEADER)
        }
    }

    /// Every lease, for who may read the keys of all.
    pub async fn lease_leases_as(&self, caller: &Caller) -> Result<LeaseLeasesResponse, Error> {
        self.check_user(caller)?;
        self.read_barrier().await?;
        if !self.may_do_all(caller) {
            let keys = on_thread(self.readable()?, keys_of_leases).await?;
            self.check_keys(caller, keys.iter(), Access::Read)?;
        }
        let leases = self.shared.leases.read().ids().into_iter().map(|id| LeaseStatus { id }).collect();
        Ok(LeaseLeasesResponse { header: self.header(self.view().revision), leases })
    }
}
