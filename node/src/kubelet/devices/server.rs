//! The sockets that device plugins register at, and that monitors ask who has which device.

use std::path::Path;
use std::sync::Arc;

use proto::deviceplugin as plugin_api;
use proto::deviceplugin::registration_server::{Registration, RegistrationServer};
use proto::podresources as api;
use proto::podresources::pod_resources_lister_server::{PodResourcesLister, PodResourcesListerServer};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::ledger::Devices;
use super::manager::Manager;
use crate::kubelet::pod::spec;
use crate::kubelet::worker::Pool;
use crate::kubelet::worker::pool::View;

/// The kubelet's name in both folders.
const SOCKET: &str = "kubelet.sock";

/// Serves both sockets until the token fires.
pub async fn run(pool: Arc<Pool>, shutdown: CancellationToken) {
    let manager = Arc::clone(&pool.context().devices);
    let plugins = manager.dir().to_owned();
    clear_sockets(&plugins);
    let resources = pool.context().volumes.layout().root().join("pod-resources");
    let registration = RegistrationServer::new(Register(manager));
    let lister = PodResourcesListerServer::new(Lister(pool));
    let (one, two) = (shutdown.clone(), shutdown);
    tokio::join!(
        serve(&plugins, Server::builder().add_service(registration), one),
        serve(&resources, Server::builder().add_service(lister), two),
    );
}

/// Sockets of an earlier run: plugins see theirs vanish and register anew.
fn clear_sockets(dir: &Path) {
    use std::os::unix::fs::FileTypeExt;
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_socket())
            && let Err(error) = std::fs::remove_file(entry.path())
        {
            tracing::warn!(%error, path = %entry.path().display(), "an old socket stays");
        }
    }
}

async fn serve(dir: &Path, router: tonic::transport::server::Router, shutdown: CancellationToken) {
    let path = dir.join(SOCKET);
    let open = || {
        std::fs::create_dir_all(dir)?;
        if path.exists() {
            std::fs::remove_file(&path)?;
        }
        UnixListener::bind(&path)
    };
    let listener = match open() {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, path = %path.display(), "a plugin socket cannot be opened");
            return;
        }
    };
    let incoming = UnixListenerStream::new(listener);
    if let Err(error) = router.serve_with_incoming_shutdown(incoming, shutdown.cancelled()).await {
        tracing::error!(%error, path = %path.display(), "a plugin socket ended");
    }
}

struct Register(Arc<Manager>);

#[tonic::async_trait]
impl Registration for Register {
    async fn register(
        &self,
        request: Request<plugin_api::RegisterRequest>,
    ) -> Result<Response<plugin_api::Empty>, Status> {
        self.0.register(request.into_inner()).await.map_err(Status::invalid_argument)?;
        Ok(Response::new(plugin_api::Empty {}))
    }
}

struct Lister(Arc<Pool>);

#[tonic::async_trait]
impl PodResourcesLister for Lister {
    async fn list(
        &self,
        _: Request<api::ListPodResourcesRequest>,
    ) -> Result<Response<api::ListPodResourcesResponse>, Status> {
        let pod_resources = self.0.views().iter().map(|view| self.of(view)).collect();
        Ok(Response::new(api::ListPodResourcesResponse { pod_resources }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<api::AllocatableResourcesRequest>,
    ) -> Result<Response<api::AllocatableResourcesResponse>, Status> {
        let devices = self.0.context().devices.with_ledger(|ledger| {
            let all = ledger.resources().flat_map(|(resource, devices)| {
                devices.keys().map(|id| container_devices(resource, id, Some(devices)))
            });
            all.collect()
        });
        Ok(Response::new(api::AllocatableResourcesResponse { devices, ..Default::default() }))
    }

    async fn get(
        &self,
        request: Request<api::GetPodResourcesRequest>,
    ) -> Result<Response<api::GetPodResourcesResponse>, Status> {
        let request = request.into_inner();
        let view = self.0.find(&request.pod_namespace, &request.pod_name);
        let view = view.ok_or_else(|| {
            Status::not_found(format!(
                "pod {} in namespace {} not found",
                request.pod_name, request.pod_namespace
            ))
        })?;
        Ok(Response::new(api::GetPodResourcesResponse { pod_resources: Some(self.of(&view)) }))
    }
}

fn container_devices(resource: &str, id: &str, known: Option<&Devices>) -> api::ContainerDevices {
    let nodes = known.and_then(|d| d.get(id)).map(|d| d.numa_nodes.clone()).unwrap_or_default();
    let topology = api::TopologyInfo { nodes: nodes.into_iter().map(|id| api::NumaNode { id }).collect() };
    api::ContainerDevices {
        resource_name: resource.to_owned(),
        device_ids: vec![id.to_owned()],
        topology: Some(topology),
    }
}

impl Lister {
    fn of(&self, view: &View) -> api::PodResources {
        let uid = spec::uid(&view.pod);
        let sidecars = spec::init_containers(&view.pod).iter().filter(|c| spec::is_sidecar(c));
        let containers = sidecars.chain(spec::containers(&view.pod)).map(|container| {
            let owner = (uid.to_owned(), container.name.clone());
            let devices = self.0.context().devices.with_ledger(|ledger| {
                let held = ledger.held(&owner).into_iter().flatten();
                held.flat_map(|(resource, ids)| {
                    ids.iter().map(|id| container_devices(resource, id, ledger.devices(resource)))
                })
                .collect()
            });
            api::ContainerResources { name: container.name.clone(), devices, ..Default::default() }
        });
        api::PodResources {
            name: spec::name(&view.pod).to_owned(),
            namespace: spec::namespace(&view.pod).to_owned(),
            containers: containers.collect(),
        }
    }
}
