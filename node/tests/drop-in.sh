#!/usr/bin/env bash
# `quarterdeck kubelet` and `quarterdeck proxy` alone, in place of upstream's, beside upstream's etcd, kube-apiserver,
# kube-controller-manager and kube-scheduler, with a containerd that none of them started, in a network namespace.
#   node/tests/drop-in.sh PATH/TO/quarterdeck DIRECTORY/WITH/UPSTREAM
# The cluster signs certificates for one minute, so that all of the node's are renewed while its pods run. Needs root,
# containerd, runc, nftables, the CNI plugins, openssl, curl and a static busybox. What it makes is removed at the end.
set -uo pipefail
binary=$(realpath "$1") upstream=$(realpath "$2")
cd "$(dirname "$0")" || exit 1
work=$(mktemp -d /tmp/qd-drop.XXXXXX)
NAMESPACE=default
. tour/lib.sh
export KUBECONFIG=$work/admin.conf
address=10.93.0.1 server=https://10.93.0.1:6443
socket=$work/run/containerd.sock
pids=()
ns() { nsenter --net=/run/netns/qdn-drop "$@"; }
kubectl() { ns kubectl "$@"; }

start() {
    local log=$work/$1.log
    shift
    (exec nsenter --net=/run/netns/qdn-drop "$@") >>"$log" 2>&1 &
    pids+=($!)
}

