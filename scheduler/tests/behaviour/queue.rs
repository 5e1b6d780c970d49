//! Order, back-off, gates, hints and the return of failed bindings.

use super::*;

fn gate(names: &[&str]) -> Value {
    json!({"spec": {"schedulingGates": names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>()}})
}

#[test]
fn priority_comes_first_then_arrival() {
    let mut bed = Bed::new();
    for (name, priority) in [("early", 0), ("late", 0), ("important", 5)] {
        bed.pod(name, json!({"spec": {"priority": priority}}));
        bed.now += 1;
    }
    let order: Vec<String> =
        (0..3).filter_map(|_| bed.core.queue.pop(bed.now).map(|p| p.input.name.to_string())).collect();
    assert_eq!(order, ["important", "early", "late"]);
}

#[test]
fn gated_pods_wait_for_their_gates_only() {
    let mut bed = Bed::new();
    let pod = bed.pod("p", gate(&["a", "b"]));
    bed.node("n", json!({}));
    assert_eq!(bed.step(), Outcome::Nothing, "a new node opens no gate");
    assert_eq!(bed.core.queue.pending().gated, 1);
    let mut open = bed.input("p", json!({}));
    open.uid = pod.uid.clone();
    bed.core.apply(Intake::Pod(Box::new(open)), bed.now);
    assert_eq!(bed.step(), Outcome::Bound("n".to_owned()));
}

/// A pod that `first` refuses is woken by `event` if and only if `wakes`.
fn wakes(first: impl Fn(&mut Bed), pod: Value, event: impl Fn(&mut Bed), expected: bool) {
    let mut bed = Bed::new();
    first(&mut bed);
    bed.pod("p", pod.clone());
    assert!(matches!(bed.step(), Outcome::Refused(_)), "{pod}");
    assert_eq!(bed.core.queue.pending().unschedulable, 1);
    event(&mut bed);
    assert_eq!(bed.core.queue.pending().unschedulable == 0, expected, "{pod}");
}

