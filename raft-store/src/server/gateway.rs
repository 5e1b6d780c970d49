//! The JSON gateway: etcd's paths, turned into calls of the gRPC services beside it.
//!
//! One table says which path is which method; messages are transcoded by their descriptors, so nothing here
//! knows any of them. Fields have their proto names, 64-bit numbers are strings, bytes are base64.

use std::{collections::HashMap, sync::Arc};

use ::http::{HeaderMap, Request, Response, StatusCode, header::CONTENT_TYPE};
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use http_body_util::{BodyExt, BodyStream, Full, Limited, StreamBody};
use hyper::body::Frame;
use prost::Message;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, MethodDescriptor, SerializeOptions,
};
use serde_json::json;
use tonic::{Code, Status, body::Body};

use super::{descriptors, http::text, identity::Connection, routes::Answer};

/// Path, service, method.
const PATHS: &[(&str, &str, &str)] = &[
    ("/v3/kv/range", "etcdserverpb.KV", "Range"),
    ("/v3/kv/put", "etcdserverpb.KV", "Put"),
    ("/v3/kv/deleterange", "etcdserverpb.KV", "DeleteRange"),
    ("/v3/kv/txn", "etcdserverpb.KV", "Txn"),
    ("/v3/kv/compaction", "etcdserverpb.KV", "Compact"),
    ("/v3/watch", "etcdserverpb.Watch", "Watch"),
    ("/v3/lease/grant", "etcdserverpb.Lease", "LeaseGrant"),
    ("/v3/kv/lease/revoke", "etcdserverpb.Lease", "LeaseRevoke"),
    ("/v3/lease/keepalive", "etcdserverpb.Lease", "LeaseKeepAlive"),
    ("/v3/kv/lease/timetolive", "etcdserverpb.Lease", "LeaseTimeToLive"),
    ("/v3/kv/lease/leases", "etcdserverpb.Lease", "LeaseLeases"),
    ("/v3/cluster/member/add", "etcdserverpb.Cluster", "MemberAdd"),
    ("/v3/cluster/member/remove", "etcdserverpb.Cluster", "MemberRemove"),
    ("/v3/cluster/member/update", "etcdserverpb.Cluster", "MemberUpdate"),
    ("/v3/cluster/member/list", "etcdserverpb.Cluster", "MemberList"),
    ("/v3/cluster/member/promote", "etcdserverpb.Cluster", "MemberPromote"),
    ("/v3/maintenance/alarm", "etcdserverpb.Maintenance", "Alarm"),
    ("/v3/maintenance/status", "etcdserverpb.Maintenance", "Status"),
    ("/v3/maintenance/defragment", "etcdserverpb.Maintenance", "Defragment"),
    ("/v3/maintenance/hash", "etcdserverpb.Maintenance", "Hash"),
    ("/v3/maintenance/hashkv", "etcdserverpb.Maintenance", "HashKV"),
    ("/v3/maintenance/snapshot", "etcdserverpb.Maintenance", "Snapshot"),
    ("/v3/maintenance/transfer-leadership", "etcdserverpb.Maintenance", "MoveLeader"),
    ("/v3/maintenance/downgrade", "etcdserverpb.Maintenance", "Downgrade"),
    ("/v3/auth/enable", "etcdserverpb.Auth", "AuthEnable"),
    ("/v3/auth/disable", "etcdserverpb.Auth", "AuthDisable"),
    ("/v3/auth/status", "etcdserverpb.Auth", "AuthStatus"),
    ("/v3/auth/authenticate", "etcdserverpb.Auth", "Authenticate"),
    ("/v3/auth/user/add", "etcdserverpb.Auth", "UserAdd"),
    ("/v3/auth/user/get", "etcdserverpb.Auth", "UserGet"),
    ("/v3/auth/user/list", "etcdserverpb.Auth", "UserList"),
    ("/v3/auth/user/delete", "etcdserverpb.Auth", "UserDelete"),
    ("/v3/auth/user/changepw", "etcdserverpb.Auth", "UserChangePassword"),
    ("/v3/auth/user/grant", "etcdserverpb.Auth", "UserGrantRole"),
    ("/v3/auth/user/revoke", "etcdserverpb.Auth", "UserRevokeRole"),
    ("/v3/auth/role/add", "etcdserverpb.Auth", "RoleAdd"),
    ("/v3/auth/role/get", "etcdserverpb.Auth", "RoleGet"),
    ("/v3/auth/role/list", "etcdserverpb.Auth", "RoleList"),
    ("/v3/auth/role/delete", "etcdserverpb.Auth", "RoleDelete"),
    ("/v3/auth/role/grant", "etcdserverpb.Auth", "RoleGrantPermission"),
    ("/v3/auth/role/revoke", "etcdserverpb.Auth", "RoleRevokePermission"),
    ("/v3/lock/lock", "v3lockpb.Lock", "Lock"),
    ("/v3/lock/unlock", "v3lockpb.Lock", "Unlock"),
    ("/v3/election/campaign", "v3electionpb.Election", "Campaign"),
    ("/v3/election/proclaim", "v3electionpb.Election", "Proclaim"),
    ("/v3/election/leader", "v3electionpb.Election", "Leader"),
    ("/v3/election/observe", "v3electionpb.Election", "Observe"),
    ("/v3/election/resign", "v3electionpb.Election", "Resign"),
    ("/v3/lease/revoke", "etcdserverpb.Lease", "LeaseRevoke"),
    ("/v3/lease/timetolive", "etcdserverpb.Lease", "LeaseTimeToLive"),
    ("/v3/lease/leases", "etcdserverpb.Lease", "LeaseLeases"),
];

