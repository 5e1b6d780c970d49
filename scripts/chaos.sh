#!/usr/bin/env bash
# The long fault-injection run: for MINUTES, a third each of the matrix (each fault with each checker against real
# members), of runs with all faults together, and of simulated time; then how long clients wait when a member is lost
# (about half an hour more; GAPS=0 leaves it out). Tables go to .run/chaos/.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
MINUTES="${MINUTES:-60}"
SEED="${SEED:-$RANDOM}"
GAPS="${GAPS:-100}"
BINARY="${BINARY:-${CARGO_TARGET_DIR:-target}/release/quarterdeck}"
ETCD="${ETCD:-}" # set to "--etcd", with BINARY, to judge a real etcd
CHAOS="${CHAOS:-}" # a harness that is built already
chaos() { if [ -n "$CHAOS" ]; then "$CHAOS" "$@"; else cargo run --quiet --release -p chaos -- "$@"; fi; }
mkdir -p .run/chaos
failed=0
echo "seed $SEED"

chaos matrix --real --seconds 10 --seed "$SEED" --budget-secs $((MINUTES * 20)) --binary "$BINARY" $ETCD \
  --markdown .run/chaos/matrix.md || failed=1

# Two minutes a run, two faults at a time.
chaos run --runs 1000 --budget-secs $((MINUTES * 20)) --seed "$SEED" --seconds 120 --combine 2 --binary "$BINARY" \
  --pause-ms 20 $ETCD --table .run/chaos/runs.md || failed=1

if [ -z "$ETCD" ]; then
  chaos simulate --seeds 10000 --seed "$SEED" --seconds 60 --budget-secs $((MINUTES * 20)) || failed=1
fi

if [ "$GAPS" -gt 0 ]; then
  chaos gaps --loss kill,pause,cut --count "$GAPS" --heartbeat-ms 20 --election-ms 200 --binary "$BINARY" $ETCD |
    tee .run/chaos/gaps.md
fi
exit "$failed"
