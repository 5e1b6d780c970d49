# Limits and use, as the kernel has them: classes, out of memory, resize, statistics, volumes in memory, processes.

part_qos() {
    local memory cpus
    simple guar '{limits: {cpu: 200m, memory: 64Mi}}'
    simple burst '{requests: {cpu: 250m, memory: 32Mi}, limits: {cpu: 500m, memory: 64Mi}}'
    simple best '{}'
    for p in guar burst best; do check "$p is ready" ready $p; done
    check "guaranteed: quota, weight and memory of the pod" is "20000 100000|8|67108864" ofpod guar cpu.max cpu.weight memory.max
    check "and of its container" is "20000 100000|67108864|1|0" ofcontainer guar cpu.max memory.max memory.oom.group memory.swap.max
    check "burstable: quota, weight and memory of the pod" is "50000 100000|10|67108864" ofpod burst cpu.max cpu.weight memory.max
    check "and of its container" is "50000 100000|10|67108864|1|0" ofcontainer burst cpu.max cpu.weight memory.max memory.oom.group memory.swap.max
    check "best effort: the pod has no limit and the least weight" is "max 100000|1|max" ofpod best cpu.max cpu.weight memory.max
    check "nor has its container, which does not swap either" is "max 100000|1|max|1|0" ofcontainer best cpu.max cpu.weight memory.max memory.oom.group memory.swap.max
    check "the class of best-effort pods weighs least" within 90 is "1|max" ofclass besteffort cpu.weight memory.max
    check "the class of burstable pods weighs what they request" within 90 between 10 20 ofclass burstable cpu.weight
    memory=$(kubectl get node "$NODE" -o 'jsonpath={.status.capacity.memory}'); memory=$((${memory%Ki} * 1024 / 4096 * 4096))
    cpus=$(kubectl get node "$NODE" -o 'jsonpath={.status.capacity.cpu}')
    check "all pods weigh as many CPUs as there are, and have the machine's memory" is "$((1 + (cpus * 1024 - 2) * 9999 / 262142))|$memory" ofclass "" cpu.weight memory.max
    check "a container sees no cgroup but its own" is "0::/" inside burst 'cat /proc/self/cgroup'
    check "nothing else is in the pod's cgroup than its containers and its sandbox" is 2 node "ls -d $(poddir burst)/*/ | wc -l"
}

part_oom() {
    local eat='exec dd if=/dev/zero of=/dev/null bs=96M count=2'
    simple oom '{limits: {memory: 32Mi}}' 'restartPolicy: Never' "$eat"
    simple oomchild '{limits: {memory: 32Mi}}' 'restartPolicy: Never' 'dd if=/dev/zero of=/dev/null bs=96M count=2; sleep 300'
    simple oomagain '{limits: {memory: 32Mi}}' 'restartPolicy: Always' "sleep 1; $eat"
    check "a container over its limit is ended" within 60 is "OOMKilled 137" ended oom
    check "its pod has failed" within 20 is Failed field pod oom '{.status.phase}'
    check "a child over the limit ends its whole container" within 60 is "OOMKilled 137" ended oomchild
    check "one that restarts says why" within 60 is "OOMKilled 137" field pod oomagain \
        '{.status.containerStatuses[0].lastState.terminated.reason} {.status.containerStatuses[0].lastState.terminated.exitCode}'
    check "and restarts again" within 90 between 2 9 state oomagain restartCount
    check "more and more slowly" within 60 is CrashLoopBackOff state oomagain state.waiting.reason
    check "which an event tells" within 30 says "Warning BackOff Back-off restarting failed container c in pod oomagain" events oomagain
    check "the kernel has counted it in the pod's cgroup" between 2 99 node "sed -n 's/^oom_group_kill //p' $(poddir oomagain)/memory.events"
}

