# Probes, hooks, order, back-off, restart rules, readiness gates, security contexts.

pod probes <<EOF
  containers:
  - name: c
    image: $IMAGE
    command: [sh, -c, 'touch /tmp/live; sleep 3; touch /tmp/started; exec httpd -f -p 80 -h /tmp']
    startupProbe: {exec: {command: [cat, /tmp/started]}, periodSeconds: 1, failureThreshold: 30}
    readinessProbe: {httpGet: {path: /started, port: 80}, periodSeconds: 1}
    livenessProbe: {exec: {command: [cat, /tmp/live]}, periodSeconds: 1, failureThreshold: 1}
EOF
check "start-up and readiness probes" ready probes
inside probes 'rm /tmp/started'
check "a failing readiness probe takes readiness away" $K wait --for=condition=Ready=false --timeout=20s pod/probes
inside probes 'rm /tmp/live'
check "a failing liveness probe restarts" within 30 is 1 field pod probes '{.status.containerStatuses[0].restartCount}'

pod hooks <<EOF
  containers:
  - name: c
    image: $IMAGE
    command: [sh, -c, 'trap "exit 0" TERM; while :; do sleep 0.1; done']
    lifecycle:
      postStart: {exec: {command: [touch, /data/started]}}
      preStop: {exec: {command: [touch, /data/stopped]}}
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, hostPath: {path: $work/hooks, type: DirectoryOrCreate}}]
EOF
ready hooks >/dev/null
check "postStart ran" test -e "$work/hooks/started"
$K delete pod hooks >/dev/null
check "preStop ran" test -e "$work/hooks/stopped"

pod order <<EOF
  restartPolicy: Never
  initContainers:
  - {name: side, image: $IMAGE, command: [sh, -c, 'while :; do sleep 1; done'], restartPolicy: Always}
  - {name: first, image: $IMAGE, command: [sh, -c, 'echo 1 >> /d/order'], volumeMounts: [{name: d, mountPath: /d}]}
  containers:
  - {name: c, image: $IMAGE, command: [sh, -c, 'echo 2 >> /d/order; cat /d/order; echo bye > /dev/termination-log'],
     volumeMounts: [{name: d, mountPath: /d}]}
  volumes: [{name: d, emptyDir: {}}]
EOF
check "init containers and sidecars, and the pod ends" $K wait --for=jsonpath='{.status.phase}'=Succeeded --timeout=60s pod/order
check "in order" is $'1\n2' $K logs order -c c
check "the last words" is bye field pod order '{.status.containerStatuses[0].state.terminated.message}'

pod crash <<EOF
  containers: [{name: c, image: $IMAGE, command: [sh, -c, 'exit 3']}]
EOF
check "back-off of a crash" within 30 is CrashLoopBackOff field pod crash '{.status.containerStatuses[0].state.waiting.reason}'
check "the last exit code" is 3 field pod crash '{.status.containerStatuses[0].lastState.terminated.exitCode}'

# A container's own policy and rules: 42 starts it again, anything else ends the pod.
pod rules <<EOF
  restartPolicy: Always
  containers:
  - name: c
    image: $IMAGE
    command: [sh, -c, 'if [ -e /d/once ]; then exit 7; fi; touch /d/once; exit 42']
    restartPolicy: Never
    restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]
    volumeMounts: [{name: d, mountPath: /d}]
  volumes: [{name: d, emptyDir: {}}]
EOF
check "an exit code that a rule names restarts" within 90 is 1 field pod rules '{.status.containerStatuses[0].restartCount}'
check "another one ends the pod" within 90 is Failed field pod rules '{.status.phase}'
pod together <<EOF
  restartPolicy: Never
  initContainers:
  - {name: first, image: $IMAGE, command: [sh, -c, 'echo x >> /d/inits'], volumeMounts: [{name: d, mountPath: /d}]}
  containers:
  - name: c
    image: $IMAGE
    command: [sh, -c, 'if [ -e /d/again ]; then exec sleep 3600; fi; touch /d/again; sleep 2; exit 42']
    restartPolicy: Never
    restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: In, values: [42]}}]
    volumeMounts: [{name: d, mountPath: /d}]
  - {name: other, image: $IMAGE, command: [sleep, "3600"]}
  volumes: [{name: d, emptyDir: {}}]
EOF
restarted() { is "$1" field pod together '{.status.initContainerStatuses[0].restartCount}{.status.containerStatuses[*].restartCount}'; }
check "a rule restarts every container in place" within 150 restarted "11 1"
check "init containers too" within 60 is $'x\nx' inside together 'cat /d/inits'

pod gated <<EOF
  readinessGates: [{conditionType: example.com/in-use}]
  containers: [{name: c, image: $IMAGE, command: [sleep, "3600"]}]
EOF
reason() { field pod gated '{.status.conditions[?(@.type=="Ready")].reason}'; }
check "a readiness gate keeps a pod from being ready" within 90 is ReadinessGatesNotReady reason
$K patch pod gated --subresource=status -p '{"status":{"conditions":[{"type":"example.com/in-use","status":"True"}]}}' >/dev/null
check "until it is opened" ready gated

pod secure <<EOF
  securityContext:
    runAsUser: 1000
    runAsGroup: 3000
    fsGroup: 2000
    sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: "20"}]
  hostAliases: [{ip: 192.0.2.7, hostnames: [aliased]}]
  containers:
  - name: c
    image: $IMAGE
    command: [sleep, "3600"]
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL]}
      seccompProfile: {type: RuntimeDefault}
    volumeMounts: [{name: d, mountPath: /d}]
  volumes: [{name: d, emptyDir: {}}]
EOF
ready secure >/dev/null
check "user, group and file system group" says "uid=1000 gid=3000 groups=2000" inside secure id
check "a read-only root" fails inside secure 'touch /x'
check "files belong to the group" is 2000 inside secure 'touch /d/x; stat -c %g /d/x'
check "no capabilities" says "CapEff:	0000000000000000" inside secure 'cat /proc/self/status'
check "no new privileges" says "NoNewPrivs:	1" inside secure 'cat /proc/self/status'
check "a seccomp profile" says "Seccomp:	2" inside secure 'cat /proc/self/status'
check "sysctls" is 20 inside secure 'cat /proc/sys/net/ipv4/ip_unprivileged_port_start'
check "host aliases" says aliased inside secure 'cat /etc/hosts'
