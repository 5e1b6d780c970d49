#!/usr/bin/env bash
# A tour of etcdctl's commands against the endpoints in $ETCDCTL_ENDPOINTS (and $ETCDCTL_CACERT, … as etcdctl reads
# them). Works with 3.4 and newer. Prints one line a command; the first that differs from etcd ends the tour with
# status 1. Usage: etcdctl.sh ETCDCTL
set -uo pipefail
export ETCDCTL_API=3
ctl=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() { printf 'FAILED %s\n%s\n' "$1" "$2"; exit 1; }

# expect NAME EXPECTED-REGEX COMMAND…: the output (both streams, newlines as \n) matches whole.
expect() {
  local name=$1 want=$2 out
  shift 2
  out=$("$@" 2>&1 | grep -v '^{"level"' | awk '{printf "%s%s", sep, $0; sep="\\n"}')
  [[ $out =~ ^${want}$ ]] || fail "$name: $*" "  wanted: $want"$'\n'"  got:    $out"
  printf 'ok     %s\n' "$name"
}

expect "put" 'OK' "$ctl" put ctl/a 1
expect "put --prev-kv" 'OK\\nctl/a\\n1' "$ctl" put ctl/a 2 --prev-kv
expect "get" 'ctl/a\\n2' "$ctl" get ctl/a
expect "get --print-value-only" '2' "$ctl" get ctl/a --print-value-only
expect "put others" 'OK' "$ctl" put ctl/b 3
expect "get --prefix --keys-only" 'ctl/a\\n\\nctl/b(\\n)*' "$ctl" get ctl/ --prefix --keys-only
expect "get --prefix --order DESCEND --limit 1" 'ctl/b\\n3' "$ctl" get ctl/ --prefix --order=DESCEND --sort-by=KEY --limit=1
expect "get --from-key in json" '.*"count":[0-9]+.*' "$ctl" get ctl/ --from-key -w json
expect "del --prev-kv" '1\\nctl/b\\n3' "$ctl" del ctl/b --prev-kv
printf 'value("ctl/a") = "2"\n\nput ctl/t yes\n\nput ctl/t no\n\n' > "$work/txn"
expect "txn" 'SUCCESS\\n\\nOK' bash -c "'$ctl' txn < '$work/txn'"
expect "txn wrote" 'ctl/t\\nyes' "$ctl" get ctl/t

revision=$("$ctl" get ctl/a -w json | grep -o '"revision":[0-9]*' | cut -d: -f2)
(timeout 10 "$ctl" watch ctl/w --rev="$revision" > "$work/watch" 2>&1 &)
sleep 1
"$ctl" put ctl/w 1 > /dev/null && "$ctl" del ctl/w > /dev/null
for _ in $(seq 50); do grep -q DELETE "$work/watch" && break; sleep 0.1; done
expect "watch" 'PUT\\nctl/w\\n1\\nDELETE\\nctl/w(\\n)*' cat "$work/watch"

lease=$("$ctl" lease grant 60 | grep -oE '[0-9a-f]{8,}' | head -1)
expect "put --lease" 'OK' "$ctl" put ctl/l x --lease="$lease"
expect "lease timetolive --keys" "lease $lease granted with TTL\(60s\), remaining\([0-9]+s\), attached keys\(\[ctl/l\]\)" "$ctl" lease timetolive "$lease" --keys
expect "lease list" "found [0-9]+ leases.*$lease.*" "$ctl" lease list
expect "lease keep-alive --once" "lease $lease keepalived with TTL\(60\)" "$ctl" lease keep-alive --once "$lease"
expect "lease revoke" "lease $lease revoked" "$ctl" lease revoke "$lease"
expect "the key went with its lease" '' "$ctl" get ctl/l

expect "lock runs a command" 'held' "$ctl" lock ctl/lock echo held
expect "member list" '.*started.*' "$ctl" member list
expect "endpoint health" '.*is healthy.*' "$ctl" endpoint health
expect "endpoint status" '.*' "$ctl" endpoint status -w json
expect "endpoint hashkv" '.*' "$ctl" endpoint hashkv
expect "alarm list" '' "$ctl" alarm list
expect "compaction" "compacted revision $revision" "$ctl" compaction "$revision"
expect "a compacted revision is refused" '.*required revision has been compacted.*' "$ctl" get ctl/a --rev=1
expect "defrag" '(Finished defragmenting etcd member.*)+' "$ctl" defrag
expect "snapshot save" '.*[Ss]napshot.*' env ETCDCTL_ENDPOINTS="${ETCDCTL_ENDPOINTS%%,*}" "$ctl" snapshot save "$work/snapshot"
[ -s "$work/snapshot" ] || fail "snapshot save" "  the file is empty"

expect "role add" 'Role reader created' "$ctl" role add reader
expect "role grant-permission" 'Role reader updated' "$ctl" role grant-permission reader --prefix=true read ctl/
expect "role get" 'Role reader\\nKV Read:\\n.\[ctl/, ctl0\) \(prefix ctl/\)\\nKV Write:(\\n)*' "$ctl" role get reader
expect "role list" 'reader' "$ctl" role list
expect "user add root" 'User root created' "$ctl" user add root:secret
expect "user grant-role root" 'Role root is granted to user root' "$ctl" user grant-role root root
expect "user add" 'User ann created' "$ctl" user add ann:pw
expect "user grant-role" 'Role reader is granted to user ann' "$ctl" user grant-role ann reader
expect "user get" 'User: ann\\nRoles: reader' "$ctl" user get ann
expect "auth enable" 'Authentication Enabled' "$ctl" auth enable
root=("$ctl" --user=root:secret) ann=("$ctl" --user=ann:pw)
expect "without a user nothing goes" '.*user name is empty.*' "$ctl" get ctl/a
expect "a wrong password is refused" '.*invalid user ID or password.*' "$ctl" --user=ann:no get ctl/a
expect "a reader reads" 'ctl/a\\n2' "${ann[@]}" get ctl/a
expect "a reader does not write" '.*permission denied.*' "${ann[@]}" put ctl/a 3
expect "a reader does not leave its range" '.*permission denied.*' "${ann[@]}" get other
expect "user passwd" 'Password updated' bash -c "printf 'pw2\npw2\n' | '$ctl' --user=root:secret user passwd --interactive=false ann"
expect "auth disable" 'Authentication Disabled' "${root[@]}" auth disable
expect "user revoke-role" 'Role reader is revoked from user ann' "$ctl" user revoke-role ann reader
expect "user delete" 'User ann deleted' "$ctl" user delete ann
expect "user delete root" 'User root deleted' "$ctl" user delete root
expect "role revoke-permission" 'Permission of (range|key).*' "$ctl" role revoke-permission reader --prefix=true ctl/
expect "role delete" 'Role reader deleted' "$ctl" role delete reader
expect "del --prefix" '[0-9]+' "$ctl" del ctl/ --prefix
