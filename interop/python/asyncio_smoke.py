"""Drives each member of a running cluster through Python's aetcd client.

usage: asyncio_smoke.py 127.0.0.1:2379,127.0.0.1:2479,...
"""

import asyncio
import sys

import aetcd


async def smoke(endpoint: str, number: int) -> None:
    host, port = endpoint.rsplit(":", 1)
    prefix = f"aetcd/{number}/".encode()
    async with aetcd.Client(host=host, port=int(port), timeout=15) as client:
        await client.put(prefix + b"k", b"one")
        await client.put(prefix + b"k", b"two")
        got = await client.get(prefix + b"k")
        assert got.value == b"two" and got.version == 2, got
        assert await client.get(prefix + b"none") is None

        for i in range(10):
            await client.put(prefix + b"range/%02d" % i, b"%d" % i)
        found = [kv.value for kv in await client.get_prefix(prefix + b"range/", sort_order="descend", sort_target="key")]
        assert found == [b"%d" % i for i in reversed(range(10))], found

        succeeded, _ = await client.transaction(
            compare=[client.transactions.value(prefix + b"k") == b"two"],
            success=[client.transactions.put(prefix + b"k", b"three")],
            failure=[client.transactions.delete(prefix + b"k")],
        )
        assert succeeded
        assert not await client.replace(prefix + b"k", b"two", b"four")

        watch = await client.watch(prefix + b"watched")
        await client.put(prefix + b"watched", b"1")
        await client.delete(prefix + b"watched")
        seen = []
        async for event in watch:
            seen.append((event.kind, event.kv.value))
            if len(seen) == 2:
                break
        await watch.cancel()
        assert seen == [("PUT", b"1"), ("DELETE", b"")], seen

        lease = await client.lease(60)
        await client.put(prefix + b"leased", b"x", lease=lease)
        assert await lease.keys() == [prefix + b"leased"]
        assert 0 < await lease.remaining_ttl() <= 60
        await lease.refresh()
        await lease.revoke()
        assert await client.get(prefix + b"leased") is None

        async with client.lock(prefix + b"lock", ttl=30) as lock:
            assert await lock.is_acquired()
            other = client.lock(prefix + b"lock", ttl=30)
            assert not await other.acquire(timeout=1)
        assert not await lock.is_acquired()

        await client.delete_prefix(prefix + b"range/")
        assert not list(await client.get_prefix(prefix + b"range/"))
        assert (await client.status()).version == "3.7.1"
        # An asynchronous generator in one version, a coroutine in another.
        members = [member async for member in client.members()]
        assert len(members) == 3, members


async def main() -> None:
    endpoints = sys.argv[1].split(",")
    for number, endpoint in enumerate(endpoints):
        await asyncio.wait_for(smoke(endpoint, number), 60)
    print(f"python aetcd: all calls on {len(endpoints)} members")


asyncio.run(main())
