# The part `api` of bad-days.sh: the API server goes away for a while, and whatever can happen to pods meanwhile happens:
# they die, crash, fail their probe, run out of time, finish, are deleted just before, appear and vanish as files; a bound
# token runs out where the time is enough (ten minutes).

# The folder of a pod here, and its processes of the example image: by its uid, for nobody can be asked for more.
uid_of() { field pod "$1" '{.metadata.uid}'; }
programs_of() {
    local process
    for process in $(find /sys/fs/cgroup -path "*pod$1*" -name cgroup.procs -exec cat {} + | sort -u); do
        [ "$(cat "/proc/$process/comm" 2>/dev/null)" != web ] || echo "$process"
    done
}
runs_anew() { local now; now=$(programs_of "$1"); [ -n "$now" ] && [ "$now" != "$2" ]; }
no_programs() { [ -z "$(programs_of "$1")" ]; }

static_pod() {
    cat >"$work/manifests/$1.yaml" <<EOT
apiVersion: v1
kind: Pod
metadata: {name: $1, namespace: $NAMESPACE}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: $IMAGE, args: [sleep]}]
EOT
}

pods_before() {
    mkdir -p "$work/probe"
    touch "$work/probe/alive"
    one_pod crashing 'args: [exit, "1"]'
    one_pod answering 'args: [serve], readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 2}'
    $K create service clusterip answering --tcp=80:8080 >/dev/null
    pod probed <<YAML
  containers:
  - name: c
    image: $IMAGE
    args: [sleep]
    livenessProbe: {exec: {command: [/web, cat, /probe/alive]}, periodSeconds: 2, failureThreshold: 2}
    volumeMounts: [{name: probe, mountPath: /probe}]
  volumes: [{name: probe, hostPath: {path: $work/probe}}]
YAML
    pod tokened <<YAML
  containers: [{name: c, image: $IMAGE, args: [sleep], volumeMounts: [{name: own, mountPath: /own}]}]
  volumes: [{name: own, projected: {sources: [{serviceAccountToken: {path: token, expirationSeconds: 600}}]}}]
YAML
    pod limited <<YAML
  activeDeadlineSeconds: $((away / 2 + 20))
  containers: [{name: c, image: $IMAGE, args: [sleep]}]
YAML
    pod finite <<YAML
  restartPolicy: Never
  containers: [{name: c, image: $IMAGE, args: [sleep, "$((away / 2 + 20))"]}]
YAML
    one_pod leaving 'args: [sleep]'
    static_pod fixed
    static_pod former
    for name in answering probed tokened limited finite leaving fixed-node former-node; do
        check "before: $name" ready "$name"
    done
    within 30 waits_for crashing CrashLoopBackOff
}

# A bound token's end, seconds since 1970, from its middle part.
ends() { cut -d. -f2 | python3 -c 'import base64, json, sys; t = sys.stdin.read().strip(); print(json.loads(base64.urlsafe_b64decode(t + "=" * (-len(t) % 4)))["exp"])'; }
token_here() { cat "$data/kubelet/pods/$1/volumes/kubernetes.io~projected/own/token"; }
token_lives() { [ "$(token_here "$1" | ends)" -gt "$(date +%s)" ]; }
token_is_known() {
    printf 'apiVersion: authentication.k8s.io/v1\nkind: TokenReview\nspec: {token: %s}\n' "$(token_here "$1")" |
        is true kubectl create -f - -o 'jsonpath={.status.authenticated}'
}
asks_service() { says answering ns curl -s --max-time 5 "http://$1/"; }
names_answer() { is "$1" ns dig +short +time=2 "@$2" "answering.$NAMESPACE.svc.cluster.local"; }
lease_is_fresh() {
    local told
    told=$(kubectl -n kube-node-lease get lease node -o 'jsonpath={.spec.renewTime}')
    [ $(($(date +%s) - $(date +%s -d "$told"))) -lt 30 ]
}

