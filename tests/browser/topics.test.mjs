/** Subscriptions, messages, presence, publishing and calls. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { connect, PywsappError } from "../../src/pywsapp/browser/pywsapp.js";
import { install, pass, settle, socket, uninstall } from "./fake.mjs";

const clients = [];

beforeEach(install);
afterEach(() => {
  for (const client of clients.splice(0)) client.close();
  uninstall();
});

async function connected(options = {}) {
  const client = connect("ws://localhost/live", options);
  clients.push(client);
  const server = await socket();
  server.accept();
  return [client, server];
}

/** Break the connection, and return the next one. */
async function reconnected(server) {
  server.end();
  await pass(1_000);
  const next = await socket();
  assert.notEqual(next, server);
  return next.accept();
}

function record(emitter, ...events) {
  const found = [];
  for (const event of events) emitter.on(event, (...values) => found.push([event, ...values]));
  return found;
}

test("a subscription gets the messages of its topic", async () => {
  const [client, server] = await connected();
  const messages = [];
  const room = client.subscribe("room:tea", (message) => messages.push(message));
  assert.equal(room.state, "waiting");
  assert.deepEqual(server.last("subscribe"), { id: 2, type: "subscribe", topic: "room:tea" });
  server.reply({ topic: "room:tea", position: "3-aa" });
  assert.deepEqual([room.state, room.position], ["subscribed", "3-aa"]);
  server.receive({ type: "message", topic: "room:tea", position: "4-aa", data: { text: "hi" }, later: 1 });
  server.receive({ type: "message", topic: "room:tea", position: "5-aa", base64: "AP8=" });
  server.receive({ type: "message", topic: "room:milk", data: 1 });
  assert.deepEqual(messages, [
    { topic: "room:tea", data: { text: "hi" }, position: "4-aa" },
    { topic: "room:tea", data: new Uint8Array([0, 255]), position: "5-aa" },
  ]);
  assert.equal(room.position, "5-aa");
});

test("subscriptions made before the connection is open follow `connect`, with their options", async () => {
  const client = connect("ws://localhost/live");
  clients.push(client);
  const track = { name: "Ana" };
  client.subscribe("a", { since: null, presence: true, track, newest: "symbol", filter: { kind: ["x"] } });
  track.name = "changed later";
  const server = await socket();
  assert.deepEqual(server.sent, []);
  server.accept();
  assert.deepEqual(server.sent, [
    { id: 1, type: "connect", session: server.sent[0].session },
    {
      id: 2, type: "subscribe", topic: "a", since: null, presence: true, track: { name: "Ana" }, newest: "symbol",
      filter: { kind: ["x"] },
    },
  ]);
});

test("after a reconnect every topic is subscribed from its last position", async () => {
  const [client, server] = await connected();
  const kept = client.subscribe("kept", { since: "2-aa" });
  server.reply({ position: "7-aa" });
  client.subscribe("fresh");
  server.reply();
  client.subscribe("unanswered", { since: null });
  server.receive({ type: "message", topic: "kept", position: "8-aa", data: 1 });
  const events = record(kept, "subscribed", "lost");
  const next = await reconnected(server);
  assert.equal(kept.state, "waiting");
  assert.deepEqual(next.sent.slice(1), [
    { id: 6, type: "subscribe", topic: "kept", since: "8-aa" },
    { id: 7, type: "subscribe", topic: "fresh" },
    { id: 8, type: "subscribe", topic: "unanswered", since: null },
  ]);
  next.receive({ type: "lost", topic: "kept", position: "20-aa" });
  next.receive({ type: "ok", id: 6, topic: "kept", position: "20-aa", complete: false });
  assert.deepEqual(events, [["lost", "20-aa"], ["subscribed", false]]);
});

