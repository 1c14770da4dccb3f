/** A server that sends anything: the client throws nothing, goes on or closes for good, and prototypes stay as they are. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { connect } from "../../src/pywsapp/browser/pywsapp.js";
import { install, pass, settle, socket, uninstall } from "./fake.mjs";

const ROUNDS = 3_000;

beforeEach(install);
afterEach(uninstall);

async function connected() {
  const client = connect("ws://localhost/live"), errors = [], messages = [];
  client.on("error", (error) => errors.push(error));
  const server = (await socket()).accept();
  const room = client.subscribe("a", { presence: true }, (message) => messages.push(message));
  server.reply({ position: "1-aa", present: {} });
  return { client, server, room, errors, messages };
}

const WRONG = [
  "", "nonsense", "{", "[]", "null", "1", '"text"', "true", "{}", '{"type":1}', '{"type":"unheard-of"}',
  '{"type":["message"],"topic":"a","data":1}', '{"type":"message"}', '{"type":"message","base64":{}}', '{"type":"message","topic":"a"}',
  '{"type":"message","topic":1,"data":1}', '{"type":"message","topic":"a","position":1,"data":1}',
  '{"type":"message","topic":"a","base64":1}', '{"type":"message","topic":"a","base64":"%"}',
  '{"type":"presence","topic":"a","joined":[]}', '{"type":"presence","topic":"a","joined":"ana"}',
  '{"type":"presence","topic":"a","left":{"ana":1}}', '{"type":"presence","topic":"a","left":[1]}',
  '{"type":"presence","topic":"a","left":"ana"}', '{"type":"presence","topic":"a","changed":1}',
  '{"type":"ok"}', '{"type":"ok","id":"2"}', '{"type":"ok","id":1.5}', '{"type":"error"}', '{"type":"error","id":2}',
  '{"type":"error","code":1}', '{"type":"error","code":"a","retry_after":"soon"}', '{"type":"disconnect"}',
  '{"type":"disconnect","reconnect":true}', '{"type":"disconnect","reconnect":-1}', '{"type":"__proto__"}',
  `{"type":"message","topic":"a","data":${"[".repeat(1e6)}`,
];

for (const text of WRONG) {
  test(`${text.slice(0, 60)} closes the client for good`, async () => {
    const { client, server, errors, room } = await connected();
    server.receive(text);
    assert.deepEqual([client.state, client.reason.code, server.closed], ["closed", "protocol_error", 4002]);
    assert.deepEqual([errors, room.state], [[client.reason], "ended"]);
    server.receive('{"type":"pong"}');
    await pass(5_000);
    assert.equal(await socket(), server);
  });
}

test("binary messages close the client for good", async () => {
  const { client, server } = await connected();
  server.onmessage({ data: new ArrayBuffer(2) });
  assert.equal(client.reason.code, "protocol_error");
});

const WRONG_REPLIES = [
  ["connect", {}], ["connect", { client: 1, ping: 1 }], ["connect", { client: "a", ping: 0 }],
  ["connect", { client: "a", ping: "soon" }], ["connect", { client: "a", ping: 5, user: {} }],
  ["subscribe", { position: 1 }], ["subscribe", { present: ["a"] }], ["subscribe", { present: "a" }],
];
for (const [type, fields] of WRONG_REPLIES) {
  test(`${JSON.stringify(fields)} is no reply to ${type}`, async () => {
    const client = connect("ws://localhost/live"), server = await socket();
    client.on("error", () => {});
    if (type === "connect") server.open();
    else server.accept();
    client.subscribe("a");
    server.reply(fields);
    assert.equal(client.reason.code, "protocol_error");
  });
}

test("what a later version can send is ignored", async () => {
  const { client, server, messages } = await connected();
  for (const id of [1, 2, 99, 0, -1]) server.receive({ type: "ok", id, more: [] });
  server.receive({ type: "error", id: 77, code: "not_allowed" });
  server.receive({ type: "message", topic: "other", data: 1, more: {} });
  server.receive({ type: "unsubscribed", topic: "other" });
  server.receive({ type: "message", topic: "a", data: Array.from({ length: 100_000 }, () => 0), more: {} });
  assert.deepEqual([client.state, messages[0].data.length], ["open", 100_000]);
});

test("keys of prototypes are only keys", async () => {
  const { client, server, room } = await connected();
  for (const topic of ["__proto__", "constructor", "toString"]) {
    const messages = [];
    server.receive({ type: "message", topic, data: 1 });
    client.subscribe(topic, ({ data }) => messages.push(data));
    server.reply();
    server.receive({ type: "message", topic, data: 2 });
    assert.deepEqual(messages, [2]);
  }
  server.receive('{"type":"presence","topic":"a","joined":{"__proto__":{"x":1}},"__proto__":{"topic":"b"}}');
  assert.deepEqual([...room.present], [["__proto__", { x: 1 }]]);
  assert.deepEqual([{}.x, {}.topic, client.state], [undefined, undefined, "open"]);
});

/** A generator of numbers that are the same in each run (mulberry32). */
function generator(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let value = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    value ^= value + Math.imul(value ^ (value >>> 7), 61 | value);
    return ((value ^ (value >>> 14)) >>> 0) / 2 ** 32;
  };
}

