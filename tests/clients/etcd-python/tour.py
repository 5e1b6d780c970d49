#!/usr/bin/env python3
"""Walks through what a Python client of etcd does: KV, txn, watch and lease.

One line a step; exit status 1 at the first that differs from etcd.
"""
import asyncio
import sys
from urllib.parse import urlparse

import aetcd


def check(step, condition):
    print(f"{'ok    ' if condition else 'FAILED'} {step}")
    if not condition:
        sys.exit(1)


async def kv(client):
    await client.delete_prefix(b"py/")
    await client.put(b"py/a", b"1")
    got = await client.get(b"py/a")
    check("put and get", got.value == b"1" and got.version == 1)
    await client.put(b"py/b", b"2")
    listed = await client.get_prefix(b"py/")
    check("prefix", sorted(item.key for item in listed) == [b"py/a", b"py/b"])
    check("absent", await client.get(b"py/none") is None)
    await client.delete(b"py/a")
    check("delete", await client.get(b"py/a") is None)
    await client.delete_prefix(b"py/")
    check("delete a prefix", not list(await client.get_prefix(b"py/")))


async def txn(client):
    functions = client.transactions
    done, _ = await client.transaction(
        compare=[functions.version(b"py/t") == 0],
        success=[functions.put(b"py/t", b"x")],
        failure=[functions.get(b"py/t")],
    )
    check("txn that holds", done)
    done, answers = await client.transaction(
        compare=[functions.value(b"py/t") == b"y"],
        success=[functions.delete(b"py/t")],
        failure=[functions.get(b"py/t")],
    )
    check("txn that does not", not done and len(answers) == 1)


async def watch(client):
    seen = []

    async def follow():
        async for event in await client.watch(b"py/w"):
            seen.append(str(event.kind))
            if len(seen) == 2:
                return

    task = asyncio.create_task(follow())
    await asyncio.sleep(0.5)
    await client.put(b"py/w", b"1")
    await client.delete(b"py/w")
    await asyncio.wait_for(task, 10)
    check("watch", seen == ["PUT", "DELETE"])


async def lease(client):
    granted = await client.lease(2)
    await client.put(b"py/l", b"x", lease=granted)
    check("remaining life", 0 < await granted.remaining_ttl() <= 2)
    await granted.refresh()
    await asyncio.sleep(4)
    check("the key ends with its lease", await client.get(b"py/l") is None)


async def main():
    url = urlparse(sys.argv[1].split(",")[0])
    async with aetcd.Client(host=url.hostname, port=url.port) as client:
        for tour in (kv, txn, watch, lease):
            await tour(client)


asyncio.run(main())
