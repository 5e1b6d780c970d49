//! Where the servers live: each in a network namespace of its own behind a bridge, or, without root, on loopback
//! addresses, where nothing can be cut off.

use std::net::Ipv4Addr;
use std::process::Command;

use super::common::skip;
use nix::sched::{CloneFlags, unshare};

/// Named namespaces are the machine's; names hold the process's id so that two runs do not meet.
pub struct Ground {
    namespaces: Vec<String>,
    net: u8,
}

impl Ground {
    /// Moves this thread, and all threads and processes it starts from now on, into a network namespace where the bridge
    /// is. `net` keeps the clusters of several tests apart.
    fn enter(servers: u8, net: u8) -> Self {
        if !nix::unistd::geteuid().is_root() {
            skip("cutting off needs network namespaces, and this user is not root");
            return Ground { namespaces: Vec::new(), net };
        }
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["link", "add", "br0", "type", "bridge"]);
        let mut ground = Ground { namespaces: Vec::new(), net };
        run("ip", &["address", "add", &format!("{}/24", ground.hub()), "dev", "br0"]);
        run("ip", &["link", "set", "br0", "up"]);
        for host in 1..=servers {
            let name = format!("qdtest-{}-{net}-{host}", std::process::id());
            run("ip", &["netns", "add", &name]);
            ground.namespaces.push(name.clone());
            let (plug, own) = (plug(host), format!("{}/24", ground.address(host)));
            run("ip", &["link", "add", &plug, "type", "veth", "peer", "name", "eth0", "netns", &name]);
            run("ip", &["link", "set", &plug, "master", "br0", "up"]);
            run("ip", &["-n", &name, "address", "add", &own, "dev", "eth0"]);
            run("ip", &["-n", &name, "link", "set", "eth0", "up"]);
            run("ip", &["-n", &name, "link", "set", "lo", "up"]);
        }
        ground
    }

    pub fn can_cut(&self) -> bool {
        !self.namespaces.is_empty()
    }

    pub fn address(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(if self.can_cut() { 10 } else { 127 }, 77, self.net, host)
    }

    /// Where this thread itself is, beside the servers.
    pub fn hub(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.net, 254)
    }

    /// What a server's command line starts with.
    pub fn prefix(&self, host: u8) -> Vec<String> {
        let Some(name) = self.namespaces.get(usize::from(host) - 1) else { return Vec::new() };
        ["ip", "netns", "exec", name].map(str::to_owned).to_vec()
    }

    /// Pulls a server's plug.
    pub fn cut(&self, host: u8) {
        run("ip", &["link", "set", &plug(host), "down"]);
    }

    /// Puts it back.
    pub fn mend(&self, host: u8) {
        run("ip", &["link", "set", &plug(host), "up"]);
    }
}

/// Runs a test on its ground, in a thread and an async runtime that end with it.
pub fn on_ground<F: Future<Output = ()>>(
    servers: u8,
    net: u8,
    test: impl FnOnce(Ground) -> F + Send + 'static,
) {
    let thread = std::thread::spawn(move || {
        let ground = Ground::enter(servers, net);
        tokio::runtime::Runtime::new().expect("a runtime").block_on(test(ground));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for name in &self.namespaces {
            // One that is gone already is what was wanted.
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

fn plug(host: u8) -> String {
    format!("plug{host}")
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().expect("the program runs");
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}
