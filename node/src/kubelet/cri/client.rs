//! A client of the runtime's two gRPC services over its unix socket. One attempt per call: who calls decides
//! about retries. Every call has a time limit, so a hanging runtime never holds a pod's worker for ever.

use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use proto::cri;
use proto::cri::image_service_client::ImageServiceClient;
use proto::cri::runtime_service_client::RuntimeServiceClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};

/// Time limit of ordinary calls, upstream's `runtimeRequestTimeout`.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// A runtime that does not say how it is for this long is down, as upstream counts it.
pub const STATUS_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer accepted: lists of thousands of containers fit.
const MESSAGE_BYTES_MAX: usize = 32 << 20;

/// A call to the runtime failed.
#[derive(Debug, thiserror::Error)]
pub enum CriError {
    /// The socket does not answer; try again later.
    #[error("no container runtime answers at {endpoint}: {source}")]
    Connect {
        /// The socket's path.
        endpoint: String,
        /// Why.
        source: tonic::transport::Error,
    },
    /// The runtime refused. The text is the runtime's own; upstream shows it in the same form.
    #[error("rpc error: code = {code:?} desc = {message}")]
    Call {
        /// gRPC's code.
        code: Code,
        /// The runtime's words.
        message: String,
    },
    /// The runtime's answer lacks what it must have.
    #[error("the runtime's answer to {call} has no {field}")]
    Incomplete {
        /// The call.
        call: &'static str,
        /// The missing field.
        field: &'static str,
    },
}

impl From<Status> for CriError {
    fn from(status: Status) -> Self {
        CriError::Call { code: status.code(), message: status.message().to_owned() }
    }
}

impl CriError {
    /// True if the thing asked for is not there (any more).
    pub fn is_not_found(&self) -> bool {
        matches!(self, CriError::Call { code: Code::NotFound, .. })
    }

    /// True if the runtime does not know the call.
    pub fn is_unimplemented(&self) -> bool {
        matches!(self, CriError::Call { code: Code::Unimplemented, .. })
    }

    /// The runtime's own words.
    pub fn message(&self) -> String {
        match self {
            CriError::Call { message, .. } => message.clone(),
            other => other.to_string(),
        }
    }
}

/// Who the runtime is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeVersion {
    /// `containerd`, `cri-o`: the scheme of container ids.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// A connected runtime. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtime {
    channel: Channel,
    version: RuntimeVersion,
}

type Answer<T> = Result<T, CriError>;

/// The socket's path of an endpoint written as `unix:///run/x.sock` or as a bare path.
pub fn socket_path(endpoint: &str) -> &str {
    endpoint.strip_prefix("unix://").unwrap_or(endpoint)
}

/// Opens a channel to a unix socket.
pub async fn unix_channel(endpoint: &str) -> Result<Channel, tonic::transport::Error> {
    let path = Path::new(socket_path(endpoint)).to_owned();
    Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await
}

impl Runtime {
    /// Connects and asks who is there.
    pub async fn connect(endpoint: &str) -> Answer<Self> {
        let channel = unix_channel(endpoint)
            .await
            .map_err(|source| CriError::Connect { endpoint: endpoint.to_owned(), source })?;
        let version = RuntimeVersion { name: String::new(), version: String::new() };
        let mut runtime = Self { channel, version };
        let request = cri::VersionRequest { version: "v1".into() };
        let answer = runtime.runtime().version(timed(request, CALL_TIMEOUT)).await?.into_inner();
        runtime.version = RuntimeVersion { name: answer.runtime_name, version: answer.runtime_version };
        Ok(runtime)
    }

    /// Who the runtime is.
    pub fn version(&self) -> &RuntimeVersion {
        &self.version
    }

    /// The runtime service, for calls without a method here.
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The image service.
    pub fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The runtime's conditions (`RuntimeReady`, `NetworkReady`) and features.
    pub async fn status(&self) -> Answer<cri::StatusResponse> {
        let request = timed(cri::StatusRequest { verbose: false }, STATUS_TIMEOUT);
        Ok(self.runtime().status(request).await?.into_inner())
    }

