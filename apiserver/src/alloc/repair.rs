//! Puts allocations right that a crash, an update or an outdated cache left wrong: addresses nobody holds are given
//! back, addresses a service holds without their object get one.
//!
//! The plan is pure; the shell runs it now and then on one server at a time being enough, though any number may.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use machinery::status::StatusError;

use super::addresses::{self, MANAGED_BY, MANAGED_BY_BEFORE, belongs_to};
use super::allocators::Allocators;
use super::ports::PortSet;
use crate::contract::{ClusterWriter, Object};
use crate::kinds::json::{at, text};
use crate::kinds::service;

/// An address object younger than this may belong to a service whose write is still under way, seconds.
const GRACE_SECS: i64 = 60;

/// What has to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Addresses whose object nobody needs.
    pub release: Vec<String>,
    /// Addresses that a service (by its position) holds without an object.
    pub claim: Vec<(usize, String)>,
}

/// Compares services with address objects.
pub fn plan(services: &[Arc<Object>], held: &[Arc<Object>], now: Timestamp) -> Plan {
    let name = |object: &Object| text(object, &["metadata", "name"]).to_owned();
    let objects: BTreeSet<String> = held.iter().map(|address| name(address)).collect();
    let mut plan = Plan::default();
    for (index, service) in services.iter().enumerate() {
        let missing = service::addresses(service).into_iter().filter(|ip| !objects.contains(ip));
        plan.claim.extend(missing.map(|ip| (index, ip)));
    }
    for address in held.iter().filter(|address| is_ours(address) && !is_young(address, now)) {
        let ip = name(address);
        let needed =
            |service: &Arc<Object>| belongs_to(address, service) && service::addresses(service).contains(&ip);
        if !services.iter().any(needed) {
            plan.release.push(ip);
        }
    }
    plan
}

fn is_ours(address: &Object) -> bool {
    let by = at(address, &["metadata", "labels", "ipaddress.kubernetes.io/managed-by"]);
    by == MANAGED_BY || by == MANAGED_BY_BEFORE
}

fn is_young(address: &Object, now: Timestamp) -> bool {
    let made = text(address, &["metadata", "creationTimestamp"]).parse::<Timestamp>();
    made.is_ok_and(|made| now.as_second() - made.as_second() < GRACE_SECS)
}

/// Rounds that a port must be found without a service before it is given back: its write may be under way.
const LEAK_ROUNDS: u32 = 3;

/// What the comparisons have to remember: node ports without a service, and for how many rounds.
#[derive(Debug, Default)]
pub struct Leaks(BTreeMap<u16, u32>);

impl Leaks {
    /// Puts the set right: takes what services hold, gives back what has had no service for some rounds.
    fn repair(&mut self, set: &mut PortSet, used: &BTreeSet<u16>) {
        for port in used {
            // A port outside the range is held but cannot be claimed; it harms nobody.
            if !set.contains(*port) {
                set.claim_exact(*port).unwrap_or_default();
            }
        }
        let unused: Vec<u16> = set.taken().filter(|port| !used.contains(port)).collect();
        self.0.retain(|port, _| unused.contains(port));
        for port in unused {
            let rounds = self.0.entry(port).or_default();
            *rounds += 1;
            if *rounds >= LEAK_ROUNDS {
                set.release(port);
            }
        }
    }
}

/// Compares and repairs once; nothing where not all services are known, for what they hold would seem to be nobody's.
pub async fn run(cluster: &dyn ClusterWriter, allocators: &Allocators, leaks: &mut Leaks) {
    if let Err(error) = compare(cluster, allocators, leaks).await {
        tracing::warn!(%error, "cluster IPs and node ports could not be compared with the services");
    }
}

