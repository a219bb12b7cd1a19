"""Sends the same requests to two servers of the v2 API and compares the answers field by field.

Usage: compare_v2.py REFERENCE_URL OUR_URL [--dialect 04]. Both trees must be new. Prints each difference; the last line
counts. Standard library only.
"""

import base64
import json
import re
import sys
import time
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
        # Who asks where a request does not say.
        self.who = None

    def ask(self, method, path, form=None, who=None):
        """Status, headers and body of an answer; redirects are not followed."""
        body = None if form is None else form.encode()
        request = urllib.request.Request(self.url + path, data=body, method=method)
        if body is not None:
            request.add_header("Content-Type", "application/json" if form.startswith("{") else FORM)
        who = self.who if who is None else who
        if who:
            request.add_header("Authorization", who)
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
    elif isinstance(value, list) and value and isinstance(value[0], dict):
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
    yield "DELETE", keys + "/?prevValue=1", None
    yield "DELETE", keys + "/?prevIndex=1", None
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


def parameters_of_2():
    """Each parameter in forms that are right and wrong, with each method; each kind of node with each change."""
    keys = "/v2/keys"
    for flag in ["recursive", "sorted", "dir", "quorum", "stream", "noValueOnSuccess", "prevExist", "refresh", "wait"]:
        for value in ["", "2", "yes", "TRUE", "tRUE", "0"]:
            yield "PUT", keys + "/p/flag", form(value="1", **{flag: value})
            yield "POST", keys + "/p/order", form(value="1", **{flag: value})
            yield "DELETE", keys + "/p/flag?" + form(**{flag: value}), None
            yield "HEAD", keys + "/p?" + form(**{flag: value}), None
    for number in ["", "0", "-1", "+1", "1.5", "1e3", "0x10", " 1", "9" * 30, "a"]:
        # A TTL of 0 ends at once here, and a little later there.
        for name in ["prevIndex", "waitIndex"] if number == "0" else ["ttl", "prevIndex", "waitIndex"]:
            yield "PUT", keys + "/p/number", form(value="1", **{name: number})
            yield "POST", keys + "/p/order", form(value="1", **{name: number})
            yield "GET", keys + "/p/none?" + form(**{name: number}), None
            yield "DELETE", keys + "/p/none?" + form(**{name: number}), None
    yield "PUT", keys + "/p/file", form(value="1")
    yield "PUT", keys + "/p/dir/in", form(value="1")
    for path in ["/p/file", "/p/dir", "/p/file/below", "/p/dir/none", "/p/none", "/", ""]:
        for fields in [
            {"prevExist": "true"},
            {"prevExist": "false"},
            {"prevValue": "1"},
            {"prevValue": "other"},
            {"prevIndex": "1"},
            {"prevExist": "false", "prevValue": "1"},
            {"refresh": "true", "ttl": "100"},
            {"refresh": "true", "ttl": "100", "prevExist": "true"},
            {"refresh": "true", "ttl": "100", "prevExist": "false"},
            {"dir": "true", "prevValue": "1"},
            {"dir": "true", "prevExist": "true"},
            {"dir": "true", "prevExist": "true", "ttl": "100"},
            {"dir": "true", "prevExist": "false"},
        ]:
            if "refresh" not in fields:
                fields["value"] = "1"
            yield "PUT", keys + path, form(**fields)
        for query in ["", "dir=true", "recursive=true&dir=false", "prevValue=other", "dir=true&prevValue=other", "prevIndex=1"]:
            yield "DELETE", keys + path + "?" + query, None
        yield "POST", keys + path, form(value="1", ttl="100", dir="true")
        yield "GET", keys + path + "?recursive=true&sorted=true", None
        yield "HEAD", keys + path, None
    yield "DELETE", keys + "/p?recursive=true", None
    yield "PUT", keys + "/p2/", form(value="slash")
    yield "GET", keys + "/p2/", None
    yield "PUT", keys + "/p2?ttl=x&value=a", form(ttl="5")
    yield "PUT", keys + "/p2?prevValue=a", form(value="b", prevValue="slash")
    yield "DELETE", keys + "/p2?prevValue=b&prevIndex=1", None
    yield "DELETE", keys + "/p2?recursive=true", None
    for method in ["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"]:
        for path in ["/v2/machines", "/v2/stats/self/", "/v2/stats", "/v2/stats/none", "/v2", "/v2/keysx"]:
            if (method, path) == ("GET", "/v2/machines"):
                continue
            yield method, path, "" if method in ("PUT", "POST", "PATCH") else None
    for body in ["", "{}", '{"peerURLs":[]}', '{"peerURLs":["x"]}', '{"peerURLs":["http://a"]}']:
        yield "PUT", "/v2/members/123", body
    yield "PUT", "/v2/members/123", '{"peerURLs":["http://127.0.0.1:1"]}'
    yield "PUT", "/v2/members/xyz", '{"peerURLs":["http://127.0.0.1:1"]}'
    yield "PUT", "/v2/members", "{}"
    yield "POST", "/v2/members/123", "{}"
    yield "DELETE", "/v2/members", None
    yield "DELETE", "/v2/members/", None
    yield "PATCH", "/v2/members", ""
    yield "HEAD", "/v2/members", None


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


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


