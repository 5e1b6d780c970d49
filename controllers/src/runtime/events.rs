//! Where events go: to the API server through `machinery`'s recorder, one per reporting controller. Recording never
//! blocks, and events that repeat or flood are counted or dropped, not repeated.

use kube::Client;
use machinery::events::{EventType, Recorder};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::client::EventSink;
use super::plan::Note;

/// Sends events in the background.
pub struct Recording {
    client: Client,
    instance: String,
    recorders: Mutex<FxHashMap<&'static str, Recorder>>,
}

impl Recording {
    /// Records with the process' own client.
    pub fn new(client: Client) -> Self {
        let instance = std::env::var("HOSTNAME").unwrap_or_else(|_| "quarterdeck".into());
        Self { client, instance, recorders: Mutex::default() }
    }
}

impl EventSink for Recording {
    fn record(&self, component: &'static str, note: Note) {
        let kind = if note.warning { EventType::Warning } else { EventType::Normal };
        let mut recorders = self.recorders.lock();
        let recorder = recorders
            .entry(component)
            .or_insert_with(|| Recorder::new(self.client.clone(), component, &self.instance));
        recorder.event(&note.about, kind, &note.reason, "", &note.message);
    }
}
