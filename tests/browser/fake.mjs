/** A server in memory, and a clock that moves on request, for the tests of the browser client. */

import { mock } from "node:test";

import "../../src/pywsapp/browser/pywsapp-fallback.js";

/** The sockets that clients have made, in order. */
export const sockets = [];
/** The statuses that `fetch` answers, in order; an Error is thrown. Later calls get 426. */
export const statuses = [];
/** The requests of `fetch`. */
export const requests = [];

class FakeWebSocket {
  constructor(url, protocol) {
    Object.assign(this, { url: String(url), protocol, sent: [], closed: null });
    sockets.push(this);
  }
  send(text) {
    this.sent.push(JSON.parse(text));
  }
  close(code) {
    this.closed ??= code;
  }

  // ---- what the server does ----

  open() {
    this.onopen();
  }
  receive(message) {
    this.onmessage?.({ data: typeof message === "string" ? message : JSON.stringify(message) });
  }
  /** Accept the handshake and the `connect` message. */
  accept(fields = {}) {
    this.open();
    this.reply({ client: "c1", ping: 25, ...fields });
    return this;
  }
  /** Answer the last message, or the last one of a type. */
  reply(fields = {}, type) {
    const { id } = type ? this.last(type) : this.sent.at(-1);
    this.receive({ type: "ok", id, ...fields });
  }
  refuse(code, type, fields = {}) {
    this.reply({ type: "error", code, message: code, ...fields }, type);
  }
  end(code = 1006, reason = "") {
    this.onclose?.({ code, reason });
  }
  last(type) {
    return this.sent.findLast((message) => message.type === type);
  }
  types() {
    return this.sent.map((message) => message.type);
  }
}

/** Replace the globals that the client uses. Each pause of the client is as long as it can be. */
export function install() {
  sockets.length = statuses.length = requests.length = 0;
  mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_800_000_000_000 });
  mock.method(Math, "random", () => 1);
  globalThis.WebSocket = FakeWebSocket;
  globalThis.fetch = async (url, options) => {
    requests.push({ url: String(url), ...options });
    const status = statuses.shift() ?? 426;
    if (status instanceof Error) throw status;
    return { status, body: null };
  };
}

export function uninstall() {
  mock.timers.reset();
  mock.restoreAll();
}

/** Let promises that can go on do so, also those of a module that is loaded already. */
export async function settle() {
  for (let turn = 0; turn < 3; turn++) await new Promise((resolve) => setImmediate(resolve));
}

/** Move the clock in small steps. */
export async function pass(milliseconds) {
  for (let passed = 0; passed < milliseconds; passed += 100) {
    mock.timers.tick(Math.min(100, milliseconds - passed));
    await settle();
  }
}

/** Return the newest socket, when the client has made it. */
export async function socket() {
  await settle();
  return sockets.at(-1);
}
