//! HTTP extenders: filter, prioritise, preempt and bind by calls to other programs.
//!
//! Owns the wire format of `kube-scheduler/extender/v1`. Calls happen inside a scheduling cycle, so each is bounded
//! by its timeout; an ignorable extender's errors are passed over.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Map, Value, json};

use crate::config::types::Extender as Config;
use crate::core::scheduler::{ExtenderAnswer, ExtenderVictims, Extenders, PodRef};
use crate::core::spec::PodInput;

use super::api::Api;
use super::tls;

/// The best score an extender gives; ours go ten times as far.
const MAX_EXTENDER_SCORE: i64 = 10;
const MAX_SCORE: i64 = 100;

type Http = Client<hyper_rustls::HttpsConnector<HttpConnector>, Full<bytes::Bytes>>;

/// Why an extender could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ExtenderError {
    #[error("failed {verb} with extender at URL {url}: {source}")]
    Call { verb: String, url: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("failed {verb} with extender at URL {url}, code {code}")]
    Status { verb: String, url: String, code: u16 },
    #[error("failed {verb} with extender at URL {url}: no answer within {secs} s")]
    Timeout { verb: String, url: String, secs: u64 },
    #[error("{0}")]
    Said(String),
    #[error("extender {url:?} claims a filtered node {node:?} which is not found in the input node list")]
    UnknownNode { url: String, node: String },
    #[error("expected at least one victim pod on node {0:?}")]
    NoVictim(String),
    #[error("extender at URL {url}: {source}")]
    Tls { url: String, source: tls::TlsError },
}

/// One extender.
pub struct HttpExtender {
    config: Config,
    http: Http,
}

impl HttpExtender {
    /// An extender as configured.
    ///
    /// # Errors
    /// When its certificates cannot be read.
    pub fn new(config: Config) -> Result<Self, ExtenderError> {
        let tls = tls::client_config(config.tls_config.as_ref(), config.enable_https)
            .map_err(|source| ExtenderError::Tls { url: config.url_prefix.clone(), source })?;
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        let http = Client::builder(hyper_util::rt::TokioExecutor::new()).build(connector);
        Ok(HttpExtender { config, http })
    }

    async fn send(&self, verb: &str, body: &Value) -> Result<Value, ExtenderError> {
        let url = format!("{}/{verb}", self.config.url_prefix.trim_end_matches('/'));
        let timeout = Duration::from_nanos(self.config.http_timeout_nanos);
        let call = |source: Box<dyn std::error::Error + Send + Sync>| ExtenderError::Call {
            verb: verb.to_owned(),
            url: url.clone(),
            source,
        };
        let exchange = async {
            let request = http::Request::post(&url)
                .header(http::header::CONTENT_TYPE, "application/json")
                .body(Full::new(bytes::Bytes::from(body.to_string())))
                .map_err(|e| call(e.into()))?;
            let response = self.http.request(request).await.map_err(|e| call(e.into()))?;
            let code = response.status().as_u16();
            if code != 200 {
                return Err(ExtenderError::Status { verb: verb.to_owned(), url: url.clone(), code });
            }
            let bytes = response.into_body().collect().await.map_err(|e| call(e.into()))?.to_bytes();
            serde_json::from_slice(&bytes).map_err(|e| call(e.into()))
        };
        let late =
            |_| ExtenderError::Timeout { verb: verb.to_owned(), url: url.clone(), secs: timeout.as_secs() };
        tokio::time::timeout(timeout, exchange).await.map_err(late)?
    }

    /// Binds a pod.
    ///
    /// # Errors
    /// The extender's words.
    pub async fn bind(&self, pod: &PodRef, node: &str) -> Result<(), String> {
        let body =
            json!({"PodName": pod.name, "PodNamespace": pod.namespace, "PodUID": pod.uid, "Node": node});
        let answer = self.send(&self.config.bind_verb, &body).await.map_err(|e| e.to_string())?;
        match answer["Error"].as_str().or(answer["error"].as_str()).filter(|e| !e.is_empty()) {
            Some(error) => Err(error.to_owned()),
            None => Ok(()),
        }
    }

    fn interested(&self, pod: &PodInput) -> bool {
        let managed = &self.config.managed_resources;
        let wants = |name: &str| pod.spec.local.requests.scalars.iter().any(|(n, _)| **n == *name);
        managed.is_empty() || managed.iter().any(|r| wants(&r.name))
    }

    /// The same question about a pod as the API shows it.
    fn concerns(&self, pod: &Value) -> bool {
        let managed = &self.config.managed_resources;
        let names = |container: &Value, list: &str| {
            let amounts = container["resources"][list].as_object();
            amounts.is_some_and(|amounts| managed.iter().any(|r| amounts.contains_key(&r.name)))
        };
        let containers = ["containers", "initContainers"].map(|list| pod["spec"][list].as_array());
        managed.is_empty()
            || containers.into_iter().flatten().flatten().any(|c| names(c, "requests") || names(c, "limits"))
    }

