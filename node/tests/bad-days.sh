#!/usr/bin/env bash
# What goes wrong on a node, done to a node of its own: one server and one agent with its containerd in a network
# namespace, the agent's folders on a small file system that can be filled.
#   node/tests/bad-days.sh PATH/TO/quarterdeck [SECONDS WITHOUT THE API=60]
# Needs root, containerd, runc, nftables and the CNI plugins. Everything it makes is removed at the end.
set -uo pipefail
binary=$(realpath "$1")
away=${2:-60}
work=$(mktemp -d /tmp/qd-bad.XXXXXX)
NAMESPACE=bad passed=0 failures=()
. "$(dirname "$0")/tour/lib.sh"
IMAGE=registry.quarterdeck.local/web:v1
data=$work/agent
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
        --eviction-hard 'memory.available<50Mi' --eviction-hard 'nodefs.available<150Mi') >>"$work/agent.log" 2>&1 &
    agent=$!
}

# The processes that hold this node's containers: its containerd and shims, by the folder of their state.
holders() { pgrep -f -- "$runtime|$data/kubelet/containerd"; }

# The processes of every pod here.
pod_processes() {
    local uid
    for uid in $($K get pods -o 'jsonpath={.items[*].metadata.uid}'); do
        find /sys/fs/cgroup -path "*pod$uid*" -name cgroup.procs -exec cat {} +
    done | sort -u
}

unmount_all() { awk -v a="$data" -v b="$runtime" '$5 ~ "^"a"/" || $5 ~ "^"b {print $5}' /proc/self/mountinfo | tac | xargs -r -n1 umount -l 2>/dev/null; }

finish() {
    [ "${#failures[@]}" -eq 0 ] || tail -n 15 "$work/agent.log" "$work/server.log"
    kill -CONT "$(cat "$runtime/containerd.pid" 2>/dev/null)" 2>/dev/null
    kill -TERM "$agent" 2>/dev/null && wait "$agent" 2>/dev/null
    start_agent --teardown >/dev/null 2>&1
    sleep 3
    kill -TERM "$agent" 2>/dev/null && wait "$agent" 2>/dev/null
    kill -TERM "$server" 2>/dev/null && wait "$server" 2>/dev/null
    unmount_all
    umount -l "$data" 2>/dev/null
    ip netns delete qdn-bad 2>/dev/null
    rm -rf "$work" "$runtime"
}

ip netns add qdn-bad || exit 1
mkdir -p "$data"
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

echo "== images, commands, probes"
one_pod absent 'args: [sleep]' 127.0.0.1:1/none:v1
one_pod broken 'command: [/nothing]'
one_pod hanging 'args: [sleep], livenessProbe: {exec: {command: [/web, sleep]}, timeoutSeconds: 1, periodSeconds: 1, failureThreshold: 2}'
check "an image that does not exist" within 60 waits_for absent ImagePullBackOff
check "is told by events" within 10 says 'Failed to pull image' events absent
check "a command that does not start" within 60 waits_for broken CrashLoopBackOff
check "is told by events" within 10 says 'Failed Error' events broken
check "a probe that hangs restarts" within 60 more_restarts hanging 0
check "and says that it timed out" says 'timed out' events hanging
$K delete pod absent broken hanging --wait=true >/dev/null

echo "== a log that somebody deletes"
one_pod talking 'args: [sleep], readinessProbe: {exec: {command: [/web, echo]}, periodSeconds: 1}'
check "a pod runs" ready talking
log=$(ls "$data"/kubelet/../logs/pods/${NAMESPACE}_talking_*/c/0.log /var/log/pods/${NAMESPACE}_talking_*/c/0.log 2>/dev/null | head -1)
rm -f "$log"
check "the pod stays ready" is True field pod talking '{.status.conditions[?(@.type=="Ready")].status}'
check "its log is opened again" within 40 test -e "$log"
check "and can be read" $K logs talking

echo "== a volume that does not unmount"
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
check "it is told by an event" within 30 says FailedUnMount events holding
check "and the pod is not gone" $K get pod holding
kill "$holder"
check "until nobody holds it" $K wait --for=delete pod/holding --timeout=60s
check "nothing of it is left" within 20 test ! -e "$data/kubelet/pods/$uid"

echo "== the API is away for $away s"
one_pod steady 'args: [sleep]'
one_pod crashing 'args: [exit, "1"]'
ready steady >/dev/null
within 30 waits_for crashing CrashLoopBackOff
before=$(restarts crashing) steady=$(field pod steady '{.status.containerStatuses[0].containerID}')
process=$(find /sys/fs/cgroup -path "*${steady##*/}*" -name cgroup.procs -exec cat {} + | sort -u)
kill -KILL "$server"
wait "$server" 2>/dev/null
sleep $((away / 2))
kill -KILL $process
sleep $((away / 2))
start_server
check "a pod whose process died meanwhile runs again" within 60 is 1 restarts steady
check "what crashed went on crashing" within 60 more_restarts crashing "$before"
check "the node is ready" within 60 node_is True

echo "== the runtime is gone"
crash=$(restarts steady)
kill -STOP "$(cat "$runtime/containerd.pid")"
check "the node says so" within 120 node_is False
check "and why" says runtime kubectl get node node -o 'jsonpath={.status.conditions[?(@.type=="Ready")].message}'
kill -CONT "$(cat "$runtime/containerd.pid")"
check "until it answers" within 60 node_is True
old=$(cat "$runtime/containerd.pid")
kill -KILL "$old"
check "a dead one is started again" within 30 fails grep -qx "$old" "$runtime/containerd.pid"
check "its containers did not notice" is "$crash" restarts steady

echo "== the agent dies, and the machine with it"
kill -KILL "$agent"
wait "$agent" 2>/dev/null
start_agent
check "another agent takes the pods over" within 60 node_is True
check "untouched" is "$crash" restarts steady
processes=$(pod_processes)
kill -KILL "$agent" $(holders)
wait "$agent" 2>/dev/null
kill -KILL $processes 2>/dev/null
unmount_all
rm -rf "$runtime"
start_agent
check "after a reboot the node is ready" within 90 node_is True
check "and its pods run in new sandboxes" within 90 more_restarts steady "$crash"
check "told by an event" within 30 says SandboxChanged events steady
check "all of them" ready talking

echo "== a full disk"
fallocate -l "$(($(df --output=avail -B1 "$data" | tail -1) - 80000000))" "$data/ballast"
pressure() { is "$1" kubectl get node node -o 'jsonpath={.status.conditions[?(@.type=="DiskPressure")].status}'; }
check "is a condition" within 60 pressure True
check "pods are evicted" within 120 is Evicted field pod steady '{.status.reason}'
rm "$data/ballast"
check "no longer than it lasts" within 400 pressure False
report
