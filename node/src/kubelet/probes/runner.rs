//! One probe of one container: exec, HTTP, TCP or gRPC.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::core::v1::{Container, GRPCAction, HTTPGetAction, Probe, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use crate::kubelet::cri::Runtime;

/// How much of an answer is kept for the event.
const BODY_BYTES_MAX: usize = 10 * 1024;
/// How much of a command's output is kept.
const OUTPUT_BYTES_MAX: usize = 10 * 1024;
/// The text upstream's HTTP probes call themselves by.
const USER_AGENT: &str = "kube-probe/1.36";

/// What a probe needs to know of its container.
#[derive(Clone, Debug)]
pub struct Target {
    /// The runtime's id.
    pub container_id: String,
    /// The pod's address.
    pub pod_ip: String,
    /// The container's spec: named ports.
    pub container: Container,
}

/// How a probe ended, with words for the event on failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Healthy.
    Success,
    /// Not healthy.
    Failure(String),
    /// Could not be asked at all; nothing is known.
    Unknown(String),
}

/// Runs the probe once, at most `limit` long.
pub async fn run(runtime: &Runtime, probe: &Probe, target: &Target, limit: Duration) -> Answer {
    if let Some(exec) = &probe.exec {
        let command = exec.command.clone().unwrap_or_default();
        return exec_probe(runtime, &target.container_id, command, limit).await;
    }
    if let Some(get) = &probe.http_get {
        return http_probe(get, target, limit).await;
    }
    if let Some(tcp) = &probe.tcp_socket {
        return tcp_probe(tcp, target, limit).await;
    }
    if let Some(grpc) = &probe.grpc {
        return grpc_probe(grpc, target, limit).await;
    }
    Answer::Unknown("missing probe handler".into())
}

async fn exec_probe(runtime: &Runtime, id: &str, command: Vec<String>, limit: Duration) -> Answer {
    match runtime.exec_sync(id, command, limit).await {
        Ok(answer) if answer.exit_code == 0 => Answer::Success,
        Ok(answer) => {
            let mut output = [answer.stdout.as_ref(), answer.stderr.as_ref()].concat();
            output.truncate(OUTPUT_BYTES_MAX);
            Answer::Failure(String::from_utf8_lossy(&output).into_owned())
        }
        Err(error) if is_timeout(&error) => {
            Answer::Failure(format!("command timed out: {}", error.message()))
        }
        Err(error) => Answer::Unknown(error.to_string()),
    }
}

fn is_timeout(error: &crate::kubelet::cri::CriError) -> bool {
    let text = error.message();
    matches!(error, crate::kubelet::cri::CriError::Call { code: tonic::Code::DeadlineExceeded, .. })
        || text.contains("timeout") && text.contains("exceeded")
}

/// The number of a port given by number or by name.
pub fn port_number(port: &IntOrString, container: &Container) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
            match named {
                Some(port) => u16::try_from(port.container_port).ok(),
                None => name.parse().ok(),
            }
        }
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

/// The URL of an HTTP action. The error text is upstream's.
pub fn http_url(get: &HTTPGetAction, target: &Target) -> Result<String, String> {
    let port = port_number(&get.port, &target.container).ok_or("invalid port number")?;
    let host = get.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| target.pod_ip.clone());
    let scheme = get.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let path = get.path.clone().unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok(format!("{scheme}://{}:{port}{slash}{path}", bracketed(&host)))
}