async fn compare(
    cluster: &dyn ClusterWriter,
    allocators: &Allocators,
    leaks: &mut Leaks,
) -> Result<(), StatusError> {
    let configured = allocators.configured();
    let services = cluster.list_current("", "services", "").await?;
    let used: BTreeSet<u16> = services.iter().flat_map(|s| service::node_ports(s)).collect();
    // The count of rounds is taken once, however often the swap is tried.
    let mut counted = Leaks(leaks.0.clone());
    let swapped = allocators
        .ports
        .change(|set| {
            counted = Leaks(leaks.0.clone());
            counted.repair(set, &used);
            Ok(())
        })
        .await;
    match swapped {
        Ok(()) => *leaks = counted,
        Err(error) => tracing::warn!(%error, "node ports could not be compared with the services"),
    }
    let held = cluster.list(addresses::GROUP, addresses::RESOURCE, "").await?;
    let plan = plan(&services, &held, Timestamp::now());
    for ip in &plan.release {
        tracing::info!(%ip, "giving back a cluster IP that no service holds");
        addresses::release(cluster, ip).await;
    }
    let networks = addresses::networks(cluster, configured).await?;
    for (index, ip) in &plan.claim {
        let Ok(address) = ip.parse() else { continue };
        if let Err(error) = addresses::claim_exact(cluster, &networks, &services[*index], address).await {
            tracing::warn!(%ip, %error, "a service holds a cluster IP that cannot be claimed for it");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alloc::{PortRange, ServiceNetworks};
    use crate::testing::{Silent, Veiled};
    use serde_json::json;

    #[test]
    fn ports_without_a_service_are_given_back_after_some_rounds() {
        let mut set = PortSet::new(PortRange { first: 10, last: 20 });
        set.claim_exact(11).expect("free");
        let (mut leaks, used) = (Leaks::default(), BTreeSet::from([12, 99]));
        for round in 1..=LEAK_ROUNDS {
            leaks.repair(&mut set, &used);
            assert_eq!(set.contains(11), round < LEAK_ROUNDS, "{round}");
        }
        assert_eq!(set.taken().collect::<Vec<_>>(), [12]);
        leaks.repair(&mut set, &used);
        assert!(leaks.0.is_empty());
    }

    #[tokio::test]
    async fn addresses_stay_while_the_services_are_not_known() {
        let address = json!({"metadata": {"name": "10.0.0.3",
            "labels": {"ipaddress.kubernetes.io/managed-by": MANAGED_BY}}});
        let networks = ServiceNetworks { networks: vec!["10.0.0.0/24".parse().expect("a network")] };
        let range = PortRange { first: 10, last: 20 };
        let allocators = Allocators::new(networks, range, Arc::new(Silent));
        for (hidden, expected) in [("services", &[][..]), ("", &["10.0.0.3"])] {
            let objects = vec![Arc::new(address.clone())];
            let cluster = Veiled { objects, hidden, is_readable: true.into(), ..Veiled::default() };
            run(&cluster, &allocators, &mut Leaks::default()).await;
            assert_eq!(*cluster.deleted.lock(), expected, "hidden: {hidden:?}");
        }
    }

    #[test]
    fn plans() {
        let service = |name: &str, ip: &str| {
            Arc::new(json!({"metadata": {"namespace": "n", "name": name}, "spec": {"clusterIPs": [ip]}}))
        };
        let address = |ip: &str, owner: &str, made: &str| {
            Arc::new(json!({
                "metadata": {"name": ip, "creationTimestamp": made,
                    "labels": {"ipaddress.kubernetes.io/managed-by": MANAGED_BY}},
                "spec": {"parentRef": {"resource": "services", "namespace": "n", "name": owner}}}))
        };
        let (old, new) = ("2026-01-01T00:00:00Z", "2026-01-01T00:59:30Z");
        let services = [service("a", "10.0.0.1"), service("b", "10.0.0.2"), service("h", "None")];
        let held = [
            address("10.0.0.1", "a", old),
            address("10.0.0.3", "gone", old),
            address("10.0.0.4", "soon", new),
        ];
        let plan = plan(&services, &held, "2026-01-01T01:00:00Z".parse().unwrap());
        assert_eq!(
            plan,
            Plan { release: vec!["10.0.0.3".to_owned()], claim: vec![(1, "10.0.0.2".to_owned())] }
        );
    }
}
