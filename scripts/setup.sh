#!/usr/bin/env bash
# Installs what building and running need and this machine lacks. Does nothing, quickly, where all is there.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }

# program or file that proves it : Debian package
wanted=(
  cc:gcc c++:g++ make:make clang:clang pkg-config:pkg-config
  containerd:containerd runc:runc nft:nftables ip:iproute2 mount:mount modprobe:kmod
  /usr/lib/cni/bridge:containernetworking-plugins
  python3:python3 git:git curl:curl /etc/ssl/certs/ca-certificates.crt:ca-certificates unshare:util-linux
  etcdctl:etcd-client kubectl:kubernetes-client
)
missing=()
for want in "${wanted[@]}"; do
  proof=${want%%:*} package=${want#*:}
  case $proof in
    /*) [ -e "$proof" ] || missing+=("$package") ;;
    *) command -v "$proof" >/dev/null 2>&1 || [ -x "/usr/sbin/$proof" ] || missing+=("$package") ;;
  esac
done
ls /usr/lib/llvm-*/lib/libclang*.so* >/dev/null 2>&1 || missing+=(libclang-dev)

if [ ${#missing[@]} -gt 0 ]; then
  if ! command -v apt-get >/dev/null 2>&1; then
    echo "setup: this machine lacks ${missing[*]} (Debian's package names) and has no apt-get; install them and try again" >&2
    exit 1
  fi
  root=
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null 2>&1 || {
      echo "setup: this machine lacks ${missing[*]}; run 'apt-get install ${missing[*]}' as root and try again" >&2
      exit 1
    }
    root=sudo
  fi
  say "Installing ${missing[*]}"
  $root apt-get update -qq
  DEBIAN_FRONTEND=noninteractive $root apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if ! command -v cargo >/dev/null 2>&1; then
  say "Installing Rust"
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y -q --profile minimal -c rustfmt -c clippy
fi
