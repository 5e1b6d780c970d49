# AppArmor profiles, restarts of the agent, of the runtime and of the machine, and what is left in the end.

profile() { inside "$1" 'cat /proc/1/attr/current'; }
# armored NAME PROFILE [SPEC FIELD]
armored() {
    pod "$1" <<EOF
  ${3:-}
  containers: [{name: c, image: $IMAGE, command: [sh, -c, "$WAIT"], securityContext: {appArmorProfile: $2}}]
EOF
}
# debugged POD NAME PROFILE: an ephemeral container that says under what it runs, and stays.
debugged() {
    echo "{\"securityContext\": {\"appArmorProfile\": $3}}" >"$work/custom.json"
    $K debug "$1" --image="$IMAGE" --container="$2" --profile=general --custom="$work/custom.json" -- sh -c "cat /proc/self/attr/current; sleep 3600"
}
ephemeral() { field pod "$1" "{.status.ephemeralContainerStatuses[?(@.name==\"$2\")].$3}"; }
part_apparmor() {
    local ours=cgroup2-deny-tmp missing='{type: Localhost, localhostProfile: no-such}'
    if ! node '[ -d /sys/kernel/security/apparmor ] && command -v apparmor_parser' | grep -q parser; then
        armored refused '{type: RuntimeDefault}'
        check "a pod that asks for AppArmor is refused where there is none" within 60 is "Failed AppArmor" \
            field pod refused '{.status.phase} {.status.reason}'
        skip "AppArmor profiles" "the node has no AppArmor or no apparmor_parser"
        return
    fi
    node "apparmor_parser -r <<'END'
profile $ours flags=(attach_disconnected) { file, capability, network, signal, ptrace, deny /tmp/** w, }
END" >"$work/parser"
    check "a profile is loaded" says "$ours" node "cat /sys/kernel/security/apparmor/profiles"
    armored aa-none null; armored aa-default '{type: RuntimeDefault}'; armored aa-unconfined '{type: Unconfined}'
    armored aa-local "{type: Localhost, localhostProfile: $ours}"; armored aa-missing "$missing"
    pod aa-privileged <<EOF
  containers: [{name: c, image: $IMAGE, command: [sh, -c, "$WAIT"], securityContext: {privileged: true}}]
EOF
    for p in none default unconfined local privileged; do check "aa-$p is ready" ready aa-$p; done
    check "nothing asked: the runtime's profile" is "cri-containerd.apparmor.d (enforce)" profile aa-none
    check "RuntimeDefault: the same" is "cri-containerd.apparmor.d (enforce)" profile aa-default
    check "which denies what it should" fails inside aa-default 'echo h > /proc/sysrq-trigger'
    check "Unconfined" is unconfined profile aa-unconfined
    check "privileged and nothing asked: none" is unconfined profile aa-privileged
    check "Localhost" is "$ours (enforce)" profile aa-local
    check "which denies what it should" says "Permission denied" inside aa-local 'echo x > /tmp/x'
    check "and nothing more" inside aa-local 'echo x > /home/x'
    check "a command run in it is under it, too" is "$ours (enforce)" inside aa-local 'cat /proc/self/attr/current'
    check "a profile that is not there: no container" within 60 is CreateContainerError state aa-missing state.waiting.reason
    check "and the cause" says "apparmor profile not found no-such" state aa-missing state.waiting.message
    check "and an event" within 60 says "apparmor profile not found no-such" events aa-missing
    check "the pod waits" is Pending field pod aa-missing '{.status.phase}'

    pod aa-init <<EOF
  initContainers: [{name: i, image: $IMAGE, command: [cat, /proc/self/attr/current], securityContext: {appArmorProfile: {type: Localhost, localhostProfile: $ours}}}]
  containers: [{name: c, image: $IMAGE, command: [sh, -c, "$WAIT"]}]
EOF
    pod aa-init-missing <<EOF
  initContainers: [{name: i, image: $IMAGE, command: ["true"], securityContext: {appArmorProfile: $missing}}]
  containers: [{name: c, image: $IMAGE, command: [sh, -c, "$WAIT"]}]
EOF
    check "an init container with a profile of its own" ready aa-init
    check "runs under it" is "$ours (enforce)" $K logs aa-init -c i
    check "and the others under the runtime's" is "cri-containerd.apparmor.d (enforce)" profile aa-init
    check "an init container's profile that is not there" within 60 is "CreateContainerError Pending" field pod aa-init-missing \
        '{.status.initContainerStatuses[0].state.waiting.reason} {.status.phase}'
    check "and the cause" says "apparmor profile not found no-such" field pod aa-init-missing \
        '{.status.initContainerStatuses[0].state.waiting.message}'

    debugged aa-default d-local "{\"type\": \"Localhost\", \"localhostProfile\": \"$ours\"}" >/dev/null 2>&1
    check "an ephemeral container with a profile" within 60 is "$ours (enforce)" $K logs aa-default -c d-local
    debugged aa-local d-none null >/dev/null 2>&1
    check "one without" within 60 is "cri-containerd.apparmor.d (enforce)" $K logs aa-local -c d-none
    debugged aa-none d-missing '{"type": "Localhost", "localhostProfile": "no-such"}' >/dev/null 2>&1
    check "one whose profile is not there" within 60 is CreateContainerError ephemeral aa-none d-missing state.waiting.reason
    check "and the cause" says "apparmor profile not found no-such" ephemeral aa-none d-missing state.waiting.message
    check "while its pod runs on" is "true 0" field pod aa-none \
        '{.status.containerStatuses[0].ready} {.status.containerStatuses[0].restartCount}'
    $K delete pod --all --wait=true --timeout=300s >/dev/null
    node "echo 'profile $ours {}' | apparmor_parser -R" >/dev/null
}

# What must not change while agent and runtime come and go: ids, processes and limits.
unchanged() {
    for p in keep-guar keep-best keep-sized; do
        echo "$p $(container $p) $(state $p restartCount) $(limits $p) $(ofcontainer $p cgroup.procs)"
    done
}
node_ready() { kubectl wait --for=condition=Ready "node/$NODE" --timeout=10s; }
socket() { node 'for s in /run/quarterdeck/*/containerd.sock /run/containerd/containerd.sock; do [ ! -S $s ] || { echo $s; break; }; done'; }
# runtime_pid: of the containerd behind the node's socket, started by the agent or by systemd.
runtime_pid() { node "cat $(dirname "$(socket)")/containerd.pid 2>/dev/null || systemctl show -p MainPID --value containerd"; }
keep() { $K exec "$1" -c c -- kill -0 1; }
part_restart() {
    [ "$(node "systemctl is-active $AGENT")" = active ] || { skip "restarts" "the agent is no systemd unit named $AGENT here"; return; }
    local before pid milli
    simple keep-guar '{limits: {cpu: 200m, memory: 64Mi}}' '' "while :; do sleep 3600; done"
    simple keep-best '{}' '' "while :; do sleep 3600; done"
    simple keep-sized '{requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 200m, memory: 64Mi}}' '' "while :; do sleep 3600; done"
    $K expose pod keep-best --port=80 --name=kept >/dev/null
    for p in keep-guar keep-best keep-sized; do check "$p is ready" ready $p; done
    resize keep-sized '{"limits":{"cpu":"300m","memory":"80Mi"}}' >/dev/null
    check "one is resized" within 60 is $'30000 100000|83886080\n30000 100000|83886080' limits keep-sized
    milli=$(($(kubectl get node "$NODE" -o 'jsonpath={.status.allocatable.cpu}') * 1000))
    resize keep-guar "{\"requests\":{\"cpu\":\"$((milli - 50))m\"},\"limits\":{\"cpu\":\"$((milli - 50))m\"}}" >/dev/null
    check "another's resize waits" within 60 is Deferred condition keep-guar PodResizePending reason
    before=$(unchanged)
    check "the agent is restarted" node "systemctl restart $AGENT && systemctl is-active $AGENT"
    check "the node is ready" within 60 node_ready
    sleep 10
    check "containers, processes and limits are what they were" is "$before" unchanged
    check "the resize waits on" within 60 is Deferred condition keep-guar PodResizePending reason
    pid=$(node "systemctl show -p MainPID --value $AGENT")
    node "kill -9 $pid"
    check "the agent is killed; systemd starts another" within 60 fails is "$pid" node "systemctl show -p MainPID --value $AGENT"
    check "the node is ready" within 60 node_ready
    sleep 10
    check "containers, processes and limits are what they were" is "$before" unchanged
    resize keep-guar '{"requests":{"cpu":"150m"},"limits":{"cpu":"150m"}}' >/dev/null
    check "a resize goes through" within 60 is $'15000 100000|67108864\n15000 100000|67108864' limits keep-guar
    before=$(unchanged)
    pid=$(runtime_pid)
    node "kill -9 $pid"
    check "containerd is killed; there is another" within 60 fails is "$pid" runtime_pid
    check "a pod answers through it" within 90 keep keep-best
    check "containers, processes and limits are what they were" is "$before" unchanged
    check "a new pod starts" eval "simple keep-new '{}'; ready keep-new"
    $K delete service kept >/dev/null
    $K delete pod --all --wait=true --timeout=300s >/dev/null
}

boot() { node 'cat /proc/sys/kernel/random/boot_id'; }
part_reboot() {
    local before; before=$(boot)
    simple re-always '{limits: {cpu: 200m, memory: 64Mi}}'
    simple re-never '{}' 'restartPolicy: Never'
    for p in re-always re-never; do check "$p is ready" ready $p; done
    node 'systemctl --no-block reboot' >/dev/null
    other() { local now; now=$(boot); [ "${#now}" -eq 36 ] && [ "$now" != "$before" ]; }
    check "the machine has booted again" within 300 other
    check "the node is ready" within 300 eval "node_ready && [ \$(kubectl get node $NODE -o 'jsonpath={.status.nodeInfo.bootID}') != $before ]"
    check "an event tells of it" within 60 says "has been rebooted, boot id: $(boot)" \
        kubectl get events -A --field-selector reason=Rebooted -o 'jsonpath={.items[*].message}'
    check "what restarts is there again" within 120 is "true 1" field pod re-always \
        '{.status.containerStatuses[0].ready} {.status.containerStatuses[0].restartCount}'
    check "and says how it ended" is 255 state re-always lastState.terminated.exitCode
    check "with its limits" is "20000 100000|8|67108864" ofpod re-always cpu.max cpu.weight memory.max
    check "in a new sandbox, as an event tells" within 60 says SandboxChanged events re-always
    check "what does not restart has failed" within 120 is "Failed 255" field pod re-never \
        '{.status.phase} {.status.containerStatuses[0].state.terminated.exitCode}'
    $K delete pod --all --wait=true --timeout=300s >/dev/null
}

# What pods leave on a node, one count a line.
left() {
    node 'echo "cgroups $(find /sys/fs/cgroup -path "*kubepods*" -type d | wc -l)"
        echo "mounts $(grep -c "containerd\|/pods/\|netns" /proc/mounts)"
        echo "network namespaces $(ls /run/netns 2>/dev/null | wc -l)"
        echo "links $(ls /sys/class/net | wc -l)"
        echo "lines of packet filter rules $(nft -s list ruleset | wc -l)"
        echo "shims $(pgrep -c containerd-shim)"
        echo "folders of logs $(ls /var/log/pods 2>/dev/null | wc -l)"'
}
part_gone() {
    check "pods are deleted" $K delete pods --all --timeout=300s
    check "cgroups, mounts, namespaces, links, rules, shims and logs are as before" within 60 is "$(cat "$work/before")" left
    cat "$work/before"
}
