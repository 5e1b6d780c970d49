//! Reports the node's status: computed every few seconds, sent when it changed or is old.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerImage, Node, NodeRuntimeHandler, NodeStatus};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use proto::cri;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::facts::Facts;
use super::register;
use super::status::{IMAGES_MAX, Inputs, allocatable, same_but_heartbeat, status};
use crate::kubelet::config::Config;
use crate::kubelet::cri::client::{STATUS_TIMEOUT, timed};
use crate::kubelet::csi::in_use;
use crate::kubelet::eviction::Pressure;
use crate::kubelet::eviction::thresholds::amount;
use crate::kubelet::worker::pleg::Health;
use crate::kubelet::worker::{Context, Pool};

/// Pause before registration is tried again: first and longest.
const REGISTER_RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(7));

/// Reports the node.
pub struct Reporter {
    context: Arc<Context>,
    pool: Arc<Pool>,
    health: Arc<Health>,
    pressure: Arc<Pressure>,
    client: Client,
    sent: Option<(NodeStatus, Instant)>,
}

impl Reporter {
    /// A reporter that has sent nothing yet.
    pub fn new(pool: Arc<Pool>, health: Arc<Health>, pressure: Arc<Pressure>) -> Self {
        let context = Arc::clone(pool.context());
        let client = context.client.clone();
        Self { context, pool, health, pressure, client, sent: None }
    }

    fn config(&self) -> &Config {
        &self.context.config
    }

    /// Registers the node, however long it takes; its object.
    pub async fn register(&mut self, shutdown: &CancellationToken) -> Option<Node> {
        let mut pause = REGISTER_RETRY.0;
        loop {
            let status = self.compute(&NodeStatus::default()).await;
            match register::register(&self.client, self.config(), status).await {
                Ok(node) => {
                    self.pool.node.write().node = Some(node.clone());
                    return Some(node);
                }
                Err(error) => tracing::warn!(%error, "the node could not be registered"),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => return None,
            }
            pause = (pause * 2).min(REGISTER_RETRY.1);
        }
    }

    /// Reports until the token fires.
    pub async fn run(mut self, shutdown: CancellationToken) {
        // Right after the start things change fast: networks come up, the first pods want in.
        let mut quick = 20_u32;
        loop {
            if let Err(error) = self.report().await {
                tracing::warn!(%error, "the node's status was not taken");
            }
            let ready = self.sent.as_ref().is_some_and(|(s, _)| is_ready(s));
            let pause = if ready || quick == 0 {
                self.config().status_update_frequency
            } else {
                quick -= 1;
                Duration::from_millis(500)
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.pressure.changed.notified() => {}
                () = self.context.csi.in_use.wanted() => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn report(&mut self) -> Result<(), kube::Error> {
        let api = Api::<Node>::all(self.client.clone());
        let Some(node) = api.get_opt(&self.config().node_name).await? else {
            // Somebody removed the node: it comes back.
            let status = self.compute(&NodeStatus::default()).await;
            register::register(&self.client, self.config(), status).await?;
            self.sent = None;
            return Ok(());
        };
        let old = node.status.clone().unwrap_or_default();
        self.pool.node.write().node = Some(node);
        let new = self.compute(&old).await;
        let recent = self.sent.as_ref().is_some_and(|(sent, at)| {
            at.elapsed() < self.config().status_report_frequency && same_but_heartbeat(sent, &new)
        });
        if recent && same_owned(&old, &new) {
            return Ok(());
        }
        let name = self.config().node_name.clone();
        let patch = Patch::Strategic(json!({"status": patch_body(&old, &new)}));
        api.patch_status(&name, &PatchParams::default(), &patch).await?;
        if let Some(boot) = rebooted(&old, &new) {
            let message = format!("Node {name} has been rebooted, boot id: {boot}");
            self.context.recorder.node(true, "Rebooted", message);
        }
        let in_use = new.volumes_in_use.iter().flatten().cloned().collect();
        self.sent = Some((new, Instant::now()));
        self.context.csi.in_use.tell(in_use);
        Ok(())
    }

    async fn compute(&self, old: &NodeStatus) -> NodeStatus {
        let facts = Facts::read(&self.config().root_dir, self.context.runtime.version());
        let inputs = self.inputs(&facts, old).await;
        *self.context.allocatable.write() = allocatable(&facts, &inputs);
        status(&facts, &inputs, old, Timestamp::now())
    }

    async fn inputs(&self, facts: &Facts, old: &NodeStatus) -> Inputs {
        let config = self.config();
        let (mut problems, handlers) = self.runtime_state().await;
        problems.extend(self.health.problem(Timestamp::now()));
        let threshold = |signal: &str, of: u64| {
            let text = config.eviction_hard.iter().find(|(s, _)| s == signal).map(|(_, v)| v.as_str());
            text.map_or(0, |text| amount(text, of))
        };
        let signals = self.pressure.current();
        {
            let mut node = self.pool.node.write();
            node.memory_pressure = signals.memory;
            node.disk_pressure = signals.disk;
        }
        Inputs {
            hostname: config.hostname.clone(),
            ips: config.node_ips.clone(),
            port: config.port,
            pods_max: config.max_pods,
            memory_reserved_bytes: config.memory_reserved_bytes
                + threshold("memory.available", facts.memory_bytes),
            cpu_reserved_milli: config.cpu_reserved_milli,
            disk_reserved_bytes: threshold("nodefs.available", facts.disk_bytes),
            devices: self.context.devices.totals(),
            problems,
            memory_pressure: signals.memory,
            disk_pressure: signals.disk,
            pid_pressure: signals.pids,
            images: self.images().await,
            handlers,
            volumes_in_use: self.volumes_in_use(old),
        }
    }

    /// Why the runtime is not ready, and its handlers.
    async fn runtime_state(&self) -> (Vec<String>, Vec<NodeRuntimeHandler>) {
        let answer = match self.context.runtime.status().await {
            Ok(answer) => answer,
            Err(error) => {
                let text = format!("container runtime is down: {error}");
                return (vec![text], vec![]);
            }
        };
        let mut problems = Vec::new();
        let mut network = None;
        for condition in answer.status.unwrap_or_default().conditions {
            if condition.status {
                continue;
            }
            let text = format!("reason:{} message:{}", condition.reason, condition.message);
            match condition.r#type.as_str() {
                "NetworkReady" => {
                    network = Some(format!("container runtime network not ready: NetworkReady=false {text}"));
                }
                "RuntimeReady" => {
                    problems.push(format!("container runtime not ready: RuntimeReady=false {text}"))
                }
                _ => {}
            }
        }
        problems.extend(network.clone());
        *self.context.network_error.write() = network;
        let handlers = answer
            .runtime_handlers
            .into_iter()
            .map(|h| NodeRuntimeHandler { name: Some(h.name), ..Default::default() });
        (problems, handlers.collect())
    }

    async fn images(&self) -> Vec<ContainerImage> {
        let request = timed(cri::ListImagesRequest { filter: None }, STATUS_TIMEOUT);
        let Ok(answer) = self.context.runtime.images().list_images(request).await else { return vec![] };
        let mut images = answer.into_inner().images;
        images.sort_by(|a, b| (b.size, &a.id).cmp(&(a.size, &b.id)));
        images.truncate(IMAGES_MAX);
        let convert = |image: cri::Image| ContainerImage {
            names: Some(image.repo_digests.into_iter().chain(image.repo_tags).collect()),
            size_bytes: i64::try_from(image.size).ok(),
        };
        images.into_iter().map(convert).collect()
    }

    /// While the disk does not tell, what was told before stands.
    fn volumes_in_use(&self, old: &NodeStatus) -> Vec<String> {
        in_use::on_disk(self.context.volumes.layout()).unwrap_or_else(|error| {
            tracing::warn!(%error, "the volumes in use cannot be listed");
            old.volumes_in_use.clone().unwrap_or_default()
        })
    }
}

fn is_ready(status: &NodeStatus) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// The name of this boot, where the API has known the node under another's.
fn rebooted<'s>(api: &NodeStatus, own: &'s NodeStatus) -> Option<&'s str> {
    let known = &api.node_info.as_ref()?.boot_id;
    let own = &own.node_info.as_ref()?.boot_id;
    (!known.is_empty() && known != own).then_some(own)
}

