/** The client beside a real server, in a network that blocks WebSockets. */

import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, test as untimed } from "node:test";

import { connect } from "../../src/pywsapp/browser/pywsapp.js";
import { DISCONNECTS, FAST, heardOverDisconnects, MESSAGES, once, Server, subscribed, TIMEOUT } from "./server.mjs";

const test = (name, body) => untimed(name, { timeout: TIMEOUT }, body);
const server = new Server();
const clients = [];
const realFetch = globalThis.fetch;
let attempts = 0; // to open WebSockets
let requests = []; // by method
const batches = new Set(); // with messages that are no ping; a repeated one counts once
let loseAnswers = false; // whether the answers to every third POST request are lost
let busy = 0; // how many POST requests get status 429
let isFull = false; // whether the storage of the tab takes nothing more

/** A WebSocket behind a proxy that answers with an error. */
class Blocked {
  constructor() {
    attempts++;
    setTimeout(() => this.onclose?.({ code: 1006, reason: "" }));
  }
  close() {}
}

globalThis.sessionStorage = new Proxy({}, {
  set(target, name, value) {
    if (isFull) throw new DOMException("it is full", "QuotaExceededError");
    return Reflect.set(target, name, value);
  },
});

globalThis.fetch = async (url, options = {}) => {
  const { method = "GET" } = options;
  if (url.includes("/command")) return realFetch(url, options);
  requests.push(method);
  if (method === "POST") {
    const { number, messages } = JSON.parse(options.body);
    if (messages.some((text) => JSON.parse(text).type !== "ping")) batches.add(`${options.headers["Pywsapp-Stream"]} ${number}`);
  }
  if (method === "POST" && busy && busy--) return new Response(null, { status: 429 });
  const response = await realFetch(url, options);
  if (loseAnswers && method === "POST" && requests.length % 3 === 0) throw new TypeError("the answer is lost");
  return response;
};

before(() => server.start());
after(() => server.signal("SIGKILL"));
beforeEach(() => {
  attempts = 0;
  requests = [];
  loseAnswers = false;
  isFull = false;
});
afterEach(() => clients.splice(0).forEach((client) => client.close()));

function made({ path = "/live", ...options } = {}) {
  const client = connect(server.url + path, { ...FAST, WebSocket: Blocked, ...options });
  clients.push(client);
  return client;
}

async function opened(options) {
  const client = made(options);
  await once(client, "state", (state) => state === "open" || state === "closed");
  return client;
}

test("messages, bytes, presence, calls and errors, as over a WebSocket", async () => {
  const [ana, ben] = [await opened(), await opened({ WebSocket: globalThis.WebSocket })], heard = [];
  const [room] = await subscribed(ana, "room:tea", { presence: true, track: 1 }, ({ data }) => heard.push(data));
  const arrived = once(room, "presence", ({ joined }) => joined.has(ben.id));
  await subscribed(ben, "room:tea", { track: 2 });
  await arrived;
  await ben.publish("room:tea", { text: "hällo\n" });
  await ana.publish("room:tea", new Uint8Array([0, 1, 255]));
  await assert.rejects(ana.publish("room:tea", "refuse"), { code: "impolite" });
  assert.equal(await ana.call("add", { a: 1, b: 2 }), 3);
  const greeting = once(ana, "message");
  await ana.call("hello");
  assert.deepEqual((await greeting)[0].data, { hello: null });
  assert.deepEqual(heard, [{ text: "hällo\n" }, new Uint8Array([0, 1, 255])]);
  assert.equal(room.present.get(ben.id), 2);
  assert.ok(attempts >= 2);
});

test("messages that are sent at once go into few requests, and large ones are split", async () => {
  const client = await opened({ maxQueueBytes: 10_000_000 });
  const before = batches.size;
  await Promise.all(Array.from({ length: 250 }, (_, number) => client.call("add", { a: number, b: 1 })));
  assert.equal(batches.size - before, 3);
  await Promise.all(Array.from({ length: 4 }, () => client.publish("plain", '"'.repeat(40_000))));
  assert.equal(batches.size - before, 7);
});

test("a message that is too large closes the client, as over a WebSocket", async () => {
  const client = await opened({ maxQueueBytes: 10_000_000 });
  client.on("error", () => {});
  await assert.rejects(client.publish("plain", "x".repeat(2_000_000)), { code: "closed" });
  assert.deepEqual([client.state, client.reason.closeCode], ["closed", 1009]);
  const other = await opened({ maxQueueBytes: 10_000_000 });
  other.on("error", () => {});
  await assert.rejects(other.publish("plain", "x".repeat(4_000_000)), { code: "closed" }); // more than the body may have
  assert.equal(other.reason.closeCode, 1009);
});

test("a token is sent in the first message and not in the URL", async () => {
  const token = () => `ana.${Math.floor(Date.now() / 1000) + 3600}`;
  const client = await opened({ path: "/private", token });
  assert.equal(await client.call("hello"), "ana");
});

test("a guard refuses the client", async () => {
  const client = made({ path: "/guarded" });
  client.on("error", () => {});
  await once(client, "state", (state) => state === "closed");
  assert.equal(client.reason.status, 401);
});

test("the next connection uses the fallback at once, and a WebSocket again after some time", async () => {
  const client = await opened(), before = attempts;
  const comeBack = async () => {
    const back = once(client, "state", (state) => state === "open");
    await server.command("drop=1006");
    await back;
  };
  await comeBack();
  assert.equal(attempts, before);
  const { now } = Date;
  Date.now = () => now() + 3_600_000;
  try {
    await comeBack();
  } finally {
    Date.now = now;
  }
  assert.ok(attempts >= before + 2);
});

test("a route without the fallback is asked once", async () => {
  const client = made({ path: "/sockets" });
  while (attempts < 8) await once(client, "state");
  assert.ok(requests.length <= 1 + 7, `${requests.length} requests`);
  assert.ok(["waiting", "connecting"].includes(client.state));
});

test("a client whose earlier messages wait tries again, and stays connected", async () => {
  const client = await opened(), { setTimeout } = globalThis, states = [];
  client.on("state", (state) => states.push(state));
  globalThis.setTimeout = (call, delay, ...more) => setTimeout(call, delay < 6_000 ? delay / 100 : delay, ...more);
  try {
    busy = 12;
    assert.equal(await client.call("add", { a: 1, b: 2 }), 3);
    assert.deepEqual(states, []);
  } finally {
    busy = 0;
    globalThis.setTimeout = setTimeout;
  }
});

test("a storage that is full prevents nothing", async () => {
  isFull = true;
  const client = await opened();
  assert.equal(await client.call("add", { a: 1, b: 2 }), 3);
});

test("the option fallback: false keeps to WebSockets", async () => {
  const client = made({ fallback: false });
  while (attempts < 5) await once(client, "state");
  assert.notEqual(client.state, "open");
});

test("the server sees that a client has closed", async () => {
  const client = await opened();
  client.close();
  let count = "";
  while (count !== "0") count = await (await realFetch(server.url.replace("ws", "http") + "/connections")).text();
});

for (const answers of ["come", "are lost"]) {
  test(`${MESSAGES} messages over ${DISCONNECTS} disconnects, if answers ${answers}: none is missing or doubled`, async () => {
    const [writer, reader] = [await opened(), await opened()];
    const tried = attempts;
    loseAnswers = answers === "are lost";
    const heard = await heardOverDisconnects(server, writer, reader, `room:${answers.length}`);
    assert.deepEqual(heard, Array.from({ length: MESSAGES }, (_, number) => number));
    assert.equal(attempts, tried);
  });
}
