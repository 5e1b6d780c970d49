//! A node's certificates against an API server of our own that signs for a few seconds only: the first by a bootstrap
//! token, then renewals of both while the node runs, and a new start with the token after the server was away for
//! longer than a certificate lives.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use node::cli::{KubeletArgs, resolve};
use node::kubelet::certificates;
use node::kubelet::server::tls::{Serving, self_signed, server_config};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, X509Certificate};

/// How long a certificate lives.
const LIFE: Duration = Duration::from_secs(6);
/// Certificates are dated back, as real signers do.
const BACKDATE: Duration = Duration::from_secs(300);
/// Certificates of each kind that must be seen in use.
const GENERATIONS: usize = 3;
/// A loaded machine may take its time.
const LIMIT: Duration = Duration::from_secs(120);
const TOKEN: &str = "abcdef.0123456789abcdef";
const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// An API server that signs what it is asked to, and says `ok` to whoever shows a certificate that lives.
struct Api {
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
    requests: Mutex<BTreeMap<String, Value>>,
    /// Serial numbers of clients that were answered.
    seen: Mutex<BTreeSet<Vec<u8>>>,
    away: AtomicBool,
}

fn serial(certificate: &CertificateDer<'_>) -> Vec<u8> {
    let (_, parsed) = X509Certificate::from_der(certificate).expect("a certificate");
    parsed.raw_serial().to_vec()
}

fn is_alive(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| parsed.validity().is_valid())
}

impl Api {
    fn new() -> Arc<Self> {
        let key = KeyPair::generate().expect("a key");
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&key).expect("signed").pem();
        let issuer = Issuer::new(ca, key);
        let (requests, seen) = (Mutex::default(), Mutex::default());
        Arc::new(Self { issuer, ca_pem, requests, seen, away: AtomicBool::new(false) })
    }

    /// Listens; its address.
    async fn listen(self: &Arc<Self>, ca: &std::path::Path) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
        let own = params.signed_by(&key, &self.issuer).expect("signed");
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let provider = node::kubelet::tls::provider();
        let own = rustls::sign::CertifiedKey::from_der(vec![own.der().clone()], key, &provider);
        let tls = server_config(Serving::new(own.expect("a pair")), Some(ca)).expect("TLS");
        let (acceptor, api) = (TlsAcceptor::from(Arc::new(tls)), Arc::clone(self));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, api) = (acceptor.clone(), Arc::clone(&api));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let shown = stream.get_ref().1.peer_certificates().and_then(|c| c.first());
                    let shown = shown.map(|c| c.clone().into_owned());
                    let service = hyper::service::service_fn(move |request| {
                        let (api, shown) = (Arc::clone(&api), shown.clone());
                        async move { Ok::<_, std::convert::Infallible>(api.answer(request, shown).await) }
                    });
                    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        port
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        shown: Option<CertificateDer<'static>>,
    ) -> Response<Full<Bytes>> {
        let answer = |status, body: Value| {
            let mut answer = Response::new(Full::new(Bytes::from(body.to_string())));
            *answer.status_mut() = status;
            answer
        };
        if self.away.load(Ordering::Relaxed) {
            return answer(StatusCode::SERVICE_UNAVAILABLE, json!({}));
        }
        let token = request.headers().get(http::header::AUTHORIZATION);
        let by_token = token.is_some_and(|v| v == &format!("Bearer {TOKEN}"));
        let certificate = shown.filter(is_alive);
        if !by_token && certificate.is_none() {
            return answer(StatusCode::UNAUTHORIZED, json!({"kind": "Status", "code": 401}));
        }
        let path = request.uri().path().to_owned();
        if request.method() == Method::POST && path == REQUESTS {
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            return answer(StatusCode::CREATED, self.sign(serde_json::from_slice(&body).expect("JSON")));
        }
        if let Some(name) = path.strip_prefix(&format!("{REQUESTS}/")) {
            return answer(StatusCode::OK, self.requests.lock().get(name).cloned().unwrap_or_default());
        }
        self.seen.lock().extend(certificate.map(|c| serial(&c)));
        answer(StatusCode::OK, json!("ok"))
    }

    fn sign(&self, mut request: Value) -> Value {
        let pem = STANDARD.decode(request["spec"]["request"].as_str().expect("a request")).expect("base64");
        let pem = String::from_utf8(pem).expect("text");
        let mut asked = CertificateSigningRequestParams::from_pem(&pem).expect("a request");
        let now = std::time::SystemTime::now();
        asked.params.not_before = (now - BACKDATE).into();
        asked.params.not_after = (now + LIFE).into();
        let signed = asked.signed_by(&self.issuer).expect("signed").pem();
        let mut requests = self.requests.lock();
        let name = format!("csr-{}", requests.len());
        request["metadata"]["name"] = json!(name);
        request["status"] = json!({"certificate": STANDARD.encode(signed)});
        requests.insert(name, request.clone());
        request
    }
}

