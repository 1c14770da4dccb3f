/** The connection: attempts and pauses, close codes, refusals, tokens, silence, clocks, and events of the page. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { connect } from "../../src/pywsapp/browser/pywsapp.js";
import { install, pass, requests, settle, socket, sockets, statuses, uninstall } from "./fake.mjs";

const clients = [];
/** The errors of all clients, which would be printed otherwise. */
const errors = [];

beforeEach(() => {
  install();
  errors.length = 0;
});
afterEach(() => {
  for (const client of clients.splice(0)) client.close();
  for (const name of ["document", "location", "addEventListener"]) delete globalThis[name];
  uninstall();
});

function client(options = {}, url = "ws://localhost/live") {
  const made = connect(url, { fallback: false, ...options });
  made.on("error", (error) => errors.push(error.code));
  clients.push(made);
  return made;
}

async function connected(options) {
  const made = client(options);
  return [made, (await socket()).accept()];
}

/** Return how long it takes until the next attempt, with the longest pauses. */
async function pause(limit = 40_000) {
  const { length } = sockets;
  for (let passed = 0; passed <= limit; passed += 100) {
    if (sockets.length > length) return passed;
    await pass(100);
  }
  return undefined;
}

test("URLs are relative to the page, and have its security", async () => {
  assert.throws(() => connect("/live"), TypeError);
  globalThis.location = { href: "https://chat.example/rooms/tea?x=1#top" };
  client({}, "../live?a=1");
  client({}, "http://other.example:8080/live#x");
  client({}, new URL("wss://third.example/"));
  await settle();
  const urls = ["wss://chat.example/live?a=1", "ws://other.example:8080/live", "wss://third.example/"];
  assert.deepEqual(sockets.map(({ url }) => url), urls);
  assert.equal(sockets[0].protocol, "pywsapp.topics.v1");
  assert.throws(() => connect("ftp://other.example/"), TypeError);
});

test("states, and what the server says of the connection", async () => {
  const made = client(), states = [];
  made.on("state", (state) => states.push([state, made.state, made.reason?.code]));
  assert.deepEqual([made.state, made.reason, made.id, made.user], ["connecting", null, null, null]);
  (await socket()).accept({ user: "ana" });
  assert.deepEqual([made.state, made.id, made.user], ["open", "c1", "ana"]);
  sockets[0].end(1006);
  assert.equal(made.reason.closeCode, 1006);
  await pass(600);
  sockets[1].accept({ client: "c2" });
  assert.deepEqual([made.id, made.user, made.reason], ["c2", null, null]);
  assert.deepEqual(states, [
    ["open", "open", undefined], ["waiting", "waiting", "connection_lost"],
    ["connecting", "connecting", "connection_lost"], ["open", "open", undefined],
  ]);
});

