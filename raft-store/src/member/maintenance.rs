//! Alarms, status, hashes, quota and versions.

use std::sync::atomic::Ordering;

use proto::{
    etcdserverpb::{
        AlarmRequest, AlarmResponse, AlarmType, DowngradeInfo, DowngradeRequest, DowngradeResponse,
        HashKvResponse, HashResponse, StatusResponse, alarm_request::AlarmAction,
        downgrade_request::DowngradeAction,
    },
    raftpb::{answer::Kind, command::Op},
};

use super::{
    Caller, Member,
    kv::{on_thread, unexpected},
};
use crate::{
    error::Error,
    metrics::STORE,
    mvcc::{hash::hash_at, range::check_revision},
};

/// The version of etcd whose API this is; clients decide by it what they may use.
pub const SERVER_VERSION: &str = "3.7.0";
/// The same without the patch number: what members of one cluster agree on.
pub const CLUSTER_VERSION: &str = "3.7.0";
/// Writes are refused while less than this is free: enough for the log and for flushing what is in memory.
const DISK_RESERVE_BYTES: u64 = 256 << 20;
/// The version one step down, to which a downgrade may be announced.
const DOWNGRADE_VERSION: &str = "3.6";

impl Member {
    /// Whether the state is larger than allowed.
    pub(crate) fn over_quota(&self) -> bool {
        let quota = self.config.quota_backend_bytes;
        quota > 0 && self.view().db().size_bytes() > quota
    }

    /// Bytes the state may take: the quota, or without one what the disk has room for.
    pub(crate) fn room_bytes(&self) -> u64 {
        let quota = self.config.quota_backend_bytes;
        if quota > 0 {
            return quota;
        }
        let free = nix::sys::statvfs::statvfs(&self.config.data_dir);
        let free = free.map_or(0, |free| free.blocks_available() * free.fragment_size());
        self.view().db().size_bytes() + free.saturating_sub(DISK_RESERVE_BYTES)
    }

    /// Whether so little of the disk is left that the log could not go on safely.
    pub(crate) fn disk_is_nearly_full(&self) -> bool {
        [Some(&self.config.data_dir), self.config.wal_dir.as_ref()].into_iter().flatten().any(|dir| {
            let free = nix::sys::statvfs::statvfs(dir);
            free.is_ok_and(|free| free.blocks_available() * free.fragment_size() <= DISK_RESERVE_BYTES)
        })
    }

    /// Whether this member's own NOSPACE is raised.
    pub(crate) fn has_raised_nospace(&self) -> bool {
        let raised = self.shared.alarms.load().list(AlarmType::Nospace);
        raised.iter().any(|alarm| alarm.member_id == self.id)
    }

