//! What a member does on its own: leases, clean-up of history, membership, comparing states.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use proto::{
    etcdserverpb::{AlarmRequest, AlarmType, CompactionRequest, alarm_request::AlarmAction},
    raftpb::{HelloRequest, LeaseExpire, command::Op},
};

use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{
    Caller, Member, compare, space::DiskAlarm, standing::Standpoint, start::VERIFIED_AT_START_BYTES,
    succession::replace_dead_leaders,
};
use crate::{
    blocking,
    config::AutoCompaction,
    error::Error,
    machine::{Records, put_cleaned},
    metrics::{NETWORK, SERVER, STORE},
    mvcc::compact,
    storage::{StateDb, View},
};

/// Leases revoked by one command: others' writes wait while it is applied.
const EXPIRE_MAX: usize = 200;
/// Events that one write to the disk cleans up at most: others' writes wait for it.
const CLEANED_AT_ONCE_MAX: usize = 250;
/// Pause after an unexpected failure.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// How often compaction by revision looks.
const REVISION_COMPACTION_INTERVAL: Duration = Duration::from_secs(300);
/// Samples of the revision over the retention time of periodic compaction.
const PERIODIC_SAMPLES: u32 = 10;
/// Shortest pause between two of them, however short the retention.
const SAMPLE_PAUSE_MIN: Duration = Duration::from_millis(10);
/// Times a member that was told of its removal asks the others, who may not have heard of it yet.
const DOUBTS: u32 = 10;
/// Pause between two of them.
const DOUBT_PAUSE: Duration = Duration::from_millis(100);
/// Election timeouts after which a member asks although it hears of a leader.
const TICKS_A_QUESTION: u32 = 30;
/// How often learners are looked at.
const PROMOTION_INTERVAL: Duration = Duration::from_millis(500);
/// How often a full member looks whether its space has returned, and gauges are set.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(1);

/// Starts everything; it ends when the member stops.
pub fn spawn_all(member: &Arc<Member>) {
    let spawn = |task| {
        let stop = member.stop.clone();
        member.tasks.spawn(stop.run_until_cancelled_owned(task));
    };
    spawn(boxed(keep_leases(member.clone())));
    spawn(boxed(clean(member.clone())));
    spawn(boxed(publish(member.clone())));
    spawn(boxed(promote(member.clone())));
    spawn(boxed(keep_house(member.clone())));
    spawn(boxed(notice_removal(member.clone())));
    spawn(boxed(replace_dead_leaders(member.clone())));
    spawn(boxed(verify_files(member.clone())));
    match member.config.auto_compaction {
        AutoCompaction::Off => {}
        AutoCompaction::Periodic(retention) => spawn(boxed(compact_by_time(member.clone(), retention))),
        AutoCompaction::Revision(retention) => spawn(boxed(compact_by_revision(member.clone(), retention))),
    }
    if !member.config.corrupt_check_interval.is_zero() {
        spawn(boxed(compare::regularly(member.clone())));
    }
}

type Task = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

fn boxed(task: impl Future<Output = ()> + Send + 'static) -> Task {
    Box::pin(task)
}

/// Takes over the leases when this member becomes the leader, gives them up when it is no more, and proposes
/// the revocation of those whose time is over.
async fn keep_leases(member: Arc<Member>) {
    let mut standing = member.standing.subscribe();
    let grace = u64::try_from(member.config.election_timeout.as_millis()).unwrap_or(0);
    let mut primary_in = None;
    loop {
        let Standpoint { leader, term, .. } = *standing.borrow_and_update();
        let leads = leader == Some(member.id);
        if primary_in.is_some_and(|primary_in| !leads || primary_in != term) {
            // Whoever led meanwhile may have renewed leases: the old clock says nothing any more.
            primary_in = None;
            member.shared.leases.write().become_follower();
        }
        if leads && primary_in.is_none() {
            // Leases granted by the leader before must be in the table first.
            if let Ok(index) = member.leader_read_index().await
                && member.wait_applied(index).await.is_ok()
            {
                member.shared.leases.write().become_primary(member.shared.now_millis(), grace);
                #[cfg(feature = "planted-bugs")]
                if crate::planted::Bug::ForgetLeases.is_planted() {
                    member.shared.leases.write().forget_deadlines();
                }
                primary_in = Some(term);
            }
        }
        if let Some(term) = primary_in {
            expire(&member, term).await;
        }
        let next = member.shared.leases.read().next_deadline();
        let pause = next.map_or(FAILURE_PAUSE, |at| {
            Duration::from_millis(at.saturating_sub(member.shared.now_millis()))
                .clamp(Duration::from_millis(20), Duration::from_millis(500))
        });
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = standing.changed() => if changed.is_err() { return },
        }
    }
}

