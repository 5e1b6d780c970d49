//! One row per rule: a cluster, a pod, and the message or node that follows.

use super::*;

const HELPLESS: &str = "no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
const NO_VICTIMS: &str = "no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";

/// One node `a` with `node`, one pod with `pod`: the refusal before preemption's part, or none.
fn check(node: Value, pod: Value, expected: Option<(&str, &str)>) {
    let mut bed = Bed::new();
    bed.node("a", node);
    bed.pod("p", pod.clone());
    let outcome = bed.step();
    match expected {
        None => assert_eq!(outcome, Outcome::Bound("a".to_owned()), "{pod}"),
        Some((reason, preemption)) => {
            let message = format!("0/1 nodes are available: 1 {reason}. {preemption}");
            assert_eq!(outcome, Outcome::Refused(message), "{pod}");
        }
    }
}

#[test]
fn no_nodes_have_their_own_message() {
    let mut bed = Bed::new();
    bed.pod("p", json!({}));
    assert_eq!(bed.step(), Outcome::Refused("no nodes available to schedule pods".to_owned()));
}

#[test]
fn cordoned_nodes_are_refused_unless_tolerated() {
    let cordoned = || json!({"spec": {"unschedulable": true}});
    check(cordoned(), json!({}), Some(("node(s) were unschedulable", HELPLESS)));
    let key = "node.kubernetes.io/unschedulable";
    check(cordoned(), json!({"spec": {"tolerations": [{"key": key, "operator": "Exists"}]}}), None);
}

#[test]
fn taints_are_refused_unless_tolerated() {
    let tainted = || json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}});
    check(tainted(), json!({}), Some(("node(s) had untolerated taint(s)", HELPLESS)));
    check(tainted(), json!({"spec": {"tolerations": [{"key": "k", "value": "v"}]}}), None);
    check(json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}}), json!({}), None);
}

#[test]
fn node_selectors_and_affinity_are_kept() {
    let refused = Some(("node(s) didn't match Pod's node affinity/selector", HELPLESS));
    check(json!({}), json!({"spec": {"nodeSelector": {"disk": "ssd"}}}), refused);
    let labelled = || json!({"metadata": {"labels": {"disk": "ssd"}}});
    check(labelled(), json!({"spec": {"nodeSelector": {"disk": "ssd"}}}), None);
    let terms = |terms: Value| {
        let required = json!({"nodeSelectorTerms": terms});
        json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}})
    };
    check(
        labelled(),
        terms(json!([{"matchExpressions": [{"key": "disk", "operator": "NotIn", "values": ["ssd"]}]}])),
        refused,
    );
    check(
        labelled(),
        terms(json!([{}, {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}])),
        None,
    );
    check(labelled(), terms(json!([])), refused);
}

#[test]
fn fields_name_nodes() {
    let field = |names: &[&str]| {
        let fields: Vec<Value> =
            names.iter().map(|n| json!({"key": "metadata.name", "operator": "In", "values": [n]})).collect();
        let required = json!({"nodeSelectorTerms": [{"matchFields": fields}]});
        json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}})
    };
    check(json!({}), field(&["a"]), None);
    check(json!({}), field(&["b"]), Some(("node(s) didn't satisfy plugin(s) [NodeAffinity]", HELPLESS)));
    let mut bed = Bed::new();
    bed.node("a", json!({}));
    bed.pod("p", field(&["a", "b"]));
    let message = "0/1 nodes are available: pod affinity terms conflict. not found";
    assert_eq!(bed.step(), Outcome::Refused(message.to_owned()));
}

#[test]
fn all_missing_resources_are_told() {
    let wants = |amounts| requests(amounts);
    check(json!({}), wants(json!({"cpu": "5"})), Some(("Insufficient cpu", HELPLESS)));
    let gpu = Some(("Insufficient example.com/gpu, 1 Insufficient memory", HELPLESS));
    check(json!({}), wants(json!({"memory": "9Gi", "example.com/gpu": "1"})), gpu);
    check(json!({"status": {"allocatable": {"pods": "0"}}}), json!({}), Some(("Too many pods", NO_VICTIMS)));
    check(
        json!({"status": {"allocatable": {"example.com/gpu": "1"}}}),
        wants(json!({"example.com/gpu": "1"})),
        None,
    );
}

#[test]
fn host_ports_conflict_on_overlapping_addresses() {
    let port = |ip: &str, protocol: &str| {
        json!({"spec": {"containers": [{"name": "c", "image": "i",
            "ports": [{"hostPort": 80, "hostIP": ip, "protocol": protocol}]}]}})
    };
    for (first, second, conflict) in [
        (port("", "TCP"), port("10.0.0.1", "TCP"), true),
        (port("10.0.0.2", "TCP"), port("10.0.0.1", "TCP"), false),
        (port("", "UDP"), port("", "TCP"), false),
    ] {
        let mut bed = Bed::new();
        bed.node("a", json!({}));
        bed.pod("first", and(first, json!({"spec": {"nodeName": "a"}})));
        bed.pod("second", second);
        let refused = matches!(bed.step(), Outcome::Refused(m) if m.contains("didn't have free ports"));
        assert_eq!(refused, conflict);
    }
}

#[test]
fn disks_are_mounted_once() {
    let disk = |read_only: bool| json!({"spec": {"volumes": [{"name": "v", "gcePersistentDisk": {"pdName": "d", "readOnly": read_only}}]}});
    for (first, second, refused) in [(false, false, true), (true, false, true), (true, true, false)] {
        let mut bed = Bed::new();
        bed.node("a", json!({}));
        bed.pod("first", and(disk(first), json!({"spec": {"nodeName": "a"}})));
        bed.pod("second", disk(second));
        let outcome = bed.step();
        assert_eq!(
            matches!(&outcome, Outcome::Refused(m) if m.contains("had no available disk")),
            refused,
            "{outcome:?}"
        );
    }
}

