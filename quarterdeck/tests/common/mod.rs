//! Real servers for the tests of this crate: the built binary, on loopback addresses and folders of the test's own.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// A server process that is killed when the test ends.
pub struct Server {
    pub name: String,
    pub dir: PathBuf,
    address: Ipv4Addr,
    process: Option<Child>,
}

impl Server {
    /// A server to be started on `127.NET.HOST`; each test takes a `net` of its own.
    pub fn new(root: &Path, net: u8, host: u8) -> Self {
        let name = format!("s{host}");
        Server { dir: root.join(&name), name, address: Ipv4Addr::new(127, 77, net, host), process: None }
    }

    pub fn start(&mut self, introduction: &[String]) {
        std::fs::create_dir_all(&self.dir).expect("a folder");
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.dir.join("log")).expect("a log");
        let process = Command::new(env!("CARGO_BIN_EXE_quarterdeck"))
            .arg("server")
            .arg(format!("--name={}", self.name))
            .arg(format!("--data-dir={}", self.dir.display()))
            .arg(format!("--bind-address={}", self.address))
            .args(introduction)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("the server starts");
        self.process = Some(process);
    }

    pub fn pid(&self) -> i32 {
        let process = self.process.as_ref().expect("a running server");
        i32::try_from(process.id()).expect("a process id")
    }

    /// SIGKILL, as a power cut for the process.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("killed");
            process.wait().expect("ended");
        }
    }

    /// SIGTERM; returns how long the orderly stop took.
    pub fn terminate(&mut self) -> Duration {
        let started = Instant::now();
        let pid = nix::unistd::Pid::from_raw(self.pid());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("signalled");
        let status = self.process.take().expect("a running server").wait().expect("ended");
        assert!(status.success(), "{} did not stop in order: {status}\n{}", self.name, self.log_tail());
        started.elapsed()
    }

    pub fn token(&self, role: &str) -> String {
        std::fs::read_to_string(self.dir.join(format!("{role}.token")))
            .expect("a token file")
            .trim()
            .to_owned()
    }

    pub async fn client(&self) -> Option<Client> {
        let kubeconfig = Kubeconfig::read_from(self.dir.join("admin.kubeconfig")).ok()?;
        let config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.ok()?;
        Client::try_from(config).ok()
    }

    /// Waits until `/readyz` is ok and the token files are written.
    pub async fn ready(&self, limit: Duration) -> Client {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(client) = self.client().await {
                let request = http::Request::get("/readyz").body(Vec::new()).expect("a request");
                let ready = client.request_text(request).await.is_ok_and(|text| text == "ok");
                if ready && self.dir.join("agent.token").exists() {
                    return client;
                }
            }
            assert!(
                Instant::now() < deadline,
                "{} is not ready in {limit:?}\n{}",
                self.name,
                self.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
