#!/usr/bin/env bash
# What a node with cgroup v2 and AppArmor owes, by what its kernel and the API say:
#   KUBECONFIG=… node/tests/cgroup2/run.sh [qos] [oom] [resize] [stats] [volume] [pids] [apparmor] [restart] [reboot]
# Without names all but `reboot`, and at the end what pods left behind is counted. Needs a cluster with one real node, free of
# other pods that come and go, and on the machine where it runs kubectl, python3, and busybox (static) for the image. The
# node's kernel is asked through ON_NODE, a command that runs the script on its standard input there as root (`sh`; from
# elsewhere `ssh root@NODE sh`). `restart` needs the agent as the systemd unit AGENT (quarterdeck-agent), `pids` a limit
# (--pod-max-pids), `apparmor` apparmor_parser there; what cannot be shown is said as skipped, and is not shown. `reboot`
# restarts the machine, which ON_NODE must reach from elsewhere. Both cgroup drivers will do. PATIENCE=4 on slow machines.
set -uo pipefail
cd "$(dirname "$0")"
NAMESPACE=cgroup2
. ../tour/lib.sh
ON_NODE=${ON_NODE:-sh}
AGENT=${AGENT:-quarterdeck-agent}
NODE=$(kubectl get nodes -o jsonpath='{.items[0].metadata.name}') || { echo "no cluster answers, or it has no node"; exit 1; }
ROOT=/sys/fs/cgroup
work=$(mktemp -d /tmp/cgroup2.XXXXXX)
skipped=0

# node SCRIPT: runs it on the node.
node() { printf '%s\n' "$*" exit | $ON_NODE 2>&1; }
skip() { skipped=$((skipped + 1)); echo "skipped $1: $2"; }
setting() { kubectl get --raw "/api/v1/nodes/$NODE/proxy/configz" | python3 -c "import json,sys; print(json.load(sys.stdin)['kubeletconfig'].get('$1'))"; }
[ "$(node "test -e $ROOT/cgroup.controllers && echo yes")" = yes ] || { echo "$NODE has no cgroup v2 alone: nothing to show"; exit 1; }
DRIVER=$(setting cgroupDriver)
BASE=$(setting cgroupRoot); BASE=$ROOT${BASE%/}

# Where a pod's cgroup must be, by the driver; a class of "" is for guaranteed pods.
classdir() {
    if [ "$DRIVER" = systemd ]; then echo "$BASE/kubepods.slice${1:+/kubepods-$1.slice}"; else echo "$BASE/kubepods${1:+/$1}"; fi
}
uid() { field pod "$1" '{.metadata.uid}'; }
poddir() {
    local class; class=$(field pod "$1" '{.status.qosClass}' | tr 'BEG' 'beg'); class=${class#guaranteed}
    if [ "$DRIVER" = systemd ]; then echo "$(classdir "$class")/kubepods${class:+-$class}-pod$(uid "$1" | tr - _).slice"
    else echo "$(classdir "$class")/pod$(uid "$1")"; fi
}
container() { field pod "$1" '{.status.containerStatuses[0].containerID}' | sed 's#.*/##'; }
containerdir() {
    if [ "$DRIVER" = systemd ]; then echo "$(poddir "$1")/cri-containerd-$(container "$1").scope"; else echo "$(poddir "$1")/$(container "$1")"; fi
}
# files DIR FILE...: what they say, with `|` between.
files() { local dir=$1; shift; node "cd $dir && cat $* | paste -sd '|'"; }
ofpod() { local pod=$1; shift; files "$(poddir "$pod")" "$@"; }
ofcontainer() { local pod=$1; shift; files "$(containerdir "$pod")" "$@"; }
ofclass() { local class=$1; shift; files "$(classdir "$class")" "$@"; }
# between LOW HIGH COMMAND...: the number it says is in the range.
between() {
    local low=$1 high=$2 n; shift 2; n=$("$@" 2>&1)
    [ "$n" -ge "$low" ] && [ "$n" -le "$high" ] || { echo "wanted $low to $high, got: $n"; return 1; }
}
state() { field pod "$1" "{.status.containerStatuses[0].$2}"; }
ended() { field pod "$1" '{.status.containerStatuses[0].state.terminated.reason} {.status.containerStatuses[0].state.terminated.exitCode}'; }
condition() { field pod "$1" "{.status.conditions[?(@.type==\"$2\")].$3}"; }
events() { $K get events --field-selector "involvedObject.name=$1" -o 'jsonpath={range .items[*]}{.type} {.reason} {.message}{"\n"}{end}'; }
WAIT='trap exit TERM; while :; do sleep 1; done'
# simple NAME RESOURCES [SPEC FIELD] [COMMAND]
simple() {
    pod "$1" <<EOF
  ${3:-}
  containers: [{name: c, image: $IMAGE, command: [sh, -c, "${4:-$WAIT}"], resources: $2}]
EOF
}
# start NAME RESOURCES...: the same unless it is there.
start() { $K get pod "$1" >/dev/null 2>&1 || simple "$@"; ready "$1" >/dev/null; }

. ./resources.sh
. ./life.sh

[ $# -gt 0 ] || set -- qos oom resize stats volume pids apparmor restart
../tour/image.sh "$IMAGE" "$work/image.tar"
node "base64 -d > /tmp/cgroup2.tar <<'END'
$(gzip -c "$work/image.tar" | base64)
END
for s in /run/quarterdeck/*/containerd.sock /run/containerd/containerd.sock; do [ ! -S \$s ] || zcat /tmp/cgroup2.tar | ctr --address \$s --namespace k8s.io images import -; done; rm /tmp/cgroup2.tar" >/dev/null
echo "$NODE: $(node 'uname -r; . /etc/os-release; echo $PRETTY_NAME; systemctl --version 2>/dev/null | head -n 1; containerd --version; runc --version | head -n 1' | paste -sd ' '), cgroup driver $DRIVER"
within 60 kubectl create namespace "$NAMESPACE" >/dev/null 2>&1
within 60 $K get serviceaccount default >/dev/null
left >"$work/before"
finish() { kubectl delete namespace "$NAMESPACE" --wait=true --timeout=300s >/dev/null 2>&1; rm -rf "$work"; }
trap finish EXIT
for part in "$@"; do
    echo "== $part"
    "part_$part"
done
echo "== gone"
part_gone
echo "$skipped skipped"
report