async fn expire(member: &Arc<Member>, term: u64) {
    loop {
        let ids = member.shared.leases.write().take_expired(member.shared.now_millis(), EXPIRE_MAX);
        if ids.is_empty() {
            return;
        }
        let count = ids.len();
        let command = Caller::trusted().command(Op::LeaseExpire(LeaseExpire { ids }));
        // Only in the term whose clock says so: forwarded, or after an election, it would end a lease that another leader
        // has renewed meanwhile.
        match member.propose_in_term(command, term).await {
            Ok(_) => STORE.lease_expired.inc_by(count as u64),
            // They come up again by themselves.
            Err(error) => {
                tracing::warn!(%error, count, "could not revoke expired leases");
                return;
            }
        }
    }
}

/// Removes compacted history from the disk, a little at a time.
async fn clean(member: Arc<Member>) {
    // Steps are small, so that they never hold up anything; what is asked for of one is cut, and so is the pause after it.
    let asked = member.config.compaction_batch_limit.max(1);
    let step = asked.min(CLEANED_AT_ONCE_MAX);
    let pause = member.config.compaction_sleep_interval.mul_f64(step as f64 / asked as f64);
    let mut compacted = member.shared.compacted.subscribe();
    let mut of: Option<Arc<StateDb>> = None;
    let mut began: Option<Instant> = None;
    let mut done = *member.cleaned.borrow();
    loop {
        let view = member.view();
        if of.as_ref().is_none_or(|db| !Arc::ptr_eq(db, view.db())) {
            // A snapshot brought another state, cleaned up to wherever its member was.
            of = Some(view.db().clone());
            done = Records::load(view.db()).map_or(done, |records| records.cleaned_revision);
        }
        if done >= view.compact_revision {
            member.cleaned.send_replace(done);
            drop(view);
            if compacted.changed().await.is_err() {
                return;
            }
            continue;
        }
        let begun = *began.get_or_insert_with(Instant::now);
        let target = view.compact_revision;
        match blocking::run(move || clean_step(&view, done, step)).await {
            Ok(Ok(reached)) => {
                done = reached;
                if done >= target {
                    STORE.compaction_ended(begun.elapsed());
                    began = None;
                }
                tokio::time::sleep(pause).await;
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "cannot clean up history");
                tokio::time::sleep(FAILURE_PAUSE).await;
            }
            Err(_) => return,
        }
    }
}

fn clean_step(view: &View, done: i64, events_max: usize) -> Result<i64, Error> {
    let started = Instant::now();
    let (mut batch, progress) = compact::step(view, done, view.compact_revision, events_max)?;
    put_cleaned(view.db(), &mut batch, progress.done);
    view.db().commit(batch)?;
    STORE.compaction_step(started.elapsed(), progress.seen);
    Ok(progress.done)
}

/// Tells the cluster this member's name and client URLs until it has heard.
async fn publish(member: Arc<Member>) {
    while let Err(error) = member.publish_self().await {
        tracing::debug!(%error, "could not publish this member's name and URLs yet");
        tokio::time::sleep(FAILURE_PAUSE).await;
    }
}

