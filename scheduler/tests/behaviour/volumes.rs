//! Claims: bound, waiting for their first consumer, exclusive, limited, zoned.

use super::*;

fn claim(name: &str, more: Value) -> Value {
    let claim = json!({"metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"), "resourceVersion": "7"},
        "spec": {"storageClassName": "late", "accessModes": ["ReadWriteOnce"],
                 "resources": {"requests": {"storage": "10Gi"}}}});
    and(claim, more)
}

fn volume(name: &str, more: Value) -> Value {
    let volume = json!({"metadata": {"name": name, "resourceVersion": "5"}, "status": {"phase": "Available"},
        "spec": {"storageClassName": "late", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "10Gi"}}});
    and(volume, more)
}

fn on_node(name: &str) -> Value {
    let term =
        json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [name]}]});
    json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}}})
}

fn mounts(claim: &str) -> Value {
    json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}})
}

fn bound_to(volume: &str) -> Value {
    json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": volume}})
}

fn class(provisioner: &str, mode: &str) -> Value {
    json!({"metadata": {"name": "late"}, "provisioner": provisioner, "volumeBindingMode": mode})
}

/// Two nodes, a pod that mounts claim `c`.
fn bed(class: Value, objects: impl FnOnce(&mut Bed)) -> Bed {
    let mut bed = Bed::new();
    bed.node("a/z1", json!({}));
    bed.node("b/z2", json!({}));
    bed.give::<wire::StorageClass>(class);
    objects(&mut bed);
    bed.pod("p", mounts("c"));
    bed
}

fn refusal(bed: &mut Bed) -> String {
    match bed.step() {
        Outcome::Refused(message) => message.split(". no").next().unwrap_or_default().to_owned(),
        other => format!("{other:?}"),
    }
}

const LATE: &str = "WaitForFirstConsumer";
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

#[test]
fn claims_that_cannot_be_used_refuse_the_pod() {
    let cases: [(Value, &str); 4] = [
        (Value::Null, "persistentvolumeclaim \"c\" not found"),
        (
            json!({"status": {"phase": "Lost"}, "spec": {"volumeName": "v"}}),
            "persistentvolumeclaim \"c\" bound to non-existent persistentvolume \"v\"",
        ),
        (
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            "persistentvolumeclaim \"c\" is being deleted",
        ),
        (json!({"spec": {"storageClassName": "other"}}), "pod has unbound immediate PersistentVolumeClaims"),
    ];
    for (patch, expected) in cases {
        let mut bed = bed(class("p", LATE), |bed| {
            if !patch.is_null() {
                bed.give::<wire::PersistentVolumeClaim>(claim("c", patch));
            }
        });
        assert_eq!(refusal(&mut bed), format!("0/2 nodes are available: {expected}"));
    }
}

#[test]
fn bound_volumes_draw_the_pod_to_their_node() {
    let mut found = bed(class("p", LATE), |bed| {
        bed.give::<wire::PersistentVolumeClaim>(claim("c", bound_to("v")));
        bed.give::<wire::PersistentVolume>(volume("v", on_node("b")));
    });
    assert_eq!(found.step(), Outcome::Bound("b".to_owned()));
    let mut lost =
        bed(class("p", LATE), |bed| bed.give::<wire::PersistentVolumeClaim>(claim("c", bound_to("v"))));
    assert_eq!(refusal(&mut lost), "0/2 nodes are available: persistentvolume \"v\" not found");
    let mut elsewhere = bed(class("p", LATE), |bed| {
        bed.give::<wire::PersistentVolumeClaim>(claim("c", bound_to("v")));
        bed.give::<wire::PersistentVolume>(volume("v", on_node("x")));
    });
    assert_eq!(
        refusal(&mut elsewhere),
        "0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity"
    );
}

