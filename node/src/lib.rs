//! One machine: kubelet, service proxy, pod network and cluster DNS.
