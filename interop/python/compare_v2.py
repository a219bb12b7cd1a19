"""Sends the same requests to two servers of the v2 API and compares the answers field by field.

Usage: compare_v2.py REFERENCE_URL OUR_URL [--dialect 04]. Both trees must be new. Prints each difference; the last line
counts. Standard library only.
"""

import json
import re
import sys
import urllib.error
import urllib.parse
import urllib.request

FORM = "application/x-www-form-urlencoded"
COMPARED_HEADERS = ["x-etcd-index", "content-type", "location", "allow"]
PRESENT_HEADERS = ["x-etcd-cluster-id", "x-raft-index", "x-raft-term"]
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")


class Server:
    def __init__(self, url):
        self.url = url.rstrip("/")

    def ask(self, method, path, form=None, kind=FORM):
        """Status, headers and body of an answer; redirects are not followed."""
        body = None if form is None else form.encode()
        request = urllib.request.Request(self.url + path, data=body, method=method)
        if body is not None:
            request.add_header("Content-Type", kind)
        try:
            answer = OPENER.open(request, timeout=15)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            return answer.status, answer.headers, answer.read().decode()

    def index(self):
        return int(self.ask("GET", "/v2/keys/")[1]["X-Etcd-Index"])


class NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


OPENER = urllib.request.build_opener(NoRedirects, urllib.request.ProxyHandler({}))


def level(servers):
    """Brings all trees to one index: what a server writes for itself at its founding takes some."""
    goal = max(server.index() for server in servers) + 2
    for server in servers:
        while server.index() < goal - 1:
            server.ask("PUT", "/v2/keys/level", "value=1")
        server.ask("DELETE", "/v2/keys/level")
        assert server.index() == goal, (server.url, server.index(), goal)


def shown(answer):
    """What is compared of an answer."""
    status, headers, body = answer
    found = {"status": status, "body": TIME.sub("<time>", body)}
    for name in COMPARED_HEADERS:
        found[name] = headers[name]
    for name in PRESENT_HEADERS:
        found[name] = headers[name] is not None
    # Go answers listings that nobody wants sorted in any order.
    try:
        found["body"] = json.dumps(sorted_nodes(json.loads(found["body"])), ensure_ascii=True)
        found["ends"] = body[-1:]
        found["escapes"] = sorted(re.findall(r"\\u[0-9a-f]{4}", body))
        found["fields"] = re.findall(r'"(action|node|prevNode|key|value|dir|expiration|ttl|nodes)":', body)
        if '"nodes"' in body or body.startswith("["):
            del found["fields"]
    except ValueError:
        pass
    return found


def sorted_nodes(value):
    if isinstance(value, dict):
        value = {name: sorted_nodes(inner) for name, inner in value.items()}
        if isinstance(value.get("nodes"), list):
            value["nodes"].sort(key=lambda node: node["key"])
    elif isinstance(value, list):
        value = sorted((sorted_nodes(inner) for inner in value), key=lambda inner: inner.get("key", ""))
    return value


def form(**fields):
    return urllib.parse.urlencode(fields)


