//! Members that leave and join: taken out of the group, and added as new ones with empty disks.

use super::{Cluster, Error, POLL, READY_TIMEOUT, Result};

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

    /// Takes the member out of the group; another must be able to say so.
    pub async fn remove(&self, member: usize) -> Result<()> {
        self.give_up(member).await?;
        let mut client = self.client((member + 1) % self.len()).await?;
        let (name, url) = (self.name(member), self.ground.peer_url(member));
        let list = client.member_list().await?;
        // One that never started has no name yet.
        let is_it = |known: &&etcd_client::Member| known.name() == name || known.peer_urls().contains(&url);
        if let Some(old) = list.members().iter().find(is_it) {
            client.member_remove(old.id()).await?;
        }
        Ok(())
    }

    /// Adds the member as a new one with an empty disk, and starts it.
    pub async fn admit(&self, member: usize) -> Result<()> {
        let mut client = self.client((member + 1) % self.len()).await?;
        let url = self.ground.peer_url(member);
        let answer = client.member_add([url.clone()], None).await?;
        let name = self.name(member);
        self.await_known(member, answer.member().map_or(0, etcd_client::Member::id)).await?;
        let others = answer.member_list().iter().filter(|known| !known.peer_urls().contains(&url));
        let mut shape: Vec<String> = others
            .flat_map(|known| known.peer_urls().iter().map(|url| format!("{}={url}", known.name())))
            .collect();
        shape.push(format!("{name}={url}"));
        {
            let mut slot = self.members[member].lock();
            slot.generation += 1;
            slot.is_out = false;
            slot.state = "existing";
            slot.initial_cluster = shape.join(",");
        }
        self.start(member).await
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
        self.admit(self.len).await
    }

    pub async fn leave_extra(&self) -> Result<()> {
        if self.members[self.len].lock().process.is_none() {
            return Ok(());
        }
        self.remove(self.len).await
    }
}
