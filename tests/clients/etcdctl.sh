#!/usr/bin/env bash
# A tour of etcdctl's commands against the endpoints in $ETCDCTL_ENDPOINTS (and $ETCDCTL_CACERT, … as etcdctl reads
# them). Works with 3.4 and newer, with URLs and with host:port, on one member or several. Prints one line a command;
# the first that differs from etcd ends the tour with status 1.
# Usage: etcdctl.sh ETCDCTL [auth]   with `auth`, users are required from the first command on.
set -uo pipefail
export ETCDCTL_API=3
program=$1
with_auth=${2:-}
work=$(mktemp -d)
trap 'rm -rf "$work"; kill $(jobs -p) 2>/dev/null' EXIT
first=${ETCDCTL_ENDPOINTS%%,*}
members=$(tr ',' '\n' <<< "$ETCDCTL_ENDPOINTS" | wc -l)
is34=$("$program" version | grep -c '^etcdctl version: 3\.[0-4]\.')
# A busy machine is no failure.
patience=(--dial-timeout=30s --command-timeout=30s)
# As whom ordinary commands run.
who=("${patience[@]}")

ctl() { "$program" ${who[@]+"${who[@]}"} "$@"; }
one() { ETCDCTL_ENDPOINTS=$first ctl "$@"; }
as() { local user=$1; shift; "$program" "${patience[@]}" --user="$user" "$@"; }
fail() { printf 'FAILED %s\n%s\n' "$1" "$2"; exit 1; }

# refused NAME TEXT COMMAND…: the command says TEXT; it may go on, as 3.4's watch does.
refused() {
  local name=$1 text=$2
  shift 2
  (timeout 20 "$@" > "$work/refused" 2>&1 &)
  until_true 20 grep -q "$text" "$work/refused" || fail "$name: $*" "$(cat "$work/refused")"
  printf 'ok     %s\n' "$name"
}
# expect NAME EXPECTED-REGEX COMMAND…: the output (both streams, newlines as \n) matches whole.
expect() {
  local name=$1 want=$2 out
  shift 2
  out=$("$@" 2>&1 | grep -v '^{"level"' | awk '{printf "%s%s", sep, $0; sep="\\n"}')
  [[ $out =~ ^${want}$ ]] || fail "$name: $*" "  wanted: $want"$'\n'"  got:    $out"
  printf 'ok     %s\n' "$name"
}
# The same with --cluster. 3.4 asks for the members without a name, which etcd refuses where users are required.
to_members() {
  local name=$1 want=$2
  shift 2
  [ "$is34$with_auth" != 1auth ] || want='.*user name is empty.*'
  expect "$name" "$want" "$@"
}
number() { grep -oE "\"$1\":[0-9]+" | head -1 | cut -d: -f2; }
# until_true SECONDS COMMAND…
until_true() { local n=$(($1 * 10)); shift; for _ in $(seq "$n"); do "$@" && return 0; sleep 0.1; done; return 1; }

if [ "$with_auth" = auth ]; then
  expect "user add root" 'User root created' ctl user add root:secret
  expect "user grant-role root" 'Role root is granted to user root' ctl user grant-role root root
  expect "auth enable" 'Authentication Enabled' ctl auth enable
  who=("${patience[@]}" --user=root:secret)
fi

