/** The client beside a real server, over the network. */

import assert from "node:assert/strict";
import { after, afterEach, before, test as untimed } from "node:test";

import { connect } from "../../src/pywsapp/browser/pywsapp.js";
import { DISCONNECTS, FAST, heardOverDisconnects, MESSAGES, once, Server, subscribed, TIMEOUT } from "./server.mjs";

const test = (name, body) => untimed(name, { timeout: TIMEOUT }, body);
const server = new Server();
const clients = [];

before(() => server.start());
after(() => server.signal("SIGKILL"));
afterEach(() => clients.splice(0).forEach((client) => client.close()));

async function client({ path = "/live", ...options } = {}) {
  const made = connect(server.url + path, { ...FAST, ...options });
  clients.push(made);
  await once(made, "state", (state) => state === "open" || state === "closed");
  return made;
}

test("messages, bytes, presence, calls and errors", async () => {
  const [ana, ben] = [await client(), await client()], heard = [];
  const [room] = await subscribed(ana, "room:tea", { presence: true, track: { name: "Ana" } }, (message) => heard.push(message));
  assert.deepEqual([...room.present], [[ana.id, { name: "Ana" }]]);
  const arrived = once(room, "presence", ({ joined }) => joined.has(ben.id));
  await subscribed(ben, "room:tea", { track: "Ben" });
  await arrived;
  assert.equal(room.present.get(ben.id), "Ben");
  await ben.publish("room:tea", { text: "hi" });
  await ben.publish("room:tea", new Uint8Array([0, 1, 255]));
  await assert.rejects(ben.publish("room:tea", "refuse"), { code: "impolite", message: "say something else" });
  await assert.rejects(ben.publish("closed:tea", "a"), { code: "not_allowed" });
  await assert.rejects(ben.publish("room:tea", null), { code: "invalid_message" });
  assert.equal(await ben.call("add", { a: 1, b: 2 }), 3);
  await assert.rejects(ben.call("add", { a: "x" }), { code: "invalid_params" });
  await assert.rejects(ben.call("subtract"), { code: "unknown_method" });
  const greeting = once(ben, "message");
  await ben.call("hello");
  assert.deepEqual((await greeting)[0].data, { hello: null });
  assert.deepEqual(heard.map(({ data }) => data), [{ text: "hi" }, new Uint8Array([0, 1, 255])]);
  assert.equal(room.position, heard[1].position);
  const left = once(room, "presence", ({ left: keys }) => keys.includes(ben.id));
  ben.close();
  await left;
});

test("a topic can be left and subscribed again at once", async () => {
  const made = await client(), heard = [];
  for (let number = 0; number < 20; number++) made.subscribe("room:again", { since: null }).unsubscribe();
  await subscribed(made, "room:again", {}, ({ data }) => heard.push(data));
  await made.publish("room:again", "once");
  await made.call("add", { a: 1, b: 1 });
  assert.deepEqual(heard, ["once"]);
});

test("filters, and the newest message for each value of a field", async () => {
  const made = await client(), heard = [];
  const options = { filter: { kind: ["tea", 1] }, newest: "kind" };
  await subscribed(made, "room:kinds", options, ({ data }) => heard.push(data));
  for (const kind of ["tea", "milk", 1, true]) await made.publish("room:kinds", { kind });
  await made.call("add", { a: 1, b: 1 });
  assert.deepEqual(heard, [{ kind: "tea" }, { kind: 1 }]);
  const [error] = await once(made.subscribe("room:others", { filter: { price: [1] } }), "error");
  assert.equal(error.code, "filter_not_allowed");
});

test("a refused subscription, and one that the server ends", async () => {
  const made = await client();
  const [error] = await once(made.subscribe("closed:tea"), "error");
  assert.equal(error.code, "not_allowed");
  const [room] = await subscribed(made, "room:tea"), ended = once(room, "unsubscribed");
  await server.command("end=room:tea");
  assert.equal((await ended)[0].code, "not_allowed");
});

test("what came while the client was away comes first", async () => {
  const made = await client(), heard = [];
  await subscribed(made, "room:away", {}, ({ data }) => heard.push(data));
  const back = once(made, "state", (state) => state === "open");
  await server.command("drop=1006&say=room:away&count=3");
  await back;
  await server.command("say=room:away&count=1");
  await made.call("add", { a: 1, b: 1 });
  assert.deepEqual(heard.length, 4);
});

test("guards, unknown paths and close codes", async () => {
  const errors = console.error;
  console.error = () => {};
  try {
    assert.equal((await client({ path: "/guarded" })).reason.status, 401);
    assert.equal((await client({ path: "/absent" })).reason.status, 404);
    assert.equal((await client({ path: "/private" })).reason.code, "unauthenticated");
    const made = await client(), closed = once(made, "state", (state) => state === "closed");
    await server.command("drop=1008");
    await closed;
    assert.deepEqual([made.reason.code, made.reason.message, made.reason.closeCode], ["disconnected", "dropped", 1008]);
  } finally {
    console.error = errors;
  }
});

test("tokens are refreshed in place, and replaced when they have expired", async () => {
  let asked = 0;
  const seconds = [4, 60];
  const made = await client({ path: "/private", token: () => `ana.${Math.floor(Date.now() / 1000) + seconds[Math.min(asked++, 1)]}` });
  assert.equal(made.user, "ana");
  const states = [];
  made.on("state", (state) => states.push(state));
  while (asked < 2) await new Promise((resolve) => setTimeout(resolve, 50));
  await made.call("add", { a: 1, b: 1 });
  assert.deepEqual(states, []);
  const before = asked, back = once(made, "state", (state) => state === "open");
  await server.command("drop=4401");
  await back;
  assert.deepEqual([asked, states], [before + 1, ["waiting", "connecting", "open"]]);
});

test("a server that freezes is noticed, and found again", async () => {
  const made = await client({ connectTimeout: 1_000, pongTimeout: 500 });
  await subscribed(made, "room:frozen");
  const lost = once(made, "state");
  await server.signal("SIGSTOP");
  assert.deepEqual([(await lost)[0], made.reason.message], ["waiting", "the server does not answer any more"]);
  const published = made.publish("room:frozen", "later");
  await server.signal("SIGCONT");
  await published;
});

test("a server that restarts is waited for, and the client says that the history is lost", async () => {
  const made = await client();
  await made.publish("room:tea", "before");
  const [room] = await subscribed(made, "room:tea", { since: null });
  const waiting = once(made, "state"), lost = once(room, "lost"), again = once(room, "subscribed");
  await server.signal("SIGTERM"); // the close code is checked in Chromium: the WebSocket of Node.js 20 can lose it
  assert.equal((await waiting)[0], "waiting");
  const published = made.publish("room:tea", "meanwhile");
  await server.start();
  made.reconnect();
  await Promise.all([published, lost]);
  assert.deepEqual(await again, [false]);
});

test(`${MESSAGES} messages over ${DISCONNECTS} disconnects: none is missing, none comes twice`, async () => {
  const [writer, reader] = [await client(), await client()];
  let opened = 0;
  reader.on("state", (state) => { opened += state === "open"; });
  const heard = await heardOverDisconnects(server, writer, reader, "room:count");
  assert.deepEqual(heard, Array.from({ length: MESSAGES }, (_, number) => number));
  assert.equal(opened, DISCONNECTS);
});

