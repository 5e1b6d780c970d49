//! Kubernetes' own clients against one server with a hollow node: kubectl, client-go, the Python client and kube-rs, each
//! with a tour of its own (`tests/clients`, and [`kube_rs`] here).

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::common::{Agent, READY, Server, skip};
use super::{beside_others, kube_rs, kubectl};

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/clients")
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
    let made = Command::new("python3").args(["-m", "venv"]).arg(&venv).output();
    if !made.is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("CI").is_none(), "CI must have python3 with venv");
        skip("python3 with venv is not installed");
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
    let kubeconfig = server.dir.join("admin.kubeconfig");
    let hollow = [
        "--name=hollow".to_owned(),
        "--hollow-nodes=1".to_owned(),
        format!("--hollow-kubeconfig={}", kubeconfig.display()),
    ];
    let _agent = Agent::start(&server, root.path(), &hollow);
    kube_rs::tour(client).await;
    match kubectl::too_old() {
        None => tour("kubectl", Command::new(clients().join("kubectl.sh")).arg(&kubeconfig)),
        Some(why) => skip(&why),
    }
    python(root.path(), &kubeconfig);
    let mut go = Command::new("go");
    tour("go", go.args(["run", "."]).arg(&kubeconfig).current_dir(clients().join("kube-go")));
}
