//! The task that writes events.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;

use super::{Correlator, EventType, Occurrence, Write};

/// Events waiting to be written. Enough for a burst of a busy controller; beyond it they are dropped.
const QUEUE_LEN_MAX: usize = 1000;
/// Tries for one event, so that one unreachable server does not stop the queue for long.
const TRIES_MAX: u32 = 3;
/// Pause between tries; with the number of tries it bounds how long one event can take.
const RETRY_PAUSE: std::time::Duration = std::time::Duration::from_millis(500);

/// Hands events to the writing task. Clones share the task, which ends with the last of them.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Occurrence>,
}

impl Recorder {
    /// Starts the task. `component` names the source (`kube-scheduler`), `instance` which of them (the host, or
    /// component and host).
    pub fn new(client: kube::Client, component: impl Into<String>, instance: impl Into<String>) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_LEN_MAX);
        let writer = Writer {
            client,
            component: component.into(),
            instance: instance.into(),
            correlator: Correlator::default(),
        };
        tokio::spawn(writer.run(waiting));
        Recorder { queue }
    }

    /// Records an event that happens now. Never blocks; drops the event when too many wait.
    pub fn event(
        &self,
        regarding: &ObjectReference,
        event_type: EventType,
        reason: impl Into<String>,
        action: impl Into<String>,
        message: impl Into<String>,
    ) {
        let occurrence = Occurrence {
            regarding: regarding.clone(),
            event_type,
            reason: reason.into(),
            action: action.into(),
            message: message.into(),
            at: Timestamp::now(),
        };
        if let Err(error) = self.queue.try_send(occurrence) {
            tracing::debug!(%error, "event dropped");
        }
    }
}

struct Writer {
    client: kube::Client,
    component: String,
    instance: String,
    correlator: Correlator,
}

impl Writer {
    async fn run(mut self, mut waiting: mpsc::Receiver<Occurrence>) {
        while let Some(occurrence) = waiting.recv().await {
            let Some(write) = self.correlator.observe(&occurrence) else { continue };
            self.write(&occurrence, write).await;
        }
    }

    async fn write(&mut self, occurrence: &Occurrence, write: Write) {
        for attempt in 1..=TRIES_MAX {
            match self.try_write(occurrence, &write).await {
                Ok(()) => return,
                // The namespace is going away, or the event is not allowed: trying again cannot help.
                Err(kube::Error::Api(status)) if status.code != 429 && status.code < 500 => {
                    self.correlator.forget(write.name());
                    tracing::debug!(code = status.code, message = %status.message, "event refused");
                    return;
                }
                Err(error) if attempt == TRIES_MAX => {
                    self.correlator.forget(write.name());
                    tracing::warn!(%error, "event lost");
                }
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    }

    async fn try_write(&self, occurrence: &Occurrence, write: &Write) -> Result<(), kube::Error> {
        let event = self.object(occurrence, write);
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace_of(occurrence));
        if let Write::Update { name, message, count, .. } = write {
            let last = Time(occurrence.at);
            let patch = Patch::Strategic(json!({"count": count, "message": message, "lastTimestamp": last}));
            match api.patch(name, &PatchParams::default(), &patch).await {
                // It expired on the server: make it anew, with its history.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => return other.map(|_| ()),
            }
        }
        api.create(&PostParams::default(), &event).await.map(|_| ())
    }

    fn object(&self, occurrence: &Occurrence, write: &Write) -> Event {
        let (message, count, first) = match write {
            Write::Create { message, .. } => (message, 1, occurrence.at),
            Write::Update { message, count, first, .. } => (message, *count, *first),
        };
        let optional = |text: &str| if text.is_empty() { None } else { Some(text.to_owned()) };
        Event {
            metadata: ObjectMeta {
                name: Some(write.name().to_owned()),
                namespace: Some(namespace_of(occurrence).to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: occurrence.regarding.clone(),
            type_: Some(occurrence.event_type.as_str().to_owned()),
            reason: optional(&occurrence.reason),
            message: Some(message.clone()),
            action: optional(&occurrence.action),
            count: Some(count),
            first_timestamp: Some(Time(first)),
            last_timestamp: Some(Time(occurrence.at)),
            source: Some(EventSource {
                component: optional(&self.component),
                host: optional(&self.instance),
            }),
            reporting_component: optional(&self.component),
            reporting_instance: optional(&self.instance),
            ..Event::default()
        }
    }
}

/// Events of objects without a namespace live in `default`.
fn namespace_of(occurrence: &Occurrence) -> &str {
    match occurrence.regarding.namespace.as_deref() {
        None | Some("") => "default",
        Some(namespace) => namespace,
    }
}