/// The serial number of what the node's server shows.
async fn served_serial(port: u16) -> Vec<u8> {
    let config = Arc::new(machinery::client::unverified::config());
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("connected");
    let name = rustls::pki_types::ServerName::try_from("node").expect("a name");
    let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.expect("TLS");
    serial(&stream.get_ref().1.peer_certificates().expect("a certificate")[0])
}

async fn serve_tls(serving: Arc<Serving>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("an address").port();
    let acceptor = TlsAcceptor::from(Arc::new(server_config(serving, None).expect("TLS")));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = acceptor.accept(stream).await;
        }
    });
    port
}

fn arguments(root: &std::path::Path, port: u16, ca_pem: &str) -> KubeletArgs {
    let bootstrap = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("https://127.0.0.1:{port}"),
            "certificate-authority-data": STANDARD.encode(ca_pem)}}],
        "users": [{"name": "u", "user": {"token": TOKEN}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]});
    std::fs::write(root.join("bootstrap"), bootstrap.to_string()).expect("written");
    let path = |name: &str| root.join(name).display().to_string();
    KubeletArgs::from_flags(vec![
        format!("--kubeconfig={}", path("kubeconfig")),
        format!("--bootstrap-kubeconfig={}", path("bootstrap")),
        format!("--cert-dir={}", path("pki")),
        format!("--root-dir={}", path("root")),
        "--hostname-override=node".to_owned(),
        "--node-ip=127.0.0.1".to_owned(),
        "--rotate-certificates=true".to_owned(),
        "--rotate-server-certificates=true".to_owned(),
    ])
    .expect("flags")
}

async fn ask(client: &kube::Client) -> bool {
    let request = http::Request::get("/whoami").body(Vec::new()).expect("a request");
    tokio::time::timeout(Duration::from_secs(5), client.request_text(request)).await.is_ok_and(|a| a.is_ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_while_the_node_runs() {
    let root = tempfile::tempdir().expect("a folder");
    let api = Api::new();
    let ca = root.path().join("ca.crt");
    std::fs::write(&ca, &api.ca_pem).expect("written");
    let port = api.listen(&ca).await;
    let args = arguments(root.path(), port, &api.ca_pem);
    let config = resolve(&args).expect("settings");
    let shutdown = CancellationToken::new();
    let node = certificates::client(&args, &config, &shutdown).await.expect("the first certificate");
    let client = node.client.clone();
    assert!(ask(&client).await, "the first certificate serves");
    let serving = Serving::new(self_signed("node", &[]).expect("signed"));
    let served_port = serve_tls(Arc::clone(&serving)).await;
    let keeping = tokio::spawn(certificates::keep_current(node, config, args, serving, shutdown.clone()));

    let deadline = tokio::time::Instant::now() + LIMIT;
    let mut served = BTreeSet::new();
    while served.len() <= GENERATIONS || api.seen.lock().len() < GENERATIONS {
        assert!(tokio::time::Instant::now() < deadline, "not renewed: {served:?} {:?}", api.seen.lock());
        served.insert(served_serial(served_port).await);
        ask(&client).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    api.away.store(true, Ordering::Relaxed);
    tokio::time::sleep(LIFE + Duration::from_secs(1)).await;
    let before = api.seen.lock().clone();
    api.away.store(false, Ordering::Relaxed);
    while api.seen.lock().is_subset(&before) {
        assert!(tokio::time::Instant::now() < deadline, "the node did not come back with its token");
        ask(&client).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    shutdown.cancel();
    keeping.await.expect("ended");
}
