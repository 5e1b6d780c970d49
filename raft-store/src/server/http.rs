//! Plain HTTP beside gRPC: metrics, version and health, as etcd answers them.

use ::http::{Response, StatusCode, header::CONTENT_TYPE};
use serde_json::json;
use tonic::body::Body;

use super::probes;
use crate::{
    member::{CLUSTER_VERSION, Member, SERVER_VERSION},
    metrics,
};

/// Answers a request by its path.
pub async fn answer<B>(member: &Member, request: &::http::Request<B>) -> Response<Body> {
    if let Some(answer) = probes::answer(member, request).await {
        return answer;
    }
    match request.uri().path() {
        "/metrics" => text(StatusCode::OK, "text/plain; version=0.0.4", metrics::render()),
        "/version" => {
            let body = json!({"etcdserver": SERVER_VERSION, "etcdcluster": CLUSTER_VERSION, "storage": CLUSTER_VERSION});
            text(StatusCode::OK, "application/json", body.to_string())
        }
        _ => text(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n".into()),
    }
}

/// A complete answer.
pub fn text(status: StatusCode, content_type: &str, body: String) -> Response<Body> {
    let body = Body::new(http_body_util::Full::new(bytes::Bytes::from(body)));
    let mut response = Response::new(body);
    *response.status_mut() = status;
    if let Ok(content_type) = content_type.parse() {
        response.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    response
}
