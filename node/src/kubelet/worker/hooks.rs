//! Lifecycle hooks: a command, an HTTP request or a pause.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::kubelet::cri::Runtime;
use crate::kubelet::probes::runner::{Target, http_get, http_url};

/// Runs a hook, at most `limit` long. The error is for the log and the waiting reason.
pub async fn run(
    runtime: &Runtime,
    hook: &LifecycleHandler,
    container: &Container,
    container_id: &str,
    pod_ip: &str,
    limit: Duration,
) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let answer = runtime.exec_sync(container_id, command.clone(), limit).await;
        let answer = answer.map_err(|e| format!("Exec lifecycle hook ({command:?}) failed - error: {e}"))?;
        if answer.exit_code == 0 {
            return Ok(());
        }
        let output = String::from_utf8_lossy(&answer.stderr).into_owned();
        return Err(format!(
            "Exec lifecycle hook ({command:?}) failed - error: command exited with {}, message: {output:?}",
            answer.exit_code
        ));
    }
    if let Some(get) = &hook.http_get {
        let target = Target {
            container_id: container_id.to_owned(),
            pod_ip: pod_ip.to_owned(),
            container: container.clone(),
        };
        let url = http_url(get, &target)?;
        // Any answer counts: the hook is a message, not a question.
        return http_get(get, &url, limit)
            .await
            .map(drop)
            .map_err(|e| format!("HTTP lifecycle hook failed - error: {e}"));
    }
    if let Some(sleep) = &hook.sleep {
        let secs = u64::try_from(sleep.seconds).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(secs).min(limit)).await;
        return Ok(());
    }
    Err("Cannot run handler: invalid handler".into())
}