test("a message without a topic is for this client alone", async () => {
  const [client, server] = await connected(), events = record(client, "message");
  server.receive({ type: "message", data: { hello: 1 } });
  server.receive({ type: "message", base64: "AA==" });
  assert.deepEqual(events, [["message", { data: { hello: 1 } }], ["message", { data: new Uint8Array([0]) }]]);
});

test("messages of an old connection are not delivered", async () => {
  const [client, server] = await connected();
  const messages = [];
  client.subscribe("a", (message) => messages.push(message));
  const { onmessage } = server;
  await reconnected(server);
  assert.equal(server.onmessage, null);
  assert.notEqual(onmessage, null);
  assert.deepEqual(messages, []);
});

for (const code of ["invalid_position", "no_history"]) {
  test(`a position of the server that it refuses with ${code} is forgotten`, async () => {
    const [client, server] = await connected();
    const room = client.subscribe("a");
    server.reply({ position: "7-aa" });
    const events = record(room, "lost", "error");
    const next = await reconnected(server);
    next.refuse(code);
    assert.deepEqual(events, [["lost", null]]);
    assert.deepEqual(next.sent.at(-1), { id: 5, type: "subscribe", topic: "a" });
  });
}

test("a position of the program that the server refuses ends the subscription", async () => {
  const [client, server] = await connected();
  const room = client.subscribe("a", { since: "nonsense" });
  const events = record(room, "error");
  server.refuse("invalid_position");
  assert.equal(events[0][1].code, "invalid_position");
  assert.equal(room.state, "ended");
});

test("a refused subscription ends with an error; without a listener the client reports it", async (t) => {
  const [client, server] = await connected();
  const errors = record(client, "error");
  client.subscribe("a");
  server.refuse("not_allowed");
  assert.deepEqual([errors[0][1].code, errors[0][1] instanceof PywsappError], ["not_allowed", true]);
  const printed = t.mock.method(console, "error", () => {});
  const [other, server2] = await connected();
  other.subscribe("a");
  server2.refuse("not_allowed");
  assert.equal(printed.mock.calls[0].arguments[0].code, "not_allowed");
  assert.equal(client.state, "open");
});

test("a subscription that the server cannot make now is repeated when the server wants it", async () => {
  const [client, server] = await connected();
  client.subscribe("a");
  server.refuse("unavailable", "subscribe", { retry_after: 2 });
  await pass(1_900);
  assert.deepEqual(server.types(), ["connect", "subscribe"]);
  await pass(1_200);
  assert.deepEqual(server.types(), ["connect", "subscribe", "subscribe"]);
});

test("a topic has one subscription at a time, and can be subscribed again", async () => {
  const [client, server] = await connected();
  const messages = [];
  const first = client.subscribe("a", (message) => messages.push(message.data));
  assert.throws(() => client.subscribe("a"), { code: "already_subscribed" });
  server.reply();
  first.unsubscribe();
  first.unsubscribe();
  client.subscribe("a", { since: null }, (message) => messages.push(message.data));
  assert.deepEqual(server.types(), ["connect", "subscribe", "unsubscribe", "subscribe"]);
  server.receive({ type: "message", topic: "a", data: "for the first" });
  server.reply({}, "unsubscribe");
  server.receive({ type: "message", topic: "a", data: "for the second" });
  assert.deepEqual(messages, ["for the second"]);
});

test("an `unsubscribe` that the server refuses is done by a new connection", async () => {
  const [client, server] = await connected();
  client.subscribe("a").unsubscribe();
  server.refuse("not_subscribed", "unsubscribe");
  assert.equal(client.state, "open");
  client.subscribe("a").unsubscribe();
  server.refuse("internal_error", "unsubscribe");
  assert.equal(client.state, "waiting");
});

