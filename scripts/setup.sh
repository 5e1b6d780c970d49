#!/usr/bin/env bash
# Installs what building and running need and this machine lacks. Does nothing, quickly, where all is there. A user who
# cannot install goes on without what only containers and tours need; the tests and `make run` say what they leave out.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }

# program or file that proves it : Debian package
to_build=(
  cc:gcc c++:g++ make:make clang:clang pkg-config:pkg-config git:git python3:python3 curl:curl
  /etc/ssl/certs/ca-certificates.crt:ca-certificates
)
to_run=(
  containerd:containerd runc:runc nft:nftables ip:iproute2 mount:mount modprobe:kmod unshare:util-linux
  /usr/lib/cni/bridge:containernetworking-plugins etcdctl:etcd-client kubectl:kubernetes-client
  busybox:busybox-static
)

# Prints the packages whose proof is not there.
lacking() {
  local want proof
  for want in "$@"; do
    proof=${want%%:*}
    case $proof in
      /*) [ -e "$proof" ] && continue ;;
      *) command -v "$proof" >/dev/null 2>&1 && continue
         [ -x "/usr/sbin/$proof" ] && continue ;;
    esac
    echo "${want#*:}"
  done
}

mapfile -t build < <(lacking "${to_build[@]}")
ls /usr/lib/llvm-*/lib/libclang*.so* >/dev/null 2>&1 || build+=(libclang-dev)
mapfile -t run < <(lacking "${to_run[@]}")
# The plugins have two usual places.
if [ -e /opt/cni/bin/bridge ] && [ ${#run[@]} -gt 0 ]; then
  mapfile -t run < <(printf '%s\n' "${run[@]}" | grep -vx containernetworking-plugins)
fi
missing=("${build[@]}" "${run[@]}")

if [ ${#missing[@]} -gt 0 ]; then
  root=
  [ "$(id -u)" = 0 ] || root=sudo
  if ! command -v apt-get >/dev/null 2>&1; then
    why="there is no apt-get here"
  elif [ -n "$root" ] && ! { command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; }; then
    why="this user is not root, and sudo does not work without a password"
  else
    why=
  fi
  if [ -z "$why" ]; then
    say "Installing ${missing[*]}"
    $root apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $root apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  elif [ ${#build[@]} -gt 0 ]; then
    echo "setup: building needs ${build[*]} (Debian's package names), and $why; install them as root and try again" >&2
    exit 1
  else
    say "Going on without ${run[*]} (Debian's package names): $why"
  fi
fi

if ! command -v cargo >/dev/null 2>&1; then
  say "Installing Rust"
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y -q --profile minimal -c rustfmt -c clippy
fi
