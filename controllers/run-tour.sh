#!/usr/bin/env bash
# Takes the controllers' tour on a control plane of its own: one server on loopback, four nodes that do not exist.
#
#   controllers/run-tour.sh QUARTERDECK FAKE_NODES [step...]
#
# QUARTERDECK is the one binary, FAKE_NODES the example of this crate. Exit status: the number of promises not kept.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2; }
quarterdeck=$(realpath "$1") fake_nodes=$(realpath "$2"); shift 2
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
export KUBECONFIG=$work/server/admin.kubeconfig TOUR_SILENCE=$work
pids=()
# Ends what was started here; the folder stays when a promise was broken, for its logs.
end() {
  status=$?
  [ ${#pids[@]} = 0 ] || { kill "${pids[@]}" 2>/dev/null || true; wait "${pids[@]}" 2>/dev/null || true; }
  if [ "$status" = 0 ]; then rm -rf "$work"; else echo "logs are in $work" >&2; fi
}
trap end EXIT
"$quarterdeck" server --init --name=tour --data-dir="$work/server" --bind-address="${TOUR_ADDRESS:-127.77.9.1}" \
  >"$work/server.log" 2>&1 & pids+=($!)
for _ in $(seq 240); do
  kubectl get --raw /readyz >/dev/null 2>&1 && break
  kill -0 "${pids[0]}" 2>/dev/null || { tail -5 "$work/server.log" >&2; exit 1; }
  sleep 0.5
done
"$fake_nodes" "$KUBECONFIG" 4 --no-bind >"$work/nodes.log" 2>&1 & pids+=($!)
for _ in $(seq 60); do [ "$(kubectl get nodes --no-headers 2>/dev/null | grep -c ' Ready ')" = 4 ] && break; sleep 0.5; done
"$here/tour.sh" "$@"
