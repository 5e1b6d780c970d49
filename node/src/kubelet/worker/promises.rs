//! What pods were promised of the machine and what their containers were started with, beyond the end of the agent: two
//! files in its folder, named as upstream's.
//!
//! Invariants: a promise that changes is on disk before anything is done for it, or is not made; a pod's first one, and what containers were
//! given, follow soon after, since until then the pod itself says the same. A file that cannot be read is named and passed
//! over: pods then have what was reported of them.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Pool;
use crate::kubelet::pod::allocation::{self, Verdict};
use crate::kubelet::pod::checkpoint::{PodResources, Records, decode, encode};
use crate::kubelet::pod::resize::Standing;
use crate::kubelet::pod::spec;
use crate::whole_file;

/// What was promised; upstream's name.
const ALLOCATED: &str = "allocated_pods_state";
/// What containers were given; upstream's name.
const ACTUATED: &str = "actuated_pods_state";
/// Pods that start together are written together.
const TOGETHER: Duration = Duration::from_millis(200);

/// The files and what they say.
pub struct Promises {
    promised: Mutex<Promised>,
    /// What containers were given where that is not what is promised; of pods that have not appeared yet, what the agent before
    /// gave.
    given: Mutex<Records>,
    allocated: Saved,
    actuated: Saved,
    changed: Notify,
}

/// Pods with the resources they are promised.
#[derive(Default)]
pub struct Promised {
    pods: HashMap<String, Arc<Pod>>,
    /// What the agent before promised to pods that have not appeared yet.
    earlier: Records,
}

impl Promised {
    /// The promise to a pod that is known.
    pub fn get(&self, uid: &str) -> Option<&Arc<Pod>> {
        self.pods.get(uid)
    }

    /// The promise to a pod, known or not: what an agent before remembered of it, or reported.
    pub fn of(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        let uid = spec::uid(pod);
        match (self.pods.get(uid), self.earlier.get(uid)) {
            (Some(promised), _) => Arc::clone(promised),
            (None, Some(record)) => allocation::recalled(pod, record),
            (None, None) => allocation::reported(pod),
        }
    }

    /// Takes a promise.
    pub fn insert(&mut self, pod: Arc<Pod>) {
        self.earlier.remove(spec::uid(&pod));
        self.pods.insert(spec::uid(&pod).to_owned(), pod);
    }

    fn records(&self) -> Records {
        let known = self.pods.iter().map(|(uid, pod)| (uid.clone(), allocation::record(pod)));
        self.earlier.clone().into_iter().chain(known).collect()
    }
}

impl Promises {
    /// What the files in the agent's folder say.
    pub fn read(root: &std::path::Path) -> Self {
        let (allocated, actuated) = (Saved::new(root.join(ALLOCATED)), Saved::new(root.join(ACTUATED)));
        let promised = Promised { earlier: allocated.read(), ..Default::default() };
        Self {
            promised: Mutex::new(promised),
            given: Mutex::new(actuated.read()),
            allocated,
            actuated,
            changed: Notify::new(),
        }
    }

