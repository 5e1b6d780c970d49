//! Keeps CNI configuration, routes and masquerading in step with the Node objects.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use rustc_hash::FxHashMap;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    NEEDS, Options,
    cni::{self, CniConfig},
    diff,
    feed::{Change, Event, Hub, Kind, Subscription},
    kernel::{Kernel, KernelError, OVERLAY},
    masquerade,
    nft::ApplyError,
    plan::{self, Wanted},
    sysctl,
    view::NodeView,
};

/// Interfaces, foreign CNI configurations and lost entries are looked for this often.
const RESYNC_PERIOD: Duration = Duration::from_secs(15);
/// Node objects change in bursts (every heartbeat of a new node); one look serves them all.
const SETTLE: Duration = Duration::from_millis(200);

/// Why a look at the network broke off. The next look tries again.
#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error("CNI configuration in {dir}: {source}")]
    Cni { dir: PathBuf, source: io::Error },
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("masquerading: {0}")]
    Filter(#[from] ApplyError),
}

/// Runs the pod network until `shutdown`. Routes and configuration stay, so that pods keep their network.
pub async fn run(mut options: Options, shutdown: CancellationToken) -> Result<(), std::convert::Infallible> {
    let feed = options.feed.take().unwrap_or_else(|| {
        let mut hub = Hub::new(options.client.clone());
        let feed = hub.subscribe(NEEDS);
        tokio::spawn(hub.run(shutdown.clone()));
        feed
    });
    let mut network =
        Network { options, nodes: FxHashMap::default(), masquerade: None, stepped_aside: false };
    tokio::select! {
        () = network.follow(feed) => {}
        () = shutdown.cancelled() => {}
    }
    Ok(())
}

struct Network {
    options: Options,
    nodes: FxHashMap<Box<str>, Arc<NodeView>>,
    /// The masquerading script that the kernel has.
    masquerade: Option<String>,
    stepped_aside: bool,
}

impl Network {
    async fn follow(&mut self, mut feed: Subscription) {
        let mut synced = false;
        // When the next look is due; set by the first change, so that a stream of changes cannot put it off.
        let mut due: Option<Instant> = None;
        let mut resync = tokio::time::interval(RESYNC_PERIOD);
        loop {
            let look = async { tokio::time::sleep_until(due.unwrap_or_else(Instant::now)).await };
            let changed = tokio::select! {
                event = feed.events.recv() => match event {
                    Some(Event::Synced(Kind::Node)) => {
                        synced = true;
                        true
                    }
                    Some(event) => self.take(event),
                    None => std::future::pending().await,
                },
                () = look, if synced && due.is_some() => {
                    due = None;
                    self.sync_logged().await;
                    false
                }
                _ = resync.tick() => true,
            };
            if changed {
                due.get_or_insert_with(|| Instant::now() + SETTLE);
            }
        }
    }

    /// True when something that matters here changed: most updates of nodes are heartbeats.
    fn take(&mut self, event: Event) -> bool {
        match event {
            Event::Node(Change::Set(node)) => {
                let before = self.nodes.insert(node.name.clone(), node.clone());
                before.as_deref() != Some(&*node)
            }
            Event::Node(Change::Gone(key)) => self.nodes.remove(&key.name).is_some(),
            _ => false,
        }
    }

    async fn sync_logged(&mut self) {
        if let Err(error) = self.sync().await {
            tracing::error!(%error, "the pod network is incomplete; it is tried again");
        }
    }

    /// This node, with the pod ranges of the options while the Node object has none.
    fn me(&self) -> Option<NodeView> {
        let mut me = (**self.nodes.get(self.options.node_name.as_str())?).clone();
        if me.pod_cidrs.is_empty() {
            me.pod_cidrs.clone_from(&self.options.pod_cidrs);
        }
        (!me.pod_cidrs.is_empty()).then_some(me)
    }

