//! Links that can be cut where the harness is not root: every member is reached by its peers through a proxy in this
//! process, which knows who calls.
//!
//! A connection's caller is the member process that holds its other end, as `/proc` says. Each direction is held back
//! while its link is cut, as packets are that nobody acknowledges; keep-alive at the members' ends breaks what is held
//! for too long.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{Error, Result};

const BUFFER_BYTES: usize = 16 << 10;
/// What a lost packet costs: TCP sends it again after this.
const RETRANSMIT: Duration = Duration::from_millis(200);
const SLOWNESS_MILLIS: std::ops::Range<u64> = 40..120;

#[derive(Default)]
struct Links {
    cuts: BTreeSet<(usize, usize)>,
    /// Of a hundred packets.
    loss_percent: u32,
    is_slow: bool,
    /// Member to its process.
    pids: BTreeMap<usize, u32>,
}

/// All links of a cluster. Clones share them.
#[derive(Clone)]
pub struct Proxies {
    links: Arc<Mutex<Links>>,
    changed: watch::Sender<()>,
}

impl std::fmt::Debug for Proxies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("proxies on loopback")
    }
}

impl Default for Proxies {
    fn default() -> Self {
        Proxies { links: Arc::default(), changed: watch::Sender::new(()) }
    }
}

impl Proxies {
    /// Passes what is sent to `outside` on to the member, which listens at `inside`. Runs as long as the runtime.
    pub async fn stand_before(&self, member: usize, outside: SocketAddr, inside: SocketAddr) -> Result<()> {
        let failed = |error| Error::Io { path: outside.to_string().into(), error };
        let listener = TcpListener::bind(outside).await.map_err(failed)?;
        let proxies = self.clone();
        tokio::spawn(async move {
            loop {
                let Ok((stream, caller)) = listener.accept().await else { continue };
                let proxies = proxies.clone();
                tokio::spawn(async move { proxies.pass_on(stream, caller, member, inside).await });
            }
        });
        Ok(())
    }

    pub fn know(&self, member: usize, pid: u32) {
        self.links.lock().pids.insert(member, pid);
    }

    pub fn cut(&self, cuts: &BTreeSet<(usize, usize)>) {
        self.links.lock().cuts.clone_from(cuts);
        self.changed.send_replace(());
    }

    pub fn lose(&self, percent: u32) {
        self.links.lock().loss_percent = percent;
    }

    pub fn slow(&self, is_slow: bool) {
        self.links.lock().is_slow = is_slow;
    }

    async fn pass_on(self, stream: TcpStream, caller: SocketAddr, member: usize, inside: SocketAddr) {
        let pids = self.links.lock().pids.clone();
        // Not of a member: the harness itself, which no cut concerns.
        let from = owner(caller, &pids).unwrap_or(member);
        self.wait_open(from, member).await;
        let Ok(target) = TcpStream::connect(inside).await else { return };
        // A socket that refuses is served all the same.
        let _ = (stream.set_nodelay(true), target.set_nodelay(true));
        let ((caller_reads, caller_writes), (target_reads, target_writes)) =
            (stream.into_split(), target.into_split());
        tokio::select! {
            () = self.pump(caller_reads, target_writes, (from, member)) => {}
            () = self.pump(target_reads, caller_writes, (member, from)) => {}
        }
    }

    async fn pump(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, link: (usize, usize)) {
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Ok(count) = from.read(&mut buffer).await {
            self.wait_open(link.0, link.1).await;
            tokio::time::sleep(self.delay(link)).await;
            if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    }

    async fn wait_open(&self, from: usize, to: usize) {
        let mut changed = self.changed.subscribe();
        while self.links.lock().cuts.contains(&(from, to)) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    fn delay(&self, link: (usize, usize)) -> Duration {
        let links = self.links.lock();
        if link.0 == link.1 {
            return Duration::ZERO;
        }
        let mut rng = rand::rng();
        let slow = match links.is_slow {
            true => Duration::from_millis(rng.random_range(SLOWNESS_MILLIS)),
            false => Duration::ZERO,
        };
        let lost = rng.random_range(0..100) < links.loss_percent;
        slow + if lost { RETRANSMIT } else { Duration::ZERO }
    }
}

/// The member whose process holds the socket with this local address.
fn owner(address: SocketAddr, pids: &BTreeMap<usize, u32>) -> Option<usize> {
    let inode = inode(&std::fs::read_to_string("/proc/net/tcp").ok()?, address)?;
    let wanted = format!("socket:[{inode}]");
    let holds = |pid: u32| {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .any(|target| target.to_str() == Some(wanted.as_str()))
    };
    pids.iter().find(|(_, pid)| holds(**pid)).map(|(member, _)| *member)
}

/// Looks a local address up in the kernel's table.
fn inode(table: &str, address: SocketAddr) -> Option<u64> {
    let SocketAddr::V4(address) = address else { return None };
    let wanted = format!("{:08X}:{:04X}", u32::from_le_bytes(address.ip().octets()), address.port());
    let row = table.lines().find(|line| line.split_whitespace().nth(1) == Some(wanted.as_str()))?;
    row.split_whitespace().nth(9)?.parse().ok().filter(|inode| *inode != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_the_kernels_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0101D57F:094C 0201D57F:8F3A 01 00000000:00000000 00:00000000 00000000 0 0 4711 1 0 20 4 30 10 -1\n";
        let at = |text: &str| inode(table, text.parse().expect("an address"));
        assert_eq!(at("127.213.1.1:2380"), Some(4711));
        assert_eq!(at("127.213.1.1:2381"), None);
    }

    #[tokio::test]
    async fn a_cut_link_holds_back_and_a_healed_one_passes_on() {
        let member = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let inside = member.local_addr().expect("an address");
        let free = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let outside = free.local_addr().expect("an address");
        drop(free);
        let proxies = Proxies::default();
        // This process plays member 0, the caller; member 1 is behind the proxy.
        proxies.know(0, std::process::id());
        proxies.stand_before(1, outside, inside).await.expect("standing");
        let mut caller = TcpStream::connect(outside).await.expect("connected");
        let (mut called, _) = member.accept().await.expect("accepted");
        let mut byte = [0];
        caller.write_all(b"a").await.expect("sent");
        called.read_exact(&mut byte).await.expect("passed on");
        proxies.cut(&BTreeSet::from([(0, 1)]));
        caller.write_all(b"b").await.expect("sent");
        let held = tokio::time::timeout(Duration::from_millis(100), called.read_exact(&mut byte)).await;
        assert!(held.is_err(), "the link is cut");
        called.write_all(b"c").await.expect("sent");
        caller.read_exact(&mut byte).await.expect("the other way is open");
        proxies.cut(&BTreeSet::new());
        called.read_exact(&mut byte).await.expect("passed on");
        assert_eq!(&byte, b"b");
    }
}
