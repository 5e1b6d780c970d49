//! What no step may take for absent: limits, quotas, policies and classes that cannot be read now.

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::contract::{Admission, Operation, RequestContext, RequestInfo, UserInfo};
use crate::testing::Veiled;

/// A pod's creation in a cluster that cannot be read.
fn context() -> RequestContext {
    RequestContext {
        user: UserInfo::default(),
        info: RequestInfo {
            is_resource: true,
            verb: "create".to_owned(),
            version: "v1".to_owned(),
            resource: "pods".to_owned(),
            namespace: "ns".to_owned(),
            ..RequestInfo::default()
        },
        now: jiff::Timestamp::UNIX_EPOCH,
        dry_run: false,
        warnings: parking_lot::Mutex::default(),
        cluster: Arc::new(Veiled::default()),
    }
}

#[tokio::test]
async fn what_cannot_be_read_admits_nothing() {
    let steps: [Arc<dyn Plugin>; 6] = [
        Arc::new(namespace_lifecycle::NamespaceLifecycle),
        Arc::new(limit_ranger::LimitRanger::default()),
        Arc::new(pod_security::PodSecurity),
        Arc::new(priority::Priority),
        Arc::new(topology_labels::PodTopologyLabels),
        Arc::new(quota::ResourceQuota::default()),
    ];
    for step in steps {
        let (ctx, options) = (context(), json!({}));
        let mut pod = json!({"metadata": {"name": "p", "namespace": "ns"},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
        let operation = Operation::Create;
        let object = Some(&mut pod);
        let mut request =
            Admission { ctx: &ctx, operation, kind: "Pod", object, old: None, options: &options };
        let mutated = step.mutate(&mut request).await;
        let outcome = match mutated {
            Ok(()) => step.validate(&request).await,
            refused => refused,
        };
        assert_eq!(outcome.map_err(|error| error.code()), Err(503), "{}", step.name());
    }
}