test("the server ends a subscription", async () => {
  const [client, server] = await connected();
  const room = client.subscribe("a");
  const events = record(room, "unsubscribed");
  server.receive({ type: "unsubscribed", topic: "a", code: "not_allowed", message: "you have left" });
  assert.deepEqual([events[0][1].code, events[0][1].message, room.state], ["not_allowed", "you have left", "ended"]);
  const errors = record(client, "error");
  client.subscribe("b");
  server.receive({ type: "unsubscribed", topic: "b", code: "not_allowed", message: "without a listener" });
  assert.equal(errors[0][1].message, "without a listener");
  const next = await reconnected(server);
  assert.deepEqual(next.types(), ["connect"]);
});

// ---- presence ----

test("present follows the server; keys are only keys", async () => {
  const [client, server] = await connected();
  const room = client.subscribe("a", { presence: true });
  const events = record(room, "presence");
  server.receive(`{"type":"ok","id":2,"present":{"ana":1,"__proto__":{"polluted":true},"constructor":null}}`);
  assert.deepEqual([...room.present], [["ana", 1], ["__proto__", { polluted: true }], ["constructor", null]]);
  assert.equal({}.polluted, undefined);
  assert.equal(room.present.polluted, undefined);
  server.receive({ type: "presence", topic: "a", joined: { ben: 2 }, left: ["ana"], changed: { constructor: 3 } });
  server.receive(`{"type":"presence","topic":"a","left":["__proto__"]}`);
  assert.deepEqual([...room.present], [["constructor", 3], ["ben", 2]]);
  const joined = events.map(([, change]) => [[...change.joined.keys()], change.left, [...change.changed.keys()]]);
  assert.deepEqual(joined, [
    [["ana", "__proto__", "constructor"], [], []], [["ben"], ["ana"], ["constructor"]], [[], ["__proto__"], []],
  ]);
});

test("after a reconnect presence has what changed meanwhile", async () => {
  const [client, server] = await connected();
  const room = client.subscribe("a", { presence: true });
  server.reply({ present: { ana: { x: 1 }, ben: 2, cy: 3 } });
  const next = await reconnected(server);
  assert.equal(room.present.size, 3, "the last known ones are shown meanwhile");
  const events = record(room, "presence");
  next.reply({ present: { ana: { x: 1 }, ben: 20, dee: 4 } });
  const [[, change]] = events;
  assert.deepEqual([...change.joined], [["dee", 4]]);
  assert.deepEqual(change.left, ["cy"]);
  assert.deepEqual([...room.present], [["ana", { x: 1 }], ["ben", 20], ["dee", 4]]);
  assert.deepEqual([...change.changed], [["ben", 20]]);
});

test("the own presence is changed, ended, and kept after a reconnect", async () => {
  const [client, server] = await connected();
  const room = client.subscribe("a", { track: 1 });
  room.track({ typing: true });
  room.untrack();
  room.track(2);
  assert.deepEqual(server.sent.slice(1).map(({ id, ...fields }) => fields), [
    { type: "subscribe", topic: "a", track: 1 },
    { topic: "a", type: "track", meta: { typing: true } },
    { topic: "a", type: "untrack" },
    { topic: "a", type: "track", meta: 2 },
  ]);
  server.reply({}, "subscribe");
  const errors = record(room, "error");
  server.refuse("not_allowed", "track");
  assert.deepEqual([errors[0][1].code, room.state], ["not_allowed", "subscribed"]);
  const next = await reconnected(server);
  assert.equal(next.sent.at(-1).track, 2);
});

// ---- for await ----

test("a loop gets the messages, and unsubscribes when it ends", async () => {
  const [client, server] = await connected();
  const found = [];
  const loop = (async () => {
    for await (const { data } of client.subscribe("a")) {
      found.push(data);
      if (data === 3) break;
    }
  })();
  await settle();
  for (const data of [1, 2, 3, 4]) server.receive({ type: "message", topic: "a", data });
  await loop;
  assert.deepEqual(found, [1, 2, 3]);
  assert.deepEqual(server.types(), ["connect", "subscribe", "unsubscribe"]);
});

