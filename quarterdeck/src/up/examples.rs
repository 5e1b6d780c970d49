//! Applies manifests and waits for what they promise, through the Kubernetes API like any client.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Node, Pod, Service};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Client, Discovery, ResourceExt};
use serde::Deserialize;

use super::progress::Progress;
use crate::failure::{At, Failure, Result};

const FIELD_MANAGER: &str = "quarterdeck-up";
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Images are imported, containers started, probes run: well under this on any machine.
const EXAMPLES_TIMEOUT: Duration = Duration::from_secs(120);
const NAMESPACE: &str = "examples";

/// Server-side apply of every `*.yaml` of the folder, in the order of the names.
pub async fn apply(client: &Client, folder: &Path, progress: &mut Progress) -> Result<()> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .at("read the folder of examples", folder)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    forget_finished_job(client).await?;
    let discovery = Discovery::new(client.clone()).run().await?;
    let mut count = 0;
    for file in &files {
        let text = std::fs::read_to_string(file).at("read", file)?;
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            let object = DynamicObject::deserialize(document)
                .map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
            apply_one(client, &discovery, &object)
                .await
                .map_err(|failure| Failure::new(format!("{}: {failure}", file.display())))?;
            count += 1;
        }
    }
    progress.step(&format!("{count} objects of {} are applied", folder.display()));
    Ok(())
}

/// A Job that an earlier run has finished is done again: the log of the old one went with its container, and what it heard
/// would say nothing about this run.
async fn forget_finished_job(client: &Client) -> Result<()> {
    let jobs: Api<Job> = Api::namespaced(client.clone(), NAMESPACE);
    let is_finished = |job: Job| job.status.is_some_and(|status| status.succeeded.is_some_and(|n| n > 0));
    if !jobs.get_opt("ask").await?.is_some_and(is_finished) {
        return Ok(());
    }
    jobs.delete("ask", &DeleteParams::background()).await?;
    until("the Job `ask` of an earlier run is gone", EXAMPLES_TIMEOUT, async || {
        Ok(jobs.get_opt("ask").await?.is_none())
    })
    .await
}

async fn apply_one(client: &Client, discovery: &Discovery, object: &DynamicObject) -> Result<()> {
    let types = object.types.as_ref().ok_or_else(|| Failure::new("an object without apiVersion and kind"))?;
    let gvk = kube::core::GroupVersionKind::try_from(types)?;
    let (resource, _) = discovery.resolve_gvk(&gvk).ok_or_else(|| {
        Failure::new(format!("the API server does not serve {} {}", types.api_version, types.kind))
    })?;
    let api: Api<DynamicObject> = match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(&object.name_any(), &params, &Patch::Apply(object)).await?;
    Ok(())
}

/// Waits until the Deployment is available and, where real containers run, until each of its pods answers, the Service
/// answers at its cluster address and the Job has asked it by name.
pub async fn wait(client: &Client, real: bool, progress: &mut Progress) -> Result<()> {
    let outcome = wait_for_each(client, real, progress).await;
    if outcome.is_err() {
        progress.note(&situation(client).await.unwrap_or_else(|failure| failure.to_string()));
    }
    outcome
}

async fn wait_for_each(client: &Client, real: bool, progress: &mut Progress) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    until("the Deployment `web` becomes available", EXAMPLES_TIMEOUT, async || {
        let status = deployments.get("web").await?.status.unwrap_or_default();
        let wanted =
            status.replicas.filter(|wanted| *wanted > 0 && status.available_replicas == Some(*wanted));
        let Some(wanted) = wanted else { return Ok(false) };
        Ok(!real || answering(client).await? >= wanted)
    })
    .await?;
    progress.step("the Deployment `web` is available");
    if !real {
        return Ok(());
    }
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let address = services.get("web").await?.spec.and_then(|spec| spec.cluster_ip).unwrap_or_default();
    let target = format!("{address}:80");
    let mut answer = String::new();
    until("the Service `web` answers at its cluster address", EXAMPLES_TIMEOUT, async || {
        match get(&target).await {
            Ok(text) => {
                answer = text;
                Ok(!first_line(&answer).is_empty())
            }
            Err(_) => Ok(false),
        }
    })
    .await?;
    progress.step(&format!("the Service `web` answers at http://{target}: {}", first_line(&answer)));
    let jobs: Api<Job> = Api::namespaced(client.clone(), NAMESPACE);
    until("the Job `ask` completes", EXAMPLES_TIMEOUT, async || {
        Ok(jobs.get("ask").await?.status.and_then(|status| status.succeeded) == Some(1))
    })
    .await?;
    let said = job_log(client, &jobs.get("ask").await?).await?;
    progress.step(&format!(
        "the Job `ask` heard at http://web.{NAMESPACE}.svc.cluster.local: {}",
        first_line(&said)
    ));
    Ok(())
}

