// Drives each member of a running cluster through npm's etcd3 client.
//
// usage: node smoke.mjs 127.0.0.1:2379,127.0.0.1:2479,...

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";

// The package lies where it was installed, which is not beside this file.
const require = createRequire(path.join(process.env.NODE_FOLDER ?? process.cwd(), "package.json"));
const { Etcd3 } = require("etcd3");

const endpoints = process.argv[2].split(",");

function watched(client, key, count) {
  return new Promise((resolve, reject) => {
    client.watch().key(key).create().then((watcher) => {
      const seen = [];
      const note = (kind) => (kv) => {
        seen.push([kind, kv.value.toString()]);
        if (seen.length === count) watcher.cancel().then(() => resolve(seen), reject);
      };
      watcher.on("put", note("put")).on("delete", note("delete")).on("error", reject);
      client.put(key).value("1").then(() => client.delete().key(key)).catch(reject);
    }, reject);
  });
}

async function smoke(endpoint, number) {
  const client = new Etcd3({ hosts: `http://${endpoint}`, grpcOptions: {} });
  const prefix = `node/${number}/`;

  await client.put(`${prefix}k`).value("one");
  await client.put(`${prefix}k`).value("two");
  assert.equal(await client.get(`${prefix}k`).string(), "two");
  assert.equal(await client.get(`${prefix}none`).string(), null);

  for (let i = 0; i < 10; i++) await client.put(`${prefix}range/${i}`).value(String(i));
  const keys = await client.getAll().prefix(`${prefix}range/`).sort("Key", "Descend").limit(3).keys();
  assert.deepEqual(keys, [9, 8, 7].map((i) => `${prefix}range/${i}`));
  assert.equal(await client.getAll().prefix(`${prefix}range/`).count(), 10);

  const answer = await client
    .if(`${prefix}k`, "Value", "==", "two")
    .then(client.put(`${prefix}k`).value("three"))
    .else(client.delete().key(`${prefix}k`))
    .commit();
  assert.equal(answer.succeeded, true);
  assert.equal(await client.get(`${prefix}k`).string(), "three");

  await client.stm().transact(async (tx) => {
    const value = await tx.get(`${prefix}k`).string();
    await tx.put(`${prefix}k`).value(`${value}!`);
  });
  assert.equal(await client.get(`${prefix}k`).string(), "three!");

  assert.deepEqual(await watched(client, `${prefix}watched`, 2), [["put", "1"], ["delete", ""]]);

  const lease = client.lease(60, { autoKeepAlive: false });
  await lease.put(`${prefix}leased`).value("x");
  assert.equal(await client.get(`${prefix}leased`).string(), "x");
  await lease.keepaliveOnce();
  await lease.revoke();
  assert.equal(await client.get(`${prefix}leased`).string(), null);

  const lock = client.lock(`${prefix}lock`).ttl(30);
  await lock.acquire();
  await assert.rejects(client.lock(`${prefix}lock`).ttl(30).acquire(), /lock/i);
  await lock.release();

  const election = client.election(`${prefix}election`, 30);
  const campaign = election.campaign("me");
  await new Promise((resolve, reject) => campaign.on("elected", resolve).on("error", reject));
  assert.equal(await election.leader(), "me");
  await campaign.resign();

  assert.equal((await client.delete().prefix(`${prefix}range/`)).deleted, "10");
  assert.equal((await client.maintenance.status()).version, "3.7.1");
  client.close();
}

// A client that waits for ever would keep the process alive for ever.
const giveUp = setTimeout(() => { console.error("no end after 120 s"); process.exit(1); }, 120_000);
for (const [number, endpoint] of endpoints.entries()) await smoke(endpoint, number);
clearTimeout(giveUp);
console.log(`npm etcd3: all calls on ${endpoints.length} members`);
process.exit(0);
