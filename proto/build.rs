//! Compiles every contract with protox (no protoc needed) into prost types and tonic services.
//!
//! A new contract is one more line in `CONTRACTS`, plus its module in `src/lib.rs`.

use std::{env, fs, io, path::PathBuf};

/// Every `.proto` file of the project, relative to this folder.
const CONTRACTS: &[&str] = &[
    "etcd/mvccpb.proto",
    "etcd/authpb.proto",
    "etcd/etcdserverpb.proto",
    "etcd/v3lockpb.proto",
    "etcd/v3electionpb.proto",
    "etcd/raftpb.proto",
    "cri/runtime.proto",
    "csi/csi.proto",
    "kubelet/deviceplugin.proto",
    "kubelet/dra.proto",
    "kubelet/pluginregistration.proto",
    "kubelet/podresources.proto",
];

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    for contract in CONTRACTS {
        println!("cargo:rerun-if-changed={contract}");
    }
    let descriptors = protox::compile(CONTRACTS, ["."]).map_err(io::Error::other)?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("OUT_DIR is not set"))?);
    // Reflection and the JSON gateway read the descriptors at run time.
    fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    // `bytes` fields are `bytes::Bytes`: keys and values are shared between log, store and watchers.
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)
}
