//! The simulated machines: each a runtime of its own with a clock of its own, stepped in turn on one thread.
//!
//! That makes exact what processes only approximate: a killed member is gone between two instants, with everything it
//! had not handed to its disk; a paused one does not run at all and wakes to a later clock; a clock that drifts is
//! stepped by more or less than the others.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use raft_store::{Config, Member};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use super::net::{HostId, Net};
use super::transport::Card;

/// Time between two looks at the network: the finest grain of what can happen before something else.
pub const TICK: Duration = Duration::from_millis(1);
/// As real runs have it: a LAN's timing.
const HEARTBEAT: Duration = Duration::from_millis(50);
const ELECTION: Duration = Duration::from_millis(500);
/// Small, so that snapshots are made and sent within a short simulation.
const SNAPSHOT_COUNT: u64 = 400;
const SNAPSHOT_CATCHUP: u64 = 100;
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// What members did that no member may do.
#[derive(Clone, Debug, Default)]
pub struct Misdeeds(Arc<Mutex<Vec<String>>>);

impl Misdeeds {
    fn add(&self, what: String) {
        self.0.lock().push(what);
    }

    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock())
    }
}

/// Where clients reach a member.
pub fn client_url(member: usize) -> String {
    format!("http://m{member}:2379")
}

fn peer_url(member: usize) -> String {
    format!("http://m{member}:2380")
}

/// One machine.
struct Host {
    runtime: Option<Runtime>,
    /// When its runtime began, by its own clock.
    origin: Option<Instant>,
    /// Its own clock since then.
    elapsed: Duration,
    paused: bool,
    /// Seconds of its clock a second.
    rate: f64,
    member: Arc<Mutex<Option<Arc<Member>>>>,
}

/// All machines: the members, and after them one for the clients.
pub struct World {
    pub net: Net,
    pub misdeeds: Misdeeds,
    now: Duration,
    members: usize,
    hosts: Vec<Host>,
    root: PathBuf,
}

impl World {
    /// Members that are all up, and the clients' machine.
    pub fn new(members: usize, net: Net, root: PathBuf) -> std::io::Result<Self> {
        let host = || Host {
            runtime: None,
            origin: None,
            elapsed: Duration::ZERO,
            paused: false,
            rate: 1.0,
            member: Arc::default(),
        };
        let hosts = (0..=members).map(|_| host()).collect();
        let mut world =
            World { net, misdeeds: Misdeeds::default(), now: Duration::ZERO, members, hosts, root };
        for host in 0..=members {
            world.boot(host)?;
        }
        Ok(world)
    }

    pub fn now(&self) -> Duration {
        self.now
    }

    pub fn members(&self) -> usize {
        self.members
    }

    /// The machine that clients run on.
    pub fn clients(&self) -> HostId {
        self.members
    }

    pub fn client_runtime(&self) -> Option<&Runtime> {
        self.hosts[self.members].runtime.as_ref()
    }

    fn config(&self, member: usize) -> Config {
        let mut config = Config::embedded(self.root.join(format!("m{member}")));
        config.name = format!("m{member}");
        config.listen_client_urls = vec![client_url(member)];
        config.advertise_client_urls = vec![client_url(member)];
        config.listen_peer_urls = vec![peer_url(member)];
        config.initial_advertise_peer_urls = vec![peer_url(member)];
        config.initial_cluster = (0..self.members).map(|at| (format!("m{at}"), peer_url(at))).collect();
        config.heartbeat_interval = HEARTBEAT;
        config.election_timeout = ELECTION;
        config.snapshot_count = SNAPSHOT_COUNT;
        config.snapshot_catchup_entries = SNAPSHOT_CATCHUP;
        config.watch_progress_interval = PROGRESS_INTERVAL;
        config.network = Some(Arc::new(Card::new(self.net.clone(), member)));
        config
    }

