#!/usr/bin/env bash
# What a change must pass before its tests run. Each check prints its name; the first that fails ends the run.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
# The workspace's own crates unoptimised: half the compile time; dependencies (RocksDB, TLS) stay as shipped.
export CARGO_PROFILE_RELEASE_OPT_LEVEL="${CARGO_PROFILE_RELEASE_OPT_LEVEL:-0}"

# The units name an installed binary, which need not be installed here.
verify_units() {
  local folder
  folder=$(mktemp -d)
  for unit in packaging/*.service; do
    sed 's|^ExecStart=/usr/local/bin/quarterdeck|ExecStart=/bin/true|' "$unit" >"$folder/$(basename "$unit")"
  done
  systemd-analyze verify --man=no "$folder"/*.service
  rm -r "$folder"
}

check() { printf '== %s\n' "$1"; shift; "$@"; }

check "formatting" cargo fmt --all --check
check "layering, licences and tidiness" scripts/tidy.py
check "advisories" scripts/advisories.py
if command -v systemd-analyze >/dev/null 2>&1; then
  check "systemd units" verify_units
else
  echo "skipped: systemd units: systemd-analyze is not installed"
fi
check "clippy" cargo clippy --release --workspace --all-targets -- -D warnings
