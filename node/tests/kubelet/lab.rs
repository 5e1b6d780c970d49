//! One kubelet with its own containerd in its own folders, and clients of its server.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use node::kubelet::config::Config;
use node::kubelet::cri::Runtime;
use node::kubelet::run::{Kubelet, start};
use node::kubelet::tls::provider;
use node::kubelet::worker::Pool;
use node::runtime::bundled;
use node::runtime::supervisor::{self, Supervisor};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// How often something awaited is looked at.
const POLL: Duration = Duration::from_millis(200);

/// What may be left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaks {
    mounts: usize,
    shims: usize,
    links: usize,
    namespaces: usize,
    cgroups: usize,
    folders: usize,
}

/// The lab.
pub struct Lab {
    root: tempfile::TempDir,
    port: u16,
    supervisor: Option<Supervisor>,
    kubelet: Option<Kubelet>,
    shutdown: CancellationToken,
    agent: CancellationToken,
    client: CertifiedClient,
    bridge: String,
}

type Connector = hyper_rustls::HttpsConnector<hyper_util::client::legacy::connect::HttpConnector>;

struct CertifiedClient {
    with: HttpClient<Connector, Full<Bytes>>,
    without: HttpClient<Connector, Full<Bytes>>,
    ca_pem: String,
}

fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".into());
    }
    for program in ["containerd", "runc", "ctr"] {
        let found = std::process::Command::new(program).arg("--version").output();
        if found.is_err() {
            return Some(format!("{program} is not installed"));
        }
    }
    let plugins = ["/opt/cni/bin/bridge", "/usr/lib/cni/bridge"];
    let found = plugins.iter().any(|p| Path::new(p).exists());
    (!found).then(|| "the standard CNI plugins are not installed".into())
}

/// A client that shows a certificate of an authority of its own, as an administrator.
fn certified_client() -> CertifiedClient {
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "lab");
    let ca_pem = ca.self_signed(&ca_key).expect("signed").pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "admin");
    params.distinguished_name.push(DnType::OrganizationName, "system:masters");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, &issuer).expect("signed");
    let chain = vec![certificate.der().clone()];
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let identity = rustls::sign::CertifiedKey::from_der(chain, key, &provider()).expect("a pair");
    CertifiedClient {
        with: http_client(Some(Arc::new(rustls::sign::SingleCertAndKey::from(identity)))),
        without: HttpClient::builder(TokioExecutor::new()).build(node::kubelet::tls::unverified_connector()),
        ca_pem,
    }
}

fn http_client(
    identity: Option<Arc<dyn rustls::client::ResolvesClientCert>>,
) -> HttpClient<Connector, Full<Bytes>> {
    let mut config = machinery::client::unverified::config();
    if let Some(identity) = identity {
        config.client_auth_cert_resolver = identity;
    }
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http()
        .enable_http1()
        .build();
    HttpClient::builder(TokioExecutor::new()).build(connector)
}

/// An API server that never answers.
fn unreachable_api() -> kube::Client {
    let mut config = kube::Config::new("https://127.0.0.1:1".parse().expect("a URL"));
    config.connect_timeout = Some(Duration::from_secs(1));
    kube::Client::try_from(config).expect("a client")
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    listener.local_addr().expect("an address").port()
}

impl Lab {
    /// Starts everything; `None` where the machine cannot.
    pub async fn start(name: &str) -> Option<Self> {
        // Shown with RUST_LOG only; every test of this program sets it up, the first one wins.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
        if let Some(reason) = missing() {
            // libtest swallows what passing tests print to the macros.
            let _ = writeln!(std::io::stderr(), "skipped: {reason}");
            assert!(std::env::var("CI").as_deref() != Ok("true"), "skipped in CI: {reason}");
            return None;
        }
        let root = tempfile::Builder::new().prefix("qd-kubelet-").tempdir().expect("a folder");
        let octet = std::process::id() % 200 + u32::try_from(name.len()).unwrap_or(0);
        let bridge = format!("qdt{:x}{}", std::process::id() & 0xfff, &name[..2]);
        let paths = supervisor::paths(root.path());
        std::fs::create_dir_all(&paths.cni_conf_dir).expect("made");
        let network = serde_json::json!({"cniVersion": "0.4.0", "name": name, "plugins": [{"type": "bridge",
            "bridge": bridge, "isGateway": true, "ipam": {"type": "host-local",
                "dataDir": root.path().join("addresses"),
                "ranges": [[{"subnet": format!("10.77.{octet}.0/24")}]]}}]});
        std::fs::write(paths.cni_conf_dir.join("10-lab.conflist"), network.to_string()).expect("written");
        std::fs::create_dir_all(root.path().join("manifests")).expect("made");
        let shutdown = CancellationToken::new();
        let supervisor = Supervisor::start(root.path(), shutdown.clone()).await.expect("containerd");
        bundled::import_all(&supervisor.endpoint(), &supervisor.paths().root).await.expect("the images");
        let client = certified_client();
        std::fs::write(root.path().join("ca.crt"), &client.ca_pem).expect("written");
        let mut lab = Self {
            port: free_port(),
            root,
            supervisor: Some(supervisor),
            kubelet: None,
            agent: shutdown.child_token(),
            shutdown,
            client,
            bridge,
        };
        lab.start_agent().await;
        Some(lab)
    }

