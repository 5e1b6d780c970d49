//! The shell around [`Core`]: reads events, writes the table, reports.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    NEEDS, Options, conntrack,
    core::{Core, Plan, UdpFront},
    first_table::FirstTable,
    health::Health,
    http::{self, Answer},
    metrics::Metrics,
    policy::POLICY_CHAIN,
    service_health::ServiceHealth,
};
use crate::network::{
    feed::{Event, Hub, Subscription},
    nft::{ApplyError, Changes, Nft, Slot, script},
    view::Family,
};

/// The proxy's table, family and name.
pub const TABLE: &str = "inet quarterdeck-proxy";

/// Events taken in before the table is written: bounds the delay of the first of them.
const BATCH_MAX: usize = 20_000;
/// Kernels before 6.2 count a chain as used for a moment after its last user left.
const CHAIN_REST: Duration = Duration::from_secs(1);
/// Waits after refused writes: doubles up to the maximum.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// The whole table is written afresh this often, in case somebody changed parts of it.
const FULL_SYNC_PERIOD: Duration = Duration::from_secs(3600);

/// Why the proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Metrics could not be registered.
    #[error("cannot set up metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// An address is taken. Free it, or choose another one.
    #[error("cannot listen on {at} for {what}: {source}")]
    Listen {
        /// What would be served.
        what: &'static str,
        /// Where.
        at: SocketAddr,
        /// Cause.
        source: std::io::Error,
    },
    /// The table could not be removed.
    #[error("cannot remove the proxy's rules: {0}")]
    Cleanup(#[from] ApplyError),
}

/// Removes the proxy's table.
pub async fn cleanup(nft: &Nft) -> Result<(), Error> {
    Ok(nft.apply(&format!("add table {TABLE}\ndelete table {TABLE}\n")).await?)
}

/// Runs the proxy until `shutdown`. The rules stay.
pub async fn run(mut options: Options, shutdown: CancellationToken) -> Result<(), Error> {
    let feed = options.feed.take().unwrap_or_else(|| {
        let mut hub = Hub::new(options.client.clone());
        let feed = hub.subscribe(NEEDS);
        tokio::spawn(hub.run(shutdown.clone()));
        feed
    });
    if let Some(limits) = &options.conntrack {
        limits.apply();
    }
    let metrics = Arc::new(Metrics::new()?);
    // Upstream's rule: unhealthy after twice the longest time between two syncs.
    let health = Arc::new(Mutex::new(Health::new(2 * options.sync_period)));
    serve(&options, &health, &metrics, &shutdown)?;
    let mut runner = Runner {
        core: Core::new(options.core_config()),
        service_health: ServiceHealth::new(health.clone(), Vec::new(), shutdown.clone()),
        nft: options.nft.clone(),
        feed,
        metrics,
        health,
        resting: BTreeMap::new(),
        pending: true,
        due: Instant::now(),
        retry: RETRY_MIN,
        min_sync: options.min_sync,
        full_sync: Instant::now() + FULL_SYNC_PERIOD,
        first: FirstTable::default(),
    };
    runner.run(options.sync_period, &shutdown).await;
    Ok(())
}

fn serve(
    options: &Options,
    health: &Arc<Mutex<Health>>,
    metrics: &Arc<Metrics>,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let (counted, state) = (metrics.clone(), health.clone());
    let healthz: http::Handler = Arc::new(move |path| {
        let now = Timestamp::now();
        let (report, counter) = match path {
            "/healthz" => (state.lock().healthz(now), &counted.healthz),
            "/livez" => (state.lock().livez(now), &counted.livez),
            _ => return Answer::not_found(),
        };
        counter.with_label_values(&[if report.healthy { "200" } else { "503" }]).inc();
        Answer::json(report.healthy, report.body.to_string())
    });
    let (shown, state) = (metrics.clone(), health.clone());
    let metrics: http::Handler = Arc::new(move |path| match path {
        "/metrics" => Answer::text(shown.render()),
        "/proxyMode" => Answer::text("nftables".to_owned()),
        "/healthz" => {
            let report = state.lock().healthz(Timestamp::now());
            Answer::json(report.healthy, report.body.to_string())
        }
        _ => Answer::not_found(),
    });
    let served =
        [("health checks", options.healthz_bind, healthz), ("metrics", options.metrics_bind, metrics)];
    for (what, at, handler) in served {
        let Some(at) = at else { continue };
        match http::listen(at) {
            Ok(listener) => {
                tokio::spawn(http::serve(listener, handler, shutdown.clone()));
            }
            Err(source) if options.bind_hard_fail => return Err(Error::Listen { what, at, source }),
            Err(error) => tracing::error!(%at, what, %error, "cannot listen; going on without"),
        }
    }
    Ok(())
}

