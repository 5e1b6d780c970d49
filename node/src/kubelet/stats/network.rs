//! Network interfaces and what went through them.

/// What went through a network interface in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets; 0 where only the runtime tells, which does not count them.
    pub packets: u64,
    /// Errors.
    pub errors: u64,
    /// Packets that were dropped; 0 where only the runtime tells.
    pub dropped: u64,
}

/// Traffic of one network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// What was received.
    pub rx: Traffic,
    /// What was sent.
    pub tx: Traffic,
}

/// Parses `/proc/net/dev`, without the loopback.
pub fn interfaces(text: &str) -> Vec<Interface> {
    let parse = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        // In each direction: bytes, packets, errors, drops, and four more.
        let n: Vec<u64> = counters.split_whitespace().filter_map(|c| c.parse().ok()).collect();
        let traffic = |first: usize| match *n.get(first..first + 4)? {
            [bytes, packets, errors, dropped] => Some(Traffic { bytes, packets, errors, dropped }),
            _ => None,
        };
        Some(Interface { name: name.trim().to_owned(), rx: traffic(0)?, tx: traffic(8)? })
    };
    text.lines().filter_map(parse).filter(|i| i.name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_interfaces() {
        let traffic = |bytes, packets, errors, dropped| Traffic { bytes, packets, errors, dropped };
        let check = |line: &str, expected: Option<(Traffic, Traffic)>| {
            let text = format!("Inter-|\n face |\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n{line}\n");
            let eth0 = expected.map(|(rx, tx)| Interface { name: "eth0".into(), rx, tx });
            assert_eq!(interfaces(&text), Vec::from_iter(eth0), "{line}");
        };
        let both = (traffic(10, 4, 2, 1), traffic(20, 5, 3, 6));
        check("  eth0: 10 4 2 1 0 0 0 0 20 5 3 6 0 0 0 0", Some(both));
        check("  eth0: 10 4 2 1 0 0 0 0 20", None);
        check("  eth0:", None);
    }
}