expect "version" '.*API version: 3\.[0-9]+' ctl version
expect "put" 'OK' ctl put ctl/a 1
expect "put --prev-kv" 'OK\\nctl/a\\n1' ctl put ctl/a 2 --prev-kv
expect "put from standard input" 'OK' bash -c "printf 'from stdin' | '$program' ${who[*]-} put ctl/in"
expect "put --ignore-lease" 'OK' ctl put ctl/in 5 --ignore-lease
expect "put --ignore-value" 'OK' ctl put --ignore-value ctl/in
expect "get" 'ctl/a\\n2' ctl get ctl/a
expect "get --print-value-only" '2' ctl get ctl/a --print-value-only
expect "get --consistency=s" 'ctl/a\\n2' one get ctl/a --consistency=s
expect "get --hex" '\\x63\\x74\\x6c\\x2f\\x61\\n\\x32' ctl get ctl/a --hex
expect "put others" 'OK' ctl put ctl/b 3
expect "get a range" 'ctl/a\\n2' ctl get ctl/a ctl/b
expect "get --prefix --keys-only" 'ctl/a\\n\\nctl/b\\n\\nctl/in(\\n)*' ctl get ctl/ --prefix --keys-only
expect "get --prefix --order --limit" 'ctl/in\\n5' ctl get ctl/ --prefix --order=DESCEND --sort-by=KEY --limit=1
expect "get --sort-by=MODIFY" 'ctl/b\\n3' ctl get ctl/ --prefix --order=DESCEND --sort-by=MODIFY --limit=1
expect "get --from-key in json" '.*"count":[0-9]+.*' ctl get ctl/ --from-key -w json
expect "get in the fields format" '.*"Count" : 3' ctl get ctl/ --prefix --keys-only -w fields
before=$(ctl get ctl/a -w json | number mod_revision)
expect "get --rev" 'ctl/a\\n1' ctl get ctl/a --rev="$((before - 1))"
expect "get at a future revision is refused" '.*required revision is a future revision.*' ctl get ctl/a --rev=999999999
expect "del --prev-kv" '1\\nctl/b\\n3' ctl del ctl/b --prev-kv
expect "del a range" '(Warning.*)?1' ctl del ctl/i ctl/j
printf 'value("ctl/a") = "2"\nmod("ctl/a") > "0"\nversion("ctl/none") = "0"\ncreate("ctl/a") != "0"\n\nput ctl/t yes\nget ctl/a\n\nput ctl/t no\n\n' > "$work/txn"
expect "txn" 'SUCCESS\\n\\nOK\\n\\nctl/a\\n2' bash -c "'$program' ${who[*]-} txn < '$work/txn'"
printf 'value("ctl/a") = "9"\n\nput ctl/t yes\n\ndel ctl/t\n\n' > "$work/txn"
expect "txn that does not hold" 'FAILURE\\n\\n1' bash -c "'$program' ${who[*]-} txn < '$work/txn'"
printf '\nput ctl/d 1\nput ctl/d 2\n\n\n' > "$work/txn"
expect "txn with a key twice" '.*duplicate key given in txn request.*' bash -c "'$program' ${who[*]-} txn < '$work/txn'"

revision=$(ctl get ctl/a -w json | number revision)
(timeout 20 "$program" ${who[@]+"${who[@]}"} watch ctl/w --rev="$revision" --prev-kv > "$work/watch" 2>&1 &)
ctl put ctl/w 1 > /dev/null && ctl put ctl/w 2 > /dev/null && ctl del ctl/w > /dev/null
until_true 10 grep -q DELETE "$work/watch"
expect "watch --prev-kv" 'PUT\\nctl/w\\n1\\nPUT\\nctl/w\\n1\\nctl/w\\n2\\nDELETE\\nctl/w\\n2\\nctl/w(\\n)*' cat "$work/watch"
revision=$(ctl get ctl/a -w json | number revision)
(printf 'watch ctl/x --rev=%d\nwatch ctl/y --rev=%d\nprogress\n' "$revision" "$revision"; sleep 15) | timeout 20 "$program" ${who[@]+"${who[@]}"} watch -i > "$work/watch" 2>&1 &
ctl put ctl/x 1 > /dev/null && ctl put ctl/y 2 > /dev/null
both() { [ "$(grep -cE '^ctl/[xy]$' "$work/watch")" = 2 ]; }
until_true 15 both
expect "watch -i" '.*PUT\\nctl/x\\n1.*' cat "$work/watch"
expect "watch -i, the second watch" '.*PUT\\nctl/y\\n2.*' cat "$work/watch"
(timeout 20 "$program" ${who[@]+"${who[@]}"} watch ctl/e --rev="$revision" -- sh -c 'env | grep ETCD_WATCH_' > "$work/watch" 2>&1 &)
ctl put ctl/e 1 > /dev/null
until_true 10 grep -q ETCD_WATCH_KEY "$work/watch"
expect "watch runs a command" '.*ETCD_WATCH_KEY="ctl/e".*' cat "$work/watch"

if [ "$is34" = 0 ] || [ "$with_auth" != auth ]; then
  # 3.4 cannot name itself at the other end.
  mirror=(--prefix ctl/from/ --dest-prefix ctl/to/)
  [ -n "${ETCDCTL_CACERT:-}" ] || mirror+=(--dest-insecure-transport)
  [ -z "${ETCDCTL_CACERT:-}" ] || mirror+=(--dest-insecure-transport=false --dest-cacert "$ETCDCTL_CACERT" --dest-cert "$ETCDCTL_CERT" --dest-key "$ETCDCTL_KEY")
  [ "$with_auth" != auth ] || mirror+=(--dest-user root:secret)
  ctl put ctl/from/a 1 > /dev/null
  (timeout 60 "$program" ${who[@]+"${who[@]}"} make-mirror "${mirror[@]}" "$first" > "$work/mirror" 2>&1 &)
  mirrored() { [ "$(ctl get ctl/to/a --print-value-only)" = "$1" ]; }
  until_true 30 mirrored 1 || fail "make-mirror" "$(cat "$work/mirror")"
  ctl put ctl/from/a 2 > /dev/null
  until_true 30 mirrored 2 || fail "make-mirror" "$(cat "$work/mirror")"
  printf 'ok     make-mirror\n'