#[test]
fn the_first_consumer_binds_the_smallest_volume_of_its_node() {
    let mut bed = bed(class(NO_PROVISIONER, LATE), |bed| {
        bed.give::<wire::PersistentVolumeClaim>(claim("c", json!({})));
        let sized = |gib: u32| json!({"spec": {"capacity": {"storage": format!("{gib}Gi")}}});
        bed.give::<wire::PersistentVolume>(volume("large", and(on_node("b"), sized(100))));
        bed.give::<wire::PersistentVolume>(volume("right", and(on_node("b"), sized(20))));
        bed.give::<wire::PersistentVolume>(volume("small", and(on_node("a"), sized(5))));
    });
    let commands = bed.commands();
    let [Command::Bind { node, volumes: Some(plan), .. }] = &commands[..] else { panic!("{commands:?}") };
    let (volume, claim, version) = &plan.bind[0];
    assert_eq!((&**node, &**volume, &*claim.uid, *version), ("b", "right", "uid-c", 5));
    bed.give::<wire::PersistentVolumeClaim>(self::claim("d", json!({})));
    bed.pod("q", mounts("d"));
    let commands = bed.commands();
    let [Command::Bind { volumes: Some(plan), .. }] = &commands[..] else { panic!("{commands:?}") };
    assert_eq!(&*plan.bind[0].0, "large", "the other volume is promised already");
}

#[test]
fn without_a_volume_or_a_provisioner_no_node_will_do() {
    let mut bed = bed(class(NO_PROVISIONER, LATE), |bed| {
        bed.give::<wire::PersistentVolumeClaim>(claim("c", json!({})))
    });
    assert_eq!(
        refusal(&mut bed),
        "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind"
    );
    bed.give::<wire::PersistentVolume>(volume("v", on_node("a")));
    assert_eq!(bed.step(), Outcome::Bound("a".to_owned()), "a new volume wakes the pod");
}

#[test]
fn provisioning_follows_topology_and_capacity() {
    let topology = json!({"allowedTopologies": [{"matchLabelExpressions": [
        {"key": "topology.kubernetes.io/zone", "values": ["z2"]}]}]});
    let mut zoned = bed(and(class("csi", LATE), topology), |bed| {
        bed.give::<wire::PersistentVolumeClaim>(claim("c", json!({})));
    });
    let commands = zoned.commands();
    let [Command::Bind { node, volumes: Some(plan), .. }] = &commands[..] else { panic!("{commands:?}") };
    assert_eq!((&**node, plan.provision.len()), ("b", 1));
    let capacity = |gib: u32| {
        json!({"metadata": {"name": "k", "namespace": "x"}, "storageClassName": "late", "capacity": format!("{gib}Gi"),
               "nodeTopology": {"matchLabels": {"kubernetes.io/hostname": "a"}}})
    };
    let mut tracked = bed(class("csi", LATE), |bed| {
        bed.give::<wire::PersistentVolumeClaim>(claim("c", json!({})));
        bed.give::<wire::CsiDriver>(json!({"metadata": {"name": "csi"}, "spec": {"storageCapacity": true}}));
        bed.give::<wire::CsiStorageCapacity>(capacity(5));
    });
    assert_eq!(refusal(&mut tracked), "0/2 nodes are available: 2 node(s) did not have enough free storage");
    tracked.give::<wire::CsiStorageCapacity>(capacity(50));
    assert_eq!(tracked.step(), Outcome::Bound("a".to_owned()), "more capacity wakes the pod");
}

#[test]
fn an_exclusive_claim_has_one_user() {
    let mut bed = Bed::new();
    bed.node("a", json!({}));
    let exclusive = and(bound_to("v"), json!({"spec": {"accessModes": ["ReadWriteOncePod"]}}));
    bed.give::<wire::PersistentVolumeClaim>(claim("c", exclusive));
    bed.give::<wire::PersistentVolume>(volume("v", json!({})));
    let user = bed.pod("user", and(mounts("c"), json!({"spec": {"nodeName": "a"}})));
    bed.pod("p", mounts("c"));
    assert!(refusal(&mut bed).contains("ReadWriteOncePod access mode already in-use by another pod"));
    bed.delete(&user);
    assert_eq!(bed.step(), Outcome::Bound("a".to_owned()));
}

