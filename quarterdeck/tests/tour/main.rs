//! The controllers' tour (`controllers/tour.sh`): kubectl asks a server for each promise that controllers make and waits
//! until it is kept. The nodes do not exist ([`fake_nodes`]).
//!
//! The node life cycle runs in a `quarterdeck controller-manager` of its own with a short grace period, so that a
//! silent node is noticed within seconds. The parts of the tour that do not disturb each other run side by side.

mod fake_nodes;
#[path = "../support/kubectl.rs"]
mod kubectl;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

const ADDRESS: &str = "127.77.9.3";
const NODES: usize = 4;
/// From the start until the server is ready, on a machine that does other things, too.
const READY: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(100);
/// Every wait of the tour may take so many times as long as on an idle machine.
const PATIENCE: &str = "6";
/// Checks of the whole tour; a part that was left out must not look like one that passed.
const CHECKS: usize = 69;
/// The tour's parts, each in a namespace of its own. A part runs its steps one after the other.
const PARTS: [(&str, &str); 3] = [
    (
        "work",
        "namespace_gets_its_own deployment_rolls service_finds_pods replica_sets_adopt jobs_finish \
         stateful_sets_keep_order daemon_sets_cover_nodes quotas_count budgets_allow owners_take_dependents_along \
         namespace_goes",
    ),
    ("clock", "namespace_gets_its_own cron_jobs_tick custom_owners_count namespace_goes"),
    (
        "rest",
        "namespace_gets_its_own roles_aggregate tokens_are_filled volumes_bind_and_are_released \
         local_path_provisions pods_get_volumes_of_their_own balancers_get_addresses endpoints_are_mirrored \
         certificates_are_signed bootstrap_tokens_expire namespace_goes",
    ),
];
/// Runs alone: it silences a node.
const LAST: (&str, &str) = ("dead", "namespace_gets_its_own dead_nodes_lose_their_pods namespace_goes");

/// A process that is killed when the test ends.
struct Process(Child);

impl Process {
    fn start(folder: &Path, name: &str, args: &[String]) -> Self {
        let log = std::fs::File::create(folder.join(name)).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_quarterdeck"));
        command.args(args).stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        Self(command.spawn().expect("the process starts"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that has ended already is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Everything the tour needs, while it lives.
struct ControlPlane {
    folder: tempfile::TempDir,
    kubeconfig: PathBuf,
    _processes: [Process; 2],
}

impl ControlPlane {
    async fn start() -> (Self, Client) {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("server");
        let server = [
            "server".to_owned(),
            "--init".to_owned(),
            "--name=tour".to_owned(),
            format!("--data-dir={}", data.display()),
            format!("--bind-address={ADDRESS}"),
            "--controllers=*,bootstrap-signer-controller,token-cleaner-controller,service-lb-controller,\
             -node-lifecycle-controller"
                .to_owned(),
        ];
        let server = Process::start(folder.path(), "server.log", &server);
        let kubeconfig = data.join("admin.kubeconfig");
        let client = ready(&kubeconfig).await;
        let controllers = [
            "controller-manager".to_owned(),
            "--controllers=node-lifecycle-controller".to_owned(),
            "--node-monitor-grace-period=10s".to_owned(),
            "--node-monitor-period=1s".to_owned(),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
            format!("--kubeconfig={}", kubeconfig.display()),
        ];
        let controllers = Process::start(folder.path(), "controllers.log", &controllers);
        (Self { folder, kubeconfig, _processes: [server, controllers] }, client)
    }

    /// Starts a part of the tour.
    fn part(&self, (name, steps): (&str, &str)) -> Child {
        Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../controllers/tour.sh"))
            .args(steps.split_whitespace())
            .env("KUBECONFIG", &self.kubeconfig)
            .env("TOUR_SILENCE", self.folder.path())
            .env("TOUR_NAMESPACE", format!("tour-{name}"))
            .env("TOUR_PATIENCE", PATIENCE)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the tour starts")
    }
}

/// The administrator's client, once the server answers.
async fn ready(kubeconfig: &Path) -> Client {
    let deadline = Instant::now() + READY;
    loop {
        assert!(Instant::now() < deadline, "the server is not ready");
        tokio::time::sleep(POLL).await;
        let Ok(file) = Kubeconfig::read_from(kubeconfig) else { continue };
        let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
        let client = Client::try_from(config.expect("a configuration")).expect("a client");
        let request = http::Request::get("/readyz").body(Vec::new()).expect("a request");
        if client.request_text(request).await.is_ok_and(|text| text == "ok") {
            return client;
        }
    }
}

/// What a part printed, checked: how many promises were kept.
fn kept(part: Child) -> usize {
    let output = part.wait_with_output().expect("the tour ends");
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    assert!(output.status.success(), "promises were broken:\n{text}");
    assert!(!text.contains("skipped"), "{text}");
    text.lines().filter(|line| line.starts_with("kept ")).count()
}

/// Why the tour cannot run here. On CI, where the set-up installs what it needs, it must.
fn lacks_programs() -> Option<String> {
    if Command::new("openssl").arg("version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "CI must have openssl");
        return Some("openssl is not installed".to_owned());
    }
    kubectl::too_old()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_promise_of_the_controllers_is_kept() {
    if let Some(why) = lacks_programs() {
        // Past the test harness, which keeps what passing tests print; where that cannot be said, nobody listens.
        let _ = writeln!(std::io::stderr(), "skipped: {why}");
        return;
    }
    let (plane, client) = ControlPlane::start().await;
    let nodes = tokio::spawn(fake_nodes::run(client, NODES, plane.folder.path().to_owned()));
    let parts: Vec<Child> = PARTS.into_iter().map(|part| plane.part(part)).collect();
    let count = tokio::task::spawn_blocking(move || parts.into_iter().map(kept).sum::<usize>());
    let mut all = count.await.expect("all parts are kept");
    let last = plane.part(LAST);
    all += tokio::task::spawn_blocking(move || kept(last)).await.expect("the last part is kept");
    assert!(!nodes.is_finished(), "the fake nodes have ended");
    nodes.abort();
    assert!(all >= CHECKS, "only {all} of {CHECKS} promises were looked at");
}
