//! Nodes without a runtime: each registers, renews its lease and reports its pods as running, in a few kilobytes
//! of memory. One process carries thousands, for scale tests.
//!
//! One watch of all pods serves every node of the fleet; a pod is running as soon as it is seen, has an address
//! of its own, and is gone as soon as it is deleted.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStatus, HostIP, Node, Pod,
    PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use machinery::client::watch::lasting;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::cli::AnyError;
use crate::kubelet::cluster::pod_status;
use crate::kubelet::config::Config;
use crate::kubelet::node::facts::{Facts, go_arch};
use crate::kubelet::node::lease::lease;
use crate::kubelet::node::register::new_node;
use crate::kubelet::node::status::{Inputs, status};
use crate::kubelet::pod::conditions::conditions;
use crate::kubelet::pod::container_status::Statuses;
use crate::kubelet::pod::observed::{Observed, Sandbox};
use crate::kubelet::pod::phase::Phase;
use crate::kubelet::pod::spec;

/// Requests under way at once for the whole fleet.
const REQUESTS_MAX: usize = 64;
/// How often a node's lease is renewed, and its duration.
const LEASE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(40));
/// How often an unchanged status is sent.
const STATUS_PERIOD: Duration = Duration::from_secs(300);
/// What a hollow node has.
const CPUS: u64 = 32;
/// See [`CPUS`].
const MEMORY_BYTES: u64 = 256 << 30;
/// See [`CPUS`].
const PODS_MAX: u32 = 110;
/// Where hollow pods' addresses begin; the range is not routed anywhere.
const FIRST_POD_IP: u32 = 0x64_40_00_01;

struct Fleet {
    client: Client,
    prefix: String,
    requests: Semaphore,
    facts: Facts,
}

/// Runs `count` nodes named `<prefix>0`… until the token fires.
pub async fn run(
    client: Client,
    name_prefix: &str,
    count: usize,
    shutdown: CancellationToken,
) -> Result<(), AnyError> {
    let facts = Facts {
        cpus: CPUS,
        memory_bytes: MEMORY_BYTES,
        disk_bytes: MEMORY_BYTES,
        kernel: "hollow".into(),
        os_image: "hollow".into(),
        architecture: go_arch(),
        runtime: "hollow://1".into(),
        ..Default::default()
    };
    let fleet = Arc::new(Fleet {
        client,
        prefix: name_prefix.to_owned(),
        requests: Semaphore::new(REQUESTS_MAX),
        facts,
    });
    let nodes = (0..count).map(|index| tokio::spawn(Arc::clone(&fleet).node(index, count, shutdown.clone())));
    let nodes: Vec<_> = nodes.collect();
    fleet.pods(&shutdown).await;
    for node in nodes {
        node.await?;
    }
    Ok(())
}

fn config(name: &str, index: usize) -> Config {
    let host = u32::try_from(index).unwrap_or(0) + u32::from(Ipv4Addr::new(100, 127, 0, 1));
    Config::new(name, vec![Ipv4Addr::from(host).into()])
}