ROOT = basic("root", "rootpw")
BOB = basic("bob", "bobpw")


def user(name, **fields):
    return "PUT", f"/v2/auth/users/{name}", json.dumps({"user": name, **fields})


def role(name, **fields):
    return "PUT", "/v2/auth/roles/" + urllib.parse.quote(name), json.dumps({"role": name, **fields})


def kv(read=None, write=None):
    return {"kv": {"read": read, "write": write}}


def changes_of_users():
    """Users and roles while nobody is asked who they are, and switching that on."""
    auth = "/v2/auth"
    for path in ["enable", "users", "users/", "users/none", "roles", "roles/", "roles/none", "roles/root", "", "none"]:
        yield "GET", f"{auth}/{path}", None
        yield "POST", f"{auth}/{path}", "{}"
    yield "GET", auth + "/users/a/b", None
    yield "GET", auth + "/roles/a%2Fb", None
    yield "PUT", auth + "/enable", ""
    yield "DELETE", auth + "/enable", None
    for body in ["", "{", "[]", "7", '"x"', "{}", '{"user":7}', '{"user":"other"}', '{"user":"alice","roles":"x"}']:
        yield "PUT", auth + "/users/alice", body
    for body in ["", "{", "{}", '{"role":"other"}', '{"role":"r","permissions":[]}', '{"role":"r","grant":7}']:
        yield "PUT", auth + "/roles/r", body
    yield user("alice")
    yield user("alice", grant=["r"])
    yield user("alice", password="", roles=["r"])
    yield user("alice", password="alicepw")
    yield user("alice", password="alicepw", roles=["r"])
    yield user("alice")
    yield user("alice")
    yield user("alice", grant=["r", "b", "none"])
    yield user("alice", grant=["r"])
    yield user("alice", revoke=["none"])
    yield user("alice", revoke=["none"])
    yield user("alice", roles=["r"], grant=["x"])
    yield user("alice", grant=["x", "x"])
    yield user("bob", password="bobpw", roles=["z", "a", "r"])
    yield user("carol", password="p", roles=[])
    yield user("carol", password="q")
    yield "PUT", auth + "/users/dora", '{"USER":"dora","Password":"p","extra":{}} trailing'
    for name in ["alice", "bob", "carol", "dora"]:
        yield "GET", f"{auth}/users/{name}", None
    yield "GET", auth + "/users", None
    yield role("r")
    yield role("r")
    yield role("r", grant=kv(read=["/r/*", "/one"]))
    yield role("r", grant=kv(read=["/one"]))
    yield role("r", grant=kv(write=["/r/w", "/r/w"]))
    yield role("r", grant=kv(write=["/r/w"]), revoke=kv(read=["/not"]))
    yield role("r", revoke=kv(read=["/not"]))
    yield role("r", revoke=kv(read=["/one"]))
    yield role("r", grant=kv(read=[]), revoke=kv())
    yield role("r", permissions=kv(read=["/x"]), grant=kv(read=["/y"]))
    yield role("none", grant=kv(read=["/y"]))
    yield role("root")
    yield role("root", grant=kv(read=["/y"]))
    yield role("b", permissions=kv(read=["/b*"], write=["/b*", "/a"]))
    yield role("z", permissions=kv(read=[]))
    yield role("<&>é", permissions=kv(write=["/<&>"]))
    for name in ["r", "b", "z", "%3C%26%3E%C3%A9", "root"]:
        yield "GET", f"{auth}/roles/{name}", None
    yield "GET", auth + "/roles", None
    yield "DELETE", auth + "/roles/root", None
    yield "DELETE", auth + "/roles/%3C%26%3E%C3%A9", None
    yield "DELETE", auth + "/roles/none", None
    yield "DELETE", auth + "/users/carol", None
    yield "DELETE", auth + "/users/none", None
    yield user("root", password="rootpw")
    yield user("root", revoke=["root"])
    yield user("root", grant=["r"])
    yield "GET", auth + "/users/root", None
    yield "DELETE", auth + "/users/root", None
    yield user("root", password="rootpw", roles=["r"])
    yield "GET", auth + "/users", None
    yield "PUT", auth + "/enable", ""
    yield "GET", auth + "/enable", None
    for who in ["", BOB, basic("none", "x"), basic("root", "x"), "Basic !", "Basic", "Bearer x", ROOT]:
        yield "PUT", auth + "/enable", "", who
        for path in ["enable", "users", "users/alice", "roles", "roles/none"]:
            yield "GET", f"{auth}/{path}", None, who
    yield "DELETE", auth + "/users/root", None, ROOT
    yield (*role("guest", permissions=kv(read=["/x"])), ROOT)
    yield (*role("guest", revoke=kv(read=["/*"], write=["/*"]), grant=kv(read=["/open", "/g/*"])), ROOT)
    yield (*user("alice", password="alicepw2"), BOB)


