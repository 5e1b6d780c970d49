//! One member's process. Killed when dropped, so that a run that fails leaves nothing behind.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Error, Result};

/// A member that has not ended this long after SIGTERM is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(20);

pub struct Process {
    child: Child,
    command: String,
}

impl Process {
    pub fn start(command: &[String], env: &[(String, String)], log: &Path) -> Result<Self> {
        let io = |error| Error::Io { path: log.to_owned(), error };
        let out = OpenOptions::new().create(true).append(true).open(log).map_err(io)?;
        let (program, args) =
            command.split_first().ok_or_else(|| Error::Unsupported("an empty command".into()))?;
        let child = Command::new(program)
            .args(args)
            .envs(env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(out.try_clone().map_err(io)?)
            .stderr(out)
            .spawn()
            .map_err(|error| Error::Io { path: program.into(), error })?;
        Ok(Process { child, command: command.join(" ") })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// A process that has ended is past being signalled, which is no error: faults meet members that ended of others. Its
    /// number is not used, since another process may have it by now.
    fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.ended().is_some() {
            return Ok(());
        }
        let pid = i32::try_from(self.child.id()).map(Pid::from_raw);
        let failed = |stderr: String| Error::Command { command: self.command.clone(), stderr };
        kill(pid.map_err(|error| failed(error.to_string()))?, signal)
            .map_err(|error| failed(error.to_string()))
    }

    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    pub fn kill(mut self) -> Result<()> {
        self.end()
    }

    pub async fn terminate(mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while self.ended().is_none() && Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let failed = |error| Error::Io { path: self.command.clone().into(), error };
        self.child.kill().map_err(failed)?;
        self.child.wait().map(drop).map_err(failed)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already, or it ends now; there is nobody left to tell.
        let _ = self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_that_has_ended_takes_any_order() {
        let log = tempfile::NamedTempFile::new().expect("a log");
        let command = ["false".to_owned()];
        let mut process = Process::start(&command, &[], log.path()).expect("started");
        while process.ended().is_none() {
            tokio::time::sleep(POLL).await;
        }
        process.pause().expect("paused");
        process.resume().expect("resumed");
        process.terminate().await.expect("terminated");
    }
}
