#!/usr/bin/env bash
# All tests: units and integration by cargo, then the end-to-end tour on real members and, where the machine can, real
# containers.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

cargo build --release -p quarterdeck
QUARTERDECK_BINARY="${CARGO_TARGET_DIR:-$PWD/target}/release/quarterdeck"
export QUARTERDECK_BINARY
cargo test --release --workspace --no-fail-fast