test("a loop ends with the subscription, with the error if there is one", async () => {
  const [client, server] = await connected();
  const read = async (room) => { for await (const message of room) assert.fail(message); };
  const [left, refused, ended, last] = ["left", "refused", "ended", "last"].map((topic) => client.subscribe(topic));
  const loops = [left, refused, ended, last].map(read);
  const refusal = assert.rejects(loops[1], { code: "not_allowed" });
  const end = assert.rejects(loops[2], { code: "not_allowed" });
  left.unsubscribe();
  server.receive({ type: "error", id: 3, code: "not_allowed", message: "" });
  server.receive({ type: "unsubscribed", topic: "ended", code: "not_allowed", message: "" });
  await Promise.all([loops[0], refusal, end]);
  client.close();
  await loops[3];
  await assert.rejects(read(client.subscribe("later")), { code: "closed" });
});

test("a loop that is too slow ends with an error", async () => {
  const [client, server] = await connected();
  const room = client.subscribe("a", { buffer: 2 }), loop = room[Symbol.asyncIterator]();
  const first = loop.next();
  for (let data = 1; data <= 4; data++) {
    server.receive({ type: "message", topic: "a", data });
    if (data === 1) assert.equal((await first).value.data, 1);
  }
  await assert.rejects(loop.next(), { code: "too_slow" });
  assert.deepEqual([room.state, server.sent.at(-1).type], ["ended", "unsubscribe"]);
});

// ---- publish ----

test("publish waits for the reply", async () => {
  const [client, server] = await connected();
  const published = client.publish("a", { text: "hi" });
  const { key, ...fields } = server.sent.at(-1);
  assert.deepEqual(fields, { id: 2, type: "publish", topic: "a", data: { text: "hi" } });
  assert.match(key, /^[0-9a-f]{32}$/);
  server.reply();
  assert.equal(await published, undefined);
  const refused = assert.rejects(client.publish("a", "x"), { code: "not_allowed", retryAfter: undefined });
  server.refuse("not_allowed");
  await refused;
  client.publish("a", new Uint8Array([0, 255])).catch(() => {});
  assert.equal(server.sent.at(-1).base64, "AP8=");
  client.publish("a", new Uint8Array([1, 2]).buffer).catch(() => {});
  assert.equal(server.sent.at(-1).base64, "AQI=");
  await assert.rejects(client.publish("a", 1n), TypeError);
});

test("unacknowledged messages are repeated in order, with their keys", async () => {
  const [client, server] = await connected();
  client.subscribe("room");
  const published = [1, 2, 3].map((data) => client.publish("a", data));
  server.reply({}, "publish"); // the third; the first and second have no reply
  await published[2];
  const sent = server.sent.filter(({ type }) => type === "publish");
  server.end();
  published.push(client.publish("a", 4));
  await pass(1_000);
  const next = (await socket()).accept();
  assert.deepEqual(next.types(), ["connect", "subscribe", "publish", "publish", "publish"]);
  assert.deepEqual(next.sent.slice(2).map(({ data }) => data), [1, 2, 4]);
  assert.match(next.sent[0].session, /^[0-9a-f]{32}$/);
  assert.equal(next.sent[0].session, server.sent[0].session, "which makes the keys valid");
  assert.deepEqual(next.sent.slice(2, 4).map(({ key }) => key), sent.slice(0, 2).map(({ key }) => key));
  for (const { id } of next.sent.slice(2)) next.receive({ type: "ok", id });
  await Promise.all(published);
});

test("a message that the broker cannot take now is repeated, and what follows waits", async () => {
  const [client, server] = await connected();
  const first = client.publish("a", 1);
  const { key } = server.sent.at(-1);
  server.refuse("unavailable");
  const second = client.publish("a", 2);
  assert.equal(server.types().length, 2);
  await pass(1_600);
  assert.deepEqual(server.sent.slice(2).map(({ data }) => data), [1, 2]);
  assert.equal(server.sent[2].key, key);
  server.receive({ type: "ok", id: server.sent[2].id });
  server.receive({ type: "ok", id: server.sent[3].id });
  await Promise.all([first, second]);
});

