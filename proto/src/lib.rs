//! Wire contracts: etcd v3, Raft transport, CRI, CSI and the kubelet's plugins.