/// What all paths begin with.
const PREFIX: &str = "/v3/";
/// What they began with before etcd 3.4; served as well, as etcd does.
const OLDER_PREFIX: &str = "/v3beta/";
/// Largest JSON body taken.
const BODY_BYTES_MAX: usize = 16 << 20;
/// Bytes before each message of a gRPC body: a flag and the length.
const FRAME_HEAD: usize = 5;

/// Answers JSON requests. Clones share the table.
#[derive(Clone)]
pub struct Gateway {
    methods: Arc<HashMap<&'static str, MethodDescriptor>>,
}

impl Gateway {
    /// Reads the descriptors; fails only when table and contracts disagree.
    pub fn new() -> Result<Self, String> {
        let files = descriptors::of_clients()?;
        let pool = DescriptorPool::from_file_descriptor_set(files).map_err(|error| error.to_string())?;
        let mut methods = HashMap::new();
        for (path, service, method) in PATHS {
            let service = pool.get_service_by_name(service).ok_or_else(|| format!("no service {service}"))?;
            let found = service.methods().find(|known| known.name() == *method);
            methods.insert(*path, found.ok_or_else(|| format!("no method {method}"))?);
        }
        Ok(Self { methods: Arc::new(methods) })
    }

    /// Whether a path is one of the gateway's, which knows no other under the same prefix either.
    pub fn serves(&self, path: &str) -> bool {
        path.starts_with(PREFIX) || path.starts_with(OLDER_PREFIX)
    }

    /// The method behind a path; an older client's prefix stands for the present one.
    fn method(&self, path: &str) -> Option<&MethodDescriptor> {
        match path.strip_prefix(OLDER_PREFIX) {
            Some(rest) => self.methods.get(format!("{PREFIX}{rest}").as_str()),
            None => self.methods.get(path),
        }
    }

    /// Reads a body as a request of the path of that number, and as its answer.
    pub fn transcode(&self, path: usize, body: &[u8]) {
        let (path, ..) = PATHS[path % PATHS.len()];
        if let Some(method) = self.methods.get(path) {
            let _ = encode_requests(method, body);
            let _ = to_json(&method.output(), body);
        }
    }

    /// Answers one request by calling `services`.
    pub async fn answer(
        &self,
        services: impl FnOnce(Request<Body>) -> Answer,
        request: Request<Body>,
    ) -> Response<Body> {
        let Some(method) = self.method(request.uri().path()).cloned() else {
            return failure(&Status::not_found("Not Found"));
        };
        match call(services, &method, request).await {
            Ok(response) => response,
            Err(status) => failure(&status),
        }
    }
}