resize() { $K patch pod "$1" --subresource resize -p "{\"spec\":{\"containers\":[{\"name\":\"c\",\"resources\":$2}]}}"; }
limits() { files "$(containerdir "$1")" cpu.max memory.max; files "$(poddir "$1")" cpu.max memory.max; }
given() { field pod "$1" '{.status.containerStatuses[0].resources.limits.cpu} {.status.containerStatuses[0].resources.limits.memory} {.status.containerStatuses[0].allocatedResources.memory} {.status.containerStatuses[0].restartCount}'; }
part_resize() {
    local before milli
    start sized '{requests: {cpu: 250m, memory: 32Mi}, limits: {cpu: 500m, memory: 64Mi}}'
    before=$(container sized)
    check "a larger size is taken" resize sized '{"requests":{"cpu":"300m","memory":"48Mi"},"limits":{"cpu":"700m","memory":"96Mi"}}'
    check "the container and its pod have it" within 60 is $'70000 100000|100663296\n70000 100000|100663296' limits sized
    check "the status says so" within 60 is "700m 96Mi 48Mi 0" given sized
    check "a smaller size is taken" resize sized '{"requests":{"cpu":"100m","memory":"32Mi"},"limits":{"cpu":"300m","memory":"48Mi"}}'
    check "the container and its pod have it" within 60 is $'30000 100000|50331648\n30000 100000|50331648' limits sized
    check "the status says so" within 60 is "300m 48Mi 32Mi 0" given sized
    inside sized 'dd if=/dev/zero of=/dev/shm/f bs=1M count=30' >/dev/null 2>&1
    resize sized '{"requests":{"memory":"8Mi"},"limits":{"memory":"16Mi"}}' >/dev/null
    check "a limit below the use is refused" within 60 says "below current usage" condition sized PodResizeInProgress message
    check "as an error" is Error condition sized PodResizeInProgress reason
    check "and the limit stays" is $'30000 100000|50331648\n30000 100000|50331648' limits sized
    inside sized 'rm /dev/shm/f' >/dev/null 2>&1
    check "until less is used" within 90 is $'30000 100000|16777216\n30000 100000|16777216' limits sized
    check "and nothing is left to say" within 60 is "" condition sized PodResizeInProgress reason
    check "what the machine does not have is refused by the API" says "have enough allocatable resources" \
        resize sized '{"requests":{"memory":"1Ti"},"limits":{"memory":"2Ti"}}'
    resize sized '{"requests":{"memory":"32Mi"},"limits":{"memory":"48Mi"}}' >/dev/null
    check "a size for the memory that is free" within 60 is "300m 48Mi 32Mi 0" given sized
    start holder '{requests: {cpu: 200m}}'
    milli=$(($(kubectl get node "$NODE" -o 'jsonpath={.status.allocatable.cpu}') * 1000))
    resize sized "{\"requests\":{\"cpu\":\"$((milli - 50))m\"},\"limits\":{\"cpu\":\"$((milli - 50))m\"}}" >/dev/null
    check "what others hold waits" within 60 is Deferred condition sized PodResizePending reason
    check "and changes nothing" is $'30000 100000|50331648\n30000 100000|50331648' limits sized
    resize sized '{"requests":{"cpu":"100m"},"limits":{"cpu":"400m"}}' >/dev/null
    check "a size that fits ends the wait" within 60 is $'40000 100000|50331648\n40000 100000|50331648' limits sized
    check "all of it without a restart" is "$before" container sized
    $K delete pod holder --wait=true >/dev/null
}

