"""Puts unique keys with Python's etcd3 until standard input closes; appends each acknowledged one to a file.

Usage: chaos_load.py HOST:PORT,HOST:PORT,... FILE. Each key holds "value of KEY", as the check expects.
"""

import sys
import threading
import time

import etcd3

TIMEOUT_SECONDS = 3
PAUSE_SECONDS = 0.02
# For a first put to be acknowledged once all is well.
ARRIVAL_SECONDS = 120


def main():
    endpoints, path = sys.argv[1].split(","), sys.argv[2]
    ends = []
    threading.Thread(target=lambda: (sys.stdin.read(), ends.append(time.monotonic())), daemon=True).start()
    done = failed = 0
    client = None
    with open(path, "a", buffering=1) as acknowledged:
        # On a slow machine the first put may come after the end.
        while not ends or (done == 0 and time.monotonic() < ends[0] + ARRIVAL_SECONDS):
            key = f"load/python/{done + failed}"
            try:
                if client is None:
                    host, port = endpoints[(done + failed) % len(endpoints)].split(":")
                    client = etcd3.client(host=host, port=int(port), timeout=TIMEOUT_SECONDS)
                client.put(key, f"value of {key}")
                done += 1
                acknowledged.write(key + "\n")
            except Exception:  # Whatever it is: the outcome is not known.
                failed += 1
                client = None
            time.sleep(PAUSE_SECONDS)
    print(f"python etcd3: {done} puts acknowledged, {failed} without an answer", flush=True)
    sys.exit(0 if done > 0 else 1)


main()