/// Looks at every checksum of a state that was too large to verify before it was served.
async fn verify_files(member: Arc<Member>) {
    let db = member.view().db().clone();
    if db.size_bytes() <= VERIFIED_AT_START_BYTES {
        return;
    }
    if let Ok(Err(error)) = blocking::run(move || db.verify()).await {
        tracing::error!(%error, "this member stops before it serves what is damaged");
        member.damaged.cancel();
    }
}

/// As the leader, finishes what changes of the membership have left, and makes voters of learners that wait for it; as a
/// learner that was told to, asks for it.
async fn promote(member: Arc<Member>) {
    let mut ticks = tokio::time::interval(PROMOTION_INTERVAL);
    loop {
        ticks.tick().await;
        let result = if member.is_leader() {
            match member.finish_change().await {
                Ok(()) => member.promote_waiting().await,
                unfinished => unfinished,
            }
        } else if member.config.promote_when_caught_up && member.is_learner() {
            member.ask_for_promotion().await
        } else {
            Ok(())
        };
        if let Err(error) = result {
            tracing::debug!(%error, "no change of the membership yet");
        }
    }
}

/// A member that hears from no leader, or is told to look, asks the others whether it still is one of them: who is
/// removed is not told by the log. Most of them must agree, since one alone may be behind.
async fn notice_removal(member: Arc<Member>) {
    let mut doubts = 0_u32;
    let mut ticks = 0_u32;
    loop {
        let pause = if doubts > 0 { DOUBT_PAUSE } else { member.config.election_timeout };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = member.doubted.notified() => doubts = DOUBTS,
        }
        // One that was away when it was removed may remember a leader that speaks to it no more.
        ticks = (ticks + 1) % TICKS_A_QUESTION;
        if member.is_leader() || doubts == 0 && ticks != 0 && member.leader().is_some() {
            continue;
        }
        doubts = doubts.saturating_sub(1);
        let others: Vec<_> = member.nodes().into_iter().filter(|(id, ..)| *id != member.id).collect();
        let mut strangers = 0;
        for (_, node, _) in &others {
            match is_known_to(&member, &node.peer_urls).await {
                Ok(false) => strangers += 1,
                Ok(true) => break,
                // Down: it says nothing either way.
                Err(_) => {}
            }
        }
        if strangers * 2 > others.len() {
            tracing::error!("this member was removed from the cluster");
            member.removed.cancel();
            return;
        }
    }
}

/// Whether another member has this one in its membership.
async fn is_known_to(member: &Member, urls: &[String]) -> Result<bool, Error> {
    let mut request = tonic::Request::new(HelloRequest { cluster_id: member.cluster_id, from: member.id });
    // One that hangs says nothing, and must not keep the others from being asked.
    request.set_timeout(member.config.election_timeout);
    let hello = member.peers.peer(urls)?.hello(request).await?.into_inner();
    let same = hello.cluster_id == member.cluster_id && !hello.members.is_empty();
    Ok(!same || hello.members.iter().any(|known| known.id == member.id))
}

