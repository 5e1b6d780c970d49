//! The contracts of the client port, for reflection and for the JSON gateway: etcd's, and nothing else the build knows.

use prost::Message;
use prost_types::FileDescriptorSet;

/// The packages a client may ask about.
const PACKAGES: [&str; 5] = ["authpb", "etcdserverpb", "mvccpb", "v3electionpb", "v3lockpb"];
/// The services among them, and those that stand beside them on the port.
pub const SERVICES: [&str; 10] = [
    "etcdserverpb.KV",
    "etcdserverpb.Watch",
    "etcdserverpb.Lease",
    "etcdserverpb.Cluster",
    "etcdserverpb.Maintenance",
    "etcdserverpb.Auth",
    "v3lockpb.Lock",
    "v3electionpb.Election",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
];

/// The descriptors of these packages; the error says that the build is broken.
pub fn of_clients() -> Result<FileDescriptorSet, String> {
    let mut all = FileDescriptorSet::decode(proto::DESCRIPTORS).map_err(|error| error.to_string())?;
    all.file.retain(|file| PACKAGES.contains(&file.package()));
    Ok(all)
}
