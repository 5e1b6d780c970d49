#!/usr/bin/env bash
# All tests: units and integration by cargo, then the end-to-end tour on real members and, where the machine can, real
# containers.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
# The workspace's own crates unoptimised: half the compile time; dependencies (RocksDB, TLS) stay as shipped.
export CARGO_PROFILE_RELEASE_OPT_LEVEL="${CARGO_PROFILE_RELEASE_OPT_LEVEL:-0}"

# The integration tests of `quarterdeck` build and run the one binary themselves.
cargo test --release --workspace --no-fail-fast

# Known bugs, planted in a build of their own: the chaos harness must catch each of them.
cargo run --release -p chaos --features planted-bugs -- controls