    /// Held while a pod is admitted or promised more, since what one gets the next must see.
    pub fn lock(&self) -> MutexGuard<'_, Promised> {
        self.promised.lock()
    }

    /// The first promise to a pod; written soon.
    pub fn begin(&self, promised: &mut Promised, pod: &Arc<Pod>) {
        promised.insert(promised.of(pod));
        self.changed.notify_one();
    }

    /// Promises the pod what it wants where `judge` has room for it; the promise, and why it is not all that is wanted, if
    /// so. One that cannot be written down is not made: the next agent would not know of it.
    pub fn promise(
        &self,
        promised: &mut Promised,
        pod: &Arc<Pod>,
        judge: impl FnOnce(&Pod, &Promised) -> Verdict,
    ) -> (Arc<Pod>, Option<Standing>) {
        let before = promised.of(pod);
        let mut judged = false;
        let (now, pending) = allocation::promise(&before, pod, |wanted| {
            judged = true;
            judge(wanted, promised)
        });
        if !judged || pending.is_some() {
            promised.insert(Arc::clone(&now));
            return (now, pending);
        }
        if let Err(error) = self.change(promised, Arc::clone(&now)) {
            warn(&self.allocated, &error);
            let text = format!("the node cannot write down what it allocates: {error}");
            let (kept, pending) = allocation::promise(&before, pod, |_| Verdict::Deferred(text));
            promised.insert(Arc::clone(&kept));
            return (kept, pending);
        }
        (now, None)
    }

    /// A promise that changed, on disk when this returns.
    fn change(&self, promised: &mut Promised, pod: Arc<Pod>) -> io::Result<()> {
        let mut records = promised.records();
        records.insert(spec::uid(&pod).to_owned(), allocation::record(&pod));
        self.allocated.write(&records, self.allocated.turn())?;
        promised.insert(pod);
        Ok(())
    }

    /// What the pod's containers were started with last, by the agent before.
    pub fn given(&self, uid: &str) -> PodResources {
        self.given.lock().get(uid).cloned().unwrap_or_default()
    }

    /// Notes what the pod's containers have, where that is not what is promised.
    pub fn note_given(&self, uid: &str, resources: Option<PodResources>) {
        let mut given = self.given.lock();
        if given.get(uid) == resources.as_ref() {
            return;
        }
        match resources {
            Some(resources) => given.insert(uid.to_owned(), resources),
            None => given.remove(uid),
        };
        self.changed.notify_one();
    }

    /// Nothing is left of a pod. The files follow with the next change, as upstream's.
    pub fn remove(&self, uid: &str) {
        self.promised.lock().pods.remove(uid);
        self.given.lock().remove(uid);
    }

    /// Forgets what was remembered of pods that are gone.
    pub fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.promised.lock().earlier.retain(|uid, _| exists(uid));
        self.given.lock().retain(|uid, _| exists(uid));
    }

    fn save(&self) {
        // The file's turn is taken before the promises may change again: what is older is never written later.
        let promised = self.promised.lock();
        let (mut records, turn) = (promised.records(), self.allocated.turn());
        drop(promised);
        self.allocated.write(&records, turn).unwrap_or_else(|error| warn(&self.allocated, &error));
        let turn = self.actuated.turn();
        records.extend(self.given.lock().clone());
        self.actuated.write(&records, turn).unwrap_or_else(|error| warn(&self.actuated, &error));
    }
}

/// Writes what changes until the token fires, and once more then.
pub async fn keep(pool: Arc<Pool>, shutdown: CancellationToken) {
    loop {
        let changed = async {
            pool.promises().changed.notified().await;
            tokio::time::sleep(TOGETHER).await;
        };
        let goes_on = shutdown.run_until_cancelled(changed).await.is_some();
        let pool = Arc::clone(&pool);
        let saved = tokio::task::spawn_blocking(move || pool.promises().save()).await;
        if !goes_on || saved.is_err() {
            return;
        }
    }
}

/// One file.
struct Saved {
    path: PathBuf,
    /// What it holds, as far as this agent wrote it.
    content: Mutex<Vec<u8>>,
}

impl Saved {
    fn new(path: PathBuf) -> Self {
        Self { path, content: Mutex::default() }
    }

    fn read(&self) -> Records {
        let known = match std::fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Records::new(),
            Err(error) => Err(error.to_string()),
            Ok(content) => decode(&content).map_err(|error| error.to_string()),
        };
        known.unwrap_or_else(|error| {
            let path = self.path.display();
            tracing::warn!(%path, error, "what pods were promised is taken from their status: the file cannot be used, the next replaces it");
            Records::new()
        })
    }

    fn turn(&self) -> MutexGuard<'_, Vec<u8>> {
        self.content.lock()
    }

    fn write(&self, records: &Records, mut turn: MutexGuard<'_, Vec<u8>>) -> io::Result<()> {
        let content = encode(records).map_err(io::Error::other)?;
        if *turn != content {
            whole_file::replace(&self.path, &content)?;
            *turn = content;
        }
        Ok(())
    }
}