struct Runner {
    core: Core,
    feed: Subscription,
    nft: Nft,
    metrics: Arc<Metrics>,
    health: Arc<Mutex<Health>>,
    service_health: ServiceHealth,
    /// Emptied chains and when they may be deleted.
    resting: BTreeMap<Arc<str>, Instant>,
    /// Something has to be written at `due`.
    pending: bool,
    due: Instant,
    retry: Duration,
    min_sync: Duration,
    full_sync: Instant,
    first: FirstTable,
}

impl Runner {
    async fn run(&mut self, period: Duration, shutdown: &CancellationToken) {
        let mut check = tokio::time::interval(period.max(Duration::from_secs(1)));
        loop {
            let next = self.next();
            tokio::select! {
                () = shutdown.cancelled() => return,
                event = self.feed.events.recv() => match event {
                    Some(event) => self.take(&event),
                    None => return,
                },
                () = tokio::time::sleep_until(next), if self.pending && self.core.is_ready() => {}
                _ = check.tick() => self.check_table().await,
            }
            for _ in 0..BATCH_MAX {
                let Ok(event) = self.feed.events.try_recv() else { break };
                self.take(&event);
            }
            if self.core.needs_pods() {
                self.feed.demand.pods();
            }
            if self.core.is_ready() && self.first.is_unasked() {
                self.first.begin(Instant::now(), self.isolates().await);
            }
            if self.pending && self.core.is_ready() && self.next() <= Instant::now() {
                self.sync().await;
            }
        }
    }

    /// When the table may be written.
    fn next(&self) -> Instant {
        self.first.not_before(self.core.is_complete()).map_or(self.due, |first| first.max(self.due))
    }

