//! Starts containerd and starts it again when it ends. Containers do not notice: they belong to their shims. The
//! agent's own end does not end containerd either; the next agent finds it by its socket.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sha2::{Digest, Sha256};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::bundled::PAUSE;
use super::config::{Machine, Paths, text};
use crate::kernel_modules;
use crate::kubelet::cri::Runtime;

/// How long containerd may take to answer after it was started: a machine that is slow or has just booted needs more than
/// half a minute, and a second one started too early has to begin anew.
const START_LIMIT: Duration = Duration::from_secs(180);
/// How long one that is there already may take before it counts as stuck.
const STUCK_LIMIT: Duration = Duration::from_secs(60);
/// How often a containerd that is not our child is asked whether it lives.
const WATCH_PERIOD: Duration = Duration::from_secs(2);
/// Pause before containerd is started again: first and longest.
const RESTART_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// How long containerd may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Bit of `CAP_SYS_RESOURCE` in the kernel's capability sets.
const CAP_SYS_RESOURCE: u32 = 24;

/// containerd cannot be supervised.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// A folder or file cannot be made.
    #[error("cannot write {path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The program does not start.
    #[error(
        "cannot start containerd: {0}; install containerd and runc, or name a runtime with --container-runtime-endpoint"
    )]
    Spawn(io::Error),
    /// It runs but does not answer.
    #[error("containerd does not answer at {socket}; see {log}")]
    Silent {
        /// Where it should.
        socket: String,
        /// Its messages.
        log: String,
    },
}

/// A supervised containerd.
pub struct Supervisor {
    paths: Paths,
}

/// Paths for an agent with this root folder.
pub fn paths(root_dir: &Path) -> Paths {
    let digest = hex::encode(&Sha256::digest(root_dir.as_os_str().as_encoded_bytes())[..4]);
    let candidates = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];
    let cni_bin = candidates.iter().find(|d| Path::new(d).join("bridge").exists()).unwrap_or(&candidates[0]);
    let root = root_dir.join("containerd");
    Paths {
        cni_conf_dir: root_dir.join("cni").join("net.d"),
        cni_bin_dir: cni_bin.into(),
        root,
        state: PathBuf::from("/run/quarterdeck").join(digest),
    }
}

/// True if the endpoint is the one this agent would supervise itself.
pub fn is_own(root_dir: &Path, endpoint: &str) -> bool {
    Path::new(crate::kubelet::cri::client::socket_path(endpoint)) == paths(root_dir).socket()
}

fn machine() -> Machine {
    // A kernel that has it as a module does not show it before it is loaded.
    kernel_modules::load("overlay", Path::new("/sys/module/overlay"));
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let bits = effective.and_then(|t| u64::from_str_radix(t.trim(), 16).ok()).unwrap_or(0);
    let systems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    Machine {
        may_lower_oom_score: bits >> CAP_SYS_RESOURCE & 1 == 1,
        apparmor: Path::new("/sys/kernel/security/apparmor").exists(),
        overlayfs: systems.contains("overlay"),
        systemd_cgroups: false,
    }
}

fn write(path: &Path, text: &str) -> Result<(), SupervisorError> {
    let failed = |source| SupervisorError::File { path: path.display().to_string(), source };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    fs::write(path, text).map_err(failed)
}

async fn answers(paths: &Paths) -> bool {
    let endpoint = paths.socket().display().to_string();
    matches!(tokio::time::timeout(WATCH_PERIOD, Runtime::connect(&endpoint)).await, Ok(Ok(_)))
}

impl Supervisor {
    /// Starts containerd, or takes over the one an earlier agent started.
    pub async fn start(root_dir: &Path, shutdown: CancellationToken) -> Result<Self, SupervisorError> {
        let paths = paths(root_dir);
        for dir in [&paths.root, &paths.state, &paths.cni_conf_dir] {
            fs::create_dir_all(dir)
                .map_err(|source| SupervisorError::File { path: dir.display().to_string(), source })?;
        }
        write(&paths.config(), &text(&paths, machine(), PAUSE))?;
        let mut child = None;
        if living(&paths).is_none() && !answers(&paths).await {
            child = Some(spawn(&paths)?);
        }
        let limit = if child.is_some() { START_LIMIT } else { STUCK_LIMIT };
        let mut answered = wait_for_answer(&paths, child.as_mut(), limit).await;
        let stuck = living(&paths).filter(|_| child.is_none() && answered.is_err());
        if let Some(stuck) = stuck {
            tracing::warn!("the containerd of an earlier agent does not answer; it is replaced");
            let _ = kill(stuck, Signal::SIGKILL);
            child = Some(spawn(&paths)?);
            answered = wait_for_answer(&paths, child.as_mut(), START_LIMIT).await;
        }
        answered?;
        tokio::spawn(watch(paths.clone(), child, shutdown));
        Ok(Self { paths })
    }

