//! Cases of the pod security checks.

use super::*;
use serde_json::json;

fn check(restricted: bool, spec: Value, expected: &str) {
    let pod = Pod { meta: &Value::Null, spec: &spec, minor: 36 };
    let found: Vec<String> = evaluate(restricted, &pod)
        .into_iter()
        .map(|(reason, detail)| format!("{reason} ({detail})"))
        .collect();
    assert_eq!(found.join(", "), expected, "{spec}");
}

#[test]
fn baseline() {
    check(false, json!({"containers": [{"name": "a"}]}), "");
    check(
        false,
        json!({"hostNetwork": true, "hostPID": true, "containers": [
            {"name": "a", "securityContext": {"privileged": true, "capabilities": {"add": ["NET_ADMIN"]}}},
            {"name": "b", "ports": [{"hostPort": 80}]}],
            "volumes": [{"name": "v", "hostPath": {"path": "/"}}]}),
        "non-default capabilities (container \"a\" must not include \"NET_ADMIN\" in securityContext.capabilities.add), \
         host namespaces (hostNetwork=true, hostPID=true), hostPath volumes (volume \"v\"), \
         hostPort (container \"b\" uses hostPort 80), \
         privileged (container \"a\" must not set securityContext.privileged=true)",
    );
    check(
        false,
        json!({"securityContext": {"seLinuxOptions": {"type": "x", "user": "u"}, "sysctls": [{"name": "kernel.foo"}]}}),
        "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set), \
         forbidden sysctls (kernel.foo)",
    );
}

#[test]
fn restricted() {
    check(
        true,
        json!({"containers": [{"name": "a"}, {"name": "b"}]}),
        "allowPrivilegeEscalation != false (containers \"a\", \"b\" must set securityContext.allowPrivilegeEscalation=false), \
         unrestricted capabilities (containers \"a\", \"b\" must set securityContext.capabilities.drop=[\"ALL\"]), \
         runAsNonRoot != true (pod or containers \"a\", \"b\" must set securityContext.runAsNonRoot=true), \
         seccompProfile (pod or containers \"a\", \"b\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
    );
    let context = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let pod = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    check(
        true,
        json!({"securityContext": pod, "containers": [{"name": "a", "securityContext": context}]}),
        "",
    );
}
