//! The parts of API objects that the scheduler reads, and no others.
//!
//! Owns the JSON shapes of the informers. Unknown fields are skipped while reading, which keeps decoding and
//! memory small; a malformed quantity reads as zero, as an object that is already in the API cannot be refused.

use std::collections::BTreeMap;

use machinery::quantity::Quantity;
use serde::{Deserialize, Deserializer};

/// A quantity, from a string or a number.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Qty(pub Quantity);

impl<'de> Deserialize<'de> for Qty {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Qty;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a quantity")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Qty, E> {
                Ok(Qty(Quantity::parse(text).unwrap_or_default()))
            }
            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Qty, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Qty, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Qty, E> {
                self.visit_str(&number.to_string())
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

pub type Map = BTreeMap<String, String>;
pub type Amounts = BTreeMap<String, Qty>;

macro_rules! wire {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident : $type:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name { $($(#[$field_meta])* #[serde(deserialize_with = "null_as_default")] pub $field: $type),* }
    };
}

/// `null` reads like an absent field.
fn null_as_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

wire!(OwnerReference { kind: String, name: String, uid: String, api_version: String, controller: bool });
wire!(Meta {
    name: String,
    namespace: String,
    uid: String,
    resource_version: String,
    generation: i64,
    creation_timestamp: Option<String>,
    deletion_timestamp: Option<String>,
    labels: Map,
    annotations: Map,
    owner_references: Vec<OwnerReference>,
});
wire!(Requirement { key: String, operator: String, values: Vec<String> });
wire!(LabelSelector { match_labels: Map, match_expressions: Vec<Requirement> });
wire!(NodeTerm { match_expressions: Vec<Requirement>, match_fields: Vec<Requirement> });
wire!(NodeSelector { node_selector_terms: Vec<NodeTerm> });
wire!(PreferredNodeTerm { weight: i32, preference: NodeTerm });
wire!(NodeAffinity {
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    required: Option<NodeSelector>,
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution")]
    preferred: Vec<PreferredNodeTerm>,
});
wire!(PodTerm {
    label_selector: Option<LabelSelector>,
    namespaces: Vec<String>,
    topology_key: String,
    namespace_selector: Option<LabelSelector>,
});
wire!(WeightedPodTerm { weight: i32, pod_affinity_term: PodTerm });
wire!(PodAffinity {
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    required: Vec<PodTerm>,
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution")]
    preferred: Vec<WeightedPodTerm>,
});
wire!(Affinity {
    node_affinity: Option<NodeAffinity>,
    pod_affinity: Option<PodAffinity>,
    pod_anti_affinity: Option<PodAffinity>,
});
wire!(Resources { requests: Amounts, limits: Amounts });
wire!(Port {
    host_port: i32,
    #[serde(rename = "hostIP")]
    host_ip: String,
    protocol: String,
});
wire!(RestartRule { action: String });
wire!(Container {
    name: String,
    image: String,
    resources: Resources,
    ports: Vec<Port>,
    restart_policy: String,
    restart_policy_rules: Vec<RestartRule>,
});
wire!(ClaimSource { claim_name: String });
wire!(GceDisk { pd_name: String, read_only: bool });
wire!(AwsDisk {
    #[serde(rename = "volumeID")]
    volume_id: String,
});
wire!(Iscsi { iqn: String, read_only: bool });
wire!(Rbd { monitors: Vec<String>, pool: String, image: String, read_only: bool });
wire!(AzureDisk {
    #[serde(rename = "diskURI")]
    uri: String,
    kind: String,
});
wire!(VolumeId {
    #[serde(rename = "volumeID")]
    volume_id: String,
});
wire!(Csi { driver: String, volume_handle: String });
wire!(ImageSource { reference: String });
wire!(Empty {});
wire!(Volume {
    name: String,
    persistent_volume_claim: Option<ClaimSource>,
    ephemeral: Option<Empty>,
    gce_persistent_disk: Option<GceDisk>,
    aws_elastic_block_store: Option<AwsDisk>,
    iscsi: Option<Iscsi>,
    rbd: Option<Rbd>,
    azure_disk: Option<AzureDisk>,
    cinder: Option<VolumeId>,
    portworx_volume: Option<VolumeId>,
    csi: Option<Csi>,
    image: Option<ImageSource>,
});
wire!(Toleration { key: String, operator: String, value: String, effect: String });
wire!(SpreadConstraint {
    max_skew: i32,
    topology_key: String,
    when_unsatisfiable: String,
    label_selector: Option<LabelSelector>,
    min_domains: Option<i32>,
    node_affinity_policy: Option<String>,
    node_taints_policy: Option<String>,
    match_label_keys: Vec<String>,
});
wire!(Gate { name: String });
wire!(PodSpec {
    node_name: String,
    scheduler_name: String,
    priority: i32,
    preemption_policy: String,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
    volumes: Vec<Volume>,
    resources: Option<Resources>,
    overhead: Amounts,
    node_selector: Map,
    affinity: Option<Affinity>,
    tolerations: Vec<Toleration>,
    topology_spread_constraints: Vec<SpreadConstraint>,
    scheduling_gates: Vec<Gate>,
    resource_claims: Vec<Empty>,
    host_network: bool,
    host_users: Option<bool>,
});
wire!(Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
    message: String,
});
wire!(ContainerStatus { name: String, resources: Option<Resources>, allocated_resources: Amounts });
wire!(PodStatus {
    phase: String,
    nominated_node_name: String,
    start_time: Option<String>,
    conditions: Vec<Condition>,
    container_statuses: Vec<ContainerStatus>,
    init_container_statuses: Vec<ContainerStatus>,
    resources: Option<Resources>,
    allocated_resources: Amounts,
});
wire!(Pod { metadata: Meta, spec: PodSpec, status: PodStatus });

wire!(Taint { key: String, value: String, effect: String });
wire!(NodeSpec { unschedulable: bool, taints: Vec<Taint> });
wire!(Image { names: Vec<String>, size_bytes: i64 });
wire!(NodeStatus { allocatable: Amounts, images: Vec<Image>, declared_features: Vec<String> });
wire!(Node { metadata: Meta, spec: NodeSpec, status: NodeStatus });

wire!(Namespace { metadata: Meta });
wire!(ServiceSpec { selector: Option<Map> });
wire!(Service { metadata: Meta, spec: ServiceSpec });
wire!(SelectorSpec { selector: Option<LabelSelector> });
wire!(Controller { metadata: Meta, spec: SelectorSpec });
wire!(ReplicationController { metadata: Meta, spec: ServiceSpec });
wire!(BudgetStatus { disruptions_allowed: i32, disrupted_pods: BTreeMap<String, serde_json::Value> });
wire!(Budget { metadata: Meta, spec: SelectorSpec, status: BudgetStatus });

wire!(ClaimReference { namespace: String, name: String, uid: String });
wire!(VolumeNodeAffinity { required: Option<NodeSelector> });
wire!(VolumeSpec {
    capacity: Amounts,
    access_modes: Vec<String>,
    claim_ref: Option<ClaimReference>,
    storage_class_name: String,
    volume_mode: String,
    volume_attributes_class_name: String,
    node_affinity: Option<VolumeNodeAffinity>,
    csi: Option<Csi>,
    gce_persistent_disk: Option<GceDisk>,
    aws_elastic_block_store: Option<AwsDisk>,
    azure_disk: Option<AzureDisk>,
    cinder: Option<VolumeId>,
    portworx_volume: Option<VolumeId>,
});
wire!(Phase { phase: String });
wire!(PersistentVolume { metadata: Meta, spec: VolumeSpec, status: Phase });
wire!(ClaimSpec {
    access_modes: Vec<String>,
    selector: Option<LabelSelector>,
    resources: Resources,
    volume_name: String,
    storage_class_name: Option<String>,
    volume_mode: String,
    volume_attributes_class_name: String,
});
wire!(PersistentVolumeClaim { metadata: Meta, spec: ClaimSpec, status: Phase });
wire!(TopologyRequirement { key: String, values: Vec<String> });
wire!(TopologyTerm { match_label_expressions: Vec<TopologyRequirement> });
wire!(StorageClass {
    metadata: Meta,
    provisioner: String,
    volume_binding_mode: Option<String>,
    allowed_topologies: Vec<TopologyTerm>,
});
wire!(DriverLimit { count: Option<i32> });
wire!(NodeDriver { name: String, allocatable: Option<DriverLimit> });
wire!(CsiNodeSpec { drivers: Vec<NodeDriver> });
wire!(CsiNode { metadata: Meta, spec: CsiNodeSpec });
wire!(CsiDriverSpec { storage_capacity: bool });
wire!(CsiDriver { metadata: Meta, spec: CsiDriverSpec });
wire!(CsiStorageCapacity {
    metadata: Meta,
    storage_class_name: String,
    capacity: Option<Qty>,
    maximum_volume_size: Option<Qty>,
    node_topology: Option<LabelSelector>,
});
wire!(AttachmentSource { persistent_volume_name: Option<String> });
wire!(AttachmentSpec { attacher: String, node_name: String, source: AttachmentSource });
wire!(VolumeAttachment { metadata: Meta, spec: AttachmentSpec });
