//! `endpoints.kubernetes.io/last-change-trigger-time`: when what made endpoints change happened, so that proxies can
//! measure how long the change took to reach them. Of each service the newest time seen is remembered; what is newer
//! at the next write is what triggered it. A new process remembers nothing and says nothing about its first write,
//! unless the endpoints are new.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::pods;
use crate::runtime::Key;

/// The annotation.
pub const ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// The newest times seen, by service.
#[derive(Default)]
pub struct TriggerTimes(Mutex<FxHashMap<Key, Timestamp>>);

impl TriggerTimes {
    /// When the change that is about to be written happened. `is_new`: the service has no endpoints yet.
    pub fn observe(
        &self,
        key: &Key,
        service: &Service,
        pods: &[Arc<Pod>],
        is_new: bool,
    ) -> Option<Timestamp> {
        let ready =
            pods.iter().filter_map(|pod| pods::condition(pod, "Ready")?.last_transition_time.as_ref());
        let made = service.metadata.creation_timestamp.as_ref();
        let times: Vec<Timestamp> = ready.chain(made).map(|time| time.0).collect();
        let newest = times.iter().max().copied()?;
        let seen = self.0.lock().insert(key.clone(), newest);
        match seen {
            Some(seen) => times.into_iter().filter(|time| *time > seen).min(),
            None if is_new => times.into_iter().min(),
            None => None,
        }
    }

    /// The service is gone.
    pub fn forget(&self, key: &Key) {
        self.0.lock().remove(key);
    }
}

/// Writes the time into what is about to be written, or takes an older one out.
pub fn annotate(meta: &mut ObjectMeta, time: Option<Timestamp>) {
    match time {
        Some(time) => {
            let annotations = meta.annotations.get_or_insert_default();
            annotations.insert(ANNOTATION.into(), time.to_string());
        }
        None => {
            if let Some(annotations) = &mut meta.annotations {
                annotations.remove(ANNOTATION);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_oldest_of_what_is_new() {
        let service: Service = serde_json::from_value(
            json!({"metadata": {"name": "s", "creationTimestamp": "2026-01-01T00:00:01Z"}}),
        )
        .expect("a service");
        let pod = |second: u8| {
            let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": format!("2026-01-01T00:00:{second:02}Z")});
            Arc::new(
                serde_json::from_value(json!({"metadata": {}, "status": {"conditions": [ready]}}))
                    .expect("a pod"),
            )
        };
        let (times, key) = (TriggerTimes::default(), Key::new("ns", "s"));
        let observe = |seconds: &[u8], is_new: bool| {
            let pods: Vec<Arc<Pod>> = seconds.iter().map(|second| pod(*second)).collect();
            times.observe(&key, &service, &pods, is_new).map_or(String::new(), |time| time.to_string())
        };
        assert_eq!(observe(&[5], true), "2026-01-01T00:00:01Z", "the service itself");
        assert_eq!(observe(&[5], false), "", "nothing is new");
        assert_eq!(observe(&[5, 9, 7], false), "2026-01-01T00:00:07Z");
        times.forget(&key);
        assert_eq!(times.observe(&key, &service, &[pod(20)], false), None, "a new process");
    }
}
