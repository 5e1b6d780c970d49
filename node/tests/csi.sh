#!/usr/bin/env bash
# Storage judged by upstream's own driver: `csi-driver-host-path` with its registrar, each built from its repository, beside
# a cluster of one server and one node of this machine.
#   node/tests/csi.sh PATH/TO/quarterdeck DIRECTORY/WITH/UPSTREAM
# The directory holds hostpathplugin, csi-node-driver-registrar and, where they are to take part, csi-attacher and
# csi-resizer; without them volumes are not attached and grow by hand. Volumes are made by hand (`csi_volume.py`). The driver
# refuses what breaks the order of a volume's life (`--check-volume-lifecycle`). Needs root, containerd, runc, nftables, the
# CNI plugins, ctr, python3, curl, a static busybox and loop devices. What it makes is removed at the end.
set -uo pipefail
binary=$(realpath "$1") upstream=$(realpath "$2")
cd "$(dirname "$0")/tour" || exit 1
has() { [ -x "$upstream/csi-$1" ]; }
work=$(mktemp -d /tmp/qd-csi.XXXXXX)
NAMESPACE=csi
. ./lib.sh
export KUBECONFIG=$work/up/kubeconfig
DRIVER=hostpath.csi.k8s.io
pids=()

start() {
    local log=$work/$1.log
    shift
    "$@" >>"$log" 2>&1 &
    pids+=($!)
}
stop() { kill "$1" 2>/dev/null && wait "$1" 2>/dev/null; }

