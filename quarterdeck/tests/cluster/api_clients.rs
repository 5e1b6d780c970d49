//! Kubernetes' own clients against one server with a hollow node: kubectl, client-go, the Python client and kube-rs, each
//! with a tour of its own (`tests/clients`, and [`kube_rs`] here).

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::common::{READY, Server, skip};
use super::{beside_others, kube_rs};

/// A process that is killed when the test ends.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself; there is nothing to do about a failure here.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/clients")
}

fn hollow_node(server: &Server, root: &Path) -> Agent {
    let dir = root.join("agent");
    let process = Command::new(env!("CARGO_BIN_EXE_quarterdeck"))
        .args(["agent", "--name=hollow", "--hollow-nodes=1", "--relay-port=16447"])
        .arg(format!("--data-dir={}", dir.display()))
        .arg(format!("--token={}", server.token("agent")))
        .arg(format!("--hollow-kubeconfig={}", server.dir.join("admin.kubeconfig").display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the agent starts");
    Agent(process)
}

/// Runs one tour; it must succeed. Skipped with a word where the program is not installed, but never on CI.
fn tour(program: &str, command: &mut Command) {
    match command.output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout);
            let complained = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{command:?}:\n{said}\n{complained}");
            println!("{program}: {}", said.lines().last().unwrap_or_default());
        }
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "CI must have {program}: {error}");
            skip(&format!("{program} cannot be started: {error}"));
        }
    }
}

/// The client of the pinned version, in an environment of its own.
fn python(root: &Path, kubeconfig: &Path) {
    let (venv, place) = (root.join("venv"), clients().join("kube-python"));
    tour("python3", Command::new("python3").args(["-m", "venv"]).arg(&venv));
    if !venv.join("bin/pip").exists() {
        return;
    }
    let requirements = place.join("requirements.txt");
    tour("pip", Command::new(venv.join("bin/pip")).args(["install", "-q", "-r"]).arg(requirements));
    tour("python", Command::new(venv.join("bin/python")).arg(place.join("tour.py")).arg(kubeconfig));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_tours_a_server() {
    let _machine = beside_others().await;
    let root = tempfile::tempdir().expect("a folder");
    let mut server = Server::new(root.path(), Ipv4Addr::new(127, 77, 40, 1), 1);
    server.start(&["--init".to_owned()]);
    let client = server.ready(READY).await;
    let _agent = hollow_node(&server, root.path());
    kube_rs::tour(client).await;
    let kubeconfig = server.dir.join("admin.kubeconfig");
    tour("kubectl", Command::new(clients().join("kubectl.sh")).arg(&kubeconfig));
    python(root.path(), &kubeconfig);
    let mut go = Command::new("go");
    tour("go", go.args(["run", "."]).arg(&kubeconfig).current_dir(clients().join("kube-go")));
}