/// Keeps the gauges current.
async fn keep_house(member: Arc<Member>) {
    let mut ticks = tokio::time::interval(HOUSEKEEPING_INTERVAL);
    let mut last_leader = None;
    let mut disk_alarm = DiskAlarm::at_start(Instant::now());
    loop {
        ticks.tick().await;
        let (disk_is_full, over_quota) = (member.disk_is_nearly_full(), member.over_quota());
        member.space.is_full.store(disk_is_full || over_quota, Ordering::Relaxed);
        if member.space.alarm_is_wanted.swap(false, Ordering::Relaxed) {
            disk_alarm.is_wanted();
        }
        if disk_alarm.is_over(Instant::now(), disk_is_full, over_quota, member.has_raised_nospace()) {
            lower_nospace(&member).await;
        }
        let leader = member.leader();
        SERVER.has_leader.set(i64::from(leader.is_some()));
        SERVER.is_leader.set(i64::from(leader == Some(member.id)));
        SERVER.is_learner.set(i64::from(member.is_learner()));
        SERVER.quota.set(member.room_bytes() as f64);
        if leader.is_some() && leader != last_leader {
            SERVER.leader_changes.inc();
            last_leader = leader;
        }
        let view = member.view();
        SERVER.applied.set(view.applied_index as f64);
        SERVER.committed.set(member.last_log_index() as f64);
        STORE.size.set(i64::try_from(view.db().size_bytes()).unwrap_or(i64::MAX));
        STORE.size_in_use.set(i64::try_from(view.db().size_in_use_bytes()).unwrap_or(i64::MAX));
        STORE.keys.set(i64::try_from(view.counts().total()).unwrap_or(i64::MAX));
        STORE.auth_revision.set(i64::try_from(member.auth().revision()).unwrap_or(i64::MAX));
        let alarms = member.shared.alarms.load().list(AlarmType::None).into_iter();
        let kind = |alarm: i32| AlarmType::try_from(alarm).unwrap_or(AlarmType::None).as_str_name();
        SERVER.set_alarms(alarms.map(|alarm| (alarm.member_id, kind(alarm.alarm))));
        NETWORK.set_peers(member.id, member.others_heard_of().into_iter());
        STORE.pending_events.set(i64::try_from(member.hub.waiting_events()).unwrap_or(i64::MAX));
        let (streams, watchers, behind) = member.hub.counts();
        STORE.watch_streams.set(streams as i64);
        STORE.watchers.set(watchers as i64);
        STORE.slow_watchers.set(behind as i64);
    }
}

/// Space has returned: this member's alarm, which only the lack of it had raised, goes by itself.
async fn lower_nospace(member: &Arc<Member>) {
    let alarm = AlarmRequest {
        action: AlarmAction::Deactivate as i32,
        member_id: member.id,
        alarm: AlarmType::Nospace as i32,
    };
    match member.propose(Caller::trusted().command(Op::Alarm(alarm))).await {
        Ok(_) => tracing::info!("space has returned; NOSPACE is over"),
        Err(error) => tracing::warn!(%error, "could not lower NOSPACE"),
    }
}

async fn compact_to(member: &Arc<Member>, revision: i64) {
    if !member.is_leader() || revision <= member.view().compact_revision {
        return;
    }
    let request = CompactionRequest { revision, physical: false };
    match member.propose_revision(&Caller::trusted(), Op::Compact(request)).await {
        Ok(_) => tracing::info!(revision, "compacted"),
        Err(error) => tracing::warn!(%error, revision, "automatic compaction failed"),
    }
}

async fn compact_by_time(member: Arc<Member>, retention: Duration) {
    let mut ticks = sampling(retention);
    let mut samples = std::collections::VecDeque::new();
    loop {
        ticks.tick().await;
        samples.push_back(member.view().revision);
        if samples.len() > PERIODIC_SAMPLES as usize
            && let Some(revision) = samples.pop_front()
        {
            compact_to(&member, revision).await;
        }
    }
}

/// When to look at the revision. A look that was missed is not made up for: a member that slept through its samples would
/// take them all at once when it wakes, and give up all history but the newest.
fn sampling(retention: Duration) -> Interval {
    let mut ticks = interval((retention / PERIODIC_SAMPLES).max(SAMPLE_PAUSE_MIN));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn compact_by_revision(member: Arc<Member>, retention: i64) {
    let mut ticks = tokio::time::interval(REVISION_COMPACTION_INTERVAL);
    loop {
        ticks.tick().await;
        compact_to(&member, member.view().revision - retention).await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_slept_through_its_samples_takes_one() {
        let mut ticks = sampling(Duration::from_millis(400));
        ticks.tick().await;
        // Half of the samples go by, while nobody looks and the clock goes on.
        std::thread::sleep(Duration::from_millis(200));
        ticks.tick().await;
        assert!(ticks.tick().now_or_never().is_none(), "the others are not made up for");
    }
}