    /// The endpoint for the kubelet.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.paths.socket().display())
    }

    /// Where everything is.
    pub fn paths(&self) -> Paths {
        self.paths.clone()
    }

    /// Ends containerd and removes its state; images stay.
    pub async fn stop(self) {
        let Some(pid) = noted(&self.paths) else { return };
        let deadline = tokio::time::Instant::now() + STOP_LIMIT;
        let _ = kill(pid, Signal::SIGTERM);
        while kill(pid, None).is_ok() && !is_zombie(pid) {
            if tokio::time::Instant::now() > deadline {
                let _ = kill(pid, Signal::SIGKILL);
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for point in crate::kubelet::volumes::mounts::under(&self.paths.state).unwrap_or_default() {
            let _ = crate::kubelet::volumes::mounts::unmount(&point);
        }
        if let Err(error) = fs::remove_dir_all(&self.paths.state) {
            tracing::warn!(%error, path = %self.paths.state.display(), "cannot remove containerd's state");
        }
    }
}

/// The process that was noted when containerd was started.
fn noted(paths: &Paths) -> Option<Pid> {
    let text = fs::read_to_string(paths.pid()).ok()?;
    text.trim().parse().ok().map(Pid::from_raw)
}

/// The noted process, if it still is this containerd: after a reboot the number may be another's. A living one may be
/// too busy to answer; a second one beside it would only be in its way.
fn living(paths: &Paths) -> Option<Pid> {
    let line = |pid: &Pid| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let config = paths.config();
    let own = |pid: &Pid| {
        line(pid).split(|byte| *byte == 0).any(|arg| arg == config.as_os_str().as_encoded_bytes())
    };
    noted(paths).filter(|pid| own(pid) && !is_zombie(*pid))
}

fn is_zombie(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

fn spawn(paths: &Paths) -> Result<Child, SupervisorError> {
    let log = OpenOptions::new().create(true).append(true).open(paths.log());
    let log =
        log.map_err(|source| SupervisorError::File { path: paths.log().display().to_string(), source })?;
    let errors = log.try_clone().map_err(SupervisorError::Spawn)?;
    // A stale socket of a dead containerd would only confuse those who wait for it.
    let _ = fs::remove_file(paths.socket());
    let mut command = Command::new("containerd");
    // SAFETY: between fork and exec, one system call and nothing else. This process may have turned huge pages off for
    // itself (which fails nowhere it matters); containers are to have them.
    unsafe {
        command.pre_exec(|| {
            let _ = nix::sys::prctl::set_thp_disable(false);
            Ok(())
        });
    }
    let child = command
        .arg("--config")
        .arg(paths.config())
        // systemd listens to the agent alone; containerd would report that the agent is ready.
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        // A group of its own: a Ctrl-C for the agent is none for containerd.
        .process_group(0)
        .kill_on_drop(false)
        .spawn()
        .map_err(SupervisorError::Spawn)?;
    if let Some(pid) = child.id() {
        write(&paths.pid(), &pid.to_string())?;
    }
    Ok(child)
}

/// Waits for the answer as long as the child lives, if it is one's own.
async fn wait_for_answer(
    paths: &Paths,
    mut child: Option<&mut Child>,
    limit: Duration,
) -> Result<(), SupervisorError> {
    let deadline = tokio::time::Instant::now() + limit;
    let mut ended = || child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)));
    while tokio::time::Instant::now() < deadline && !ended() {
        if answers(paths).await {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(SupervisorError::Silent {
        socket: paths.socket().display().to_string(),
        log: paths.log().display().to_string(),
    })
}

/// Starts containerd again whenever it ends, until the token fires.
async fn watch(paths: Paths, mut child: Option<Child>, shutdown: CancellationToken) {
    let mut pause = RESTART_PAUSE.0;
    loop {
        let ended = async {
            match child.as_mut() {
                Some(child) => {
                    let status = child.wait().await;
                    tracing::warn!(?status, "containerd ended");
                }
                None => {
                    while living(&paths).is_some() || answers(&paths).await {
                        tokio::time::sleep(WATCH_PERIOD).await;
                    }
                    tracing::warn!("containerd, which an earlier agent started, has ended");
                }
            }
        };
        let since = tokio::time::Instant::now();
        tokio::select! {
            () = ended => {}
            () = shutdown.cancelled() => return,
        }
        if since.elapsed() > RESTART_PAUSE.1 * 6 {
            pause = RESTART_PAUSE.0;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RESTART_PAUSE.1);
        child = match spawn(&paths) {
            Ok(child) => Some(child),
            Err(error) => {
                tracing::error!(%error, "containerd cannot be started again");
                None
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_do_not_share_state() {
        let (a, b) = (paths(Path::new("/a")), paths(Path::new("/b")));
        assert_ne!(a.socket(), b.socket());
        assert_eq!(a, paths(Path::new("/a")));
        // The kernel's limit for sockets' names.
        assert!(a.socket().as_os_str().len() < 100);
        assert!(is_own(Path::new("/a"), &format!("unix://{}", a.socket().display())));
        assert!(!is_own(Path::new("/a"), "unix:///run/containerd/containerd.sock"));
    }

    #[tokio::test]
    async fn one_that_has_ended_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut child = Command::new("false").spawn().expect("started");
        let paths = paths(dir.path());
        let answer = wait_for_answer(&paths, Some(&mut child), START_LIMIT);
        let ended = tokio::time::timeout(START_LIMIT / 2, answer).await.expect("ended before its time");
        assert!(matches!(ended, Err(SupervisorError::Silent { .. })), "{ended:?}");
    }
}