    async fn sync(&mut self) -> Result<(), SyncError> {
        let dir = self.options.cni_conf_dir.clone();
        let failed = |source| SyncError::Cni { dir: dir.clone(), source };
        let names = cni::list(&dir).map_err(failed)?;
        if let Some(other) = cni::foreign(names.iter().map(String::as_str)) {
            if !self.stepped_aside {
                tracing::info!(
                    configuration = other,
                    "another CNI plugin is installed; the pod network steps aside"
                );
            }
            return self.step_aside(&dir).await;
        }
        self.stepped_aside = false;
        let Some(me) = self.me() else {
            tracing::debug!("this node has no pod range yet");
            return Ok(());
        };
        for (path, why, error) in sysctl::apply() {
            tracing::warn!(setting = path, %error, "cannot be set, but is needed so that {why}");
        }
        let kernel = Kernel::open()?;
        let interfaces = kernel.interfaces().await?;
        let wanted = plan::plan(&me, self.nodes.values().map(|node| &**node), &interfaces);
        // A route that the kernel refuses, for one odd node, must not keep this machine's own pods from starting.
        let routes = self.sync_routes(&kernel, &wanted, &interfaces).await;
        self.sync_masquerade(&me).await?;
        let config = CniConfig {
            bridge: self.options.bridge.clone(),
            mtu: plan::pod_mtu(&me, &interfaces),
            pod_cidrs: me.pod_cidrs.clone(),
            state_dir: self.options.state_dir.clone(),
        };
        // Last: from here on the runtime starts pods.
        if cni::write(&dir, &config.render()).map_err(failed)? {
            tracing::info!(dir = %dir.display(), pod_ranges = ?config.pod_cidrs, "CNI configuration written");
        }
        routes
    }

    async fn sync_routes(
        &self,
        kernel: &Kernel,
        wanted: &Wanted,
        interfaces: &[plan::Interface],
    ) -> Result<(), SyncError> {
        let mut known = interfaces.iter().find(|link| link.name == OVERLAY);
        if let (Some(link), Some(overlay)) = (known, &wanted.overlay)
            && !kernel.is_overlay(link.index, overlay, self.options.vxlan_port).await?
        {
            // The node's address or interface changed; routes over the device go and come back with it.
            kernel.delete_link(link.index).await?;
            known = None;
        }
        let overlay = match &wanted.overlay {
            None => known.map(|link| link.index),
            Some(overlay) => {
                let known: Vec<_> = interfaces
                    .iter()
                    .filter(|link| known.is_some() || link.name != OVERLAY)
                    .cloned()
                    .collect();
                let index = kernel.ensure_overlay(overlay, self.options.vxlan_port, &known).await?;
                kernel.set_up(index).await?;
                sysctl::loosen_reverse_path(OVERLAY);
                Some(index)
            }
        };
        let actual = kernel.actual(overlay).await?;
        let mut outcome = Ok(());
        for command in diff::commands(&actual, wanted) {
            // One bad entry must not keep the others out.
            outcome = outcome.and(kernel.run(&command, overlay).await);
        }
        if let (None, Some(index)) = (&wanted.overlay, overlay) {
            outcome = outcome.and(kernel.delete_link(index).await);
        }
        Ok(outcome?)
    }

    async fn sync_masquerade(&mut self, me: &NodeView) -> Result<(), SyncError> {
        let mut cluster: Vec<IpNet> =
            self.nodes.values().flat_map(|node| node.pod_cidrs.iter().copied()).collect();
        cluster.extend(&self.options.cluster_cidrs);
        let script = masquerade::script(&me.pod_cidrs, &cluster);
        let lost = !self.options.nft.has_table(masquerade::TABLE).await?;
        if lost || self.masquerade.as_deref() != Some(&script) {
            self.options.nft.apply(&script).await?;
            self.masquerade = Some(script);
        }
        Ok(())
    }

    async fn step_aside(&mut self, dir: &Path) -> Result<(), SyncError> {
        if std::mem::replace(&mut self.stepped_aside, true) {
            return Ok(());
        }
        cni::remove(dir).map_err(|source| SyncError::Cni { dir: dir.to_owned(), source })?;
        let kernel = Kernel::open()?;
        let interfaces = kernel.interfaces().await?;
        self.sync_routes(&kernel, &Wanted::default(), &interfaces).await?;
        self.masquerade = None;
        Ok(self.options.nft.apply(&masquerade::removal()).await?)
    }
}