api() { kubectl get --raw "/api/v1/nodes/$NODE/proxy/$1"; }
# summary POD EXPRESSION on its entry p and the entry c of its container.
summary() {
    api stats/summary | python3 -c "import json,sys; p=[p for p in json.load(sys.stdin)['pods'] if p['podRef']['name']=='$1' and p['podRef']['namespace']=='$NAMESPACE'][0]; c=p['containers'][0]; print($2)"
}
metric() { api "$1" | awk -v name="$2" -v pod="pod=\"$3\"" -v c="${4:+container=\"$4\"}" 'index($1, name "{") == 1 && index($0, pod) && (c == "" || index($0, c)) { printf "%d\n", $2; exit }'; }
workingset() { node "awk '/^inactive_file /{i=\$2} FNR==1 && FILENAME ~ /current/{u=\$1} END{printf \"%d\n\", u-i}' $1/memory.current $1/memory.stat"; }
# near TOLERANCE KERNEL-COMMAND -- COMMAND...: what both say now differs by no more.
near() {
    local tolerance=$1 kernel=$2 a b; shift 3
    a=$($kernel) b=$("$@" 2>&1)
    [ -n "$b" ] && [ "$((a > b ? a - b : b - a))" -le "$tolerance" ] || { echo "kernel: $a, wanted within $tolerance, got: $b"; return 1; }
}
top() { $K top pod "$1" --no-headers | awk "{print \$$2+0}"; }
part_stats() {
    local used
    start spin '{limits: {cpu: 200m, memory: 32Mi}}' '' 'while :; do :; done'
    start filled '{limits: {memory: 64Mi}}' '' "dd if=/dev/zero of=/dev/shm/f bs=1M count=20; $WAIT"
    podset() { workingset "$(poddir filled)"; }
    containerset() { workingset "$(containerdir filled)"; }
    processes() { ofpod filled pids.current; }
    seconds() { node "awk '/^usage_usec/{printf \"%d\n\", \$2/1e6}' $(containerdir spin)/cpu.stat"; }
    nodeset() { node "awk '/^MemTotal|^MemFree|^Inactive.file/{v[\$1]=\$2} END{printf \"%d\n\", (v[\"MemTotal:\"]-v[\"MemFree:\"]-v[\"Inactive(file):\"])/1024}' /proc/meminfo"; }
    check "the loop has the CPU time that it may" between 17 22 node "f=$(containerdir spin)/cpu.stat; a=\$(sed -n 's/usage_usec //p' \$f); s=\$(cut -d' ' -f1 /proc/uptime); sleep 15; b=\$(sed -n 's/usage_usec //p' \$f); e=\$(cut -d' ' -f1 /proc/uptime); echo \$a \$b \$s \$e | awk '{printf \"%d\n\", (\$2-\$1)/1e4/(\$4-\$3)+0.5}'"
    check "kubectl top says so (thousandths of a CPU)" within 60 between 170 230 top spin 2
    check "kubectl top says what a pod holds (MiB)" within 60 near 3 "ofmebi" -- top filled 3
    check "the summary: the pod's memory" within 30 near 2097152 podset -- summary filled "p['memory']['workingSetBytes']"
    check "its container's" within 30 near 2097152 containerset -- summary filled "c['memory']['workingSetBytes']"
    check "its processes" within 30 near 0 processes -- summary filled "p['process_stats']['process_count']"
    check "the loop's thousandths of a CPU" within 30 between 170 230 summary spin "p['cpu']['usageNanoCores']//10**6"
    check "metrics/resource: memory" within 30 near 2097152 containerset -- metric metrics/resource container_memory_working_set_bytes filled c
    check "the pod's, too" within 30 near 2097152 podset -- metric metrics/resource pod_memory_working_set_bytes filled
    check "CPU seconds" within 30 near 5 seconds -- metric metrics/resource container_cpu_usage_seconds_total spin c
    check "metrics/cadvisor: memory" within 30 near 2097152 containerset -- metric metrics/cadvisor container_memory_working_set_bytes filled c
    check "CPU seconds" within 30 near 5 seconds -- metric metrics/cadvisor container_cpu_usage_seconds_total spin c
    check "kubectl top of the node (MiB)" within 60 near 60 nodeset -- eval "kubectl top node $NODE --no-headers | awk '{print \$4+0}'"
    $K delete pod spin --wait=true >/dev/null
}
ofmebi() { echo $(($(podset) / 1048576)); }

part_volume() {
    pod held <<EOF
  containers: [{name: c, image: $IMAGE, command: [sh, -c, "$WAIT"], resources: {limits: {memory: 64Mi}}, volumeMounts: [{name: m, mountPath: /m}, {name: w, mountPath: /w}]}]
  volumes: [{name: m, emptyDir: {medium: Memory, sizeLimit: 24Mi}}, {name: w, emptyDir: {medium: Memory}}]
EOF
    check "a pod with volumes in memory" ready held
    size() { node "awk '/$(uid held).*empty-dir.$1 /{print \$3, \$4}' /proc/mounts | grep -o '^tmpfs\|size=[0-9a-z]*' | paste -sd ' '"; }
    check "one with a limit is a tmpfs of that size" is "tmpfs size=24576k" size m
    check "one without is of the pod's limit" is "tmpfs size=65536k" size w
    check "what does not fit is refused" says "No space left" inside held 'dd if=/dev/zero of=/m/f bs=1M count=30'
    check "what fits is there" is 25165824 inside held 'stat -c %s /m/f'
    check "and counts as the pod's memory" between 25165824 60000000 ofpod held memory.current
    inside held 'kill 1' >/dev/null 2>&1
    check "the container starts again" within 90 is 1 state held restartCount
    check "and finds it" within 60 is 25165824 inside held 'stat -c %s /m/f'
    $K delete pod held --wait=true >/dev/null
}

part_pids() {
    local most; most=$(setting podPidsLimit)
    [ "$most" -gt 0 ] || { skip "limit of processes" "the node has none (--pod-max-pids)"; return; }
    start many '{}'
    check "the pod's cgroup has the limit" is "$most" ofpod many pids.max
    check "more processes are refused" says "an't fork" inside many "for i in \$(seq $((most + 20))); do sleep 20 & done; wait"
    # Kernels before 6.10 count it where the process is, later ones where the limit is.
    check "the kernel counted it" between 1 9999 node "cat $(poddir many)/pids.events $(containerdir many)/pids.events | awk '/^max/{n += \$2} END{print n}'"
    check "other pods have their own" is "$most" ofpod "$($K get pods --field-selector status.phase=Running -o 'jsonpath={.items[0].metadata.name}')" pids.max
    $K delete pod many --wait=true >/dev/null
}