api() {
    local name crashed address dns now life
    declare -A uid died
    pods_before
    for name in steady answering probed tokened limited finite leaving fixed-node crashing; do
        uid[$name]=$(uid_of "$name")
    done
    # A static pod's own uid is not its mirror's.
    uid[fixed]=$(field pod fixed-node '{.metadata.annotations.kubernetes\.io/config\.hash}')
    uid[former]=$(field pod former-node '{.metadata.annotations.kubernetes\.io/config\.hash}')
    address=$(field service answering '{.spec.clusterIP}')
    dns=$($K exec answering -- /web cat /etc/resolv.conf | awk '$1 == "nameserver" {print $2; exit}')
    crashed=$(restarts crashing)
    crash=$(restarts steady)
    $K delete pod leaving --wait=false >/dev/null
    kill -KILL "$server"
    wait "$server" 2>/dev/null
    check "without the API: a pod whose deletion had begun ends" within 60 no_programs "${uid[leaving]}"
    sleep $((away / 4))
    rm "$work/probe/alive" "$work/manifests/former.yaml"
    static_pod later
    for name in fixed probed steady tokened; do died[$name]=$(programs_of "${uid[$name]}"); done
    kill -KILL ${died[fixed]}
    check "without the API: a static pod whose process died runs again" within 90 runs_anew "${uid[fixed]}" "${died[fixed]}"
    check "without the API: a file that goes ends its pod" within 90 no_programs "${uid[former]}"
    check "without the API: a probe that fails restarts" within 120 runs_anew "${uid[probed]}" "${died[probed]}"
    sleep $((away / 2))
    # Late, so that everything which is only remembered for a while must still be known.
    life=$(($(token_here "${uid[tokened]}" | ends) - $(date +%s)))
    echo "        the token ends in $life s"
    kill -KILL ${died[steady]} ${died[tokened]}
    check "without the API: a pod with variables of a ConfigMap runs again" within 90 runs_anew "${uid[steady]}" "${died[steady]}"
    check "without the API: so does one with a token" within 90 runs_anew "${uid[tokened]}" "${died[tokened]}"
    check "without the API: a pod's time is over" within 60 no_programs "${uid[limited]}"
    check "without the API: its Service answers" asks_service "$address"
    check "without the API: names answer" names_answer "$address" "$dns"
    sleep $((away / 4))
    now=$SECONDS
    start_server
    touch "$work/probe/alive"
    crash=$((crash + 1))
    check "away for $away s: the node is ready" within 60 node_is True
    echo "        told after $((SECONDS - now)) s"
    check "its lease is renewed" within 30 lease_is_fresh
    check "a pod whose process died runs again" within 60 is "$crash" restarts steady
    check "with its variables" within 20 says COLOUR=red $K exec steady -- /web env
    check "what crashed went on crashing" within 300 more_restarts crashing "$crashed"
    check "what a probe ended is told" within 60 more_restarts probed 0
    check "by an event" within 60 says Unhealthy events probed
    check "and runs again" ready probed
    check "a pod whose time was over is told" within 60 is DeadlineExceeded field pod limited '{.status.reason}'
    check "one that finished is told" within 60 is Succeeded field pod finite '{.status.phase}'
    check "one that was deleted before is gone" within 60 fails $K get pod leaving
    check "a static pod that died is told" within 60 is 1 restarts fixed-node
    check "one whose file came is shown" within 60 ready later-node
    check "one whose file went is not" within 60 fails $K get pod former-node
    check "a token that ended is another" within 180 token_lives "${uid[tokened]}"
    check "which the API knows" within 20 token_is_known "${uid[tokened]}"
    check "the pod with it is ready" ready tokened
    check "the service answers" asks_service "$address"
    for name in steady answering probed tokened crashing; do
        check "$name is the same pod" is "${uid[$name]}" uid_of "$name"
    done
    check "nobody took the node for gone" fails says NodeNotReady kubectl get events -A
    check "and it takes new pods" eval 'one_pod fresh "args: [sleep]"; ready fresh'
    $K get pods -o wide
    kubectl get events -A --sort-by=.lastTimestamp | tail -n 40 >"$work/events"
    rm "$work"/manifests/{fixed,later}.yaml
    $K delete pod crashing fresh answering probed tokened limited finite --wait=true >/dev/null
    $K delete service answering >/dev/null
}
