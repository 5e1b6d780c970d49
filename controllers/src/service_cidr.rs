//! Keeps a ServiceCIDR until no service address depends on it alone: finalizer, Ready condition, deletion. Addresses
//! are asked for only while one is being deleted; nothing is kept of them.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use serde_json::{Value, json};

use crate::meta::{has_finalizer, is_terminating, name};
use crate::runtime::{
    Action, Answer, Ask, Context, Controller, Failure, Gvr, Key, Plan, ReconcileError, Store, Wiring, clock,
};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// Who makes the addresses that count: upstream's name, and what our API server wrote up to 0.1.
const MANAGED_BY: [&str; 2] = ["ipallocator.k8s.io", "ipallocator"];
/// Allocators of other API servers may still be giving out addresses for so long after the deletion was asked for.
const GRACE: Duration = Duration::from_secs(10);
/// How soon a blocked deletion is looked at again.
const BLOCKED: Duration = Duration::from_secs(5);
const READY: &str = "Kubernetes Service CIDR is ready";
const BLOCKED_TEXT: &str =
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";

/// What keeps a range that is being deleted.
enum Dependence {
    /// Nothing: each of its addresses is in another range too, or there are none.
    None,
    /// Addresses that are in no other range.
    Addresses,
    /// This must be known first.
    Ask(Ask),
    /// It cannot be known now.
    Unknown(Failure),
}

struct ServiceCidrs {
    cidrs: Store<ServiceCIDR>,
}

fn ranges(cidr: &ServiceCIDR) -> Vec<IpNet> {
    let listed = cidr.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    listed.filter_map(|text| text.parse().ok()).collect()
}

/// Builds the loop.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let known = wiring.store::<ServiceCIDR>();
    let cidrs = wiring.on::<ServiceCIDR>(move |change, queue| {
        let Some(cidr) = change.latest() else { return };
        queue.add(Key::of(cidr.as_ref()));
        // One that comes or goes may free, or block, those it overlaps.
        let own = ranges(cidr);
        let overlaps = |other: &ServiceCIDR| {
            ranges(other)
                .iter()
                .any(|a| own.iter().any(|b| a.contains(&b.network()) || b.contains(&a.network())))
        };
        known
            .all()
            .iter()
            .filter(|other| overlaps(other))
            .for_each(|other| queue.add(Key::of(other.as_ref())));
    });
    Box::new(ServiceCidrs { cidrs })
}

impl Controller for ServiceCidrs {
    fn reconcile(&self, key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let Some(cidr) = self.cidrs.get(key) else { return Ok(plan) };
        if !is_terminating(cidr.as_ref()) {
            if !has_finalizer(&cidr.metadata, FINALIZER) {
                plan.act(finalizers(&cidr, |list| list.push(FINALIZER.into())));
            }
            condition(&cidr, "True", "", READY, context).into_iter().for_each(|action| plan.act(action));
            return Ok(plan);
        }
        if !has_finalizer(&cidr.metadata, FINALIZER) {
            return Ok(plan);
        }
        match self.dependence(&cidr, context) {
            Dependence::None => {}
            Dependence::Ask(ask) => return Ok(plan.ask(ask)),
            Dependence::Unknown(failure) => {
                plan.problem = Some(failure);
                return Ok(plan);
            }
            Dependence::Addresses => {
                let blocked = condition(&cidr, "False", "Terminating", BLOCKED_TEXT, context);
                blocked.into_iter().for_each(|action| plan.act(action));
                plan.again_after(BLOCKED);
                return Ok(plan);
            }
        }
        let asked_at = cidr.metadata.deletion_timestamp.as_ref().map_or(context.now, |at| at.0);
        let left = clock::until(clock::add(asked_at, GRACE), context.now);
        if left.is_zero() {
            plan.act(finalizers(&cidr, |list| list.retain(|have| have != FINALIZER)));
        } else {
            plan.again_after(left);
        }
        Ok(plan)
    }
}

impl ServiceCidrs {
    fn dependence(&self, cidr: &ServiceCIDR, context: &Context) -> Dependence {
        let all = self.cidrs.all();
        let others = all.iter().filter(|one| name(one.as_ref()) != name(cidr));
        let others: Vec<IpNet> = others.flat_map(|one| ranges(one)).collect();
        let own = ranges(cidr);
        if own.iter().all(|range| others.iter().any(|other| other.contains(range))) {
            return Dependence::None;
        }
        let ask = Ask::Meta(format!("{}?limit=0", Gvr::of::<IPAddress>().collection("")));
        let depends = |address: &IpAddr| {
            own.iter().any(|range| range.contains(address))
                && !others.iter().any(|other| other.contains(address))
        };
        match context.answer(&ask) {
            Some(Answer::Json(list)) if !addresses(list).any(|address| depends(&address)) => Dependence::None,
            Some(Answer::Failed(failure)) => Dependence::Unknown(failure.clone()),
            Some(_) => Dependence::Addresses,
            None => Dependence::Ask(ask),
        }
    }
}

