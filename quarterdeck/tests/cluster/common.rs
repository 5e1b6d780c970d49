//! Real servers for the tests of this crate: the built binary, on addresses and folders of the test's own.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use nix::sys::signal::Signal;

/// Starting includes making certificates, and a loaded CI machine is slow.
pub const READY: Duration = Duration::from_secs(60);

/// Says why a test, or a part of one, cannot run here. Straight to the terminal: what `println!` prints is kept from it
/// unless the test fails.
pub fn skip(why: &str) {
    use std::io::Write;
    writeln!(std::io::stderr(), "skipped: {why}").expect("standard error");
}

/// Why no container can run here; on CI that is a failure, because CI machines can.
pub fn cannot_run_containers() -> Option<&'static str> {
    let lacks = |program: &str| {
        !["/usr/bin", "/usr/sbin", "/usr/local/bin"].iter().any(|dir| Path::new(dir).join(program).exists())
    };
    let why = if !nix::unistd::geteuid().is_root() {
        "not root"
    } else if ["containerd", "runc", "nft", "ip"].iter().any(|program| lacks(program)) {
        "containerd, runc, nftables or iproute2 is not installed"
    } else {
        return None;
    };
    assert!(std::env::var_os("CI").is_none(), "CI must be able to run containers: {why}");
    Some(why)
}

/// A server process that is killed when the test ends.
pub struct Server {
    pub name: String,
    pub dir: PathBuf,
    address: Ipv4Addr,
    prefix: Vec<String>,
    process: Option<Child>,
}

impl Server {
    /// A server to be started on `address`, as `sHOST`; on loopback each test takes a network of its own.
    pub fn new(root: &Path, address: Ipv4Addr, host: u8) -> Self {
        let name = format!("s{host}");
        Server { dir: root.join(&name), name, address, prefix: Vec::new(), process: None }
    }

    /// With a command line before it, such as one that enters a namespace.
    pub fn inside(mut self, prefix: Vec<String>) -> Self {
        self.prefix = prefix;
        self
    }

    pub fn start(&mut self, more: &[String]) {
        std::fs::create_dir_all(&self.dir).expect("a folder");
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.dir.join("log")).expect("a log");
        let line: Vec<String> =
            self.prefix.iter().cloned().chain([env!("CARGO_BIN_EXE_quarterdeck").to_owned()]).collect();
        let process = Command::new(&line[0])
            .args(&line[1..])
            .arg("server")
            .arg(format!("--name={}", self.name))
            .arg(format!("--data-dir={}", self.dir.display()))
            .arg(format!("--bind-address={}", self.address))
            .args(more)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("the server starts");
        self.process = Some(process);
    }

    pub fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("a running server");
        let pid = i32::try_from(process.id()).expect("a process id");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("signalled");
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
        self.signal(Signal::SIGTERM);
        let status = self.process.take().expect("a running server").wait().expect("ended");
        assert!(status.success(), "{} did not stop in order: {status}\n{}", self.name, self.log_tail());
        started.elapsed()
    }

    /// The exit status, where the process has ended by itself.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().expect("a started server").try_wait().expect("a status")
    }

    pub fn token(&self, role: &str) -> String {
        std::fs::read_to_string(self.dir.join(format!("{role}.token")))
            .expect("a token file")
            .trim()
            .to_owned()
    }

    /// Runs a command of the binary on this server's directory.
    pub fn command(&self, args: &[&str]) -> Outcome {
        run(&[args, &["--data-dir", self.dir.to_str().expect("a path")]].concat())
    }

    /// What `status` prints once every server is healthy: on a loaded machine one may miss a beat.
    pub fn healthy_status(&self, more: &[&str]) -> String {
        let deadline = Instant::now() + READY;
        loop {
            let outcome = self.command(&[&["status"], more].concat());
            if outcome.output.status.success() || Instant::now() > deadline {
                return outcome.succeeded();
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    pub async fn client(&self) -> Option<Client> {
        let kubeconfig = Kubeconfig::read_from(self.dir.join("admin.kubeconfig")).ok()?;
        let config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.ok()?;
        Client::try_from(config).ok()
    }

    /// Waits until `/readyz` is ok and the token file is written.
    pub async fn ready(&self, limit: Duration) -> Client {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(client) = self.client().await {
                let request = http::Request::get("/readyz").body(Vec::new()).expect("a request");
                let asked = tokio::time::timeout(Duration::from_secs(2), client.request_text(request)).await;
                let ready = asked.is_ok_and(|answer| answer.is_ok_and(|text| text == "ok"));
                if ready && self.dir.join("server.token").exists() {
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

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    pub fn log_tail(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An agent process, which is stopped when the test ends.
pub struct Agent(Child);

impl Agent {
    /// Joins by `server`'s token, with data and log under `root`.
    pub fn start(server: &Server, root: &Path, more: &[String]) -> Self {
        let log = std::fs::File::create(root.join("agent.log")).expect("a log");
        let process = Command::new(env!("CARGO_BIN_EXE_quarterdeck"))
            .arg("agent")
            .arg(format!("--data-dir={}", root.join("agent").display()))
            .arg(format!("--token={}", server.token("agent")))
            .args(more)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("the agent starts");
        Agent(process)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let pid = i32::try_from(self.0.id()).expect("a process id");
        // It may have ended by itself; there is nothing to do about a failure here.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// What a command that ran to its end said.
pub struct Outcome {
    args: String,
    output: Output,
}

/// Runs the binary to its end.
pub fn run(args: &[&str]) -> Outcome {
    run_with(args, &[])
}

/// The same, with variables in its environment.
pub fn run_with(args: &[&str], env: &[(&str, &str)]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quarterdeck"));
    let output = command.args(args).envs(env.iter().copied()).output().expect("the binary runs");
    Outcome { args: format!("{args:?}"), output }
}

impl Outcome {
    /// What it wrote to standard output, having succeeded.
    pub fn succeeded(&self) -> String {
        assert!(self.output.status.success(), "{}: {}\n{}", self.args, self.output.status, self.stderr());
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    /// It failed with a status that is not zero, and said `problem`.
    pub fn refused(&self, problem: &str) -> &Self {
        let text = self.stderr();
        assert!(!self.output.status.success(), "{} succeeded", self.args);
        assert!(text.contains(problem), "{}: {text:?} lacks {problem:?}", self.args);
        self
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }
}
