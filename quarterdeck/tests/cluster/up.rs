//! `make run`, as CI sees it: three servers, a node with real containers, the examples, the Service and its DNS name; and
//! pods that notice nothing when servers die.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, ResourceExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::alone;
use super::common::{cannot_run_containers, skip};

/// Not the default, which another cluster of this machine may have.
const PORT: u16 = 27443;
/// A server is started again five seconds after it died, and is ready soon after.
const BACK_LIMIT: Duration = Duration::from_secs(40);

fn command(data_dir: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quarterdeck"));
    command
        .args(["up", "--data-dir"])
        .arg(data_dir)
        .arg("--examples")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples"))
        .arg(format!("--port={PORT}"))
        .args(more);
    command
}

/// Runs `up --once` in a folder of its own.
fn up(more: &[&str]) -> Output {
    let _alone = alone();
    let root = tempfile::tempdir().expect("a folder");
    let output = command(&root.path().join("run"), more).arg("--once").output().expect("the binary runs");
    println!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn without_containers_the_control_plane_runs_with_hollow_nodes() {
    let output = up(&["--hollow-nodes=3"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for step in ["server-3 is ready", "3 hollow nodes are Ready", "the Deployment `web` is available"] {
        assert!(text.contains(step), "{step:?} is missing in {text}");
    }
}

/// A cluster that stays up until this is dropped.
pub struct Up {
    process: Child,
    data_dir: PathBuf,
}

impl Up {
    fn start(data_dir: PathBuf) -> Self {
        let command = command(&data_dir, &[]);
        Self::launch(
            command,
            data_dir,
            &["server-3 is ready", "node-1 is Ready", "the Service `web` answers", "the Job `ask` heard"],
        )
    }

    /// Runs this `up` until it says that everything is there, each of the steps included.
    pub fn launch(mut command: Command, data_dir: PathBuf, steps: &[&str]) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().expect("the binary runs");
        let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        let up = Up { process, data_dir };
        let mut said = String::new();
        while !said.contains("Look around") {
            let line = lines.next().unwrap_or_else(|| panic!("it ended before everything was up: {said}"));
            said += &format!("{}\n", line.expect("text"));
        }
        println!("{said}");
        for step in steps {
            assert!(said.contains(step), "{step:?} is missing in {said}");
        }
        std::thread::spawn(move || lines.for_each(|line| println!("{}", line.unwrap_or_default())));
        up
    }

    async fn client(&self) -> Client {
        let kubeconfig = Kubeconfig::read_from(self.data_dir.join("kubeconfig")).expect("a kubeconfig");
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        Client::try_from(config.expect("a configuration")).expect("a client")
    }

    /// The process of a server, by the data directory on its command line.
    fn server(&self, number: usize) -> Option<Pid> {
        let wanted = format!("--data-dir={}/server-{number}", self.data_dir.display());
        std::fs::read_dir("/proc").expect("processes").filter_map(Result::ok).find_map(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let found = line.split(|byte| *byte == 0).any(|word| word == wanted.as_bytes());
            found.then(|| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw)).flatten()
        })
    }

    pub fn end(mut self) {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).expect("a process id"));
        kill(pid, Signal::SIGINT).expect("signalled");
        assert!(self.process.wait().expect("ended").success());
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Where a check failed before `end`: its children stop in order when it is gone.
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}

/// Asks a service again and again, as a pod's neighbour would; counts what went wrong.
struct Asking {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    task: std::thread::JoinHandle<Vec<String>>,
}

impl Asking {
    fn start(address: String) -> Self {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counter) = (stop.clone(), asked.clone());
        let task = std::thread::spawn(move || {
            let mut problems = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                if let Err(error) = get(&address) {
                    problems.push(error.to_string());
                }
                counter.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(30));
            }
            problems
        });
        Asking { stop, asked, task }
    }

    fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let problems = self.task.join().expect("the asking thread");
        (self.asked.load(Ordering::Relaxed), problems)
    }
}

fn get(address: &str) -> std::io::Result<()> {
    let target = address.parse().map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(std::io::Error::other(answer)) }
}

/// What [`pods`] says, from a client that asks again when its connection broke.
async fn pods_soon(client: &Client) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        match tokio::time::timeout(Duration::from_secs(1), pods(client)).await {
            Ok(Ok(pods)) => return pods,
            problem => assert!(Instant::now() < deadline, "{problem:?}"),
        }
    }
}

/// What would show that a pod was touched: its uid, address, and its containers' ids and restarts.
async fn pods(client: &Client) -> kube::Result<Vec<String>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), "examples");
    let list = api.list(&ListParams::default().labels("app=web")).await?;
    let look = |pod: &Pod| {
        let status = pod.status.clone().unwrap_or_default();
        let containers = status.container_statuses.unwrap_or_default();
        let containers: Vec<_> =
            containers.iter().map(|c| (c.container_id.clone(), c.restart_count)).collect();
        format!("{} {:?} {:?} {containers:?}", pod.name_any(), pod.uid(), status.pod_ip)
    };
    let mut pods: Vec<String> = list.items.iter().map(look).collect();
    pods.sort();
    Ok(pods)
}

#[test]
fn make_run_reaches_a_service_and_its_pods_notice_nothing_when_servers_die() {
    if let Some(why) = cannot_run_containers() {
        skip(why);
        return;
    }
    let _alone = alone();
    let root = tempfile::tempdir().expect("a folder");
    let up = Up::start(root.path().join("run"));
    tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
        let client = up.client().await;
        let services: Api<Service> = Api::namespaced(client.clone(), "examples");
        let address = services.get("web").await.expect("the service").spec.and_then(|spec| spec.cluster_ip);
        let before = pods_soon(&client).await;
        assert_eq!(before.len(), 2, "{before:?}");
        let asking = Asking::start(format!("{}:80", address.expect("an address")));
        for number in 1..=3 {
            let pid = up.server(number).expect("a server");
            kill(pid, Signal::SIGKILL).expect("killed");
            // One kubeconfig, and whichever server is alive.
            assert_eq!(pods_soon(&client).await, before);
            comes_back(&up, number, pid).await;
        }
        assert_eq!(pods_soon(&client).await, before);
        let (asked, problems) = asking.end();
        println!("{asked} questions to the service while the servers died");
        assert!(asked > 100 && problems.is_empty(), "{} of {asked} failed: {problems:?}", problems.len());
    });
    up.end();
    // At once again, with the data there: what the first run left in the API must not pass for what this one does.
    Up::start(root.path().join("run")).end();
    // After the end kubectl fails at once instead of waiting for packets that nobody answers.
    let refused = TcpStream::connect(("127.0.0.1", PORT)).expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(!Path::new("/sys/class/net/quarterdeck0").exists(), "the interface stays");
}

async fn comes_back(up: &Up, number: usize, before: Pid) {
    let deadline = Instant::now() + BACK_LIMIT;
    let dir = up.data_dir.join(format!("server-{number}"));
    loop {
        let status =
            Command::new(env!("CARGO_BIN_EXE_quarterdeck")).args(["status", "--data-dir"]).arg(&dir).output();
        if up.server(number).is_some_and(|pid| pid != before) && status.is_ok_and(|s| s.status.success()) {
            return;
        }
        assert!(Instant::now() < deadline, "server-{number} does not come back");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