#[test]
fn zone_labels_of_volumes_bind_the_pod_to_their_zone() {
    let zone = |zone: &str| json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}});
    for (label, expected) in [("z2", Some("b")), ("z1__z9", Some("a")), ("z9", None)] {
        let mut bed = bed(class("p", LATE), |bed| {
            bed.give::<wire::PersistentVolumeClaim>(claim("c", bound_to("v")));
            bed.give::<wire::PersistentVolume>(volume("v", zone(label)));
        });
        match expected {
            Some(node) => assert_eq!(bed.step(), Outcome::Bound(node.to_owned()), "{label}"),
            None => {
                let message = "0/2 nodes are available: 2 node(s) had no available volume zone";
                assert_eq!(refusal(&mut bed), message);
            }
        }
    }
}

#[test]
fn drivers_limit_the_volumes_of_a_node() {
    for (limit, refused) in [(1, true), (2, false)] {
        let mut bed = Bed::new();
        bed.node("a", json!({}));
        bed.give::<wire::CsiNode>(json!({"metadata": {"name": "a"},
            "spec": {"drivers": [{"name": "csi", "allocatable": {"count": limit}}]}}));
        for name in ["c", "d"] {
            let volume_name = format!("v{name}");
            bed.give::<wire::PersistentVolumeClaim>(claim(name, bound_to(&volume_name)));
            let csi = json!({"spec": {"csi": {"driver": "csi", "volumeHandle": name}}});
            bed.give::<wire::PersistentVolume>(volume(&volume_name, csi));
        }
        bed.pod("first", and(mounts("c"), json!({"spec": {"nodeName": "a"}})));
        bed.pod("p", mounts("d"));
        let said = refusal(&mut bed);
        assert_eq!(said == "0/1 nodes are available: 1 node(s) exceed max volume count", refused, "{said}");
    }
}

/// A CSI driver's limits count in-tree volumes that it took over, inline and claimed, wherever there is a CSINode.
#[test]
fn migrated_volumes_count_under_their_csi_driver() {
    let inline = |name: &str| json!({"spec": {"volumes": [{"name": "v", "cinder": {"volumeID": name}}]}});
    let limits = |count: i32| {
        json!({"metadata": {"name": "a"},
               "spec": {"drivers": [{"name": "cinder.csi.openstack.org", "allocatable": {"count": count}}]}})
    };
    for (limit, volume, expected) in [(1, "1", true), (1, "2", false), (2, "2", true)] {
        let mut bed = Bed::new();
        bed.node("a/z1", json!({}));
        bed.give::<wire::CsiNode>(limits(limit));
        bed.pod("first", inline("1"));
        assert!(matches!(bed.step(), Outcome::Bound(_)));
        bed.pod("second", inline(volume));
        assert_eq!(matches!(bed.step(), Outcome::Bound(_)), expected, "limit {limit}, volume {volume}");
    }
}

/// A bound in-tree volume is looked for under the driver's topology label on nodes that have handed the plugin over.
#[test]
fn migrated_volumes_follow_the_drivers_topology() {
    for (annotation, expected) in [("kubernetes.io/gce-pd", true), ("", false)] {
        let mut bed = bed(class(NO_PROVISIONER, LATE), |bed| {
            let zone = json!({"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["far"]});
            let nodes = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [zone]}]}});
            let disk = json!({"spec": {"gcePersistentDisk": {"pdName": "d"}, "nodeAffinity": nodes}});
            bed.give::<wire::PersistentVolume>(volume("pv", disk));
            bed.give::<wire::PersistentVolumeClaim>(claim("c", bound_to("pv")));
            bed.node("c/z1", json!({"metadata": {"labels": {"topology.gke.io/zone": "far"}}}));
            let key = "storage.alpha.kubernetes.io/migrated-plugins";
            bed.give::<wire::CsiNode>(json!({"metadata": {"name": "c", "annotations": {key: annotation}}}));
        });
        assert_eq!(matches!(bed.step(), Outcome::Bound(_)), expected, "{annotation:?}");
    }
}