    /// Lists, raises or lowers alarms.
    pub async fn alarm_as(&self, caller: &Caller, request: AlarmRequest) -> Result<AlarmResponse, Error> {
        if request.action == AlarmAction::Get as i32 {
            self.check_user(caller)?;
            let kind = AlarmType::try_from(request.alarm).unwrap_or(AlarmType::None);
            let alarms = self.shared.alarms.load().list(kind);
            return Ok(AlarmResponse { header: self.header(self.view().revision), alarms });
        }
        self.check_admin(caller)?;
        if request.action == AlarmAction::Activate as i32 && request.alarm == AlarmType::Nospace as i32 {
            self.space.alarm_is_wanted.store(true, Ordering::Relaxed);
        }
        match self.propose_kind(caller, Op::Alarm(request)).await? {
            Kind::Alarm(mut response) => {
                self.complete(&mut response.header);
                Ok(response)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// What this member says about itself to any user; answered without asking anybody.
    pub async fn status_as(&self, caller: &Caller) -> Result<StatusResponse, Error> {
        self.check_user(caller)?;
        let view = self.readable()?;
        let leader = self.leader();
        let mut errors = Vec::new();
        if leader.is_none() {
            errors.push(Error::NO_LEADER.text().to_owned());
        }
        for alarm in self.shared.alarms.load().list(AlarmType::None) {
            let kind = AlarmType::try_from(alarm.alarm).unwrap_or(AlarmType::None);
            errors.push(format!("memberID:{} alarm:{} ", alarm.member_id, kind.as_str_name()));
        }
        let downgrade = self.shared.downgrade.load_full();
        Ok(StatusResponse {
            header: self.header(view.revision),
            version: SERVER_VERSION.into(),
            db_size: i64::try_from(view.db().size_bytes()).unwrap_or(i64::MAX),
            leader: leader.unwrap_or(0),
            raft_index: self.last_log_index(),
            raft_term: self.term(),
            raft_applied_index: view.applied_index,
            errors,
            db_size_in_use: i64::try_from(view.db().size_in_use_bytes()).unwrap_or(i64::MAX),
            is_learner: self.is_learner(),
            storage_version: CLUSTER_VERSION.into(),
            db_size_quota: i64::try_from(self.config.quota_backend_bytes).unwrap_or(i64::MAX),
            downgrade_info: Some(DowngradeInfo {
                enabled: !downgrade.is_empty(),
                target_version: downgrade.to_string(),
            }),
        })
    }

    pub(crate) fn last_log_index(&self) -> u64 {
        use openraft::async_runtime::WatchReceiver;
        self.raft.metrics().borrow_watched().last_log_index.unwrap_or(0)
    }

    /// Checksum of what is readable at a revision; 0 is the newest.
    pub async fn hash_kv(&self, revision: i64) -> Result<HashKvResponse, Error> {
        let view = self.readable()?;
        check_revision(view.as_ref(), revision)?;
        let at = if revision > 0 { revision } else { view.revision };
        let (current, compact_revision) = (view.revision, view.compact_revision);
        let started = std::time::Instant::now();
        let hash = on_thread(view, move |view| hash_at(view, at)).await?;
        STORE.hash.observe(started.elapsed().as_secs_f64());
        Ok(HashKvResponse { header: self.header(current), hash, compact_revision, hash_revision: at })
    }

    /// Checksum of the whole state, for etcd's older call.
    pub async fn hash(&self) -> Result<HashResponse, Error> {
        let started = std::time::Instant::now();
        let answer = self.hash_kv(0).await?;
        STORE.hash_all.observe(started.elapsed().as_secs_f64());
        Ok(HashResponse { header: answer.header, hash: answer.hash })
    }

    /// Announces, checks or takes back a downgrade. Nothing else follows from it: the formats on our disks
    /// are not etcd's, and members of both announced versions work together.
    pub async fn downgrade_as(
        &self,
        caller: &Caller,
        request: DowngradeRequest,
    ) -> Result<DowngradeResponse, Error> {
        self.check_admin(caller)?;
        self.read_barrier().await?;
        let announced = self.shared.downgrade.load_full();
        let action = DowngradeAction::try_from(request.action).map_err(|_| Error::UNKNOWN_METHOD)?;
        let info = match action {
            DowngradeAction::Cancel => DowngradeInfo::default(),
            DowngradeAction::Validate | DowngradeAction::Enable => {
                let target = minor_version(&request.version)?;
                if target != DOWNGRADE_VERSION {
                    return Err(Error::INVALID_DOWNGRADE_TARGET_VERSION);
                }
                if !announced.is_empty() {
                    return Err(Error::DOWNGRADE_IN_PROCESS);
                }
                DowngradeInfo { enabled: true, target_version: format!("{target}.0") }
            }
        };
        let mut revision = self.view().revision;
        if action != DowngradeAction::Validate {
            revision = self.propose_revision(caller, Op::Downgrade(info)).await?;
        }
        Ok(DowngradeResponse { header: self.header(revision), version: CLUSTER_VERSION.into() })
    }
}

/// `3.6` of `3.6` or `3.6.0`.
fn minor_version(text: &str) -> Result<String, Error> {
    let numbers: Option<Vec<u32>> = text.split('.').map(|part| part.parse().ok()).collect();
    match numbers.as_deref() {
        Some([major, minor] | [major, minor, _]) => Ok(format!("{major}.{minor}")),
        _ => Err(Error::WRONG_DOWNGRADE_VERSION_FORMAT),
    }
}
