//! One side's control plane as child processes on loopback: upstream's etcd and kube-apiserver, or ours with its
//! embedded store.
//!
//! Owns the processes, their folders and ports, and what `/proc` says of them. Both sides get the same choices: RBAC,
//! TLS, disk syncs on, admission without ServiceAccount, because no controller makes accounts here.

mod flags;
pub mod http;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;

use self::http::{Call, Connection};

/// The kernel's unit of processor time, the same on every Linux that this runs on.
const TICKS_PER_SEC: u64 = 100;

pub type Failure = Box<dyn std::error::Error + Send + Sync>;
pub type Result<T> = std::result::Result<T, Failure>;

/// Longest time from start to ready before the run is given up.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks: fine enough for the start-up time that is measured with it.
const READY_POLL: Duration = Duration::from_millis(5);

/// Whose programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Upstream,
    Ours,
}

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Ours => "quarterdeck",
        }
    }
}

/// Where the programs are.
#[derive(Args, Clone, Debug)]
pub struct Programs {
    /// The quarterdeck binary.
    #[arg(long, env = "QUARTERDECK_BINARY", default_value = "quarterdeck")]
    pub quarterdeck: PathBuf,
    /// The folder with upstream's etcd, kube-apiserver and kube-scheduler.
    #[arg(long, default_value = ".")]
    pub upstream: PathBuf,
    /// Where data directories go; on the disk that is to be measured.
    #[arg(long, default_value = ".run/bench")]
    pub dir: PathBuf,
    /// First of the four ports used.
    #[arg(long, default_value_t = 24_500)]
    pub port: u16,
    /// Run only this side: `upstream` or `quarterdeck`.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub side: String,
}

impl Programs {
    /// The sides to run, upstream first.
    pub fn sides(&self) -> Vec<Side> {
        let all = [Side::Upstream, Side::Ours];
        all.into_iter().filter(|side| self.side.is_empty() || self.side == side.name()).collect()
    }
}

/// A running control plane; dropping it kills it.
pub struct ControlPlane {
    side: Side,
    programs: Programs,
    folder: PathBuf,
    children: Vec<(&'static str, Child)>,
    pub address: SocketAddr,
    /// From the start of the first process until `/readyz` said yes.
    pub ready_after: Duration,
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        for (_, child) in self.children.iter_mut().rev() {
            // A child that has ended already is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl ControlPlane {
    /// Starts one side on an empty folder and waits until it is ready.
    ///
    /// # Errors
    /// When a program cannot be started or is not ready within a minute.
    pub async fn start(programs: &Programs, side: Side) -> Result<Self> {
        let folder = programs.dir.join(side.name());
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        let folder = folder.canonicalize()?;
        flags::prepare(&folder, programs.port)?;
        let address = SocketAddr::from(([127, 0, 0, 1], programs.port));
        let started = Instant::now();
        let ready_after = Duration::ZERO;
        let mut plane =
            Self { side, programs: programs.clone(), folder, children: Vec::new(), address, ready_after };
        match side {
            Side::Upstream => {
                plane.spawn(
                    "etcd",
                    &programs.upstream.join("etcd"),
                    flags::etcd(&plane.folder, programs.port),
                )?;
                flags::wait_for_etcd(programs.port, READY_TIMEOUT).await?;
                let flags = flags::upstream(&plane.folder, programs.port);
                plane.spawn("apiserver", &programs.upstream.join("kube-apiserver"), flags)?;
            }
            Side::Ours => {
                let flags = flags::ours(&plane.folder, programs.port);
                plane.spawn("apiserver", &programs.quarterdeck, flags)?;
            }
        }
        plane.wait_ready(started).await?;
        plane.ready_after = started.elapsed();
        Ok(plane)
    }

    /// Starts this side's scheduler against its API server.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_scheduler(&mut self) -> Result<()> {
        let (program, flags) = match self.side {
            Side::Upstream => (self.programs.upstream.join("kube-scheduler"), Vec::new()),
            Side::Ours => (self.programs.quarterdeck.clone(), vec!["scheduler".to_owned()]),
        };
        let flags = flags.into_iter().chain(flags::scheduler(&self.folder)).collect();
        self.spawn("scheduler", &program, flags)
    }

    /// Starts hollow nodes, which say that pods run without running them.
    ///
    /// # Errors
    /// When they cannot be started.
    pub fn start_hollow_nodes(&mut self, count: u64) -> Result<()> {
        let program = self.programs.quarterdeck.clone();
        self.spawn("nodes", &program, flags::hollow_nodes(&self.folder, count))
    }

    /// Starts the controllers of one side, whoever's API server it is.
    ///
    /// # Errors
    /// When they cannot be started.
    pub fn start_controllers(&mut self, side: Side) -> Result<()> {
        let (program, first) = match side {
            Side::Upstream => (self.programs.upstream.join("kube-controller-manager"), None),
            Side::Ours => (self.programs.quarterdeck.clone(), Some("controller-manager".to_owned())),
        };
        let flags = first.into_iter().chain(flags::controllers(&self.folder)).collect();
        self.spawn("controllers", &program, flags)
    }

    fn spawn(&mut self, name: &'static str, program: &Path, flags: Vec<String>) -> Result<()> {
        let log = std::fs::File::create(self.folder.join(format!("{name}.log")))?;
        let child = Command::new(program)
            .args(flags)
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log))
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
        self.children.push((name, child));
        Ok(())
    }

    async fn wait_ready(&mut self, started: Instant) -> Result<()> {
        while started.elapsed() < READY_TIMEOUT {
            if let Ok(mut connection) = Connection::open(self.address).await
                && connection.call(Call::get("/readyz")).await.is_ok()
            {
                return Ok(());
            }
            for (name, child) in &mut self.children {
                if let Some(status) = child.try_wait()? {
                    return Err(
                        format!("the {name} ended with {status}: see {}", self.folder.display()).into()
                    );
                }
            }
            tokio::time::sleep(READY_POLL).await;
        }
        Err(format!("not ready within {READY_TIMEOUT:?}: see the logs in {}", self.folder.display()).into())
    }

    /// Resident memory of one process, or of all of them together, in MiB.
    ///
    /// # Errors
    /// When `/proc` does not say.
    pub fn resident_mib(&self, only: Option<&str>) -> Result<f64> {
        let mut sum = 0.0;
        for (name, child) in &self.children {
            if only.is_none_or(|only| only == *name) {
                let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()))?;
                let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
                let kib: f64 = line.split_whitespace().nth(1).ok_or("no VmRSS value")?.parse()?;
                sum += kib / 1024.0;
            }
        }
        Ok(sum)
    }

    /// Processor time that each process has used so far, in the order of their starts.
    ///
    /// # Errors
    /// When `/proc` does not say.
    pub fn cpu(&self) -> Result<Vec<(&'static str, Duration)>> {
        let mut all = Vec::with_capacity(self.children.len());
        for (name, child) in &self.children {
            let text = std::fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
            // The second field is a name in brackets, which may hold blanks; user and system time are the 14th and 15th.
            let rest = text.rsplit_once(')').ok_or("no name in stat")?.1;
            let ticks: u64 =
                rest.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
            all.push((*name, Duration::from_millis(ticks * 1000 / TICKS_PER_SEC)));
        }
        Ok(all)
    }
}
