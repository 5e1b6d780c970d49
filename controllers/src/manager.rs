//! Starts and stops the loops of one process: caches first, then workers; on shutdown workers finish the key they
//! run, so that leadership can be handed over at once without a write left half way.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::options::{Credentials, Options};
use crate::runtime::Wiring;
use crate::runtime::client::{ApiClient, EventSink};
use crate::runtime::clock::{Clock, SystemClock};
use crate::runtime::controller::{Background, BackgroundContext};
use crate::runtime::identity::{Identity, Impersonated, Process, ServiceAccountToken};
use crate::runtime::metrics;
use crate::runtime::queue::Queue;
use crate::runtime::store::AnyStore;
use crate::runtime::stores::Stores;
use crate::runtime::worker::{Loop, Memory};
use crate::table::{Row, UnknownController, select};

/// How often a loop that waits for its caches looks at them.
const SYNC_POLL: Duration = Duration::from_millis(5);
/// How often gauges that change by waiting are refreshed.
const GAUGES: Duration = Duration::from_secs(1);

/// The clients of one process.
#[derive(Clone)]
pub struct Clients {
    /// The process' own, for watches alone; may be the same as `process`.
    pub watching: Client,
    /// The process' own: discovery, tokens of service accounts, events.
    pub process: Client,
    /// Without credentials; needed only for [`Credentials::ServiceAccounts`].
    pub anonymous: Option<Client>,
}

/// Why the loops could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// `--controllers` names something unknown.
    #[error(transparent)]
    Unknown(#[from] UnknownController),
    /// Service account credentials were asked for without a client to use them with.
    #[error("service account credentials need a client without credentials of its own; use a kubeconfig")]
    NoAnonymousClient,
    /// A name that cannot be a header.
    #[error("identity of {controller}: {why}")]
    Identity {
        /// Whose.
        controller: &'static str,
        /// Why not.
        why: String,
    },
}

struct Started {
    one: Arc<Loop>,
    workers: usize,
    needs: Vec<Arc<dyn AnyStore>>,
    background: Vec<Background>,
}

/// Runs the selected controllers until `stop`.
///
/// # Errors
/// Only for settings that cannot work; requests that fail later are tried again.
pub async fn run(
    clients: Clients,
    options: Options,
    events: Arc<dyn EventSink>,
    stop: CancellationToken,
) -> Result<(), StartError> {
    let (options, stores) = (Arc::new(options), Stores::default());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let rows = select(&options.controllers)?;
    let mut started = Vec::with_capacity(rows.len());
    for row in rows {
        started.push(start(row, &clients, &options, &stores, &clock, &events)?);
    }
    let mut informers = JoinSet::new();
    for entry in stores.entries() {
        let (client, stop) = (clients.watching.clone(), stop.clone());
        informers.spawn(async move { entry.informer.run(client, stop).await });
    }
    let mut loops = JoinSet::new();
    for one in started {
        loops.spawn(run_loop(one, clients.watching.clone(), stores.clone(), stop.clone()));
    }
    stop.cancelled().await;
    if tokio::time::timeout(options.shutdown_grace, async { while loops.join_next().await.is_some() {} })
        .await
        .is_err()
    {
        tracing::warn!("some controllers did not finish their keys in time and were cut off");
    }
    Ok(())
}

fn start(
    row: &'static Row,
    clients: &Clients,
    options: &Arc<Options>,
    stores: &Stores,
    clock: &Arc<dyn Clock>,
    events: &Arc<dyn EventSink>,
) -> Result<Started, StartError> {
    let queue = Queue::new(row.queue, clock.clone());
    let mut wiring = Wiring::new(stores.clone(), queue.clone(), clock.clone(), options.clone());
    let controller = (row.build)(&mut wiring);
    let asked = options.workers.others.iter().find(|(name, _)| *name == row.name);
    let workers = asked.map_or_else(|| controller.workers(), |(_, count)| *count).max(1);
    let (needs, background) = wiring.into_parts();
    let (client, identity) = identity(row, clients, options.credentials)?;
    let api = Arc::new(ApiClient::new(client, identity, events.clone(), row.component()));
    let (stores, clock, memory) = (stores.clone(), clock.clone(), Mutex::new(Memory::default()));
    let one = Arc::new(Loop { name: row.name, controller, queue, api, stores, clock, memory });
    Ok(Started { one, workers, needs, background })
}

fn identity(
    row: &'static Row,
    clients: &Clients,
    credentials: Credentials,
) -> Result<(Client, Arc<dyn Identity>), StartError> {
    // Upstream's token controller signs with the process' own rights, for it has no account.
    if row.account.is_empty() {
        return Ok((clients.process.clone(), Arc::new(Process)));
    }
    match credentials {
        Credentials::Process => Ok((clients.process.clone(), Arc::new(Process))),
        Credentials::Impersonate => {
            let identity = Impersonated::service_account(row.account);
            let identity = identity
                .map_err(|failure| StartError::Identity { controller: row.name, why: failure.message })?;
            Ok((clients.process.clone(), Arc::new(identity)))
        }
        Credentials::ServiceAccounts => {
            let client = clients.anonymous.clone().ok_or(StartError::NoAnonymousClient)?;
            Ok((client, Arc::new(ServiceAccountToken::new(clients.process.clone(), row.account))))
        }
    }
}