test("pauses double up to a limit, and are random", async () => {
  client();
  await settle();
  const pauses = [];
  for (let number = 0; number < 9; number++) {
    sockets.at(-1).end();
    pauses.push(await pause());
  }
  assert.deepEqual(pauses, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
  mock.method(Math, "random", () => 0.25);
  sockets.at(-1).end();
  assert.equal(await pause(), 7500);
});

test("a connection that was open for a while starts with a short pause again; others do not", async () => {
  const [, server] = await connected();
  server.end();
  assert.equal(await pause(), 500);
  sockets.at(-1).accept().end();
  assert.equal(await pause(), 1000);
  sockets.at(-1).accept();
  await pass(10_100);
  sockets.at(-1).end(1000);
  assert.equal(await pause(), 500);
});

test("an attempt has a time limit, which includes the token", async () => {
  const made = client({ connectTimeout: 1_000 });
  await pass(1_100);
  assert.deepEqual([sockets[0].closed, made.state], [1000, "waiting"]);
  client({ connectTimeout: 1_000, token: () => new Promise(() => {}) });
  const { length } = sockets;
  await pass(5_000);
  assert.equal(clients[1].reason.message, "the server did not answer in time");
  assert.ok(sockets.slice(length).every(({ url }) => url === sockets[0].url));
});

for (const code of [1002, 1003, 1007, 1008, 1009, 1010, 3500, 3999]) {
  test(`close code ${code} is for good`, async () => {
    const [made, server] = await connected();
    server.end(code, "why");
    assert.deepEqual([made.state, made.reason.code, made.reason.message], ["closed", "disconnected", "why"]);
    assert.equal(made.reason.closeCode, code);
    assert.deepEqual(errors, ["disconnected"]);
    assert.equal(await pause(), undefined);
  });
}

for (const [code, expected] of [[1000, 500], [1001, 500], [1006, 500], [1011, 500], [3000, 500], [3499, 500], [4000, 500], [1012, 5000], [1013, 5500]]) {
  test(`after close code ${code} there is an attempt within ${expected} ms`, async () => {
    const [, server] = await connected();
    server.end(code);
    assert.equal(await pause(), expected);
    assert.deepEqual(errors, []);
  });
}

test("`disconnect` says whether and when to come back", async () => {
  const [made, server] = await connected();
  server.receive({ type: "disconnect", code: 1001, reason: "moving", reconnect: 20 });
  server.end(1001);
  assert.deepEqual([made.reason.message, await pause()], ["moving", 25_000]);
  sockets.at(-1).accept();
  sockets.at(-1).receive({ type: "disconnect", code: 4401, reason: "expired", reconnect: 0 });
  sockets.at(-1).end(4401);
  assert.ok((await pause()) <= 100);
  sockets.at(-1).accept();
  sockets.at(-1).receive({ type: "disconnect", code: 4000, reason: "banned", reconnect: false });
  sockets.at(-1).end(4000);
  assert.deepEqual([made.state, made.reason.message], ["closed", "banned"]);
});

test("a closed client reports to its error listener, or to the console", async (t) => {
  const printed = t.mock.method(console, "error", () => {});
  clients.push(connect("ws://localhost/live"));
  (await socket()).accept().end(1008);
  assert.equal(printed.mock.calls[0].arguments[0].closeCode, 1008);
});

test("a WebSocket that the browser does not allow closes the client", async () => {
  globalThis.WebSocket = class { constructor() { throw new Error("insecure"); } };
  const made = client();
  await settle();
  assert.deepEqual([made.state, made.reason.code], ["closed", "refused"]);
});

// ---- tokens ----

test("each attempt has a new token", async () => {
  let number = 0;
  const [, server] = await connected({ token: async () => `t${++number}` });
  assert.equal(server.sent[0].token, "t1");
  server.end();
  await pass(600);
  sockets[1].open();
  const [{ session, ...fields }] = sockets[1].sent;
  assert.deepEqual(fields, { id: 2, type: "connect", token: "t2" });
});

test("a client that is closed while it waits for a token connects no more", async () => {
  let give;
  const made = client({ token: () => new Promise((resolve) => (give = resolve)) });
  await settle();
  made.close();
  give("t");
  await settle();
  assert.deepEqual(sockets, []);
});

test("without a token `connect` has none", async () => {
  const [, server] = await connected({ token: () => null });
  assert.deepEqual(Object.keys(server.sent[0]).sort(), ["id", "session", "type"]);
});

test("a token function that fails is asked again later", async () => {
  let number = 0;
  const made = client({ token: () => { if (++number < 3) throw new Error("offline"); return "t"; } });
  await settle();
  assert.deepEqual([made.state, made.reason.code, errors], ["waiting", "token_failed", ["token_failed"]]);
  await pass(2_000);
  (await socket()).accept();
  assert.equal(made.state, "open");
});

test("after 4401 there is one attempt at once with a new token", async () => {
  let number = 0;
  const [made, server] = await connected({ token: () => `t${++number}` });
  server.end(4401);
  await pass(100);
  sockets[1].accept();
  assert.equal(sockets[1].sent[0].token, "t2");
  sockets[1].end(4401);
  await pass(100);
  sockets[2].open();
  sockets[2].end(4401, "expired");
  assert.deepEqual([made.state, made.reason.code, made.reason.closeCode], ["closed", "unauthenticated", 4401]);
});

test("a token that the server refuses is replaced once", async () => {
  const [made, server] = await connected({ token: () => "t" });
  server.end(4401);
  for (const closed of [false, true]) {
    if (closed) {
      assert.equal(made.state, "closed");
    } else {
      await pass(100);
      sockets[1].open();
      sockets[1].refuse("unauthenticated");
    }
  }
  assert.equal(made.reason.code, "unauthenticated");
});

test("`expiring` is answered with a new token", async () => {
  let number = 0;
  const [made, server] = await connected({ token: async () => `t${++number}` });
  server.receive({ type: "expiring", expires_in: 30 });
  await settle();
  assert.deepEqual(server.sent.at(-1), { id: 2, type: "refresh", token: "t2" });
  server.refuse("unauthenticated");
  assert.deepEqual([made.state, errors], ["open", ["unauthenticated"]]);
});

test("`connect` that the server cannot answer now is repeated, and others are not", async () => {
  const made = client();
  await settle();
  sockets[0].open();
  sockets[0].refuse("unavailable", "connect", { retry_after: 7 });
  assert.equal(await pause(), 7_000);
  sockets[1].open();
  sockets[1].refuse("invalid_message");
  assert.deepEqual([made.state, made.reason.code], ["closed", "invalid_message"]);
});

// ---- refusals ----

for (const status of [401, 403, 404, 410]) {
  test(`after two failed handshakes status ${status} is for good`, async () => {
    statuses.push(status);
    const made = client({}, "ws://localhost/live?a=1");
    await settle();
    sockets[0].end();
    await settle();
    assert.deepEqual(requests, []);
    await pass(600);
    sockets[1].end();
    await settle();
    assert.deepEqual([made.state, made.reason.code, made.reason.status], ["closed", "refused", status]);
    assert.deepEqual([requests[0].url, requests[0].credentials], ["http://localhost/live?a=1", "include"]);
    assert.deepEqual(errors, ["refused"]);
  });
}

for (const answer of [200, 426, 429, 500, 503, new TypeError("CORS")]) {
  test(`after failed handshakes the client tries again if the answer is ${answer}`, async () => {
    statuses.push(answer, answer);
    const made = client();
    await settle();
    for (let number = 0; number < 4; number++) {
      sockets.at(-1).end();
      await pause();
    }
    assert.deepEqual([made.state, requests.length], ["connecting", 3]);
  });
}

test("status 401 leads to one attempt with a new token", async () => {
  statuses.push(401, 401);
  const made = client({ token: () => "t" });
  await settle();
  for (let number = 0; number < 2; number++) {
    sockets.at(-1).end();
    await pause();
  }
  assert.equal(made.state, "connecting");
  sockets.at(-1).end();
  await settle();
  assert.deepEqual([made.state, made.reason.status], ["closed", 401]);
});

test("a refusal that comes after the connection is open does not count", async () => {
  let answer;
  globalThis.fetch = () => new Promise((resolve) => (answer = resolve));
  const made = client();
  await settle();
  for (let number = 0; number < 2; number++) {
    sockets.at(-1).end();
    await pause();
  }
  sockets.at(-1).accept();
  answer({ status: 403, body: null });
  await settle();
  assert.equal(made.state, "open");
});

// ---- silence and time ----

test("a connection without messages is pinged, and given up without an answer", async () => {
  const [made, server] = await connected();
  await pass(20_000);
  server.receive({ type: "pong" });
  await pass(24_900);
  assert.deepEqual(server.types(), ["connect"]);
  await pass(200);
  assert.deepEqual(server.sent.slice(1), [{ type: "ping" }]);
  await pass(4_000);
  server.receive({ type: "pong" });
  await pass(25_100);
  assert.equal(server.types().length, 3);
  await pass(5_000);
  assert.deepEqual([made.state, made.reason.code, server.closed], ["waiting", "connection_lost", 1000]);
});

test("the server chooses the interval of pings, but not a tiny one", async () => {
  const made = client();
  (await socket()).accept({ ping: 1e-9 });
  await pass(900);
  assert.deepEqual(sockets[0].types(), ["connect"]);
  await pass(200);
  assert.deepEqual(sockets[0].types(), ["connect", "ping"]);
  assert.equal(made.state, "open");
});

/** Let the clock jump while timers stand still, as while a computer sleeps. */
function jump(milliseconds) {
  const now = Date.now();
  mock.method(Date, "now", () => now + milliseconds + (realNow() - now));
}
const realNow = () => new Date().getTime();

for (const hours of [1, -1]) {
  test(`when the clock has moved by ${hours} h, the connection is checked within 5 s`, async () => {
    const [made, server] = await connected();
    await pass(1_000);
    jump(hours * 3_600_000);
    await pass(5_000);
    assert.deepEqual(server.types(), ["connect", "ping"]);
    await pass(5_600);
    assert.deepEqual([made.state, made.reason.code, sockets.length], ["connecting", "connection_lost", 2]);
  });

  test(`when the clock has moved by ${hours} h, an attempt to connect ends`, async () => {
    const made = client({ firstDelay: 60_000, maxDelay: 60_000 });
    await pass(1_000);
    jump(hours * 3_600_000);
    await pass(5_000);
    assert.deepEqual([made.state, sockets[0].closed], ["waiting", 1000]);
  });

  test(`when the clock has moved by ${hours} h, a long pause ends`, async () => {
    const [, server] = await connected();
    for (let number = 0; number < 8; number++) {
      sockets.at(-1).end();
      if (number < 7) await pause();
    }
    assert.equal(clients[0].state, "waiting");
    jump(hours * 3_600_000);
    assert.ok((await pause()) <= 5_000, "instead of 30 s");
    assert.notEqual(sockets.at(-1), server);
  });
}

// ---- the page ----

/** Make the globals of a page; return a function that fires an event. */
function page() {
  const target = new EventTarget();
  globalThis.document = Object.assign(new EventTarget(), { hidden: false });
  globalThis.addEventListener = (...values) => target.addEventListener(...values);
  return (event) => (["visibilitychange", "freeze", "resume"].includes(event) ? document : target).dispatchEvent(new Event(event));
}

for (const event of ["online", "pageshow", "resume", "visibilitychange"]) {
  test(`${event} ends a pause`, async () => {
    const fire = page(), [made, server] = await connected();
    server.end();
    fire(event);
    assert.equal(made.state, "connecting");
    await settle();
    assert.equal(sockets.length, 2);
  });

  test(`${event} does not end a pause that the server wants`, async () => {
    const fire = page(), [made, server] = await connected();
    server.receive({ type: "disconnect", code: 1012, reason: "", reconnect: 600 });
    server.end(1012);
    await pass(60_000);
    fire(event);
    assert.equal(made.state, "waiting");
    made.reconnect();
    assert.equal(made.state, "connecting", "but the user can");
  });

  test(`${event} checks an open connection`, async () => {
    const fire = page(), [made, server] = await connected();
    fire(event);
    fire(event);
    assert.deepEqual(server.types(), ["connect", "ping"]);
    await pass(5_100);
    assert.equal(made.state, "waiting");
  });
}

test("a page that becomes hidden does nothing", async () => {
  const fire = page(), [, server] = await connected();
  document.hidden = true;
  fire("visibilitychange");
  assert.deepEqual(server.types(), ["connect"]);
});

test("offline checks the connection, because the network can be another one", async () => {
  const fire = page(), [made, server] = await connected();
  fire("offline");
  server.receive({ type: "pong" });
  await pass(6_000);
  assert.equal(made.state, "open");
  fire("offline");
  await pass(5_100);
  assert.equal(made.state, "waiting");
});

for (const [away, back] of [["pagehide", "pageshow"], ["freeze", "resume"]]) {
  test(`${away} closes the connection until ${back}`, async () => {
    const fire = page(), [made, server] = await connected();
    const call = assert.rejects(made.call("a"), { code: "connection_lost" });
    fire(away);
    await call;
    assert.deepEqual([server.closed, made.state, made.reason.code], [1000, "waiting", "suspended"]);
    fire(back);
    await settle();
    sockets[1].accept();
    assert.equal(made.state, "open");
  });
}

test("a closed client listens to the page no longer", async () => {
  const fire = page(), [made] = await connected();
  made.close();
  for (const event of ["online", "pagehide", "pageshow", "freeze", "resume"]) fire(event);
  await pass(60_000);
  assert.deepEqual([made.state, sockets.length], ["closed", 1]);
});

test("reconnect connects now, or checks the connection", async () => {
  const [made, server] = await connected();
  made.reconnect();
  assert.deepEqual(server.types(), ["connect", "ping"]);
  server.end();
  made.reconnect();
  await settle();
  assert.equal(sockets.length, 2);
});