/// How many pods of the Deployment answer. What the API says of pods may come from an earlier run, until the
/// agent has reported.
async fn answering(client: &Client) -> Result<i32> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let running = ListParams::default().labels("app=web").fields("status.phase=Running");
    let mut count = 0;
    for pod in pods.list(&running).await? {
        let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
        let mut ports =
            pod.spec.iter().flat_map(|spec| &spec.containers).flat_map(|c| c.ports.iter().flatten());
        let port = ports.next().and_then(|port| u16::try_from(port.container_port).ok());
        let (Some(Ok(address)), Some(port)) = (address.map(str::parse::<IpAddr>), port) else { continue };
        count += i32::from(get(&SocketAddr::new(address, port).to_string()).await.is_ok());
    }
    Ok(count)
}

/// What the examples' pods wait for, and what was complained of last; a line each.
async fn situation(client: &Client) -> Result<String> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let mut lines = Vec::new();
    for pod in pods.list(&ListParams::default()).await? {
        let name = pod.name_any();
        let status = pod.status.unwrap_or_default();
        let waiting = status.container_statuses.iter().flatten().filter_map(|container| {
            let waiting = container.state.as_ref()?.waiting.as_ref()?;
            Some(format!(
                "{} waits: {}",
                container.name,
                waiting.reason.as_deref().unwrap_or("no reason given")
            ))
        });
        let unmet = status.conditions.iter().flatten().filter(|condition| condition.status != "True");
        let unmet = unmet.map(|condition| {
            format!("not {} {}", condition.type_, condition.message.as_deref().unwrap_or_default())
        });
        let details: Vec<String> = waiting.chain(unmet).collect();
        lines.push(format!("pod {name} {}: {}", status.phase.unwrap_or_default(), details.join(", ")));
    }
    let events: Api<Event> = Api::namespaced(client.clone(), NAMESPACE);
    for event in events.list(&ListParams::default().fields("type=Warning")).await? {
        let about = event.involved_object.name.unwrap_or_default();
        lines.push(format!("{about}: {}", event.message.unwrap_or_default()));
    }
    Ok(lines.join("\n         "))
}

/// Waits for `expected` nodes that are Ready and have said so since `since`: the API remembers what they said before.
pub async fn nodes_ready(client: &Client, expected: usize, since: Timestamp, limit: Duration) -> Result<()> {
    let what = format!("{expected} nodes become Ready");
    let nodes: Api<Node> = Api::all(client.clone());
    // Heartbeats are kept in whole seconds.
    let since = since.as_second();
    until(&what, limit, async || {
        let list = nodes.list(&ListParams::default()).await?;
        let said = |node: &&Node| {
            let heartbeat =
                crate::ops::ready_condition(node).and_then(|ready| ready.last_heartbeat_time.as_ref());
            heartbeat.is_some_and(|at| at.0.as_second() >= since)
        };
        let ready = list.iter().filter(|node| crate::ops::node_is_ready(node)).filter(said).count();
        Ok(ready >= expected)
    })
    .await
}

async fn job_log(client: &Client, job: &Job) -> Result<String> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let list = pods.list(&ListParams::default().labels("job-name=ask")).await?;
    let is_of_job =
        |pod: &&Pod| pod.owner_references().iter().any(|owner| Some(&owner.uid) == job.uid().as_ref());
    let has_succeeded =
        |pod: &&Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Succeeded");
    let pod = list
        .items
        .iter()
        .filter(is_of_job)
        .find(has_succeeded)
        .ok_or_else(|| Failure::new("the Job `ask` succeeded but its pod is gone"))?;
    Ok(pods.logs(&pod.name_any(), &Default::default()).await?)
}

/// One HTTP GET, answered within a second or not at all.
async fn get(target: &str) -> Result<String> {
    let exchange = async {
        let stream = tokio::net::TcpStream::connect(target).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = http::Request::get("/").header("host", target).body(Empty::<Bytes>::new())?;
        let body = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
        Ok(String::from_utf8_lossy(&body).into_owned())
    };
    tokio::time::timeout(Duration::from_secs(1), exchange)
        .await
        .unwrap_or_else(|_| Err(Failure::new("no answer in a second")))
}

/// Asks again and again; errors of a single question are kept for the message of the time-out.
async fn until(what: &str, limit: Duration, mut ask: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        let last = match ask().await {
            Ok(true) => return Ok(()),
            Ok(false) => None,
            Err(failure) => Some(failure),
        };
        if Instant::now() > deadline {
            let because = last.map(|failure| format!(" ({failure})")).unwrap_or_default();
            return Err(Failure::new(format!("waited {} s in vain until {what}{because}", limit.as_secs())));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