fn warn(file: &Saved, error: &io::Error) {
    let path = file.path.display();
    tracing::warn!(%path, %error, "what pods were promised cannot be kept for the next agent");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(uid: &str, cpu: &str) -> Arc<Pod> {
        let containers = json!([{"name": "c", "resources": {"requests": {"cpu": cpu}}}]);
        let pod = json!({"metadata": {"uid": uid}, "spec": {"containers": containers}});
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    fn cpu(pod: &Pod) -> String {
        let resources = spec::containers(pod)[0].resources.clone().unwrap_or_default();
        resources.requests.unwrap_or_default()["cpu"].0.clone()
    }

    #[test]
    fn the_next_agent_knows_what_was_promised_and_given() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = Promises::read(dir.path());
        first.begin(&mut first.lock(), &pod("a", "1"));
        first.begin(&mut first.lock(), &pod("b", "1"));
        first.change(&mut first.lock(), pod("b", "2")).expect("written");
        first.note_given("b", Some(allocation::record(&pod("b", "1"))));
        first.note_given("a", Some(allocation::record(&pod("a", "7"))));
        first.note_given("a", None);
        first.save();

        let second = Promises::read(dir.path());
        let wanted = |uid| cpu(&second.lock().of(&pod(uid, "9")));
        assert_eq!(["a", "b", "c"].map(wanted), ["1", "2", "9"]);
        assert_eq!(
            ["a", "b"].map(|uid| second.given(uid)),
            ["a", "b"].map(|uid| allocation::record(&pod(uid, "1")))
        );
        // What it writes before all pods have appeared says no less.
        second.change(&mut second.lock(), pod("c", "3")).expect("written");
        let third = Promises::read(dir.path());
        assert_eq!(["a", "b", "c"].map(|uid| cpu(&third.lock().of(&pod(uid, "9")))), ["1", "2", "3"]);

        third.retain(|uid| uid == "b");
        third.begin(&mut third.lock(), &pod("b", "9"));
        third.begin(&mut third.lock(), &pod("c", "8"));
        third.remove("c");
        third.save();
        let last = Promises::read(dir.path());
        assert_eq!(last.lock().records().into_keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_passed_over_and_replaced() {
        let dir = tempfile::tempdir().expect("a folder");
        for broken in ["", "{\"data\":\"{}\",\"checksum\":1}"] {
            std::fs::write(dir.path().join(ALLOCATED), broken).expect("written");
            let promises = Promises::read(dir.path());
            assert_eq!(cpu(&promises.lock().of(&pod("a", "9"))), "9");
            promises.change(&mut promises.lock(), pod("a", "1")).expect("written");
            assert_eq!(cpu(&Promises::read(dir.path()).lock().of(&pod("a", "9"))), "1");
        }
        // A folder in its place: the agent goes on without.
        std::fs::create_dir(dir.path().join(ACTUATED)).expect("made");
        Promises::read(dir.path()).save();
    }

    #[test]
    fn what_cannot_be_written_down_is_not_promised() {
        let dir = tempfile::tempdir().expect("a folder");
        let promises = Promises::read(dir.path());
        promises.begin(&mut promises.lock(), &pod("a", "1"));
        let ask = || promises.promise(&mut promises.lock(), &pod("a", "2"), |_, _| Verdict::Feasible);
        // A folder takes no file's place.
        let in_the_way = dir.path().join(ALLOCATED).join("deep");
        std::fs::create_dir_all(&in_the_way).expect("made");
        let (kept, pending) = ask();
        assert_eq!(cpu(&kept), "1");
        assert!(matches!(&pending, Some(Standing::Pending("Deferred", _))), "{pending:?}");
        assert_eq!(cpu(&promises.lock().of(&pod("a", "9"))), "1");

        std::fs::remove_dir_all(dir.path().join(ALLOCATED)).expect("removed");
        let (now, pending) = ask();
        assert_eq!((cpu(&now), pending), ("2".to_owned(), None));
        assert_eq!(cpu(&Promises::read(dir.path()).lock().of(&pod("a", "9"))), "2");
    }
}
