//! Requests that are passed on to nodes, pods and services: only to where those are, and without what they must not learn.

mod common;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{Server, TOKEN};
use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

const PODS: &str = "/api/v1/namespaces/default/pods";
const MERGE: &str = "application/merge-patch+json";

/// The head of the request on the next connection, which is answered with a refusal.
async fn refuse_one(listener: TcpListener) -> String {
    let (mut connection, _) = listener.accept().await.expect("a connection");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.expect("a request"));
    }
    let answer = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    connection.write_all(answer).await.expect("answered");
    String::from_utf8_lossy(&head).to_lowercase()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_the_offer_of_protocols_stays_here() {
    let server = Server::start().await;
    let node = json!({"metadata": {"name": "n"}});
    assert_eq!(server.post("/api/v1/nodes", &node).await.code, 201);
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}});
    let placed = server.send(Method::PATCH, "/api/v1/nodes/n/status", MERGE, &status.to_string()).await;
    assert_eq!(placed.code, 200, "{}", placed.text);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let asked = tokio::spawn(refuse_one(listener));
    // As a browser does, which cannot set headers.
    let url = format!("wss://{}/api/v1/nodes/n:{port}/proxy/deep?x=y", server.address);
    let mut request = url.into_client_request().expect("a request");
    let token = URL_SAFE_NO_PAD.encode(TOKEN);
    let offer = format!("base64url.bearer.authorization.k8s.io.{token}, chat.example.com");
    request.headers_mut().insert("sec-websocket-protocol", offer.parse().expect("a header"));
    let tcp = tokio::net::TcpStream::connect(server.address).await.expect("connected");
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let tls = tokio_rustls::TlsConnector::from(std::sync::Arc::new(machinery::client::unverified::config()));
    let stream = tls.connect(name, tcp).await.expect("TLS");
    let refused = tokio_tungstenite::client_async(request, stream).await.expect_err("refused by the node");
    assert!(refused.to_string().contains("403"), "{refused}");
    let head = asked.await.expect("asked");
    assert!(head.starts_with("get /deep?x=y http/1.1\r\n"), "{head}");
    assert!(head.contains("sec-websocket-protocol: chat.example.com\r\n"), "{head}");
    assert!(!head.contains("bearer") && !head.contains(&token.to_lowercase()), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_pods_are_behind_services_and_none_is_on_this_machine_itself() {
    let server = Server::start().await;
    let account = json!({"metadata": {"name": "default"}});
    server.post("/api/v1/namespaces/default/serviceaccounts", &account).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let made = server.post(PODS, &pod).await;
    assert_eq!(made.code, 201, "{}", made.text);
    for ip in ["127.0.0.1", "169.254.169.254", "::1"] {
        let status = json!({"status": {"podIP": ip, "podIPs": [{"ip": ip}]}}).to_string();
        let placed = server.send(Method::PATCH, &format!("{PODS}/p/status"), MERGE, &status).await;
        assert_eq!(placed.code, 200, "{}", placed.text);
        let answer = server.get(&format!("{PODS}/p:1/proxy/")).await;
        assert_eq!((answer.code.as_u16(), &answer.json["message"]), (400, &json!("address not allowed")));
    }
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    assert_eq!(server.post("/api/v1/namespaces/default/services", &service).await.code, 201);
    let slice = json!({
        "metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 1}],
        "endpoints": [{"addresses": ["192.0.2.1"]}],
    });
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let made = server.post(slices, &slice).await;
    assert_eq!(made.code, 201, "{}", made.text);
    for (target, why) in [
        ("s", "no endpoints available for service \"s\""),
        ("s:80", "no endpoints available for service \"s:80\""),
        ("s:81", "no service port 81 found for service \"s\""),
    ] {
        let answer = server.get(&format!("/api/v1/namespaces/default/services/{target}/proxy/")).await;
        assert_eq!((answer.code.as_u16(), &answer.json["message"]), (503, &json!(why)));
    }
}
