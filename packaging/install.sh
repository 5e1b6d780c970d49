#!/usr/bin/env bash
# Installs the binary, systemd units, configuration samples and shell completion under $DESTDIR. Configuration that is
# there stays as it is; nothing is started.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
binary=${CARGO_TARGET_DIR:-target}/release/quarterdeck
[ -x "$binary" ] || { echo "install: $binary is not there; run 'make build' first" >&2; exit 1; }

root=${DESTDIR:-}
install -D -m 755 "$binary" "$root/usr/local/bin/quarterdeck"
for unit in packaging/*.service; do
  install -D -m 644 "$unit" "$root/etc/systemd/system/$(basename "$unit")"
done
for sample in packaging/*.yaml; do
  target=$root/etc/quarterdeck/$(basename "$sample")
  # Tokens may stand in it.
  [ -e "$target" ] || install -D -m 600 "$sample" "$target"
done
install -D -m 644 README.md "$root/usr/share/doc/quarterdeck/README.md"
completion=$root/usr/share/bash-completion/completions/quarterdeck
install -d "$(dirname "$completion")"
"$binary" completion bash >"$completion"
if [ -z "$root" ] && command -v systemctl >/dev/null 2>&1 && [ -d /run/systemd/system ]; then
  systemctl daemon-reload
fi
echo "Installed. Edit /etc/quarterdeck/server.yaml or agent.yaml, then: systemctl enable --now quarterdeck-server (or -agent)"
