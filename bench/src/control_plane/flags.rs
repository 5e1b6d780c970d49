//! The flags each program is started with, and the files they name.

use std::path::Path;
use std::time::{Duration, Instant};

use super::Result;
use super::http::TOKEN;

/// Offsets of the ports that are used beside the API server's own.
const ETCD_PORT: u16 = 1;
const ETCD_PEER_PORT: u16 = 2;
const POLL: Duration = Duration::from_millis(5);

/// Writes the token file, the service-account keys and the kubeconfig.
pub fn prepare(folder: &Path, port: u16) -> Result<()> {
    let key = rcgen::KeyPair::generate()?;
    std::fs::write(folder.join("sa.key"), key.serialize_pem())?;
    std::fs::write(folder.join("sa.pub"), key.public_key_pem())?;
    std::fs::write(folder.join("tokens.csv"), format!("{TOKEN},admin,admin,system:masters\n"))?;
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: bench\n\
         clusters: [{{name: bench, cluster: {{server: \"https://127.0.0.1:{port}\", insecure-skip-tls-verify: true}}}}]\n\
         users: [{{name: bench, user: {{token: {TOKEN}}}}}]\n\
         contexts: [{{name: bench, context: {{cluster: bench, user: bench}}}}]\n"
    );
    Ok(std::fs::write(folder.join("kubeconfig"), text)?)
}

fn etcd_url(port: u16) -> String {
    format!("http://127.0.0.1:{}", port + ETCD_PORT)
}

pub fn etcd(folder: &Path, port: u16) -> Vec<String> {
    let (client, peer) = (etcd_url(port), format!("http://127.0.0.1:{}", port + ETCD_PEER_PORT));
    vec![
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        "--log-level=error".to_owned(),
    ]
}

/// Until etcd accepts connections: a kube-apiserver that starts before waits longer than it has to.
pub async fn wait_for_etcd(port: u16, timeout: Duration) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < timeout {
        if tokio::net::TcpStream::connect(("127.0.0.1", port + ETCD_PORT)).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
    Err("etcd does not listen".into())
}

/// What both API servers are told.
fn shared(folder: &Path, port: u16) -> Vec<String> {
    let file = |name: &str| folder.join(name).display().to_string();
    vec![
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={port}"),
        "--authorization-mode=RBAC".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition".to_owned(),
        format!("--cert-dir={}", file("certs")),
        format!("--token-auth-file={}", file("tokens.csv")),
        format!("--service-account-key-file={}", file("sa.pub")),
        format!("--service-account-signing-key-file={}", file("sa.key")),
    ]
}

pub fn upstream(folder: &Path, port: u16) -> Vec<String> {
    let mut flags = shared(folder, port);
    flags.push(format!("--etcd-servers={}", etcd_url(port)));
    flags
}

pub fn ours(folder: &Path, port: u16) -> Vec<String> {
    let mut flags = vec!["apiserver".to_owned()];
    flags.extend(shared(folder, port));
    flags.push(format!("--embedded-store-dir={}", folder.join("store").display()));
    flags
}

/// Client-side rate limits off on both sides, as upstream's own scheduler_perf has them.
pub fn scheduler(folder: &Path) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", folder.join("kubeconfig").display()),
        "--leader-elect=false".to_owned(),
        "--kube-api-qps=100000".to_owned(),
        "--kube-api-burst=100000".to_owned(),
        "--secure-port=0".to_owned(),
    ]
}

/// Both controller managers, with client-side rate limits off.
pub fn controllers(folder: &Path) -> Vec<String> {
    let key = folder.join("sa.key").display().to_string();
    let mut flags = scheduler(folder);
    flags.push(format!("--service-account-private-key-file={key}"));
    flags
}

pub fn hollow_nodes(folder: &Path, count: u64) -> Vec<String> {
    vec![
        "agent".to_owned(),
        format!("--hollow-nodes={count}"),
        format!("--hollow-kubeconfig={}", folder.join("kubeconfig").display()),
    ]
}