async fn run_loop(started: Started, client: Client, stores: Stores, stop: CancellationToken) {
    let Started { one, workers, needs, background } = started;
    let filled = async {
        while !needs.iter().all(|store| store.observed().lists_done > 0) {
            tokio::time::sleep(SYNC_POLL).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => return,
        () = filled => {}
    }
    tracing::info!(controller = one.name, "caches are filled; working");
    metrics::set_running(one.name, true);
    let mut tasks = JoinSet::new();
    for task in background {
        let context =
            BackgroundContext { client: client.clone(), stores: stores.clone(), stop: stop.clone() };
        tasks.spawn(task(context));
    }
    for _ in 0..workers {
        tasks.spawn(one.clone().work(stop.clone()));
    }
    tasks.spawn(refresh_gauges(one.queue.clone(), stop));
    while tasks.join_next().await.is_some() {}
    metrics::set_running(one.name, false);
}

async fn refresh_gauges(queue: Arc<Queue>, stop: CancellationToken) {
    while tokio::time::timeout(GAUGES, stop.cancelled()).await.is_err() {
        queue.observe_running();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use parking_lot::Mutex;
    use serde_json::json;
    use tokio_util::sync::CancellationToken;

    use super::{Clients, run};
    use crate::options::{Credentials, Options};
    use crate::runtime::client::EventSink;
    use crate::runtime::plan::Note;
    use crate::testing::model::Model;
    use crate::testing::server::client;

    struct Silent;

    impl EventSink for Silent {
        fn record(&self, _component: &'static str, _note: Note) {}
    }

    fn clients_of(model: &Arc<Mutex<Model>>) -> Clients {
        Clients { watching: client(model.clone()), process: client(model.clone()), anonymous: None }
    }

    fn options(names: &[&str]) -> Options {
        Options { controllers: names.iter().map(|name| name.to_string()).collect(), ..Options::default() }
    }

    async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
        for _ in 0..500 {
            if is_so() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never happened: {what}");
    }

    #[tokio::test]
    async fn the_shell_lists_watches_writes_and_stops() {
        let mut model = Model::default();
        model.now = crate::testing::now();
        model.apply(json!({"kind": "Namespace", "metadata": {"name": "first"}}));
        let model = Arc::new(Mutex::new(model));
        let clients = clients_of(&model);
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(
            clients,
            options(&["serviceaccount", "replicaset"]),
            Arc::new(Silent),
            stop.clone(),
        ));
        eventually("what was there is served", || {
            model.lock().get("ServiceAccount", "first", "default").is_some()
        })
        .await;
        model.lock().apply(json!({"kind": "Namespace", "metadata": {"name": "second"}}));
        eventually("what comes is served", || {
            model.lock().get("ServiceAccount", "second", "default").is_some()
        })
        .await;
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}});
        model.lock().apply(json!({"kind": "ReplicaSet", "metadata": {"name": "rs", "namespace": "first"},
            "spec": {"replicas": 40, "selector": {"matchLabels": {"a": "b"}}, "template": template}}));
        eventually("pods are made", || model.lock().all("Pod").len() >= 40).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(model.lock().created["Pod"], 40, "and none twice");
        stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(2), running).await.expect("stops at once");
        assert!(ended.expect("no panic").is_ok());
        model.lock().apply(json!({"kind": "Namespace", "metadata": {"name": "third"}}));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(
            model.lock().get("ServiceAccount", "third", "default").is_none(),
            "nothing happens after the end"
        );
    }

    #[tokio::test]
    async fn a_kind_that_is_not_served_holds_nothing_else_back() {
        let mut model = Model::default();
        model.now = crate::testing::now();
        model.unserved = vec!["validatingadmissionpolicies"];
        let policy = json!({"kind": "ValidatingAdmissionPolicy", "metadata": {"name": "p"}});
        model.apply(policy);
        model.apply(json!({"kind": "Namespace", "metadata": {"name": "first"}}));
        let model = Arc::new(Mutex::new(model));
        let clients = clients_of(&model);
        let stop = CancellationToken::new();
        let names = options(&["serviceaccount", "validatingadmissionpolicy-status-controller"]);
        let running = tokio::spawn(run(clients, names, Arc::new(Silent), stop.clone()));
        eventually("the other kinds are served", || {
            model.lock().get("ServiceAccount", "first", "default").is_some()
        })
        .await;
        let observed = || {
            let policy = model.lock().get("ValidatingAdmissionPolicy", "", "p");
            policy.is_some_and(|policy| !policy["status"]["observedGeneration"].is_null())
        };
        assert!(!observed());
        model.lock().unserved.clear();
        eventually("the kind is back, and so is its loop", observed).await;
        model.lock().unserved = vec!["validatingadmissionpolicies"];
        model.lock().apply(json!({"kind": "Namespace", "metadata": {"name": "second"}}));
        eventually("what remains goes on", || {
            model.lock().get("ServiceAccount", "second", "default").is_some()
        })
        .await;
        stop.cancel();
        assert!(running.await.expect("no panic").is_ok());
    }

    #[tokio::test]
    async fn settings_that_cannot_work_are_refused() {
        let clients = || clients_of(&Arc::default());
        let wrong = run(clients(), options(&["nosuch"]), Arc::new(Silent), CancellationToken::new()).await;
        assert!(wrong.expect_err("unknown").to_string().contains("nosuch"));
        let accounts = Options { credentials: Credentials::ServiceAccounts, ..options(&["job"]) };
        let wrong = run(clients(), accounts, Arc::new(Silent), CancellationToken::new()).await;
        assert!(wrong.is_err(), "service account credentials need a client without any");
    }
}
