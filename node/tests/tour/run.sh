#!/usr/bin/env bash
# The node's promises, one by one, with kubectl against a running cluster with one real node of this machine:
#   KUBECONFIG=… node/tests/tour/run.sh [streams] [pods] [images] [volumes] [network] [kubelet] [autoscale]
# The parts run beside each other, each in a namespace of its own (tour-PART), which is removed at the end. Needs root,
# ctr, busybox (static), python3 and curl.
set -uo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d /tmp/tour.XXXXXX)
NODE=$(kubectl get nodes -o jsonpath='{.items[0].metadata.name}')
NODE_IP=$(kubectl get node "$NODE" -o jsonpath='{.status.addresses[?(@.type=="InternalIP")].address}')
[ $# -gt 0 ] || set -- streams pods images volumes network kubelet autoscale
namespaces=("${@/#/tour-}")
finish() {
    # What still runs would go on asking.
    kill $(jobs -p) 2>/dev/null
    umount -l "$work/shared" 2>/dev/null
    kubectl delete namespace "${namespaces[@]}" --wait=true --timeout=90s >/dev/null 2>&1
    kubectl delete persistentvolume/tour-local clusterrolebinding/tour-kubelet >/dev/null 2>&1
    rm -rf "$work"
}
trap finish EXIT

part() {
    NAMESPACE=tour-$1
    . ./lib.sh
    within 60 kubectl create namespace "$NAMESPACE" >/dev/null
    within 60 $K get serviceaccount default >/dev/null
    . "./$1.sh"
    local ended
    report
    ended=$?
    kill $(jobs -p) 2>/dev/null
    return $ended
}

# The image's name is the same for all parts.
IMAGE=$(sed -n 's/^IMAGE=//p' lib.sh)
./image.sh "$IMAGE" "$work/image.tar"
for socket in /run/quarterdeck/*/containerd.sock /run/containerd/containerd.sock; do
    [ ! -S "$socket" ] || timeout 30 ctr --address "$socket" --namespace k8s.io images import "$work/image.tar" >/dev/null 2>&1
done
declare -A parts
for name in "$@"; do
    began=$SECONDS
    (part "$name"; code=$?; echo "$((SECONDS - began)) s"; exit $code) >"$work/$name.out" 2>&1 &
    parts[$name]=$!
done
failed=()
for name in "$@"; do
    wait "${parts[$name]}" || failed+=("$name")
    echo "== $name"
    cat "$work/$name.out"
done
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
