#!/usr/bin/env python3
"""Sends one random program of requests to a real etcd and to this store, and shows where the answers differ.

    compare.py --etcd ETCD --quarterdeck QUARTERDECK [--seed N] [--steps N] [--port N]

Both listen on loopback. The requests go through etcd's JSON gateway: keys, nested transactions, leases, compaction and
watches, with bad options and missing keys among them. The exit status is 1 where an answer differed.
"""
import argparse
import base64
import http.client
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time

KEYS = [b"a", b"b", b"c", b"aa", b"ab", b"\x00", b"\xff", b"\xff\xff", b"zz", b"k1", b"k2"]
ENDS = [None] * 4 + [b"\x00", b"b", b"c", b"", b"a", b"\xff", b"zzz"]
LEASES = [1, 2, 3, 5, 77, -3, 2**63 - 1]
# Each cluster has its own.
IDENTITY = {"cluster_id", "member_id", "raft_term"}
# A watch that says nothing for so long has said everything.
SILENCE_SECS = 0.35
START_SECS = 30


def b64(data):
    return base64.b64encode(data).decode()


class Program:
    """Requests, one after the other, from a seed; `revision` is the newest that was seen."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.revision = 1

    def chance(self, of):
        return self.random.random() < of

    def key(self):
        return b"" if self.chance(0.02) else self.random.choice(KEYS)

    def revision_near(self):
        now = self.revision
        return self.random.choice([0, 0, 0, now, now - 1, now - self.random.randint(0, 20), now + 1, -1, 1, 2])

    def with_end(self, request, key, is_within=False):
        end = self.random.choice(ENDS)
        # etcd takes a put beside a deletion of everything from a key on, which names that put's key twice.
        if end is not None and not (is_within and end <= key):
            request["range_end"] = b64(end)
        return request

    def range(self):
        key = self.key()
        request = self.with_end({"key": b64(key)}, key)
        options = {
            "revision": self.revision_near(),
            "limit": self.random.choice([0, 1, 2, 3, -1]),
            "sort_order": self.random.choice([0, 1, 2, 7, -1]),
            "sort_target": self.random.choice([0, 1, 2, 3, 4, 9]),
            "keys_only": True,
            "count_only": True,
            "serializable": True,
            "min_mod_revision": self.revision_near(),
            "max_create_revision": self.revision_near(),
        }
        return request | {name: value for name, value in options.items() if self.chance(0.15)}

    def put(self):
        request = {"key": b64(self.key()), "value": b64(self.random.choice([b"", b"x", b"y"]))}
        options = {
            "lease": self.random.choice(LEASES + [0, 999]),
            "prev_kv": True,
            "ignore_value": True,
            "ignore_lease": True,
        }
        return request | {name: value for name, value in options.items() if self.chance(0.15)}

    def delete(self, is_within=False):
        key = self.key()
        return self.with_end({"key": b64(key), "prev_kv": self.chance(0.3)}, key, is_within)

    def compare(self):
        target = self.random.choice(["VERSION", "CREATE", "MOD", "VALUE", "LEASE"])
        field = {"CREATE": "create_revision", "MOD": "mod_revision"}.get(target, target.lower())
        value = b64(b"x") if field == "value" else self.random.choice([0, 1, 2, self.revision])
        result = self.random.choice(["EQUAL", "GREATER", "LESS", "NOT_EQUAL"])
        key = self.key()
        return self.with_end({"key": b64(key), "target": target, "result": result, field: value}, key)

    def operation(self, depth):
        roll = self.random.random()
        if roll < 0.03:
            return {}
        if roll < 0.3:
            return {"request_range": self.range()}
        if roll < 0.65:
            return {"request_put": self.put()}
        if roll < 0.85 or depth > 2:
            return {"request_delete_range": self.delete(is_within=True)}
        return {"request_txn": self.txn(depth + 1)}

    def txn(self, depth=0):
        branch = lambda: [self.operation(depth) for _ in range(self.random.randint(0, 3))]
        compares = [self.compare() for _ in range(self.random.randint(0, 2))]
        return {"compare": compares, "success": branch(), "failure": branch()}

    def watch(self):
        start = self.random.choice([0, 1, self.revision, self.revision - 5, self.revision - 30])
        key = self.key()
        request = self.with_end({"key": b64(key), "start_revision": start}, key)
        options = {"prev_kv": True, "fragment": True, "filters": self.random.choice([["NOPUT"], ["NODELETE"]])}
        return request | {name: value for name, value in options.items() if self.chance(0.3)}

    def lease(self):
        lease = self.random.choice(LEASES)
        return self.random.choice([
            ("/v3/lease/grant", {"ID": lease, "TTL": 5000}),
            ("/v3/lease/revoke", {"ID": lease}),
            ("/v3/lease/timetolive", {"ID": lease, "keys": True}),
            ("/v3/lease/keepalive", {"ID": lease}),
            ("/v3/lease/leases", {}),
        ])

    def step(self):
        roll = self.random.random()
        if roll < 0.3:
            return "/v3/kv/put", self.put()
        if roll < 0.5:
            return "/v3/kv/range", self.range()
        if roll < 0.6:
            return "/v3/kv/deleterange", self.delete()
        if roll < 0.85:
            return "/v3/kv/txn", self.txn()
        if roll < 0.88:
            return "/v3/kv/compaction", {"revision": max(1, self.revision - self.random.randint(0, 30))}
        if roll < 0.97:
            return self.lease()
        return "/v3/watch", {"create_request": self.watch()}


class Server:
    """A member of one of the two, and how its answers are made comparable."""

    def __init__(self, command, port, data_dir):
        self.port = port
        client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"
        flags = [
            f"--data-dir={data_dir}", f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}", "--max-txn-ops=8", "--log-level=error",
        ]
        self.process = subprocess.Popen(command + flags, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def wait(self):
        deadline = time.monotonic() + START_SECS
        while time.monotonic() < deadline:
            try:
                if self.post("/v3/kv/put", {"key": b64(b"first")})[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise SystemExit(f"no answer on port {self.port}")

    def post(self, path, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("POST", path, json.dumps(body))
            response = connection.getresponse()
            if path == "/v3/watch":
                return response.status, self.events(connection, response)
            return response.status, comparable(path, json.loads(response.read()))
        finally:
            connection.close()

    @staticmethod
    def events(connection, response):
        connection.sock.settimeout(SILENCE_SECS)
        text = b""
        try:
            while piece := response.read1(65536):
                text += piece
        except TimeoutError:
            pass
        results = [json.loads(line).get("result", {}) for line in text.splitlines()]
        events = [event for result in results for event in result.get("events", [])]
        return events, [result["compact_revision"] for result in results if "compact_revision" in result]


def comparable(path, answer):
    if isinstance(answer, dict):
        left = {name: comparable("", value) for name, value in answer.items() if name not in IDENTITY}
        if path:
            # Older gateways say an error twice; time goes on between the two answers.
            left.pop("error", None)
        if path.endswith("timetolive") and left.get("TTL") != "-1":
            left.pop("TTL", None)
        for name in ("keys", "leases"):
            if path and name in left:
                left[name] = sorted(left[name], key=str)
        return left
    return [comparable("", value) for value in answer] if isinstance(answer, list) else answer


def run(servers, program, steps):
    differences = 0
    for number in range(steps):
        path, body = program.step()
        theirs, ours = [server.post(path, body) for server in servers]
        if isinstance(theirs[1], dict):
            seen = theirs[1].get("header", {}).get("revision", 0)
            program.revision = max(program.revision, int(seen))
        if theirs != ours:
            differences += 1
            print(f"{number} {path} {json.dumps(body)}\n  etcd {theirs}\n  ours {ours}")
    print(f"{steps} steps up to revision {program.revision}, {differences} differences")
    return differences


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--etcd", required=True)
    parser.add_argument("--quarterdeck", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--port", type=int, default=37400)
    options = parser.parse_args()
    work = tempfile.mkdtemp(prefix="etcd-compare-")
    servers = []
    try:
        servers.append(Server([options.etcd], options.port, f"{work}/etcd"))
        servers.append(Server([options.quarterdeck, "store"], options.port + 10, f"{work}/ours"))
        for server in servers:
            server.wait()
        differences = run(servers, Program(options.seed), options.steps)
    finally:
        for server in servers:
            server.process.kill()
            server.process.wait()
        shutil.rmtree(work)
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()
