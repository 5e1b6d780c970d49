#!/usr/bin/env bash
# Runs the fuzz targets (fuzz/src/lib.rs) under libFuzzer with coverage feedback, on a stable compiler.
#
#   scripts/fuzz.sh [SECONDS] [TARGET…]       60 seconds each, all targets, when not given; `list` names them
#
# Only the workspace's own crates are instrumented: dependencies are taken as they are built for the product. The corpus
# grows in .run/fuzz/corpus/TARGET, the log is .run/fuzz/TARGET.log; what breaks a target lies in
# .run/fuzz/TARGET-crash-… and ends the run with status 1.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
seconds=${1:-60}
shift || true
# The engine takes what is no number for 0, which is for ever.
[[ $seconds =~ ^[1-9][0-9]*$ || $seconds == list ]] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
export RUSTC_WORKSPACE_WRAPPER=$PWD/scripts/rustc-with-coverage.sh
target_dir=${CARGO_TARGET_DIR:-target}
cargo build --release -p fuzz --features libfuzzer --bin libfuzzer
known=$(FUZZ_TARGET=list "$target_dir/release/libfuzzer")
[ "$seconds" != list ] || { echo "$known"; exit 0; }
names=("$@")
[ ${#names[@]} -gt 0 ] || mapfile -t names <<<"$known"
for name in "${names[@]}"; do
    grep -qxF -- "$name" <<<"$known" || { echo "fuzz: there is no target $name; scripts/fuzz.sh list names them" >&2; exit 2; }
done
failed=0
for name in "${names[@]}"; do
    corpus=.run/fuzz/corpus/$name
    mkdir -p "$corpus"
    echo "== $name"
    FUZZ_TARGET=$name FUZZ_EXAMPLES=$corpus "$target_dir/release/libfuzzer" "$corpus" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 \
        -max_len=16384 -artifact_prefix=".run/fuzz/$name-" -print_final_stats=1 -verbosity=0 >".run/fuzz/$name.log" 2>&1 && broke= || broke=$?
    grep -aE 'stat::number_of_executed_units|stat::new_units_added|panicked|SUMMARY' ".run/fuzz/$name.log" || true
    [ -z "$broke" ] || { failed=1; echo "   broken (status $broke); the end of .run/fuzz/$name.log:"; tail -n 12 ".run/fuzz/$name.log"; }
done
exit $failed
