//! Events about pods, as `kubectl describe` shows them (`events.k8s.io/v1`).
//!
//! Owns aggregation: an event that repeats becomes a series of one object. Recording never waits; when the API is
//! slow, events are dropped before decisions are.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::core::scheduler::PodRef;

/// Events that may wait to be written.
const BACKLOG_MAX: usize = 10_000;
/// Events written at once.
const WRITES_MAX: usize = 16;
/// Events remembered to recognise repetitions.
const REMEMBERED_MAX: usize = 4096;
/// A repetition after this long is a new event.
const SERIES_PAUSE: Duration = Duration::from_secs(6 * 60);

#[derive(Debug)]
struct Entry {
    pod: PodRef,
    controller: String,
    kind: &'static str,
    reason: &'static str,
    action: &'static str,
    note: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    uid: String,
    reason: &'static str,
    note: String,
}

#[derive(Debug)]
struct Series {
    name: String,
    count: u64,
    last: Instant,
}

/// Records events.
#[derive(Clone)]
pub struct Recorder {
    out: Sender<Entry>,
}

impl Recorder {
    /// A recorder that writes through `client` until it is dropped; `instance` names this process.
    pub fn start(client: kube::Client, instance: String) -> Self {
        let (out, entries) = mpsc::channel(BACKLOG_MAX);
        tokio::spawn(write_all(client, instance, entries));
        Recorder { out }
    }

    /// Records one event; `kind` is `Normal` or `Warning`.
    pub fn record(
        &self,
        pod: &PodRef,
        controller: &str,
        kind: &'static str,
        reason: &'static str,
        action: &'static str,
        note: &str,
    ) {
        let entry = Entry {
            pod: pod.clone(),
            controller: controller.to_owned(),
            kind,
            reason,
            action,
            note: note.to_owned(),
        };
        if self.out.try_send(entry).is_err() {
            tracing::debug!(reason, "the event backlog is full; an event is dropped");
        }
    }
}

async fn write_all(client: kube::Client, instance: String, mut entries: Receiver<Entry>) {
    let mut series: HashMap<Key, Series> = HashMap::new();
    let mut writes = tokio::task::JoinSet::new();
    while let Some(entry) = entries.recv().await {
        while writes.len() >= WRITES_MAX {
            writes.join_next().await;
        }
        if series.len() >= REMEMBERED_MAX {
            series.retain(|_, s| s.last.elapsed() < SERIES_PAUSE);
            if series.len() >= REMEMBERED_MAX {
                series.clear();
            }
        }
        let (method, path, content, body) = request_for(&entry, &instance, &mut series);
        let client = client.clone();
        writes.spawn(async move {
            if let Err(error) = write(&client, method, &path, content, &body).await {
                tracing::debug!(%path, %error, "an event is lost");
            }
        });
    }
}

fn request_for(
    entry: &Entry,
    instance: &str,
    series: &mut HashMap<Key, Series>,
) -> (http::Method, String, &'static str, Value) {
    let namespace = if entry.pod.namespace.is_empty() { "default" } else { &*entry.pod.namespace };
    let collection = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
    let now = jiff::Timestamp::now();
    let time = machinery::time::format_micro(now);
    let key = Key { uid: entry.pod.uid.to_string(), reason: entry.reason, note: entry.note.clone() };
    if let Some(known) = series.get_mut(&key).filter(|s| s.last.elapsed() < SERIES_PAUSE) {
        known.count += 1;
        known.last = Instant::now();
        let body = json!({"series": {"count": known.count, "lastObservedTime": time}});
        return (
            http::Method::PATCH,
            format!("{collection}/{}", known.name),
            "application/merge-patch+json",
            body,
        );
    }
    let name = format!("{}.{:x}", entry.pod.name, now.as_nanosecond());
    series.insert(key, Series { name: name.clone(), count: 1, last: Instant::now() });
    let body = json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "eventTime": time,
        "reportingController": entry.controller,
        "reportingInstance": format!("{}-{instance}", entry.controller),
        "action": entry.action,
        "reason": entry.reason,
        "regarding": {
            "apiVersion": "v1", "kind": "Pod",
            "namespace": entry.pod.namespace, "name": entry.pod.name, "uid": entry.pod.uid,
        },
        "note": entry.note,
        "type": entry.kind,
    });
    (http::Method::POST, collection, "application/json", body)
}

async fn write(
    client: &kube::Client,
    method: http::Method,
    path: &str,
    content: &'static str,
    body: &Value,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::CONTENT_TYPE, content)
        .body(body.to_string().into_bytes())?;
    client.request::<IgnoredAny>(request).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_become_a_series() {
        let entry = |note: &str| Entry {
            pod: PodRef { uid: "u".into(), namespace: "ns".into(), name: "p".into(), generation: 0 },
            controller: "default-scheduler".to_owned(),
            kind: "Warning",
            reason: "FailedScheduling",
            action: "Scheduling",
            note: note.to_owned(),
        };
        let mut series = HashMap::new();
        let methods: Vec<_> = ["a", "b", "a", "a"]
            .into_iter()
            .map(|note| request_for(&entry(note), "host", &mut series))
            .map(|(method, _, _, body)| (method, body["series"]["count"].as_u64()))
            .collect();
        let expected = [
            (http::Method::POST, None),
            (http::Method::POST, None),
            (http::Method::PATCH, Some(2)),
            (http::Method::PATCH, Some(3)),
        ];
        assert_eq!(methods, expected);
    }
}
