//! A device plugin of our own behind a real socket, and a pod that asks for its devices.

use std::collections::HashMap;
use std::pin::Pin;
use std::time::Duration;

use node::runtime::bundled::WEB;
use proto::deviceplugin as api;
use proto::deviceplugin::device_plugin_server::{DevicePlugin, DevicePluginServer};
use proto::deviceplugin::registration_client::RegistrationClient;
use proto::podresources::ListPodResourcesRequest;
use proto::podresources::pod_resources_lister_client::PodResourcesListerClient;
use serde_json::json;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use crate::lab::Lab;
use node::kubelet::cri::client::unix_channel;

struct Fake;

type List = Pin<Box<dyn futures::Stream<Item = Result<api::ListAndWatchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl DevicePlugin for Fake {
    async fn get_device_plugin_options(
        &self,
        _: Request<api::Empty>,
    ) -> Result<Response<api::DevicePluginOptions>, Status> {
        Ok(Response::new(api::DevicePluginOptions::default()))
    }

    type ListAndWatchStream = List;

    async fn list_and_watch(&self, _: Request<api::Empty>) -> Result<Response<List>, Status> {
        let device =
            |id: &str, health: &str| api::Device { id: id.into(), health: health.into(), topology: None };
        let list = vec![device("a", "Unhealthy"), device("b", "Healthy")];
        let first = futures::stream::once(async { Ok(api::ListAndWatchResponse { devices: list }) });
        Ok(Response::new(Box::pin(futures::StreamExt::chain(first, futures::stream::pending()))))
    }

    async fn get_preferred_allocation(
        &self,
        _: Request<api::PreferredAllocationRequest>,
    ) -> Result<Response<api::PreferredAllocationResponse>, Status> {
        Err(Status::unimplemented("not offered"))
    }

    async fn allocate(
        &self,
        request: Request<api::AllocateRequest>,
    ) -> Result<Response<api::AllocateResponse>, Status> {
        let answers = request.into_inner().container_requests.into_iter().map(|container| {
            let envs = HashMap::from([("DEVICES".to_owned(), container.devices_ids.join(","))]);
            let device = api::DeviceSpec {
                container_path: "/dev/fake".into(),
                host_path: "/dev/null".into(),
                permissions: "rw".into(),
            };
            api::ContainerAllocateResponse { envs, devices: vec![device], ..Default::default() }
        });
        Ok(Response::new(api::AllocateResponse { container_responses: answers.collect() }))
    }

    async fn pre_start_container(
        &self,
        _: Request<api::PreStartContainerRequest>,
    ) -> Result<Response<api::PreStartContainerResponse>, Status> {
        Ok(Response::new(api::PreStartContainerResponse {}))
    }
}

/// Serves the plugin and registers it.
async fn register(lab: &Lab) {
    let dir = lab.path("device-plugins");
    let listener = tokio::net::UnixListener::bind(dir.join("fake.sock")).expect("bound");
    let server = tonic::transport::Server::builder().add_service(DevicePluginServer::new(Fake));
    tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
    let socket = dir.join("kubelet.sock").display().to_string();
    let mut client = RegistrationClient::new(unix_channel(&socket).await.expect("the kubelet's socket"));
    let mut request = api::RegisterRequest {
        version: "v1beta1".into(),
        endpoint: "fake.sock".into(),
        resource_name: "example.com/fake".into(),
        options: None,
    };
    client.register(request.clone()).await.expect("registered");
    request.version = "v9".into();
    let refused = client.register(request).await.expect_err("an unknown version");
    assert!(refused.message().contains("Supported version is \"v1beta1\""), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_counted_given_out_and_listed() {
    let Some(mut lab) = Lab::start("devices").await else { return };
    lab.wait_for_file(&lab.path("device-plugins/kubelet.sock"), Duration::from_secs(20)).await;
    register(&lab).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "gpu"},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": WEB, "args": ["sleep"],
            "resources": {"limits": {"example.com/fake": "1"}}}]}});
    lab.write_manifest("gpu", &pod);
    lab.wait_ready("gpu", Duration::from_secs(60)).await;
    assert!(lab.exec("gpu-lab", "c", "/web env").await.contains("DEVICES=b\n"));
    assert!(lab.exec("gpu-lab", "c", "/web ls /dev").await.contains("fake"));

    let socket = lab.path("pod-resources/kubelet.sock").display().to_string();
    let mut lister = PodResourcesListerClient::new(unix_channel(&socket).await.expect("the lister"));
    let listed = lister.list(ListPodResourcesRequest {}).await.expect("listed").into_inner();
    let devices = &listed.pod_resources[0].containers[0].devices[0];
    assert_eq!((devices.resource_name.as_str(), devices.device_ids[0].as_str()), ("example.com/fake", "b"));

    // The next agent does not know its plugin yet: nothing is started without its device.
    lab.restart_agent().await;
    let mut late = pod;
    late["metadata"]["name"] = json!("late");
    lab.write_manifest("late", &late);
    lab.wait_waiting("late", "CreateContainerConfigError", Duration::from_secs(60)).await;
    lab.remove_manifest("gpu");
    register(&lab).await;
    lab.wait_ready("late", Duration::from_secs(120)).await;
    assert!(lab.exec("late-lab", "c", "/web env").await.contains("DEVICES=b\n"));
    lab.remove_manifest("late");
    lab.wait_gone(Duration::from_secs(40)).await;
    lab.end().await;
}
