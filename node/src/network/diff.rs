//! The difference between what should be in the kernel and what is. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::plan::{Mac, Route, Wanted};

/// What the kernel holds of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    /// Routes that carry our protocol number.
    pub routes: BTreeSet<Route>,
    /// Permanent neighbours on the overlay.
    pub neighbours: BTreeMap<IpAddr, Mac>,
    /// Permanent forwarding entries on the overlay.
    pub forwards: BTreeMap<Mac, IpAddr>,
}

/// One change. Additions replace what is there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Command {
    /// Remove a route.
    DeleteRoute(Route),
    /// Remove a neighbour.
    DeleteNeighbour(IpAddr, Mac),
    /// Remove a forwarding entry.
    DeleteForward(Mac, IpAddr),
    /// Add or replace a forwarding entry.
    PutForward(Mac, IpAddr),
    /// Add or replace a neighbour.
    PutNeighbour(IpAddr, Mac),
    /// Add or replace a route.
    PutRoute(Route),
}

/// The commands from `actual` to `wanted`: an entry exists before a route needs it, and after no route needs it.
pub fn commands(actual: &Actual, wanted: &Wanted) -> Vec<Command> {
    let mut out = Vec::new();
    let missing = wanted.routes.difference(&actual.routes);
    let replaced: BTreeSet<_> = missing.clone().map(|route| route.to).collect();
    // The kernel replaces a route to the same range by itself; removing it first would cut traffic.
    let gone = actual.routes.difference(&wanted.routes).filter(|route| !replaced.contains(&route.to));
    out.extend(gone.copied().map(Command::DeleteRoute));
    for (ip, mac) in &actual.neighbours {
        if !wanted.neighbours.contains_key(ip) {
            out.push(Command::DeleteNeighbour(*ip, *mac));
        }
    }
    for (mac, ip) in &actual.forwards {
        if wanted.forwards.get(mac) != Some(ip) {
            out.push(Command::DeleteForward(*mac, *ip));
        }
    }
    for (mac, ip) in &wanted.forwards {
        if actual.forwards.get(mac) != Some(ip) {
            out.push(Command::PutForward(*mac, *ip));
        }
    }
    for (ip, mac) in &wanted.neighbours {
        if actual.neighbours.get(ip) != Some(mac) {
            out.push(Command::PutNeighbour(*ip, *mac));
        }
    }
    out.extend(missing.copied().map(Command::PutRoute));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::plan::Device;

    fn route(to: &str, via: &str) -> Route {
        Route {
            to: to.parse().expect("a range"),
            via: via.parse().expect("an address"),
            device: Device::Link(2),
        }
    }

    #[test]
    fn only_differences_become_commands() {
        let (stays, moves, goes, comes) = (
            route("10.1.1.0/24", "192.168.1.2"),
            route("10.1.2.0/24", "192.168.1.3"),
            route("10.1.3.0/24", "192.168.1.4"),
            route("10.1.4.0/24", "192.168.1.5"),
        );
        let moved = route("10.1.2.0/24", "192.168.1.9");
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let (a, b) = ([1; 6], [2; 6]);
        let actual = Actual {
            routes: BTreeSet::from([stays, moves, goes]),
            neighbours: BTreeMap::from([(ip("10.1.9.0"), a)]),
            forwards: BTreeMap::from([(a, ip("192.168.9.1")), (b, ip("192.168.9.2"))]),
        };
        let wanted = Wanted {
            routes: BTreeSet::from([stays, moved, comes]),
            neighbours: BTreeMap::new(),
            forwards: BTreeMap::from([(b, ip("192.168.9.3"))]),
            overlay: None,
        };
        assert_eq!(
            commands(&actual, &wanted),
            [
                Command::DeleteRoute(goes),
                Command::DeleteNeighbour(ip("10.1.9.0"), a),
                Command::DeleteForward(a, ip("192.168.9.1")),
                Command::DeleteForward(b, ip("192.168.9.2")),
                Command::PutForward(b, ip("192.168.9.3")),
                Command::PutRoute(moved),
                Command::PutRoute(comes),
            ]
        );
        let reached = Actual {
            routes: wanted.routes.clone(),
            neighbours: wanted.neighbours.clone(),
            forwards: wanted.forwards.clone(),
        };
        assert_eq!(commands(&reached, &wanted), []);
    }
}