finish() {
    [ "${#failures[@]}" -eq 0 ] || tail -n 12 "$work"/*.log
    [ -z "${KEEP_LOGS:-}" ] || cp "$work"/*.log "$KEEP_LOGS"
    timeout 70 kubectl -n $NAMESPACE delete pods,pvc --all --wait=true --timeout=60s >/dev/null 2>&1
    for ((i = ${#pids[@]} - 1; i >= 0; i--)); do stop "${pids[i]}"; done
    # Where the cluster was not given the time to end it.
    pgrep -f -- "containerd --config $work/" | xargs -r kill
    awk -v a="$work/" -v b="${state:-$work}/" 'index($5, a) == 1 || index($5, b) == 1 {print $5}' /proc/self/mountinfo |
        tac | xargs -r -n1 umount -l
    losetup -a | grep -F "$work/" | cut -d: -f1 | xargs -r -n1 losetup -d
    rm -rf "$work" ${state:+"$state"}
}
trap finish EXIT

start up "$binary" up --servers=1 --data-dir "$work/up" --port=27445
check "a cluster of one server and one node" within 180 kubectl wait --for=condition=Ready node --all --timeout=1s
NODE=$(kubectl get nodes -o jsonpath='{.items[0].metadata.name}')
root=$(dirname "$(find "$work/up" -type d -name plugins_registry | head -1)")
socket=$root/plugins/csi-hostpath/csi.sock
within 60 kubectl create namespace "$NAMESPACE" >/dev/null
within 60 $K get serviceaccount default >/dev/null
./image.sh "$IMAGE" "$work/image.tar"
state=$(sed -n '/^\[grpc\]/,/^\[plugins/s/.*address = "\(.*\)\/containerd.sock"/\1/p' "$root/containerd/config.toml" | head -1)
ctr --address "$state/containerd.sock" --namespace k8s.io images import "$work/image.tar" >/dev/null
# Listing volumes' folders, staged volumes and mounts: what must be as before at the end.
held() {
    ls "$work/state" 2>/dev/null | grep -v '^state.json$'
    find "$root/plugins/kubernetes.io" -mindepth 3 2>/dev/null | grep -v '/volumeDevices/publish$'
    grep -c "$root/.*csi" /proc/self/mountinfo
    losetup -a | grep -cF "$work/"
}
mkdir -p "$(dirname "$socket")" "$work/state"

attach=false
has attacher && attach=true
start_driver() {
    start driver "$upstream/hostpathplugin" --drivername=$DRIVER --v=5 --endpoint="unix://$socket" --nodeid="$NODE" \
        --statedir="$work/state" --enable-attach="$attach" --check-volume-lifecycle
    driver=$!
    start registrar "$upstream/csi-node-driver-registrar" --v=5 --csi-address="$socket" \
        --kubelet-registration-path="$socket" --plugin-registration-path="$root/plugins_registry"
    of_driver=($!)
    # They end when the driver does: a node would start them again.
    for sidecar in attacher resizer; do
        has $sidecar || continue
        start $sidecar "$upstream/csi-$sidecar" --v=5 --csi-address="$socket" --kubeconfig="$KUBECONFIG"
        of_driver+=($!)
    done
    of_driver+=($driver)
}
# The object as upstream deploys it, but that nothing is attached without an attacher.
kubectl apply -f - >/dev/null <<YAML
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: $DRIVER}
spec: {attachRequired: $attach, volumeLifecycleModes: [Persistent, Ephemeral], podInfoOnMount: true, fsGroupPolicy: File}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: hostpath}
provisioner: $DRIVER
allowVolumeExpansion: true
YAML
start_driver
registered() { is "$NODE topology.hostpath.csi/node" kubectl get csinode "$NODE" \
    -o 'jsonpath={.spec.drivers[?(@.name=="hostpath.csi.k8s.io")].nodeID} {.spec.drivers[0].topologyKeys[0]}'; }
check "the driver registers through upstream's registrar" within 60 registered
check "the node has its topology" within 20 is "$NODE" kubectl get node "$NODE" \
    -o 'jsonpath={.metadata.labels.topology\.hostpath\.csi/node}'
registered || { report; exit 1; }
before=$(held)

volumes() { "../csi_volume.py" "$socket" "$@"; }

# claim NAME [mount|block] [ACCESS MODE]: a volume of the driver's, its PV and a claim for it.
claim() {
    local mode=Filesystem
    [ "${2:-mount}" = mount ] || mode=Block
    handles[$1]=$(volumes create "$1" 1073741824 "${2:-mount}")
    apply <<YAML
apiVersion: v1
kind: PersistentVolume
metadata: {name: csi-$1}
spec:
  storageClassName: hostpath
  accessModes: [${3:-ReadWriteOnce}]
  capacity: {storage: 1Gi}
  volumeMode: $mode
  claimRef: {namespace: $NAMESPACE, name: $1}
  csi: {driver: $DRIVER, volumeHandle: ${handles[$1]}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: $1, namespace: $NAMESPACE}
spec: {storageClassName: hostpath, accessModes: [${3:-ReadWriteOnce}], volumeMode: $mode, resources: {requests: {storage: 1Gi}}}
YAML
}
declare -A handles
# mounting NAME CLAIM [POD FIELDS]: a pod with the claim's volume at /data.
mounting() {
    pod "$1" <<YAML
${3:-}
  containers:
  - {name: c, image: $IMAGE, command: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /data}]}
  volumes: [{name: v, persistentVolumeClaim: {claimName: $2}}]
YAML
}
gone() { $K delete pod "$@" --wait=true --timeout=120s; }
# What the driver was asked for on this node, and how often.
calls() { grep -c "GRPC call: /csi.v1.Node/$1\$" "$work/driver.log"; }

claim data
check "a claim is bound to a volume of the driver's" within 30 is Bound field pvc data '{.status.phase}'
mounting writer data "  securityContext: {fsGroup: 2000}"
check "a pod gets the volume" ready writer
has attacher && check "which upstream's attacher attached" is "$NODE true" \
    kubectl get volumeattachments -o 'jsonpath={.items[0].spec.nodeName} {.items[0].status.attached}'
check "it writes" inside writer 'echo one > /data/file && sync'
check "as the pod's group" is 2000 inside writer 'stat -c %g /data/file'
mounting reader data
check "a second pod gets it, too" ready reader
check "and reads" is one inside reader 'cat /data/file'
check "the claim grows" $K patch pvc data -p '{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}'
if ! has resizer; then
    volumes expand "${handles[data]}" 2147483648
    kubectl patch pv csi-data -p '{"spec":{"capacity":{"storage":"2Gi"}}}' >/dev/null
fi
check "and the volume with it, while it is used" within 180 is 2Gi field pvc data '{.status.capacity.storage}'
check "the driver was asked on the node" is 1 calls NodeExpandVolume
check "nothing is left to do" is "" field pvc data '{.status.conditions[*].type}'
check "the first pod goes" gone writer
check "the volume stays for the second" is one inside reader 'cat /data/file'
check "not unstaged yet" is 0 calls NodeUnstageVolume
check "the second goes" gone reader
check "unstaged behind it" within 30 is 1 calls NodeUnstageVolume
has attacher && check "and detached" within 60 is "" kubectl get volumeattachments -o name
mounting again data
check "a later pod" ready again
check "finds what was written" is one inside again 'cat /data/file'

# The driver goes and comes while a pod uses it.
for pid in "${of_driver[@]}"; do stop "$pid"; done
check "a driver that stops is no longer listed" within 30 fails registered
check "its pod goes on" inside again 'echo two > /data/file'
start_driver
check "it registers again" within 60 registered
check "the pod of before goes" gone again
check "with nothing mounted" is 0 grep -c "$root/.*csi" /proc/self/mountinfo

pod inline <<YAML
  containers:
  - {name: c, image: $IMAGE, command: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /data}]}
  volumes: [{name: v, csi: {driver: $DRIVER}}]
YAML
check "a volume that lives with its pod" ready inline
check "takes data" inside inline 'echo x > /data/file && test -s /data/file'
check "it goes with its pod" gone inline
pod refused <<YAML
  containers: [{name: c, image: $IMAGE, command: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /data}]}]
  volumes: [{name: v, csi: {driver: $DRIVER, volumeAttributes: {kind: unknown}}}]
YAML
check "what the driver refuses is told" within 30 says 'specifying kind "unknown" is invalid' $K get events
# It never made that volume and says so when it is to take it back.
check "and does not hold its pod" gone refused
claim single mount ReadWriteOncePod
mounting lone single
check "a volume for one pod alone" ready lone
check "which the driver knows as such" says SINGLE_NODE_SINGLE_WRITER grep 'GRPC request' "$work/driver.log"
check "goes with it" gone lone

claim device block
pod raw <<YAML
  containers:
  - {name: c, image: $IMAGE, command: [sleep, "3600"], volumeDevices: [{name: v, devicePath: /dev/disk}]}
  volumes: [{name: v, persistentVolumeClaim: {claimName: device}}]
YAML
check "a volume as a device" ready raw
check "is one" inside raw 'test -b /dev/disk'
check "is written" inside raw 'echo block | dd of=/dev/disk conv=fsync'
check "is read" says block inside raw 'head -c 5 /dev/disk'
check "goes with its pod" gone raw

pod stranger <<YAML
  containers: [{name: c, image: $IMAGE, command: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /data}]}]
  volumes: [{name: v, csi: {driver: nobody.example.com}}]
YAML
check "a driver that is not there" within 30 says \
    'driver name nobody.example.com not found in the list of registered CSI drivers' $K get events
check "does not hold its pod" gone stranger

check "the claims go" $K delete pvc --all --wait=true --timeout=60s
check "and their volumes" kubectl delete pv --all --wait=true --timeout=60s
for name in "${!handles[@]}"; do volumes delete "${handles[$name]}"; done
settled() { [ "$(held)" = "$before" ] || { echo "was: $before"; echo "is: $(held)"; return 1; }; }
check "the driver holds nothing, nothing is staged or mounted" within 30 settled
refusals() { grep 'GRPC error' "$work/driver.log" | grep -vE 'kind "unknown"|NotFound desc = volume id csi-'; }
check "it refused nothing else" fails refusals
report
