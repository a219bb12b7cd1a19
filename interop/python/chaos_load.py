"""Puts unique keys with Python's etcd3 until standard input closes; appends each acknowledged one to a file.

Usage: chaos_load.py HOST:PORT,HOST:PORT,... FILE. Each key holds "value of KEY", as the check expects.
"""

import sys
import threading
import time

import etcd3

TIMEOUT_SECONDS = 3
PAUSE_SECONDS = 0.02


def main():
    endpoints, path = sys.argv[1].split(","), sys.argv[2]
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    done = failed = 0
    client = None
    with open(path, "a", buffering=1) as acknowledged:
        while not ended.is_set():
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
