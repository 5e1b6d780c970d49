#!/usr/bin/env python3
"""An image registry with one image and one user: registry.py ARCHIVE PORT USER PASSWORD

ARCHIVE is what image.sh makes. Every name and tag leads to its image. Listens on 127.0.0.1 without TLS, which runtimes
allow for a registry of the same machine. Prints a line for each request with what it was answered.
"""
import base64
import hashlib
import http.server
import json
import sys
import tarfile

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def load(archive):
    """The archive's image: its manifest, and the blobs by digest."""
    with tarfile.open(archive) as tar:
        def read(name):
            return tar.extractfile(name).read()

        listed = json.loads(read("manifest.json"))[0]
        config = read(listed["Config"])
        layers = [read(name) for name in listed["Layers"]]
    blobs = {"sha256:" + hashlib.sha256(blob).hexdigest(): blob for blob in [config, *layers]}
    digests = list(blobs)

    def descriptor(kind, digest):
        return {"mediaType": kind, "digest": digest, "size": len(blobs[digest])}

    manifest = json.dumps({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", digests[0]),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", digest) for digest in digests[1:]],
    }).encode()
    return manifest, blobs


class Registry(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    manifest, blobs, allowed = b"", {}, ""

    def do_HEAD(self):
        self.reply(body=False)

    def do_GET(self):
        self.reply(body=True)

    def reply(self, body):
        status, kind, content = self.find()
        print(status, self.command, self.path, flush=True)
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="tour"')
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Docker-Content-Digest", "sha256:" + hashlib.sha256(content).hexdigest())
        self.end_headers()
        if body:
            self.wfile.write(content)

    def find(self):
        if self.headers.get("Authorization") != self.allowed:
            return 401, "application/json", b'{"errors": [{"code": "UNAUTHORIZED"}]}'
        last = self.path.rsplit("/", 1)[-1]
        if self.path == "/v2/":
            return 200, "application/json", b"{}"
        if "/manifests/" in self.path:
            return 200, MANIFEST, self.manifest
        if last in self.blobs:
            return 200, "application/octet-stream", self.blobs[last]
        return 404, "application/json", b'{"errors": [{"code": "NAME_UNKNOWN"}]}'

    def log_message(self, *_):
        """Its own line is printed above."""


def main():
    archive, port, user, password = sys.argv[1:]
    Registry.manifest, Registry.blobs = load(archive)
    Registry.allowed = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Registry).serve_forever()


if __name__ == "__main__":
    main()
