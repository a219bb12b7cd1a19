"""Drives each member of a running cluster through Python's etcd3 client.

usage: smoke.py 127.0.0.1:2379,127.0.0.1:2479,...
"""

import sys
import threading

import etcd3


def smoke(endpoint: str, number: int) -> None:
    host, port = endpoint.rsplit(":", 1)
    client = etcd3.client(host=host, port=int(port), timeout=15)
    prefix = f"python/{number}/"

    client.put(prefix + "k", "one")
    client.put(prefix + "k", "two")
    value, meta = client.get(prefix + "k")
    assert value == b"two" and meta.version == 2, (value, meta.version)
    assert client.get(prefix + "none") == (None, None)

    for i in range(20):
        client.put(f"{prefix}range/{i:02}", str(i))
    found = [(value, meta.key) for value, meta in client.get_prefix(prefix + "range/", sort_order="descend")]
    assert len(found) == 20 and found[0] == (b"19", f"{prefix}range/19".encode()), found

    succeeded, responses = client.transaction(
        compare=[client.transactions.value(prefix + "k") == "two", client.transactions.version(prefix + "k") > 1],
        success=[client.transactions.put(prefix + "k", "three"), client.transactions.get(prefix + "k")],
        failure=[client.transactions.delete(prefix + "k")],
    )
    assert succeeded and responses[1][0][0] == b"three", (succeeded, responses)
    assert client.put_if_not_exists(prefix + "once", "x") and not client.put_if_not_exists(prefix + "once", "y")
    assert client.replace(prefix + "once", "x", "z") and not client.replace(prefix + "once", "x", "y")

    events, cancel = client.watch_prefix(prefix + "watch/")
    seen = []
    done = threading.Event()

    def collect() -> None:
        for event in events:
            seen.append((type(event).__name__, event.key, event.value))
            if len(seen) == 4:
                done.set()
                return

    reader = threading.Thread(target=collect, daemon=True)
    reader.start()
    for i in range(3):
        client.put(prefix + "watch/k", str(i))
    client.delete(prefix + "watch/k")
    assert done.wait(15), f"the watch saw {seen}"
    cancel()
    assert [event[2] for event in seen[:3]] == [b"0", b"1", b"2"], seen
    assert seen[3][0] == "DeleteEvent", seen

    client.delete_prefix(prefix + "range/")
    assert not list(client.get_prefix(prefix + "range/"))
    members = list(client.members)
    assert len(members) == 3 and all(member.name and member.client_urls for member in members), members
    status = client.status()
    assert status.version == "3.7.1" and status.leader is not None, status.version
    client.close()


def main() -> None:
    endpoints = sys.argv[1].split(",")
    for number, endpoint in enumerate(endpoints):
        smoke(endpoint, number)
    print(f"python etcd3: all calls on {len(endpoints)} members")


main()
