//! Notices what changes in the runtime: lists everything once a second, tells the workers of pods that look
//! different, and clears away what belongs to no pod.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use proto::cri;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::pool::Pool;
use crate::kubelet::cri::{CriError, names};
use crate::kubelet::metrics;
use crate::kubelet::pod::spec;

/// How often the runtime is listed.
const RELIST_PERIOD: Duration = Duration::from_secs(1);
/// A pod must be unknown for this many lists in a row before its remains are cleared away.
const ORPHAN_LISTS: u32 = 5;
/// The lister counts as broken when it has not succeeded for this long, seconds.
pub const STALE_SECS: i64 = 180;

/// When the last list succeeded.
#[derive(Debug, Default)]
pub struct Health {
    last_success: AtomicI64,
}

impl Health {
    /// Why the lister is not healthy, in upstream's words.
    pub fn problem(&self, now: Timestamp) -> Option<String> {
        match self.last_success.load(Ordering::Relaxed) {
            0 => Some("PLEG is not healthy: pleg has yet to be successful".into()),
            last if now.as_second() - last > STALE_SECS => Some(format!(
                "PLEG is not healthy: pleg was last seen active {}s ago; threshold is {STALE_SECS}s",
                now.as_second() - last
            )),
            _ => None,
        }
    }
}

