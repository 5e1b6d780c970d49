#!/usr/bin/env bash
# Runs the fuzz targets (fuzz/src/lib.rs) under libFuzzer with coverage feedback, on a stable compiler.
#
#   scripts/fuzz.sh [SECONDS] [TARGET…]       60 seconds each, all targets, when not given
#
# Only the workspace's own crates are instrumented: dependencies are taken as they are built for the product. The corpus
# grows in .run/fuzz/corpus/TARGET; what breaks a target lies in .run/fuzz/TARGET-crash-… and ends the run with status 1.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
seconds=${1:-60}
shift || true
export RUSTC_WORKSPACE_WRAPPER=$PWD/scripts/rustc-with-coverage.sh
target_dir=${CARGO_TARGET_DIR:-target}
cargo build --release -p fuzz --features libfuzzer --bin libfuzzer
names=("$@")
[ ${#names[@]} -gt 0 ] || mapfile -t names < <(FUZZ_TARGET=list "$target_dir/release/libfuzzer")
failed=0
for name in "${names[@]}"; do
    corpus=.run/fuzz/corpus/$name
    mkdir -p "$corpus"
    echo "== $name"
    FUZZ_TARGET=$name FUZZ_EXAMPLES=$corpus "$target_dir/release/libfuzzer" "$corpus" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 \
        -max_len=16384 -artifact_prefix=".run/fuzz/$name-" -print_final_stats=1 -verbosity=0 >".run/fuzz/$name.log" 2>&1 || failed=1
    grep -aE 'stat::number_of_executed_units|stat::new_units_added|panicked|SUMMARY' ".run/fuzz/$name.log" || true
done
exit $failed
