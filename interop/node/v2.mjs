// Drives each member of a running cluster through npm's node-etcd, a client of the v2 API.
//
// usage: node v2.mjs 127.0.0.1:2379,127.0.0.1:2479,... [--old]
//
// --old: the members speak the dialect of etcd 0.4, as 'quorate etcd2' does.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";

// The package lies where it was installed, which is not beside this file.
const require = createRequire(path.join(process.env.NODE_FOLDER ?? process.cwd(), "package.json"));
const Etcd = require("node-etcd");
const endpoints = process.argv[2].split(",");
const old = process.argv.includes("--old");

// The client's calls end with (error, body, headers).
function call(client, method, ...args) {
  return new Promise((resolve, reject) => {
    client[method](...args, (error, body, headers) => (error ? reject(error) : resolve({ body, headers })));
  });
}

async function refused(code, client, method, ...args) {
  const error = await call(client, method, ...args).then(() => null, (failed) => failed);
  assert.equal(error?.errorCode ?? error?.error?.errorCode, code, `${method} ${JSON.stringify(args)}: ${error}`);
}

async function keys(client, root) {
  const set = await call(client, "set", `${root}/a`, "1 <&>é");
  assert.equal(set.body.action, "set");
  const got = await call(client, "get", `${root}/a`, { quorum: true });
  assert.equal(got.body.node.value, "1 <&>é");
  assert.ok(Number(got.headers["x-etcd-index"]) >= got.body.node.modifiedIndex);
  await refused(100, client, "get", `${root}/none`);
  await refused(101, client, "compareAndSwap", `${root}/a`, "2", "other");
  const swapped = await call(client, "compareAndSwap", `${root}/a`, "2", "1 <&>é");
  assert.equal(swapped.body.action, "compareAndSwap");
  await refused(101, client, "compareAndDelete", `${root}/a`, "other");
  const deleted = await call(client, "compareAndDelete", `${root}/a`, "2");
  assert.equal(deleted.body.action, "compareAndDelete");
}

async function directories(client, root) {
  await call(client, "mkdir", `${root}/d`);
  await refused(102, client, "set", `${root}/d`, "1");
  await call(client, "set", `${root}/d/b/x`, "x");
  await call(client, "set", `${root}/d/a`, "a");
  await refused(104, client, "set", `${root}/d/a/b`, "1");
  const listed = await call(client, "get", `${root}/d`, { recursive: true, sorted: true, quorum: true });
  assert.deepEqual(listed.body.node.nodes.map((node) => node.key), [`${root}/d/a`, `${root}/d/b`]);
  assert.equal(listed.body.node.nodes[1].nodes[0].value, "x");
  await refused(108, client, "rmdir", `${root}/d`);
  await call(client, "rmdir", `${root}/d`, { recursive: true });
  const made = [];
  for (const value of ["x", "y", "z"]) {
    const { body } = await call(client, "create", `${root}/q`, value);
    assert.equal(body.node.key.split("/").pop().length === 20, !old);
    made.push(body.node.key);
  }
  const queue = await call(client, "get", `${root}/q`, { sorted: true, quorum: true });
  assert.deepEqual(queue.body.node.nodes.map((node) => node.key), [...made].sort());
}

async function watches(client, other, root) {
  const events = 20;
  const { body } = await call(client, "set", `${root}/w/first`, "0");
  const watcher = client.watcher(`${root}/w`, body.node.modifiedIndex + 1, { recursive: true });
  const seen = new Promise((resolve, reject) => {
    const values = [];
    watcher.on("error", reject);
    watcher.on("change", (event) => {
      values.push(event.node.value);
      if (values.length === events) resolve(values);
    });
  });
  for (let at = 0; at < events; at += 1) await call(other, "set", `${root}/w/${at % 3}`, String(at));
  assert.deepEqual(await seen, [...Array(events).keys()].map(String));
  watcher.stop();
  const ttl = await call(other, "set", `${root}/ttl`, "soon", { ttl: 1 });
  assert.equal(ttl.body.node.ttl, 1);
  const ended = await call(client, "watchIndex", `${root}/ttl`, ttl.body.node.modifiedIndex + 1);
  assert.equal(ended.body.action, "expire");
}

for (const [number, endpoint] of endpoints.entries()) {
  const client = new Etcd([`http://${endpoint}`]);
  const other = new Etcd([`http://${endpoints[(number + 1) % endpoints.length]}`]);
  const root = `/node/${number}`;
  await keys(client, root);
  await directories(client, root);
  await watches(client, other, root);
  const stats = await call(client, "selfStats");
  assert.match(stats.body.state, /leader|follower/i);
  if (old) {
    // It looks for the machines where 0.4 has them: in the tree.
    const machines = await call(client, "machines");
    assert.equal(machines.body.node.nodes.length, endpoints.length);
    assert.match(String((await call(client, "leader")).body), /^http:/);
    assert.match(String((await call(client, "version")).body), /^etcd 0\./);
  }
}
console.log(`node-etcd: all calls on ${endpoints.length} members`);
process.exit(0);
