#!/usr/bin/env bash
# All tests: units and integration by cargo, then the end-to-end tour on real members and, where the machine can, real
# containers.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
# The workspace's own crates unoptimised: half the compile time; dependencies (RocksDB, TLS) stay as shipped.
export CARGO_PROFILE_RELEASE_OPT_LEVEL="${CARGO_PROFILE_RELEASE_OPT_LEVEL:-0}"

# Known bugs, planted in a build of their own: the chaos harness must catch each of them.
cargo run --release -p chaos --features planted-bugs -- controls

# The integration tests of `quarterdeck` run the one binary themselves. Last, so that the run ends with their summary; what
# cannot run here says `skipped:` with the reason.
cargo test --release --workspace --no-fail-fast
