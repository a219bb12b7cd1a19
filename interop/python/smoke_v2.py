"""python-etcd against the v2 API: `smoke_v2.py HOST:PORT[,HOST:PORT...] [--old]`. Exits with 0 if all is as it should be.

--old: the members speak the dialect of etcd 0.4, which has no member list, no users, and no zeros in front of names in
order (which the client's own locks sort by).
"""

import sys
import threading

import etcd
from etcd.auth import Auth, EtcdRole, EtcdUser


OLD = "--old" in sys.argv


def client(endpoint, **named):
    host, port = endpoint.rsplit(":", 1)
    return etcd.Client(host=host, port=int(port), read_timeout=30, **named)


def refused(error, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except error:
        return
    raise AssertionError(f"{call} {arguments} {named}: no {error}")


def keys(c, root):
    written = c.write(root + "/a", "1")
    assert (written.action, written.newKey) == ("set", True), written
    read = c.read(root + "/a", quorum=True)
    assert read.value == "1" and read.etcd_index >= written.modifiedIndex and read.raft_index > 0, read
    refused(etcd.EtcdCompareFailed, c.write, root + "/a", "2", prevValue="x")
    refused(etcd.EtcdAlreadyExist, c.write, root + "/a", "2", prevExist=False)
    refused(etcd.EtcdKeyNotFound, c.read, root + "/none")
    refused(etcd.EtcdNotFile, c.delete, root)
    refused(etcd.EtcdNotDir, c.write, root + "/a/b", "1")
    refused(etcd.EtcdDirNotEmpty, c.delete, root, dir=True)
    assert c.test_and_set(root + "/a", "2", "1").action == "compareAndSwap"
    in_order = c.write(root + "/q", "x", append=True)
    assert (len(in_order.key.rsplit("/", 1)[1]) == 20) != OLD, in_order
    c.write(root + "/ttl", "kept", ttl=60)
    if not OLD:
        assert c.refresh(root + "/ttl", 100).ttl == 100
    assert c.read(root + "/ttl", quorum=True).value == "kept"
    found = sorted(leaf.key for leaf in c.read(root, recursive=True, sorted=True, quorum=True).leaves)
    assert found == sorted([root + "/a", in_order.key, root + "/ttl"]), found


def watches(c, other, root):
    before = c.write(root + "/w/a", "0").modifiedIndex
    for value in ["1", "2", "3"]:
        other.write(root + "/w/" + value, value)
    seen, after = [], before + 1
    while len(seen) < 3:
        event = c.watch(root + "/w", index=after, recursive=True)
        seen.append(event.value)
        after = event.modifiedIndex + 1
    assert seen == ["1", "2", "3"], seen
    # One that waits for what is to come.
    waiting = []
    watcher = threading.Thread(target=lambda: waiting.append(c.watch(root + "/late", index=after)))
    watcher.start()
    other.write(root + "/late", "at last")
    watcher.join(30)
    assert waiting and waiting[0].value == "at last", waiting
    ending = other.write(root + "/ends", "soon", ttl=1)
    expired = c.watch(root + "/ends", index=ending.modifiedIndex + 1)
    assert expired.action == "expire", expired


def lock(c, other):
    mine, theirs = etcd.Lock(c, "smoke"), etcd.Lock(other, "smoke")
    assert mine.acquire(blocking=True, lock_ttl=60) and mine.is_acquired
    got = []
    waiting = threading.Thread(target=lambda: got.append(theirs.acquire(blocking=True, lock_ttl=60)))
    waiting.start()
    mine.release()
    waiting.join(30)
    assert got == [True], got
    theirs.release()


def users(endpoints):
    c = client(endpoints[0])
    root = EtcdUser(c, "root")
    root.password = "rootpw"
    root.write()
    role = EtcdRole(c, "writer")
    role.grant("/auth/*", "RW")
    role.write()
    role.grant("/other", "R")
    role.write()
    role.read()
    assert role.acls == {"/auth/*": "RW", "/other": "R"}, role.acls
    user = EtcdUser(c, "snake")
    user.password = "pw"
    user.roles = ["writer"]
    user.write()
    guest = EtcdRole(c, "guest")
    guest.grant("/open", "R")
    guest.write()
    assert not Auth(c).active
    Auth(c).active = True
    try:
        for endpoint in endpoints:
            known, unknown = client(endpoint, username="snake", password="pw"), client(endpoint)
            assert Auth(unknown).active
            assert known.write("/auth/" + endpoint, "1").value == "1"
            for refusal in [
                lambda: known.write("/elsewhere", "1"),
                lambda: unknown.read("/auth/" + endpoint),
                lambda: client(endpoint, username="snake", password="x").read("/auth/" + endpoint),
                lambda: EtcdRole(known, "writer").read(),
                lambda: EtcdUser(unknown, "snake").delete(),
            ]:
                refused(etcd.EtcdInsufficientPermissions, refusal)
            refused(etcd.EtcdKeyNotFound, unknown.read, "/open")
    finally:
        Auth(client(endpoints[0], username="root", password="rootpw")).active = False
    user.delete()
    refused(etcd.EtcdKeyNotFound, user.read)
    role.delete()


def main():
    endpoints = sys.argv[1].split(",")
    clients = [client(endpoint) for endpoint in endpoints]
    for number, c in enumerate(clients):
        other = clients[(number + 1) % len(clients)]
        root = f"/smoke/{number}"
        keys(c, root)
        watches(c, other, root)
        if OLD:
            assert len(c.machines) == len(clients), c.machines
            continue
        assert c.version == "3.7.1", c.version
        assert len(c.members) == len(clients), c.members
        assert c.leader["id"] in c.members, c.leader
        assert len(c.machines) == len(clients), c.machines
        assert c.stats["leaderInfo"]["leader"] == c.leader["id"], c.stats
        assert c.store_stats["watchers"] == 0, c.store_stats
        lock(c, other)
        assert other.delete(root, recursive=True).action == "delete"
    if not OLD:
        users(endpoints)
    print("ok")


if __name__ == "__main__":
    main()
