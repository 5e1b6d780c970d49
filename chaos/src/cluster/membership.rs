//! Members that leave and join: taken out of the group, and added as new ones with empty disks.

use std::time::Duration;

use etcd_client::Member;
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::{Cluster, Error, POLL, READY_TIMEOUT, Result};

/// The others may have no leader for a while, and an etcd refuses changes until all have been connected for five seconds.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);
const CHANGE_PAUSE: Duration = Duration::from_millis(300);

/// A member that was added: its id, and the whole group as `--initial-cluster` wants it.
struct Added {
    id: u64,
    shape: String,
}

impl Cluster {
    /// Takes the member out of the group and its data away, and adds it again as a new one.
    pub async fn replace(&self, member: usize) -> Result<()> {
        self.remove(member).await?;
        self.admit(member).await
    }

    /// Ends the member for good: what healing starts in its place is a new one.
    pub async fn give_up(&self, member: usize) -> Result<()> {
        self.members[member].lock().is_out = true;
        self.kill(member).await
    }

    /// Takes the member out of the group, and ends it only then: a change that is still under way, to let another in, may
    /// need it. The others must be able to say so.
    pub async fn remove(&self, member: usize) -> Result<()> {
        self.insist(member, move |other| Box::pin(self.remove_by(other, member))).await?;
        self.give_up(member).await
    }

    async fn remove_by(&self, other: usize, member: usize) -> Result<()> {
        let mut client = self.client(other).await?;
        let (name, url) = (self.name(member), self.ground.peer_url(member));
        let list = client.member_list().await?;
        // One that never started has no name yet.
        let is_it = |known: &&Member| known.name() == name || known.peer_urls().contains(&url);
        if let Some(old) = list.members().iter().find(is_it) {
            client.member_remove(old.id()).await?;
        }
        Ok(())
    }

    /// Adds the member as a new one with an empty disk, and starts it.
    pub async fn admit(&self, member: usize) -> Result<()> {
        let added = self.insist(member, move |other| Box::pin(self.admit_by(other, member))).await?;
        self.await_known(member, added.id).await?;
        {
            let mut slot = self.members[member].lock();
            slot.generation += 1;
            slot.is_out = false;
            slot.state = "existing";
            slot.initial_cluster = added.shape;
        }
        self.start(member).await
    }

    async fn admit_by(&self, other: usize, member: usize) -> Result<Added> {
        let mut client = self.client(other).await?;
        let (name, url) = (self.name(member), self.ground.peer_url(member));
        let shape = |members: &[Member]| {
            let others = members.iter().filter(|known| !known.peer_urls().contains(&url));
            let mut shape: Vec<String> = others
                .flat_map(|known| known.peer_urls().iter().map(|url| format!("{}={url}", known.name())))
                .collect();
            shape.push(format!("{name}={url}"));
            shape.join(",")
        };
        // An attempt whose answer was lost may have added it: it has not started, so it has no name.
        let list = client.member_list().await?;
        let mut waiting = list.members().iter().filter(|known| known.name().is_empty());
        if let Some(known) = waiting.find(|known| known.peer_urls().contains(&url)) {
            return Ok(Added { id: known.id(), shape: shape(list.members()) });
        }
        let answer = client.member_add([url.clone()], None).await?;
        let id = answer.member().map_or(0, Member::id);
        Ok(Added { id, shape: shape(answer.member_list()) })
    }

    /// Has the others, in turn, change the group, until one of them has.
    async fn insist<'a, T>(
        &'a self,
        member: usize,
        change: impl Fn(usize) -> BoxFuture<'a, Result<T>> + Send + Sync,
    ) -> Result<T> {
        let others: Vec<usize> = (0..self.len()).filter(|&other| other != member).collect();
        let deadline = Instant::now() + CHANGE_TIMEOUT;
        let mut outcome = Err(Error::NotInflicted("there is no other member".to_owned()));
        for other in others.iter().cycle() {
            outcome = change(*other).await;
            match &outcome {
                Err(error) if Instant::now() < deadline => {
                    tracing::info!(%error, member, other, "a change of the group is tried again");
                }
                _ => break,
            }
            tokio::time::sleep(CHANGE_PAUSE).await;
        }
        outcome
    }

    /// Until all others know of the new member: it asks one of them who it is, and a late one would name the old member
    /// of this address.
    async fn await_known(&self, member: usize, id: u64) -> Result<()> {
        let all = async {
            for other in (0..self.len()).filter(|&other| other != member) {
                loop {
                    let known = match self.client(other).await {
                        Ok(mut client) => client.member_list().await,
                        Err(_) => break,
                    };
                    // One that is down learns of it when it comes back.
                    if known.map_or(true, |list| list.members().iter().any(|known| known.id() == id)) {
                        break;
                    }
                    tokio::time::sleep(POLL).await;
                }
            }
        };
        tokio::time::timeout(READY_TIMEOUT, all).await.map_err(|_| Error::NotReady(READY_TIMEOUT))
    }

    /// One more member than there are, until [`Cluster::leave_extra`].
    pub async fn join_extra(&self) -> Result<()> {
        self.members[self.len].lock().state = "existing";
        self.admit(self.len).await
    }

    /// The one more leaves, if it was let in, or may have been.
    pub async fn leave_extra(&self) -> Result<()> {
        if self.members[self.len].lock().state == "existing" {
            self.remove(self.len).await?;
            self.members[self.len].lock().state = "new";
        }
        Ok(())
    }
}
