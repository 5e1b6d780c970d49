# Volumes: emptyDir, configMap, secret, projected, downward API, hostPath, subPath, claims; live updates; limits.

$K create configmap settings --from-literal=colour=red >/dev/null
$K create secret generic keys --from-literal=key=s3cret >/dev/null
pod volumes <<EOF
  containers:
  - name: c
    image: $IMAGE
    command: [sleep, "3600"]
    volumeMounts:
    - {name: memory, mountPath: /memory}
    - {name: settings, mountPath: /settings}
    - {name: settings, mountPath: /one, subPath: colour}
    - {name: all, mountPath: /all}
    - {name: host, mountPath: /host}
    - {name: keys, mountPath: /keys}
  volumes:
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 16Mi}}
  - {name: settings, configMap: {name: settings}}
  - {name: keys, secret: {secretName: keys, defaultMode: 0400}}
  - {name: host, hostPath: {path: $work/host, type: DirectoryOrCreate}}
  - name: all
    projected:
      sources:
      - {configMap: {name: settings, items: [{key: colour, path: c/colour}]}}
      - {secret: {name: keys}}
      - {downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
      - {serviceAccountToken: {path: token, audience: tour, expirationSeconds: 600}}
EOF
check "every volume is mounted" ready volumes
check "a memory emptyDir with its size" says 16 inside volumes 'df -m /memory | tail -1'
check "configMap files" is red inside volumes 'cat /settings/colour'
check "a subPath of a file" is red inside volumes 'cat /one'
check "secret files with their mode" is "s3cret 400" inside volumes 'cat /keys/key; echo " $(stat -Lc %a /keys/key)"'
check "projected files" is "red s3cret" inside volumes 'echo $(cat /all/c/colour) $(cat /all/key)'
check "labels as a file" says 'app="volumes"' inside volumes 'cat /all/labels'
check "a bound token" is 2 inside volumes 'tr -cd . < /all/token | wc -c'
check "a host path" sh -c "$K exec volumes -- touch /host/made && test -e $work/host/made"
$K create configmap settings --from-literal=colour=blue --dry-run=client -o yaml | $K apply -f - >/dev/null 2>&1
check "files follow their ConfigMap" within 20 is blue inside volumes 'cat /settings/colour'
$K label pod volumes colour=blue >/dev/null
check "and labels" within 20 says 'colour="blue"' inside volumes 'cat /all/labels'
check "a subPath does not" is red inside volumes 'cat /one'

apply <<EOF
apiVersion: v1
kind: PersistentVolume
metadata: {name: tour-local}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: tour
  local: {path: $work/host}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [$NODE]}]}]}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: local, namespace: $NAMESPACE}
spec: {accessModes: [ReadWriteOnce], storageClassName: tour, volumeName: tour-local, resources: {requests: {storage: 1Gi}}}
EOF
pod claim <<EOF
  containers: [{name: c, image: $IMAGE, command: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /v}]}]
  volumes: [{name: v, persistentVolumeClaim: {claimName: local}}]
EOF
check "a claim on a local volume" ready claim
check "has its files" says made inside claim 'ls /v'
check "its use is among the node's metrics" within 90 says 'kubelet_volume_stats_used_bytes{namespace="'$NAMESPACE'",persistentvolumeclaim="local"}' \
    kubectl get --raw "/api/v1/nodes/$NODE/proxy/metrics"
check "and in the summary" says '"pvcRef":{"name":"local"' kubectl get --raw "/api/v1/nodes/$NODE/proxy/stats/summary"

apply <<EOF
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: folder, namespace: $NAMESPACE}
spec: {accessModes: [ReadWriteOnce], storageClassName: local-path, resources: {requests: {storage: 1Gi}}}
EOF
pod provisioned <<EOF
  securityContext: {runAsUser: 1000}
  containers: [{name: c, image: $IMAGE, command: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /v}]}]
  volumes: [{name: v, persistentVolumeClaim: {claimName: folder}}]
EOF
check "a claim of the local-path class" ready provisioned
check "may be written by whoever the pod is" inside provisioned 'echo kept > /v/f'
$K delete pod provisioned >/dev/null
pod provisioned <<EOF
  containers: [{name: c, image: $IMAGE, command: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /v}]}]
  volumes: [{name: v, persistentVolumeClaim: {claimName: folder}}]
EOF
ready provisioned >/dev/null
check "and outlives the pod" is kept inside provisioned 'cat /v/f'
volume=$(field pvc folder '{.spec.volumeName}')
folder=$(kubectl get pv "$volume" -o 'jsonpath={.spec.hostPath.path}{.spec.local.path}')
$K delete pod/provisioned pvc/folder >/dev/null
check "but not the claim" within 60 test ! -e "$folder"

# What is mounted on one side is seen on the other: only below a mount that is shared.
mkdir -p "$work/shared"
mount -t tmpfs tmpfs "$work/shared" && mount --make-shared "$work/shared"
pod propagates <<EOF
  containers:
  - name: c
    image: $IMAGE
    command: [sleep, "3600"]
    securityContext: {privileged: true}
    volumeMounts: [{name: v, mountPath: /v, mountPropagation: Bidirectional}]
  - name: sees
    image: $IMAGE
    command: [sleep, "3600"]
    volumeMounts: [{name: v, mountPath: /v, mountPropagation: HostToContainer}]
  - name: private
    image: $IMAGE
    command: [sleep, "3600"]
    volumeMounts: [{name: v, mountPath: /v}]
  volumes: [{name: v, hostPath: {path: $work/shared}}]
EOF
ready propagates >/dev/null
seen() { $K exec propagates -c "$1" -- ls "/v/$2"; }
check "a container mounts" inside propagates 'mkdir /v/in && mount -t tmpfs tmpfs /v/in && touch /v/in/from-container'
check "and the machine sees it" test -e "$work/shared/in/from-container"
check "and so does another container" says from-container seen sees in
check "but none without propagation" fails says from-container seen private in
mkdir "$work/shared/out" && mount -t tmpfs tmpfs "$work/shared/out" && touch "$work/shared/out/from-machine"
check "what the machine mounts is seen inside" says from-machine seen sees out
$K delete pod propagates >/dev/null
umount "$work/shared/in" "$work/shared/out"

pod full <<EOF
  containers:
  - name: c
    image: $IMAGE
    command: [sh, -c, 'dd if=/dev/zero of=/v/f bs=1M count=8; sleep 3600']
    volumeMounts: [{name: v, mountPath: /v}]
  volumes: [{name: v, emptyDir: {sizeLimit: 4Mi}}]
EOF
check "an emptyDir over its limit evicts" within 60 is Evicted field pod full '{.status.reason}'
