#!/usr/bin/env bash
# What goes wrong on a node, done to a node of its own: one server and one agent with its containerd in a network
# namespace, the agent's folders on a small file system that can be filled.
#   node/tests/bad-days.sh PATH/TO/quarterdeck [SECONDS WITHOUT THE API=60] [PART...]
# Parts, in this order: images settings static log volume api silent runtime agent reboot disk; all of them unless some are
# named.
# Needs root, containerd, runc, nftables, the CNI plugins, a static busybox and python3. What it makes is removed at the end.
set -uo pipefail
binary=$(realpath "$1")
away=${2:-60}
shift $(($# < 2 ? $# : 2))
parts=(images settings static log volume api silent runtime agent reboot disk)
[ $# -gt 0 ] && parts=("$@")
cd "$(dirname "$0")" || exit 1
work=$(mktemp -d /tmp/qd-bad.XXXXXX)
NAMESPACE=bad
. tour/lib.sh
. bad-days/api.sh
TOUR=$IMAGE
IMAGE=registry.quarterdeck.local/web:v1
data=$work/agent
registry=127.0.0.1:26091
export KUBECONFIG=$work/server/admin.kubeconfig
ns() { nsenter --net=/run/netns/qdn-bad "$@"; }
kubectl() { ns kubectl "$@"; }

# `exec`: what is killed later is the process itself, not a shell around it.
start_server() {
    (exec nsenter --net=/run/netns/qdn-bad "$binary" server "$@" --data-dir "$work/server" --name server \
        --bind-address 10.92.0.1 --advertise-address 10.92.0.1) >>"$work/server.log" 2>&1 &
    server=$!
    within 60 kubectl get --raw /readyz
}

start_agent() {
    (exec nsenter --net=/run/netns/qdn-bad "$binary" agent --data-dir "$data" --name node --node-ip 10.92.0.2 "$@" \
        --eviction-hard 'memory.available<50Mi' --eviction-hard 'nodefs.available<150Mi' \
        --kubelet-arg container-log-max-size=400 --kubelet-arg container-log-max-files=3 \
        --kubelet-arg "pod-manifest-path=$work/manifests" --kubelet-arg pod-max-pids=77 --kubelet-arg seccomp-default=true \
        --kubelet-arg "image-credential-provider-config=$work/providers.yaml" \
        --kubelet-arg "image-credential-provider-bin-dir=$work/providers") >>"$work/agent.log" 2>&1 &
    agent=$!
}

# The processes that hold this node's containers: its containerd and shims, by the folder of their state.
holders() { pgrep -f -- "$runtime|$data/kubelet/containerd"; }

# The processes of every pod here, or of one container.
pod_processes() {
    local uid
    for uid in $($K get pods -o 'jsonpath={.items[*].metadata.uid}'); do
        find /sys/fs/cgroup -path "*pod$uid*" -name cgroup.procs -exec cat {} +
    done | sort -u
}
processes_of() {
    local id
    id=$(field pod "$1" '{.status.containerStatuses[0].containerID}')
    find /sys/fs/cgroup -path "*${id##*/}*" -name cgroup.procs -exec cat {} + | sort -u
}

unmount_all() { awk -v a="$data" -v b="$runtime" '$5 ~ "^"a"/" || $5 ~ "^"b {print $5}' /proc/self/mountinfo | tac | xargs -r -n1 umount -l 2>/dev/null; }

finish() {
    [ "${#failures[@]}" -eq 0 ] || tail -n 15 "$work/agent.log" "$work/server.log"
    kill -CONT "$(cat "$runtime/containerd.pid" 2>/dev/null)" 2>/dev/null
    [ -z "$agent" ] || { kill -TERM "$agent" && wait "$agent"; } 2>/dev/null
    start_agent --teardown >/dev/null 2>&1
    sleep 3
    kill -TERM "$agent" 2>/dev/null && wait "$agent" 2>/dev/null
    [ -z "$server" ] || { kill -TERM "$server" && wait "$server"; } 2>/dev/null
    kill $(jobs -p) 2>/dev/null
    unmount_all
    umount -l "$data" 2>/dev/null
    ip netns delete qdn-bad 2>/dev/null
    rm -rf "$work" "$runtime"
}

# A program that knows the password of the registry which `images` starts.
write_provider() {
    mkdir "$work/providers"
    cat >"$work/providers/knows" <<EOF
#!/bin/sh
cat >/dev/null
echo '{"kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
  "cacheKeyType": "Registry", "auth": {"$registry": {"username": "tour", "password": "secret"}}}'
EOF
    chmod +x "$work/providers/knows"
    cat >"$work/providers.yaml" <<EOF
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- {name: knows, apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: ['$registry'], defaultCacheDuration: 1m}
EOF
}

ip netns add qdn-bad || exit 1
mkdir -p "$data" "$work/manifests"
mount -t tmpfs -o size=700m bad-days "$data"
# As the agent names the folder of its containerd's state.
runtime=/run/quarterdeck/$(printf %s "$data/kubelet" | sha256sum | cut -c1-8)
server='' agent=''
trap finish EXIT
ns ip link set lo up
ns ip link add machine type bridge
ns ip address add 10.92.0.1/24 dev machine
ns ip address add 10.92.0.2/24 dev machine
ns ip link set machine up
ns ip route add default dev machine
write_provider
start_server --init || { echo "the server does not start"; exit 1; }
within 60 test -s "$work/server/agent.token"
start_agent --token "$(cat "$work/server/agent.token")"
node_is() { is "$1" kubectl get node node -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'; }
check "the node is ready" within 60 node_is True
kubectl create namespace $NAMESPACE >/dev/null
within 30 $K get serviceaccount default
restarts() { $K get pod "$1" -o 'jsonpath={.status.containerStatuses[0].restartCount}'; }
more_restarts() { [ "$(restarts "$1")" -gt "$2" ]; }
events() { $K get events --field-selector "involvedObject.name=$1" -o 'jsonpath={range .items[*]}{.reason} {.message}{"\n"}{end}'; }
waits_for() { is "$2" field pod "$1" '{.status.containerStatuses[0].state.waiting.reason}'; }
one_pod() { pod "$1" <<YAML
  containers: [{name: c, image: ${3:-$IMAGE}, $2}]
YAML
}
# What a restart needs comes from a ConfigMap, also when the API is away.
$K create configmap settings --from-literal=COLOUR=red >/dev/null
one_pod steady 'args: [sleep], envFrom: [{configMapRef: {name: settings}}]'
check "a pod runs" ready steady
crash=$(restarts steady)

images() {
    tour/image.sh "$TOUR" "$work/image.tar"
    (exec nsenter --net=/run/netns/qdn-bad python3 tour/registry.py "$work/image.tar" "${registry##*:}" tour secret) \
        >"$work/registry.log" 2>&1 &
    one_pod absent 'args: [sleep]' 127.0.0.1:1/none:v1
    one_pod broken 'command: [/nothing]'
    one_pod hanging 'args: [sleep], livenessProbe: {exec: {command: [/web, sleep]}, timeoutSeconds: 1, periodSeconds: 1, failureThreshold: 2}'
    one_pod private 'command: [sleep, "3600"]' "$registry/private/tour:v1"
    check "an image that does not exist" within 60 waits_for absent ImagePullBackOff
    check "is told by events" within 10 says 'Failed to pull image' events absent
    check "a command that does not start" within 60 waits_for broken CrashLoopBackOff
    check "is told by events" within 10 says 'Failed Error' events broken
    check "a probe that hangs restarts" within 60 more_restarts hanging 0
    check "and says that it timed out" says 'timed out' events hanging
    check "a registry whose password a program knows" ready private
    check "was asked with it" grep -q '^200 .*/manifests/v1' "$work/registry.log"
    $K delete pod absent broken hanging private --wait=true >/dev/null
}

settings() {
    local uid
    uid=$(field pod steady '{.metadata.uid}')
    check "a pod's processes are limited" sh -c "grep -qx 77 \$(find /sys/fs/cgroup -path '*pod$uid/pids.max')"
    check "the default seccomp profile" says "Seccomp:	2" $K exec steady -- /web cat /proc/self/status
    check "variables from a ConfigMap" says COLOUR=red $K exec steady -- /web env
}

# A pod of a file on this machine.
static() {
    local container uid
    cat >"$work/manifests/fixed.yaml" <<EOF
apiVersion: v1
kind: Pod
metadata: {name: fixed, namespace: $NAMESPACE}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: $IMAGE, args: [sleep]}]
EOF
    container() { field pod fixed-node '{.status.containerStatuses[0].containerID}'; }
    anew() { [ "$(field pod fixed-node '{.metadata.uid}')" != "$1" ] && ready fixed-node; }
    check "a pod of a file is shown by a mirror" within 60 ready fixed-node
    container=$(container)
    uid=$(field pod fixed-node '{.metadata.uid}')
    $K delete pod fixed-node --wait=false >/dev/null
    check "a mirror that somebody deletes comes back" within 60 anew "$uid"
    check "and its container did not notice" within 60 is "$container" container
    rm "$work/manifests/fixed.yaml"
    check "without the file it ends, and its mirror goes" within 60 fails $K get pod fixed-node
}

log() {
    local log
    one_pod talking 'args: [serve], readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}'
    check "a pod runs" ready talking
    log=/var/log/pods/${NAMESPACE}_talking_$(field pod talking '{.metadata.uid}')/c/0.log
    rotated() { ls "$log".*; }
    check "a log that grows is moved aside" within 60 rotated
    check "and goes on" within 20 says healthz $K logs talking --tail=3
    rm -f "$log"
    check "a log that somebody deletes harms nobody" is True field pod talking '{.status.conditions[?(@.type=="Ready")].status}'
    check "it is opened again" within 40 test -e "$log"
    check "and can be read" within 20 says healthz $K logs talking
    $K delete pod talking --wait=true >/dev/null
}

volume() {
    local uid holder
    pod holding <<YAML
  containers: [{name: c, image: $IMAGE, args: [sleep], volumeMounts: [{name: m, mountPath: /m}]}]
  volumes: [{name: m, emptyDir: {medium: Memory}}]
YAML
    check "a pod with a volume" ready holding
    uid=$(field pod holding '{.metadata.uid}')
    (cd "$data/kubelet/pods/$uid/volumes/kubernetes.io~empty-dir/m" && exec sleep 600) &
    holder=$!
    sleep 0.5
    $K delete pod holding --wait=false >/dev/null
    check "one that does not unmount is told by an event" within 30 says FailedUnMount events holding
    check "and the pod is not gone" $K get pod holding
    kill "$holder"
    check "until nobody holds it" $K wait --for=delete pod/holding --timeout=60s
    check "nothing of it is left" within 20 test ! -e "$data/kubelet/pods/$uid"
}

silent() {
    kill -STOP "$(cat "$runtime/containerd.pid")"
    check "a runtime that does not answer makes the node not ready" within 120 node_is False
    check "and it says why" says runtime kubectl get node node -o 'jsonpath={.status.conditions[?(@.type=="Ready")].message}'
    kill -CONT "$(cat "$runtime/containerd.pid")"
    check "until it answers" within 60 node_is True
    check "its containers did not notice" is "$crash" restarts steady
}

runtime() {
    local old
    old=$(cat "$runtime/containerd.pid")
    kill -KILL "$old"
    check "a dead runtime is started again" within 30 fails grep -qx "$old" "$runtime/containerd.pid"
    check "and is used" within 60 eval 'says COLOUR=red $K exec steady -- /web env'
    check "its containers did not notice" is "$crash" restarts steady
}

resize() {
    $K patch pod "$1" --subresource=resize --patch \
        "{\"spec\": {\"containers\": [{\"name\": \"c\", \"resources\": {\"requests\": {\"cpu\": \"$2\"}}}]}}" >/dev/null
}
pending() { field pod "$1" '{.status.conditions[?(@.type=="PodResizePending")].reason}'; }
allocated() { field pod "$1" '{.status.containerStatuses[0].allocatedResources.cpu}'; }
# What a server would have that a status never reached.
forget_status() { $K patch pod "$1" --subresource=status --type=merge --patch '{"status": {"containerStatuses": []}}' >/dev/null; }

agent() {
    local name most
    for name in promised corrupt; do
        one_pod "$name" 'args: [sleep], resources: {requests: {cpu: 20m}}'
        check "a pod with resources" ready "$name"
    done
    # All there is, which the other's twenty do not leave.
    most=$(kubectl get node node -o 'jsonpath={.status.allocatable.cpu}')
    for name in promised corrupt; do
        resize "$name" "$most"
        check "which wants more than there is now" within 30 is Deferred pending "$name"
    done
    kill -KILL "$agent"
    wait "$agent" 2>/dev/null
    forget_status promised
    python3 -c '
import socket, sys
told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
told.bind(sys.argv[1])
open(sys.argv[2], "wb").write(told.recv(100))' "$work/notify" "$work/notified" &
    within 10 test -S "$work/notify"
    NOTIFY_SOCKET=$work/notify start_agent
    check "another agent takes the pods over" within 60 node_is True
    check "systemd is told that it serves" within 60 grep -q READY=1 "$work/notified"
    check "untouched" is "$crash" restarts steady
    check "and answers for them" within 60 eval 'says COLOUR=red $K exec steady -- /web env'
    check "it knows what was promised though the API does not" within 60 is 20m allocated promised
    check "and why that is not more" within 30 is Deferred pending promised
    kill -KILL "$agent"
    wait "$agent" 2>/dev/null
    sed -i 's/20m/30m/' "$data/kubelet/allocated_pods_state"
    start_agent
    check "a file of promises that is not whole is named" within 60 grep -q 'the file cannot be used.*allocated_pods_state' "$work/agent.log"
    check "and passed over" within 60 node_is True
    check "for what was reported" within 60 is 20m allocated corrupt
    $K delete pod promised corrupt --wait=true >/dev/null
}

reboot() {
    local processes
    processes=$(pod_processes)
    kill -KILL "$agent" $(holders)
    wait "$agent" 2>/dev/null
    kill -KILL $processes 2>/dev/null
    unmount_all
    rm -rf "$runtime"
    start_agent
    check "after a reboot its pods run in new sandboxes" within 120 more_restarts steady "$crash"
    check "the node is ready" within 60 node_is True
    check "told by an event" within 30 says SandboxChanged events steady
    check "the pod is" ready steady
}

disk() {
    local pressure
    fallocate -l "$(($(df --output=avail -B1 "$data" | tail -1) - 80000000))" "$data/ballast"
    pressure() { is "$1" kubectl get node node -o 'jsonpath={.status.conditions[?(@.type=="DiskPressure")].status}'; }
    check "a full disk is a condition" within 60 pressure True
    check "pods are evicted" within 120 is Evicted field pod steady '{.status.reason}'
    rm "$data/ballast"
    check "no longer than it lasts" within 400 pressure False
}

for part in "${parts[@]}"; do
    echo "== $part: ${SECONDS} s"
    "$part"
done
report
