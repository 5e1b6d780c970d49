//! Clients in several processes of the operating system. Each is this program again, as `chaos client`: a client library,
//! connections and a runtime of its own, in whatever namespace the harness is in.

use std::collections::HashMap;
use std::io;
use std::process::Stdio;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::wire::{Briefing, Order, Report, line};
use super::{Clients, Done};
use crate::checkers::watch::Watch;
use crate::clock::Clock;
use crate::cluster::{Error, Result};
use crate::history::{Action, Process};
use crate::workloads::WorkloadKind;

/// Who waits for which report.
#[derive(Default)]
struct Awaited {
    /// Why no report comes any more.
    ended: Option<String>,
    performed: HashMap<Process, oneshot::Sender<Option<Done>>>,
    followed: HashMap<usize, oneshot::Sender<Vec<Watch>>>,
}

/// One client process. Killed when dropped.
struct Remote {
    child: tokio::sync::Mutex<Child>,
    /// `None` once it was told to end.
    orders: tokio::sync::Mutex<Option<ChildStdin>>,
    awaited: Arc<Mutex<Awaited>>,
}

/// All client processes of a run.
pub struct Processes {
    remotes: Vec<Remote>,
    members: usize,
    clock: Clock,
}

fn failed(error: io::Error) -> Error {
    Error::Io { path: "a client process".into(), error }
}

impl Processes {
    /// Starts so many, at least one, for members at these URLs; the run's clock begins.
    pub async fn start(count: usize, workload: WorkloadKind, urls: Vec<String>) -> Result<Self> {
        let clock = Clock::start_shared();
        let Clock::Machine(began) = clock else {
            return Err(Error::Unsupported("a clock that processes do not share".into()));
        };
        let briefing = Briefing { began, workload: workload.to_string(), urls };
        let mut remotes = Vec::new();
        for _ in 0..count.max(1) {
            remotes.push(Remote::start(&briefing).await.map_err(failed)?);
        }
        Ok(Processes { remotes, members: briefing.urls.len(), clock })
    }

    /// Every one of them talks to several members, to all where there are clients enough.
    fn of(&self, process: Process) -> &Remote {
        let number = process.0 as usize;
        &self.remotes[(number + number / self.members) % self.remotes.len()]
    }
}

impl Remote {
    async fn start(briefing: &Briefing) -> io::Result<Self> {
        // By this name, because the path of a program need not lead to it in the mount namespace that was entered since.
        let mut child = Command::new("/proc/self/exe")
            .arg("client")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let missing = || io::Error::other("a pipe is missing");
        let mut orders = child.stdin.take().ok_or_else(missing)?;
        let reports = child.stdout.take().ok_or_else(missing)?;
        orders.write_all(&line(briefing)?).await?;
        let awaited: Arc<Mutex<Awaited>> = Arc::default();
        tokio::spawn(listen(reports, awaited.clone()));
        Ok(Remote { child: child.into(), orders: Some(orders).into(), awaited })
    }

    async fn order(&self, order: &Order) -> io::Result<()> {
        let line = line(order)?;
        match self.orders.lock().await.as_mut() {
            Some(orders) => orders.write_all(&line).await,
            None => Err(io::Error::other("it was told to end")),
        }
    }
}

/// Hands reports to those who wait for them. When no more come, all who still wait are told so by their channels.
async fn listen(reports: ChildStdout, awaited: Arc<Mutex<Awaited>>) {
    let mut lines = BufReader::new(reports).lines();
    let ended = loop {
        match lines.next_line().await {
            Ok(Some(line)) => {
                if let Err(error) = awaited.lock().hand_on(&line) {
                    break format!("{error}: {line}");
                }
            }
            Ok(None) => break "it ended".to_owned(),
            Err(error) => break error.to_string(),
        }
    };
    *awaited.lock() = Awaited { ended: Some(ended), ..Awaited::default() };
}

impl Awaited {
    fn hand_on(&mut self, line: &str) -> serde_json::Result<()> {
        // Who stopped waiting wants no report.
        match serde_json::from_str(line)? {
            Report::Performed { process, done } => {
                drop(self.performed.remove(&process).map(|waiting| waiting.send(done)));
            }
            Report::Followed { member, watches } => {
                drop(self.followed.remove(&member).map(|waiting| waiting.send(watches)));
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Clients for Processes {
    fn clock(&self) -> Clock {
        self.clock
    }

    async fn perform(&self, process: Process, member: usize, action: Action) -> Option<Done> {
        let remote = self.of(process);
        let (sender, report) = oneshot::channel();
        {
            let mut awaited = remote.awaited.lock();
            if awaited.ended.is_some() {
                return None;
            }
            awaited.performed.insert(process, sender);
        }
        if let Err(error) = remote.order(&Order::Perform { process, member, action }).await {
            tracing::error!(%error, "a client process takes no orders");
            remote.awaited.lock().performed.remove(&process);
        }
        report.await.ok().flatten()
    }

    async fn follow(&self, member: usize, prefix: &str, stop: CancellationToken) -> Vec<Watch> {
        let remote = &self.remotes[member % self.remotes.len()];
        let (sender, report) = oneshot::channel();
        {
            let mut awaited = remote.awaited.lock();
            if awaited.ended.is_some() {
                return Vec::new();
            }
            awaited.followed.insert(member, sender);
        }
        let follow = Order::Follow { member, prefix: prefix.to_owned() };
        let mut told = remote.order(&follow).await;
        stop.cancelled().await;
        if told.is_ok() {
            told = remote.order(&Order::StopFollowing).await;
        }
        if let Err(error) = told {
            tracing::error!(%error, "a client process takes no orders");
            remote.awaited.lock().followed.remove(&member);
        }
        report.await.unwrap_or_default()
    }

    async fn finish(&self) -> Result<()> {
        for remote in &self.remotes {
            if let Some(ended) = remote.awaited.lock().ended.clone() {
                return Err(failed(io::Error::other(ended)));
            }
            let mut child = remote.child.lock().await;
            drop(remote.orders.lock().await.take());
            let status = child.wait().await.map_err(failed)?;
            if !status.success() {
                return Err(failed(io::Error::other(format!("it failed: {status}"))));
            }
        }
        Ok(())
    }
}
