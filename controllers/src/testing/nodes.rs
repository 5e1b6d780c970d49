//! The machines of a simulated cluster.

use serde_json::{Value, json};

use super::model::Model;

/// The node a pod asks for by name, or `n1`.
fn target(pod: &Value) -> String {
    let required = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let named = &required["nodeSelectorTerms"][0]["matchFields"][0]["values"][0];
    named.as_str().unwrap_or("n1").to_string()
}

/// Nodes that run every pod at once and let deleted ones go.
pub fn run_pods(model: &mut Model) -> bool {
    let mut moved = false;
    let at = model.now.to_string();
    for pod in model.all("Pod") {
        let text = |field: &str| pod["metadata"][field].as_str().unwrap_or("").to_string();
        let (space, name) = (&text("namespace"), &text("name"));
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            model.vanish("Pod", space, name);
            moved = true;
        } else if pod["status"]["phase"] == "Pending" {
            model.edit("Pod", space, name, |pod| {
                pod["spec"]["nodeName"] = target(pod).into();
                pod["status"] = json!({"phase": "Running", "conditions": [
                    {"type": "Ready", "status": "True", "lastTransitionTime": at}]});
            });
            moved = true;
        }
    }
    moved
}
