//! `metrics.k8s.io/v1beta1` (`kubectl top`, resource metrics of the autoscaler), served without an add-on: the kubelets
//! are asked for `/metrics/resource`, as metrics-server does.
//!
//! Nothing is scraped while nobody asks. The first question takes two readings a moment apart; from then on every node
//! is read every [`INTERVAL`] until nobody has asked for [`IDLE_AFTER`]. An APIService of the user's own for this group
//! goes first; that is the router's business.

mod asked;
pub mod parse;
mod render;
mod windows;

pub use render::{aggregated_group, group, resources};

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use machinery::selector::Labels;
use machinery::status::StatusError;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

use self::asked::Asked;
use self::parse::Scrape;
use self::windows::{WINDOW_MIN_MILLIS, Windows};
use crate::contract::RequestInfo;
use crate::http::Api;
use crate::http::body::{self, Body};
use crate::http::respond;
use crate::registry::options::Query;

/// The group's name.
pub const GROUP: &str = "metrics.k8s.io";
/// Time between two readings while somebody asks.
const INTERVAL: Duration = Duration::from_secs(15);
/// Reading ends this long after the last question.
const IDLE_AFTER: Duration = Duration::from_secs(120);
/// Pause between the first two readings.
const FIRST_WINDOW: Duration = Duration::from_millis(2 * WINDOW_MIN_MILLIS.unsigned_abs());
/// A kubelet that has not answered after this is left out of the round.
const NODE_TIMEOUT: Duration = Duration::from_secs(5);
/// Kubelets asked at a time: enough for 5,000 nodes in a round, few enough for the open files of a small server.
const NODES_AT_A_TIME: usize = 64;
/// Largest page of a kubelet, bytes; 200 pods of 10 containers take a fifth of it.
const PAGE_BYTES_MAX: usize = 4 << 20;

#[derive(Default)]
struct State {
    windows: Windows,
    asked: Asked,
}

/// The readings and who keeps them fresh.
#[derive(Default)]
pub struct MetricsApi {
    state: Mutex<State>,
}

impl MetricsApi {
    /// Forgets everything when nobody has asked for a while; true when it did.
    fn end_when_idle(&self) -> bool {
        let mut state = self.state.lock();
        let idle = state.asked.is_idle(IDLE_AFTER);
        if idle {
            *state = State::default();
        }
        idle
    }
}

impl Api {
    /// Answers a question to the group; the caller may ask it.
    pub async fn resource_metrics(
        self: &Arc<Self>,
        info: &RequestInfo,
        query: &Query,
    ) -> Result<Response<Body>, StatusError> {
        if info.version != "v1beta1" || !info.subresource.is_empty() {
            return Err(StatusError::not_found_path());
        }
        if !matches!(info.verb.as_str(), "get" | "list") {
            return Err(StatusError::method_not_supported(GROUP, &info.resource, &info.verb));
        }
        let selector = Labels::parse(query.get("labelSelector").unwrap_or_default());
        let selector = selector.map_err(StatusError::bad_request)?;
        let (kind, group) = match info.resource.as_str() {
            "nodes" if info.namespace.is_empty() => ("NodeMetrics", "nodes"),
            "pods" => ("PodMetrics", "pods"),
            _ => return Err(StatusError::not_found_path()),
        };
        self.keep_reading().await;
        let objects = self.cluster.list("", group, &info.namespace).await?;
        let fits = |object: &Value| {
            let wanted = info.name.is_empty() || object["metadata"]["name"] == info.name;
            wanted && selector.matches(&object["metadata"]["labels"])
        };
        let items: Vec<Value> =
            objects.iter().filter(|o| fits(o)).filter_map(|o| self.metrics_of(kind, o)).collect();
        if info.verb == "list" || info.name.is_empty() {
            return Ok(respond::json(StatusCode::OK, &render::list(kind, items)));
        }
        let item = items.into_iter().next();
        let name = format!("{}/{}", info.namespace, info.name);
        let name = name.trim_start_matches('/');
        item.map(|item| respond::json(StatusCode::OK, &item))
            .ok_or_else(|| StatusError::not_found(GROUP, group, name))
    }

    fn metrics_of(&self, kind: &str, object: &Value) -> Option<Value> {
        let state = self.metrics_api.state.lock();
        let name = object["metadata"]["name"].as_str()?;
        if kind == "NodeMetrics" {
            return Some(render::node(object, &state.windows.node(name)?));
        }
        if object["status"]["phase"] != "Running" {
            return None;
        }
        let namespace = object["metadata"]["namespace"].as_str()?;
        let used = state.windows.pod(object["spec"]["nodeName"].as_str()?, namespace, name)?;
        Some(render::pod(object, &used))
    }

    /// Sees to it that there are readings to answer from, and that they stay fresh for a while.
    async fn keep_reading(self: &Arc<Self>) {
        let (mut taken, first) = self.metrics_api.state.lock().asked.ask();
        if let Some(first) = first {
            tokio::spawn(Arc::clone(self).read_while_asked(first));
        }
        // It fails when nobody reads any more: there is nothing to wait for then.
        let _ = taken.wait_for(|taken| *taken).await;
    }

    async fn read_while_asked(self: Arc<Self>, taken: watch::Sender<bool>) {
        self.read_all().await;
        tokio::time::sleep(FIRST_WINDOW).await;
        self.read_all().await;
        taken.send_replace(true);
        loop {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = self.shutdown.cancelled() => return,
            }
            if self.metrics_api.end_when_idle() {
                return;
            }
            self.read_all().await;
        }
    }

    async fn read_all(&self) {
        let nodes = match self.cluster.list("", "nodes", "").await {
            Ok(nodes) => nodes,
            // The readings so far stay.
            Err(error) => return tracing::debug!(%error, "the nodes to read are not known"),
        };
        let names: Vec<String> =
            nodes.iter().filter_map(|n| n["metadata"]["name"].as_str().map(str::to_owned)).collect();
        let readings: Vec<(String, Result<Scrape, String>)> = futures::stream::iter(names.clone())
            .map(|name| async {
                let read = tokio::time::timeout(NODE_TIMEOUT, self.read(&name)).await;
                let read = read.unwrap_or_else(|_| Err(format!("no answer after {NODE_TIMEOUT:?}")));
                (name, read)
            })
            .buffer_unordered(NODES_AT_A_TIME)
            .collect()
            .await;
        let mut state = self.metrics_api.state.lock();
        state.windows.keep(|node| names.iter().any(|name| name == node));
        for (node, read) in readings {
            match read {
                Ok(scrape) => state.windows.note(&node, scrape),
                Err(error) => tracing::debug!(node, error, "a kubelet's resource metrics are missing"),
            }
        }
    }

    async fn read(&self, node: &str) -> Result<Scrape, String> {
        let to = self.kubelet_destination(node).await.map_err(|e| e.message().to_owned())?;
        let request = Request::get("/metrics/resource")
            .header(http::header::HOST, format!("{}:{}", to.host, to.port))
            .body(body::empty())
            .map_err(|e| e.to_string())?;
        let sent = self.subresources.kubelet.send(&to, request).await;
        let response = sent.map_err(|e| e.message().to_owned())?;
        if response.status() != StatusCode::OK {
            return Err(format!("it answered {}", response.status()));
        }
        let page = Limited::new(response.into_body(), PAGE_BYTES_MAX).collect().await;
        let page = page.map_err(|e| e.to_string())?.to_bytes();
        Ok(parse::parse(&String::from_utf8_lossy(&page)))
    }
}
