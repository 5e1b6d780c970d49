# Sourced by the Makefile and the other scripts: finds cargo, and a build folder kept between runs where there is one.
if ! command -v cargo >/dev/null 2>&1 && [ -f "$HOME/.cargo/env" ]; then
  . "$HOME/.cargo/env"
fi
if [ -z "${CARGO_TARGET_DIR:-}" ] && [ -d "$HOME/.cache/quarterdeck/target" ]; then
  export CARGO_TARGET_DIR="$HOME/.cache/quarterdeck/target"
fi