def requests_of_both():
    """Requests that both dialects know: method, path, form."""
    keys = "/v2/keys"
    yield "GET", keys + "/none", None
    yield "PUT", keys + "/foo", form(value="bar")
    yield "GET", keys + "/foo", None
    yield "GET", keys + "/", None
    yield "HEAD", keys + "/foo/", None
    yield "PUT", keys + "/foo", form(value="<a&b>\"\\\n\u2028é\x01")
    yield "PUT", keys + "/foo?value=query", form(value="form")
    yield "PUT", keys + "/foo?value=query", ""
    yield "PUT", keys + "/foo", form(value="x", dir="true")
    yield "PUT", keys + "/d", form(dir="true")
    yield "PUT", keys + "/d", form(dir="true")
    yield "PUT", keys + "/d", form(value="1")
    yield "PUT", keys + "/d/x", form(value="1")
    yield "PUT", keys + "/d/x/y", form(value="1")
    yield "GET", keys + "/d/x/y", None
    yield "POST", keys + "/d/x", form(value="1")
    yield "POST", keys + "/d", form(value="q")
    yield "POST", keys + "/d", form(value="q", ttl="100")
    yield "POST", keys + "/q/new", form(value="1")
    yield "POST", keys + "/q/new", form(dir="true")
    yield "POST", keys + "/q/new", form(value="1", ttl="x")
    yield "GET", keys + "/q?recursive=true&sorted=true", None
    yield "GET", keys + "/q?recursive=false", None
    yield "GET", keys + "/q?quorum=true", None
    yield "PUT", keys + "/d", form(ttl="50", prevExist="true")
    yield "GET", keys + "/d?recursive=true", None
    yield "PUT", keys + "/d", form(value="v", prevExist="true")
    yield "DELETE", keys + "/d", None
    yield "DELETE", keys + "/d?dir=true", None
    yield "DELETE", keys + "/d?recursive=true", None
    yield "DELETE", keys + "/d?recursive=true", None
    yield "PUT", keys + "/e", form(dir="true", ttl="100")
    yield "DELETE", keys + "/e?dir=true", None
    for ttl in ["abc", "1.5", "", "9" * 30, "100"]:
        yield "PUT", keys + "/t", form(value="1", ttl=ttl)
    yield "PUT", keys + "/t", form(value="2", ttl="", prevExist="true")
    yield "GET", keys + "/t", None
    for condition in [
        {"prevValue": ""},
        {"prevValue": "z"},
        {"prevValue": "z", "prevIndex": "9999"},
        {"prevValue": "2", "prevIndex": "9999"},
        {"prevIndex": "9999"},
        {"prevIndex": "x"},
        {"prevIndex": "-1"},
        {"prevExist": "false"},
        {"prevValue": "2"},
        {"prevExist": "true", "prevValue": "3"},
    ]:
        yield "PUT", keys + "/t", form(value="3", **condition)
        yield "PUT", keys + "/missing", form(value="3", **condition)
        yield "DELETE", keys + "/missing", None
    yield "PUT", keys + "/new/deep/er", form(value="1", prevExist="false")
    yield "PUT", keys + "/absent", form(value="1", prevExist="true")
    yield "PUT", keys + "/new", form(value="1", prevValue="x")
    yield "DELETE", keys + "/new?prevValue=x", None
    yield "DELETE", keys + "/t?prevValue=qq", None
    yield "DELETE", keys + "/t?prevIndex=qq", None
    yield "DELETE", keys + "/t?prevValue=", None
    yield "DELETE", keys + "/t?prevIndex=1", None
    yield "DELETE", keys + "/t?prevValue=3", None
    yield "DELETE", keys + "/t?prevValue=3", None
    yield "DELETE", keys + "/?recursive=true", None
    yield "PUT", keys + "/", form(value="1")
    yield "PUT", keys + "/", form(value="1", prevExist="true")
    yield "POST", keys + "/", form(value="1")
    yield "PUT", keys + "/_hidden/a", form(value="1")
    yield "PUT", keys + "/shown/_a", form(value="1")
    yield "GET", keys + "/?recursive=true", None
    yield "GET", keys + "/_hidden", None
    yield "PUT", keys + "/a%2Fb", form(value="1")
    yield "PUT", keys + "/a%20b%C3%A9", form(value="1")
    yield "PUT", keys + "/%3Ca%26b%3E", form(value="1")
    yield "GET", keys + "/foo?wait=true&waitIndex=x", None
    yield "PATCH", keys + "/foo", None
    yield "GET", "/v2/nothing", None
    yield "GET", "/v2/stats/store", None


def watches(first):
    """Watches whose events are in the past; `first` is the index of the first event of a series."""
    keys = "/v2/keys"
    for number in range(first, first + 6):
        yield "GET", f"{keys}/w?wait=true&recursive=true&waitIndex={number}", None
    yield "GET", f"{keys}/w/a?wait=true&waitIndex={first}", None
    yield "GET", f"{keys}/w/b/c?wait=true&waitIndex={first + 2}", None
    yield "GET", f"{keys}/?wait=true&recursive=true&waitIndex={first + 1}", None


def requests_of_2():
    keys = "/v2/keys"
    yield "GET", keys, None
    for name in ["recursive", "sorted", "wait", "dir", "quorum", "stream", "noValueOnSuccess"]:
        yield "GET", f"{keys}/foo?{name}=maybe", None
        yield "GET", f"{keys}/foo?{name}", None
    yield "GET", keys + "/foo?recursive=1&sorted=T&quorum=False", None
    yield "PUT", keys + "/foo?wait=true", form(value="1")
    yield "PUT", keys + "/foo", form(value="1", prevExist="maybe")
    yield "PUT", keys + "/foo", form(value="1", refresh="maybe")
    yield "PUT", keys + "/foo", form(value="1", refresh="true", ttl="5")
    yield "PUT", keys + "/foo", form(refresh="true")
    yield "PUT", keys + "/foo", form(value="1", ttl="-5")
    yield "PUT", keys + "/none", form(refresh="true", ttl="100")
    yield "PUT", keys + "/foo2", form(value="keep", ttl="100")
    yield "PUT", keys + "/foo2", form(refresh="true", ttl="200")
    yield "PUT", keys + "/foo2", form(refresh="true", ttl="300", prevExist="true")
    yield "PUT", keys + "/foo2", form(refresh="true", ttl="400", prevValue="keep")
    yield "PUT", keys + "/foo2", form(value="1", prevIndex="0")
    yield "PUT", keys + "/foo2", form(prevExist="true")
    yield "PUT", keys + "/foo2", form(value="1", noValueOnSuccess="true")
    yield "PUT", keys + "/foo2", form(value="1", noValueOnSuccess="true", prevExist="true")
    yield "POST", keys + "/foo3", form(value="1", noValueOnSuccess="true")
    yield "DELETE", keys + "/foo2?noValueOnSuccess=true", None
    yield "GET", keys + "/foo?value=%zz", None
    yield "PUT", keys + "/foo?value=%zz", ""
    yield "GET", "/v2/auth/enable", None
    yield "POST", "/v2/machines", ""
    yield "POST", "/v2/stats/self", ""
    yield "GET", "/v2/members/none", None
    yield "DELETE", "/v2/members/123", None
    yield "DELETE", "/v2/members/xyz", None
    yield "GET", "/v2/leader", None