    pub fn pool(&self) -> &Arc<Pool> {
        &self.kubelet.as_ref().expect("it runs").pool
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    async fn start_agent(&mut self) {
        let mut config = Config::new("lab", vec![[127, 0, 0, 1].into()]);
        config.root_dir = self.root.path().to_owned();
        config.cert_dir = self.path("pki");
        config.pod_logs_dir = self.path("logs");
        config.container_logs_dir = None;
        config.static_pod_path = Some(self.path("manifests"));
        config.runtime_endpoint = self.supervisor.as_ref().expect("a runtime").endpoint();
        config.port = self.port;
        config.address = [127, 0, 0, 1].into();
        config.healthz_port = 0;
        config.cgroup_root = format!("/{}", self.bridge);
        config.eviction_hard = vec![];
        config.server_auth.client_ca_file = Some(self.path("ca.crt"));
        config.server_auth.webhook_authz = true;
        self.agent = self.shutdown.child_token();
        let kubelet = start(config, unreachable_api(), self.agent.clone()).await.expect("a kubelet");
        self.kubelet = Some(kubelet);
    }

    pub async fn wait_for_file(&self, path: &Path, limit: Duration) {
        let end = tokio::time::Instant::now() + limit;
        while !path.exists() {
            assert!(tokio::time::Instant::now() < end, "{} does not appear", path.display());
            tokio::time::sleep(POLL).await;
        }
    }

    pub async fn restart_agent(&mut self) {
        self.agent.cancel();
        if let Some(kubelet) = self.kubelet.take() {
            kubelet.ended().await;
        }
        self.start_agent().await;
    }

    /// Kills containerd the hard way; its supervisor must bring it back.
    pub async fn kill_runtime(&self) {
        let paths = supervisor::paths(self.root.path());
        let read = || std::fs::read_to_string(paths.pid()).unwrap_or_default();
        let old = read();
        let pid: i32 = old.trim().parse().expect("a process id");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
            .expect("killed");
        for _ in 0..100 {
            if read() != old && Runtime::connect(&paths.socket().display().to_string()).await.is_ok() {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
        panic!("containerd was not started again");
    }

    pub fn write_manifest(&self, name: &str, pod: &Value) {
        let text = serde_json::to_string(pod).expect("JSON");
        std::fs::write(self.path("manifests").join(name), text).expect("written");
    }

    pub fn remove_manifest(&self, name: &str) {
        std::fs::remove_file(self.path("manifests").join(name)).expect("removed");
    }

    async fn send(
        &self,
        client: &HttpClient<Connector, Full<Bytes>>,
        method: &str,
        path: &str,
    ) -> (u16, String) {
        let uri = format!("https://127.0.0.1:{}{path}", self.port);
        let request =
            http::Request::builder().method(method).uri(uri).body(Full::default()).expect("a request");
        let answer = match client.request(request).await {
            Ok(answer) => answer,
            Err(error) => return (0, error.to_string()),
        };
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    pub async fn get(&self, path: &str) -> String {
        let (status, body) = self.send(&self.client.with, "GET", path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    pub async fn request_without_certificate(&self, path: &str) -> (u16, String) {
        self.send(&self.client.without, "GET", path).await
    }

    pub async fn exec(&self, pod: &str, container: &str, command: &str) -> String {
        let cmd: String = url::form_urlencoded::byte_serialize(command.as_bytes()).collect();
        let path = format!("/run/default/{pod}/{container}?cmd={cmd}");
        let (status, body) = self.send(&self.client.with, "POST", &path).await;
        assert_eq!(status, 200, "{command}: {body}");
        body
    }

    async fn pods(&self) -> Vec<Value> {
        let (status, body) = self.send(&self.client.with, "GET", "/pods").await;
        let list: Value =
            if status == 200 { serde_json::from_str(&body).unwrap_or_default() } else { Value::Null };
        list["items"].as_array().cloned().unwrap_or_default()
    }

    async fn wait(&self, what: &str, limit: Duration, done: impl Fn(&[Value]) -> Option<Value>) -> Value {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let pods = self.pods().await;
            if let Some(found) = done(&pods) {
                return found;
            }
            assert!(tokio::time::Instant::now() < deadline, "{what} was not seen in {limit:?}: {pods:#?}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// The pod once it is ready.
    pub async fn wait_ready(&self, name: &str, limit: Duration) -> Value {
        self.wait("a ready pod", limit, |pods| {
            let pod = find(pods, name)?;
            let conditions = pod["status"]["conditions"].as_array()?;
            let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
            ready.then(|| pod.clone())
        })
        .await
    }

    pub async fn wait_waiting(&self, name: &str, reason: &str, limit: Duration) {
        self.wait(reason, limit, |pods| {
            let status = &find(pods, name)?["status"]["containerStatuses"][0];
            (status["state"]["waiting"]["reason"] == reason).then_some(Value::Null)
        })
        .await;
    }

    pub async fn wait_phase(&self, name: &str, phase: &str, limit: Duration) -> Value {
        self.wait(phase, limit, |pods| {
            let status = &find(pods, name)?["status"];
            (status["phase"] == phase).then(|| status.clone())
        })
        .await
    }

    pub async fn wait_gone(&self, limit: Duration) {
        self.wait("no pods", limit, |pods| pods.is_empty().then_some(Value::Null)).await;
    }

    /// Waits until nothing more than before is there: the kernel takes network namespaces down in its own time.
    pub async fn wait_for_leaks(&self, before: &Leaks) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let now = Leaks::count(self);
            if now == *before {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "left behind: {now:?}, before {before:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Ends agent and runtime and takes the bridge and the lab's cgroups away.
    pub async fn end(mut self) {
        self.shutdown.cancel();
        if let Some(kubelet) = self.kubelet.take() {
            kubelet.ended().await;
        }
        if let Some(supervisor) = self.supervisor.take() {
            supervisor.stop().await;
        }
        let _ = std::process::Command::new("ip").args(["link", "delete", &self.bridge]).output();
        for tree in cgroup_trees() {
            for group in ["kubepods/burstable", "kubepods/besteffort", "kubepods", ""] {
                // Absent in some trees.
                let _ = std::fs::remove_dir(tree.join(&self.bridge).join(group));
            }
        }
    }
}

fn find<'a>(pods: &'a [Value], name: &str) -> Option<&'a Value> {
    let full = format!("{name}-lab");
    pods.iter().find(|p| p["metadata"]["name"] == full.as_str())
}

/// The id of a pod's container.
pub fn container_id(pod: &Value, name: &str) -> String {
    let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
    let found = statuses.iter().find(|s| s["name"] == name).expect("the container's status");
    found["containerID"].as_str().expect("an id").to_owned()
}

impl Leaks {
    /// Counts what belongs to the lab.
    pub fn count(lab: &Lab) -> Self {
        let root = lab.root.path();
        let state = supervisor::paths(root).state;
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let under = |path: &Path| table.lines().filter(|l| l.contains(&*path.to_string_lossy())).count();
        let count = |dir: PathBuf| std::fs::read_dir(dir).map(Iterator::count).unwrap_or(0);
        Self {
            mounts: under(root) + under(&state),
            shims: processes_with(&state.to_string_lossy(), "containerd-shim"),
            links: count(PathBuf::from("/sys/class/net").join(&lab.bridge).join("brif")),
            namespaces: addresses(&root.join("addresses")),
            cgroups: pod_cgroups(&lab.bridge),
            folders: count(root.join("pods")) + count(root.join("logs")),
        }
    }
}

/// Addresses that the network plugin holds: one a network namespace.
fn addresses(dir: &Path) -> usize {
    let networks = std::fs::read_dir(dir).into_iter().flatten().flatten();
    networks
        .flat_map(|n| std::fs::read_dir(n.path()).into_iter().flatten().flatten())
        .filter(|e| e.file_name().to_string_lossy().starts_with("10."))
        .count()
}

fn processes_with(text: &str, program: &str) -> usize {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|p| std::fs::read(p.path().join("cmdline")).ok())
        .map(|c| String::from_utf8_lossy(&c).replace('\0', " "))
        .filter(|c| c.contains(program) && c.contains(text))
        .count()
}

/// The hierarchies of cgroup v1, and the one of v2.
fn cgroup_trees() -> impl Iterator<Item = PathBuf> {
    let trees = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|t| t.path());
    trees.chain([PathBuf::from("/sys/fs/cgroup")])
}

fn pod_cgroups(root: &str) -> usize {
    let folders = cgroup_trees()
        .flat_map(|t| ["", "burstable", "besteffort"].map(|q| t.join(root).join("kubepods").join(q)));
    folders
        .flat_map(|f| std::fs::read_dir(f).into_iter().flatten().flatten())
        .filter(|e| e.file_name().to_string_lossy().starts_with("pod"))
        .count()
}