    /// True if the kernel isolates pods already, or if nobody can tell.
    async fn isolates(&self) -> bool {
        let chain: Vec<&str> = ["chain"].into_iter().chain(TABLE.split(' ')).chain([POLICY_CHAIN]).collect();
        !matches!(self.nft.list_json(&chain).await, Err(ApplyError::Refused(_)))
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::Service(_) => self.metrics.services_total.inc(),
            Event::Slice(_) => self.metrics.endpoints_total.inc(),
            _ => {}
        }
        self.core.handle(event);
        let now = Timestamp::now();
        self.health.lock().queued(now);
        Metrics::set_both(&self.metrics.last_queued, seconds(now));
        self.metrics.services_pending.set(self.core.pending() as f64);
        self.metrics.endpoints_pending.set(self.core.pending() as f64);
        self.pending = true;
    }

    async fn check_table(&mut self) {
        let lost = self.core.is_ready() && matches!(self.nft.has_table(TABLE).await, Ok(false));
        if lost || Instant::now() >= self.full_sync {
            if lost {
                tracing::warn!(table = TABLE, "the table is missing; it is written again");
            }
            self.core.replace_all();
            self.pending = true;
        }
        if self.first.is_written() {
            // A port that was taken may be free by now.
            self.service_health.sync(&self.core.health_checks());
        }
        self.reap().await;
    }

    async fn sync(&mut self) {
        let started = Instant::now();
        let plan = self.core.sync();
        let full = plan.changes.replace_table;
        self.health.lock().set_node_eligible(self.core.is_node_eligible());
        self.pending = false;
        if let Err(error) = self.write(&plan.changes).await {
            self.refused(&error);
            return;
        }
        if self.first.written() && !self.core.is_complete() {
            tracing::warn!("network policies could not be read yet; services work, pods are not isolated");
        }
        self.retry = RETRY_MIN;
        self.due = started + self.min_sync;
        if full {
            self.full_sync = started + FULL_SYNC_PERIOD;
        }
        self.service_health.sync(&self.core.health_checks());
        self.clean_flows(plan.udp.clone()).await;
        self.report(&plan, started, full);
    }

    async fn write(&mut self, changes: &Changes) -> Result<(), ApplyError> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut text = script::render(TABLE, changes);
        if changes.replace_table {
            self.resting.clear();
            // A table that was refused with them is tried without: services matter more than memories.
            if self.retry <= 2 * RETRY_MIN {
                text.push_str(&self.remembered_clients(changes).await);
            }
        }
        self.nft.apply(&text).await?;
        let until = Instant::now() + CHAIN_REST;
        for slot in changes.gone.keys() {
            if let Slot::Chain(name) = slot {
                self.resting.insert(name.clone(), until);
            }
        }
        for slot in changes.put.keys() {
            if let Slot::Chain(name) = slot {
                self.resting.remove(name);
            }
        }
        Ok(())
    }

    /// Session affinity lives in sets that the kernel fills; a table that is written afresh gets them back.
    async fn remembered_clients(&self, changes: &Changes) -> String {
        let family_and_name: Vec<&str> = TABLE.split(' ').collect();
        let what = ["sets", "table", family_and_name[0], family_and_name[1]];
        match self.nft.list_json(&what).await {
            Ok(json) => super::rules::restore_clients(TABLE, &json, changes),
            // No table yet: nobody to remember.
            Err(_) => String::new(),
        }
    }

    fn refused(&mut self, error: &ApplyError) {
        tracing::error!(%error, retry_in_secs = self.retry.as_secs_f64(), "cannot write the service rules");
        Metrics::count_both(&self.metrics.sync_failures);
        self.core.replace_all();
        self.pending = true;
        self.due = Instant::now() + self.retry;
        self.retry = (self.retry * 2).min(RETRY_MAX);
    }

    async fn clean_flows(&self, fronts: Vec<UdpFront>) {
        if fronts.is_empty() {
            return;
        }
        let metrics = self.metrics.clone();
        let cleaning = tokio::task::spawn_blocking(move || {
            for family in Family::ALL {
                let started = std::time::Instant::now();
                match conntrack::clean(family, &fronts) {
                    Ok(deleted) => {
                        metrics.conntrack_deleted.with_label_values(&[family.label()]).inc_by(deleted as f64);
                    }
                    Err(error) => tracing::warn!(%error, ?family, "stale UDP flows may remain"),
                }
                let elapsed = started.elapsed().as_secs_f64();
                metrics.conntrack.with_label_values(&[family.label()]).observe(elapsed);
            }
        });
        if let Err(error) = cleaning.await {
            tracing::error!(%error, "cleaning of UDP flows broke off");
        }
    }

    fn report(&self, plan: &Plan, started: Instant, full: bool) {
        let (metrics, now) = (&self.metrics, Timestamp::now());
        let elapsed = started.elapsed().as_secs_f64();
        Metrics::observe_both(&metrics.sync, elapsed);
        Metrics::observe_both(if full { &metrics.sync_full } else { &metrics.sync_partial }, elapsed);
        Metrics::set_both(&metrics.last_synced, seconds(now));
        for triggered in &plan.triggered {
            Metrics::observe_both(&metrics.programming, seconds(now) - seconds(*triggered));
        }
        let (internal, external) = self.core.without_local_endpoints();
        for (at, family) in Family::ALL.into_iter().enumerate() {
            metrics.without_local.with_label_values(&["internal", family.label()]).set(internal[at] as f64);
            metrics.without_local.with_label_values(&["external", family.label()]).set(external[at] as f64);
        }
        metrics.services_pending.set(0.0);
        metrics.endpoints_pending.set(0.0);
        self.health.lock().updated(now);
        tracing::debug!(
            full,
            objects = plan.changes.put.len(),
            elapsed_secs = elapsed,
            "service rules written"
        );
    }

    /// Deletes chains that have been empty for long enough.
    async fn reap(&mut self) {
        let now = Instant::now();
        let ripe: Vec<_> =
            self.resting.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
        if ripe.is_empty() {
            return;
        }
        let text = script::delete_chains(TABLE, ripe.iter().map(|name| &**name));
        match self.nft.apply(&text).await {
            Ok(()) => ripe.iter().for_each(|name| {
                self.resting.remove(name);
            }),
            Err(error) => {
                tracing::warn!(%error, "unused chains could not be removed; it is tried again");
                Metrics::count_both(&self.metrics.cleanup_failures);
            }
        }
    }
}

fn seconds(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1000.0
}