def requests_of_users():
    """Who may do what. Nothing here changes users or roles."""
    keys = "/v2/keys"
    for path in ["/open", "/g/x", "/r/w", "/r/x", "/b", "/bb/c", "/a"]:
        yield "PUT", keys + path, form(value="1"), ROOT
    # Theirs takes its time for each password that it checks.
    for who in ["", BOB, "Basic !", basic("none", ""), ROOT, basic("bob", "wrong")]:
        for path in ["", "/", "/open", "/g/", "/r/", "/r/w", "/bb", "/a", "/none"]:
            yield "GET", keys + path, None, who
            yield "GET", keys + path + "?recursive=true&sorted=true", None, who
        yield "HEAD", keys + "/r/w", None, who
        yield "HEAD", keys + "/none", None, who
        for path in ["/open", "/r/w", "/r/x", "/b/", "/a"]:
            yield "PUT", keys + path, form(value="2"), who
            yield "PUT", keys + path, form(value="3", prevValue="2"), who
        yield "POST", keys + "/bb", form(value="q"), who
        yield "DELETE", keys + "/bb?recursive=true", None, who
        yield "DELETE", keys + "/bb?recursive=maybe", None, who
        yield "DELETE", keys + "/a?prevValue=3", None, who
        yield "GET", keys + "/r?wait=true&waitIndex=x", None, who
        for path in ["/v2/members/leader/x", "/v2/stats/store/x", "/v2/machines/x"]:
            yield "GET", path, None, who
        yield "POST", "/v2/members", "{}", who
        yield "DELETE", "/v2/members/12", None, who


