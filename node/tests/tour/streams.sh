# Logs, exec, attach, cp, port-forward, debug, top; variables from everywhere.

pod shell <<EOF
  containers:
  - name: c
    image: $IMAGE
    command: [sh, -c, 'echo first; sleep 0.5; echo second >&2; exec httpd -f -p 8080 -h /tmp']
    env:
    - {name: ME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    - {name: GREETING, value: 'hello \$(ME)'}
    resources: {requests: {cpu: 10m}, limits: {memory: 64Mi}}
EOF
check "a pod becomes ready" ready shell
check "logs" within 20 says first $K logs shell
check "logs of standard error, with time stamps" within 20 says "Z second" $K logs shell --timestamps
check "the last line of logs" is second $K logs shell --tail=1
check "exec" is hi $K exec shell -- echo hi
check "exec with input" is typed $K exec -i shell -- cat <<<typed
over_websocket() { echo typed | KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true timeout 60 $K exec -v="$1" -i shell -c c -- cat; }
check "exec with input over WebSocket, whose end ends it" is typed over_websocket 0
check "in the newest protocol" says "subprotocol is v5.channel.k8s.io" over_websocket 4
check "and over SPDY" is typed sh -c "echo typed | KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false timeout 60 $K exec -i shell -- cat"
check "exec with a terminal" says "tty" script -qec "$K exec -it shell -- sh -c 'test -t 0 && echo tty'" /dev/null
check "exec returns the exit code" is 7 sh -c "$K exec shell -- sh -c 'exit 7' >/dev/null 2>&1; echo \$?"
check "variables from fields, resources and each other" is "hello shell 64" inside shell 'echo $GREETING $LIMIT'
echo page > "$work/page"
check "cp into a container" $K cp "$work/page" shell:/tmp/index.html
check "cp out of a container" sh -c "$K cp shell:/tmp/index.html $work/back && cmp $work/page $work/back"
forwarded() {
    KUBECTL_PORT_FORWARD_WEBSOCKETS=$1 $K port-forward pod/shell "$2:8080" >"$work/forward.log" 2>&1 &
    local forward=$! ended
    within 20 says page curl -s -m 3 "http://127.0.0.1:$2/"
    ended=$?
    kill "$forward"
    return $ended
}
check "port-forward over WebSocket" forwarded true 26080
check "and over SPDY" forwarded false 26082
$K run attached --image=$IMAGE --restart=Never -i --quiet --command -- cat <<<"through attach" >"$work/attach.out" 2>&1
check "attach" says "through attach" cat "$work/attach.out"
check "debug with an ephemeral container" sh -c \
    "$K debug shell --image=$IMAGE --target=c -c dbg --attach=false -- ps >/dev/null"
check "sees its target's processes" within 20 says httpd $K logs shell -c dbg
check "debug of the node" sh -c \
    "$K debug node/$NODE --image=$IMAGE --attach=false --profile=general -- chroot /host uname -r >$work/dbg"
check "runs on it" within 20 says "$(uname -r)" sh -c "$K logs \$(grep -o 'node-debugger[^ ]*' $work/dbg | head -1)"
check "top" within 60 says shell $K top pod shell