async fn call(
    services: impl FnOnce(Request<Body>) -> Answer,
    method: &MethodDescriptor,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    if request.method() != ::http::Method::POST {
        return Err(Status::unimplemented("Method Not Allowed"));
    }
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
    let body = body.map_err(|error| Status::invalid_argument(error.to_string()))?.to_bytes();
    let wire = encode_requests(method, &body)?;
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let open_ended = method.is_client_streaming();
    let mut call = Request::builder().method("POST").uri(path).header(CONTENT_TYPE, "application/grpc");
    for name in ["authorization", "token", "grpc-timeout"] {
        if let Some(value) = parts.headers.get(name) {
            call = call.header(name, value);
        }
    }
    if let Some(connection) = parts.extensions.get::<Connection>() {
        call = call.extension(connection.clone());
    }
    // A watch goes on until the client hangs up, so its request must not end.
    let body = if open_ended && method.name() == "Watch" {
        let first = futures::stream::iter([Ok::<_, Status>(Frame::data(wire))]);
        Body::new(StreamBody::new(first.chain(futures::stream::pending())))
    } else {
        Body::new(Full::new(wire))
    };
    let call = call.body(body).map_err(|error| Status::internal(error.to_string()))?;
    let Ok(response) = services(call).await;
    if let Some(status) =
        Status::from_header_map(response.headers()).filter(|status| status.code() != Code::Ok)
    {
        return if method.is_server_streaming() { Ok(stream_failure(&status)) } else { Err(status) };
    }
    if method.is_server_streaming() {
        return stream_answer(method.output(), response).await;
    }
    let collected = response.into_body().collect().await?;
    let trailers: Option<HeaderMap> = collected.trailers().cloned();
    if let Some(status) = trailers.and_then(|trailers| Status::from_header_map(&trailers))
        && status.code() != Code::Ok
    {
        return Err(status);
    }
    let body = collected.to_bytes();
    let message = body.get(FRAME_HEAD..).unwrap_or_default();
    Ok(text(StatusCode::OK, "application/json", to_json(&method.output(), message)?.to_string()))
}

/// Turns one JSON object, or several one after another where the method takes them, into a gRPC body. Fields that the
/// message does not have are passed over.
fn encode_requests(method: &MethodDescriptor, body: &[u8]) -> Result<Bytes, Status> {
    let bad = |error: serde_json::Error| Status::invalid_argument(error.to_string());
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let objects_max = if method.is_client_streaming() { usize::MAX } else { 1 };
    let mut wire = BytesMut::new();
    let objects = serde_json::Deserializer::from_slice(body).into_iter::<serde_json::Value>();
    let mut values = Vec::new();
    for object in objects.take(objects_max) {
        values.push(object.map_err(bad)?);
    }
    if values.is_empty() {
        values.push(json!({}));
    }
    for value in values {
        let message =
            DynamicMessage::deserialize_with_options(method.input(), value, &options).map_err(bad)?;
        put_frame(&mut wire, &message.encode_to_vec());
    }
    Ok(wire.freeze())
}

fn put_frame(wire: &mut BytesMut, message: &[u8]) {
    wire.put_u8(0);
    wire.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    wire.put_slice(message);
}

fn to_json(output: &MessageDescriptor, message: &[u8]) -> Result<serde_json::Value, Status> {
    let failed = |error: &dyn std::fmt::Display| Status::internal(error.to_string());
    let message = DynamicMessage::decode(output.clone(), message).map_err(|error| failed(&error))?;
    let options = SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(true);
    message.serialize_with_options(serde_json::value::Serializer, &options).map_err(|error| failed(&error))
}

