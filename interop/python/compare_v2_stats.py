"""Compares what two clusters of the v2 API tell of their appends: which fields, in which order, of which types.

Usage: compare_v2_stats.py REFERENCE_URLS OUR_URLS (each separated by commas). Prints each difference; the last line counts.
Standard library only.
"""

import json
import sys
import time
import urllib.error
import urllib.request

WAIT_SECONDS = 60


def get(url, path):
    with urllib.request.urlopen(url + path, timeout=15) as answer:
        return json.loads(answer.read())


def write(url, number):
    request = urllib.request.Request(f"{url}/v2/keys/{number % 10}", data=b"value=1", method="PUT")
    request.add_header("Content-Type", "application/x-www-form-urlencoded")
    urllib.request.urlopen(request, timeout=15).read()


def shape(value):
    """Names of fields in order, and types; members' ids are not compared."""
    if isinstance(value, dict):
        found = [(name, shape(inner)) for name, inner in value.items()]
        if found and all(isinstance(inner, dict) and "latency" in inner for inner in value.values()):
            return sorted({str(inner) for _, inner in found}), len(found)
        return found
    # Whole numbers come without a fraction in both.
    return "number" if isinstance(value, (int, float)) else type(value).__name__


class Cluster:
    def __init__(self, urls):
        self.urls = urls.split(",")
        self.find_roles()

    def find_roles(self):
        """Who leads, and one that does not; waits where nobody leads."""
        end = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < end:
            for url in self.urls:
                try:
                    get(url, "/v2/stats/leader")
                except urllib.error.HTTPError as error:
                    assert error.code == 403, error
                    continue
                self.leader = url
                self.follower = next(other for other in self.urls if other != url)
                return
            time.sleep(0.1)
        raise AssertionError(f"none of {self.urls} leads")

    def under_load(self, reached):
        """Writes until what is told is as it should be under load; what was told then."""
        end = time.monotonic() + WAIT_SECONDS
        number = 0
        told = None
        while time.monotonic() < end:
            try:
                for _ in range(20):
                    write(self.leader, number)
                    number += 1
                told = (get(self.leader, "/v2/stats/leader"), get(self.leader, "/v2/stats/self"), get(self.follower, "/v2/stats/self"))
            except urllib.error.HTTPError:
                # On a busy machine leadership may move.
                self.find_roles()
                continue
            if reached(*told):
                return told
        raise AssertionError(f"{self.urls} never told what was waited for; last: {told}")

    def at_rest(self):
        end = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < end:
            told = [get(url, "/v2/stats/self") for url in (self.leader, self.follower)]
            if not any("PkgRate" in name or "BandwidthRate" in name for stats in told for name in stats):
                return told
            time.sleep(0.5)
        raise AssertionError(f"{self.urls} tells rates at rest: {told}")


def is_busy(leader, sending, receiving):
    followers = leader["followers"].values()
    return (
        all(figures["counts"]["success"] > 0 and figures["latency"]["maximum"] > 0 for figures in followers)
        and sending.get("sendPkgRate", 0) > 0
        and sending.get("sendBandwidthRate", 0) > 0
        and receiving.get("recvPkgRate", 0) > 0
        and receiving.get("recvBandwidthRate", 0) > 0
    )


def makes_sense(leader):
    for figures in leader["followers"].values():
        latency = figures["latency"]
        for name in ["current", "average"]:
            assert latency["minimum"] <= latency[name] <= latency["maximum"], figures
        assert 0 <= latency["standardDeviation"] <= latency["maximum"], figures


def main():
    clusters = [Cluster(urls) for urls in sys.argv[1:3]]
    compared = differences = 0
    told = []
    for cluster in clusters:
        busy = cluster.under_load(is_busy)
        makes_sense(busy[0])
        # A leader that led for the whole run received nothing, one that followed before did: in both, or left out.
        received = {"recvPkgRate", "recvBandwidthRate"}
        sent = {"sendPkgRate", "sendBandwidthRate"}
        sending = {name: value for name, value in busy[1].items() if name not in received}
        receiving = {name: value for name, value in busy[2].items() if name not in sent}
        told.append([busy[0], sending, receiving, *cluster.at_rest()])
    for what, theirs, ours in zip(["leader", "self, leading", "self, following", "self at rest", "self at rest"], *told):
        compared += 1
        if shape(theirs) != shape(ours):
            differences += 1
            print(f"{what}: {theirs}\n  ours: {ours}")
    print(f"{compared} statistics compared, {differences} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
