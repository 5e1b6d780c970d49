//! The requests of a process that embeds the member: etcd's messages in and out, nothing in between, every
//! permission granted.

use proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest,
    LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest,
    LeaseRevokeResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, MemberAddRequest,
    MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest, MemberPromoteResponse,
    MemberRemoveRequest, MemberRemoveResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    StatusResponse, TxnRequest, TxnResponse, WatchCreateRequest,
};

use super::{Caller, Member};
use crate::{error::Error, watch::WatchStream};

/// The embedder's own name for "whoever holds the handle".
fn owner() -> Caller {
    Caller::trusted()
}

impl Member {
    /// Answers a range; linearizable unless `serializable` is set.
    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error> {
        self.range_as(&owner(), request).await
    }

    /// Sets a key.
    pub async fn put(&self, request: PutRequest) -> Result<PutResponse, Error> {
        self.put_as(&owner(), request).await
    }

    /// Deletes keys.
    pub async fn delete_range(&self, request: DeleteRangeRequest) -> Result<DeleteRangeResponse, Error> {
        self.delete_range_as(&owner(), request).await
    }

    /// Runs a transaction.
    pub async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Error> {
        self.txn_as(&owner(), request).await
    }

    /// Gives up history before a revision.
    pub async fn compact(&self, request: CompactionRequest) -> Result<CompactionResponse, Error> {
        self.compact_as(&owner(), request).await
    }

    /// Grants a lease.
    pub async fn lease_grant(&self, request: LeaseGrantRequest) -> Result<LeaseGrantResponse, Error> {
        self.lease_grant_as(&owner(), request).await
    }

    /// Revokes a lease and deletes its keys.
    pub async fn lease_revoke(&self, request: LeaseRevokeRequest) -> Result<LeaseRevokeResponse, Error> {
        self.lease_revoke_as(&owner(), request).await
    }

    /// Starts the full time of a lease again. A time of 0 says that there is no such lease.
    pub async fn lease_keep_alive(
        &self,
        request: LeaseKeepAliveRequest,
    ) -> Result<LeaseKeepAliveResponse, Error> {
        self.lease_keep_alive_as(&owner(), request).await
    }

    /// What is left of a lease.
    pub async fn lease_time_to_live(
        &self,
        request: LeaseTimeToLiveRequest,
    ) -> Result<LeaseTimeToLiveResponse, Error> {
        self.lease_time_to_live_as(&owner(), request).await
    }

    /// Starts one watch on a stream of its own. Dropping the stream ends it; more watches may be added to it.
    ///
    /// A start revision that has been compacted shows as `WatchUpdate::Canceled` with the compact revision.
    pub async fn watch(&self, request: WatchCreateRequest) -> Result<WatchStream, Error> {
        let stream = self.watch_stream();
        if self.stop.is_cancelled() {
            return Err(Error::STOPPED);
        }
        stream.create(&request).map_err(|reason| Error::new(tonic::Code::InvalidArgument, reason))?;
        Ok(stream)
    }

    /// The members of the cluster.
    pub async fn member_list(&self, request: MemberListRequest) -> Result<MemberListResponse, Error> {
        self.member_list_as(&owner(), request).await
    }

    /// Adds a member.
    pub async fn member_add(&self, request: MemberAddRequest) -> Result<MemberAddResponse, Error> {
        self.member_add_as(&owner(), request).await
    }

    /// Removes a member.
    pub async fn member_remove(&self, request: MemberRemoveRequest) -> Result<MemberRemoveResponse, Error> {
        self.member_remove_as(&owner(), request).await
    }

    /// Makes a learner a voter.
    pub async fn member_promote(
        &self,
        request: MemberPromoteRequest,
    ) -> Result<MemberPromoteResponse, Error> {
        self.member_promote_as(&owner(), request).await
    }

    /// What this member says about itself.
    pub async fn status(&self) -> Result<StatusResponse, Error> {
        self.status_as(&owner()).await
    }
}
