//! What happens at the edges of a connection: limits, identities in the handshake and in tokens, watchers that do not
//! keep up, the end of the server. Requests are written byte by byte, since client libraries send no such ones.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use apiserver::cache::Filter;
use apiserver::cli::{Args, start};
use apiserver::contract::RequestInfo;
use apiserver::http::encode::EventEncoder;
use apiserver::http::negotiate::{Encoding, Form, Transform};
use apiserver::http::watch::{Limits, WatchOptions, stream};
use apiserver::server::Handle;
use apiserver::table::IncludeObject;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::StreamExt as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use machinery::client::unverified;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

/// Longest wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);
const TOKEN: &str = "admin-token";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

struct Server {
    address: SocketAddr,
    shutdown: CancellationToken,
    handle: Handle,
    _folder: tempfile::TempDir,
}

impl Server {
    /// Starts with these flags besides the usual ones, and waits until it is ready.
    async fn start(more: impl FnOnce(&std::path::Path) -> Vec<String>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = raft_store::Config::embedded(folder.path().join("store"));
        let member = raft_store::Member::start(store).await.expect("a store");
        let tokens = folder.path().join("tokens.csv");
        std::fs::write(&tokens, format!("{TOKEN},admin,admin,\"system:masters\"\n")).expect("a token file");
        let usual = [
            "--secure-port=0".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            format!("--token-auth-file={}", tokens.display()),
        ];
        let flags = usual.into_iter().chain(more(folder.path()));
        let shutdown = CancellationToken::new();
        let args = Args::from_flags(flags).expect("flags");
        let handle = start(args, Some(member), shutdown.clone()).await.expect("a server");
        let server = Self { address: handle.address, shutdown, handle, _folder: folder };
        let ready = async || server.send("GET", "/readyz", TOKEN, "").await.starts_with("HTTP/1.1 200");
        eventually("ready", ready).await;
        server
    }

    async fn open(&self, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(self.address).await?).await
    }

    /// Sends these bytes and gives back the open connection.
    async fn begin(&self, bytes: &str) -> TlsStream<TcpStream> {
        let mut connection = self.open(unverified::config()).await.expect("a connection");
        connection.write_all(bytes.as_bytes()).await.expect("sent");
        connection
    }

    /// One request on a connection of its own; the whole answer, head and body.
    async fn send(&self, method: &str, path: &str, token: &str, body: &str) -> String {
        rest(&mut self.begin(&request(method, path, token, body)).await).await
    }

    /// What the server calls whoever shows this certificate and token; the whole answer where it is no success.
    async fn known_as(&self, chain: Vec<CertificateDer<'static>>, key: &KeyPair, token: &str) -> String {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(unverified::verifier())
            .with_client_auth_cert(chain, key)
            .expect("a certificate with its key");
        let mut connection = self.open(config).await.expect("a connection");
        connection.write_all(review(token).as_bytes()).await.expect("sent");
        name_in(&rest(&mut connection).await)
    }
}

fn request(method: &str, path: &str, token: &str, body: &str) -> String {
    let authorization =
        if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{authorization}Content-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The question who one is.
fn review(token: &str) -> String {
    let body = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}"#;
    request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", token, body)
}

