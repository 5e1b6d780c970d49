//! Two upgraded connections joined byte for byte: exec, attach, port-forward and proxied WebSockets.
//!
//! Whatever is spoken inside (WebSocket channels v4 or v5, SPDY) is between client and kubelet.

use futures::StreamExt as _;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use machinery::status::StatusError;

use super::kubelet::{Destination, Kubelet};
use crate::http::body::{self, Body};

/// Headers that belong to one connection and are not passed on.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "proxy-connection",
];

/// Whether the client asks for another protocol.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    let wants = |v: &http::HeaderValue| v.to_str().is_ok_and(|t| t.to_lowercase().contains("upgrade"));
    headers.contains_key(UPGRADE) && headers.get_all(CONNECTION).iter().any(wants)
}

/// The client's headers without those of its connection and its identity.
pub fn forwarded_headers(headers: &HeaderMap, upgrade: bool) -> HeaderMap {
    let mut out = HeaderMap::new();
    for (name, value) in headers {
        let hop = HOP_BY_HOP.contains(&name.as_str());
        let kept_for_upgrade = upgrade && (name == CONNECTION || name == UPGRADE);
        let identity = name == http::header::AUTHORIZATION || name.as_str().starts_with("impersonate-");
        if (hop && !kept_for_upgrade) || identity || name == http::header::HOST {
            continue;
        }
        out.append(name, value.clone());
    }
    out
}

/// The host header for a destination.
pub fn host_header(to: &Destination) -> Option<(http::HeaderName, http::HeaderValue)> {
    let brackets = if to.host.contains(':') { ("[", "]") } else { ("", "") };
    let host = format!("{}{}{}:{}", brackets.0, to.host, brackets.1, to.port);
    Some((http::header::HOST, http::HeaderValue::from_str(&host).ok()?))
}

/// Passes a request on and its answer back; joins the connections when the other side upgrades.
pub async fn pass(
    kubelet: &Kubelet,
    to: &Destination,
    mut incoming: Request<Incoming>,
    path_and_query: &str,
) -> Result<Response<Body>, StatusError> {
    let upgrade = is_upgrade(incoming.headers());
    let client = upgrade.then(|| hyper::upgrade::on(&mut incoming));
    let (parts, request_body) = incoming.into_parts();
    let mut request = Request::builder().method(parts.method).uri(path_and_query);
    if let Some(headers) = request.headers_mut() {
        *headers = forwarded_headers(&parts.headers, upgrade);
        headers.extend(host_header(to));
    }
    let request_body = if upgrade { body::empty() } else { infallible(request_body) };
    let request = request.body(request_body).map_err(|e| StatusError::bad_request(e.to_string()))?;
    let mut answer = kubelet.send(to, request).await?;
    if answer.status() == http::StatusCode::SWITCHING_PROTOCOLS
        && let Some(client) = client
    {
        let server = hyper::upgrade::on(&mut answer);
        tokio::spawn(async move {
            if let Err(error) = join(client, server).await {
                tracing::debug!(%error, "a tunnel ended with an error");
            }
        });
        let (parts, _) = answer.into_parts();
        return Ok(Response::from_parts(parts, body::empty()));
    }
    Ok(passed_back(answer))
}

/// An answer without the headers of its connection.
pub fn passed_back(answer: Response<Incoming>) -> Response<Body> {
    let (mut parts, body) = answer.into_parts();
    for name in HOP_BY_HOP {
        parts.headers.remove(name);
    }
    Response::from_parts(parts, infallible(body))
}

async fn join(
    client: hyper::upgrade::OnUpgrade,
    server: hyper::upgrade::OnUpgrade,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (client, server) = tokio::try_join!(client, server)?;
    tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(server)).await?;
    Ok(())
}

/// A body that ends where the other side breaks off.
fn infallible(body: Incoming) -> Body {
    let frames = http_body_util::BodyStream::new(body);
    let frames = frames.take_while(|frame| std::future::ready(frame.is_ok()));
    let data = frames.filter_map(|frame| std::future::ready(frame.ok().and_then(|f| f.into_data().ok())));
    let data = data.boxed();
    http_body_util::StreamBody::new(data.map(|b| Ok(hyper::body::Frame::data(b)))).boxed_unsync()
}