test(`${ROUNDS} random messages`, async () => {
  const random = generator(20261130), choose = (values) => values[Math.floor(random() * values.length)];
  const keys = [
    "type", "id", "topic", "position", "data", "base64", "joined", "left", "changed", "present", "code", "message",
    "reconnect", "retry_after", "client", "user", "ping", "expires_in", "complete", "__proto__", "constructor", "length",
  ];
  const types = ["ok", "error", "message", "lost", "presence", "unsubscribed", "expiring", "disconnect", "pong", "x"];
  const value = (depth = 0) => choose([
    () => null, () => true, () => false, () => choose([0, -1, 1.5, 2 ** 53, 1e308, 3, 4]), () => "", () => "a",
    () => choose(keys), () => choose(types), () => choose(["1-aa", "AP8=", "%", "unavailable", "not_allowed", "5-bb"]),
    () => (depth > 2 ? [] : Array.from({ length: random() * 4 }, () => value(depth + 1))),
    () => (depth > 2 ? {} : Object.fromEntries(Array.from({ length: random() * 4 }, () => [choose(keys), value(depth + 1)]))),
  ])();
  const message = (id) => {
    const fields = { type: choose(types), topic: "a", ...(random() < 0.4 ? { id } : {}), ...(random() < 0.5 ? { data: 1 } : {}) };
    if (random() < 0.3) fields.code = "not_allowed";
    for (let number = random() * 3; number > 1; number--) fields[choose(keys)] = value();
    const text = JSON.stringify(fields);
    return random() < 0.1 ? text.slice(0, random() * text.length) : text;
  };
  const counts = { open: 0, waiting: 0, connecting: 0, closed: 0 };
  const rejected = () => {};
  let current = await connected();
  for (let round = 0; round < ROUNDS; round++) {
    const { client, server } = current;
    const request = choose(["publish", "call", "track", "subscribe", "none"]);
    if (request === "publish") client.publish("a", 1).catch(rejected);
    else if (request === "call") client.call("a").catch(rejected);
    else if (request === "track") current.room.track(1);
    else if (request === "subscribe" && current.room.state === "ended") current.room = client.subscribe("a");
    server.receive(message(server.sent.at(-1).id));
    counts[client.state]++;
    if (client.state !== "open") {
      if (client.state === "closed") assert.ok(client.reason.code !== "closed");
      client.close();
      await settle();
      current = await connected();
    }
  }
  current.client.close();
  await pass(100);
  assert.ok(counts.open > ROUNDS / 4 && counts.closed > ROUNDS / 20, JSON.stringify(counts));
  assert.deepEqual(Object.keys(Object.prototype), []);
});
