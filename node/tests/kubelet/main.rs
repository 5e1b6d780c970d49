//! The kubelet against a real containerd that it supervises itself, with the API server out of reach: static
//! pods, the server on its port, restarts of agent and runtime, and what is left behind.
//!
//! Needs root, containerd, runc and the standard CNI plugins. Where they are missing the tests print
//! `skipped: <reason>`; with `CI=true` that is a failure.

mod certificates;
mod devices;
mod lab;
mod storage;

use std::sync::Arc;
use std::time::{Duration, Instant};

use lab::{Lab, Leaks};
use node::kubelet::worker::PoolEvent;
use serde_json::{Value, json};

/// A pod of the example image with everything a machine alone can give it.
fn manifest(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 3,
            "automountServiceAccountToken": false,
            "initContainers": [
                {"name": "init", "image": node::runtime::bundled::WEB, "args": ["write", "/shared/f", "from", "init"],
                 "volumeMounts": [{"name": "shared", "mountPath": "/shared"}]},
                {"name": "side", "image": node::runtime::bundled::WEB, "args": ["sleep"], "restartPolicy": "Always"}],
            "containers": [{
                "name": "web", "image": node::runtime::bundled::WEB,
                "env": [{"name": "MESSAGE_FILE", "value": "/shared/f"},
                        {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}}],
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
                "livenessProbe": {"exec": {"command": ["/web", "echo"]}, "periodSeconds": 2},
                "resources": {"requests": {"cpu": "10m", "memory": "8Mi"}, "limits": {"memory": "64Mi"}},
                "volumeMounts": [{"name": "shared", "mountPath": "/shared"},
                                 {"name": "shared", "mountPath": "/sub", "subPath": "deep/er"},
                                 {"name": "info", "mountPath": "/info"}]}],
            "volumes": [
                {"name": "shared", "emptyDir": {"medium": "Memory"}},
                {"name": "info", "downwardAPI": {"items": [
                    {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn static_pods_live_through_restarts_and_leave_nothing() {
    let Some(mut lab) = Lab::start("static").await else { return };
    let before = Leaks::count(&lab);
    lab.write_manifest("one", &manifest("one"));
    let pod = lab.wait_ready("one", Duration::from_secs(60)).await;
    let id = lab::container_id(&pod, "web");

    let logs = lab.get("/containerLogs/default/one-lab/web").await;
    assert!(logs.contains("serving on port 8080"), "{logs}");
    assert_eq!(lab.exec("one-lab", "web", "/web cat /shared/f").await, "from init");
    assert_eq!(lab.exec("one-lab", "web", "/web cat /info/name").await, "one-lab");
    assert!(lab.exec("one-lab", "web", "/web env").await.contains("LABEL=one\n"));
    let tail = lab.get("/containerLogs/default/one-lab/web?tailLines=1&timestamps=true").await;
    assert_eq!(tail.lines().count(), 1, "{tail}");
    let ip = pod["status"]["podIP"].as_str().unwrap_or_default().to_owned();
    let page = lab.exec("one-lab", "web", &format!("/web get http://{ip}:8080/")).await;
    assert!(page.starts_with("one-lab\nfrom init"), "{page}");

    lab.restart_agent().await;
    let pod = lab.wait_ready("one", Duration::from_secs(30)).await;
    assert_eq!(lab::container_id(&pod, "web"), id, "the agent's restart is none of its containers'");
    let (manifests, aside) = (lab.path("manifests"), lab.path("aside"));
    std::fs::rename(&manifests, &aside).expect("moved");
    std::fs::write(&manifests, "no folder").expect("written");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(lab.exec("one-lab", "web", "/web cat /info/name").await, "one-lab", "nobody knows: it stays");
    std::fs::remove_file(&manifests).expect("removed");
    std::fs::rename(&aside, &manifests).expect("moved back");
    lab.kill_runtime().await;
    let pod = lab.wait_ready("one", Duration::from_secs(60)).await;
    assert_eq!(lab::container_id(&pod, "web"), id, "the runtime's restart is none of its containers'");

    lab.remove_manifest("one");
    lab.wait_gone(Duration::from_secs(40)).await;
    lab.wait_for_leaks(&before).await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_show_upstreams_reasons() {
    let Some(lab) = Lab::start("failures").await else { return };
    let container =
        |args: &[&str]| json!([{"name": "c", "image": node::runtime::bundled::WEB, "args": args}]);
    let pod = |containers: Value, policy: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"restartPolicy": policy, "terminationGracePeriodSeconds": 1, "containers": containers}})
    };
    let missing = json!([{"name": "c", "image": "127.0.0.1:1/none:v1"}]);
    let never = json!([{"name": "c", "image": "127.0.0.1:1/none:v1", "imagePullPolicy": "Never"}]);
    let command = json!([{"name": "c", "image": node::runtime::bundled::WEB, "command": ["/nothing"]}]);
    let root = json!([{"name": "c", "image": node::runtime::bundled::WEB,
        "securityContext": {"runAsNonRoot": true}}]);
    for (name, containers, reason) in [
        ("crash", container(&["exit", "3"]), "CrashLoopBackOff"),
        ("missing", missing, "ErrImagePull"),
        ("never", never, "ErrImageNeverPull"),
        ("command", command, "RunContainerError"),
        ("root", root, "CreateContainerConfigError"),
    ] {
        let mut pod = pod(containers, "Always");
        pod["metadata"]["name"] = json!(name);
        lab.write_manifest(name, &pod);
        lab.wait_waiting(name, reason, Duration::from_secs(40)).await;
        lab.remove_manifest(name);
    }
    let mut done =
        pod(container(&["run", "echo", "done", ";", "write", "/dev/termination-log", "bye"]), "Never");
    done["metadata"]["name"] = json!("done");
    lab.write_manifest("done", &done);
    let status = lab.wait_phase("done", "Succeeded", Duration::from_secs(40)).await;
    let terminated = &status["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(
        (terminated["message"].as_str(), terminated["reason"].as_str()),
        (Some("bye"), Some("Completed"))
    );
    assert_eq!(lab.get("/containerLogs/default/done-lab/c").await, "done\n");
    lab.remove_manifest("done");
    lab.wait_gone(Duration::from_secs(40)).await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_knows_its_clients() {
    let Some(lab) = Lab::start("server").await else { return };
    assert_eq!(lab.get("/healthz").await, "ok");
    let (status, _) = lab.request_without_certificate("/pods").await;
    assert_eq!(status, 401);
    let summary: Value = serde_json::from_str(&lab.get("/stats/summary").await).expect("a summary");
    assert_eq!(summary["node"]["nodeName"], "lab");
    assert!(lab.get("/metrics").await.contains("kubelet_pleg_relist_duration_seconds"));
    assert!(lab.get("/metrics/resource").await.contains("node_memory_working_set_bytes"));
    assert!(lab.get("/metrics/cadvisor").await.contains("machine_memory_bytes"));
    assert!(lab.get("/configz").await.contains("KubeletConfiguration"));
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_a_restored_store_brings_back_runs_again() {
    let Some(lab) = Lab::start("back-again").await else { return };
    let pod = json!({"metadata": {"name": "back", "namespace": "default", "uid": "back-uid"},
        "spec": {"automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": node::runtime::bundled::WEB, "args": ["sleep"]}]}});
    let mut deleted = pod.clone();
    deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    deleted["metadata"]["deletionGracePeriodSeconds"] = json!(0);
    let apply = |pod: &Value| {
        let pod = serde_json::from_value(pod.clone()).expect("a pod");
        lab.pool().handle(PoolEvent::Apply(Arc::new(pod)));
        lab.pool().knows("back-uid")
    };
    assert!(apply(&pod));
    assert!(apply(&deleted));
    let end = Instant::now() + Duration::from_secs(60);
    while lab.pool().knows("back-uid") {
        assert!(Instant::now() < end, "it does not end");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!apply(&deleted), "late news start nothing");
    assert!(apply(&pod), "another store's news do");
    lab.pool().handle(PoolEvent::Delete("back-uid".to_owned()));
    lab.wait_gone(Duration::from_secs(60)).await;
    lab.end().await;
}
