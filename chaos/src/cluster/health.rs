//! Whether members answer, what is known of those that do not, and how the harness brings them back.

use std::time::Duration;

use tokio::time::Instant;

use super::process::Process;
use super::{Cluster, DiskMood, Error, POLL, REQUEST_TIMEOUT, Result};

/// On a machine that builds and tests other things meanwhile.
pub const READY_TIMEOUT: Duration = Duration::from_secs(150);
/// A member answers when it has its vote; the change of the group that gave it is over a little later.
const CHANGE_SETTLES: Duration = Duration::from_millis(2_500);
/// Of a member's log, so much is said when it does not answer.
const LAST_LINES: usize = 4;
const LAST_LINE_CHARS: usize = 300;

/// What came of a member's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    Answers,
    Ended,
    /// It neither answers nor ends.
    Silent,
}

impl Cluster {
    /// The last things that a member's log says.
    pub fn last_words(&self, member: usize, lines: usize) -> String {
        let log = std::fs::read(self.log(&self.name(member))).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let shorten = |line: &str| line.trim().chars().take(LAST_LINE_CHARS).collect::<String>();
        let said = log.lines().rev().filter(|line| !line.trim().is_empty()).take(lines);
        let mut said: Vec<String> = said.map(shorten).collect();
        said.reverse();
        if said.is_empty() { "it said nothing".to_owned() } else { said.join(" / ") }
    }

    /// How a member's process stands, how often it ended by itself, and the last that it said.
    fn describe(&self, member: usize) -> String {
        let mut slot = self.members[member].lock();
        let stands = match slot.process.as_mut().map(|process| (process.id(), process.ended())) {
            None => "has no process".to_owned(),
            Some((pid, None)) => format!("runs as process {pid}"),
            Some((_, Some(status))) => format!("ended with {status}"),
        };
        let before = match slot.last_end {
            Some(status) => format!(", after it had ended {} times by itself, last with {status}", slot.ends),
            None => String::new(),
        };
        let name = slot.name.clone();
        drop(slot);
        let (log, words) = (self.log(&name), self.last_words(member, LAST_LINES));
        format!("{name} {stands}{before}; {} ends with: {words}", log.display())
    }

    /// Starts a member that has ended by itself; one that is out is replaced, which may be tried again if it fails.
    pub async fn revive(&self, member: usize) -> Result<()> {
        let ended = self.members[member].lock().process.as_mut().and_then(Process::ended);
        if ended.is_some() {
            self.kill(member).await?;
            let mut slot = self.members[member].lock();
            slot.ends += 1;
            slot.last_end = ended;
        }
        let is_out = self.members[member].lock().is_out;
        if !is_out {
            return self.start(member).await;
        }
        if let Err(error) = self.replace(member).await {
            tracing::info!(%error, member, "not replaced yet");
        }
        Ok(())
    }

    async fn revive_all(&self) -> Result<()> {
        // First those that are only down: to replace one takes a majority.
        for is_out in [false, true] {
            for member in 0..self.len() {
                if self.members[member].lock().is_out == is_out {
                    self.revive(member).await?;
                }
            }
        }
        Ok(())
    }

    /// Whether the member answers, or ends, within the time.
    pub async fn outcome(&self, member: usize, limit: Duration) -> Started {
        let known = async {
            loop {
                let runs =
                    self.members[member].lock().process.as_mut().map(|process| process.ended().is_none());
                if runs != Some(true) {
                    return Started::Ended;
                }
                if self.answers(member).await {
                    return Started::Answers;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(limit, known).await.unwrap_or(Started::Silent)
    }

    /// Waits until the member answers, for what can only be done to one that is up. What was done to it before may end it
    /// only now: it is started again, as a supervisor would. One that another fault has taken down is waited for.
    pub async fn await_answer(&self, member: usize) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            match self.outcome(member, deadline.saturating_duration_since(Instant::now())).await {
                Started::Answers => return Ok(()),
                Started::Ended if Instant::now() < deadline => {
                    if self.pid(member).is_some() {
                        self.revive(member).await?;
                    }
                }
                Started::Ended | Started::Silent => return Err(self.silent(member)),
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until all members answer: one that has just joined has no vote yet, and those that have are too few to lose
    /// another for good.
    pub async fn await_all(&self) -> Result<()> {
        for member in 0..self.len() {
            self.await_answer(member).await?;
        }
        tokio::time::sleep(CHANGE_SETTLES).await;
        Ok(())
    }

    /// The error that says what is known of a member which does not answer.
    fn silent(&self, member: usize) -> Error {
        Error::Silent { limit: READY_TIMEOUT, found: self.describe(member) }
    }

    /// Undoes whatever a fault left undone: links, pauses, deaths.
    pub async fn heal(&self) -> Result<()> {
        self.cut(&Default::default()).await?;
        self.lose(0).await?;
        self.slow(false).await?;
        self.disks.iter().for_each(|disk| disk.set_mood(DiskMood::Well));
        for member in 0..self.len() {
            self.resume(member).await?;
        }
        self.revive_all().await?;
        // What stands in its way is what is being healed from: the run goes on with one member more.
        if let Err(error) = self.leave_extra().await {
            tracing::warn!(%error, "the extra member could not leave");
        }
        self.wait_ready().await
    }

    /// Until every member answers a linearizable read.
    pub(super) async fn wait_ready(&self) -> Result<()> {
        let all = async {
            for member in 0..self.len() {
                while !self.answers(member).await {
                    tokio::time::sleep(POLL).await;
                    // Those that have ended of what was done to them are started again, as a supervisor would.
                    self.revive_all().await?;
                }
            }
            Ok(())
        };
        if let Ok(done) = tokio::time::timeout(READY_TIMEOUT, all).await {
            return done;
        }
        let mut found = Vec::new();
        for member in 0..self.len() {
            if !self.answers(member).await {
                found.push(self.describe(member));
            }
        }
        Err(Error::Silent { limit: READY_TIMEOUT, found: found.join("; ") })
    }

    async fn answers(&self, member: usize) -> bool {
        let Ok(mut client) = self.client(member).await else { return false };
        matches!(tokio::time::timeout(REQUEST_TIMEOUT, client.get("ready-probe", None)).await, Ok(Ok(_)))
    }
}
