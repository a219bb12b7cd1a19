"""Clients of etcd v3's JSON gateway: `gateway.py HOST:PORT[,HOST:PORT...]`. Exits with 0 if all is as it should be.

OpenStack's etcd3gw, and Patroni's store of a cluster's state, as its instances use it.
"""

import json
import sys
import threading
import time

import etcd3gw
from patroni.dcs import get_dcs

ENDPOINTS = sys.argv[1].split(",")


def etcd3gw_works(endpoint):
    host, port = endpoint.rsplit(":", 1)
    c = etcd3gw.client(host=host, port=int(port), timeout=30)
    root = f"gw/{port}"
    assert c.status()["version"] == "3.7.1", c.status()
    assert len(c.members()) == len(ENDPOINTS), c.members()
    assert c.put(root + "/a", "a value")
    assert c.get(root + "/a") == [b"a value"], c.get(root + "/a")
    assert c.create(root + "/new", "1") and not c.create(root + "/new", "2")
    assert c.replace(root + "/new", "1", "3") and not c.replace(root + "/new", "1", "4")
    for number in range(5):
        c.put(f"{root}/many/{number}", "x" * 100_000)
    found = c.get_prefix(root + "/many/", sort_order="descend", sort_target="key")
    assert [meta["key"][-1:] for _, meta in found] == [b"4", b"3", b"2", b"1", b"0"], found
    lease = c.lease(ttl=60)
    c.put(root + "/leased", "x", lease=lease)
    assert lease.refresh() == 60 and 0 < lease.ttl() <= 60 and len(lease.keys()) == 1
    assert lease.revoke() and c.get(root + "/leased") == []
    first, second = c.lock(id=f"l{port}", ttl=60), c.lock(id=f"l{port}", ttl=60)
    assert first.acquire() and not second.acquire()
    assert first.is_acquired() and first.release() and second.acquire() and second.release()
    events, cancel = c.watch_prefix(root + "/watched/")
    for number in range(3):
        c.put(f"{root}/watched/{number}", str(number))
    c.delete(root + "/watched/1")
    seen = []
    for event in events:
        seen.append((event.get("type", "PUT"), event["kv"]["key"][-1:]))
        if len(seen) == 4:
            cancel()
            break
    assert seen == [("PUT", b"0"), ("PUT", b"1"), ("PUT", b"2"), ("DELETE", b"1")], seen
    assert c.delete_prefix(root) and c.get_prefix(root) == []


def instance(name):
    """A Patroni instance's view of the store."""
    return get_dcs(
        {
            "etcd3": {"hosts": ENDPOINTS},
            "scope": "demo",
            "name": name,
            "ttl": 30,
            "loop_wait": 10,
            "retry_timeout": 10,
        }
    )


def leads(dcs):
    leader = dcs.get_cluster().leader
    return leader and leader.name


def until(what, is_so):
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.02)


def patroni_works():
    one, two = instance("one"), instance("two")
    assert one.initialize(create_new=True, sysid="7"), "nobody else initializes"
    assert not two.initialize(create_new=True, sysid="8")
    assert one.set_config_value(json.dumps({"ttl": 30}))
    for dcs in (one, two):
        state = {"conn_url": f"postgres://{dcs._name}", "state": "running", "role": "replica"}
        assert dcs.touch_member(state)
    assert one.attempt_to_acquire_leader() and not two.attempt_to_acquire_leader()
    until("both members are seen", lambda: len(two.get_cluster().members) == 2)
    cluster = two.get_cluster()
    assert cluster.leader.name == "one" and cluster.initialize == "7", cluster
    assert cluster.config.data == {"ttl": 30}, cluster.config
    assert one.update_leader(one.get_cluster(), 4711)
    # A watcher of the other instance wakes as the leader goes.
    woken = threading.Event()
    version = two.get_cluster().leader.version
    thread = threading.Thread(target=lambda: two.watch(version, 25) and woken.set(), daemon=True)
    thread.start()
    leader = one.get_cluster().leader
    assert one.delete_leader(leader)
    until("no leader is seen", lambda: two.get_cluster().is_unlocked())
    assert two.attempt_to_acquire_leader()
    until("the new leader is seen", lambda: leads(one) == "two")
    assert woken.wait(25), "a watch of the leader saw nothing"
    assert two.get_cluster().status.last_lsn == 4711, two.get_cluster().status
    assert one.set_sync_state_value(json.dumps({"leader": "two", "sync_standby": "one"}))
    assert two.delete_cluster()
    until("the cluster is gone", lambda: one.get_cluster().initialize is None)


for endpoint in ENDPOINTS:
    etcd3gw_works(endpoint)
patroni_works()
print("ok")
