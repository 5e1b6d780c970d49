#!/usr/bin/env bash
# A tour of etcdctl's commands against a running store. usage: tour.sh <etcdctl> <endpoints> [etcdctl flags…]
# Prints one line a check and fails at the first that is wrong.
set -euo pipefail
etcdctl=$1 endpoints=$2
shift 2
flags=("$@")
# etcdctl before 3.6 needs to be told; later ones complain about it.
case "$("$etcdctl" version 2>/dev/null || true)" in *3.6*|*3.7*) ;; *) export ETCDCTL_API=3 ;; esac
ctl() { "$etcdctl" --endpoints "$endpoints" "${flags[@]}" "$@"; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
expect() { # name, expected text, actual text
    if [[ "$3" == *"$2"* ]]; then echo "ok   $1"; else echo "FAIL $1: wanted «$2», got «$3»"; exit 1; fi
}
fails() { # name, expected text, command…
    local name=$1 text=$2 out
    shift 2
    if out=$("$@" 2>&1); then echo "FAIL $name: it succeeded: $out"; exit 1; fi
    expect "$name" "$text" "$out"
}
ctl del "" --prefix > /dev/null
expect put OK "$(ctl put tour/a 1)"
expect get 1 "$(ctl get tour/a --print-value-only)"
expect "put prev" 1 "$(ctl put tour/a 2 --prev-kv)"
ctl put tour/b 3 > /dev/null
ctl put tour/c 4 > /dev/null
expect "get prefix" "tour/c" "$(ctl get tour/ --prefix --keys-only)"
expect "get limit" "tour/b" "$(ctl get tour/ --prefix --limit 2 --keys-only)"
expect "get descending" "tour/c" "$(ctl get tour/ --prefix --sort-by KEY --order DESCEND --keys-only | head -1)"
if ctl get --help 2>&1 | grep -q count-only; then
    expect "count only" '"Count" : 3' "$(ctl get tour/ --prefix --count-only -w fields)"
fi
revision=$(ctl get tour/a -w json | sed 's/.*"revision":\([0-9]*\).*/\1/')
ctl put tour/a 5 > /dev/null
expect "get old revision" 2 "$(ctl get tour/a --rev "$revision" --print-value-only)"
expect "txn" SUCCESS "$(printf 'value("tour/a") = "5"\n\nput tour/t yes\n\nput tour/t no\n\n' | ctl txn -i 2>&1)"
expect "txn result" yes "$(ctl get tour/t --print-value-only)"
expect "del" 1 "$(ctl del tour/t)"
ctl watch tour/ --prefix --rev "$revision" > "$work/watch" 2>&1 &
watcher=$!
ctl put tour/w seen > /dev/null
for _ in $(seq 50); do grep -q seen "$work/watch" && break; sleep 0.1; done
kill "$watcher" 2> /dev/null || true
expect "watch" seen "$(cat "$work/watch")"
lease=$(ctl lease grant 60 | awk '{print $2}')
ctl put tour/leased x --lease "$lease" > /dev/null
expect "lease timetolive" "tour/leased" "$(ctl lease timetolive "$lease" --keys)"
expect "lease list" "$lease" "$(ctl lease list)"
expect "lease keep-alive" "keepalived" "$(ctl lease keep-alive --once "$lease")"
expect "lease revoke" revoked "$(ctl lease revoke "$lease")"
expect "lease took its key" '' "$(ctl get tour/leased)"
expect "lock" "tour-lock/" "$(timeout 20 "$etcdctl" --endpoints "$endpoints" "${flags[@]}" lock tour-lock -- sh -c 'echo "$ETCD_LOCK_KEY"')"
revision=$(ctl get tour/a -w json | sed 's/.*"revision":\([0-9]*\).*/\1/')
expect "compaction" "compacted revision" "$(ctl compaction "$revision" --physical 2>&1)"
fails "compacted read" "required revision has been compacted" ctl get tour/a --rev 1
fails "future read" "required revision is a future revision" ctl get tour/a --rev 999999999
expect "member list" "started" "$(ctl member list)"
expect "endpoint status" "true" "$(ctl endpoint status)"
expect "endpoint health" "is healthy" "$(ctl endpoint health 2>&1)"
expect "endpoint hashkv" ", " "$(ctl endpoint hashkv)"
expect "alarm list" '' "$(ctl alarm list)"
expect "alarm disarm" '' "$(ctl alarm disarm)"
expect "defrag" "Finished" "$(ctl defrag 2>&1)"
first=${endpoints%%,*}
expect "snapshot save" "aved" "$("$etcdctl" --endpoints "$first" "${flags[@]}" snapshot save "$work/snapshot.db" 2>&1)"
expect "role add" "created" "$(ctl role add tour-role)"
expect "role grant" "updated" "$(ctl role grant-permission tour-role readwrite tour/ --prefix=true)"
expect "role get" "tour/" "$(ctl role get tour-role)"
expect "user add" "created" "$(ctl user add tour-user:secret)"
expect "user grant" "granted" "$(ctl user grant-role tour-user tour-role)"
expect "user get" "tour-role" "$(ctl user get tour-user)"
ctl user add root:rootpw > /dev/null 2>&1 || true
ctl role add root > /dev/null 2>&1 || true
ctl user grant-role root root > /dev/null 2>&1 || true
expect "auth enable" "Enabled" "$(ctl auth enable)"
# A client certificate's name is a user, so only a client without one is nobody.
if [[ " ${flags[*]} " != *" --cert "* ]]; then
    fails "no user" "user name is empty" ctl get tour/a
fi
expect "as user" 5 "$(ctl --user tour-user:secret get tour/a --print-value-only)"
fails "as user elsewhere" "permission denied" ctl --user tour-user:secret get other
fails "wrong password" "authentication failed" ctl --user tour-user:wrong get tour/a
expect "auth disable" "Disabled" "$(ctl --user root:rootpw auth disable)"
expect "user delete" "deleted" "$(ctl user delete tour-user)"
expect "role delete" "deleted" "$(ctl role delete tour-role)"
ctl user delete root > /dev/null
ctl role delete root > /dev/null
echo "the tour is complete"
