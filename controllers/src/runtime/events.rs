//! Where events go: to the log, and to the API server through a queue of its own, so that a slow API server never
//! holds a controller up. Repetitions within [`WINDOW`] raise a counter instead of making new events.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use rustc_hash::FxHashMap;
use serde_json::json;
use tokio::sync::mpsc;

use super::client::EventSink;
use super::plan::Note;

/// The same event within this time is counted, not repeated (client-go's).
const WINDOW: Duration = Duration::from_secs(600);
/// Events waiting to be sent; more are dropped, for events must never hold work up or fill the memory.
const QUEUE_MAX: usize = 10_000;
/// Distinct events remembered for counting.
const REMEMBERED_MAX: usize = 4096;
/// Sends events in the background.
pub struct Recording {
    queue: mpsc::Sender<(&'static str, Note)>,
}

impl Recording {
    /// Starts the sender; it ends when the recording is dropped.
    pub fn new(client: Client) -> Self {
        let (queue, notes) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(send_all(client, notes));
        Self { queue }
    }
}

impl EventSink for Recording {
    fn record(&self, component: &'static str, note: Note) {
        if let Err(error) = self.queue.try_send((component, note)) {
            tracing::debug!(%error, "an event was dropped");
        }
    }
}

struct Sent {
    name: String,
    count: i32,
    at: Timestamp,
}

async fn send_all(client: Client, mut notes: mpsc::Receiver<(&'static str, Note)>) {
    let mut sent: FxHashMap<String, Sent> = FxHashMap::default();
    while let Some((component, note)) = notes.recv().await {
        let now = Timestamp::now();
        let namespace = note.about.namespace.clone().unwrap_or_else(|| "default".into());
        let api = Api::<Event>::namespaced(client.clone(), &namespace);
        let id = format!("{:?} {} {} {}", note.about.uid, namespace, note.reason, note.message);
        if sent.len() > REMEMBERED_MAX {
            sent.retain(|_, event| super::clock::since(event.at, now) < WINDOW);
        }
        let known = sent.get_mut(&id).filter(|event| super::clock::since(event.at, now) < WINDOW);
        if let Some(event) = known {
            event.count += 1;
            event.at = now;
            let patch = json!({"count": event.count, "lastTimestamp": Time(now)});
            if api.patch(&event.name, &PatchParams::default(), &Patch::Merge(patch)).await.is_ok() {
                continue;
            }
        }
        let event = new_event(component, note, &namespace, now);
        match api.create(&PostParams::default(), &event).await {
            Ok(made) => {
                let name = made.metadata.name.unwrap_or_default();
                sent.insert(id, Sent { name, count: 1, at: now });
            }
            Err(error) => tracing::debug!(%error, "an event could not be recorded"),
        }
    }
}

fn new_event(component: &str, note: Note, namespace: &str, now: Timestamp) -> Event {
    let subject = note.about.name.clone().unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{subject}.{:x}", now.as_nanosecond())),
            namespace: Some(namespace.to_string()),
            ..ObjectMeta::default()
        },
        involved_object: note.about,
        reason: Some(note.reason),
        message: Some(note.message),
        type_: Some(if note.warning { "Warning" } else { "Normal" }.into()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        source: Some(EventSource { component: Some(component.into()), host: None }),
        reporting_component: Some(component.into()),
        ..Event::default()
    }
}
