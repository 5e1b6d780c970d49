//! Cases of the pod plan: what was seen in, what is to be done out.

use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::kubelet::pod::observed::{ProbeResult, Sandbox};

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(1_000 + secs).expect("in range")
}

fn sandbox(attempt: u32, ready: bool) -> Sandbox {
    Sandbox {
        id: format!("s{attempt}"),
        attempt,
        ready,
        created_at: at(i64::from(attempt)),
        ips: vec!["10.0.0.1".into()],
        host_network: false,
    }
}

/// `name:state[:exit]`, as `c:exited:1`, the image being `img`.
fn container(text: &str) -> Container {
    let mut parts = text.split(':');
    let name = parts.next().unwrap_or_default().to_owned();
    let state = match parts.next() {
        Some("created") => State::Created,
        Some("running") => State::Running,
        Some("exited") => State::Exited,
        _ => State::Unknown,
    };
    let spec = ContainerSpec { name: name.clone(), image: Some("img".into()), ..Default::default() };
    Container {
        id: format!("id-{name}"),
        hash: spec::container_hash(&spec),
        name,
        sandbox_id: "s0".into(),
        restart_count: 0,
        state,
        created_at: at(1),
        started_at: None,
        finished_at: None,
        exit_code: parts.next().and_then(|e| e.parse().ok()).unwrap_or(0),
        reason: String::new(),
        message: String::new(),
        image: "img".into(),
        image_ref: "img".into(),
        user: None,
    }
}

fn pod(policy: &str, init: &[&str], regular: &[&str]) -> Pod {
    let make = |names: &[&str]| -> Vec<serde_json::Value> {
        names
            .iter()
            .map(|n| match n.strip_prefix('+') {
                Some(sidecar) => json!({"name": sidecar, "image": "img", "restartPolicy": "Always"}),
                None => json!({"name": n, "image": "img"}),
            })
            .collect()
    };
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"restartPolicy": policy, "initContainers": make(init), "containers": make(regular)}}))
    .expect("a pod")
}

fn check(pod: &Pod, sandboxes: &[Sandbox], containers: &[&str], failing: &[&str], expected: Expect) {
    let observed = Observed {
        sandboxes: sandboxes.to_vec(),
        containers: containers.iter().map(|c| container(c)).collect(),
    };
    let probes: BTreeMap<_, _> = failing
        .iter()
        .map(|n| (format!("id-{n}"), ProbeResult { liveness: Some(false), ..Default::default() }))
        .collect();
    let plan = plan(pod, &observed, &probes);
    let start: Vec<_> = plan.start.iter().map(|s| format!("{:?}/{}", s.kind, s.name)).collect();
    let kill: Vec<_> = plan.kill.iter().map(|k| k.message.clone()).collect();
    let text =
        format!("kill_pod={} sandbox={:?} start={start:?} kill={kill:?}", plan.kill_pod, plan.create_sandbox);
    expected.assert_eq(&text);
}

