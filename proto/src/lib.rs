//! Wire contracts: etcd v3, Raft transport, CRI, CSI and the kubelet's plugins.
//!
//! Owns the `.proto` files beside this crate and the code generated from them. Every `bytes` field is
//! `bytes::Bytes`. Holds no logic.

/// The encoded `FileDescriptorSet` of every contract, for reflection and JSON transcoding.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// etcd's versioned key-value pairs and events.
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}

/// etcd's users, roles and permissions.
pub mod authpb {
    tonic::include_proto!("authpb");
}

/// The etcd v3 API.
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}

/// etcd's Lock service.
pub mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}

/// etcd's Election service.
pub mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}

/// What members of one store say to each other.
pub use quarterdeck::raft::v1 as raftpb;

/// The generated code reaches other packages by its own package's depth, so the modules mirror it.
mod quarterdeck {
    pub mod raft {
        pub mod v1 {
            tonic::include_proto!("quarterdeck.raft.v1");
        }
    }
}

/// The container runtime interface, version 1.
#[allow(clippy::large_enum_variant, clippy::doc_lazy_continuation)]
pub mod cri {
    tonic::include_proto!("runtime.v1");
}

/// The container storage interface, version 1.
#[allow(clippy::large_enum_variant, clippy::doc_lazy_continuation)]
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// Device plugins of the kubelet.
pub mod deviceplugin {
    tonic::include_proto!("v1beta1");
}

/// Dynamic resource allocation drivers.
pub mod dra {
    tonic::include_proto!("k8s.io.kubelet.pkg.apis.dra.v1");
}

/// Registration of kubelet plugins found by their socket.
pub mod pluginregistration {
    tonic::include_proto!("pluginregistration");
}

/// Which devices, CPUs and claims each container holds.
pub mod podresources {
    tonic::include_proto!("v1");
}
