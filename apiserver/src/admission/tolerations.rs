//! DefaultTolerationSeconds and TaintNodesByCondition: pods stay a while on nodes that vanish; nodes start not ready.

use async_trait::async_trait;
use machinery::status::StatusError;
use serde_json::{Value, json};

use super::plugin::Plugin;
use crate::contract::{Admission, Object};
use crate::kinds::json::{items, push, text};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NO_EXECUTE: &str = "NoExecute";
/// How long pods stay on nodes that are not ready or not reachable, seconds.
pub const TOLERATION_SECS: i64 = 300;

/// The step that gives pods their tolerations.
pub struct DefaultTolerationSeconds {
    pub not_ready_secs: i64,
    pub unreachable_secs: i64,
}

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    async fn mutate(&self, request: &mut Admission<'_>) -> Result<(), StatusError> {
        let writes = !matches!(request.operation, crate::contract::Operation::Delete);
        if !request.is_for("", "pods", "") || !writes {
            return Ok(());
        }
        if let Some(pod) = request.object.as_deref_mut() {
            let missing: Vec<_> = [(NOT_READY, self.not_ready_secs), (UNREACHABLE, self.unreachable_secs)]
                .into_iter()
                .filter(|(taint, _)| !tolerates(pod, taint))
                .collect();
            for (taint, secs) in missing {
                let toleration = json!({"key": taint, "operator": "Exists", "effect": NO_EXECUTE, "tolerationSeconds": secs});
                push(pod, &["spec", "tolerations"], toleration);
            }
        }
        Ok(())
    }
}

fn tolerates(pod: &Object, taint: &str) -> bool {
    let fits = |value: &Value, field: &str, wanted: &str| matches!(text(value, &[field]), own if own.is_empty() || own == wanted);
    items(pod, &["spec", "tolerations"])
        .iter()
        .any(|toleration| fits(toleration, "key", taint) && fits(toleration, "effect", NO_EXECUTE))
}

/// The step that taints new nodes until they are ready.
pub struct TaintNodesByCondition;

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    async fn mutate(&self, request: &mut Admission<'_>) -> Result<(), StatusError> {
        if !request.is_for("", "nodes", "") || !request.creates() {
            return Ok(());
        }
        if let Some(node) = request.object.as_deref_mut() {
            let tainted = items(node, &["spec", "taints"])
                .iter()
                .any(|taint| text(taint, &["key"]) == NOT_READY && text(taint, &["effect"]) == "NoSchedule");
            if !tainted {
                push(node, &["spec", "taints"], json!({"key": NOT_READY, "effect": "NoSchedule"}));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_tolerations_are_respected() {
        let check = |toleration: Value, expected: bool| {
            let pod = json!({"spec": {"tolerations": [toleration]}});
            assert_eq!(tolerates(&pod, NOT_READY), expected, "{toleration}");
        };
        check(json!({"operator": "Exists"}), true);
        check(json!({"key": NOT_READY, "operator": "Exists"}), true);
        check(json!({"key": NOT_READY, "effect": "NoSchedule"}), false);
        check(json!({"key": "other"}), false);
    }
}
