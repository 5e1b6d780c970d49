#!/usr/bin/env bash
# What a change must pass before its tests run. Each check prints its name; the first that fails ends the run.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
# The workspace's own crates unoptimised: half the compile time; dependencies (RocksDB, TLS) stay as shipped.
export CARGO_PROFILE_RELEASE_OPT_LEVEL="${CARGO_PROFILE_RELEASE_OPT_LEVEL:-0}"

check() { printf '== %s\n' "$1"; shift; "$@"; }

check "formatting" cargo fmt --all --check
check "layering, licences and tidiness" scripts/tidy.py
check "clippy" cargo clippy --release --workspace --all-targets -- -D warnings
if command -v cargo-deny >/dev/null 2>&1; then
  check "advisories" cargo deny --log-level error check advisories
else
  echo "skipped: advisories: cargo-deny is not installed (cargo install cargo-deny), or its database cannot be reached"
fi