#[test]
fn a_new_pod_gets_a_sandbox_then_containers_in_order() {
    let p = pod("Always", &[], &["a", "b"]);
    let ready = [sandbox(0, true)];
    check(
        &p,
        &[],
        &[],
        &[],
        expect![[r#"kill_pod=true sandbox=Some(0) start=["Regular/a", "Regular/b"] kill=[]"#]],
    );
    check(
        &p,
        &ready,
        &[],
        &[],
        expect![[r#"kill_pod=false sandbox=None start=["Regular/a", "Regular/b"] kill=[]"#]],
    );
    check(
        &p,
        &ready,
        &["a:running"],
        &[],
        expect![[r#"kill_pod=false sandbox=None start=["Regular/b"] kill=[]"#]],
    );
}

#[test]
fn a_dead_sandbox_is_replaced_unless_the_pod_is_over() {
    let dead = [sandbox(0, false)];
    let always = pod("Always", &[], &["a"]);
    check(
        &always,
        &dead,
        &["a:exited:0"],
        &[],
        expect![[r#"kill_pod=true sandbox=Some(1) start=["Regular/a"] kill=[]"#]],
    );
    let once = pod("OnFailure", &[], &["a"]);
    check(&once, &dead, &["a:exited:0"], &[], expect!["kill_pod=true sandbox=None start=[] kill=[]"]);
    let never = pod("Never", &[], &["a"]);
    check(&never, &dead, &["a:running"], &[], expect!["kill_pod=true sandbox=None start=[] kill=[]"]);
    let init = pod("Always", &["i"], &["a"]);
    check(
        &init,
        &dead,
        &["a:running"],
        &[],
        expect![[r#"kill_pod=true sandbox=Some(1) start=["Init/i"] kill=[]"#]],
    );
}

#[test]
fn restart_policies_and_liveness() {
    let ready = [sandbox(0, true)];
    let always = pod("Always", &[], &["a"]);
    check(
        &always,
        &ready,
        &["a:exited:0"],
        &[],
        expect![[r#"kill_pod=false sandbox=None start=["Regular/a"] kill=[]"#]],
    );
    check(
        &always,
        &ready,
        &["a:running"],
        &["a"],
        expect![[
            r#"kill_pod=false sandbox=None start=["Regular/a"] kill=["Container a failed liveness probe, will be restarted"]"#
        ]],
    );
    let never = pod("Never", &[], &["a", "b"]);
    check(
        &never,
        &ready,
        &["a:running", "b:running"],
        &["a"],
        expect![[r#"kill_pod=false sandbox=None start=[] kill=["Container a failed liveness probe"]"#]],
    );
    check(
        &never,
        &ready,
        &["a:exited:1", "b:exited:0"],
        &[],
        expect!["kill_pod=true sandbox=None start=[] kill=[]"],
    );
    check(
        &always,
        &ready,
        &["a:unknown"],
        &[],
        expect![[
            r#"kill_pod=false sandbox=None start=["Regular/a"] kill=["Container is in \"unknown\" state, try killing it before restart"]"#
        ]],
    );
}

#[test]
fn init_containers_run_one_after_another() {
    let ready = [sandbox(0, true)];
    let p = pod("Always", &["i", "j"], &["a"]);
    check(&p, &ready, &[], &[], expect![[r#"kill_pod=false sandbox=None start=["Init/i"] kill=[]"#]]);
    check(&p, &ready, &["i:running"], &[], expect!["kill_pod=false sandbox=None start=[] kill=[]"]);
    check(
        &p,
        &ready,
        &["i:exited:0"],
        &[],
        expect![[r#"kill_pod=false sandbox=None start=["Init/j"] kill=[]"#]],
    );
    check(
        &p,
        &ready,
        &["i:exited:2"],
        &[],
        expect![[r#"kill_pod=false sandbox=None start=["Init/i"] kill=[]"#]],
    );
    check(
        &p,
        &ready,
        &["j:exited:0"],
        &[],
        expect![[r#"kill_pod=false sandbox=None start=["Regular/a"] kill=[]"#]],
    );
    let never = pod("Never", &["i", "j"], &["a"]);
    check(&never, &ready, &["i:exited:2"], &[], expect!["kill_pod=true sandbox=None start=[] kill=[]"]);
}

#[test]
fn sidecars_start_in_order_and_are_kept_running() {
    let ready = [sandbox(0, true)];
    let p = pod("Always", &["+s", "j"], &["a"]);
    check(&p, &ready, &[], &[], expect![[r#"kill_pod=false sandbox=None start=["Sidecar/s"] kill=[]"#]]);
    check(
        &p,
        &ready,
        &["s:running"],
        &[],
        expect![[r#"kill_pod=false sandbox=None start=["Init/j"] kill=[]"#]],
    );
    check(
        &p,
        &ready,
        &["s:running", "j:exited:0"],
        &[],
        expect![[r#"kill_pod=false sandbox=None start=["Regular/a"] kill=[]"#]],
    );
    check(
        &p,
        &ready,
        &["s:exited:1", "a:running"],
        &[],
        expect![[r#"kill_pod=false sandbox=None start=["Sidecar/s"] kill=[]"#]],
    );
    check(
        &p,
        &ready,
        &["s:running", "a:running"],
        &["s"],
        expect![[
            r#"kill_pod=false sandbox=None start=["Sidecar/s"] kill=["Init container s failed liveness probe"]"#
        ]],
    );
    let never = pod("Never", &["+s"], &["a"]);
    check(
        &never,
        &ready,
        &["s:running", "a:exited:0"],
        &[],
        expect!["kill_pod=true sandbox=None start=[] kill=[]"],
    );
    let only_last = pod("Always", &["+s"], &["a"]);
    check(
        &only_last,
        &ready,
        &["s:running"],
        &[],
        expect![[r#"kill_pod=false sandbox=None start=["Regular/a"] kill=[]"#]],
    );
}