    fn arguments(&self, pod: &Value, names: &[Arc<str>], nodes: &Map<String, Value>) -> Value {
        if self.config.node_cache_capable {
            return json!({"pod": pod, "nodenames": names});
        }
        let items: Vec<&Value> = names.iter().filter_map(|n| nodes.get(&**n)).collect();
        json!({"pod": pod, "nodes": {"apiVersion": "v1", "kind": "NodeList", "items": items}})
    }

    async fn filter(
        &self,
        pod: &Value,
        names: &[Arc<str>],
        nodes: &Map<String, Value>,
        refused: &mut Vec<(Arc<str>, String, bool)>,
    ) -> Result<Vec<Arc<str>>, ExtenderError> {
        let answer = self.send(&self.config.filter_verb, &self.arguments(pod, names, nodes)).await?;
        let field = |names: &[&str]| names.iter().map(|n| &answer[*n]).find(|v| !v.is_null());
        if let Some(error) = field(&["error", "Error"]).and_then(Value::as_str).filter(|e| !e.is_empty()) {
            return Err(ExtenderError::Said(error.to_owned()));
        }
        let left: Vec<String> = match (field(&["nodenames", "NodeNames"]), field(&["nodes", "Nodes"])) {
            (Some(list), _) if self.config.node_cache_capable => strings(list),
            (_, Some(list)) => {
                let items = list["items"].as_array().map_or(&[][..], Vec::as_slice);
                items.iter().filter_map(|n| n["metadata"]["name"].as_str()).map(str::to_owned).collect()
            }
            _ => Vec::new(),
        };
        for (keys, hard) in [
            (["failedAndUnresolvableNodes", "FailedAndUnresolvableNodes"], true),
            (["failedNodes", "FailedNodes"], false),
        ] {
            let map = field(&keys).and_then(Value::as_object);
            for (node, why) in map.into_iter().flatten() {
                if !refused.iter().any(|(n, _, _)| **n == **node) {
                    refused.push((node.as_str().into(), why.as_str().unwrap_or_default().to_owned(), hard));
                }
            }
        }
        let find = |name: String| {
            let known = names.iter().find(|n| ***n == *name).cloned();
            known
                .ok_or_else(|| ExtenderError::UnknownNode { url: self.config.url_prefix.clone(), node: name })
        };
        left.into_iter().map(find).collect()
    }

    async fn prioritize(
        &self,
        pod: &Value,
        names: &[Arc<str>],
        nodes: &Map<String, Value>,
    ) -> Vec<(String, i64)> {
        let answer = self.send(&self.config.prioritize_verb, &self.arguments(pod, names, nodes)).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(%error, "the extender gives no score");
                return Vec::new();
            }
        };
        let field =
            |item: &Value, names: [&str; 2]| names.iter().map(|n| item[*n].clone()).find(|v| !v.is_null());
        let scale = self.config.weight.saturating_mul(MAX_SCORE / MAX_EXTENDER_SCORE);
        let items = answer.as_array().map_or(&[][..], Vec::as_slice);
        items
            .iter()
            .filter_map(|i| Some((field(i, ["host", "Host"])?, field(i, ["score", "Score"])?)))
            .filter_map(|(host, score)| {
                Some((host.as_str()?.to_owned(), score.as_i64()?.saturating_mul(scale)))
            })
            .collect()
    }

    async fn preempt(
        &self,
        pod: &Value,
        candidates: &[ExtenderVictims],
    ) -> Result<Vec<ExtenderVictims>, ExtenderError> {
        let victims = |c: &ExtenderVictims| {
            let pods: Vec<Value> = c.victims.iter().map(|p| json!({"uid": p.uid, "UID": p.uid})).collect();
            json!({"pods": pods, "numPDBViolations": c.violations})
        };
        let map: Map<String, Value> = candidates.iter().map(|c| (c.node.to_string(), victims(c))).collect();
        let body = json!({"pod": pod, "nodeNameToMetaVictims": map});
        let answer = self.send(&self.config.preempt_verb, &body).await?;
        let map = answer["nodeNameToMetaVictims"].as_object().or(answer["NodeNameToMetaVictims"].as_object());
        let mut left = Vec::new();
        for (node, chosen) in map.into_iter().flatten() {
            let Some(known) = candidates.iter().find(|c| *c.node == **node) else { continue };
            let pods = chosen["pods"].as_array().or(chosen["Pods"].as_array());
            let uids: Vec<&str> =
                pods.into_iter().flatten().filter_map(|p| p["uid"].as_str().or(p["UID"].as_str())).collect();
            let victims: Vec<PodRef> =
                known.victims.iter().filter(|v| uids.contains(&&*v.uid)).cloned().collect();
            if victims.is_empty() {
                if self.config.ignorable {
                    continue;
                }
                return Err(ExtenderError::NoVictim(node.clone()));
            }
            let violations = chosen["numPDBViolations"].as_u64().unwrap_or(0) as usize;
            left.push(ExtenderVictims { node: known.node.clone(), victims, violations });
        }
        Ok(left)
    }
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// All extenders of a configuration.
pub struct HttpExtenders {
    all: Vec<HttpExtender>,
    api: Api,
    runtime: tokio::runtime::Handle,
}