finish() {
    [ "${#failures[@]}" -eq 0 ] || tail -n 5 "$work"/*.log
    $K delete pods --all --wait=true --timeout=60s >/dev/null 2>&1
    sleep 2
    for ((i = ${#pids[@]} - 1; i >= 0; i--)); do kill "${pids[i]}" 2>/dev/null && wait "${pids[i]}" 2>/dev/null; done
    # Shims of pods that did not end, by the socket that is theirs alone.
    pgrep -f -- "-address $socket" | xargs -r kill -KILL
    awk -v a="$work/" 'index($5, a) == 1 {print $5}' /proc/self/mountinfo | tac | xargs -r -n1 umount -l
    ip netns delete qdn-drop 2>/dev/null
    rm -rf "$work"
}
trap finish EXIT

# certificate NAME SUBJECT: a pair of the cluster's authority.
certificate() {
    local names="subjectAltName=IP:127.0.0.1,IP:$address,IP:10.96.0.1,DNS:kubernetes"
    openssl req -newkey rsa:2048 -nodes -keyout "$work/$1.key" -out "$work/$1.csr" -subj "$2" 2>/dev/null
    openssl x509 -req -in "$work/$1.csr" -CA "$work/ca.crt" -CAkey "$work/ca.key" -CAcreateserial -days 5 \
        -extfile <(echo "$names") -out "$work/$1.crt" 2>/dev/null
}

# kubeconfig FILE CREDENTIALS...
kubeconfig() {
    local file=$work/$1
    shift
    command kubectl config --kubeconfig="$file" set-cluster c --server=$server --certificate-authority="$work/ca.crt" --embed-certs
    command kubectl config --kubeconfig="$file" set-credentials u "$@"
    command kubectl config --kubeconfig="$file" set-context x --cluster=c --user=u
    command kubectl config --kubeconfig="$file" use-context x
}

prepare() {
    ip netns add qdn-drop
    ns ip link set lo up
    ns ip link add machine type bridge
    ns ip address add $address/24 dev machine
    ns ip link set machine up
    ns ip route add default dev machine
    openssl req -x509 -newkey rsa:2048 -nodes -keyout "$work/ca.key" -out "$work/ca.crt" -subj /CN=ca -days 10 2>/dev/null
    openssl genrsa -out "$work/sa.key" 2048 2>/dev/null
    certificate api /CN=api
    certificate admin /O=system:masters/CN=admin
    kubeconfig admin.conf --client-certificate="$work/admin.crt" --client-key="$work/admin.key" --embed-certs >/dev/null
    kubeconfig bootstrap.conf --token=abcdef.0123456789abcdef >/dev/null
}

control_plane() {
    start etcd "$upstream/etcd" --data-dir "$work/etcd" --listen-client-urls http://127.0.0.1:2379 \
        --advertise-client-urls http://127.0.0.1:2379
    start api "$upstream/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --bind-address=$address \
        --advertise-address=$address --tls-cert-file="$work/api.crt" --tls-private-key-file="$work/api.key" \
        --client-ca-file="$work/ca.crt" --service-cluster-ip-range=10.96.0.0/16 --service-account-issuer=https://x \
        --service-account-key-file="$work/sa.key" --service-account-signing-key-file="$work/sa.key" \
        --authorization-mode=Node,RBAC --enable-bootstrap-token-auth --enable-admission-plugins=NodeRestriction \
        --kubelet-preferred-address-types=InternalIP --allow-privileged --kubelet-client-certificate="$work/admin.crt" --kubelet-client-key="$work/admin.key"
    within 120 kubectl get --raw /readyz
    start controllers "$upstream/kube-controller-manager" --kubeconfig="$KUBECONFIG" --use-service-account-credentials \
        --cluster-signing-cert-file="$work/ca.crt" --cluster-signing-key-file="$work/ca.key" \
        --cluster-signing-duration=60s --service-account-private-key-file="$work/sa.key" --root-ca-file="$work/ca.crt" \
        --allocate-node-cidrs --cluster-cidr=10.244.0.0/16
    start scheduler "$upstream/kube-scheduler" --kubeconfig="$KUBECONFIG"
    {
        kubectl -n kube-system create secret generic bootstrap-token-abcdef --type=bootstrap.kubernetes.io/token \
            --from-literal=token-id=abcdef --from-literal=token-secret=0123456789abcdef \
            --from-literal=usage-bootstrap-authentication=true --from-literal=auth-extra-groups=system:bootstrappers:x
        kubectl create clusterrolebinding b1 --clusterrole=system:node-bootstrapper --group=system:bootstrappers
        kubectl create clusterrolebinding b2 --group=system:bootstrappers \
            --clusterrole=system:certificates.k8s.io:certificatesigningrequests:nodeclient
        kubectl create clusterrolebinding b3 --group=system:nodes \
            --clusterrole=system:certificates.k8s.io:certificatesigningrequests:selfnodeclient
    } >/dev/null
}

runtime() {
    local plugins=/opt/cni/bin
    [ -e $plugins/bridge ] || plugins=/usr/lib/cni
    mkdir -p "$work/run" "$work/cni"
    cat >"$work/cni/10-x.conflist" <<EOF
{"cniVersion": "0.4.0", "name": "x", "plugins": [{"type": "bridge", "bridge": "cbr0", "isGateway": true, "ipMasq": true,
 "hairpinMode": true, "ipam": {"type": "host-local", "dataDir": "$work/addresses",
 "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
EOF
    cat >"$work/containerd.toml" <<EOF
version = 2
root = "$work/containerd"
state = "$work/run"
[grpc]
address = "$socket"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/pause:v1"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "$plugins"
conf_dir = "$work/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
EOF
    start containerd containerd --config "$work/containerd.toml"
    tour/image.sh "$IMAGE" "$work/image.tar"
    tour/image.sh localhost/pause:v1 "$work/pause.tar" '["sleep","2147483647"]'
    for image in image pause; do
        within 30 ctr --address "$socket" --namespace k8s.io images import "$work/$image.tar"
    done
}

node() {
    cat >"$work/kubelet.yaml" <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
rotateCertificates: true
serverTLSBootstrap: true
authentication: {x509: {clientCAFile: $work/ca.crt}, webhook: {enabled: true}, anonymous: {enabled: false}}
authorization: {mode: Webhook}
clusterDNS: [10.96.0.10]
containerRuntimeEndpoint: unix://$socket
podLogsDir: $work/logs
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 50Mi}
EOF
    start kubelet "$binary" kubelet --config="$work/kubelet.yaml" --bootstrap-kubeconfig="$work/bootstrap.conf" \
        --kubeconfig="$work/kubelet.conf" --cert-dir="$work/pki" --root-dir="$work/kubelet" --hostname-override=n1 \
        --node-ip=$address
    start proxy "$binary" proxy --kubeconfig="$KUBECONFIG" --hostname-override=n1 --proxy-mode=nftables \
        --cluster-cidr=10.244.0.0/16
    # Upstream signs serving certificates only when somebody has approved them.
    (while sleep 1; do
        kubectl get csr 2>/dev/null | awk '/Pending/ {print $1}' | xargs -r nsenter --net=/run/netns/qdn-drop kubectl certificate approve
    done) >/dev/null 2>&1 &
    pids+=($!)
}

prepare
control_plane
runtime
node
check "the API server is upstream's" says '"minor": "36' kubectl get --raw /version
node_ready() { kubectl get node n1 | grep -q ' Ready'; }
check "the node joins by its token and is ready" within 90 node_ready
check "its lease" kubectl -n kube-node-lease get lease n1
apply <<EOF
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: $IMAGE
        command: [sh, -c, 'echo started; hostname > /tmp/index.html; exec httpd -f -p 8080 -h /tmp']
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
        volumeMounts: [{name: settings, mountPath: /settings}]
      volumes: [{name: settings, configMap: {name: settings, optional: true}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
EOF
check "a Deployment of upstream's controllers and scheduler" $K rollout status deployment/web --timeout=90s
pod=$($K get pods -l app=web -o 'jsonpath={.items[0].metadata.name}')
service=$(field service web '{.spec.clusterIP}')
both() { [ "$(for _ in $(seq 20); do ns curl -s -m 3 "http://$1/"; done | sort -u | wc -l)" = 2 ]; }
check "the proxy serves its Service" within 20 both "$service"
check "and its node port" within 20 both $address:30080
from_pod() { $K exec "$pod" -- wget -qO- "http://$service/" | grep -q '^web-'; }
check "from a pod, too" within 20 from_pod
check "logs" is started $K logs "$pod"
check "exec" is "$pod" $K exec "$pod" -- hostname
[ -n "$pod" ] || exit 1
check "exec with input" is typed $K exec -i "$pod" -- cat <<<typed
forwarded() {
    kubectl port-forward "pod/$pod" 26090:8080 >/dev/null 2>&1 &
    within 20 says "$pod" ns curl -s -m 3 http://127.0.0.1:26090/
    local ended=$?
    kill $!
    return $ended
}
check "port-forward" forwarded
$K create configmap settings --from-literal=colour=red >/dev/null
check "a ConfigMap's files appear" within 90 is red $K exec "$pod" -- cat /settings/colour
check "metrics through the API server" says container_memory_working_set_bytes \
    kubectl get --raw /api/v1/nodes/n1/proxy/metrics/resource
renewed() { [ "$(find "$work/pki" -name "kubelet-$1-2*" | wc -l)" -ge 3 ]; }
check "client certificates of a minute are renewed" within 180 renewed client
check "serving certificates too" within 120 renewed server
check "the node stays ready" node_ready
check "the node still answers" is started $K logs "$pod"
first=$($K get pod "$pod" -o 'jsonpath={.status.containerStatuses[0].restartCount}')
check "its pods did not notice" is 0 echo "$first"
$K delete deployment/web >/dev/null
gone() { [ -z "$($K get pods --no-headers 2>/dev/null)" ]; }
check "pods end" within 60 gone
check "the Service without endpoints refuses" within 20 fails ns curl -s -m 3 "http://$service/"
report
