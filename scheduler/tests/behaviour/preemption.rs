//! Who has to go, on which node, and what is said when nobody can.

use super::*;

/// A pod on a node with a priority and CPU, labelled with its name.
fn running(bed: &mut Bed, name: &str, node: &str, priority: i32, cpu: &str, start: &str) -> PodInput {
    let pod = json!({"metadata": {"labels": {"name": name}}, "spec": {"nodeName": node, "priority": priority},
        "status": {"startTime": start}});
    bed.pod(name, and(requests(json!({"cpu": cpu})), pod))
}

fn important(cpu: &str) -> Value {
    and(requests(json!({"cpu": cpu})), json!({"spec": {"priority": 100}}))
}

const EARLY: &str = "2026-01-01T00:00:00Z";
const LATE: &str = "2026-01-02T00:00:00Z";

#[test]
fn the_least_important_pods_that_make_room_go() {
    let mut bed = Bed::new();
    bed.node("a", json!({}));
    running(&mut bed, "low", "a", 1, "2", EARLY);
    running(&mut bed, "middle", "a", 5, "2", EARLY);
    let pod = bed.pod("p", important("2"));
    assert_eq!(bed.step(), Outcome::Preempting(vec!["low".to_owned()], "a".to_owned()));
    let uid = scheduler::core::cluster::Uid::new(&pod.uid);
    assert!(bed.core.cluster.nominated_node(uid).is_some());
}

#[test]
fn the_node_with_the_least_loss_is_chosen() {
    type Pods = &'static [(&'static str, i32, &'static str, &'static str)];
    let cases: [(Pods, Pods, &str); 4] = [
        (&[("a1", 5, "4", EARLY)], &[("b1", 1, "4", EARLY)], "b"),
        (&[("a1", 1, "2", EARLY), ("a2", 1, "2", EARLY)], &[("b1", 1, "4", EARLY)], "b"),
        (&[("a1", 1, "4", EARLY)], &[("b1", 1, "4", LATE)], "b"),
        (
            &[("a1", 5, "3", EARLY), ("a2", 1, "1", EARLY)],
            &[("b1", 5, "3", EARLY), ("b2", 4, "1", EARLY)],
            "a",
        ),
    ];
    for (on_a, on_b, expected) in cases {
        let mut bed = Bed::new();
        for (node, pods) in [("a", on_a), ("b", on_b)] {
            bed.node(node, json!({}));
            for (name, priority, cpu, start) in pods {
                running(&mut bed, name, node, *priority, cpu, start);
            }
        }
        bed.pod("p", important("4"));
        let outcome = bed.step();
        assert!(
            matches!(&outcome, Outcome::Preempting(_, node) if node == expected),
            "{on_a:?} {on_b:?}: {outcome:?}"
        );
    }
}

#[test]
fn budgets_are_spared_where_possible() {
    let mut bed = Bed::new();
    for node in ["a", "b"] {
        bed.node(node, json!({}));
    }
    running(&mut bed, "guarded", "a", 1, "4", EARLY);
    running(&mut bed, "free", "b", 5, "4", EARLY);
    bed.give::<wire::Budget>(json!({
        "metadata": {"name": "b", "namespace": "ns"},
        "spec": {"selector": {"matchLabels": {"name": "guarded"}}}, "status": {"disruptionsAllowed": 0},
    }));
    bed.pod("p", important("4"));
    assert_eq!(bed.step(), Outcome::Preempting(vec!["free".to_owned()], "b".to_owned()));
}

#[test]
fn pods_that_never_preempt_say_so() {
    let mut bed = Bed::new();
    bed.node("a", json!({}));
    running(&mut bed, "low", "a", 1, "4", EARLY);
    bed.pod("p", and(important("4"), json!({"spec": {"preemptionPolicy": "Never"}})));
    let message = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never.";
    assert_eq!(bed.step(), Outcome::Refused(message.to_owned()));
}

#[test]
fn the_preemptor_takes_its_place_once_the_victims_are_gone() {
    let mut bed = Bed::new();
    bed.node("a", json!({}));
    let victim = running(&mut bed, "low", "a", 1, "4", EARLY);
    let pod = bed.pod("p", important("4"));
    let commands = bed.commands();
    let victims = commands
        .iter()
        .find_map(|c| match c {
            Command::Preempt { victims, .. } => Some(victims.clone()),
            _ => None,
        })
        .expect("a preemption");
    bed.pod("rival", and(requests(json!({"cpu": "1"})), json!({"spec": {"priority": 50}})));
    bed.delete(&victim);
    assert!(matches!(bed.step(), Outcome::Refused(_)), "the nominated pod's place is kept from the rival");
    bed.core.preemption_done(&pod.uid, &victims, false, bed.now);
    assert_eq!(bed.step(), Outcome::Bound("a".to_owned()));
    assert!(bed.core.cluster.find_pod(scheduler::core::cluster::Uid::new(&pod.uid)).is_some());
}

#[test]
fn a_terminating_victim_is_waited_for() {
    let mut bed = Bed::new();
    bed.node("a", json!({}));
    running(&mut bed, "other", "a", 1, "2", EARLY);
    let leaving = json!({"metadata": {"deletionTimestamp": LATE}, "spec": {"nodeName": "a", "priority": 1},
        "status": {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]}});
    bed.pod("leaving", and(requests(json!({"cpu": "2"})), leaving));
    bed.pod("p", and(important("4"), json!({"status": {"nominatedNodeName": "a"}})));
    let said = "preemption: not eligible due to a terminating pod on the nominated node.";
    assert!(matches!(bed.step(), Outcome::Refused(m) if m.ends_with(said)));
}
