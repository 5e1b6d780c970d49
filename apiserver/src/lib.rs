//! The Kubernetes 1.36 API from one pipeline over any etcd v3 store.