    /// Starts a machine that is down.
    pub fn boot(&mut self, at: HostId) -> std::io::Result<()> {
        if self.hosts[at].runtime.is_some() {
            return Ok(());
        }
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build()?;
        let origin = runtime.block_on(async { Instant::now() });
        let arrivals = self.net.come_up(at);
        runtime.spawn(Card::new(self.net.clone(), at).answer_all(arrivals));
        if at < self.members {
            let (config, slot) = (self.config(at), self.hosts[at].member.clone());
            let misdeeds = self.misdeeds.clone();
            runtime.spawn(async move {
                match Member::start(config).await {
                    Ok(member) => {
                        *slot.lock() = Some(member.clone());
                        misdeeds.add(format!("m{at} ended by itself: {}", member.failed().await));
                    }
                    Err(error) => misdeeds.add(format!("m{at} does not start: {error}")),
                }
            });
        }
        let host = &mut self.hosts[at];
        (host.runtime, host.origin, host.elapsed) = (Some(runtime), Some(origin), Duration::ZERO);
        (host.paused, host.rate) = (false, 1.0);
        Ok(())
    }

    /// Ends a machine between two instants: its disk keeps what was handed to it by now. What a database does when it is
    /// closed in order, as it is when the member's memory is taken down, happens to files that are thrown away.
    pub fn kill(&mut self, at: HostId) -> std::io::Result<()> {
        let (folder, image) = (self.root.join(format!("m{at}")), self.root.join(format!("m{at}-image")));
        let has_disk = self.hosts[at].runtime.is_some() && folder.exists();
        if has_disk {
            copy(&folder, &image)?;
        }
        self.end(at);
        if has_disk {
            std::fs::remove_dir_all(&folder)?;
            std::fs::rename(&image, &folder)?;
        }
        Ok(())
    }

    fn end(&mut self, at: HostId) {
        self.net.go_down(at);
        self.net.freeze(at, false);
        let host = &mut self.hosts[at];
        host.member.lock().take();
        host.paused = false;
        drop(host.runtime.take());
    }

    pub fn pause(&mut self, at: HostId) {
        self.hosts[at].paused = true;
        self.net.freeze(at, true);
    }

    /// A paused machine goes on, at the time it is now.
    pub fn resume(&mut self, at: HostId) {
        self.hosts[at].paused = false;
        self.net.freeze(at, false);
    }

    /// Sets the speed of a machine's clock.
    pub fn set_rate(&mut self, at: HostId, rate: f64) {
        self.hosts[at].rate = rate;
    }

    /// Sets a machine's clock forward at once.
    pub fn jump(&mut self, at: HostId, by: Duration) {
        let host = &mut self.hosts[at];
        if let Some(runtime) = &host.runtime {
            runtime.block_on(tokio::time::advance(by));
            host.elapsed += by;
        }
    }

    /// The member on a machine, once it has started.
    pub fn member(&self, at: usize) -> Option<Arc<Member>> {
        self.hosts[at].member.lock().clone()
    }

    /// Who leads, in the newest term that anybody running knows of.
    pub fn leader(&self) -> Option<usize> {
        let leads = |at: &usize| {
            let member = self.member(*at).filter(|member| member.is_leader() && !self.hosts[*at].paused)?;
            Some((member.term(), *at))
        };
        (0..self.members).filter_map(|at| leads(&at)).max().map(|(_, at)| at)
    }

    /// One tick of everything.
    pub fn step(&mut self) {
        self.now += TICK;
        self.net.advance(self.now);
        for at in 0..self.hosts.len() {
            self.step_host(at);
        }
    }

    fn step_host(&mut self, at: HostId) {
        let host = &mut self.hosts[at];
        let (Some(runtime), Some(origin)) = (&host.runtime, host.origin) else { return };
        let passes = TICK.mul_f64(host.rate);
        if host.paused {
            host.elapsed += passes;
            return;
        }
        host.elapsed += passes;
        let target = origin + host.elapsed;
        runtime.block_on(async move {
            let behind = target.saturating_duration_since(Instant::now());
            if behind > TICK * 2 {
                // It was paused: its clock has moved on at once, not timer by timer.
                tokio::time::advance(behind - TICK).await;
            }
            tokio::time::sleep_until(target).await;
        });
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for at in 0..self.hosts.len() {
            self.end(at);
        }
    }
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &target)?,
            false => match std::fs::copy(entry.path(), target) {
                // The database removes in the background what it needs no more.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                copied => drop(copied?),
            },
        }
    }
    Ok(())
}
