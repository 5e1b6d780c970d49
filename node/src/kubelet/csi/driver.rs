//! One driver's node service.

use std::collections::HashMap;
use std::time::Duration;

use proto::csi;
use proto::csi::node_client::NodeClient;
use proto::csi::node_service_capability::rpc::Type as Capability;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::kubelet::cri::client::unix_channel;

/// Time limit of a driver's call; drivers may format disks.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// A connected driver.
#[derive(Clone, Debug)]
pub struct Driver {
    /// Its name.
    pub name: String,
    channel: Channel,
    capabilities: Vec<i32>,
}

/// What a driver says about this machine.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    /// The driver's name of the machine.
    pub node_id: String,
    /// Volumes it can hold; 0 is no limit.
    pub volumes_max: i64,
    /// Where the machine is, as the driver sees it.
    pub topology: HashMap<String, String>,
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// The text of a failed call, in upstream's form.
pub fn text(status: Status) -> String {
    format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}

fn gone_is_done(answer: Result<(), Status>) -> Result<(), String> {
    match answer {
        Err(status) if status.code() == Code::NotFound => Ok(()),
        other => other.map_err(text),
    }
}

impl Driver {
    /// Connects to the driver's socket and asks what it can do.
    pub async fn connect(name: &str, endpoint: &str) -> Result<Self, String> {
        let channel = unix_channel(endpoint).await.map_err(|e| format!("{endpoint}: {e}"))?;
        let mut driver = Self { name: name.to_owned(), channel, capabilities: vec![] };
        let answer = driver.node().node_get_capabilities(timed(csi::NodeGetCapabilitiesRequest {})).await;
        let list = answer.map_err(text)?.into_inner().capabilities;
        driver.capabilities = list
            .into_iter()
            .filter_map(|c| c.r#type)
            .map(|csi::node_service_capability::Type::Rpc(rpc)| rpc.r#type)
            .collect();
        Ok(driver)
    }

    fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone())
    }

    /// True if the driver can do that.
    pub fn can(&self, capability: Capability) -> bool {
        self.capabilities.contains(&(capability as i32))
    }

    /// What the driver says about this machine.
    pub async fn info(&self) -> Result<NodeInfo, String> {
        let answer =
            self.node().node_get_info(timed(csi::NodeGetInfoRequest {})).await.map_err(text)?.into_inner();
        let topology = answer.accessible_topology.map(|t| t.segments).unwrap_or_default();
        Ok(NodeInfo { node_id: answer.node_id, volumes_max: answer.max_volumes_per_node, topology })
    }

    /// Makes a volume ready for this machine.
    pub async fn stage(&self, request: csi::NodeStageVolumeRequest) -> Result<(), String> {
        self.node().node_stage_volume(timed(request)).await.map(drop).map_err(text)
    }

    /// Undoes [`Self::stage`]. A volume that the driver does not know is not staged.
    pub async fn unstage(&self, volume_id: &str, path: &str) -> Result<(), String> {
        let request = csi::NodeUnstageVolumeRequest {
            volume_id: volume_id.to_owned(),
            staging_target_path: path.to_owned(),
        };
        gone_is_done(self.node().node_unstage_volume(timed(request)).await.map(drop))
    }

    /// Makes a volume ready for one pod.
    pub async fn publish(&self, request: csi::NodePublishVolumeRequest) -> Result<(), String> {
        self.node().node_publish_volume(timed(request)).await.map(drop).map_err(text)
    }

    /// Undoes [`Self::publish`]. A volume that the driver does not know is not published: it went with its pod when it
    /// was asked for the last time, or never came to be.
    pub async fn unpublish(&self, volume_id: &str, path: &str) -> Result<(), String> {
        let request =
            csi::NodeUnpublishVolumeRequest { volume_id: volume_id.to_owned(), target_path: path.to_owned() };
        gone_is_done(self.node().node_unpublish_volume(timed(request)).await.map(drop))
    }

    /// Grows the file system of a published volume.
    pub async fn expand(&self, request: csi::NodeExpandVolumeRequest) -> Result<i64, String> {
        let answer = self.node().node_expand_volume(timed(request)).await.map_err(text)?;
        Ok(answer.into_inner().capacity_bytes)
    }

    /// Use of a published volume: (bytes used, bytes total).
    pub async fn stats(&self, volume_id: &str, path: &str) -> Result<Vec<csi::VolumeUsage>, String> {
        let request = csi::NodeGetVolumeStatsRequest {
            volume_id: volume_id.to_owned(),
            volume_path: path.to_owned(),
            ..Default::default()
        };
        Ok(self.node().node_get_volume_stats(timed(request)).await.map_err(text)?.into_inner().usage)
    }
}
