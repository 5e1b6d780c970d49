//! Events about pods and the node, in the form and with the folding that upstream's tools expect: the same
//! news again raises a count instead of making a new object. Losing an event is no error.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;

use crate::kubelet::pod::spec;

/// Events waiting to be sent; more are dropped.
const QUEUE_LEN_MAX: usize = 1000;
/// How often one event is tried while the API is away, and the pause between.
const ATTEMPTS_MAX: u32 = 12;
/// See [`ATTEMPTS_MAX`].
const RETRY: Duration = Duration::from_secs(5);
/// Events remembered for folding.
const REMEMBERED_MAX: usize = 4096;

struct News {
    about: ObjectReference,
    warning: bool,
    reason: String,
    message: String,
    at: Timestamp,
}

/// Records events; cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<News>,
    node: Arc<str>,
}

impl Recorder {
    /// Starts the sender. It ends when every recorder is dropped.
    pub fn new(client: Client, node: &str) -> Self {
        let (queue, news) = mpsc::channel(QUEUE_LEN_MAX);
        let node: Arc<str> = node.into();
        tokio::spawn(send(client, Arc::clone(&node), news));
        Self { queue, node }
    }

    /// An event about a pod or one of its containers.
    pub fn pod(&self, pod: &Pod, container: Option<&str>, warning: bool, reason: &str, message: String) {
        let field_path = container.map(|name| match spec::find_container(pod, name) {
            Some((spec::Kind::Init | spec::Kind::Sidecar, _)) => format!("spec.initContainers{{{name}}}"),
            Some((spec::Kind::Ephemeral, _)) => format!("spec.ephemeralContainers{{{name}}}"),
            _ => format!("spec.containers{{{name}}}"),
        });
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            field_path,
        };
        self.record(about, warning, reason, message);
    }

    /// An event about this node.
    pub fn node(&self, warning: bool, reason: &str, message: String) {
        let about = ObjectReference {
            kind: Some("Node".into()),
            name: Some(self.node.to_string()),
            // Upstream's nodes use their name as uid in events.
            uid: Some(self.node.to_string()),
            ..Default::default()
        };
        self.record(about, warning, reason, message);
    }

    fn record(&self, about: ObjectReference, warning: bool, reason: &str, message: String) {
        let news = News { about, warning, reason: reason.to_owned(), message, at: Timestamp::now() };
        if self.queue.try_send(news).is_err() {
            tracing::debug!(reason, "an event was dropped: the queue is full");
        }
    }
}

#[derive(Clone)]
struct Sent {
    name: String,
    namespace: String,
    count: i32,
}

async fn send(client: Client, node: Arc<str>, mut news: mpsc::Receiver<News>) {
    let mut sent: HashMap<String, Sent> = HashMap::new();
    while let Some(one) = news.recv().await {
        let key = format!(
            "{:?}/{:?}/{:?}/{}/{}",
            one.about.uid, one.about.name, one.about.field_path, one.reason, one.message
        );
        if sent.len() >= REMEMBERED_MAX {
            sent.clear();
        }
        for attempt in 1..=ATTEMPTS_MAX {
            let result = match sent.get(&key).cloned() {
                Some(known) => repeat(&client, known, one.at).await,
                None => create(&client, &node, &one).await,
            };
            match result {
                Ok(state) => {
                    sent.insert(key, state);
                    break;
                }
                Err(kube::Error::Api(status)) if status.code == 404 && sent.remove(&key).is_some() => {}
                // The API has answered: asking again changes nothing.
                Err(error @ kube::Error::Api(_)) => {
                    tracing::debug!(%error, reason = one.reason, "an event was refused");
                    break;
                }
                Err(error) => {
                    tracing::debug!(%error, reason = one.reason, attempt, "an event could not be sent");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

async fn repeat(client: &Client, mut known: Sent, at: Timestamp) -> Result<Sent, kube::Error> {
    known.count += 1;
    let patch = json!({"count": known.count, "lastTimestamp": Time(whole_seconds(at))});
    let api = Api::<Event>::namespaced(client.clone(), &known.namespace);
    api.patch(&known.name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
    Ok(known)
}

fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

async fn create(client: &Client, node: &str, news: &News) -> Result<Sent, kube::Error> {
    let namespace = news.about.namespace.clone().unwrap_or_else(|| "default".into());
    let owner = news.about.name.clone().unwrap_or_default();
    let name = format!("{owner}.{:x}", news.at.as_nanosecond());
    let time = Some(Time(whole_seconds(news.at)));
    let event = Event {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace.clone()),
            ..Default::default()
        },
        involved_object: news.about.clone(),
        reason: Some(news.reason.clone()),
        message: Some(news.message.clone()),
        type_: Some(if news.warning { "Warning" } else { "Normal" }.into()),
        first_timestamp: time.clone(),
        last_timestamp: time,
        count: Some(1),
        source: Some(EventSource { component: Some("kubelet".into()), host: Some(node.to_owned()) }),
        reporting_component: Some("kubelet".into()),
        reporting_instance: Some(node.to_owned()),
        ..Default::default()
    };
    Api::<Event>::namespaced(client.clone(), &namespace).create(&PostParams::default(), &event).await?;
    Ok(Sent { name, namespace, count: 1 })
}
