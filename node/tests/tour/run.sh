#!/usr/bin/env bash
# The node's promises, one by one, with kubectl against a running cluster with one real node of this machine:
#   KUBECONFIG=… node/tests/tour/run.sh [pods] [volumes] [network] [kubelet]
# It works in the namespace "tour" and removes it at the end. Needs root, ctr, busybox (static) and curl.
set -uo pipefail
cd "$(dirname "$0")"
. ./lib.sh
work=$(mktemp -d /tmp/tour.XXXXXX)
NODE=$(kubectl get nodes -o jsonpath='{.items[0].metadata.name}')
NODE_IP=$(kubectl get node "$NODE" -o jsonpath='{.status.addresses[?(@.type=="InternalIP")].address}')
finish() {
    kubectl delete namespace tour --wait=true --timeout=90s >/dev/null 2>&1
    kubectl delete persistentvolume/tour-local clusterrolebinding/tour-kubelet >/dev/null 2>&1
    rm -rf "$work"
}
trap finish EXIT
./image.sh "$IMAGE" "$work/image.tar"
for socket in /run/quarterdeck/*/containerd.sock /run/containerd/containerd.sock; do
    [ ! -S "$socket" ] || ctr --address "$socket" --namespace k8s.io images import "$work/image.tar" >/dev/null 2>&1
done
kubectl create namespace tour >/dev/null
within 30 $K get serviceaccount default
[ $# -gt 0 ] || set -- pods volumes network kubelet
for part in "$@"; do
    echo "== $part"
    . "./$part.sh"
done
report