def requests_of_04():
    keys = "/v2/keys"
    yield "GET", keys + "/foo?recursive=TRUE", None
    yield "GET", keys + "/foo?recursive=maybe", None
    yield "PUT", keys + "/foo", form(value="1", prevExist="maybe")
    yield "PUT", keys + "/foo", form(value="2", prevIndex="0")
    yield "PUT", keys + "/foo", form(prevExist="true")
    yield "PUT", keys + "/foo", form(prevExist="true", ttl="100")
    for path in ["/v1/keys/foo", "/v1/keys/none", "/v1/keys/", "/v1/keys/q", "/v1/keys/a/b"]:
        yield "GET", path, None
    yield "POST", "/v1/keys/foo", form(value="1")
    yield "POST", "/v1/keys/foo", form(value="2")
    yield "POST", "/v1/keys/foo", form(value="3", prevValue="1")
    yield "POST", "/v1/keys/foo", form(value="3", prevValue="2")
    yield "PUT", "/v1/keys/foo", form(value="3", prevValue="")
    yield "PUT", "/v1/keys/fresh", form(value="3", prevValue="", ttl="100")
    yield "POST", "/v1/keys/foo", form(ttl="3")
    yield "POST", "/v1/keys/foo", form(value="1", ttl="x")
    yield "DELETE", "/v1/keys/fresh", None
    yield "DELETE", "/v1/keys/fresh", None
    yield "POST", "/v1/watch/foo", form(index="x")
    yield "POST", "/v1/watch/foo", form(index="1")
    yield "GET", "/version", None
    lock = "/mod/v2/lock"
    yield "POST", lock + "/a", form(value="x")
    yield "POST", lock + "/a", form(ttl="20", timeout="x")
    yield "POST", lock + "/a", form(ttl="20", value="v1", timeout="0")
    yield "GET", lock + "/a", None
    yield "GET", lock + "/a?field=index", None
    yield "GET", lock + "/a?field=zz", None
    yield "POST", lock + "/a", form(ttl="20", value="v1")
    yield "POST", lock + "/a", form(ttl="20", value="v2", timeout="0")
    yield "POST", lock + "/a", form(ttl="20", value="v2", timeout="1")
    yield "PUT", lock + "/a", form(ttl="30", value="v1")
    yield "PUT", lock + "/a", form(ttl="30", value="none")
    yield "PUT", lock + "/a", form(ttl="30")
    yield "PUT", lock + "/a", form(value="v1")
    yield "DELETE", lock + "/a", None
    yield "DELETE", lock + "/a?index=1&value=2", None
    yield "DELETE", lock + "/a?value=none", None
    yield "DELETE", lock + "/a?value=v1", None
    yield "GET", lock + "/a", None
    leader = "/mod/v2/leader"
    yield "PUT", leader + "/c", form(ttl="20")
    yield "PUT", leader + "/c", form(name="n1", ttl="20")
    yield "GET", leader + "/c", None
    yield "DELETE", leader + "/c", None
    yield "DELETE", leader + "/c?name=n1", None
    yield "GET", leader + "/c", None


class Comparison:
    def __init__(self, reference, ours):
        self.servers = [reference, ours]
        self.compared = 0
        self.differences = 0

    def run(self, requests, ignored=()):
        for method, path, body in requests:
            theirs, ours = (shown(server.ask(method, path, body)) for server in self.servers)
            self.compared += 1
            for name in sorted(set(theirs) | set(ours)):
                if name in ignored or theirs.get(name) == ours.get(name):
                    continue
                self.differences += 1
                print(f"{method} {path} {body or ''}\n  {name}: {theirs.get(name)!r}\n  ours:  {ours.get(name)!r}")


def main():
    old = "--dialect" in sys.argv
    comparison = Comparison(Server(sys.argv[1]), Server(sys.argv[2]))
    level(comparison.servers)
    counted = ("x-raft-index", "x-raft-term") if old else ()
    comparison.run((r for r in requests_of_both() if "stats" not in r[1]), counted)
    level(comparison.servers)
    first = comparison.servers[0].index() + 1
    for server in comparison.servers:
        server.ask("PUT", "/v2/keys/w/a", form(value="1"))
        server.ask("PUT", "/v2/keys/w/b/c", form(value="2", ttl="100"))
        server.ask("PUT", "/v2/keys/w/b/c", form(value="3"))
        server.ask("DELETE", "/v2/keys/w/b?recursive=true")
        server.ask("PUT", "/v2/keys/w/a", form(value="4", prevValue="1"))
        server.ask("DELETE", "/v2/keys/w/a?prevValue=4")
    comparison.run(watches(first), counted)
    comparison.run(requests_of_04() if old else requests_of_2(), counted)
    print(f"{comparison.compared} answers compared, {comparison.differences} differences")
    return 1 if comparison.differences else 0


if __name__ == "__main__":
    sys.exit(main())
