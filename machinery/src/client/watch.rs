//! Watches that begin anew where the server says that their revision is not one of its own.
//!
//! The client library asks for ever with the revision it saw last. A store that was restored from a backup has gone
//! back: until it has as many revisions again every attempt is refused, and afterwards everything in between is missed.
//! Listing again is what every other client does then.
//!
//! Says nothing about pauses after failures: callers put their own back-off around the stream.

use std::fmt::Debug;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use kube::api::Api;
use kube::runtime::watcher::{self, Error, Event, watcher};
use kube::{Resource, core::Status};
use serde::de::DeserializeOwned;

/// The cause by which servers tell a revision that they have not reached from other timeouts.
const TOO_LARGE: &str = "ResourceVersionTooLarge";
/// Its words, from servers that name no cause.
const TOO_LARGE_TEXT: &str = "Too large resource version";

/// True if a watch cannot go on from the revision it has.
fn is_lost(error: &Error) -> bool {
    let Error::WatchStartFailed(kube::Error::Api(status)) = error else { return false };
    status.code == 410 || is_too_large(status)
}

fn is_too_large(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == TOO_LARGE) || status.message.contains(TOO_LARGE_TEXT)
}

/// Lists and watches for ever.
pub fn lasting<K>(
    api: Api<K>,
    config: watcher::Config,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send + use<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let open = move || watcher(api.clone(), config.clone()).boxed();
    stream::unfold((open(), open), |(mut current, open): (BoxStream<'static, _>, _)| async move {
        let next = current.next().await?;
        if next.as_ref().is_err_and(is_lost) {
            current = open();
        }
        Some((next, (current, open)))
    })
}

/// Watches one object by name; `None` while it does not exist.
pub fn lasting_object<K>(
    api: Api<K>,
    name: &str,
) -> impl Stream<Item = watcher::Result<Option<K>>> + Send + use<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut listed = false;
    lasting(api, config).filter_map(move |event| {
        let seen = match event {
            Ok(Event::Init) => {
                listed = false;
                None
            }
            Ok(Event::InitApply(object)) => {
                listed = true;
                Some(Ok(Some(object)))
            }
            Ok(Event::InitDone) => (!listed).then_some(Ok(None)),
            Ok(Event::Apply(object)) => Some(Ok(Some(object))),
            Ok(Event::Delete(_)) => Some(Ok(None)),
            Err(error) => Some(Err(error)),
        };
        std::future::ready(seen)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use http::{Request, Response};
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;
    use crate::status::StatusError;

    /// A server whose store was restored after the first list: watches from its revision are refused with `status`.
    fn restored(status: Value) -> kube::Client {
        let lists = Arc::new(AtomicUsize::new(0));
        let service = tower::service_fn(move |request: Request<Body>| {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let (code, body) = if query.contains("watch=") {
                match query.contains("resourceVersion=9000") {
                    true => (status["code"].as_u64().unwrap_or(500), status.to_string()),
                    false => (200, String::new()),
                }
            } else {
                let (revision, name) = match lists.fetch_add(1, Ordering::SeqCst) {
                    0 => ("9000", "before"),
                    _ => ("7", "after"),
                };
                let item = json!({"metadata": {"name": name, "namespace": "n", "resourceVersion": revision}});
                let list = json!({"kind": "ConfigMapList", "apiVersion": "v1",
                    "metadata": {"resourceVersion": revision}, "items": [item]});
                (200, list.to_string())
            };
            let code = u16::try_from(code).unwrap_or(500);
            async move { Response::builder().status(code).body(Body::from(body.into_bytes())) }
        });
        kube::Client::new(service, "n")
    }

    /// The first items; a watch that never gets so far fails the test.
    async fn first<T>(stream: impl Stream<Item = T>, count: usize) -> Vec<T> {
        let all = stream.take(count).collect();
        tokio::time::timeout(Duration::from_secs(60), all).await.expect("it goes on")
    }

    fn too_large() -> Value {
        StatusError::too_large_resource_version(9000, 7, 1).to_value()
    }

    #[tokio::test]
    async fn a_store_that_went_back_is_listed_again() {
        let mut causeless = too_large();
        causeless["details"] = Value::Null;
        let gone = json!({"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "old"});
        for status in [too_large(), causeless, gone] {
            let api = Api::<ConfigMap>::namespaced(restored(status.clone()), "n");
            let names = lasting(api, watcher::Config::default()).filter_map(|event| async move {
                match event {
                    Ok(Event::InitApply(object)) => object.metadata.name,
                    _ => None,
                }
            });
            let names: Vec<String> = first(names, 2).await;
            assert_eq!(names, ["before", "after"], "{status}");
        }
    }

    #[tokio::test]
    async fn other_refusals_are_asked_again_from_where_the_watch_was() {
        let status =
            json!({"kind": "Status", "status": "Failure", "code": 503, "reason": "ServiceUnavailable"});
        let api = Api::<ConfigMap>::namespaced(restored(status), "n");
        let events = first(lasting(api, watcher::Config::default()), 6).await;
        let lists = events.iter().filter(|event| matches!(event, Ok(Event::Init))).count();
        assert_eq!((lists, events.iter().filter(|event| event.is_err()).count()), (1, 3), "{events:?}");
    }

    #[tokio::test]
    async fn one_object_is_what_the_newest_list_says() {
        let api = Api::<ConfigMap>::namespaced(restored(too_large()), "n");
        let seen = lasting_object(api, "before").filter_map(|seen| async move { seen.ok() });
        let names = first(seen.map(|object| object.and_then(|o| o.metadata.name)), 2).await;
        assert_eq!(names, [Some("before".to_owned()), Some("after".to_owned())]);
    }
}