def ends_of_users():
    yield "DELETE", "/v2/auth/enable", None, BOB
    yield "DELETE", "/v2/auth/enable", None, ROOT
    yield "DELETE", "/v2/auth/enable", None, ROOT
    yield "PUT", "/v2/keys/a", form(value="1"), basic("root", "wrong")
    yield "DELETE", "/v2/auth/users/root", None
    yield "PUT", "/v2/auth/enable", ""


def names(value):
    """The names of fields, without their values."""
    if isinstance(value, dict):
        return {name: names(inner) for name, inner in value.items()}
    return None


def counts(server):
    return json.loads(server.ask("GET", "/v2/stats/store")[2])


class Comparison:
    def __init__(self, reference, ours):
        self.servers = [reference, ours]
        self.compared = 0
        self.differences = 0

    def run(self, requests, ignored=()):
        for method, path, body, *who in requests:
            theirs, ours = (shown(server.ask(method, path, body, *who)) for server in self.servers)
            self.compared += 1
            for name in sorted(set(theirs) | set(ours)):
                if name not in ignored:
                    self.same(f"{method} {path} {body or ''} {who}\n  {name}", theirs.get(name), ours.get(name))

    def same(self, what, theirs, ours):
        if theirs != ours:
            self.differences += 1
            print(f"{what}: {theirs!r}\n  ours:  {ours!r}")

    def figures(self, before):
        """What was counted since, and which figures there are."""
        counted = [
            {name: now[name] - then[name] for name in now}
            for now, then in zip((counts(server) for server in self.servers), before)
        ]
        # Of the others it counts some failures as successes, and what it reads for itself.
        for name in ["setsSuccess", "setsFail", "createSuccess", "createFail", "expireCount", "watchers"]:
            self.compared += 1
            self.same(f"counted in /v2/stats/store: {name}", *(count[name] for count in counted))
        for path in ["/v2/stats/self", "/v2/stats/leader", "/v2/stats/store"]:
            self.compared += 1
            self.same(path, *(names(json.loads(server.ask("GET", path)[2])) for server in self.servers))

    def ends(self):
        """Nodes that expire, and what history has forgotten."""
        for server in self.servers:
            server.ask("PUT", "/v2/keys/ends/a", form(value="1", ttl="1"))
            server.ask("PUT", "/v2/keys/ends/dir/b", form(value="1"))
            server.ask("PUT", "/v2/keys/ends/dir", form(dir="true", ttl="2", prevExist="true"))
        time.sleep(4)
        first = self.servers[0].index() - 1
        self.run([("GET", "/v2/keys/ends?recursive=true&sorted=true", None), ("GET", "/v2/keys/ends/a", None)])
        self.run(("GET", f"/v2/keys/ends?wait=true&recursive=true&waitIndex={first + n}", None) for n in (0, 1))
        self.run([("GET", f"/v2/keys/ends/dir/b?wait=true&waitIndex={first}", None)])
        for server in self.servers:
            for _ in range(1010):
                server.ask("PUT", "/v2/keys/ends/many", form(value="1"))
        self.run(("GET", f"/v2/keys/ends?wait=true&recursive=true&waitIndex={n}", None) for n in (1, 2, first))


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
    if not old:
        level(comparison.servers)
        before = [counts(server) for server in comparison.servers]
        comparison.run(parameters_of_2())
        comparison.figures(before)
        comparison.ends()
    if not old:
        # Here, users and roles move no index of the tree.
        comparison.run(changes_of_users(), ("x-etcd-index",))
        for server in comparison.servers:
            server.who = ROOT
        level(comparison.servers)
        for server in comparison.servers:
            server.who = None
        comparison.run(requests_of_users())
        comparison.run(ends_of_users(), ("x-etcd-index", "body"))
    print(f"{comparison.compared} answers compared, {comparison.differences} differences")
    return 1 if comparison.differences else 0


if __name__ == "__main__":
    sys.exit(main())
