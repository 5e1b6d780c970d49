//! Plain HTTP beside gRPC: metrics, health and version, as etcd answers them.

use std::time::Duration;

use ::http::{Response, StatusCode, header::CONTENT_TYPE};
use proto::etcdserverpb::AlarmType;
use serde_json::json;
use tonic::body::Body;

use crate::{
    member::{CLUSTER_VERSION, Member, SERVER_VERSION},
    metrics::{self, SERVER},
};

/// How long a health check may wait for a read.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers a request by its path.
pub async fn answer<B>(member: &Member, request: &::http::Request<B>) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default();
    match request.uri().path() {
        "/metrics" => text(StatusCode::OK, "text/plain; version=0.0.4", metrics::render()),
        "/version" => {
            let body = json!({"etcdserver": SERVER_VERSION, "etcdcluster": CLUSTER_VERSION, "storage": CLUSTER_VERSION});
            text(StatusCode::OK, "application/json", body.to_string())
        }
        "/health" => health(member, query).await,
        "/livez" | "/livez/serializable_read" => {
            let alive = member.raft_is_running();
            probe(if alive { Ok(()) } else { Err("the consensus core has stopped".into()) })
        }
        "/readyz" | "/readyz/linearizable_read" | "/readyz/data_corruption" | "/readyz/serializable_read" => {
            probe(ready(member).await)
        }
        _ => text(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n".into()),
    }
}

/// etcd's older check: no alarm that is not excluded, a leader, and a read that works.
async fn health(member: &Member, query: &str) -> Response<Body> {
    let excluded: Vec<&str> = query.split('&').filter_map(|pair| pair.strip_prefix("exclude=")).collect();
    let serializable = query.split('&').any(|pair| pair == "serializable=true");
    let alarms = member.raised_alarms();
    let counted = alarms.into_iter().find(|alarm| !excluded.contains(&alarm.as_str_name()));
    let reason = match counted {
        Some(AlarmType::Nospace) => Some("ALARM NOSPACE".to_owned()),
        Some(AlarmType::Corrupt) => Some("ALARM CORRUPT".to_owned()),
        _ if member.leader().is_none() => Some("RAFT NO LEADER".to_owned()),
        _ if serializable => None,
        _ => read(member).await.err(),
    };
    match reason {
        None => {
            SERVER.healthy.inc();
            text(StatusCode::OK, "application/json", json!({"health": "true", "reason": ""}).to_string())
        }
        Some(reason) => {
            SERVER.unhealthy.inc();
            let body = json!({"health": "false", "reason": reason});
            text(StatusCode::SERVICE_UNAVAILABLE, "application/json", body.to_string())
        }
    }
}

async fn read(member: &Member) -> Result<(), String> {
    match tokio::time::timeout(HEALTH_TIMEOUT, member.read_barrier()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("QGET ERROR:{error}")),
        Err(_) => Err("QGET ERROR:timeout".into()),
    }
}

async fn ready(member: &Member) -> Result<(), String> {
    if member.raised_alarms().contains(&AlarmType::Corrupt) {
        return Err("alarm CORRUPT is raised".into());
    }
    read(member).await
}

fn probe(result: Result<(), String>) -> Response<Body> {
    match result {
        Ok(()) => text(StatusCode::OK, "text/plain; charset=utf-8", "ok\n".into()),
        Err(reason) => text(
            StatusCode::SERVICE_UNAVAILABLE,
            "text/plain; charset=utf-8",
            format!("[-] failed: {reason}\n"),
        ),
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
