//! Talks to device plugins: takes their registrations, follows their lists, and asks them to allocate when a container
//! is about to be made. What was given out outlives the agent in a file.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;
use proto::cri;
use proto::deviceplugin as api;
use proto::deviceplugin::device_plugin_client::DevicePluginClient;
use tonic::transport::Channel;

use super::ledger::{Device, Devices, Ledger, Owner};
use crate::kubelet::cri::client::{timed, unix_channel};
use crate::kubelet::pod::spec;
use crate::kubelet::quantity;
use crate::whole_file;

/// The protocol's version.
pub const VERSION: &str = "v1beta1";
/// A plugin may take this long to answer.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// A plugin that is away for this long is gone for good (upstream's endpoint grace).
const GONE_AFTER: Duration = Duration::from_secs(300);
/// What was given out, under the folder of plugins.
const CHECKPOINT: &str = "quarterdeck_devices.json";

#[derive(Clone)]
struct Plugin {
    client: DevicePluginClient<Channel>,
    options: api::DevicePluginOptions,
    /// Tells registrations of the same resource apart.
    generation: u64,
}

/// What plugins want a container to get.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Granted {
    /// Variables.
    pub env: BTreeMap<String, String>,
    /// Mounts.
    pub mounts: Vec<cri::Mount>,
    /// Device files.
    pub devices: Vec<cri::Device>,
    /// Annotations for the runtime.
    pub annotations: BTreeMap<String, String>,
    /// Devices by CDI name.
    pub cdi_devices: Vec<cri::CdiDevice>,
}

/// The manager. Shared by every pod's worker and the node's status.
pub struct Manager {
    dir: PathBuf,
    ledger: Mutex<Ledger>,
    plugins: Mutex<HashMap<String, Plugin>>,
    /// Plugins' answers by container, for its restarts.
    granted: Mutex<HashMap<Owner, Granted>>,
    /// One allocation at a time: what is free must not change between choosing and giving.
    turn: tokio::sync::Mutex<()>,
}

impl Manager {
    /// No plugins yet; `dir` is the folder of their sockets.
    pub fn new(dir: PathBuf) -> Arc<Self> {
        let saved = std::fs::read(dir.join(CHECKPOINT)).ok();
        let ledger: Ledger = saved.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Arc::new(Self {
            dir,
            ledger: Mutex::new(ledger),
            plugins: Mutex::default(),
            granted: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        })
    }

    /// The folder of sockets.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Capacity and allocatable of every resource.
    pub fn totals(&self) -> Vec<(String, u64, u64)> {
        self.ledger.lock().totals()
    }

    /// Reads the books.
    pub fn with_ledger<T>(&self, read: impl FnOnce(&Ledger) -> T) -> T {
        read(&self.ledger.lock())
    }

    /// Takes a registration: dials the plugin back and follows its list. The error goes back to the plugin.
    pub async fn register(self: &Arc<Self>, request: api::RegisterRequest) -> Result<(), String> {
        if request.version != VERSION {
            return Err(format!(
                "requested API version {:?} is not supported by kubelet. Supported version is \"{VERSION}\"",
                request.version
            ));
        }
        let resource = request.resource_name;
        let extended = resource.split_once('/').is_some_and(|(domain, _)| !domain.ends_with("kubernetes.io"));
        if !extended {
            return Err(format!("the ResourceName \"{resource}\" is invalid"));
        }
        let socket = self.dir.join(&request.endpoint);
        let channel = unix_channel(&socket.display().to_string()).await.map_err(|e| e.to_string())?;
        let mut plugins = self.plugins.lock();
        let generation = plugins.get(&resource).map_or(0, |p| p.generation + 1);
        let plugin = Plugin {
            client: DevicePluginClient::new(channel),
            options: request.options.unwrap_or_default(),
            generation,
        };
        plugins.insert(resource.clone(), plugin.clone());
        drop(plugins);
        tracing::info!(resource, "a device plugin registered");
        tokio::spawn(Arc::clone(self).follow(resource, plugin));
        Ok(())
    }

    async fn follow(self: Arc<Self>, resource: String, mut plugin: Plugin) {
        match plugin.client.list_and_watch(api::Empty {}).await {
            Ok(answer) => {
                let mut stream = answer.into_inner();
                while let Ok(Some(list)) = stream.message().await {
                    if !self.is_current(&resource, &plugin) {
                        return;
                    }
                    let is_new = self.ledger.lock().set(&resource, convert(list.devices));
                    if is_new {
                        self.save();
                    }
                }
            }
            Err(status) => tracing::warn!(%status, resource, "a device plugin lists nothing"),
        }
        if !self.is_current(&resource, &plugin) {
            return;
        }
        tracing::info!(resource, "a device plugin is away");
        self.ledger.lock().stop(&resource);
        tokio::time::sleep(GONE_AFTER).await;
        if self.is_current(&resource, &plugin) {
            self.plugins.lock().remove(&resource);
            self.ledger.lock().remove(&resource);
            self.save();
        }
    }

    fn is_current(&self, resource: &str, plugin: &Plugin) -> bool {
        self.plugins.lock().get(resource).is_some_and(|p| p.generation == plugin.generation)
    }