/// Lists until the token fires. Remains are cleared away only once every pod is known.
pub async fn run(pool: Arc<Pool>, health: Arc<Health>, shutdown: CancellationToken) {
    tokio::spawn(follow_events(Arc::clone(&pool), shutdown.clone()));
    let pool_context = Arc::clone(pool.context());
    let mut lister =
        Lister { pool, seen: BTreeMap::new(), orphans: HashMap::new(), clearing: HashMap::new() };
    loop {
        let started = std::time::Instant::now();
        match lister.list().await {
            Ok(()) => {
                health.last_success.store(Timestamp::now().as_second(), Ordering::Relaxed);
                metrics::observe_relist(started.elapsed());
            }
            Err(error) => tracing::debug!(%error, "the runtime cannot be listed"),
        }
        tokio::select! {
            () = tokio::time::sleep(RELIST_PERIOD) => {}
            () = pool_context.relist.notified() => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Follows the runtime's own events where it has them: changes are then seen at once and the lists only make
/// sure. A runtime that does not know the call is not asked again.
async fn follow_events(pool: Arc<Pool>, shutdown: CancellationToken) {
    loop {
        let follow = async {
            let request = cri::GetEventsRequest {};
            let mut stream =
                pool.context().runtime.runtime().get_container_events(request).await?.into_inner();
            while let Some(event) = stream.message().await? {
                let metadata = event.pod_sandbox_status.and_then(|s| s.metadata);
                match metadata {
                    Some(metadata) => pool.nudge(&metadata.uid),
                    None => pool.context().relist.notify_one(),
                }
            }
            Ok::<(), tonic::Status>(())
        };
        let ended = tokio::select! {
            ended = follow => ended,
            () = shutdown.cancelled() => return,
        };
        if let Err(status) = ended {
            if status.code() == tonic::Code::Unimplemented {
                return;
            }
            tracing::debug!(%status, "the runtime's events were interrupted");
        }
        tokio::time::sleep(RELIST_PERIOD).await;
    }
}

struct Lister {
    pool: Arc<Pool>,
    seen: BTreeMap<String, u64>,
    orphans: HashMap<String, u32>,
    /// Remains that are being cleared away. It takes as long as their processes' grace: nobody waits for it here.
    clearing: HashMap<String, JoinHandle<()>>,
}

#[derive(Default)]
struct Remains {
    sandboxes: Vec<cri::PodSandbox>,
    containers: Vec<cri::Container>,
}

impl Lister {
    async fn list(&mut self) -> Result<(), CriError> {
        // Before the lists: what is made while they are under way is not known to be nobody's.
        let complete = self.pool.is_complete();
        let runtime = &self.pool.context().runtime;
        let (sandboxes, containers) =
            tokio::try_join!(runtime.list_pod_sandbox(None), runtime.list_containers(None))?;
        let mut pods: BTreeMap<String, Remains> = BTreeMap::new();
        let uid = |labels: &HashMap<String, String>| labels.get(names::POD_UID).cloned();
        for sandbox in sandboxes {
            if let Some(uid) = uid(&sandbox.labels) {
                pods.entry(uid).or_default().sandboxes.push(sandbox);
            }
        }
        for container in containers {
            if let Some(uid) = uid(&container.labels) {
                pods.entry(uid).or_default().containers.push(container);
            }
        }
        let prints: BTreeMap<String, u64> =
            pods.iter().map(|(uid, r)| (uid.clone(), fingerprint(r))).collect();
        let gone = self.seen.keys().filter(|uid| !prints.contains_key(*uid));
        let changed =
            prints.iter().filter(|(uid, print)| self.seen.get(*uid) != Some(print)).map(|(uid, _)| uid);
        for uid in gone.chain(changed) {
            self.pool.nudge(uid);
        }
        self.seen = prints;
        if complete {
            self.clear_orphans(pods);
        }
        Ok(())
    }

    fn clear_orphans(&mut self, pods: BTreeMap<String, Remains>) {
        let on_disk = self.pool.context().volumes.pods_on_disk();
        let mut unknown: BTreeMap<String, Remains> =
            pods.into_iter().filter(|(uid, _)| !self.pool.knows(uid)).collect();
        for uid in on_disk.into_iter().filter(|uid| !self.pool.knows(uid)) {
            unknown.entry(uid).or_default();
        }
        self.orphans.retain(|uid, _| unknown.contains_key(uid));
        self.clearing.retain(|_, task| !task.is_finished());
        for (uid, remains) in unknown {
            let lists = self.orphans.entry(uid.clone()).or_default();
            *lists += 1;
            if *lists < ORPHAN_LISTS || self.clearing.contains_key(&uid) {
                continue;
            }
            *lists = 0;
            tracing::info!(uid, "clearing away what is left of a pod that does not exist");
            let (pool, orphan) = (Arc::clone(&self.pool), uid.clone());
            let task = tokio::spawn(async move {
                if let Err(error) = clear(&pool, &orphan, remains).await {
                    tracing::warn!(uid = orphan, error, "cannot clear away the remains of a pod");
                }
            });
            self.clearing.insert(uid, task);
        }
    }
}

fn fingerprint(remains: &Remains) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut parts: Vec<(&str, i32)> = remains.sandboxes.iter().map(|s| (s.id.as_str(), s.state)).collect();
    parts.extend(remains.containers.iter().map(|c| (c.id.as_str(), c.state + 8)));
    parts.sort_unstable();
    parts.hash(&mut hasher);
    hasher.finish()
}

async fn clear(pool: &Pool, uid: &str, remains: Remains) -> Result<(), String> {
    let context = pool.context();
    let running = cri::ContainerState::ContainerRunning as i32;
    let stops = remains.containers.iter().filter(|c| c.state == running).map(|container| {
        let grace = container.annotations.get(names::POD_GRACE).and_then(|g| g.parse().ok()).unwrap_or(2);
        let grace = i64::min(grace, spec::GRACE_MAX_SECS);
        context.runtime.stop_container(&container.id, grace)
    });
    for done in futures::future::join_all(stops).await {
        done.map_err(|e| e.to_string())?;
    }
    for sandbox in &remains.sandboxes {
        context.runtime.stop_pod_sandbox(&sandbox.id).await.map_err(|e| e.to_string())?;
    }
    context.volumes.teardown(uid).await.map_err(|e| e.to_string())?;
    for container in &remains.containers {
        context.runtime.remove_container(&container.id).await.map_err(|e| e.to_string())?;
    }
    for sandbox in &remains.sandboxes {
        context.runtime.remove_pod_sandbox(&sandbox.id).await.map_err(|e| e.to_string())?;
        let metadata = sandbox.metadata.clone().unwrap_or_default();
        let logs = names::pod_log_dir(&context.config.pod_logs_dir, &metadata.namespace, &metadata.name, uid);
        match std::fs::remove_dir_all(&logs) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.to_string()),
            _ => {}
        }
    }
    context.cgroups.remove_uid(uid).await.map_err(|e| e.to_string())?;
    context.volumes.remove_pod_dir(uid).map_err(|e| e.to_string())
}
