//! Nodes and pods of the comparison: every plugin without volumes has its turn, combined by the digits of the
//! pod's number.

use serde_json::{Value, json};

const NODES: usize = 12;

/// Nodes of three sizes in three zones, some tainted, one without zone, one cordoned.
pub fn nodes() -> Vec<Value> {
    (0..NODES).map(node).collect()
}

fn node(i: usize) -> Value {
    let name = format!("node-{i}");
    let mut labels = json!({"kubernetes.io/hostname": name, "size": (1 + i % 3).to_string()});
    if i != 11 {
        labels["topology.kubernetes.io/zone"] = json!(format!("zone-{}", i % 3));
    }
    let mut taints = vec![];
    if i % 5 == 1 {
        taints.push(json!({"key": "dedicated", "value": "db", "effect": "NoSchedule"}));
    }
    if i % 4 == 2 {
        taints.push(json!({"key": "slow", "effect": "PreferNoSchedule"}));
    }
    let cpu = ["2", "4", "8"][i % 3];
    let mut amounts = json!({"cpu": cpu, "memory": format!("{}Gi", 4 << (i % 3)), "pods": "20", "ephemeral-storage": "20Gi"});
    if i.is_multiple_of(4) {
        amounts["example.com/gpu"] = json!("2");
    }
    let mut images = vec![json!({"names": ["img-a:1"], "sizeBytes": 50_000_000})];
    if i.is_multiple_of(2) {
        images.push(json!({"names": ["img-b:1", "img-b@sha256:ab"], "sizeBytes": 700_000_000}));
    }
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": taints, "unschedulable": i == 7},
        "status": {"capacity": amounts, "allocatable": amounts, "images": images,
                   "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

/// One service, so that pods of `app=web` get default spread constraints.
pub fn services() -> Vec<Value> {
    vec![json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
    })]
}

fn term(key: &str, app: &str) -> Value {
    json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}})
}

/// Pod number `i`.
pub fn pod(i: usize) -> Value {
    let app = ["web", "db", "cache"][i % 3];
    let mut spec = json!({
        "containers": [container(i)],
        "terminationGracePeriodSeconds": 0,
    });
    constrain_nodes(i, &mut spec);
    constrain_pods(i, app, &mut spec);
    if i % 9 == 4 {
        spec["initContainers"] = json!([
            {"name": "init", "image": "img-b:1", "resources": {"requests": {"cpu": "700m"}}},
            {"name": "side", "image": "img-a:1", "restartPolicy": "Always", "resources": {"requests": {"memory": "50Mi"}}},
        ]);
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{i}"), "namespace": "default", "labels": {"app": app, "step": (i % 7).to_string()}},
        "spec": spec,
    })
}

fn container(i: usize) -> Value {
    let image = ["img-a:1", "img-b:1", "img-c"][i % 3];
    let mut container = json!({"name": "main", "image": image});
    let requests = match i % 6 {
        0 => json!({}),
        1 => json!({"cpu": "150m"}),
        2 => json!({"memory": "300Mi"}),
        3 => json!({"cpu": "250m", "memory": "128Mi", "ephemeral-storage": "1Gi"}),
        4 => json!({"cpu": "0.3", "memory": "1e8"}),
        _ if i % 24 == 5 => json!({"cpu": "100"}),
        _ => json!({"cpu": "50m", "memory": "64Mi"}),
    };
    container["resources"] = json!({"requests": requests});
    if i % 16 == 9 {
        container["resources"] =
            json!({"requests": {"example.com/gpu": "1"}, "limits": {"example.com/gpu": "1"}});
    }
    if i % 10 == 7 {
        container["ports"] = json!([{"containerPort": 80, "hostPort": 8080}]);
    }
    container
}

fn constrain_nodes(i: usize, spec: &mut Value) {
    if i % 7 == 3 {
        spec["nodeSelector"] = json!({"size": "2"});
    }
    if i % 8 == 2 {
        spec["tolerations"] = json!([{"key": "dedicated", "operator": "Exists"}]);
    }
    if i % 11 == 5 {
        spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!({
            "nodeSelectorTerms": [
                {"matchExpressions": [{"key": "size", "operator": "Gt", "values": ["1"]}]},
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-0"]}]},
            ],
        });
    }
    if i % 29 == 13 {
        spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!({
            "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-7"]}]}],
        });
    }
    if i % 6 == 1 {
        spec["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"] = json!([
            {"weight": 30, "preference": {"matchExpressions": [{"key": "size", "operator": "In", "values": ["3"]}]}},
            {"weight": 7, "preference": {"matchExpressions": [
                {"key": "topology.kubernetes.io/zone", "operator": "NotIn", "values": ["zone-1"]}]}},
        ]);
    }
}

fn constrain_pods(i: usize, app: &str, spec: &mut Value) {
    const ZONE: &str = "topology.kubernetes.io/zone";
    const HOST: &str = "kubernetes.io/hostname";
    if i % 13 == 6 {
        spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
            json!([term(ZONE, "db")]);
    }
    if i % 17 == 8 {
        spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
            json!([term(HOST, app)]);
    }
    if i % 5 == 2 {
        spec["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"] =
            json!([{"weight": 20, "podAffinityTerm": term(ZONE, "web")}]);
    }
    if i % 10 == 3 {
        spec["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"] =
            json!([{"weight": 15, "podAffinityTerm": term(HOST, "cache")}]);
    }
    let spread = |key: &str, skew: usize, action: &str| {
        json!({"topologyKey": key, "maxSkew": skew, "whenUnsatisfiable": action,
               "labelSelector": {"matchLabels": {"app": app}}})
    };
    match i % 14 {
        1 => spec["topologySpreadConstraints"] = json!([spread(ZONE, 2, "DoNotSchedule")]),
        4 => {
            spec["topologySpreadConstraints"] =
                json!([spread(ZONE, 1, "ScheduleAnyway"), spread(HOST, 1, "ScheduleAnyway")])
        }
        9 => {
            let mut hard = spread(HOST, 1, "DoNotSchedule");
            hard["nodeTaintsPolicy"] = json!("Honor");
            hard["minDomains"] = json!(3);
            hard["matchLabelKeys"] = json!(["step"]);
            spec["topologySpreadConstraints"] = json!([hard, spread(ZONE, 3, "ScheduleAnyway")]);
        }
        _ => {}
    }
}