impl Fleet {
    /// One node's life.
    async fn node(self: Arc<Self>, index: usize, count: usize, shutdown: CancellationToken) {
        let name = format!("{}{index}", self.prefix);
        let config = config(&name, index);
        // Spread over one lease period, so that thousands do not come at once.
        let spread = LEASE.0.mul_f64(index as f64 / count.max(1) as f64);
        let mut known: Option<Lease> = None;
        let mut uid = None;
        let mut reported: Option<tokio::time::Instant> = None;
        tokio::time::sleep(spread.min(Duration::from_secs(10))).await;
        while !shutdown.is_cancelled() {
            if reported.is_none_or(|at| at.elapsed() >= STATUS_PERIOD) {
                match self.report(&config).await {
                    Ok(node) => {
                        uid = node.metadata.uid;
                        reported = Some(tokio::time::Instant::now());
                    }
                    Err(error) => tracing::debug!(%error, name, "a hollow node was not reported"),
                }
            }
            known = self.renew(&name, uid.as_deref(), known.take()).await;
            tokio::select! {
                () = tokio::time::sleep(LEASE.0) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    async fn report(&self, config: &Config) -> Result<Node, kube::Error> {
        let _turn = self.requests.acquire().await.ok();
        let api = Api::<Node>::all(self.client.clone());
        let inputs = Inputs {
            hostname: config.node_name.clone(),
            ips: config.node_ips.clone(),
            port: config.port,
            pods_max: PODS_MAX,
            ..Default::default()
        };
        let fresh = |old| status(&self.facts, &inputs, old, Timestamp::now());
        match api.get_opt(&config.node_name).await? {
            None => api.create(&PostParams::default(), &new_node(config, fresh(&Default::default()))).await,
            Some(node) => {
                let body = json!({"status": fresh(&node.status.unwrap_or_default())});
                api.patch_status(&config.node_name, &PatchParams::default(), &Patch::Merge(body)).await
            }
        }
    }

    async fn renew(&self, name: &str, uid: Option<&str>, known: Option<Lease>) -> Option<Lease> {
        let _turn = self.requests.acquire().await.ok();
        let api = Api::<Lease>::namespaced(self.client.clone(), "kube-node-lease");
        let old = match known {
            Some(lease) => Some(lease),
            None => api.get_opt(name).await.ok()?,
        };
        let exists = old.is_some();
        let fresh = lease(name, uid, old, LEASE.1, Timestamp::now());
        let sent = if exists {
            api.replace(name, &PostParams::default(), &fresh).await
        } else {
            api.create(&PostParams::default(), &fresh).await
        };
        sent.inspect_err(|error| tracing::debug!(%error, name, "a hollow lease was not renewed")).ok()
    }

    /// Carries the fleet's pods until the token fires.
    async fn pods(self: &Arc<Self>, shutdown: &CancellationToken) {
        let stream =
            lasting(Api::<Pod>::all(self.client.clone()), watcher::Config::default()).default_backoff();
        let mut stream = std::pin::pin!(stream);
        let mut addresses: HashMap<String, u32> = HashMap::new();
        let mut next = FIRST_POD_IP;
        loop {
            let event = tokio::select! {
                event = stream.next() => event,
                () = shutdown.cancelled() => return,
            };
            match event {
                None => return,
                Some(Err(error)) => tracing::debug!(%error, "the hollow fleet's watch was interrupted"),
                Some(Ok(watcher::Event::Delete(pod))) => {
                    addresses.remove(spec::uid(&pod));
                }
                Some(Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)))
                    if self.is_ours(&pod) =>
                {
                    let address = *addresses.entry(spec::uid(&pod).to_owned()).or_insert_with(|| {
                        next = next.wrapping_add(1);
                        next
                    });
                    tokio::spawn(Arc::clone(self).pod(pod, Ipv4Addr::from(address)));
                }
                Some(Ok(_)) => {}
            }
        }
    }

    fn is_ours(&self, pod: &Pod) -> bool {
        let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
        node.strip_prefix(&self.prefix).is_some_and(|rest| rest.parse::<usize>().is_ok())
    }

    async fn pod(self: Arc<Self>, pod: Pod, address: Ipv4Addr) {
        let _turn = self.requests.acquire().await.ok();
        let deleted = pod.metadata.deletion_timestamp.is_some();
        let status = hollow_status(&pod, address, Timestamp::now());
        let phase = spec::status(&pod).phase.clone();
        let running = phase.as_deref() == status.phase.as_deref();
        let sent = match pod_status::patch(&pod, &status).filter(|_| !running || deleted) {
            Some(body) => pod_status::send(&self.client, &pod, &body).await.map(drop),
            None => Ok(()),
        };
        let done = if deleted { pod_status::remove(&self.client, &pod).await } else { sent };
        if let Err(error) = done {
            tracing::debug!(%error, pod = spec::display(&pod), "a hollow pod was not reported");
        }
    }
}

/// The status of a pod that runs nowhere: everything started and ready, or, when deleted, ended well.
pub fn hollow_status(pod: &Pod, address: Ipv4Addr, now: Timestamp) -> PodStatus {
    let old = spec::status(pod).into_owned();
    let deleted = pod.metadata.deletion_timestamp.is_some();
    let started = Some(Time(now));
    let state = |ended: bool| {
        if ended {
            let terminated = ContainerStateTerminated {
                reason: Some("Completed".into()),
                started_at: started.clone(),
                finished_at: started.clone(),
                ..Default::default()
            };
            ContainerState { terminated: Some(terminated), ..Default::default() }
        } else {
            let running = ContainerStateRunning { started_at: started.clone() };
            ContainerState { running: Some(running), ..Default::default() }
        }
    };
    let one = |c: &k8s_openapi::api::core::v1::Container, ended: bool, ready: bool| ContainerStatus {
        name: c.name.clone(),
        image: c.image.clone().unwrap_or_default(),
        image_id: c.image.clone().unwrap_or_default(),
        container_id: Some(format!("hollow://{}/{}", spec::uid(pod), c.name)),
        ready,
        started: Some(!ended),
        state: Some(state(ended)),
        ..Default::default()
    };
    let statuses = Statuses {
        init: spec::init_containers(pod)
            .iter()
            .map(|c| one(c, deleted || !spec::is_sidecar(c), !deleted))
            .collect(),
        regular: spec::containers(pod).iter().map(|c| one(c, deleted, !deleted)).collect(),
        ephemeral: vec![],
    };
    let phase = if deleted { Phase::Succeeded } else { Phase::Running };
    let ip = address.to_string();
    let sandbox = Sandbox {
        id: String::new(),
        attempt: 0,
        ready: !deleted,
        created_at: now,
        ips: vec![ip.clone()],
        host_network: spec::is_host_network(pod),
    };
    let observed = Observed { sandboxes: vec![sandbox], containers: vec![] };
    PodStatus {
        conditions: Some(conditions(pod, &observed, &statuses, phase, &old, now)),
        phase: Some(phase.as_str().into()),
        init_container_statuses: Some(statuses.init).filter(|s| !s.is_empty()),
        container_statuses: Some(statuses.regular),
        host_ip: Some(ip.clone()),
        host_ips: Some(vec![HostIP { ip: ip.clone() }]),
        pod_ip: Some(ip.clone()),
        pod_ips: Some(vec![PodIP { ip }]),
        start_time: old.start_time.or(started),
        observed_generation: pod.metadata.generation,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hollow_pods_are_ready_until_deleted() {
        let mut pod: Pod =
            serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"nodeName": "h0",
            "initContainers": [{"name": "i"}], "containers": [{"name": "c"}]}}))
            .expect("a pod");
        let now = Timestamp::UNIX_EPOCH;
        let running = hollow_status(&pod, Ipv4Addr::new(100, 64, 0, 2), now);
        let ready = |s: &PodStatus| {
            s.conditions.iter().flatten().find(|c| c.type_ == "Ready").map(|c| c.status.clone())
        };
        assert_eq!((running.phase.as_deref(), ready(&running).as_deref()), (Some("Running"), Some("True")));
        pod.metadata.deletion_timestamp = Some(Time(now));
        let gone = hollow_status(&pod, Ipv4Addr::new(100, 64, 0, 2), now);
        assert_eq!((gone.phase.as_deref(), ready(&gone).as_deref()), (Some("Succeeded"), Some("False")));
    }
}
