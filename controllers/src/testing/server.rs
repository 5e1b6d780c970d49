//! The model behind the client library: a `tower` service that answers lists, watches and writes, so that the shell
//! (informers, workers, requests, shutdown) can be tested in one process without a socket.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::kinds;
use super::model::Model;
use crate::runtime::plan::{Action, PatchKind, Verb};

/// A client of the model.
pub fn client(model: Arc<Mutex<Model>>) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let model = model.clone();
        async move { Ok::<_, Infallible>(answer(&model, request).await) }
    });
    Client::new(service, "default")
}

type Answer = Response<UnsyncBoxBody<Bytes, std::io::Error>>;

fn json_answer(status: StatusCode, body: &Value) -> Answer {
    let bytes = Bytes::from(serde_json::to_vec(body).unwrap_or_default());
    let whole = Full::new(bytes).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(whole);
    *response.status_mut() = status;
    response
}

async fn answer(model: &Arc<Mutex<Model>>, request: Request<Body>) -> Answer {
    let (parts, body) = request.into_parts();
    let (path, query) = (parts.uri.path().to_string(), parts.uri.query().unwrap_or("").to_string());
    if model.lock().unserved.iter().any(|plural| path.ends_with(plural)) {
        return failed(404, "NotFound", "the server could not find the requested resource");
    }
    if parts.method == Method::GET {
        return if query.contains("watch=true") {
            watch(model.clone(), &path, &query)
        } else {
            read(model, &path)
        };
    }
    let bytes = body.collect_bytes().await.unwrap_or_default();
    let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    write(model, &parts.method, &path, body)
}

fn read(model: &Arc<Mutex<Model>>, path: &str) -> Answer {
    match model.lock().read(path) {
        Ok(body) => json_answer(StatusCode::OK, &body),
        Err(failure) => failed(failure.code, &failure.reason, &failure.message),
    }
}

fn failed(code: u16, reason: &str, message: &str) -> Answer {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
        "reason": reason, "message": message});
    json_answer(StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &status)
}

/// Everything after the asked revision, then whatever comes, for ever.
fn watch(model: Arc<Mutex<Model>>, path: &str, query: &str) -> Answer {
    let plural = path.rsplit('/').next().unwrap_or("").to_string();
    let since =
        query.split('&').find_map(|part| part.strip_prefix("resourceVersion=")).and_then(|v| v.parse().ok());
    let lines = futures::stream::unfold((0usize, since.unwrap_or(0u64)), move |(mut at, since)| {
        let (model, plural) = (model.clone(), plural.clone());
        async move {
            loop {
                let next = model.lock().log.get(at).cloned();
                let Some(event) = next else {
                    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                    continue;
                };
                let position = at;
                at += 1;
                let revision: u64 = event.object["metadata"]["resourceVersion"].as_str()?.parse().ok()?;
                let gvr = kinds::gvr_of(event.object["kind"].as_str()?)?;
                if gvr.plural != plural.as_str() || revision <= since {
                    continue;
                }
                // The model's log does not tell additions from changes; to a cache they are the same.
                let kind = if event.deleted { "DELETED" } else { "MODIFIED" };
                let mut line = serde_json::to_vec(&json!({"type": kind, "object": event.object})).ok()?;
                line.push(b'\n');
                return Some((
                    Ok::<_, std::io::Error>(Frame::data(Bytes::from(line))),
                    (position + 1, since),
                ));
            }
        }
    });
    Response::new(StreamBody::new(lines.boxed()).boxed_unsync())
}

fn write(model: &Arc<Mutex<Model>>, method: &Method, path: &str, body: Value) -> Answer {
    let gvr = kinds::gvr_of(body["kind"].as_str().unwrap_or(""));
    let gvr = gvr.or_else(|| kinds::all().into_iter().find(|gvr| path.contains(&format!("/{}", gvr.plural))));
    let Some(gvr) = gvr else { return failed(404, "NotFound", path) };
    let space = path.split("/namespaces/").nth(1).and_then(|rest| rest.split('/').next());
    let space = space
        .filter(|_| path.contains(&format!("/{}", gvr.plural)) && gvr.plural != "namespaces")
        .unwrap_or("");
    let subresource = if path.ends_with("/status") { "status" } else { "" };
    let object = path.strip_suffix("/status").unwrap_or(path);
    let name = object.rsplit('/').next().filter(|last| *last != gvr.plural).unwrap_or("");
    let verb = match *method {
        Method::POST => Verb::Create { body, subresource: "" },
        Method::PUT => Verb::Update { body, subresource },
        Method::PATCH => Verb::Patch { body, kind: PatchKind::Merge, subresource },
        _ => Verb::Delete { uid: None, resource_version: None, propagation: None, grace_secs: None },
    };
    match model.lock().write(&Action::on(&gvr, space, name, verb)) {
        Ok(body) => json_answer(StatusCode::OK, &body),
        Err(failure) => failed(failure.code, &failure.reason, &failure.message),
    }
}
