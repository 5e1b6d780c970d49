//! Where members live: each in a network namespace of its own behind a bridge, or on loopback addresses.
//!
//! The harness itself moves into a namespace of its own first ([`Ground::namespaces`]), so that bridge, addresses and
//! rules exist only there and no packet can leave the machine.

use std::collections::BTreeSet;
use std::process::Command;

use super::proxy::Proxies;
use super::{Error, Result};

const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;
/// On loopback, members differ by address; their peers reach them through proxies at addresses beside theirs.
const LOOPBACK: [u8; 3] = [127, 213, 0];
const LOOPBACK_PROXIES: [u8; 3] = [127, 213, 1];
/// A narrow link, whose queue makes it a slow one as well.
const NARROW: [&str; 6] = ["rate", "1500kbit", "burst", "8kb", "latency", "300ms"];
/// Inside the harness's namespace.
const NETWORK: [u8; 3] = [10, 213, 0];
const HUB: u8 = 254;

/// The members' network.
#[derive(Clone, Debug)]
pub enum Ground {
    /// Named namespaces, to be removed at the end.
    Namespaces { prefix: String, members: usize },
    /// Loopback addresses; links can be cut only where there are proxies between members.
    Loopback { port_shift: u16, proxies: Option<Proxies> },
}

impl Ground {
    /// Moves this thread, and all threads it starts from now on, into a network namespace and a mount namespace of its
    /// own. To be called before the async runtime is built. Needs root.
    pub fn enter_own_namespace() -> Result<()> {
        use nix::mount::{MsFlags, mount};
        use nix::sched::CloneFlags;
        let failed = |errno| Error::Unsupported(format!("namespaces of its own: {errno}"));
        nix::sched::unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).map_err(failed)?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(failed)?;
        run(&["ip", "link", "set", "lo", "up"])
    }

    /// Lays a bridge and a namespace for each of at most `members` members. Call [`Ground::enter_own_namespace`] first.
    pub fn namespaces(members: usize) -> Result<Self> {
        let ground = Ground::Namespaces { prefix: format!("qdchaos-{}", std::process::id()), members };
        run(&["ip", "link", "add", "br0", "type", "bridge"])?;
        run(&["ip", "address", "add", &format!("{}/24", address(NETWORK, HUB)), "dev", "br0"])?;
        run(&["ip", "link", "set", "br0", "up"])?;
        for member in 0..members {
            ground.lay(member)?;
        }
        Ok(ground)
    }

    /// Addresses on loopback, members linked directly: for measurements and clients' tests, not for faults of links.
    /// Different `port_shift`s keep runs at the same time apart.
    pub fn loopback(port_shift: u16) -> Self {
        Ground::Loopback { port_shift, proxies: None }
    }

    /// For users who are not root: as [`Ground::loopback`], with proxies between members.
    pub fn proxied(port_shift: u16) -> Self {
        Ground::Loopback { port_shift, proxies: Some(Proxies::default()) }
    }

    /// Where links are proxies: these. An error where links are direct, if something is to be done to them.
    fn proxies(&self, is_needed: bool) -> Result<Option<&Proxies>> {
        match self {
            Ground::Loopback { proxies: None, .. } if is_needed => {
                Err(Error::Unsupported("links on loopback cannot be cut without proxies".into()))
            }
            Ground::Loopback { proxies, .. } => Ok(proxies.as_ref()),
            Ground::Namespaces { .. } => Ok(None),
        }
    }

    fn lay(&self, member: usize) -> Result<()> {
        let (name, host_end) = (self.namespace(member), format!("m{member}"));
        run(&["ip", "netns", "add", &name])?;
        run(&["ip", "link", "add", &host_end, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
        run(&["ip", "link", "set", &host_end, "master", "br0", "up"])?;
        let own = format!("{}/24", self.address(member));
        for args in [
            &["ip", "address", "add", &own, "dev", "eth0"][..],
            &["ip", "link", "set", "eth0", "up"],
            &["ip", "link", "set", "lo", "up"],
            &["nft", "add", "table", "inet", "chaos"],
            &["nft", "add", "chain", "inet", "chaos", "cut", "{ type filter hook input priority 0; }"],
            &["nft", "add", "chain", "inet", "chaos", "lose", "{ type filter hook input priority 1; }"],
        ] {
            run(&[&["ip", "netns", "exec", &name], args].concat())?;
        }
        Ok(())
    }

    pub fn has_namespaces(&self) -> bool {
        matches!(self, Ground::Namespaces { .. })
    }

    fn namespace(&self, member: usize) -> String {
        match self {
            Ground::Namespaces { prefix, .. } => format!("{prefix}-{member}"),
            Ground::Loopback { .. } => String::new(),
        }
    }

    fn address(&self, member: usize) -> String {
        let host = u8::try_from(member + 1).unwrap_or(u8::MAX);
        match self {
            Ground::Namespaces { .. } => address(NETWORK, host),
            Ground::Loopback { .. } => address(LOOPBACK, host),
        }
    }

    fn port(&self, port: u16) -> u16 {
        match self {
            Ground::Namespaces { .. } => port,
            Ground::Loopback { port_shift, .. } => port + port_shift,
        }
    }

    pub fn client_url(&self, member: usize) -> String {
        format!("http://{}:{}", self.address(member), self.port(CLIENT_PORT))
    }

    /// Where a member listens for its peers.
    pub fn peer_listen_url(&self, member: usize) -> String {
        format!("http://{}:{}", self.address(member), self.port(PEER_PORT))
    }

    /// Where its peers reach it.
    pub fn peer_url(&self, member: usize) -> String {
        match self {
            Ground::Namespaces { .. } => self.peer_listen_url(member),
            Ground::Loopback { proxies: None, .. } => self.peer_listen_url(member),
            Ground::Loopback { proxies: Some(_), .. } => format!("http://{}", self.proxy(member)),
        }
    }

    fn proxy(&self, member: usize) -> String {
        let host = u8::try_from(member + 1).unwrap_or(u8::MAX);
        format!("{}:{}", address(LOOPBACK_PROXIES, host), self.port(PEER_PORT))
    }

    /// What must run in this process before members start.
    pub async fn prepare(&self, members: usize) -> Result<()> {
        let Some(proxies) = self.proxies(false)? else { return Ok(()) };
        for member in 0..members {
            let parse = |text: &str| {
                text.parse().map_err(|_| Error::Unsupported(format!("{text} is no address with a port")))
            };
            let inside = self.peer_listen_url(member).replace("http://", "");
            proxies.stand_before(member, parse(&self.proxy(member))?, parse(&inside)?).await?;
        }
        Ok(())
    }

    /// A member runs now as this process.
    pub fn know(&self, member: usize, pid: u32) {
        if let Ground::Loopback { proxies: Some(proxies), .. } = self {
            proxies.know(member, pid);
        }
    }

    /// The command line that starts a member on its ground.
    pub fn command(&self, member: usize, program: &[String], flags: &[String]) -> Vec<String> {
        let enter = match self {
            Ground::Namespaces { .. } => vec!["ip", "netns", "exec"],
            Ground::Loopback { .. } => Vec::new(),
        };
        let mut command: Vec<String> = enter.into_iter().map(str::to_owned).collect();
        if self.has_namespaces() {
            command.push(self.namespace(member));
        }
        command.extend_from_slice(program);
        command.extend_from_slice(flags);
        command
    }

    /// Makes exactly these links deaf; all others hear.
    pub fn cut(&self, members: usize, cuts: &BTreeSet<(usize, usize)>) -> Result<()> {
        if let Some(proxies) = self.proxies(!cuts.is_empty())? {
            proxies.cut(cuts);
        }
        if !self.has_namespaces() {
            return Ok(());
        }
        self.rules(members, "cut", |to| {
            let from = cuts.iter().filter(|(_, deaf)| *deaf == to).map(|&(from, _)| self.address(from));
            from.map(|address| format!("ip saddr {address} drop")).collect()
        })
    }

    /// Loses a share of all packets between members; zero stops it. Clients are not touched.
    pub fn lose(&self, members: usize, percent: u32) -> Result<()> {
        if let Some(proxies) = self.proxies(percent > 0)? {
            proxies.lose(percent);
        }
        if !self.has_namespaces() {
            return Ok(());
        }
        self.rules(members, "lose", |_| match percent {
            0 => Vec::new(),
            percent => {
                let hub = address(NETWORK, HUB);
                vec![format!("ip saddr != {hub} numgen random mod 100 < {percent} drop")]
            }
        })
    }

    /// Makes all links slow, or as they were. In namespaces the members' links to clients are as narrow.
    pub fn slow(&self, members: usize, is_slow: bool) -> Result<()> {
        if let Some(proxies) = self.proxies(is_slow)? {
            proxies.slow(is_slow);
        }
        if !self.has_namespaces() {
            return Ok(());
        }
        for member in 0..members {
            let namespace = self.namespace(member);
            let tc =
                |args: &[&str]| run(&[&["ip", "netns", "exec", &namespace, "tc", "qdisc"], args].concat());
            match is_slow {
                true => tc(&[&["replace", "dev", "eth0", "root", "tbf"][..], &NARROW].concat())?,
                // There may be none.
                false => drop(tc(&["delete", "dev", "eth0", "root"])),
            }
        }
        Ok(())
    }

    /// Replaces a chain's rules in every member's namespace, each in one transaction.
    fn rules(&self, members: usize, chain: &str, rules: impl Fn(usize) -> Vec<String>) -> Result<()> {
        for member in 0..members {
            let mut script = format!("flush chain inet chaos {chain};");
            for rule in rules(member) {
                script.push_str(&format!(" add rule inet chaos {chain} {rule};"));
            }
            run(&["ip", "netns", "exec", &self.namespace(member), "nft", &script])?;
        }
        Ok(())
    }

    /// Removes what was made. The harness's own namespace goes with its process.
    pub fn clear(&self) -> Result<()> {
        if let Ground::Namespaces { members, .. } = self {
            for member in 0..*members {
                run(&["ip", "netns", "delete", &self.namespace(member)])?;
            }
        }
        Ok(())
    }
}

fn address(network: [u8; 3], host: u8) -> String {
    format!("{}.{}.{}.{host}", network[0], network[1], network[2])
}

fn run(command: &[&str]) -> Result<()> {
    let failed = |stderr: String| Error::Command { command: command.join(" "), stderr };
    let (program, args) = command.split_first().ok_or_else(|| failed("an empty command".into()))?;
    let output = Command::new(program).args(args).output().map_err(|error| failed(error.to_string()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}
