//! Turns the runtime's answers into what a pod's state machine looks at.

use jiff::Timestamp;
use proto::cri;

use super::client::{CriError, Runtime};
use super::names;
use crate::kubelet::pod::observed::{Container, Observed, Sandbox, State, User};

/// What the details of containers add to the list: last words and where they are read from.
pub trait LastWords {
    /// The termination message of an exited container.
    fn read(&self, status: &cri::ContainerStatus) -> String;
}

/// Asks the runtime about one pod: two lists and one detail call per sandbox and container.
pub async fn observe_pod(runtime: &Runtime, uid: &str, words: &impl LastWords) -> Result<Observed, CriError> {
    let labels = || [(names::POD_UID.to_owned(), uid.to_owned())].into();
    let sandbox_filter = cri::PodSandboxFilter { label_selector: labels(), ..Default::default() };
    let container_filter = cri::ContainerFilter { label_selector: labels(), ..Default::default() };
    let (sandboxes, containers) = tokio::try_join!(
        runtime.list_pod_sandbox(Some(sandbox_filter)),
        runtime.list_containers(Some(container_filter))
    )?;
    let mut observed = Observed::default();
    for sandbox in sandboxes {
        match runtime.pod_sandbox_status(&sandbox.id).await {
            Ok(status) => observed.sandboxes.push(convert_sandbox(&status)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    for container in containers {
        match runtime.container_status(&container.id).await {
            Ok(status) => {
                let message = words.read(&status);
                observed.containers.push(convert_container(&container.pod_sandbox_id, status, message));
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    observed.sort();
    Ok(observed)
}

fn timestamp(nanos: i64) -> Option<Timestamp> {
    (nanos > 0).then(|| Timestamp::from_nanosecond(i128::from(nanos)).ok()).flatten()
}

fn convert_sandbox(status: &cri::PodSandboxStatus) -> Sandbox {
    let network = status.network.clone().unwrap_or_default();
    let namespaces =
        status.linux.as_ref().and_then(|l| l.namespaces.as_ref()).and_then(|n| n.options.as_ref());
    let more = network.additional_ips.into_iter().map(|ip| ip.ip);
    Sandbox {
        id: status.id.clone(),
        attempt: status.metadata.as_ref().map_or(0, |m| m.attempt),
        ready: status.state == cri::PodSandboxState::SandboxReady as i32,
        created_at: timestamp(status.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
        ips: std::iter::once(network.ip).chain(more).filter(|ip| !ip.is_empty()).collect(),
        host_network: namespaces.is_some_and(|n| n.network == cri::NamespaceMode::Node as i32),
    }
}

fn convert_container(sandbox_id: &str, status: cri::ContainerStatus, message: String) -> Container {
    let state = match cri::ContainerState::try_from(status.state) {
        Ok(cri::ContainerState::ContainerCreated) => State::Created,
        Ok(cri::ContainerState::ContainerRunning) => State::Running,
        Ok(cri::ContainerState::ContainerExited) => State::Exited,
        Ok(cri::ContainerState::ContainerUnknown) | Err(_) => State::Unknown,
    };
    let annotation = |key: &str| status.annotations.get(key).cloned().unwrap_or_default();
    let metadata = status.metadata.clone().unwrap_or_default();
    let user = status.user.clone().and_then(|u| u.linux);
    Container {
        id: status.id.clone(),
        name: metadata.name,
        sandbox_id: sandbox_id.to_owned(),
        restart_count: annotation(names::RESTART_COUNT).parse().unwrap_or(metadata.attempt),
        state,
        created_at: timestamp(status.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
        started_at: timestamp(status.started_at),
        finished_at: timestamp(status.finished_at),
        exit_code: status.exit_code,
        hash: annotation(names::CONTAINER_HASH),
        reason: status.reason,
        message,
        image: status.image.map(|i| i.image).unwrap_or_default(),
        image_ref: status.image_ref,
        user: user.map(|u| User { uid: u.uid, gid: u.gid, groups: u.supplemental_groups }),
    }
}
