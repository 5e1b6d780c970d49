//! Leases: granting and revoking through the log, keeping alive at the leader.

use proto::{
    etcdserverpb::{
        LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
        LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest,
        LeaseTimeToLiveResponse,
    },
    raftpb::{LeaseRemainingRequest, LeaseRenewRequest, answer::Kind, command::Op},
};
use rand::Rng;

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
        pending::keys_of_lease,
    },
};

impl Member {
    /// Grants a lease, under the id the client chose or one of ours.
    pub async fn lease_grant_as(
        &self,
        caller: &Caller,
        request: LeaseGrantRequest,
    ) -> Result<LeaseGrantResponse, Error> {
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
        let revision = self.propose_revision(caller, Op::LeaseRevoke(request)).await?;
        STORE.lease_revoked.inc();
        Ok(LeaseRevokeResponse { header: self.header(revision) })
    }

    /// Starts the full time of a lease again. A time of 0 says that there is no such lease.
    pub async fn lease_keep_alive(
        &self,
        request: LeaseKeepAliveRequest,
    ) -> Result<LeaseKeepAliveResponse, Error> {
        let ttl = self.lease_renew(request.id).await?;
        STORE.lease_renewed.inc();
        Ok(LeaseKeepAliveResponse { header: self.header(self.view().revision), id: request.id, ttl })
    }

    async fn lease_renew(&self, id: i64) -> Result<i64, Error> {
        let deadline = tokio::time::Instant::now() + self.config.request_timeout();
        loop {
            let leader = self.wait_leader().await?;
            let renewed = if leader == self.id {
                self.lease_renew_here(id).await
            } else {
                let node = self.node(leader).ok_or(Error::NO_LEADER)?;
                let mut client = self.peers.peer(&node.peer_urls)?;
                tokio::select! {
                    answer = client.lease_renew(LeaseRenewRequest { id }) => {
                        answer.map(|answer| answer.into_inner().ttl).map_err(Error::from)
                    }
                    // A leader that is paused or cut off does not say so, and the lease's time goes on.
                    () = self.deposed(leader) => Err(Error::LEADER_CHANGED),
                }
            };
            match renewed {
                Ok(ttl) => return Ok(ttl),
                Err(error) if tokio::time::Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(self.config.heartbeat_interval).await,
            }
        }
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
        self.read_barrier().await?;
        let remaining = self.lease_remaining(request.id).await?;
        let view = self.view();
        let header = self.header(view.revision);
        let Some(remaining) = remaining else {
            return Ok(LeaseTimeToLiveResponse { header, id: request.id, ttl: -1, ..Default::default() });
        };
        let mut keys = Vec::new();
        if request.keys {
            keys = on_thread(view, move |view| keys_of_lease(view, request.id)).await?;
            if !caller.is_trusted() {
                let auth = self.shared.auth.load();
                for key in &keys {
                    let range = KeyRange { start: key.clone(), end: End::Point };
                    auth.check(&caller.user, &range, Access::Read)?;
                }
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
        let leader = self.wait_leader().await?;
        if leader == self.id {
            return Ok(self.lease_remaining_here(id));
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

    pub(crate) fn lease_remaining_here(&self, id: i64) -> Option<Remaining> {
        self.shared.leases.read().remaining(id, self.shared.now_millis())
    }

    /// Every lease.
    pub async fn lease_leases(&self) -> Result<LeaseLeasesResponse, Error> {
        self.read_barrier().await?;
        let leases = self.shared.leases.read().ids().into_iter().map(|id| LeaseStatus { id }).collect();
        Ok(LeaseLeasesResponse { header: self.header(self.view().revision), leases })
    }
}