/// Sends one GET without checking certificates; status and the beginning of the body.
pub async fn http_get(get: &HTTPGetAction, url: &str, limit: Duration) -> Result<(u16, String), String> {
    let uri: http::Uri = url.parse().map_err(|e| format!("{url}: {e}"))?;
    let mut request = http::Request::builder().uri(uri).header("connection", "close");
    let mut agent = true;
    let mut accept = true;
    for header in get.http_headers.iter().flatten() {
        agent &= !header.name.eq_ignore_ascii_case("user-agent");
        accept &= !header.name.eq_ignore_ascii_case("accept");
        request = request.header(&header.name, &header.value);
    }
    if agent {
        request = request.header("user-agent", USER_AGENT);
    }
    if accept {
        request = request.header("accept", "*/*");
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    let client = Client::builder(TokioExecutor::new())
        .build::<_, Empty<Bytes>>(crate::kubelet::tls::unverified_connector());
    let exchange = async {
        let answer = client.request(request).await.map_err(|e| root_cause(&e))?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await;
        let text = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or_default();
        Ok((status, text))
    };
    match tokio::time::timeout(limit, exchange).await {
        Ok(result) => result,
        Err(_) => Err("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".into()),
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

async fn http_probe(get: &HTTPGetAction, target: &Target, limit: Duration) -> Answer {
    let url = match http_url(get, target) {
        Ok(url) => url,
        Err(text) => return Answer::Unknown(text),
    };
    match http_get(get, &url, limit).await {
        Ok((200..=399, _)) => Answer::Success,
        Ok((status, _)) => Answer::Failure(format!("HTTP probe failed with statuscode: {status}")),
        Err(text) => Answer::Failure(format!("Get \"{url}\": {text}")),
    }
}

async fn tcp_probe(tcp: &TCPSocketAction, target: &Target, limit: Duration) -> Answer {
    let Some(port) = port_number(&tcp.port, &target.container) else {
        return Answer::Unknown("invalid port number".into());
    };
    let host = tcp.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| target.pod_ip.clone());
    let address = format!("{}:{port}", bracketed(&host));
    match tokio::time::timeout(limit, TcpStream::connect(&address)).await {
        Ok(Ok(_)) => Answer::Success,
        Ok(Err(error)) => Answer::Failure(format!("dial tcp {address}: {error}")),
        Err(_) => Answer::Failure(format!("dial tcp {address}: i/o timeout")),
    }
}

async fn grpc_probe(grpc: &GRPCAction, target: &Target, limit: Duration) -> Answer {
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_client::HealthClient;
    let address = format!("http://{}:{}", bracketed(&target.pod_ip), grpc.port);
    let service = grpc.service.clone().unwrap_or_default();
    let exchange = async {
        let endpoint = tonic::transport::Endpoint::from_shared(address).map_err(|e| e.to_string())?;
        let channel = endpoint.connect().await.map_err(|e| root_cause(&e))?;
        let request = tonic_health::pb::HealthCheckRequest { service };
        let answer = HealthClient::new(channel).check(request).await;
        answer.map(|a| a.into_inner().status).map_err(|s| s.message().to_owned())
    };
    match tokio::time::timeout(limit, exchange).await {
        Ok(Ok(status)) if status == ServingStatus::Serving as i32 => Answer::Success,
        Ok(Ok(_)) => Answer::Failure("service unhealthy (responded with \"NOT_SERVING\")".into()),
        Ok(Err(text)) => Answer::Failure(format!("error: health rpc probe failed: {text}")),
        Err(_) => Answer::Failure(format!("timeout: health rpc did not complete within {limit:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic_health::ServingStatus;

    #[tokio::test]
    async fn a_service_says_over_grpc_how_it_is() {
        let (reporter, service) = tonic_health::server::health_reporter();
        reporter.set_service_status("well", ServingStatus::Serving).await;
        reporter.set_service_status("ill", ServingStatus::NotServing).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = i32::from(listener.local_addr().expect("an address").port());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let target = Target {
            container_id: String::new(),
            pod_ip: "127.0.0.1".to_owned(),
            container: Container::default(),
        };
        let ask = async |service: &str, port: i32| {
            let action = GRPCAction { port, service: Some(service.to_owned()) };
            grpc_probe(&action, &target, Duration::from_secs(30)).await
        };
        assert_eq!(ask("well", port).await, Answer::Success);
        assert_eq!(ask("", port).await, Answer::Success, "the server as a whole");
        let ill = "service unhealthy (responded with \"NOT_SERVING\")";
        assert_eq!(ask("ill", port).await, Answer::Failure(ill.into()));
        for (service, port) in [("unknown", port), ("well", 1)] {
            let answer = ask(service, port).await;
            assert!(matches!(&answer, Answer::Failure(text) if text.starts_with("error: ")), "{answer:?}");
        }
    }
}
