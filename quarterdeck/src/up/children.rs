//! The cluster's processes: started with their output in files, watched, restarted, and stopped in reverse order.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::failure::{At, Failure, REMOVED_STATUS, Result};

/// A process that has not ended this long after SIGTERM gets SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a dead child is looked for.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);
/// Lines of a log shown when its process failed.
const LOG_TAIL_LINES: usize = 12;

/// What to run.
pub struct Child {
    pub name: String,
    pub args: Vec<String>,
    /// Added at the first start only.
    pub first_start_args: Vec<String>,
    /// Given at the first start only, and in the environment: every user of the machine can read the arguments.
    pub first_start_token: Option<String>,
}

struct Running {
    child: Child,
    process: tokio::process::Child,
    pid: u32,
}

/// All processes of this run, in the order they were started.
pub struct Children {
    program: PathBuf,
    logs: PathBuf,
    running: Vec<Running>,
}

impl Children {
    pub fn new(data_dir: &Path) -> Result<Self> {
        let logs = data_dir.join("logs");
        std::fs::create_dir_all(&logs).at("create", &logs)?;
        let program = std::env::current_exe()?;
        Ok(Children { program, logs, running: Vec::new() })
    }

    pub async fn start(&mut self, mut child: Child) -> Result<()> {
        let extra = std::mem::take(&mut child.first_start_args);
        let token = child.first_start_token.take();
        let process = self.spawn(&child, &extra, token.as_deref())?;
        let pid = process.id().unwrap_or_default();
        self.running.push(Running { child, process, pid });
        Ok(())
    }

    pub fn pids(&self) -> Vec<(String, u32)> {
        self.running.iter().map(|running| (running.child.name.clone(), running.pid)).collect()
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    fn spawn(&self, child: &Child, extra: &[String], token: Option<&str>) -> Result<tokio::process::Child> {
        let path = self.log(&child.name);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&path).at("write", &path)?;
        let mut command = Command::new(&self.program);
        command.args(&child.args).args(extra).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // What the environment says of `up` is not meant for its children, but for how they log.
        let ours = |name: &String| name.starts_with("QUARTERDECK_") && !name.starts_with("QUARTERDECK_LOG");
        for name in std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).filter(ours) {
            command.env_remove(name);
        }
        command.envs(token.map(|token| ("QUARTERDECK_TOKEN", token)));
        // Ctrl-C at the terminal is for this process alone; it stops its children in order.
        command.process_group(0);
        // Should this process be killed, its children stop in order by themselves.
        // SAFETY: prctl is async-signal-safe, and nothing else runs between fork and exec.
        unsafe {
            command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?));
        }
        Ok(command.spawn()?)
    }

    /// Waits for `outcome`, unless the named child ends first: then its log says why.
    pub async fn watched<T>(&mut self, name: &str, outcome: impl Future<Output = Result<T>>) -> Result<T> {
        let log = self.log(name);
        let Some(running) = self.running.iter_mut().find(|running| running.child.name == name) else {
            return Err(Failure::new(format!("{name} was not started")));
        };
        tokio::select! {
            outcome = outcome => outcome.map_err(|failure| Failure::new(format!("{failure}\n{}", tail(&log)))),
            status = running.process.wait() => {
                let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                Err(Failure::new(format!("{name} ended ({status})\n{}", tail(&log))))
            }
        }
    }

    /// Restarts what ends, until told to stop.
    pub async fn keep_alive(&mut self, delay: Duration, shutdown: &CancellationToken) {
        while !shutdown.is_cancelled() {
            for index in 0..self.running.len() {
                let Ok(Some(status)) = self.running[index].process.try_wait() else { continue };
                let name = self.running[index].child.name.clone();
                if status.code() == Some(i32::from(REMOVED_STATUS)) {
                    println!("{name} was taken out of the cluster and has ended");
                    self.running.remove(index);
                    break;
                }
                println!("{name} ended ({status}); starting it again in {} s", delay.as_secs());
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    () = shutdown.cancelled() => return,
                }
                match self.spawn(&self.running[index].child, &[], None) {
                    Ok(process) => {
                        let pid = process.id().unwrap_or_default();
                        println!("{name} runs again as process {pid}");
                        self.running[index].process = process;
                        self.running[index].pid = pid;
                    }
                    Err(failure) => println!("{name} does not start: {failure}"),
                }
            }
            tokio::select! {
                () = tokio::time::sleep(WATCH_INTERVAL) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    /// The last started first. Returns when all have ended.
    pub async fn stop(&mut self) {
        while let Some(mut running) = self.running.pop() {
            if let Ok(None) = running.process.try_wait() {
                signal(running.pid, Signal::SIGTERM);
                if tokio::time::timeout(STOP_TIMEOUT, running.process.wait()).await.is_err() {
                    println!(
                        "{} did not end in {} s and is killed",
                        running.child.name,
                        STOP_TIMEOUT.as_secs()
                    );
                    signal(running.pid, Signal::SIGKILL);
                    let _ = running.process.wait().await;
                }
            }
        }
    }
}

/// A process that has just ended cannot be signalled; that is what was wanted.
fn signal(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LOG_TAIL_LINES);
    format!("the end of {}:\n    {}", path.display(), lines[from..].join("\n    "))
}
