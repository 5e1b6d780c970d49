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
pub mod raftpb {
    tonic::include_proto!("quarterdeck.raft.v1");
}