fn addresses(list: &Value) -> impl Iterator<Item = IpAddr> {
    let items = list["items"].as_array().into_iter().flatten();
    let managed = items.filter(|item| {
        let by = item["metadata"]["labels"]["ipaddress.kubernetes.io/managed-by"].as_str();
        by.is_some_and(|by| MANAGED_BY.contains(&by))
    });
    managed.filter_map(|item| item["metadata"]["name"].as_str()?.parse().ok())
}

fn finalizers(cidr: &ServiceCIDR, change: impl FnOnce(&mut Vec<String>)) -> Action {
    let mut list = cidr.metadata.finalizers.clone().unwrap_or_default();
    change(&mut list);
    let meta = json!({"uid": cidr.metadata.uid, "resourceVersion": cidr.metadata.resource_version, "finalizers": list});
    Action::merge(cidr, json!({"metadata": meta})).tolerating(&[404])
}

/// The Ready condition, where it differs.
fn condition(
    cidr: &ServiceCIDR,
    status: &str,
    reason: &str,
    text: &str,
    context: &Context,
) -> Option<Action> {
    let have = cidr.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut others: Vec<_> =
        have.clone().filter(|have| have.type_ != "Ready").map(|have| json!(have)).collect();
    let current = have.clone().find(|have| have.type_ == "Ready");
    if current.is_some_and(|have| have.status == status && have.reason == reason && have.message == text) {
        return None;
    }
    let since = current.filter(|have| have.status == status).map(|have| have.last_transition_time.0);
    let since = machinery::time::format_time(since.unwrap_or(context.now));
    others.push(json!({"type": "Ready", "status": status, "reason": reason, "message": text, "lastTransitionTime": since}));
    Some(Action::merge_status(cidr, json!({"status": {"conditions": others}})).tolerating(&[404]))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{FINALIZER, MANAGED_BY, READY};
    use crate::testing::crash::check_crashes;
    use crate::testing::model::Model;
    use crate::testing::world::{Scenario, World};
    use crate::testing::{Case, check};

    fn cidr(name: &str, range: &str, more: Value) -> Value {
        let mut value =
            json!({"kind": "ServiceCIDR", "metadata": {"name": name}, "spec": {"cidrs": [range]}});
        more.as_object().into_iter().flatten().for_each(|(k, v)| {
            if k == "status" { value["status"] = v.clone() } else { value["metadata"][k] = v.clone() }
        });
        value
    }

    fn address(ip: &str, by: &str) -> Value {
        json!({"kind": "IPAddress", "metadata": {"name": ip, "labels": {"ipaddress.kubernetes.io/managed-by": by}},
            "spec": {"parentRef": {"name": "s", "resource": "services"}}})
    }

    #[test]
    fn cases() {
        let path = "/apis/networking.k8s.io/v1/servicecidrs/a";
        let ready = || {
            let condition = json!({"type": "Ready", "status": "True", "reason": "", "message": READY, "lastTransitionTime": crate::testing::NOW});
            json!({"finalizers": [FINALIZER], "status": {"conditions": [condition]}})
        };
        let going = |at: &str| json!({"finalizers": [FINALIZER], "deletionTimestamp": at});
        let one = |more: Value| [cidr("a", "10.0.0.0/24", more)];
        check(super::build, "a", &one(json!({})), &format!("patch {path}\npatch {path}/status"));
        check(super::build, "a", &one(ready()), "");
        assert_eq!(Case::new(super::build, &one(going(crate::testing::NOW))).plan("a").asks.len(), 1);
        let within = |at: &str| [cidr("a", "10.0.0.0/24", going(at)), cidr("b", "10.0.0.0/16", json!({}))];
        check(super::build, "a", &within(crate::testing::NOW), "");
        check(super::build, "a", &within("2026-06-01T11:00:00Z"), &format!("patch {path}"));
    }

    #[test]
    fn a_range_goes_after_its_last_address_whatever_dies() {
        for by in MANAGED_BY {
            goes_after_its_last_address(by);
        }
    }

    fn goes_after_its_last_address(by: &str) {
        let objects = [cidr("a", "10.0.0.0/24", json!({})), address("10.0.0.7", by), address("10.9.0.1", by)];
        let mut scenario = Scenario::new(&[super::build], &objects);
        let delete: fn(&mut Model) = |model| model.remove("ServiceCIDR", "", "a", None);
        scenario.horizon = std::time::Duration::from_secs(60);
        scenario.steps = vec![delete];
        {
            let mut world = World::start(&scenario, None, false);
            world.run();
            let model = world.shared.model.lock();
            assert_eq!(model.all("ServiceCIDR")[0]["status"]["conditions"][0]["reason"], "Terminating");
        }
        scenario.steps.push(|model| model.remove("IPAddress", "", "10.0.0.7", None));
        let mut world = World::start(&scenario, None, false);
        assert!(world.run().shared.model.lock().all("ServiceCIDR").is_empty());
        check_crashes(&scenario);
    }
}
