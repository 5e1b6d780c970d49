//! Upstream's etcd, API server and scheduler as child processes on loopback.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

/// First of the three ports used; `UPSTREAM_PORT` sets another.
const PORT: u16 = 24100;
const TOKEN: &str = "admintoken";

/// The processes; dropping kills them.
pub struct Yard {
    folder: tempfile::TempDir,
    children: std::sync::Mutex<Vec<Child>>,
    client: kube::Client,
}

impl Drop for Yard {
    fn drop(&mut self) {
        let Ok(mut children) = self.children.lock() else { return };
        for child in children.iter_mut().rev() {
            // A child that has ended already is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn spawn(binary: &Path, log: &Path, args: &[String]) -> Child {
    let log = std::fs::File::create(log).expect("a log file");
    let error = log.try_clone().expect("a log file");
    let mut command = Command::new(binary);
    command.args(args).stdout(Stdio::from(log)).stderr(Stdio::from(error));
    command.spawn().unwrap_or_else(|e| panic!("cannot start {}: {e}", binary.display()))
}

fn texts(args: &[&str]) -> Vec<String> {
    args.iter().map(|a| (*a).to_owned()).collect()
}

impl Yard {
    /// Starts etcd and the API server and waits until they serve.
    pub async fn start(binaries: &str) -> Yard {
        let port: u16 = std::env::var("UPSTREAM_PORT").ok().and_then(|p| p.parse().ok()).unwrap_or(PORT);
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let path = |name: &str| at(name).display().to_string();
        let (etcd, peer, api) = (port, port + 1, port + 2);
        let etcd_url = format!("http://127.0.0.1:{etcd}");
        let peer_url = format!("http://127.0.0.1:{peer}");
        let children = vec![spawn(
            &Path::new(binaries).join("etcd"),
            &at("etcd.log"),
            &[
                format!("--data-dir={}", path("etcd")),
                format!("--listen-client-urls={etcd_url}"),
                format!("--advertise-client-urls={etcd_url}"),
                format!("--listen-peer-urls={peer_url}"),
                format!("--initial-advertise-peer-urls={peer_url}"),
                format!("--initial-cluster=default={peer_url}"),
                "--unsafe-no-fsync".to_owned(),
            ],
        )];
        let key = rcgen::KeyPair::generate().expect("a key");
        std::fs::write(at("sa.key"), key.serialize_pem()).expect("a key file");
        std::fs::write(at("sa.pub"), key.public_key_pem()).expect("a key file");
        std::fs::write(at("tokens.csv"), format!("{TOKEN},admin,admin,system:masters\n"))
            .expect("a token file");
        let mut args = texts(&[
            "--bind-address=127.0.0.1",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition",
        ]);
        args.push(format!("--etcd-servers={etcd_url}"));
        args.push(format!("--secure-port={api}"));
        args.push(format!("--cert-dir={}", path("certs")));
        args.push(format!("--token-auth-file={}", path("tokens.csv")));
        args.push(format!("--service-account-key-file={}", path("sa.pub")));
        args.push(format!("--service-account-signing-key-file={}", path("sa.key")));
        let mut yard = Yard { client: client(api), children: std::sync::Mutex::new(children), folder };
        let server = spawn(&Path::new(binaries).join("kube-apiserver"), &yard.path("apiserver.log"), &args);
        yard.children.get_mut().expect("not poisoned").push(server);
        yard.write_kubeconfig(api);
        yard.wait_ready().await;
        yard
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write_kubeconfig(&self, port: u16) {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: x\n\
             clusters: [{{name: c, cluster: {{server: \"https://127.0.0.1:{port}\", insecure-skip-tls-verify: true}}}}]\n\
             users: [{{name: u, user: {{token: {TOKEN}}}}}]\ncontexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n"
        );
        std::fs::write(self.path("kubeconfig"), text).expect("a kubeconfig");
    }

    async fn wait_ready(&self) {
        for _ in 0..300 {
            let request = http::Request::get("/readyz").body(Vec::new()).expect("a request");
            if self.client.request_text(request).await.is_ok_and(|text| text == "ok") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        panic!("the API server did not start: {}", self.log("apiserver.log"));
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Starts upstream's scheduler, looking at all nodes and logging every score.
    pub async fn start_scheduler(&self, binaries: &str) {
        let config = format!(
            "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n\
             percentageOfNodesToScore: 100\nleaderElection: {{leaderElect: false}}\n\
             clientConnection: {{kubeconfig: {}, qps: 1000, burst: 1000}}\n",
            self.path("kubeconfig").display()
        );
        std::fs::write(self.path("scheduler.yaml"), config).expect("a configuration");
        let args = [
            format!("--config={}", self.path("scheduler.yaml").display()),
            "--secure-port=0".to_owned(),
            "-v=10".to_owned(),
        ];
        let child = spawn(&Path::new(binaries).join("kube-scheduler"), &self.path("scheduler.log"), &args);
        self.children.lock().expect("not poisoned").push(child);
        tokio::time::sleep(Duration::from_secs(3)).await;
    }

    /// A client for the API server.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// Scores from the scheduler's log, by node and plugin, of the last attempt on a pod.
    pub fn scores_of(&self, pod: &str) -> BTreeMap<String, BTreeMap<String, i64>> {
        let mut scores: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
        let wanted = format!("pod=\"{pod}\"");
        let log = self.log("scheduler.log");
        let lines =
            log.lines().filter(|l| l.contains("\"Plugin scored node for pod\"") && l.contains(&wanted));
        for line in lines {
            let field = |name: &str| {
                let rest = line.split(&format!("{name}=")).nth(1)?;
                Some(rest.split(' ').next()?.trim_matches('"').to_owned())
            };
            if let (Some(plugin), Some(node), Some(score)) = (field("plugin"), field("node"), field("score"))
            {
                scores.entry(node).or_default().insert(plugin, score.parse().expect("a number"));
            }
        }
        scores
    }

    async fn call(&self, method: http::Method, path: &str, body: Option<&Value>) -> Value {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body.map_or_else(Vec::new, |b| b.to_string().into_bytes()))
            .expect("a request");
        self.client.request(request).await.unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    pub async fn get(&self, path: &str) -> Value {
        self.call(http::Method::GET, path, None).await
    }

    pub async fn create(&self, path: &str, body: &Value) {
        self.call(http::Method::POST, path, Some(body)).await;
    }

    pub async fn create_all(&self, path: &str, bodies: Vec<Value>) {
        for body in bodies {
            self.create(path, &body).await;
        }
    }

    pub async fn delete(&self, path: &str) {
        self.call(http::Method::DELETE, path, Some(&serde_json::json!({"gracePeriodSeconds": 0}))).await;
    }
}

fn client(port: u16) -> kube::Client {
    let uri = format!("https://127.0.0.1:{port}").parse().expect("a URL");
    let mut config = kube::Config::new(uri);
    config.accept_invalid_certs = true;
    config.auth_info.token = Some(TOKEN.to_owned().into());
    config.read_timeout = None;
    kube::Client::try_from(config).expect("a client")
}
