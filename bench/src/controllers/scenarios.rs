//! What the controllers are asked for.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::watch::follow;
use super::{Figure, Options, create_namespace, items};
use crate::apiserver::{Until, closed_loop};
use crate::control_plane::Result;
use crate::control_plane::http::{Call, Connection};

/// Clients that ask.
const CLIENTS: usize = 20;
/// Between two looks at whether something is so.
const POLL: Duration = Duration::from_millis(100);
/// Services that select the same pods.
const SHARED_BY: u64 = 5;

/// One side's cluster.
pub struct Scenario {
    pub address: SocketAddr,
    pub options: Options,
}

fn workload(kind: &str, name: &str, replicas: u64) -> Value {
    let container = json!({"name": "c", "image": "registry.example/pause:1",
        "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}}});
    let template = json!({"metadata": {"labels": {"app": name}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0}});
    json!({"kind": kind, "apiVersion": "apps/v1", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}})
}

fn is_settled(object: &Value, replicas: u64) -> bool {
    let count = |field: &str| object["status"][field].as_u64().unwrap_or(0);
    let current = object["status"]["observedGeneration"] == object["metadata"]["generation"];
    current
        && ["replicas", "updatedReplicas", "availableReplicas"].iter().all(|field| count(field) == replicas)
}

impl Scenario {
    /// Until all nodes are ready.
    pub async fn wait_for_nodes(&self) -> Result<()> {
        let mut connection = Connection::open(self.address).await?;
        let is_ready = |node: &Value| {
            let conditions = node["status"]["conditions"].as_array();
            conditions.is_some_and(|list| list.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
        };
        loop {
            let nodes = items(&mut connection, "/api/v1/nodes").await?;
            if nodes.iter().filter(|node| is_ready(node)).count() as u64 >= self.options.nodes {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Runs one scenario by name.
    pub async fn run(&self, name: &str) -> Result<Vec<Figure>> {
        match name {
            "deployment" => self.deployment().await,
            "rolling" => self.rolling().await,
            "namespace" => self.namespace().await,
            _ => self.services().await,
        }
    }

    /// One large Deployment, from its creation until its pods are there, and bound.
    async fn deployment(&self) -> Result<Vec<Figure>> {
        let mut connection = Connection::open(self.address).await?;
        create_namespace(&mut connection, "large").await?;
        let (address, wanted) = (self.address, self.options.replicas as usize);
        let (ready, begun) = tokio::sync::oneshot::channel();
        let watch = tokio::spawn(async move {
            let (mut created, mut bound) = (HashSet::new(), HashSet::new());
            let mut created_at = None;
            follow(address, "/api/v1/namespaces/large/pods", ready, |event| {
                let name = event.object.metadata.name.clone();
                if !event.object.spec.node_name.is_empty() {
                    bound.insert(name.clone());
                }
                created.insert(name);
                if created.len() >= wanted && created_at.is_none() {
                    created_at = Some(Instant::now());
                }
                bound.len() >= wanted
            })
            .await?;
            Ok::<_, crate::control_plane::Failure>((created_at.unwrap_or_else(Instant::now), Instant::now()))
        });
        begun.await?;
        let started = Instant::now();
        let body = workload("Deployment", "large", self.options.replicas).to_string();
        connection.call(Call::post("/apis/apps/v1/namespaces/large/deployments", body)).await?;
        let (created_at, bound_at) = watch.await??;
        let what = format!("Deployment of {} replicas", self.options.replicas);
        let figures = vec![
            Figure::new(format!("{what}: all pods created"), "ms", millis(created_at - started)),
            Figure::new(format!("{what}: all pods bound"), "ms", millis(bound_at - started)),
        ];
        self.wait_settled("large", self.options.replicas).await?;
        Ok(figures)
    }

    /// Many Deployments that roll at once.
    async fn rolling(&self) -> Result<Vec<Figure>> {
        let mut connection = Connection::open(self.address).await?;
        create_namespace(&mut connection, "rolling").await?;
        let path = "/apis/apps/v1/namespaces/rolling/deployments";
        let (count, replicas) = (self.options.rolling, self.options.rolling_replicas);
        let started = Instant::now();
        closed_loop(self.address, CLIENTS, Until::Count(count), move |number| {
            Call::post(path, workload("Deployment", &format!("d{number}"), replicas).to_string())
        })
        .await?;
        self.wait_settled("rolling", replicas).await?;
        let up = started.elapsed();
        let started = Instant::now();
        closed_loop(self.address, CLIENTS, Until::Count(count), move |number| {
            let body = json!({"spec": {"template": {"metadata": {"annotations": {"turn": "2"}}}}});
            Call::merge_patch(format!("{path}/d{number}"), body.to_string())
        })
        .await?;
        self.wait_settled("rolling", replicas).await?;
        let what = format!("{count} Deployments of {replicas}");
        Ok(vec![
            Figure::new(format!("{what}: up"), "ms", millis(up)),
            Figure::new(format!("{what}: rolled"), "ms", millis(started.elapsed())),
        ])
    }

    async fn wait_settled(&self, namespace: &str, replicas: u64) -> Result<()> {
        let mut connection = Connection::open(self.address).await?;
        let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
        while !items(&mut connection, &path).await?.iter().all(|one| is_settled(one, replicas)) {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// A namespace full of objects, from its deletion until it is gone.
    async fn namespace(&self) -> Result<Vec<Figure>> {
        let mut connection = Connection::open(self.address).await?;
        create_namespace(&mut connection, "full").await?;
        closed_loop(self.address, CLIENTS, Until::Count(self.options.objects), |number| {
            let (kind, plural) =
                if number % 2 == 0 { ("ConfigMap", "configmaps") } else { ("Secret", "secrets") };
            let body = json!({"kind": kind, "apiVersion": "v1", "metadata": {"name": format!("o{number}")}});
            Call::post(format!("/api/v1/namespaces/full/{plural}"), body.to_string())
        })
        .await?;
        let started = Instant::now();
        connection.call(Call::delete("/api/v1/namespaces/full")).await?;
        while connection.read("/api/v1/namespaces/full").await.is_ok() {
            tokio::time::sleep(POLL / 4).await;
        }
        let what = format!("namespace with {} objects: gone", self.options.objects);
        Ok(vec![Figure::new(what, "ms", millis(started.elapsed()))])
    }

    /// Services whose pods come and go: how much is written for it, and how soon the last change has arrived.
    async fn services(&self) -> Result<Vec<Figure>> {
        let (services, endpoints) = (self.options.services, self.options.endpoints);
        let groups = services.div_ceil(SHARED_BY);
        let mut connection = Connection::open(self.address).await?;
        create_namespace(&mut connection, "churn").await?;
        closed_loop(self.address, CLIENTS, Until::Count(groups), move |number| {
            let body = workload("ReplicaSet", &format!("g{number}"), endpoints).to_string();
            Call::post("/apis/apps/v1/namespaces/churn/replicasets", body)
        })
        .await?;
        closed_loop(self.address, CLIENTS, Until::Count(services), move |number| {
            let spec = json!({"selector": {"app": format!("g{}", number / SHARED_BY)}, "ports": [{"port": 80}]});
            let body = json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": format!("s{number}")}, "spec": spec});
            Call::post("/api/v1/namespaces/churn/services", body.to_string())
        })
        .await?;
        self.wait_for_endpoints().await?;
        let slices = self.count_writes("/apis/discovery.k8s.io/v1/namespaces/churn/endpointslices").await?;
        let older = self.count_writes("/api/v1/namespaces/churn/endpoints").await?;
        let started = Instant::now();
        let replaced = self.churn().await?;
        let lasted = started.elapsed();
        let (slices, older) = (slices.load(Ordering::Relaxed), older.load(Ordering::Relaxed));
        let ended = Instant::now();
        self.wait_for_endpoints().await?;
        let what = format!("{services} services x {endpoints} endpoints, {replaced} pods replaced");
        let rate = |writes: u64| writes as f64 / lasted.as_secs_f64();
        Ok(vec![
            Figure::new(format!("{what}: EndpointSlice writes"), "/s", rate(slices)),
            Figure::new(format!("{what}: Endpoints writes"), "/s", rate(older)),
            Figure::new(format!("{what}: settled after the last"), "ms", millis(ended.elapsed())),
        ])
    }

    /// Until every service has all its endpoints, ready.
    async fn wait_for_endpoints(&self) -> Result<()> {
        let mut connection = Connection::open(self.address).await?;
        let path = "/apis/discovery.k8s.io/v1/namespaces/churn/endpointslices";
        let ready = |slice: &Value| {
            let endpoints = slice["endpoints"].as_array();
            endpoints
                .map_or(0, |list| list.iter().filter(|e| e["conditions"]["ready"] == true).count() as u64)
        };
        loop {
            let slices = items(&mut connection, path).await?;
            let total: u64 = slices.iter().map(ready).sum();
            let all: u64 =
                slices.iter().filter_map(|s| s["endpoints"].as_array()).map(|l| l.len() as u64).sum();
            let wanted = self.options.services * self.options.endpoints;
            if total == wanted && all == wanted {
                return Ok(());
            }
            tokio::time::sleep(POLL * 5).await;
        }
    }

    async fn count_writes(&self, path: &'static str) -> Result<Arc<AtomicU64>> {
        let (ready, begun) = tokio::sync::oneshot::channel();
        let (count, address) = (Arc::new(AtomicU64::new(0)), self.address);
        let counter = count.clone();
        tokio::spawn(async move {
            follow(address, path, ready, |event| {
                counter.fetch_add(u64::from(event.kind != "BOOKMARK"), Ordering::Relaxed);
                false
            })
            .await
        });
        begun.await?;
        Ok(count)
    }

    /// Deletes pods at a steady rate. Returns how many.
    async fn churn(&self) -> Result<u64> {
        let mut connection = Connection::open(self.address).await?;
        let pods = items(&mut connection, "/api/v1/namespaces/churn/pods").await?;
        let wanted = (self.options.churn_per_sec * self.options.churn_secs).min(pods.len() as u64);
        // A stride that meets all groups before it meets one twice.
        let stride = usize::try_from(self.options.endpoints)? + 1;
        let mut tick =
            tokio::time::interval(Duration::from_secs(1) / u32::try_from(self.options.churn_per_sec)?);
        let mut gone = HashSet::new();
        for number in 0..wanted as usize {
            tick.tick().await;
            let at = number * stride % pods.len();
            let name = pods[at]["metadata"]["name"].as_str().unwrap_or("");
            if gone.insert(at) {
                connection.call(Call::delete(format!("/api/v1/namespaces/churn/pods/{name}"))).await?;
            }
        }
        Ok(gone.len() as u64)
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