impl HttpExtenders {
    /// The configured extenders; must be made inside a runtime.
    ///
    /// # Errors
    /// When certificates of one cannot be read.
    pub fn new(configs: Vec<Config>, api: Api) -> Result<Self, ExtenderError> {
        let all = configs.into_iter().map(HttpExtender::new).collect::<Result<_, _>>()?;
        Ok(HttpExtenders { all, api, runtime: tokio::runtime::Handle::current() })
    }

    /// Has the extender bind the pod that binds pods of its kind; false when the scheduler is to bind it itself.
    ///
    /// # Errors
    /// The extender's words, unless it may be ignored.
    pub async fn bind(&self, pod: &PodRef, node: &str) -> Result<bool, String> {
        let Some(binder) = self.all.iter().find(|e| !e.config.bind_verb.is_empty()) else {
            return Ok(false);
        };
        if !binder.config.managed_resources.is_empty() && !binder.concerns(&self.pod_object(pod).await?) {
            return Ok(false);
        }
        match binder.bind(pod, node).await {
            Err(error) if binder.config.ignorable => {
                tracing::info!(%error, "passing over an extender that should bind");
                Ok(false)
            }
            done => done.map(|()| true),
        }
    }

    async fn pod_object(&self, pod: &PodRef) -> Result<Value, String> {
        let path = format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name);
        self.api.get(path).await.map_err(|e| e.to_string())
    }

    /// Node objects, only where an extender keeps none itself.
    async fn node_objects(&self, names: &[Arc<str>]) -> Result<Map<String, Value>, String> {
        if self.all.iter().all(|e| e.config.node_cache_capable) {
            return Ok(Map::new());
        }
        let list = self.api.get("/api/v1/nodes".to_owned()).await.map_err(|e| e.to_string())?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let named = |n: Value| Some((n["metadata"]["name"].as_str()?.to_owned(), n));
        Ok(items
            .into_iter()
            .filter_map(named)
            .filter(|(name, _)| names.iter().any(|n| **n == **name))
            .collect())
    }

    async fn rate_all(&self, pod: &PodRef, names: &[Arc<str>]) -> Result<ExtenderAnswer, String> {
        let object = self.pod_object(pod).await?;
        let nodes = self.node_objects(names).await?;
        let mut left: Vec<Arc<str>> = names.to_vec();
        let mut refused = Vec::new();
        let asked: Vec<&HttpExtender> = self.all.iter().filter(|e| e.concerns(&object)).collect();
        for extender in asked.iter().filter(|e| !e.config.filter_verb.is_empty()) {
            if left.is_empty() {
                break;
            }
            match extender.filter(&object, &left, &nodes, &mut refused).await {
                Ok(nodes) => left = nodes,
                Err(error) if extender.config.ignorable => tracing::info!(%error, "passing over an extender"),
                Err(error) => return Err(error.to_string()),
            }
        }
        let mut scored: Vec<(Arc<str>, i64)> = left.iter().map(|n| (n.clone(), 0)).collect();
        for extender in asked.iter().filter(|e| !e.config.prioritize_verb.is_empty() && !left.is_empty()) {
            for (host, score) in extender.prioritize(&object, &left, &nodes).await {
                if let Some((_, sum)) = scored.iter_mut().find(|(n, _)| **n == *host) {
                    *sum = sum.saturating_add(score);
                }
            }
        }
        Ok(ExtenderAnswer { nodes: scored, refused })
    }
}

impl Extenders for Arc<HttpExtenders> {
    fn interested(&self, pod: &PodInput) -> bool {
        self.all.iter().any(|e| e.interested(pod))
    }

    fn rate(&mut self, pod: &PodRef, nodes: &[Arc<str>]) -> Result<ExtenderAnswer, String> {
        tokio::task::block_in_place(|| self.runtime.block_on(self.rate_all(pod, nodes)))
    }

    fn preempt(
        &mut self,
        pod: &PodRef,
        candidates: Vec<ExtenderVictims>,
    ) -> Result<Vec<ExtenderVictims>, String> {
        let asked: Vec<&HttpExtender> =
            self.all.iter().filter(|e| !e.config.preempt_verb.is_empty()).collect();
        if asked.is_empty() {
            return Ok(candidates);
        }
        let ask = async {
            let object = self.pod_object(pod).await?;
            let mut left = candidates;
            for extender in asked.into_iter().filter(|e| e.concerns(&object)) {
                match extender.preempt(&object, &left).await {
                    Ok(answer) => left = answer,
                    Err(error) if extender.config.ignorable => {
                        tracing::info!(%error, "passing over an extender")
                    }
                    Err(error) => return Err(error.to_string()),
                }
                if left.is_empty() {
                    break;
                }
            }
            Ok(left)
        };
        tokio::task::block_in_place(|| self.runtime.block_on(ask))
    }
}
