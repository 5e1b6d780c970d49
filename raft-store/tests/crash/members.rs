//! Members as processes: the example `store`, which cargo builds beside the tests.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use proto::etcdserverpb::{
    StatusRequest, StatusResponse, kv_client::KvClient, maintenance_client::MaintenanceClient,
};
use tonic::transport::{Channel, Endpoint};

use crate::ports::free_port;

/// Longer than a member tries on behalf of a client.
const REQUEST_LIMIT: Duration = Duration::from_secs(12);
/// How long members may take to find a leader.
const LEADER_LIMIT: Duration = Duration::from_secs(60);
/// Lines of each member's log that a failed test prints.
const LOG_LINES: usize = 60;

fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("examples/store")
}

/// Members of one cluster; each is killed at the latest when this goes.
pub struct Members {
    dir: PathBuf,
    /// Client and peer port of each.
    ports: Vec<(u16, u16)>,
    processes: Vec<Option<Child>>,
}

impl Members {
    /// None runs yet.
    pub fn new(dir: &Path, count: usize) -> Self {
        let ports = (0..count).map(|_| (free_port(), free_port())).collect();
        Self { dir: dir.to_path_buf(), ports, processes: (0..count).map(|_| None).collect() }
    }

    /// Starts one, for the first time or again.
    pub fn start(&mut self, member: usize) {
        let peer_url = |at: usize| format!("http://127.0.0.1:{}", self.ports[at].1);
        let client_url = format!("http://127.0.0.1:{}", self.ports[member].0);
        let cluster: Vec<String> =
            (0..self.ports.len()).map(|at| format!("m{at}={}", peer_url(at))).collect();
        let flags = [
            ("--name", format!("m{member}")),
            ("--data-dir", self.data_dir(member).display().to_string()),
            ("--listen-client-urls", client_url.clone()),
            ("--advertise-client-urls", client_url),
            ("--listen-peer-urls", peer_url(member)),
            ("--initial-advertise-peer-urls", peer_url(member)),
            ("--initial-cluster", cluster.join(",")),
            // Often, so that kills hit it, too.
            ("--snapshot-count", "100".to_owned()),
        ];
        let mut command = Command::new(binary());
        for (flag, value) in flags {
            command.arg(flag).arg(value);
        }
        let log = fs::File::options().create(true).append(true).open(self.log(member));
        let process = command
            .stdout(Stdio::null())
            .stderr(log.unwrap())
            .env("RUST_LOG", std::env::var("STORE_LOG").unwrap_or_else(|_| "info,openraft=warn".into()))
            .spawn();
        self.processes[member] = Some(process.expect("the store example is built"));
    }

    /// kill -9, if it runs.
    pub fn kill(&mut self, member: usize) {
        if let Some(mut process) = self.processes[member].take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// What one that was started said, once it has ended by itself.
    pub fn ended(&mut self, member: usize) -> Option<String> {
        let status = self.processes[member].as_mut()?.try_wait().unwrap()?;
        self.processes[member] = None;
        assert!(!status.success(), "m{member} ended with {status}");
        Some(fs::read_to_string(self.log(member)).unwrap())
    }

    fn log(&self, member: usize) -> PathBuf {
        self.dir.join(format!("m{member}.log"))
    }

    /// What the members said last, for whoever looks into a failure.
    fn print_logs(&self) {
        for member in 0..self.ports.len() {
            let log = fs::read_to_string(self.log(member)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            println!("--- m{member}:\n{}", lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"));
        }
    }

    /// A connection to one, made when it is used.
    pub fn channel(&self, member: usize) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", self.ports[member].0)).unwrap();
        endpoint.connect_timeout(Duration::from_secs(1)).timeout(REQUEST_LIMIT).connect_lazy()
    }

    /// A client of each.
    pub fn clients(&self) -> Vec<KvClient<Channel>> {
        (0..self.ports.len()).map(|member| KvClient::new(self.channel(member))).collect()
    }

    /// Where a member keeps its files.
    pub fn data_dir(&self, member: usize) -> PathBuf {
        self.dir.join(member.to_string())
    }

    /// Stops a member's processor, or lets it go on.
    pub fn signal(&self, member: usize, signal: Signal) {
        let process = self.processes[member].as_ref().expect("it runs");
        kill(Pid::from_raw(i32::try_from(process.id()).unwrap()), signal).unwrap();
    }

    /// What a member says of itself; none while it does not answer.
    pub async fn status(&self, member: usize) -> Option<StatusResponse> {
        let mut client = MaintenanceClient::new(self.channel(member));
        let asked = tokio::time::timeout(Duration::from_secs(2), client.status(StatusRequest {})).await;
        asked.ok()?.ok().map(tonic::Response::into_inner)
    }

    /// The member that leads, once one does.
    pub async fn leader(&self) -> usize {
        let found = async {
            loop {
                for member in 0..self.ports.len() {
                    let status = self.status(member).await;
                    if status.is_some_and(|it| {
                        it.leader != 0 && it.header.is_some_and(|h| h.member_id == it.leader)
                    }) {
                        return member;
                    }
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(LEADER_LIMIT, found).await.expect("a leader")
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        (0..self.processes.len()).for_each(|member| self.kill(member));
        if std::thread::panicking() {
            self.print_logs();
        }
    }
}