test("what waits has limits in number and bytes", async () => {
  const client = connect("ws://localhost/live", { maxQueue: 2, maxQueueBytes: 500 });
  clients.push(client);
  client.publish("a", 1).catch(() => {});
  await assert.rejects(client.publish("a", "x".repeat(400)), { code: "queue_full" });
  await assert.rejects(client.publish("a", "é".repeat(200)), { code: "queue_full" });
  client.call("b").catch(() => {});
  await assert.rejects(client.publish("a", 3), { code: "queue_full" });
  (await socket()).accept();
  await pass(1_000);
  client.publish("a", 4).catch(() => {});
});

test("what was answered waits no longer", async () => {
  const [client, server] = await connected({ maxQueueBytes: 500 });
  for (let number = 0; number < 10; number++) {
    const published = client.publish("a", "x".repeat(200));
    server.reply();
    await published;
  }
});

test("publish ends after its timeout, and a late reply does nothing", async () => {
  const [client, server] = await connected();
  const late = assert.rejects(client.publish("a", 1, { timeout: 200 }), { code: "timeout" });
  client.publish("a", 2, { timeout: Infinity }).catch(() => {});
  await pass(300);
  await late;
  server.receive({ type: "ok", id: 2 });
  assert.equal(client.state, "open");
});

// ---- call ----

test("call returns the result of the server, or its error", async () => {
  const [client, server] = await connected();
  const result = client.call("members", { room: "tea" });
  assert.deepEqual(server.sent.at(-1), { id: 2, type: "call", method: "members", params: { room: "tea" } });
  server.reply({ result: ["ana"] });
  assert.deepEqual(await result, ["ana"]);
  const error = assert.rejects(client.call("members"), { code: "rate_limited", message: "slow", retryAfter: 3000 });
  server.refuse("rate_limited", "call", { message: "slow", retry_after: 3 });
  await error;
});

test("a call that was sent fails with the connection; one that was not sent waits", async () => {
  const [client, server] = await connected();
  const sent = assert.rejects(client.call("a"), { code: "connection_lost" });
  server.end();
  await sent;
  const waiting = client.call("b");
  await pass(1_000);
  const next = (await socket()).accept();
  next.reply({ result: 1 });
  assert.equal(await waiting, 1);
});

// ---- the end ----

test("close ends everything", async () => {
  const [client, server] = await connected();
  const states = record(client, "state");
  const room = client.subscribe("a");
  const published = assert.rejects(client.publish("a", 1), { code: "closed" });
  client.close();
  client.close();
  await published;
  assert.deepEqual(states, [["state", "closed"]]);
  assert.deepEqual([client.reason.code, room.state, server.closed], ["closed", "ended", 1000]);
  await assert.rejects(client.publish("a", 1), { code: "closed" });
  await assert.rejects(client.call("a"), { code: "closed" });
  const errors = record(client.subscribe("b"), "error");
  await settle();
  assert.equal(errors[0][1].code, "closed");
  room.track(1);
  client.reconnect();
  await pass(60_000);
  assert.equal(await socket(), server);
});

test("an exception of a listener stops neither the client nor other listeners", async (t) => {
  const thrown = [];
  t.mock.method(globalThis, "setTimeout", (callback) => thrown.push(callback));
  const [client, server] = await connected();
  const found = [];
  const room = client.subscribe("a", () => { throw new Error("of the program"); });
  const remove = room.on("message", ({ data }) => found.push(data));
  server.receive({ type: "message", topic: "a", data: 1 });
  remove();
  server.receive({ type: "message", topic: "a", data: 2 });
  assert.deepEqual([client.state, found], ["open", [1]]);
  assert.throws(thrown.at(-1), /of the program/);
});
