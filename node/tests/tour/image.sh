#!/usr/bin/env bash
# Builds an image with nothing but busybox in it, as an archive that containerd imports:
#   image.sh REFERENCE ARCHIVE [COMMAND AS JSON]
set -euo pipefail
reference=$1 archive=$2 command=${3:-[\"sh\"]}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/root/{bin,tmp,etc,home} "$work/image"
chmod 1777 "$work/root/tmp"
cp "$(command -v busybox)" "$work/root/bin/busybox"
for name in $(busybox --list); do
    [ "$name" = busybox ] || ln -sf busybox "$work/root/bin/$name"
done
printf 'root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n' > "$work/root/etc/passwd"
tar -C "$work/root" --numeric-owner --owner=0 --group=0 -cf "$work/image/layer.tar" .
digest=$(sha256sum "$work/image/layer.tar" | cut -d' ' -f1)
cat > "$work/image/config.json" <<EOF
{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"],"Cmd":$command},
 "rootfs":{"type":"layers","diff_ids":["sha256:$digest"]}}
EOF
echo "[{\"Config\":\"config.json\",\"RepoTags\":[\"$reference\"],\"Layers\":[\"layer.tar\"]}]" > "$work/image/manifest.json"
tar -C "$work/image" -cf "$archive" config.json layer.tar manifest.json
