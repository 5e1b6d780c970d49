//! `--allow-privileged=false`: nobody runs a container that may do on its node what it likes. Upstream checks it with
//! the rest of the pod's rules, and words it like them.

use async_trait::async_trait;
use machinery::status::{FieldError, StatusError};

use super::plugin::Plugin;
use crate::contract::{Admission, Object};
use crate::kinds::json::{at, items, text};

/// The step; it stands in the chain only where the flag says no.
pub struct PrivilegedContainers;

/// Where the pods of a workload are described.
const PODS: [&[&str]; 4] = [
    &["spec"],
    &["spec", "template", "spec"],
    &["template", "spec"],
    &["spec", "jobTemplate", "spec", "template", "spec"],
];

#[async_trait]
impl Plugin for PrivilegedContainers {
    fn name(&self) -> &'static str {
        "PrivilegedContainers"
    }

    async fn validate(&self, request: &Admission<'_>) -> Result<(), StatusError> {
        let object = request.new_object();
        let found = findings(object);
        if found.is_empty() || !matches!(request.ctx.info.group.as_str(), "" | "apps" | "batch") {
            return Ok(());
        }
        let (group, name) = (&request.ctx.info.group, text(object, &["metadata", "name"]));
        Err(StatusError::invalid(group, request.kind, name, found))
    }
}

fn findings(object: &Object) -> Vec<FieldError> {
    let mut found = Vec::new();
    for path in PODS {
        for list in ["initContainers", "containers", "ephemeralContainers"] {
            let place = [path, &[list]].concat();
            for (number, container) in items(object, &place).iter().enumerate() {
                if at(container, &["securityContext", "privileged"]) == true {
                    let field = format!("{}[{number}].securityContext.privileged", place.join("."));
                    found.push(FieldError::forbidden(&field, "disallowed by cluster policy"));
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn privileged_containers_are_found_wherever_pods_are_described() {
        let check = |object: Object, expected: &[&str]| {
            let found: Vec<String> = findings(&object).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected);
        };
        let spec =
            json!({"containers": [{"name": "a"}, {"name": "b", "securityContext": {"privileged": true}}]});
        let why = "containers[1].securityContext.privileged: Forbidden: disallowed by cluster policy";
        check(json!({"spec": spec}), &[&format!("spec.{why}")]);
        check(json!({"spec": {"template": {"spec": spec}}}), &[&format!("spec.template.spec.{why}")]);
        check(json!({"spec": {"containers": [{"securityContext": {"privileged": false}}]}}), &[]);
        check(json!({"data": {"spec": "privileged"}}), &[]);
    }
}
