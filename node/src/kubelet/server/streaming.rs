//! Exec, attach and port-forward: the runtime gives a URL of its own streaming server; the client's upgraded
//! connection is joined with one to there. What they speak (SPDY/3.1 or WebSocket channels) is between them.
//!
//! Two things are translated, because runtimes do not speak them: port-forward tunnels (SPDY inside WebSocket
//! messages) and exec and attach with WebSocket's protocol v5.

use std::collections::HashMap;

use http::header::{CONNECTION, HOST, HeaderName, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use machinery::remotecommand::Wanted;
use proto::cri;
use tokio::net::TcpStream;

use super::pods::{find_pod, running_container};
use super::respond::{Answer, full, text};
use super::{channels, tunnel};
use crate::kubelet::cri::client::{CALL_TIMEOUT, timed};
use crate::kubelet::worker::Pool;

const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// Which stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A new process.
    Exec,
    /// The running one.
    Attach,
    /// Connections to ports.
    PortForward,
}

/// Flags under the kubelet's names and the API's.
fn flag(query: &[(String, String)], names: [&str; 2]) -> bool {
    query.iter().any(|(k, v)| names.contains(&k.as_str()) && (v == "1" || v == "true"))
}

fn wanted(query: &[(String, String)]) -> Wanted {
    Wanted {
        stdin: flag(query, ["input", "stdin"]),
        stdout: flag(query, ["output", "stdout"]),
        stderr: flag(query, ["error", "stderr"]),
        tty: flag(query, ["tty", "tty"]),
    }
}

/// Asks the runtime for the URL of a stream.
async fn stream_url(
    pool: &Pool,
    kind: Kind,
    path: &[&str],
    query: &[(String, String)],
) -> Result<String, Box<Answer>> {
    let (namespace, pod, uid, container) = match (kind, path) {
        (Kind::PortForward, [ns, pod]) => (*ns, *pod, None, ""),
        (Kind::PortForward, [ns, pod, uid]) => (*ns, *pod, Some(*uid), ""),
        (_, [ns, pod, container]) => (*ns, *pod, None, *container),
        (_, [ns, pod, uid, container]) => (*ns, *pod, Some(*uid), *container),
        _ => return Err(Box::new(text(StatusCode::NOT_FOUND, "404 page not found\n"))),
    };
    let view = find_pod(pool, namespace, pod, uid)?;
    let mut runtime = pool.context().runtime.runtime();
    let Wanted { stdin, stdout, stderr, tty } = wanted(query);
    let answer = match kind {
        Kind::Exec => {
            let container_id = running_container(&view, container)?.id.clone();
            let cmd = query.iter().filter(|(k, _)| k == "command").map(|(_, v)| v.clone()).collect();
            // With a terminal there is no stderr of its own.
            let request = cri::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr: stderr && !tty };
            runtime.exec(timed(request, CALL_TIMEOUT)).await.map(|a| a.into_inner().url)
        }
        Kind::Attach => {
            let container_id = running_container(&view, container)?.id.clone();
            let request = cri::AttachRequest { container_id, stdin, tty, stdout, stderr: stderr && !tty };
            runtime.attach(timed(request, CALL_TIMEOUT)).await.map(|a| a.into_inner().url)
        }
        Kind::PortForward => {
            let sandbox = view.snapshot.observed.sandbox();
            let missing = || {
                Box::new(text(StatusCode::NOT_FOUND, format!("failed to find sandbox of pod \"{pod}\"\n")))
            };
            let pod_sandbox_id = sandbox.ok_or_else(missing)?.id.clone();
            let port = |v: &str| v.split(',').filter_map(|p| p.parse().ok()).collect::<Vec<i32>>();
            let port = query
                .iter()
                .filter(|(k, _)| k == "port" || k == "ports")
                .flat_map(|(_, v)| port(v))
                .collect();
            let request = cri::PortForwardRequest { pod_sandbox_id, port };
            runtime.port_forward(timed(request, CALL_TIMEOUT)).await.map(|a| a.into_inner().url)
        }
    };
    answer.map_err(|status| {
        Box::new(text(StatusCode::INTERNAL_SERVER_ERROR, format!("{}\n", status.message())))
    })
}

