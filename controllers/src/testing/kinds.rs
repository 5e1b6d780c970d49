//! From JSON to the typed caches, for tests.

use k8s_openapi::api::{
    admissionregistration::v1 as admission, apps::v1 as apps, autoscaling::v2 as autoscaling,
    batch::v1 as batch, certificates::v1 as certificates, coordination::v1 as coordination, core::v1 as core,
    discovery::v1 as discovery, networking::v1 as networking, policy::v1 as policy, rbac::v1 as rbac,
    storage::v1 as storage,
};
use serde_json::Value;

use crate::runtime::store::Store;
use crate::runtime::stores::Stores;
use crate::runtime::{Gvr, Object};

fn decode<K: Object>(value: &Value) -> K {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error} in {value}"))
}

fn put<K: Object>(store: Store<K>, value: &Value, delete: bool) {
    if delete { store.delete(&decode::<K>(value)) } else { store.apply(decode::<K>(value)) }
}

macro_rules! kinds {
    ($($type:ty),* $(,)?) => {
        fn change(stores: &Stores, value: &Value, delete: bool) {
            let kind = value["kind"].as_str().unwrap_or("");
            $(if kind == Gvr::of::<$type>().kind {
                return put(stores.of::<$type>(), value, delete);
            })*
        }

        /// The resource of a kind's name, for those this table knows.
        pub fn gvr_of(kind: &str) -> Option<Gvr> {
            $(if kind == Gvr::of::<$type>().kind {
                return Some(Gvr::of::<$type>());
            })*
            None
        }

        /// All resources of the table.
        pub fn all() -> Vec<Gvr> {
            vec![$(Gvr::of::<$type>()),*]
        }
    };
}

kinds! {
    core::Pod, core::Node, core::Namespace, core::ServiceAccount, core::ConfigMap, core::Secret, core::Service,
    core::Endpoints, core::ReplicationController, core::ResourceQuota, core::PersistentVolume,
    core::PersistentVolumeClaim, apps::Deployment, apps::ReplicaSet, apps::StatefulSet, apps::DaemonSet,
    apps::ControllerRevision, batch::Job, batch::CronJob, autoscaling::HorizontalPodAutoscaler,
    certificates::CertificateSigningRequest, coordination::Lease, discovery::EndpointSlice,
    policy::PodDisruptionBudget, rbac::ClusterRole, storage::StorageClass, storage::VolumeAttachment, storage::VolumeAttributesClass,
    storage::CSINode, storage::CSIDriver, networking::ServiceCIDR, networking::IPAddress, networking::Ingress,
    admission::ValidatingAdmissionPolicy,
}

/// Puts an object into the cache of its kind. Kinds that are not in the table are ignored, as a process ignores
/// kinds it has no cache for.
pub fn apply(stores: &Stores, value: &Value) {
    change(stores, value, false);
}

/// Removes an object from the cache of its kind.
pub fn delete(stores: &Stores, value: &Value) {
    change(stores, value, true);
}