/// Each message as a line `{"result": …}`, as they come; an error at the end as `{"error": …}`. One that comes before
/// any message is the answer's status as well.
async fn stream_answer(
    output: MessageDescriptor,
    response: Response<Body>,
) -> Result<Response<Body>, Status> {
    let mut pending = BytesMut::new();
    let mut frames = BodyStream::new(response.into_body());
    let first = frames.next().await.transpose()?;
    let failed = first.as_ref().and_then(|frame| Status::from_header_map(frame.trailers_ref()?));
    let http = failed.map_or(StatusCode::OK, |status| http_status(status.code()));
    let frames =
        futures::stream::iter(first.map(Ok)).chain(frames).map(move |frame: Result<Frame<Bytes>, Status>| {
            let chunk = match frame?.into_data() {
                Ok(chunk) => chunk,
                Err(last) => return Ok(Frame::data(last_line(&last.into_trailers().unwrap_or_default()))),
            };
            pending.extend_from_slice(&chunk);
            let mut lines = Vec::new();
            while let Some(message) = take_message(&mut pending) {
                let line = json!({ "result": to_json(&output, &message)? });
                lines.extend_from_slice(line.to_string().as_bytes());
                lines.push(b'\n');
            }
            Ok::<_, Status>(Frame::data(Bytes::from(lines)))
        });
    let mut answer = Response::new(Body::new(StreamBody::new(frames)));
    *answer.status_mut() = http;
    answer.headers_mut().insert(CONTENT_TYPE, ::http::HeaderValue::from_static("application/json"));
    Ok(answer)
}

/// What the trailers of a stream have to say: nothing when it ended well.
fn last_line(trailers: &HeaderMap) -> Bytes {
    let status = Status::from_header_map(trailers).filter(|status| status.code() != Code::Ok);
    status.map_or_else(String::new, |status| error_line(&status)).into()
}

fn error_line(status: &Status) -> String {
    let error = json!({"code": status.code() as i32, "message": status.message(), "details": []});
    format!("{}\n", json!({ "error": error }))
}

/// How grpc-gateway shows that a stream did not begin.
fn stream_failure(status: &Status) -> Response<Body> {
    text(http_status(status.code()), "application/json", error_line(status))
}

fn take_message(pending: &mut BytesMut) -> Option<Bytes> {
    let head = pending.get(1..FRAME_HEAD)?;
    let length = u32::from_be_bytes(head.try_into().ok()?) as usize;
    if pending.len() < FRAME_HEAD + length {
        return None;
    }
    let mut frame = pending.split_to(FRAME_HEAD + length);
    Some(frame.split_off(FRAME_HEAD).freeze())
}

/// How grpc-gateway shows an error.
fn failure(status: &Status) -> Response<Body> {
    let body = json!({"error": status.message(), "code": status.code() as i32, "message": status.message()});
    text(http_status(status.code()), "application/json", body.to_string())
}

fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Cancelled => StatusCode::REQUEST_TIMEOUT,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_names_a_method() {
        let gateway = Gateway::new().unwrap();
        assert!(PATHS.iter().all(|(path, ..)| gateway.serves(path) && gateway.method(path).is_some()));
        assert!(gateway.serves("/v3beta/kv/range"));
        assert_eq!(gateway.method("/v3beta/kv/range").map(MethodDescriptor::name), Some("Range"));
        assert!(gateway.serves("/v3/kv/none") && gateway.method("/v3/kv/none").is_none());
        assert!(!gateway.serves("/v2/keys") && !gateway.serves("/v3alpha/kv/range"));
    }

    #[test]
    fn the_end_of_a_stream_tells_of_its_error() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", ::http::HeaderValue::from_static("0"));
        assert!(last_line(&trailers).is_empty());
        Status::unavailable("etcdserver: no leader").add_header(&mut trailers).unwrap();
        let error = json!({"error": {"code": 14, "message": "etcdserver: no leader", "details": []}});
        assert_eq!(last_line(&trailers), format!("{error}\n"));
    }

    #[test]
    fn json_becomes_a_message_and_back() {
        let gateway = Gateway::new().unwrap();
        let put = &gateway.methods["/v3/kv/put"];
        let body = br#"{"key": "Zm9v", "value": "YmFy", "lease": "7", "none": {}} {"key": "Yg=="}"#;
        let wire = encode_requests(put, body).unwrap();
        let back = to_json(&put.input(), &wire[FRAME_HEAD..]).unwrap();
        assert_eq!(back, json!({"key": "Zm9v", "value": "YmFy", "lease": "7"}));
        assert!(encode_requests(put, b"{\"key\": 5}").is_err());
        assert!(encode_requests(put, b"{").is_err());
        let keep_alive = &gateway.methods["/v3/lease/keepalive"];
        let both = encode_requests(keep_alive, br#"{"ID": 1} {"ID": 2}"#).unwrap();
        assert_eq!(both.len(), 2 * (FRAME_HEAD + 2), "a stream of requests");
    }
}
