//! What the harness and a client process tell each other: a line of JSON each, orders on the client's standard input,
//! reports on its standard output. The client ends when its input does, so none outlives the harness.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use async_trait::async_trait;
use etcd_client::Client;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::local::Local;
use super::{Clients, Done, Endpoints};
use crate::checkers::watch::Watch;
use crate::clock::Clock;
use crate::cluster::{self, Result};
use crate::history::{Action, Nanos, Process};
use crate::workloads::WorkloadKind;

/// Reports that may wait for the harness to read them: each process has one operation under way at most.
const REPORTS_WAITING_MAX: usize = 256;

/// The first line: what the client is to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Briefing {
    /// What the machine's monotonic clock showed when the run began.
    pub began: Nanos,
    /// A workload's name.
    pub workload: String,
    /// The members' client URLs.
    pub urls: Vec<String>,
}

/// Every line after it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    Perform {
        process: Process,
        member: usize,
        action: Action,
    },
    Follow {
        member: usize,
        prefix: String,
    },
    /// Ends all watching.
    StopFollowing,
}

/// What comes back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Report {
    Performed { process: Process, done: Option<Done> },
    Followed { member: usize, watches: Vec<Watch> },
}

/// One line.
pub fn line(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// The members by their URLs.
struct Urls(Vec<String>);

#[async_trait]
impl Endpoints for Urls {
    async fn client(&self, member: usize) -> Result<Client> {
        cluster::connect(&self.0[member..=member]).await
    }
}

/// Serves as a client process: follows orders until there are no more.
pub async fn serve() -> io::Result<()> {
    let input = pipe::Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
    let mut output = pipe::Sender::from_owned_fd(io::stdout().as_fd().try_clone_to_owned()?)?;
    let mut orders = BufReader::new(input).lines();
    let Some(first) = orders.next_line().await? else { return Ok(()) };
    let Briefing { began, workload, urls } = serde_json::from_str(&first)?;
    let workload: WorkloadKind = workload.parse().map_err(io::Error::other)?;
    let clients = Arc::new(Local::new(Arc::new(Urls(urls)), workload.build(), Clock::Machine(began)));
    let (reports, mut waiting) = mpsc::channel::<Report>(REPORTS_WAITING_MAX);
    let writing = tokio::spawn(async move {
        while let Some(report) = waiting.recv().await {
            output.write_all(&line(&report)?).await?;
        }
        Ok::<_, io::Error>(())
    });
    let stop = CancellationToken::new();
    while let Some(order) = orders.next_line().await? {
        let (clients, reports, stop) = (clients.clone(), reports.clone(), stop.clone());
        match serde_json::from_str(&order)? {
            Order::Perform { process, member, action } => drop(tokio::spawn(async move {
                let done = clients.perform(process, member, action).await;
                // A harness that has gone reads no report.
                let _ = reports.send(Report::Performed { process, done }).await;
            })),
            Order::Follow { member, prefix } => drop(tokio::spawn(async move {
                let watches = clients.follow(member, &prefix, stop).await;
                let _ = reports.send(Report::Followed { member, watches }).await;
            })),
            Order::StopFollowing => stop.cancel(),
        }
    }
    stop.cancel();
    drop(reports);
    writing.await.map_err(io::Error::other)?
}
