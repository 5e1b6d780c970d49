#!/usr/bin/env python3
"""Asks a storage driver's controller for volumes, where no provisioner or resizer does it:
    csi_volume.py SOCKET create NAME BYTES [block]    prints the volume's id
    csi_volume.py SOCKET expand ID BYTES
    csi_volume.py SOCKET delete ID
Needs curl with HTTP/2. The few messages are written by hand: field numbers are those of csi.proto."""
import subprocess
import sys


def number(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(tag, value):
    if isinstance(value, int):
        return number(tag << 3) + number(value)
    return number(tag << 3 | 2) + number(len(value)) + value


def first(message, wanted):
    """The first field of that number; None where there is none."""
    at = 0

    def take():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while at < len(message):
        key = take()
        value = take()
        if key & 7 == 2:
            value, at = message[at:at + value], at + value
        if key >> 3 == wanted:
            return value
    return None


def call(socket, method, message):
    command = ["curl", "-s", "--http2-prior-knowledge", "--unix-socket", socket, "-H", "content-type: application/grpc",
               "-H", "te: trailers", "--data-binary", "@-", "-D", "/dev/stderr", f"http://csi/csi.v1.Controller/{method}"]
    done = subprocess.run(command, input=b"\0" + len(message).to_bytes(4, "big") + message, capture_output=True, timeout=60)
    if b"grpc-status: 0" not in done.stderr.lower():
        sys.exit(f"{method}: {done.stderr.decode(errors='replace')}")
    return done.stdout[5:]


def main(socket, verb, name, size="0", kind="mount"):
    capacity = field(1, int(size))
    if verb == "create":
        access = field(1 if kind == "block" else 2, b"") + field(3, field(1, 1))
        answer = call(socket, "CreateVolume", field(1, name.encode()) + field(2, capacity) + field(3, access))
        print(first(first(answer, 1), 2).decode())
    elif verb == "expand":
        call(socket, "ControllerExpandVolume", field(1, name.encode()) + field(2, capacity))
    else:
        call(socket, "DeleteVolume", field(1, name.encode()))


main(*sys.argv[1:])
