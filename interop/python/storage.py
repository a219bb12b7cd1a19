"""Keys of the storage library, as Python's etcd3 sees them.

Usage: storage.py HOST:PORT FILE, where FILE has JSON with keys and values in hex: {"read": [...], "swap":
{key: [old, new], ...}, "write": {key: value, ...}, "prefix": "..."}. Prints {"read": {key: value}, "swapped": [...],
"prefix": {key: value}}.
"""

import json
import sys

import etcd3

host, port = sys.argv[1].rsplit(":", 1)
client = etcd3.client(host=host, port=int(port), timeout=30)
with open(sys.argv[2], encoding="utf-8") as file:
    asked = json.load(file)
raw = bytes.fromhex


def value_of(key):
    value, _ = client.get(raw(key))
    return None if value is None else value.hex()


answer = {"read": {key: value_of(key) for key in asked["read"]}}
for key, value in asked["write"].items():
    client.put(raw(key), raw(value))
answer["swapped"] = [
    client.replace(raw(key), initial_value=raw(old), new_value=raw(new))
    for key, (old, new) in asked["swap"].items()
]
found = client.get_prefix(raw(asked["prefix"]), sort_order="ascend", sort_target="key")
answer["prefix"] = {meta.key.hex(): value.hex() for value, meta in found}
json.dump(answer, sys.stdout)
