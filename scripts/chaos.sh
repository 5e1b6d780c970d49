#!/usr/bin/env bash
# The long fault-injection run: each fault with each checker against real members, all faults together for as long as
# MINUTES says, a budget of simulated time, and how long clients wait when the leader is lost. Tables go to .run/chaos/.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
MINUTES="${MINUTES:-60}"
SEED="${SEED:-$RANDOM}"
BINARY="${BINARY:-${CARGO_TARGET_DIR:-target}/release/quarterdeck}"
ETCD="${ETCD:-}" # set to "--etcd", with BINARY, to judge a real etcd
chaos() { cargo run --quiet --release -p chaos -- "$@"; }
mkdir -p .run/chaos
failed=0

chaos matrix --real --seconds 15 --seed "$SEED" --binary "$BINARY" $ETCD --markdown .run/chaos/matrix.md || failed=1

# Eight workloads of two minutes, twice the faults at a time: about twenty minutes a round.
rounds=$(( (MINUTES + 19) / 20 ))
chaos run --runs "$rounds" --seed "$SEED" --seconds 120 --combine 2 --binary "$BINARY" $ETCD \
  --table .run/chaos/runs.md || failed=1

if [ -z "$ETCD" ]; then
  chaos simulate --seeds 100000 --seed "$SEED" --seconds 60 --budget-secs $((MINUTES * 15)) || failed=1
fi

for loss in kill pause cut; do
  chaos gaps --loss "$loss" --count 100 --heartbeat-ms 20 --election-ms 200 --binary "$BINARY" $ETCD
done | tee .run/chaos/gaps.md
exit "$failed"