/// Answers a request for a stream.
pub async fn answer(pool: &Pool, kind: Kind, path: &[&str], mut request: Request<Incoming>) -> Answer {
    let query = parse_query(request.uri().query().unwrap_or_default());
    let url = match stream_url(pool, kind, path, &query).await {
        Ok(url) => url,
        Err(answer) => return *answer,
    };
    let Ok(target) = url.parse::<Uri>() else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, format!("the runtime's URL {url} is no URL\n"));
    };
    let upgrade = hyper::upgrade::on(&mut request);
    if tunnel::is_tunnel(request.headers()) {
        return tunnel::answer(&target, request.headers(), upgrade).await;
    }
    if kind != Kind::PortForward && channels::is_v5(request.headers()) {
        return channels::answer(&target, request.headers(), wanted(&query), upgrade).await;
    }
    let (method, headers) = (request.method().clone(), request.headers().clone());
    match dial(&target, method, headers).await {
        Ok(answer) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => joined(answer, upgrade),
        Ok(answer) => plain(answer).await,
        Err(error) => text(StatusCode::BAD_GATEWAY, format!("{error}\n")),
    }
}

/// Splits a query, keeping order and repetition.
pub fn parse_query(query: &str) -> Vec<(String, String)> {
    url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

/// The query as a map: the last value of a key counts.
pub fn query_map(query: &str) -> HashMap<String, String> {
    parse_query(query).into_iter().collect()
}

/// Sends the upgrade on to the runtime's streaming server.
async fn dial(target: &Uri, method: Method, headers: HeaderMap) -> Result<Response<Incoming>, String> {
    let authority = target.authority().ok_or("the runtime's URL has no host")?;
    let port = authority.port_u16().unwrap_or(80);
    let stream =
        TcpStream::connect((authority.host(), port)).await.map_err(|e| format!("{authority}: {e}"))?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection.with_upgrades());
    let path = target.path_and_query().map_or("/", |p| p.as_str());
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().map_err(|e| format!("{path}: {e}"))?;
    *request.headers_mut() = headers;
    request.headers_mut().remove(http::header::AUTHORIZATION);
    let host = HeaderValue::from_str(authority.as_str()).map_err(|e| e.to_string())?;
    request.headers_mut().insert(HOST, host);
    sender.send_request(request).await.map_err(|e| e.to_string())
}

/// Opens a SPDY connection to the runtime's streaming server that speaks `protocol` inside; else how the client is
/// refused.
pub async fn dial_spdy(target: &Uri, protocol: &'static str) -> Result<OnUpgrade, Box<Answer>> {
    let mut headers = HeaderMap::new();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    headers.insert(PROTOCOL_VERSION, HeaderValue::from_static(protocol));
    let refusal = match dial(target, Method::POST, headers).await {
        Ok(mut answer) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => {
            return Ok(hyper::upgrade::on(&mut answer));
        }
        Ok(answer) => format!("the runtime answered {}\n", answer.status()),
        Err(error) => format!("{error}\n"),
    };
    Err(Box::new(text(StatusCode::BAD_GATEWAY, refusal)))
}

/// True if a WebSocket client offers that protocol.
pub fn offers(headers: &HeaderMap, protocol: &str) -> bool {
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    offered.flat_map(|v| v.split(',')).any(|p| p.trim() == protocol)
}

/// Passes the switch on to the client and joins both connections.
fn joined(mut from_runtime: Response<Incoming>, client: OnUpgrade) -> Answer {
    let runtime = hyper::upgrade::on(&mut from_runtime);
    tokio::spawn(async move {
        let (Ok(client), Ok(runtime)) = (client.await, runtime.await) else {
            tracing::debug!("an upgrade of a stream failed");
            return;
        };
        let (mut client, mut runtime) = (TokioIo::new(client), TokioIo::new(runtime));
        if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut runtime).await {
            tracing::debug!(%error, "a stream ended early");
        }
    });
    let mut answer = Response::new(full(Bytes::new()));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let passed =
        [CONNECTION, UPGRADE, SEC_WEBSOCKET_PROTOCOL, http::header::SEC_WEBSOCKET_ACCEPT, PROTOCOL_VERSION];
    for name in passed {
        for value in from_runtime.headers().get_all(&name) {
            answer.headers_mut().append(name.clone(), value.clone());
        }
    }
    answer
}

/// Passes on an answer that is no switch.
async fn plain(answer: Response<Incoming>) -> Answer {
    let status = answer.status();
    let body = answer.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let mut passed = Response::new(full(body));
    *passed.status_mut() = status;
    passed
}