#[test]
fn events_wake_the_pods_they_can_help() {
    let small = |bed: &mut Bed| bed.node("a", json!({}));
    let wants = || requests(json!({"cpu": "6"}));
    let node = |cpu: &'static str| {
        move |bed: &mut Bed| bed.node("b", json!({"status": {"allocatable": {"cpu": cpu}}}))
    };
    wakes(small, wants(), node("8"), true);
    wakes(small, wants(), node("5"), false);
    let grows = |cpu: &'static str| {
        move |bed: &mut Bed| bed.node("a", json!({"status": {"allocatable": {"cpu": cpu}}}))
    };
    wakes(small, wants(), grows("7"), true);
    wakes(small, wants(), grows("5"), false);
    wakes(small, wants(), |bed| bed.node("a", json!({"metadata": {"labels": {"x": "y"}}})), false);
    let selects = || json!({"spec": {"nodeSelector": {"x": "y"}}});
    wakes(small, selects(), |bed| bed.node("a", json!({"metadata": {"labels": {"x": "y"}}})), true);
    wakes(small, selects(), |bed| bed.node("a", json!({"metadata": {"labels": {"x": "z"}}})), false);
    wakes(small, selects(), |bed| drop(bed.pod("q", json!({"spec": {"nodeName": "a"}}))), false);
    let tainted =
        |bed: &mut Bed| bed.node("a", json!({"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}}));
    wakes(tainted, json!({}), small, true);
    let cordoned = |bed: &mut Bed| bed.node("a", json!({"spec": {"unschedulable": true}}));
    wakes(cordoned, json!({}), small, true);
}

#[test]
fn deleted_pods_wake_those_they_stood_in_the_way_of() {
    let mut bed = Bed::new();
    bed.node("a", json!({"status": {"allocatable": {"cpu": "1"}}}));
    let big = bed.pod("big", and(requests(json!({"cpu": "1"})), json!({"spec": {"nodeName": "a"}})));
    bed.pod("cpu", requests(json!({"cpu": "1"})));
    bed.pod("label", json!({"spec": {"nodeSelector": {"x": "y"}}}));
    assert!(matches!(bed.step(), Outcome::Refused(_)));
    assert!(matches!(bed.step(), Outcome::Refused(_)));
    bed.delete(&big);
    assert_eq!(bed.core.queue.pending().unschedulable, 1, "only the pod that wants CPU is woken");
    assert_eq!(bed.step(), Outcome::Bound("a".to_owned()));
}

#[test]
fn back_off_doubles_from_one_to_ten_seconds() {
    let mut bed = Bed::new();
    bed.node("a", json!({}));
    let pod = bed.pod("p", json!({}));
    let mut waits = Vec::new();
    for _ in 0..6 {
        assert!(matches!(bed.step(), Outcome::Bound(_)));
        let failed_at = bed.now;
        drop(bed.core.bind_failed(&pod.uid, "the API server is away".to_owned(), bed.now));
        while bed.core.queue.pending().active == 0 {
            bed.now += 100;
            bed.core.queue.tick(bed.now);
        }
        waits.push((bed.now - failed_at) / 1000);
    }
    assert!(waits.windows(2).all(|w| w[0] <= w[1]) && (1..=2).contains(&waits[0]), "{waits:?}");
    assert!((10..=11).contains(&waits[5]), "{waits:?}");
}

#[test]
fn a_failed_binding_frees_its_place() {
    let mut bed = Bed::new();
    bed.node("a", json!({"status": {"allocatable": {"cpu": "1"}}}));
    let first = bed.pod("first", requests(json!({"cpu": "1"})));
    assert_eq!(bed.step(), Outcome::Bound("a".to_owned()));
    bed.pod("second", requests(json!({"cpu": "1"})));
    assert!(matches!(bed.step(), Outcome::Refused(_)), "the first pod is assumed");
    let commands = bed.core.bind_failed(&first.uid, "conflict".to_owned(), bed.now);
    let [Command::Report { reason, message, .. }] = &commands[..] else { panic!("{commands:?}") };
    assert_eq!((*reason, message.as_str()), ("SchedulerError", "conflict"));
    assert_eq!(bed.step(), Outcome::Bound("a".to_owned()));
}

#[test]
fn an_assumed_pod_is_confirmed_or_forgotten_never_counted_twice() {
    let mut bed = Bed::new();
    bed.node("a", json!({"status": {"allocatable": {"cpu": "2"}}}));
    let pod = bed.pod("p", requests(json!({"cpu": "1"})));
    assert_eq!(bed.step(), Outcome::Bound("a".to_owned()));
    bed.core.bound(&pod.uid);
    assert_eq!(bed.core.unconfirmed().len(), 1);
    let mut seen = bed.input("p", and(requests(json!({"cpu": "1"})), json!({"spec": {"nodeName": "a"}})));
    seen.uid = pod.uid.clone();
    bed.core.apply(Intake::Pod(Box::new(seen)), bed.now);
    assert_eq!(bed.core.unconfirmed().len(), 0);
    bed.pod("q", requests(json!({"cpu": "1"})));
    assert_eq!(bed.step(), Outcome::Bound("a".to_owned()), "one CPU is left");
    bed.delete(&pod);
    assert_eq!(bed.core.cluster.pod_count(), 1);
}

#[test]
fn parked_pods_are_tried_again_after_five_minutes() {
    let mut bed = Bed::new();
    bed.node("a", json!({}));
    bed.pod("p", requests(json!({"cpu": "9"})));
    assert!(matches!(bed.step(), Outcome::Refused(_)));
    bed.now += scheduler::core::queue::MAX_PARKED_MS;
    bed.core.queue.flush_parked(bed.now);
    assert_eq!(bed.step(), Outcome::Nothing);
    bed.now += 1;
    bed.core.queue.flush_parked(bed.now);
    assert!(matches!(bed.step(), Outcome::Refused(_)));
}

#[test]
fn an_unchanged_condition_is_not_written_again() {
    let mut bed = Bed::new();
    bed.node("a", json!({}));
    bed.pod("p", requests(json!({"cpu": "9"})));
    let mut news = Vec::new();
    for _ in 0..2 {
        for command in bed.commands() {
            if let Command::Report { condition_is_new, .. } = command {
                news.push(condition_is_new);
            }
        }
        bed.now += scheduler::core::queue::MAX_PARKED_MS + 1;
        bed.core.queue.flush_parked(bed.now);
    }
    assert_eq!(news, [true, false]);
}