    /// Makes and starts a sandbox; its id.
    pub async fn run_pod_sandbox(&self, config: cri::PodSandboxConfig, handler: &str) -> Answer<String> {
        let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler: handler.to_owned() };
        // Network plugins may take long: twice the ordinary limit, as upstream allows.
        Ok(self
            .runtime()
            .run_pod_sandbox(timed(request, CALL_TIMEOUT * 2))
            .await?
            .into_inner()
            .pod_sandbox_id)
    }

    /// Stops a sandbox and everything in it; one that is gone counts as stopped.
    pub async fn stop_pod_sandbox(&self, id: &str) -> Answer<()> {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_fine(self.runtime().stop_pod_sandbox(timed(request, CALL_TIMEOUT)).await)
    }

    /// Removes a sandbox and everything in it.
    pub async fn remove_pod_sandbox(&self, id: &str) -> Answer<()> {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_fine(self.runtime().remove_pod_sandbox(timed(request, CALL_TIMEOUT)).await)
    }

    /// Every sandbox that matches.
    pub async fn list_pod_sandbox(
        &self,
        filter: Option<cri::PodSandboxFilter>,
    ) -> Answer<Vec<cri::PodSandbox>> {
        let request = cri::ListPodSandboxRequest { filter };
        Ok(self.runtime().list_pod_sandbox(timed(request, CALL_TIMEOUT)).await?.into_inner().items)
    }

    /// One sandbox in detail.
    pub async fn pod_sandbox_status(&self, id: &str) -> Answer<cri::PodSandboxStatus> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer = self.runtime().pod_sandbox_status(timed(request, CALL_TIMEOUT)).await?.into_inner();
        answer.status.ok_or(CriError::Incomplete { call: "PodSandboxStatus", field: "status" })
    }

    /// Makes a container in a sandbox; its id.
    pub async fn create_container(
        &self,
        sandbox_id: &str,
        config: cri::ContainerConfig,
        sandbox_config: cri::PodSandboxConfig,
    ) -> Answer<String> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        Ok(self.runtime().create_container(timed(request, CALL_TIMEOUT)).await?.into_inner().container_id)
    }

    /// Starts a created container.
    pub async fn start_container(&self, id: &str) -> Answer<()> {
        let request = cri::StartContainerRequest { container_id: id.to_owned() };
        self.runtime().start_container(timed(request, CALL_TIMEOUT)).await?;
        Ok(())
    }

    /// Asks a container to end and kills it after `grace_secs`; one that is gone counts as stopped.
    pub async fn stop_container(&self, id: &str, grace_secs: i64) -> Answer<()> {
        let request = cri::StopContainerRequest { container_id: id.to_owned(), timeout: grace_secs };
        let limit = CALL_TIMEOUT + Duration::from_secs(u64::try_from(grace_secs).unwrap_or(0));
        gone_is_fine(self.runtime().stop_container(timed(request, limit)).await)
    }

    /// Removes a container.
    pub async fn remove_container(&self, id: &str) -> Answer<()> {
        let request = cri::RemoveContainerRequest { container_id: id.to_owned() };
        gone_is_fine(self.runtime().remove_container(timed(request, CALL_TIMEOUT)).await)
    }

    /// Every container that matches.
    pub async fn list_containers(&self, filter: Option<cri::ContainerFilter>) -> Answer<Vec<cri::Container>> {
        let request = cri::ListContainersRequest { filter };
        Ok(self.runtime().list_containers(timed(request, CALL_TIMEOUT)).await?.into_inner().containers)
    }

    /// One container in detail.
    pub async fn container_status(&self, id: &str) -> Answer<cri::ContainerStatus> {
        let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = self.runtime().container_status(timed(request, CALL_TIMEOUT)).await?.into_inner();
        answer.status.ok_or(CriError::Incomplete { call: "ContainerStatus", field: "status" })
    }

    /// Runs a command in a container to its end.
    pub async fn exec_sync(
        &self,
        id: &str,
        cmd: Vec<String>,
        limit: Duration,
    ) -> Answer<cri::ExecSyncResponse> {
        let timeout = i64::try_from(limit.as_secs().max(1)).unwrap_or(i64::MAX);
        let request = cri::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout };
        // The runtime enforces the limit itself; ours only catches a runtime that does not.
        Ok(self.runtime().exec_sync(timed(request, limit + Duration::from_secs(10))).await?.into_inner())
    }

    /// Makes the runtime open a rotated log anew.
    pub async fn reopen_container_log(&self, id: &str) -> Answer<()> {
        let request = cri::ReopenContainerLogRequest { container_id: id.to_owned() };
        self.runtime().reopen_container_log(timed(request, CALL_TIMEOUT)).await?;
        Ok(())
    }

    /// Changes a running container's resources.
    pub async fn update_resources(&self, id: &str, linux: cri::LinuxContainerResources) -> Answer<()> {
        let request = cri::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(linux),
            ..Default::default()
        };
        self.runtime().update_container_resources(timed(request, CALL_TIMEOUT)).await?;
        Ok(())
    }
}

/// A request with a time limit that the server sees too.
pub fn timed<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

fn gone_is_fine<T>(result: Result<tonic::Response<T>, Status>) -> Answer<()> {
    match result {
        Ok(_) => Ok(()),
        Err(status) if status.code() == Code::NotFound => Ok(()),
        Err(status) => Err(status.into()),
    }
}