fi

lease=$(ctl lease grant 60 | grep -oE '[0-9a-f]{8,}' | head -1)
expect "put --lease" 'OK' ctl put ctl/l x --lease="$lease"
expect "lease timetolive --keys" "lease $lease granted with TTL\(60s\), remaining\([0-9]+s\), attached keys\(\[ctl/l\]\)" ctl lease timetolive "$lease" --keys
expect "lease list" "found [0-9]+ leases.*$lease.*" ctl lease list
expect "lease keep-alive --once" "lease $lease keepalived with TTL\(60\)" ctl lease keep-alive --once "$lease"
expect "lease revoke" "lease $lease revoked" ctl lease revoke "$lease"
expect "the key went with its lease" '' ctl get ctl/l
expect "a lease that is gone" "lease $lease already expired" ctl lease timetolive "$lease"
short=$(ctl lease grant 2 | grep -oE '[0-9a-f]{8,}' | head -1)
ctl put ctl/s x --lease="$short" > /dev/null
gone() { [ -z "$(ctl get ctl/s)" ]; }
until_true 12 gone || fail "a lease runs out" "  its key is still there"
printf 'ok     a lease runs out\n'

expect "lock runs a command" 'held' ctl lock ctl/lock echo held
(timeout -k 5 40 "$program" ${who[@]+"${who[@]}"} elect ctl/election me > "$work/elect" 2>&1 &)
until_true 30 grep -q "^me" "$work/elect"
expect "elect" 'ctl/election/[0-9a-f]+\\nme' cat "$work/elect"
(timeout -k 5 40 "$program" ${who[@]+"${who[@]}"} elect -l ctl/election > "$work/listen" 2>&1 &)
until_true 30 grep -q "^me" "$work/listen"
expect "elect --listen" 'ctl/election/[0-9a-f]+\\nme' cat "$work/listen"

expect "member list" '.*started.*' ctl member list
expect "member list in a table" '.*PEER ADDRS.*' ctl member list -w table
expect "endpoint health" '.*is healthy.*' ctl endpoint health
to_members "endpoint health --cluster" '.*is healthy.*' one endpoint health --cluster
expect "endpoint status" '.*"raftTerm":[0-9]+.*' ctl endpoint status -w json
expect "endpoint status of each" "$members" bash -c "'$program' ${who[*]-} endpoint status | wc -l"
expect "endpoint hashkv" '.*"hash":[0-9]+.*' ctl endpoint hashkv -w json
expect "every member has the same hash" '1' bash -c "'$program' ${who[*]-} endpoint hashkv --rev=$revision | awk -F', ' '{print \$2}' | sort -u | wc -l"
expect "alarm list" '' ctl alarm list
expect "alarm disarm" '' ctl alarm disarm
now=$(ctl get ctl/a -w json | number revision)
expect "compaction --physical" "compacted revision $now" ctl compaction "$now" --physical
expect "a compacted revision is refused" '.*required revision has been compacted.*' ctl get ctl/a --rev=1
refused "watching a compacted revision is refused" 'required revision has been compacted' "$program" ${who[@]+"${who[@]}"} watch ctl/a --rev=1
expect "defrag" '(Finished defragmenting etcd member.*)+' ctl defrag
to_members "defrag --cluster" '(Finished defragmenting etcd member.*)+' one defrag --cluster
expect "snapshot save" '.*[Ss]napshot.*' one snapshot save "$work/snapshot"
[ -s "$work/snapshot" ] || fail "snapshot save" "  the file is empty"
if [ "$is34" = 1 ]; then
  expect "snapshot status" '[0-9a-f]+, [0-9]+, [0-9]+, .*B' ctl snapshot status "$work/snapshot"
  expect "snapshot restore" '.*' ctl snapshot restore "$work/snapshot" --data-dir "$work/restored"
  [ -d "$work/restored/member" ] || fail "snapshot restore" "  no data directory"
else
  before=$(curl -sk ${ETCDCTL_CACERT:+--cacert "$ETCDCTL_CACERT"} ${ETCDCTL_CERT:+--cert "$ETCDCTL_CERT"} ${ETCDCTL_KEY:+--key "$ETCDCTL_KEY"} "$first/version" | grep -oE '"etcdcluster":"3\.[0-9]+' | grep -oE '[0-9]+$' | awk '{print "3." $1 - 1}')
  expect "downgrade validate" '.*[Dd]owngrade validate success.*' ctl downgrade validate "$before"
  expect "downgrade enable" '.*[Dd]owngrade enable success.*' ctl downgrade enable "$before"
  expect "downgrade cancel" '.*[Dd]owngrade cancel success.*' ctl downgrade cancel
  expect "auth status" '.*(Authentication Status|AuthRevision).*' ctl auth status