    /// Gives a container its devices, the same ones at every start; nothing for one that asks for none. `is_there`
    /// tells which pods still exist.
    pub async fn allocate(
        &self,
        pod: &Pod,
        container: &Container,
        is_there: impl Fn(&str) -> bool,
    ) -> Result<Granted, String> {
        let wanted = self.wanted(container);
        if wanted.is_empty() {
            return Ok(Granted::default());
        }
        let owner = (spec::uid(pod).to_owned(), container.name.clone());
        let _turn = self.turn.lock().await;
        self.ledger.lock().keep(&is_there);
        self.granted.lock().retain(|(uid, _), _| is_there(uid));
        let known = self.granted.lock().get(&owner).cloned();
        let mut granted = Granted::default();
        for (resource, size) in wanted {
            let ids = self.choose(&owner, &resource, size).await?;
            if known.is_none() {
                match self.ask(&resource, &ids).await {
                    Ok(answer) => granted.add(answer),
                    Err(text) => {
                        self.ledger.lock().take_back(&owner, &resource);
                        return Err(format!("Allocate failed due to {text}, which is unexpected"));
                    }
                }
            }
            self.before_start(&resource, &ids).await?;
        }
        self.save();
        let granted = known.unwrap_or(granted);
        self.granted.lock().insert(owner, granted.clone());
        Ok(granted)
    }

    fn wanted(&self, container: &Container) -> Vec<(String, usize)> {
        let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
        let ledger = self.ledger.lock();
        let all = limits.into_iter().flatten().filter(|(name, _)| ledger.knows(name));
        all.map(|(name, amount)| (name.clone(), usize::try_from(quantity::units(amount)).unwrap_or(0)))
            .filter(|(_, size)| *size > 0)
            .collect()
    }

    async fn choose(&self, owner: &Owner, resource: &str, size: usize) -> Result<Vec<String>, String> {
        let choice = self.ledger.lock().choice(owner, resource, size);
        let choice =
            choice.map_err(|shortage| format!("Allocate failed due to {shortage}, which is unexpected"))?;
        let Some(choice) = choice else {
            let ledger = self.ledger.lock();
            let held = ledger.held(owner).and_then(|held| held.get(resource));
            return Ok(held.into_iter().flatten().cloned().collect());
        };
        let plugin = self.plugins.lock().get(resource).cloned();
        let mut preferred = Vec::new();
        if let Some(mut plugin) = plugin.filter(|p| p.options.get_preferred_allocation_available) {
            let request = api::ContainerPreferredAllocationRequest {
                available_device_i_ds: choice.available.iter().cloned().collect(),
                must_include_device_i_ds: choice.must.iter().cloned().collect(),
                allocation_size: i32::try_from(choice.size).unwrap_or(i32::MAX),
            };
            let request = api::PreferredAllocationRequest { container_requests: vec![request] };
            match plugin.client.get_preferred_allocation(timed(request, CALL_LIMIT)).await {
                Ok(answer) => {
                    let answers = answer.into_inner().container_responses;
                    preferred = answers.into_iter().flat_map(|a| a.device_i_ds).collect();
                }
                Err(status) => tracing::warn!(%status, resource, "a device plugin has no preference"),
            }
        }
        Ok(self.ledger.lock().give(owner, resource, &choice, &preferred).into_iter().collect())
    }

    async fn ask(&self, resource: &str, ids: &[String]) -> Result<api::ContainerAllocateResponse, String> {
        let mut plugin = self.plugin(resource)?;
        let request = api::ContainerAllocateRequest { devices_ids: ids.to_vec() };
        let request = api::AllocateRequest { container_requests: vec![request] };
        let answer = plugin.client.allocate(timed(request, CALL_LIMIT)).await;
        let answers =
            answer.map_err(|s| format!("rpc error: {}", s.message()))?.into_inner().container_responses;
        answers.into_iter().next().ok_or_else(|| "no containers in device allocation response".to_owned())
    }

    async fn before_start(&self, resource: &str, ids: &[String]) -> Result<(), String> {
        let mut plugin = self.plugin(resource)?;
        if !plugin.options.pre_start_required {
            return Ok(());
        }
        let request = api::PreStartContainerRequest { devices_ids: ids.to_vec() };
        let done = plugin.client.pre_start_container(timed(request, CALL_LIMIT)).await;
        done.map(drop).map_err(|s| format!("device plugin PreStartContainer rpc failed: {}", s.message()))
    }

    fn plugin(&self, resource: &str) -> Result<Plugin, String> {
        let plugin = self.plugins.lock().get(resource).cloned();
        plugin.ok_or_else(|| format!("no device plugin serves {resource} at the moment"))
    }

    /// Losing the file costs plugins' other choices after a restart of the agent, no more: it is logged.
    fn save(&self) {
        let text = serde_json::to_vec(&*self.ledger.lock()).unwrap_or_default();
        let path = self.dir.join(CHECKPOINT);
        if let Err(error) = whole_file::replace(&path, &text) {
            tracing::warn!(%error, path = %path.display(), "devices given out are not remembered");
        }
    }
}

fn convert(devices: Vec<api::Device>) -> Devices {
    let one = |device: api::Device| {
        let numa_nodes = device.topology.map(|t| t.nodes.into_iter().map(|n| n.id).collect());
        (
            device.id,
            Device { healthy: device.health == "Healthy", numa_nodes: numa_nodes.unwrap_or_default() },
        )
    };
    devices.into_iter().map(one).collect()
}

impl Granted {
    fn add(&mut self, answer: api::ContainerAllocateResponse) {
        self.env.extend(answer.envs);
        self.annotations.extend(answer.annotations);
        self.mounts.extend(answer.mounts.into_iter().map(|m| cri::Mount {
            container_path: m.container_path,
            host_path: m.host_path,
            readonly: m.read_only,
            ..Default::default()
        }));
        self.devices.extend(answer.devices.into_iter().map(|d| cri::Device {
            container_path: d.container_path,
            host_path: d.host_path,
            permissions: d.permissions,
        }));
        self.cdi_devices.extend(answer.cdi_devices.into_iter().map(|d| cri::CdiDevice { name: d.name }));
    }
}