/// Name and groups in the answer to a review, or the answer's first line.
fn name_in(answer: &str) -> String {
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let review: Value = serde_json::from_str(body).unwrap_or_default();
    let user = &review["status"]["userInfo"];
    let Some(name) = user["username"].as_str() else {
        return answer.lines().next().unwrap_or("no answer").to_owned();
    };
    let groups = user["groups"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let groups: Vec<&str> = groups.filter(|g| !g.starts_with("system:authenticated")).collect();
    format!("{name}/{}", groups.join("+"))
}

/// Everything that still comes, until the other side closes, in whatever way.
async fn rest(connection: &mut TlsStream<TcpStream>) -> String {
    let mut all = Vec::new();
    let mut chunk = [0; 4096];
    let read = async {
        while let Ok(len @ 1..) = connection.read(&mut chunk).await {
            all.extend_from_slice(&chunk[..len]);
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("the end of the answer");
    String::from_utf8_lossy(&all).into_owned()
}

/// Reads until the text has come.
async fn until(connection: &mut TlsStream<TcpStream>, text: &str) -> String {
    let mut all = Vec::new();
    let mut chunk = [0; 4096];
    let read = async {
        while !String::from_utf8_lossy(&all).contains(text) {
            let len = connection.read(&mut chunk).await.expect("an open connection");
            assert!(len > 0, "closed before {text:?}");
            all.extend_from_slice(&chunk[..len]);
        }
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap_or_else(|_| panic!("{text:?} never came"));
    String::from_utf8_lossy(&all).into_owned()
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn code(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("no answer")
}

/// The head of a creation whose body of `len` bytes is still to come.
fn promised(path: &str, len: usize) -> String {
    request("POST", path, TOKEN, "").replace("Content-Length: 0", &format!("Content-Length: {len}"))
}

fn map(name: &str) -> String {
    json!({"metadata": {"name": name}, "data": {"k": "v"}}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_bodies_and_too_many_requests_are_turned_away() {
    let flags = ["--max-mutating-requests-inflight=1", "--request-timeout=20s"];
    let server = Server::start(|_| flags.map(str::to_owned).to_vec()).await;
    let slow = rest(&mut server.begin(&promised(&format!("{MAPS}?timeout=1s"), 10)).await).await;
    assert_eq!(code(&slow), "504", "{slow}");
    assert!(slow.contains("request did not complete within"), "{slow}");
    // The only place is taken by a request whose body does not come; the next waits a quarter of the time for it.
    let holder = server.begin(&promised(MAPS, 10)).await;
    let held = "apiserver_current_inflight_requests{request_kind=\"mutating\"} 1";
    eventually("the place is taken", async || server.send("GET", "/metrics", TOKEN, "").await.contains(held))
        .await;
    let refused = server.send("POST", MAPS, TOKEN, &map("late")).await;
    assert_eq!(code(&refused), "429", "{refused}");
    assert!(refused.to_lowercase().contains("\r\nretry-after: 1\r\n"), "{refused}");
    assert!(refused.contains("\"reason\":\"TooManyRequests\""), "{refused}");
    assert_eq!(code(&server.send("GET", MAPS, TOKEN, "").await), "200", "reads have places of their own");
    // A client that goes away leaves its place.
    drop(holder);
    let made = server.send("POST", MAPS, TOKEN, &map("late")).await;
    assert_eq!(code(&made), "201", "{made}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_too_large_or_too_deep_are_refused() {
    let server = Server::start(|_| Vec::new()).await;
    let large = json!({"metadata": {"name": "large"}, "data": {"k": "x".repeat(3 << 20)}}).to_string();
    let refused = server.send("POST", MAPS, TOKEN, &large).await;
    assert_eq!(code(&refused), "413", "{refused}");
    assert!(refused.contains("\"reason\":\"RequestEntityTooLarge\""), "{refused}");
    assert!(refused.contains("limit is 3145728"), "{refused}");
    for (media_type, open, close) in [
        ("application/json", "[", "]"),
        ("application/json", "{\"a\":", "}"),
        ("application/yaml", "[", "]"),
        ("application/yaml", "{a: ", "}"),
    ] {
        for depth in [200, 20_000, 200_000] {
            let leaf = if open == "[" { "" } else { "1" };
            let body = format!("{{\"data\": {}{leaf}{}}}", open.repeat(depth), close.repeat(depth));
            let text = request("POST", MAPS, TOKEN, &body).replace("application/json", media_type);
            let refused = rest(&mut server.begin(&text).await).await;
            assert_eq!(code(&refused), "400", "{media_type} {open} {depth}: {refused}");
        }
    }
    assert_eq!(code(&server.send("POST", MAPS, TOKEN, &map("sound")).await), "201");
}

/// A certificate made by `issuer`, changed by `shape` before it is signed.
fn leaf(
    issuer: &CertifiedIssuer<'static, KeyPair>,
    shape: impl FnOnce(&mut CertificateParams),
) -> (CertificateDer<'static>, KeyPair) {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    shape(&mut params);
    let key = KeyPair::generate().expect("a key");
    let made = params.signed_by(&key, issuer).expect("a certificate");
    (made.der().clone(), key)
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_every_shape_say_who_one_is_or_nothing() {
    let (ours, theirs) = (authority("authority"), authority("authority"));
    let server = Server::start(|folder| {
        let file = folder.join("ca.pem");
        std::fs::write(&file, ours.pem()).expect("a file");
        vec![format!("--client-ca-file={}", file.display())]
    })
    .await;
    let named = |name: &'static str, groups: &'static [&'static str]| {
        move |params: &mut CertificateParams| {
            params.distinguished_name.push(DnType::CommonName, name);
            groups.iter().for_each(|group| params.distinguished_name.push(DnType::OrganizationName, *group));
        }
    };
    let check = async |(certificate, key): (CertificateDer<'static>, KeyPair), expected: &str| {
        let found = server.known_as(vec![certificate], &key, "").await;
        assert_eq!(found, expected);
    };
    check(leaf(&ours, named("jane", &["dev"])), "jane/dev").await;
    check(leaf(&ours, named("system:node:ñandú/☂ 1", &[])), "system:node:ñandú/☂ 1/").await;
    let no_name =
        leaf(&ours, |params| params.distinguished_name.push(DnType::OrganizationName, "system:masters"));
    // Nobody in particular, who may not ask.
    check(no_name, "HTTP/1.1 403 Forbidden").await;
    check(leaf(&theirs, named("jane", &["system:masters"])), "HTTP/1.1 401 Unauthorized").await;
    let of_server = leaf(&ours, |params| {
        named("jane", &[])(params);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    check(of_server, "HTTP/1.1 401 Unauthorized").await;
    for (from, to) in [(2000, 2001), (2200, 2201)] {
        let other_times = leaf(&ours, |params| {
            named("jane", &[])(params);
            (params.not_before, params.not_after) =
                (rcgen::date_time_ymd(from, 1, 1), rcgen::date_time_ymd(to, 1, 1));
        });
        check(other_times, "HTTP/1.1 401 Unauthorized").await;
    }
    // A bad certificate does not spoil a good token.
    let (certificate, key) = leaf(&theirs, named("jane", &[]));
    assert_eq!(server.known_as(vec![certificate], &key, TOKEN).await, "admin/system:masters");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intermediate_counts_and_a_leaf_is_no_authority() {
    let ours = authority("authority");
    let server = Server::start(|folder| {
        let file = folder.join("ca.pem");
        std::fs::write(&file, ours.pem()).expect("a file");
        vec![format!("--client-ca-file={}", file.display())]
    })
    .await;
    for (is_ca, expected) in [
        (IsCa::Ca(BasicConstraints::Unconstrained), "jane/"),
        (IsCa::NoCa, "HTTP/1.1 401 Unauthorized"),
        (IsCa::ExplicitNoCa, "HTTP/1.1 401 Unauthorized"),
    ] {
        let mut params = CertificateParams::default();
        params.is_ca = is_ca;
        params.distinguished_name.push(DnType::CommonName, "between");
        let between = CertifiedIssuer::signed_by(params, KeyPair::generate().expect("a key"), &ours)
            .expect("a certificate");
        let (certificate, key) =
            leaf(&between, |params| params.distinguished_name.push(DnType::CommonName, "jane"));
        let chain = vec![certificate, between.der().clone()];
        assert_eq!(server.known_as(chain, &key, "").await, expected);
    }
}

/// What a token of a service account says, valid for ten minutes around now.
fn claims(uid: &Value) -> Value {
    let now = jiff::Timestamp::now().as_second();
    json!({
        "iss": "https://kubernetes.default.svc.cluster.local",
        "aud": ["https://kubernetes.default.svc.cluster.local"],
        "sub": "system:serviceaccount:default:robot",
        "iat": now - 300, "nbf": now - 300, "exp": now + 300,
        "kubernetes.io": {"namespace": "default", "serviceaccount": {"name": "robot", "uid": uid}},
    })
}

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";

/// Makes the account `robot` and asks for a token; its uid and the token.
async fn account_with_token(server: &Server) -> (Value, String) {
    let json = |answer: String| {
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str::<Value>(body).expect("an object")
    };
    let made = server.send("POST", ACCOUNTS, TOKEN, r#"{"metadata":{"name":"robot"}}"#).await;
    let ask = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{}}"#;
    let given = json(server.send("POST", &format!("{ACCOUNTS}/robot/token"), TOKEN, ask).await);
    let token = given["status"]["token"].as_str().expect("a token").to_owned();
    (json(made)["metadata"]["uid"].take(), token)
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_forged_expired_or_for_others_are_refused() {
    let (ours, theirs) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
    let server = Server::start(|folder| {
        let file = folder.join("sa.key");
        std::fs::write(&file, ours.serialize_pem()).expect("a file");
        vec![format!("--service-account-signing-key-file={}", file.display())]
    })
    .await;
    let (uid, given) = account_with_token(&server).await;
    let signed = |claims: &Value, key: &KeyPair| {
        let key = EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).expect("a key");
        encode(&Header::new(Algorithm::ES256), claims, &key).expect("a token")
    };
    let with = |field: &str, value: Value| {
        let mut claims = claims(&uid);
        claims[field] = value;
        signed(&claims, &ours)
    };
    let parts: Vec<&str> = given.split('.').collect();
    let nobody = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
    let hmac = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let now = jiff::Timestamp::now().as_second();
    let name = "system:serviceaccount:default:robot/system:serviceaccounts+system:serviceaccounts:default";
    let no = "HTTP/1.1 401 Unauthorized";
    let flipped = if parts[2].starts_with('A') { "B" } else { "A" };
    for (what, token, expected) in [
        ("as given", given.clone(), name),
        ("signed with the key", signed(&claims(&uid), &ours), name),
        ("signed with another key", signed(&claims(&uid), &theirs), no),
        ("another signature", format!("{}.{}.{flipped}{}", parts[0], parts[1], &parts[2][1..]), no),
        ("no signature", format!("{}.{}.", parts[0], parts[1]), no),
        ("no algorithm", format!("{nobody}.{}.", parts[1]), no),
        ("another algorithm", format!("{hmac}.{}.{}", parts[1], parts[2]), no),
        // Clocks may differ by a minute.
        ("expired", with("exp", json!(now - 120)), no),
        ("not yet valid", with("nbf", json!(now + 3600)), no),
        ("for others", with("aud", json!(["https://elsewhere"])), no),
        ("by others", with("iss", json!("https://elsewhere")), no),
        (
            "of another account",
            with(
                "kubernetes.io",
                json!({"namespace": "default", "serviceaccount": {"name": "robot", "uid": "x"}}),
            ),
            no,
        ),
        (
            "of nobody",
            with(
                "kubernetes.io",
                json!({"namespace": "default", "serviceaccount": {"name": "none", "uid": "x"}}),
            ),
            no,
        ),
        ("not a token", "x.y.z".to_owned(), no),
        ("no parts", "garbage".to_owned(), no),
    ] {
        let answer = rest(&mut server.begin(&review(&token)).await).await;
        assert_eq!(name_in(&answer), expected, "{what}: {answer}");
    }
    // A token dies with its account.
    server.send("DELETE", &format!("{ACCOUNTS}/robot"), TOKEN, "").await;
    let fresh = with("jti", json!("unused before"));
    let answer = rest(&mut server.begin(&review(&fresh)).await).await;
    assert_eq!(name_in(&answer), no, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_does_not_keep_up_is_cut_with_410() {
    /// More than a watcher's queue holds.
    const EVENTS: usize = apiserver::cache::watcher::QUEUE_LEN_MAX + 16;
    let server = Server::start(|_| Vec::new()).await;
    let api = &server.handle.api;
    let kind = api.registry.catalog.snapshot().find("", "v1", "configmaps").cloned().expect("configmaps");
    let options =
        WatchOptions { resource_version: api.registry.hub.revision().to_string(), ..WatchOptions::default() };
    let opened = api.registry.watch(&kind, Filter::default(), &options).await.expect("a watch");
    let info =
        RequestInfo { resource: "configmaps".to_owned(), version: "v1".to_owned(), ..RequestInfo::default() };
    let form = Form { encoding: Encoding::Json, transform: Transform::None };
    let encoder = EventEncoder { kind, form, include: IncludeObject::Metadata };
    let limits = Limits::new(&options, PATIENCE, CancellationToken::new());
    let mut events = Box::pin(stream(opened, encoder, options, api.metrics.requests.watch(&info), limits));
    let writes = (0..EVENTS).map(|i| {
        let object = json!({"metadata": {"namespace": "default", "name": format!("m{i}")}});
        api.cluster.create("", "configmaps", object)
    });
    let failed =
        futures::stream::iter(writes).buffer_unordered(512).filter(|r| std::future::ready(r.is_err()));
    assert_eq!(failed.count().await, 0);
    let cut = async || {
        let metrics = server.send("GET", "/metrics", TOKEN, "").await;
        metrics.lines().any(|l| l.starts_with("apiserver_terminated_watchers_total") && l.ends_with(" 1"))
    };
    eventually("the watcher is given up", cut).await;
    let last = events.next().await.expect("a last event");
    let last: Value = serde_json::from_slice(&last).expect("JSON");
    assert_eq!((&last["type"], &last["object"]["code"]), (&json!("ERROR"), &json!(410)), "{last}");
    assert_eq!(last["object"]["reason"], "Expired", "{last}");
    assert!(events.next().await.is_none(), "nothing comes after it");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_drains_watches_and_requests() {
    let server = Server::start(|_| vec!["--shutdown-delay-duration=5s".to_owned()]).await;
    let path = format!(
        "{MAPS}?watch=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
    );
    let mut watch = server.begin(&request("GET", &path, TOKEN, "")).await;
    until(&mut watch, "k8s.io/initial-events-end").await;
    let body = map("under-way");
    let mut under_way = server.begin(&promised(MAPS, body.len())).await;
    server.shutdown.cancel();
    // First the server says that it will end, and serves on.
    eventually("not ready", async || code(&server.send("GET", "/readyz", TOKEN, "").await) == "500").await;
    let ended = rest(&mut watch).await;
    assert!(ended.contains("\"BOOKMARK\""), "how far the client has got: {ended:?}");
    assert!(ended.ends_with("0\r\n\r\n"), "ended in order, not cut: {ended:?}");
    under_way.write_all(body.as_bytes()).await.expect("sent");
    let made = rest(&mut under_way).await;
    assert_eq!(code(&made), "201", "{made}");
    tokio::time::timeout(PATIENCE, server.handle.stopped()).await.expect("the end");
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens any more");
}