fi
expect "a learner joins" 'Member +[0-9a-f]+ added .*to cluster.*' one member add guest --learner --peer-urls=http://127.0.0.1:1
guest=$(one member list | grep unstarted | cut -d, -f1)
expect "member update" "Member +$guest updated in cluster.*" one member update "$guest" --peer-urls=http://127.0.0.1:2
expect "a learner that lags is not promoted" '.*can only promote a learner member which is in sync with leader.*' one member promote "$guest"
expect "member remove" "Member +$guest removed from cluster.*" one member remove "$guest"
if [ "$members" -gt 1 ]; then
  status=$(ctl endpoint status -w json)
  leader=$(grep -oE '"leader":[0-9]+' <<< "$status" | head -1 | cut -d: -f2)
  other=$(grep -oE '"member_id":[0-9]+' <<< "$status" | cut -d: -f2 | grep -v "^$leader\$" | head -1)
  expect "move-leader" 'Leadership transferred from [0-9a-f]+ to [0-9a-f]+' ctl move-leader "$(printf '%x' "$other")"
fi
if [ -z "${ETCDCTL_CACERT:-}" ]; then
  expect "check datascale" '.*PASS.*' timeout 120 "$program" ${who[@]+"${who[@]}"} check datascale --load=s --prefix=ctl/check/
else
  # It asks for /metrics without the certificates it was given, so on etcd it fails as well.
  expect "check datascale cannot ask over TLS" 'fetch error: .*certificate.*' "$program" ${who[@]+"${who[@]}"} check datascale --load=s --prefix=ctl/check/
fi

expect "role add" 'Role reader created' ctl role add reader
expect "role grant-permission" 'Role reader updated' ctl role grant-permission reader --prefix=true read ctl/
expect "role grant-permission on one key" 'Role reader updated' ctl role grant-permission reader readwrite own
expect "role get" 'Role reader\\nKV Read:\\n.\[ctl/, ctl0\) \(prefix ctl/\)\\n.own\\nKV Write:\\n.own' ctl role get reader
expect "role list" '(.*\\n)?reader(\\n.*)?' ctl role list
if [ "$with_auth" != auth ]; then
  expect "user add root" 'User root created' ctl user add root:secret
  expect "user grant-role root" 'Role root is granted to user root' ctl user grant-role root root
fi
expect "user add" 'User ann created' ctl user add ann:pw
expect "user grant-role" 'Role reader is granted to user ann' ctl user grant-role ann reader
expect "user get" 'User: ann\\nRoles: reader' ctl user get ann
expect "user get --detail" 'User: ann\\n\\nRole reader.*own.*' ctl user get ann --detail
expect "user list" '.*ann.*' ctl user list
if [ "$with_auth" != auth ]; then
  expect "auth enable" 'Authentication Enabled' ctl auth enable
fi
if [ -z "${ETCDCTL_CERT:-}" ]; then
  expect "without a user nothing goes" '.*user name is empty.*' "$program" get ctl/a
fi
expect "a wrong password is refused" '.*invalid user ID or password.*' as ann:no get ctl/a
expect "a reader reads" 'ctl/a\\n2' as ann:pw get ctl/a
expect "a reader does not write" '.*permission denied.*' as ann:pw put ctl/a 3
expect "a reader does not leave its range" '.*permission denied.*' as ann:pw get other
refused "a reader does not watch beyond it" 'permission denied' "$program" "${patience[@]}" --user=ann:pw watch '' --prefix
expect "a reader writes what is its own" 'OK' as ann:pw put own 1
expect "a reader does not administrate" '.*permission denied.*' as ann:pw user add eve:pw
expect "user passwd" 'Password updated' bash -c "printf 'pw2\npw2\n' | '$program' --user=root:secret user passwd --interactive=false ann"
expect "the old password is refused" '.*invalid user ID or password.*' as ann:pw get ctl/a
expect "the new password is taken" 'ctl/a\\n2' as ann:pw2 get ctl/a
expect "auth disable" 'Authentication Disabled' as root:secret auth disable
who=("${patience[@]}")
expect "user revoke-role" 'Role reader is revoked from user ann' ctl user revoke-role ann reader
expect "user delete" 'User ann deleted' ctl user delete ann
expect "user delete root" 'User root deleted' ctl user delete root
expect "role revoke-permission" 'Permission of (range|key).*' ctl role revoke-permission reader --prefix=true ctl/
expect "role delete" 'Role reader deleted' ctl role delete reader
expect "del --prefix" '[0-9]+' ctl del ctl/ --prefix
expect "del --from-key" '[0-9]+' ctl del '' --from-key
