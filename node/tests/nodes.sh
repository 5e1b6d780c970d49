#!/usr/bin/env bash
# Two whole nodes on one machine, each in a network namespace of its own with its own containerd, and a server in a
# third; pods on both reach each other, services and names, directly where the nodes share a segment and over VXLAN
# where a router is between them.
#   node/tests/nodes.sh PATH/TO/quarterdeck [segment|routed]...
# Needs root, containerd, runc, nftables, python3 and the CNI plugins. Everything it makes is removed at the end.
set -uo pipefail
binary=$(realpath "$1")
shift
[ $# -gt 0 ] || set -- segment routed
top=$(mktemp -d /tmp/qd-nodes.XXXXXX)
failed=0
pids=()

# Not `ip netns exec`: that hides the machine's cgroups.
ns() { local name=$1; shift; nsenter --net="/run/netns/qdn-$name" "$@"; }

# link NAMESPACE ADDRESS: one end in the namespace, the other in the router's.
link() {
    ip netns add "qdn-$1"
    ip link add "qdn-$1" type veth peer name eth0 netns "qdn-$1"
    ip link set "qdn-$1" netns qdn-router
    ns "$1" ip link set lo up
    ns "$1" ip address add "$2" dev eth0
    ns "$1" ip link set eth0 up
    ns router ip link set "qdn-$1" up
}

network() {
    ip netns add qdn-router
    ns router ip link set lo up
    if [ "$1" = segment ]; then
        server=10.91.0.1 one=10.91.0.11 two=10.91.0.12
        ns router ip link add segment type bridge
        ns router ip link set segment up
        for end in "server $server/24" "one $one/24" "two $two/24"; do
            link $end
            ns router ip link set "qdn-${end%% *}" master segment
        done
        ns router sh -c 'echo 0 > /proc/sys/net/bridge/bridge-nf-call-iptables' 2>/dev/null
    else
        server=10.91.0.1 one=10.91.1.11 two=10.91.2.12
        ns router sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
        for end in "server $server/24" "one $one/24" "two $two/24"; do
            link $end
            local gateway=${end##* }
            gateway=${gateway%.*/24}.254
            ns router ip address add "$gateway/24" dev "qdn-${end%% *}"
            ns "${end%% *}" ip route add default via "$gateway"
        done
    fi
}

start() {
    local name=$1
    shift
    (exec nsenter --net="/run/netns/qdn-$name" "$binary" "$@") >"$work/$name.log" 2>&1 &
    pids+=($!)
}

K() { ns server kubectl --kubeconfig "$work/server/admin.kubeconfig" "$@"; }

check() {
    local name=$1
    shift
    if "$@" >"$work/out" 2>&1; then echo "ok      $name"; else echo "FAILED  $name"; tail -5 "$work/out"; failed=1; fi
}

within() { local end=$((SECONDS + $1)); shift; until "$@"; do [ "$SECONDS" -lt "$end" ] || return 1; sleep 0.5; done; }

has() { grep -qF -- "$1" <<<"$("${@:2}" 2>&1)"; }

apply_pods() {
    for node in one two; do
        cat <<EOF
apiVersion: v1
kind: Pod
metadata: {name: $node, labels: {app: nodes}}
spec:
  nodeName: $node
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: registry.quarterdeck.local/web:v1, readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}}
---
EOF
    done | K apply -f -
    K expose pod one --port=80 --target-port=8080 --name=both --selector=app=nodes
    K patch service both -p '{"spec":{"selector":{"app":"nodes"}}}'
    K create service clusterip near --tcp=80:8080
    K patch service near -p '{"spec":{"selector":{"app":"nodes","near":null},"trafficDistribution":"PreferSameNode"}}'
}

# A name server outside the cluster: every name has the address $2. Answers at $1.
name_server() {
    exec nsenter --net=/run/netns/qdn-server python3 -c '
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 53))
while True:
    asked, client = server.recvfrom(512)
    end = 12
    while asked[end]:
        end += asked[end] + 1
    question = asked[12:end + 5]
    record = b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4" + socket.inet_aton(sys.argv[2])
    known = question[-4:-2] == b"\0\1"
    head = asked[:2] + b"\x81\x80\0\1" + (b"\0\1" if known else b"\0\0") + b"\0\0\0\0"
    server.sendto(head + question + (record if known else b""), client)
' "$@"
}

# Every one of many questions to the service is answered by the pod of the asker's node.
stays_near() {
    local seen
    seen=$(for _ in 1 2 3 4 5 6 7 8; do K exec "$1" -- /web get http://near/; done | sort -u | xargs)
    [ "$seen" = "$1" ] || { echo "answered by: $seen"; return 1; }
}

stop() {
    K delete pods --all --wait=true --timeout=30s >/dev/null 2>&1
    for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
        kill -TERM "${pids[i]}" 2>/dev/null
        wait "${pids[i]}" 2>/dev/null
    done
    pids=()
    for name in server one two router; do ip netns delete "qdn-$name" 2>/dev/null; done
    [ "$failed" = 1 ] && tail -n 5 "$work"/*.log
}
trap 'stop; rm -rf "$top"' EXIT

for topology in "$@"; do
    echo "== $topology"
    work=$top/$topology
    mkdir "$work"
    network "$topology"
    start server server --init --data-dir "$work/server" --name server --bind-address "$server" --advertise-address "$server"
    within 60 test -s "$work/server/agent.token"
    within 60 K get --raw /readyz >/dev/null 2>&1
    for node in one two; do
        start "$node" agent --data-dir "$work/$node" --name "$node" --node-ip "${!node}" --teardown \
            --dns-stub-domain "corp.test=$server" --token "$(cat "$work/server/agent.token")" --eviction-hard 'memory.available<100Mi'
    done
    ready() { [ "$(K get nodes --no-headers 2>/dev/null | grep -c ' Ready')" = 2 ]; }
    check "two nodes are ready" within 60 ready
    within 30 K get serviceaccount default >/dev/null 2>&1
    apply_pods >"$work/apply.log" 2>&1
    check "a pod on each" K wait --for=condition=Ready --timeout=60s pod/one pod/two
    first=$(K get pod one -o 'jsonpath={.status.podIP}') second=$(K get pod two -o 'jsonpath={.status.podIP}')
    check "pods of two nodes reach each other" within 20 has two K exec one -- /web get "http://$second:8080/"
    check "and the other way" within 20 has one K exec two -- /web get "http://$first:8080/"
    service=$(K get service both -o 'jsonpath={.spec.clusterIP}')
    check "a service reaches the pod of the other node" within 20 has two K exec one -- /web get "http://$service/"
    check "names are answered on one node" within 20 has two K exec one -- /web get http://both/
    check "and on the other" within 20 has one K exec two -- /web get http://both.default.svc.cluster.local/
    (name_server "$server" "$second") &
    pids+=($!)
    check "a stub domain's names come from its server" within 20 has two K exec one -- /web get http://host.corp.test:8080/
    check "same-node preference on one node" within 20 stays_near one
    check "and on the other" within 20 stays_near two
    check "logs of both through the server" has "serving" K logs two
    case $topology in
        segment) check "the route is direct" has "via $two dev eth0" ns one ip route ;;
        routed) check "the route goes over VXLAN" has "dev qd-overlay" ns one ip route ;;
    esac
    large=$(printf 'x%.0s' $(seq 1 3000))
    check "packets larger than a frame pass" has one K exec two -- /web get "http://$first:8080/?$large"
    stop
done
exit "$failed"
