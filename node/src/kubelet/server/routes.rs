//! Which path is answered by what.

use std::sync::Arc;

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};

use super::respond::{Answer, json as json_answer, text, with_type};
use super::streaming::{self, Kind, query_map};
use super::{log_stream, node_logs, pods};
use crate::kubelet::metrics;
use crate::kubelet::pod::spec;
use crate::kubelet::stats::disks::claims_text;
use crate::kubelet::stats::{cadvisor, resource, summary};
use crate::kubelet::worker::Pool;
use crate::kubelet::worker::pleg::Health;

/// The content type of Prometheus' text format.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A command in the body of `/run` is no longer than this.
const RUN_BODY_BYTES_MAX: usize = 64 * 1024;

/// What the routes answer from.
pub struct Server {
    /// The pods.
    pub pool: Arc<Pool>,
    /// The lister's health.
    pub health: Arc<Health>,
    /// What `/configz` shows.
    pub configz: Value,
    /// Use of the machine, computed on request.
    pub summary: summary::Collector,
}

impl Server {
    async fn cadvisor(&self) -> String {
        let pool = Arc::clone(&self.pool);
        let kernel = tokio::task::spawn_blocking(move || cadvisor::Kernel::read(&pool)).await;
        cadvisor::text(&self.summary.collect(&self.pool).await, &kernel.unwrap_or_default())
    }

    /// Answers one request of a client that may ask.
    pub async fn answer(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path().to_owned();
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        match (request.method(), parts.as_slice()) {
            (_, ["healthz"] | ["healthz", "ping" | "log"]) => text(StatusCode::OK, "ok"),
            (_, ["healthz", "syncloop"]) => self.syncloop(),
            (&Method::GET, ["pods"]) => self.pods(),
            (&Method::GET, ["runningpods"]) => self.running_pods(),
            (&Method::GET, ["configz"]) => json_answer(&json!({"kubeletconfig": self.configz})),
            (&Method::GET, ["metrics"]) => with_type(StatusCode::OK, PROMETHEUS, self.metrics().await),
            (&Method::GET, ["metrics", "probes"]) => {
                with_type(StatusCode::OK, PROMETHEUS, metrics::probes_text())
            }
            (&Method::GET, ["metrics", "resource"]) => {
                with_type(StatusCode::OK, PROMETHEUS, resource::text(&self.summary.collect(&self.pool).await))
            }
            (&Method::GET, ["metrics", "cadvisor"]) => {
                with_type(StatusCode::OK, PROMETHEUS, self.cadvisor().await)
            }
            (_, ["stats", "summary"]) => json_answer(&self.summary.collect_all(&self.pool).await.to_json()),
            (&Method::GET, ["containerLogs", namespace, pod, container]) => {
                let query = query_map(request.uri().query().unwrap_or_default());
                log_stream::answer(&self.pool, [namespace, pod, container], &query)
            }
            (&Method::GET, ["logs", rest @ ..]) if self.debugging() => node_logs::answer(rest),
            (_, ["exec", rest @ ..]) if self.debugging() => self.stream(Kind::Exec, rest, request).await,
            (_, ["attach", rest @ ..]) if self.debugging() => self.stream(Kind::Attach, rest, request).await,
            (_, ["portForward", rest @ ..]) if self.debugging() => {
                self.stream(Kind::PortForward, rest, request).await
            }
            (&Method::POST, ["run", rest @ ..]) if self.debugging() => self.run(rest, request).await,
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    fn debugging(&self) -> bool {
        self.pool.context().config.debugging_handlers
    }

    async fn stream(&self, kind: Kind, path: &[&str], request: Request<Incoming>) -> Answer {
        let path: Vec<String> = path.iter().map(|p| (*p).to_owned()).collect();
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        streaming::answer(&self.pool, kind, &path, request).await
    }

    fn syncloop(&self) -> Answer {
        match self.health.problem(Timestamp::now()) {
            None => text(StatusCode::OK, "ok"),
            Some(problem) => text(StatusCode::INTERNAL_SERVER_ERROR, problem),
        }
    }

    fn pods(&self) -> Answer {
        let items: Vec<Pod> = self
            .pool
            .views()
            .into_iter()
            .map(|view| {
                let mut pod = (*view.pod).clone();
                if *view.snapshot.status != PodStatus::default() {
                    pod.status = Some((*view.snapshot.status).clone());
                }
                pod
            })
            .collect();
        json_answer(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
    }

    fn running_pods(&self) -> Answer {
        let items: Vec<Value> = self
            .pool
            .views()
            .into_iter()
            .filter(|view| view.snapshot.observed.alive().next().is_some())
            .map(|view| {
                let meta = &view.pod.metadata;
                let containers: Vec<Value> = view
                    .snapshot
                    .observed
                    .alive()
                    .map(|c| json!({"name": c.name, "image": c.image}))
                    .collect();
                json!({"metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
                    "spec": {"containers": containers}, "status": {}})
            })
            .collect();
        json_answer(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
    }

    async fn metrics(&self) -> String {
        let views = self.pool.views();
        let running = views.iter().map(|v| v.snapshot.observed.alive().count()).sum::<usize>();
        let all = views.iter().map(|v| v.snapshot.observed.containers.len()).sum::<usize>();
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let pods = views.iter().filter(|v| v.snapshot.observed.sandboxes.iter().any(|s| s.ready)).count();
        metrics::set_containers(number(pods), number(running), number(all - running));
        let mut disks = self.summary.disks(&self.pool).await;
        let uses = views
            .iter()
            .filter_map(|v| Some((spec::namespace(&v.pod).to_owned(), disks.remove(spec::uid(&v.pod))?)));
        metrics::text() + &claims_text(&uses.collect::<Vec<_>>())
    }

    /// `POST /run/{namespace}/{pod}[/{uid}]/{container}?cmd=`: runs a command to its end.
    async fn run(&self, path: &[&str], request: Request<Incoming>) -> Answer {
        let (namespace, pod, container) = match path {
            [ns, pod, container] | [ns, pod, _, container] => (*ns, *pod, *container),
            _ => return text(StatusCode::NOT_FOUND, "404 page not found\n"),
        };
        let query = query_map(request.uri().query().unwrap_or_default());
        let body = Limited::new(request.into_body(), RUN_BODY_BYTES_MAX).collect().await;
        let body = body.map(|b| b.to_bytes()).unwrap_or_default();
        let form = query_map(&String::from_utf8_lossy(&body));
        let command = query.get("cmd").or_else(|| form.get("cmd")).cloned().unwrap_or_default();
        let command: Vec<String> = command.split(' ').filter(|w| !w.is_empty()).map(str::to_owned).collect();
        let view = match pods::find_pod(&self.pool, namespace, pod, None) {
            Ok(view) => view,
            Err(answer) => return *answer,
        };
        let id = match pods::running_container(&view, container) {
            Ok(found) => found.id.clone(),
            Err(answer) => return *answer,
        };
        let limit = crate::kubelet::cri::client::CALL_TIMEOUT;
        match self.pool.context().runtime.exec_sync(&id, command, limit).await {
            Ok(done) => {
                let output = [done.stdout.as_ref(), done.stderr.as_ref()].concat();
                with_type(StatusCode::OK, "text/plain", output)
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.message()),
        }
    }
}
