#!/usr/bin/env bash
# Counts what the node leaves behind: processes, mounts, namespaces, links, addresses, packet filter rules, cgroups,
# sandboxes, containers and folders, before and after many pods of different kinds.
#   KUBECONFIG=… node/tests/leaks.sh [PODS=200] [PODS AT A TIME=50]
# Needs root on the machine of the cluster's only real node (and its network and mount namespaces). Ends with 1 where a
# count differs after a minute of rest.
set -uo pipefail
cd "$(dirname "$0")/tour"
total=${1:-200} batch=${2:-50}
K="kubectl -n leaks"
IMAGE=registry.quarterdeck.local/web:v1
# The containerd that runs, not what others left in its place.
containerd=$(ps -eo args | grep -o -- '--config [^ ]*containerd/config.toml' | head -1 | cut -d' ' -f2)
socket=$(sed -n '/^\[grpc\]/,/^\[plugins/s/.*address = "\(.*\)"/\1/p' "$containerd" 2>/dev/null | head -1)
socket=${socket:-/run/containerd/containerd.sock}
agent_root=$(dirname "$(dirname "$containerd")")
config=$(kubectl get --raw "/api/v1/nodes/$(kubectl get nodes -o jsonpath='{.items[0].metadata.name}')/proxy/configz")
# Other clusters of the machine have pods, too: those of this run are known by their uids.
uids=$(mktemp)
logs=$(grep -o '"podLogsDir":"[^"]*"' <<<"$config" | cut -d'"' -f4)

count() {
    echo "shims $(pgrep -fc "containerd-shim.*$socket")"
    echo "processes-of-pods $(grep -lFf "$uids" /proc/[0-9]*/cgroup 2>/dev/null | wc -l)"
    echo "mounts $(wc -l < /proc/self/mountinfo)"
    echo "network-namespaces $(ls /run/netns /var/run/netns 2>/dev/null | grep -c '^cni-')"
    echo "links $(ip -o link | wc -l)"
    echo "nft-lines $(nft -s list ruleset | wc -l)"
    echo "cgroups $(find /sys/fs/cgroup -type d -name 'pod*' 2>/dev/null | grep -cFf "$uids")"
    echo "sandboxes-and-containers $(ctr --address "$socket" -n k8s.io containers list -q | wc -l)"
    echo "snapshots $(ctr --address "$socket" -n k8s.io snapshots list | grep -c Active)"
    echo "pod-folders $(ls "$agent_root/pods" 2>/dev/null | wc -l)"
    echo "log-folders $(ls "${logs:-/var/log/pods}" 2>/dev/null | grep -cFf "$uids")"
    echo "addresses $(find "$agent_root/cni-addresses" -type f -name '*.*' 2>/dev/null | wc -l)"
}

# One of five kinds: a plain server, a job, volumes and hooks, sidecars, a host port.
manifest() {
    local n=$1 kind=$(($1 % 5)) name="leak-$1"
    local head="apiVersion: v1
kind: Pod
metadata: {name: $name, namespace: leaks, labels: {app: leaks, kind: k$kind}}
spec:
  terminationGracePeriodSeconds: 1"
    echo "---"
    case $kind in
        0) echo "$head
  containers: [{name: c, image: $IMAGE, readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}}]" ;;
        1) echo "$head
  restartPolicy: Never
  containers: [{name: c, image: $IMAGE, args: [exit, \"$((n % 2))\"]}]" ;;
        2) echo "$head
  containers:
  - name: c
    image: $IMAGE
    lifecycle: {preStop: {exec: {command: [/web, echo, bye]}}}
    volumeMounts: [{name: m, mountPath: /m}, {name: s, mountPath: /s, subPath: a/b}, {name: k, mountPath: /k}]
  volumes: [{name: m, emptyDir: {medium: Memory}}, {name: s, emptyDir: {}}, {name: k, configMap: {name: kube-root-ca.crt}}]" ;;
        3) echo "$head
  initContainers:
  - {name: side, image: $IMAGE, args: [sleep], restartPolicy: Always}
  - {name: init, image: $IMAGE, args: [echo, hi]}
  containers: [{name: c, image: $IMAGE, args: [sleep]}]" ;;
        4) echo "$head
  containers: [{name: c, image: $IMAGE, ports: [{containerPort: 8080, hostPort: $((27000 + n % 2000))}]}]" ;;
    esac
}

note_uids() { $K get pods -o 'jsonpath={range .items[*]}{.metadata.uid}{"\n"}{end}' >>"$uids"; }
started() { [ "$($K get pods --no-headers 2>/dev/null | grep -cE 'Running|Completed|Error')" -ge "$1" ]; }
waits() { local end=$((SECONDS + $1)); shift; until "$@"; do [ "$SECONDS" -lt "$end" ] || return 1; sleep 0.5; done; }
gone() { [ -z "$($K get pods --no-headers 2>/dev/null)" ]; }

kubectl create namespace leaks >/dev/null
trap 'kubectl delete namespace leaks --wait=false >/dev/null 2>&1; rm -f "$uids"' EXIT
waits 30 $K get configmap kube-root-ca.crt >/dev/null 2>&1
waits 30 $K get serviceaccount default >/dev/null 2>&1
# The first pod brings what stays: bridge, parent cgroups, tables.
manifest 4 | kubectl apply -f - >/dev/null
$K expose pod leak-4 --port=80 --target-port=8080 --name=leaks --selector=app=leaks >/dev/null
waits 60 started 1
note_uids
$K delete pod --all --wait=true >/dev/null
waits 60 gone
sleep 5
before=$(count)
began=$SECONDS
for ((from = 0; from < total; from += batch)); do
    size=$((total - from < batch ? total - from : batch))
    for ((n = from; n < from + size; n++)); do manifest "$n"; done | kubectl apply -f - >/dev/null
    waits 300 started "$size" || { echo "not all of pods $from to $((from + size)) started"; $K get pods | grep -v Running | head; }
    note_uids
    $K delete pods --all --wait=false >/dev/null
    waits 300 gone || { echo "pods are left in the API"; $K get pods | head; }
    echo "$((from + size)) pods, $((SECONDS - began)) s"
done
same() { [ "$(count)" = "$before" ]; }
waits 60 same
after=$(count)
status=0
echo "known by their uids: $(sort -u "$uids" | wc -l) pods"
printf '%-26s %8s %8s %8s\n' what before after leaked
while read -r what was; do
    now=$(grep "^$what " <<<"$after" | cut -d' ' -f2)
    printf '%-26s %8s %8s %8s\n' "$what" "$was" "$now" $((now - was))
    [ "$now" -le "$was" ] || status=1
done <<<"$before"
exit $status