fn spread(skew: i32, more: Value) -> Value {
    let constraint = json!({"topologyKey": "topology.kubernetes.io/zone", "maxSkew": skew,
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "x"}}});
    let constraint = and(constraint, more);
    json!({"metadata": {"labels": {"app": "x"}}, "spec": {"topologySpreadConstraints": [constraint]}})
}

#[test]
fn hard_spreading_keeps_the_skew() {
    let mut bed = Bed::new();
    bed.node("a/z1", json!({}));
    bed.node("b/z2", json!({}));
    let bound = |node: &str| and(spread(1, json!({})), json!({"spec": {"nodeName": node}}));
    bed.pod("one", bound("a"));
    bed.pod("p", spread(1, json!({})));
    assert_eq!(bed.step(), Outcome::Bound("b".to_owned()));
    bed.node("c/z3", json!({"spec": {"unschedulable": true}}));
    bed.pod("q", spread(1, json!({})));
    let refused = matches!(bed.step(), Outcome::Refused(m)
        if m.contains("2 node(s) didn't match pod topology spread constraints"));
    assert!(refused, "the empty third zone holds the others at one");
}

#[test]
fn min_domains_counts_missing_domains_as_empty() {
    for (min_domains, refused) in [(1, false), (2, true)] {
        let mut bed = Bed::new();
        bed.node("a", json!({}));
        bed.pod("one", and(spread(1, json!({})), json!({"spec": {"nodeName": "a"}})));
        bed.pod("p", spread(1, json!({"minDomains": min_domains})));
        assert_eq!(matches!(bed.step(), Outcome::Refused(_)), refused);
    }
}

#[test]
fn match_label_keys_narrow_the_count_to_the_pods_own_values() {
    let pod = |hash: &str| {
        and(spread(1, json!({"matchLabelKeys": ["hash"]})), json!({"metadata": {"labels": {"hash": hash}}}))
    };
    for (hash, node) in [("new", None), ("old", Some("b"))] {
        let mut bed = Bed::new();
        bed.node("a/z1", json!({}));
        bed.node("b/z2", json!({}));
        bed.pod("one", and(pod("old"), json!({"spec": {"nodeName": "a"}})));
        bed.pod("p", pod(hash));
        let outcome = bed.step();
        assert!(node.is_none_or(|n| outcome == Outcome::Bound(n.to_owned())), "{hash}: {outcome:?}");
        assert!(matches!(outcome, Outcome::Bound(_)));
    }
}

fn affinity(kind: &str, key: &str) -> Value {
    let term = json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": "x"}}});
    json!({"metadata": {"labels": {"app": "x"}},
        "spec": {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}})
}

#[test]
fn the_first_pod_of_a_series_may_start_anywhere_and_the_others_follow() {
    let mut bed = Bed::new();
    for node in ["a/z1", "b/z1", "c/z2"] {
        bed.node(node, json!({}));
    }
    bed.pod("first", affinity("podAffinity", "topology.kubernetes.io/zone"));
    let Outcome::Bound(first) = bed.step() else { panic!("the first pod fits") };
    for i in 0..6 {
        bed.pod(&format!("p{i}"), affinity("podAffinity", "topology.kubernetes.io/zone"));
        let Outcome::Bound(node) = bed.step() else { panic!("the others fit") };
        assert_eq!(node == "c", first == "c");
    }
}

#[test]
fn affinity_to_nobody_is_refused() {
    let mut lonely = affinity("podAffinity", "kubernetes.io/hostname");
    lonely["metadata"]["labels"] = json!({"app": "other"});
    check(json!({}), lonely, Some(("node(s) didn't match pod affinity rules", HELPLESS)));
}

#[test]
fn anti_affinity_holds_both_ways() {
    let hostname = "kubernetes.io/hostname";
    for (existing, incoming, reason) in [
        (
            json!({"metadata": {"labels": {"app": "x"}}}),
            affinity("podAntiAffinity", hostname),
            "pod anti-affinity rules",
        ),
        (
            affinity("podAntiAffinity", hostname),
            json!({"metadata": {"labels": {"app": "x"}}}),
            "existing pods anti-affinity",
        ),
    ] {
        let mut bed = Bed::new();
        bed.node("a", json!({}));
        bed.pod("existing", and(existing, json!({"spec": {"nodeName": "a"}})));
        bed.pod("p", incoming.clone());
        assert!(matches!(bed.step(), Outcome::Refused(m) if m.contains(reason)), "{reason}");
        bed.node("b", json!({}));
        bed.pod("q", incoming);
        assert_eq!(bed.step(), Outcome::Bound("b".to_owned()));
    }
}

#[test]
fn resource_claims_are_refused_openly() {
    let mut bed = Bed::new();
    bed.node("a", json!({}));
    bed.pod("p", json!({"spec": {"resourceClaims": [{"name": "gpu"}]}}));
    assert!(matches!(bed.step(), Outcome::Refused(m) if m.contains("resource claims are not supported")));
}

#[test]
fn pods_of_other_schedulers_are_left_alone() {
    let mut bed = Bed::new();
    bed.node("a", json!({}));
    bed.pod("p", json!({"spec": {"schedulerName": "mine"}}));
    assert_eq!(bed.step(), Outcome::Nothing);
}
