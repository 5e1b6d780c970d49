# The kubelet's own server and what changes while a pod runs: who may ask, metrics, resizes, evictions by the API.

pod steady <<EOF
  containers:
  - name: c
    image: $IMAGE
    command: [sh, -c, "trap 'exit 1' TERM; while :; do sleep 1; done"]
    resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 200m, memory: 64Mi}}
    readinessProbe: {exec: {command: ["true"]}, periodSeconds: 2}
EOF
check "a pod with limits" ready steady
quota() { inside steady 'cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null | cut -d" " -f1'; }
check "a CPU limit is a quota" is 20000 quota
resize() {
    $K patch pod steady --subresource resize --patch \
        "{\"spec\":{\"containers\":[{\"name\":\"c\",\"resources\":{\"requests\":{\"cpu\":\"$1\"},\"limits\":{\"cpu\":\"$1\"}}}]}}"
}
check "a resize in place" resize 300m
check "reaches the running container" within 20 is 30000 quota
check "without a restart" is 0 field pod steady '{.status.containerStatuses[0].restartCount}'
check "and its status" within 20 is 300m field pod steady '{.status.containerStatuses[0].resources.limits.cpu}'
# Others hold the rest of the machine: there will be room once they leave.
cpus=$(kubectl get node "$NODE" -o 'jsonpath={.status.allocatable.cpu}')
pod filler <<EOF
  containers:
  - {name: c, image: $IMAGE, command: [sleep, "3600"], resources: {requests: {cpu: $((cpus * 1000 - 500))m}}}
EOF
ready filler >/dev/null
resize 600m >/dev/null
check "a resize without room is deferred" within 20 is Deferred \
    field pod steady '{.status.conditions[?(@.type=="PodResizePending")].reason}'
check "and changes nothing" is 30000 quota
check "a container that ends meanwhile" inside steady 'kill 1'
check "starts again" within 60 is 1 field pod steady '{.status.containerStatuses[0].restartCount}'
check "with what it had" within 30 is 30000 quota
check "and says so" is "300m 300m" field pod steady \
    '{.status.containerStatuses[0].allocatedResources.cpu} {.status.containerStatuses[0].resources.limits.cpu}'
$K delete pod filler --wait=true >/dev/null
check "until there is room" within 30 is 60000 quota
resize 200m >/dev/null
check "a smaller one goes through" within 20 is 20000 quota

# The pod as a whole: what its containers are not limited to by themselves, it bounds.
pod whole <<EOF
  resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 200m, memory: 64Mi}}
  containers: [{name: c, image: $IMAGE, command: [sleep, "3600"]}]
EOF
check "a pod with resources of its own" ready whole
whole() { inside whole 'cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null | cut -d" " -f1'; }
check "its CPU limit is its container's quota" within 20 is 20000 whole
check "it is resized in place" $K patch pod whole --subresource resize --patch \
    '{"spec":{"resources":{"requests":{"cpu":"150m"},"limits":{"cpu":"300m"}}}}'
check "which reaches the running container" within 20 is 30000 whole
check "and its status" within 20 is "300m 150m 0" field pod whole \
    '{.status.resources.limits.cpu} {.status.allocatedResources.cpu} {.status.containerStatuses[0].restartCount}'
check "what was there cannot vanish" says 'pod-level resource limits cannot be removed' $K patch pod whole \
    --subresource resize --type=json --patch '[{"op":"remove","path":"/spec/resources/limits/cpu"}]'

token=$($K create token default)
asked() { curl -sk -o /dev/null -w '%{http_code}' ${1:+-H "Authorization: Bearer $1"} "https://$NODE_IP:10250/metrics"; }
check "the server asks who it is" is 401 asked ""
check "a token of nobody is refused" is 401 asked nonsense
check "a known client without the right is refused" is 403 asked "$token"
kubectl create clusterrolebinding tour-kubelet --clusterrole=system:kubelet-api-admin --serviceaccount="$NAMESPACE:default" >/dev/null
# Refusals are remembered for half a minute, as upstream does.
check "with the right it is answered" within 60 is 200 asked "$token"
kubectl delete clusterrolebinding tour-kubelet >/dev/null
lease() { kubectl -n kube-node-lease get lease "$NODE" -o 'jsonpath={.spec.renewTime}'; }
renewed=$(lease)
moved() { [ "$(lease)" != "$renewed" ]; }
check "the node's lease is renewed" within 30 moved
check "the node says what it has" says '"memory"' kubectl get node "$NODE" -o 'jsonpath={.status.allocatable}'
check "the health endpoint" is ok curl -s http://127.0.0.1:10248/healthz
check "and that of the server" is ok kubectl get --raw "/api/v1/nodes/$NODE/proxy/healthz"
check "the pods it runs" says '"name":"steady"' kubectl get --raw "/api/v1/nodes/$NODE/proxy/pods"
metrics() { kubectl get --raw "/api/v1/nodes/$NODE/proxy/$1"; }
check "metrics of the runtime's operations" says kubelet_runtime_operations_total metrics metrics
check "metrics of resources" says 'container_cpu_usage_seconds_total{container="c",namespace="'"$NAMESPACE"'",pod="steady"}' metrics metrics/resource
check "probes" says prober_probe_total metrics metrics/probes
check "cAdvisor's names" says container_memory_working_set_bytes metrics metrics/cadvisor
counter() { metrics metrics/cadvisor | grep "^container_$1{container=\"$2\".*pod=\"limited\"" | wc -l; }
pod limited <<LIMITED
  containers: [{name: c, image: $IMAGE, command: [sh, -c, "while :; do :; done"], resources: {limits: {cpu: 50m, memory: 32Mi}}}]
LIMITED
limit() { metrics metrics/cadvisor | grep '^container_spec_memory_limit_bytes{container="c".*pod="limited"' | awk '{print $NF}'; }
check "what a container is limited to" within 60 is 33554432 limit
for name in cpu_cfs_throttled_seconds_total cpu_user_seconds_total memory_cache memory_failcnt oom_events_total processes spec_cpu_quota; do
  check "what it uses: $name" within 30 is 1 counter "$name" c
done
check "packets of a pod" within 30 is 1 counter network_receive_packets_total ""
check "the summary" says '"nodeName"' metrics stats/summary
check "top of nodes" within 60 says "$NODE" kubectl top nodes
check "top of pods and containers" within 60 says steady $K top pod --containers