/// True if the API still shows what is ours.
fn same_owned(api: &NodeStatus, own: &NodeStatus) -> bool {
    let ready = |s: &NodeStatus| {
        s.conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == "Ready")
            .map(|c| (c.status.clone(), c.reason.clone()))
    };
    ready(api) == ready(own) && api.allocatable == own.allocatable && api.volumes_in_use == own.volumes_in_use
}

/// Only what differs; addresses replace each other, since they merge by type.
fn patch_body(old: &NodeStatus, new: &NodeStatus) -> Value {
    let (old, new) =
        (serde_json::to_value(old).unwrap_or_default(), serde_json::to_value(new).unwrap_or_default());
    let mut body = serde_json::Map::new();
    for (key, value) in new.as_object().into_iter().flatten() {
        if old.get(key) == Some(value) {
            continue;
        }
        let value = match (key.as_str(), value) {
            ("addresses", Value::Array(items)) => {
                let directive = std::iter::once(json!({"$patch": "replace"}));
                Value::Array(directive.chain(items.iter().cloned()).collect())
            }
            _ => value.clone(),
        };
        body.insert(key.clone(), value);
    }
    for key in ["volumesInUse", "images"] {
        if old.get(key).is_some() && new.get(key).is_none() {
            body.insert(key.to_owned(), Value::Null);
        }
    }
    Value::Object(body)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::NodeSystemInfo;

    use super::*;

    #[test]
    fn what_the_api_lost_is_sent_again() {
        let status = |in_use: &[&str]| NodeStatus {
            volumes_in_use: Some(in_use.iter().map(|name| (*name).to_owned()).collect())
                .filter(|names: &Vec<String>| !names.is_empty()),
            ..Default::default()
        };
        for (api, own, expected) in [(&["a"][..], &["a"][..], true), (&[], &[], true), (&[], &["a"], false)] {
            assert_eq!(same_owned(&status(api), &status(own)), expected, "{api:?} {own:?}");
        }
    }

    #[test]
    fn another_boot_is_told_apart_from_the_first_report() {
        let status = |boot: Option<&str>| NodeStatus {
            node_info: boot.map(|boot| NodeSystemInfo { boot_id: boot.to_owned(), ..Default::default() }),
            ..Default::default()
        };
        for (api, own, expected) in
            [(None, "b", None), (Some(""), "b", None), (Some("b"), "b", None), (Some("a"), "b", Some("b"))]
        {
            assert_eq!(rebooted(&status(api), &status(Some(own))), expected, "{api:?} {own}");
        }
    }
}
