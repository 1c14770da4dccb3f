/**
 * The browser client of pywsapp. `pywsapp.d.ts` documents it, docs/reference/topics-protocol.md the protocol.
 *
 * One timer drives a client: `#tick` compares `#deadline` with the clock often, so a sleep is noticed.
 *
 * @import {Client, ConnectOptions, Message, PublishOptions, RequestOptions} from "./pywsapp.d.ts"
 * @import {State, SubscribeOptions, Subscription} from "./pywsapp.d.ts"
 * @typedef {Record<string, any>} Fields
 */

const PROTOCOL = "pywsapp.topics.v1";
const TICK = 5_000; // how often the clock is looked at, at least
const JUMP = 10_000; // a timer that is later than this has slept
const STABLE = 10_000; // a connection of this age was no failure
const MAX_TIMER = 2 ** 31 - 1; // the longest pause of setTimeout
const FINAL = [1002, 1003, 1007, 1008, 1009, 1010];
const REFUSALS = [401, 403, 404, 410];
const REPEATED = ["unavailable", "outcome_unknown"];

export class PywsappError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {{retryAfter?: number, closeCode?: number, status?: number}} [details]
   */
  constructor(code, message, { retryAfter, closeCode, status } = {}) {
    super(message);
    this.name = "PywsappError";
    this.code = code;
    this.retryAfter = retryAfter;
    this.closeCode = closeCode;
    this.status = status;
  }
}

/** @type {typeof import("./pywsapp.d.ts").connect} */
export const connect = (url, options = {}) => new Connection(url, options);

class Emitter {
  /** @type {Map<string, Set<Function>>} */ #listeners = new Map();

  /** @param {string} event @param {Function} listener */
  on(event, listener) {
    const listeners = this.#listeners.get(event) ?? new Set();
    this.#listeners.set(event, listeners.add(listener));
    return () => void listeners.delete(listener);
  }

  /** @param {string} event @param {...unknown} values @returns {boolean} whether there are listeners */
  _emit(event, ...values) {
    const listeners = [...(this.#listeners.get(event) ?? [])];
    for (const listener of listeners) {
      try {
        listener(...values);
      } catch (error) {
        setTimeout(() => { throw error; }); // the page reports it, and the client goes on
      }
    }
    return listeners.length > 0;
  }
}

/** @implements {Client} */
class Connection extends Emitter {
  /** @type {State} */ state = "connecting";
  /** @type {PywsappError | null} */ reason = null;
  /** @type {string | null} */ id = null;
  /** @type {string | null} */ user = null;

  #url; #options;
  #session = randomText(); // with it the server knows the keys of messages again after a reconnect
  /** @type {any} */ #socket = null;
  #attempt = {}; // another object for each attempt to connect
  #refused = 0; // handshakes in a row that did not succeed
  /** @type {any} */ #findSocket; // returns what takes the place of WebSockets that a network blocks
  #lost = 0; // attempts and short connections that ended in a row
  #hasNewToken = false; // whether this attempt answers a lack of credentials
  /** @type {Fields | null} */ #order = null; // the `disconnect` message

  /** @type {any} */ #timer;
  #due = 0; // when the timer should run
  #deadline = 0; // when the timer should do something; what, depends on the state
  #earliest = 0; // the server wants no attempt before this time
  #opened = 0;
  #heard = 0; // when the last message came
  #interval = 0; // the time without a message after which a ping is sent
  #awaitsPong = false;

  #ids = 0;
  /** @type {Map<number, (reply: Fields) => void>} */ #replies = new Map();
  /** @type {Set<Fields>} */ #queue = new Set(); // each `publish` and `call` without a reply
  #queueBytes = 0;
  #isPaused = false; // whether the server wants the queue to wait
  /** @type {Map<string, Room>} */ #rooms = new Map();
  /** @type {Map<string, number>} */ #leaving = new Map(); // the last `unsubscribe` for a topic, until its reply
  #page = new AbortController(); // removes the listeners of the page

  /** @param {string | URL} url @param {ConnectOptions} options */
  constructor(url, options) {
    super();
    this.#url = new URL(url, globalThis.location?.href);
    this.#url.protocol = this.#url.protocol.replace(/^http/, "ws");
    this.#url.hash = "";
    if (!/^wss?:$/.test(this.#url.protocol)) throw new TypeError(`${url} is no URL of a WebSocket`);
    this.#options = {
      connectTimeout: 10_000, pongTimeout: 5_000, firstDelay: 500, maxDelay: 30_000,
      maxQueue: 1_000, maxQueueBytes: 1_048_576, fallback: true, ...options,
    };
    this.#listenToPage();
    this.#open();
  }

  // ---- the interface ----

  /**
   * @param {string} topic
   * @param {SubscribeOptions | ((message: any) => void)} [options]
   * @param {(message: any) => void} [listener]
   * @returns {any}
   */
  subscribe(topic, options = {}, listener) {
    if (typeof options === "function") [options, listener] = [{}, options];
    if (this.#rooms.has(topic)) throw new PywsappError("already_subscribed", `there is a subscription to ${topic}`);
    const room = new Room(this, topic, options);
    if (listener) room.on("message", listener);
    if (this.state === "closed") queueMicrotask(() => room._end("error", this.#closed()));
    else this.#rooms.set(topic, room);
    if (this.state === "open") this.#join(room);
    return room;
  }

  /** @param {string} topic @param {unknown} data @param {PublishOptions} [options] */
  async publish(topic, data, { key = randomText(), ...options } = {}) {
    const isBytes = data instanceof Uint8Array || data instanceof ArrayBuffer;
    const text = isBytes && Array.from(new Uint8Array(data), (byte) => String.fromCharCode(byte)).join("");
    const content = isBytes ? { base64: btoa(text || "") } : { data };
    await this.#ask({ type: "publish", topic, key, ...content }, options);
  }

  /** @param {string} method @param {object} [params] @param {RequestOptions} [options] @returns {Promise<any>} */
  async call(method, params, options) {
    return (await this.#ask({ type: "call", method, params }, options)).result;
  }

  reconnect() {
    this.#earliest = 0;
    this.#wake();
  }

  close() {
    this.#finish(new PywsappError("closed", "the program has closed the client"));
  }

  // ---- requests ----

  /** @param {Fields} fields @param {RequestOptions} [options] @returns {Promise<Fields>} */
  #ask(fields, { timeout = 30_000 } = {}) {
    if (this.state === "closed") throw this.#closed();
    // servers refuse halves of surrogate pairs
    const { type } = fields, text = JSON.stringify(fields, (_, part) => part?.toWellFormed?.() ?? part);
    const size = new TextEncoder().encode(text).length;
    if (this.#queue.size >= this.#options.maxQueue || this.#queueBytes + size > this.#options.maxQueueBytes)
      throw new PywsappError("queue_full", `${this.#queue.size} messages wait already`);
    return new Promise((resolve, reject) => {
      /** @type {any} */ let timer;
      const settling = (/** @type {(value: any) => void} */ settle) => (/** @type {any} */ value) => {
        clearTimeout(timer);
        if (this.#queue.delete(waiting)) this.#queueBytes -= size;
        settle(value);
      };
      const waiting = { type, text, isSent: false, resolve: settling(resolve), reject: settling(reject) };
      const late = () => waiting.reject(new PywsappError("timeout", `there was no reply in ${timeout} ms`));
      if (timeout < MAX_TIMER) timer = setTimeout(late, timeout);
      this.#queue.add(waiting);
      this.#queueBytes += size;
      this.#flush();
    });
  }

  #flush() {
    if (this.state !== "open" || this.#isPaused) return;
    for (const waiting of this.#queue) {
      if (waiting.isSent) continue;
      waiting.isSent = true;
      this.#request(waiting.text, (reply, error) => {
        if (!error) waiting.resolve(reply);
        else if (waiting.type === "call" || !REPEATED.includes(error.code)) waiting.reject(error);
        else { // its key makes repeating safe
          waiting.isSent = false;
          this.#isPaused = true;
          this.#later(error, () => { this.#isPaused = false; this.#flush(); });
        }
      });
    }
  }

  /** @param {PywsappError} error @param {() => void} repeat called when the server wants it, on the same connection */
  #later({ retryAfter = 1_000 }, repeat) {
    const attempt = this.#attempt, pause = Math.min(retryAfter, MAX_TIMER / 2) * (1 + Math.random() / 2);
    setTimeout(() => this.#attempt === attempt && repeat(), pause);
  }

  /** @param {Fields | string} fields @param {(reply: Fields, error?: PywsappError) => void} onReply */
  #request(fields, onReply) {
    const id = ++this.#ids, text = typeof fields === "string" ? fields : JSON.stringify(fields);
    this.#replies.set(id, (reply) => onReply(reply, errorOf(reply)));
    this.#socket?.send(`{"id":${id},${text.slice(1)}`);
    return id;
  }

  // ---- subscriptions ----

  /** @param {Room} room */
  #join(room) {
    const { topic } = room, isCurrent = () => this.#rooms.get(topic) === room;
    this.#request(room._fields(), (reply, error) => {
      if (!isCurrent()) return;
      if (!error) room._joined(reply);
      else if (REPEATED.includes(error.code)) this.#later(error, () => isCurrent() && this.#join(room));
      else if (room._forget(error)) isCurrent() && this.#join(room);
      else this.#remove(room, "error", error);
    });
  }

  /** @param {Room} room @param {string} event @param {PywsappError} error why the server has ended it */
  #remove(room, event, error) {
    this.#rooms.delete(room.topic);
    room._end(event, error) || this.#fail(error);
  }

  /** @param {Room} room */
  _leave({ topic }) {
    this.#rooms.delete(topic);
    if (this.state !== "open") return;
    const id = this.#request({ type: "unsubscribe", topic }, (_, error) => {
      if (this.#leaving.get(topic) === id) this.#leaving.delete(topic);
      if (error && error.code !== "not_subscribed") this.#ended(1006, error.message); // a new connection has left too
    });
    this.#leaving.set(topic, id);
  }

  /** @param {Room} room @param {Fields} fields */
  _track(room, fields) {
    this.#request({ topic: room.topic, ...fields }, (_, error) => {
      if (error && room.state === "subscribed") room._emit("error", error) || this.#fail(error);
    });
  }

  /** @param {PywsappError} error */
  #fail(error) {
    if (!this._emit("error", error)) console.error(error);
  }

  // ---- what the server sends ----

  /** @param {unknown} data */
  #receive(data) {
    this.#heard = Date.now();
    this.#awaitsPong = false;
    try {
      check(typeof data === "string");
      const fields = JSON.parse(/** @type {string} */ (data));
      check(isObject(fields));
      this.#handle(fields);
    } catch (error) {
      this.#finish(new PywsappError("protocol_error", `the server broke the protocol: ${error}`));
    }
  }

  /** @param {Fields} fields */
  #handle(fields) {
    const { type, id, topic, position, reconnect } = fields, error = errorOf(fields);
    check(position === undefined || typeof position === "string");
    if (type === "pong") return;
    if (id != null && (type === "ok" || error)) {
      check(Number.isInteger(id));
      const onReply = this.#replies.get(id); // undefined for a reply that comes too late
      this.#replies.delete(id);
      onReply?.(fields);
    } else if (error) this.#fail(error);
    else if (type === "expiring") this.#refresh();
    else if (type === "disconnect") {
      check(reconnect === false || (typeof reconnect === "number" && reconnect >= 0));
      this.#order = fields;
    } else if (type === "message" && topic === undefined) this._emit("message", { data: dataOf(fields) });
    else {
      check(["message", "lost", "presence", "unsubscribed"].includes(type) && typeof topic === "string");
      const room = this.#leaving.has(topic) ? undefined : this.#rooms.get(topic);
      if (room && type === "unsubscribed")
        this.#remove(room, type, new PywsappError(String(fields.code), String(fields.message)));
      else room?._receive(fields);
    }
  }

  async #refresh() {
    const attempt = this.#attempt, token = await this.#token();
    if (token != null && this.#attempt === attempt)
      this.#request({ type: "refresh", token }, (_, error) => error && this.#fail(error));
  }

  /** @returns {Promise<string | null | undefined>} undefined if the function fails, which is reported */
  async #token() {
    try {
      await null; // a program can add its listeners first
      return (await this.#options.token?.()) ?? null;
    } catch (error) {
      this.#fail(new PywsappError("token_failed", `the token function failed: ${error}`));
      return undefined;
    }
  }

  // ---- the connection ----

  async #open() {
    this.#drop();
    const attempt = this.#attempt;
    this.#refused++;
    this.#schedule(this.#options.connectTimeout);
    this.#set("connecting", this.reason);
    const token = await this.#token();
    if (this.#attempt !== attempt) return;
    if (token === undefined) return this.#wait(this.#backoff(), new PywsappError("token_failed", "there is no token"));
    if (this.#options.fallback && (await this.#remember()) && this.#attempt !== attempt) return;
    let socket;
    try {
      const { WebSocket = globalThis.WebSocket } = this.#options;
      socket = this.#socket = new (this.#findSocket?.(this.#url) ?? WebSocket)(this.#url, PROTOCOL);
    } catch (error) { // a page with https opens no ws, for instance
      return this.#finish(new PywsappError("refused", String(error)));
    }
    socket.onopen = () => {
      this.#refused = 0;
      const connect = { type: "connect", session: this.#session, ...(token === null ? {} : { token }) };
      this.#request(connect, (reply, error) => {
        if (!error) this.#connected(reply);
        else if (error.code === "unauthenticated") this.#ended(4401, error.message);
        else if (REPEATED.includes(error.code) || error.code === "internal_error")
          this.#wait(Math.max(error.retryAfter ?? 0, this.#backoff()), error);
        else this.#finish(error);
      });
    };
    socket.onmessage = (/** @type {Fields} */ { data }) => this.#receive(data);
    socket.onerror = () => this.#refused && this.#ended(1006, ""); // Node.js 20 sends no other event then
    socket.onclose = (/** @type {Fields} */ { code, reason }) => this.#ended(code, reason);
  }

  /** @param {Fields} reply the one to `connect` */
  #connected({ client, user = null, ping }) {
    check(typeof client === "string" && (user === null || typeof user === "string") && ping > 0);
    this.id = client;
    this.user = user;
    this.#interval = Math.max(ping, 1) * 1000;
    this.#opened = Date.now();
    this.#hasNewToken = false;
    this.#schedule(this.#interval);
    this.#set("open", null);
    for (const room of this.#rooms.values()) if (this.state === "open" && !room._isSent) this.#join(room);
    this.#flush();
  }

  /** @param {number} closeCode of a connection that has ended @param {string} text */
  #ended(closeCode, text) {
    const order = this.#order, seconds = order?.reconnect;
    if (this.state === "open" && Date.now() - this.#opened > STABLE) this.#lost = 0;
    const failure = (/** @type {string} */ code) => new PywsappError(
      code, String(order?.reason || text || `the connection has ended with code ${closeCode}`), { closeCode });
    const lost = failure("connection_lost");
    if (seconds === false || FINAL.includes(closeCode) || (closeCode >= 3500 && closeCode < 4000))
      this.#finish(failure("disconnected"));
    else if (closeCode === 4401 && this.#hasNewToken) this.#finish(failure("unauthenticated"));
    else if (closeCode === 4401) {
      this.#hasNewToken = true;
      this.#wait(0, lost);
    } else if (order) this.#wait((seconds + Math.random() * 5) * 1000, lost, true);
    else if (closeCode === 1012) this.#wait(Math.random() * 5_000, lost, true);
    else if (closeCode === 1013) this.#wait(5_000 + this.#backoff(), lost, true);
    else {
      this.#wait(this.#backoff(), lost);
      if (this.#refused > 1) this.#lookForRefusal().catch(() => {});
    }
  }

  /** Ask by HTTP why handshakes fail, which a WebSocket does not tell. */
  async #lookForRefusal() {
    const { findSocket, findStatus } = await import("./pywsapp-fallback.js");
    const status = await findStatus(this.#url, this.#options.connectTimeout);
    if (!this.#refused) return;
    if (!REFUSALS.includes(status)) {
      if (!this.#options.fallback || !findSocket(this.#url, status)) return;
      this.#findSocket = findSocket;
      this.reconnect();
    } else if (status === 401 && this.#options.token && !this.#hasNewToken) {
      this.#hasNewToken = true;
      this.reconnect();
    } else this.#finish(new PywsappError("refused", `the server refuses with status ${status}`, { status }));
  }

  /** Use the fallback if the page before has needed it. @returns {Promise<boolean>} whether that took time */
  async #remember() {
    try {
      if (this.#findSocket || !sessionStorage["pywsapp" + this.#url.pathname]) return false;
      this.#findSocket = (await import("./pywsapp-fallback.js")).findSocket;
    } catch { /* there is no storage */ }
    return true;
  }

  /** Return a random pause; its limit doubles with each failure (full jitter). */
  #backoff() {
    const { firstDelay, maxDelay } = this.#options;
    return Math.random() * Math.min(maxDelay, firstDelay * 2 ** this.#lost++);
  }

  /** @param {number} pause @param {PywsappError} reason @param {boolean} [isOrder] whether no event ends the pause */
  #wait(pause, reason, isOrder) {
    this.#drop();
    this.#earliest = isOrder ? Date.now() + pause : 0;
    this.#schedule(pause);
    this.#set("waiting", reason);
    for (const waiting of [...this.#queue]) {
      if (waiting.isSent && waiting.type === "call")
        waiting.reject(new PywsappError("connection_lost", reason.message));
      waiting.isSent = false;
    }
  }

  /** @param {PywsappError} reason why the client is closed */
  #finish(reason) {
    if (this.state === "closed") return;
    this.#drop(reason.code === "protocol_error" ? 4002 : 1000);
    this.#page.abort();
    clearTimeout(this.#timer);
    this.#set("closed", reason);
    for (const waiting of [...this.#queue]) waiting.reject(this.#closed());
    const isFailure = reason.code !== "closed";
    for (const room of this.#rooms.values()) room._end(isFailure ? "error" : "", reason);
    this.#rooms.clear();
    if (isFailure) this.#fail(reason);
  }

  /** Forget the socket and everything that belongs to it. */
  #drop(code = 1000) {
    const socket = this.#socket;
    this.#socket = this.#order = null;
    this.#attempt = {};
    this.#awaitsPong = this.#isPaused = false;
    this.#replies.clear();
    this.#leaving.clear();
    for (const room of this.#rooms.values()) room._disconnected();
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onerror = socket.onclose = null;
    socket.close(code);
  }

  /** @param {State} state @param {PywsappError | null} reason */
  #set(state, reason) {
    const isNew = this.state !== state;
    this.state = state;
    this.reason = reason;
    if (isNew) this._emit("state", state);
  }

  #closed() {
    return new PywsappError("closed", `the client is closed: ${this.reason?.message}`);
  }

  // ---- time ----

  /** @param {number} pause */
  #schedule(pause) {
    this.#deadline = Date.now() + pause;
    this.#sleep();
  }

  #sleep() {
    clearTimeout(this.#timer);
    const now = Date.now(), pause = Math.max(0, Math.min(this.#deadline - now, TICK));
    this.#due = now + pause;
    this.#timer = setTimeout(() => this.#tick(), pause);
  }

  #tick() {
    const now = Date.now(), late = now - this.#due;
    if (late < -JUMP) this.#earliest = this.#deadline = 0; // the clock was set back
    if (Math.abs(late) > JUMP) this.#wake();
    else if (now < this.#deadline) this.#sleep();
    else this.#act();
  }

  /** Do what the deadline is for. */
  #act() {
    const quiet = Date.now() - this.#heard;
    if (this.state === "waiting") this.#open();
    else if (this.state === "connecting") this.#ended(1006, "the server did not answer in time");
    else if (this.#awaitsPong) this.#ended(1006, "the server does not answer any more");
    else if (quiet < this.#interval) this.#schedule(this.#interval - Math.max(quiet, 0));
    else this.#ping();
  }

  /** Connect now, or check the connection: the network, the page or the computer was away. */
  #wake() {
    const now = Date.now();
    if (this.state === "waiting" && now >= this.#earliest) this.#open();
    else if (this.state === "open" && !this.#awaitsPong) this.#ping();
    else if (this.state !== "closed" && this.state !== "waiting" && now >= this.#deadline) this.#act();
    else if (this.state !== "closed") this.#sleep();
  }

  #ping() {
    this.#awaitsPong = true;
    this.#schedule(this.#options.pongTimeout);
    this.#socket?.send('{"type":"ping"}');
  }

  #listenToPage() {
    const { signal } = this.#page, wake = () => this.#wake();
    const suspend = () => { // browsers do not keep a page with an open WebSocket for later
      if (this.state === "open" || this.state === "connecting")
        this.#wait(this.#options.maxDelay, new PywsappError("suspended", "the page is not active"));
    };
    /** @type {[EventTarget | undefined, string, () => void][]} */
    const listeners = [
      [globalThis, "online", wake], [globalThis, "offline", wake],
      [globalThis, "pageshow", wake], [globalThis, "pagehide", suspend],
      [globalThis.document, "resume", wake], [globalThis.document, "freeze", suspend],
      [globalThis.document, "visibilitychange", () => document.hidden || wake()],
    ];
    for (const [target, event, listener] of listeners) target?.addEventListener?.(event, listener, { signal });
  }
}

/** @implements {Subscription} */
class Room extends Emitter {
  /** @type {"waiting" | "subscribed" | "ended"} */ state = "waiting";
  /** @type {Map<string, unknown>} */ present = new Map();
  /** @type {string | null} */ position = null;
  _isSent = false; // whether `subscribe` was sent on this connection

  #client; #buffer; #options;
  /** @type {PywsappError | undefined} */ #error;

  /** @param {Connection} client @param {string} topic @param {SubscribeOptions} options */
  constructor(client, topic, { buffer = 1_000, ...options }) {
    super();
    this.topic = topic;
    this.#client = client;
    this.#buffer = buffer;
    this.#options = copy(options);
  }

  /** @param {unknown} meta */
  track(meta) {
    this.#options.track = copy(meta);
    if (this._isSent) this.#client._track(this, { type: "track", meta: this.#options.track });
  }

  untrack() {
    delete this.#options.track;
    if (this._isSent) this.#client._track(this, { type: "untrack" });
  }

  unsubscribe() {
    if (this.state === "ended") return;
    this.#client._leave(this);
    this._end("");
  }

  /** @returns {AsyncGenerator<Message>} */
  async *[Symbol.asyncIterator]() {
    /** @type {Message[]} */ const messages = [];
    let wake = () => {};
    const removers = [
      this.on("message", (/** @type {Message} */ message) => {
        if (messages.push(message) > this.#buffer) this.#error = new PywsappError("too_slow", "too many messages wait");
        wake();
      }),
      this.on("end", () => wake()),
    ];
    try {
      while (true) {
        if (this.#error) throw this.#error;
        const message = messages.shift();
        if (message) yield message;
        else if (this.state === "ended") return;
        else await new Promise((/** @type {(value?: unknown) => void} */ resolve) => (wake = resolve));
      }
    } finally {
      for (const remove of removers) remove();
      this.unsubscribe();
    }
  }

  _fields() {
    this._isSent = true;
    const { topic, position } = this;
    return { type: "subscribe", topic, ...this.#options, ...(position === null ? {} : { since: position }) };
  }

  /** @param {Fields} reply the one to `subscribe` */
  _joined({ position, complete, present }) {
    this.position = position ?? this.position;
    this.state = "subscribed";
    if (present) this.#setPresent(entries(present));
    this._emit("subscribed", complete !== false);
  }

  _disconnected() {
    this._isSent = false;
    if (this.state === "subscribed") this.state = "waiting";
  }

  /** @param {PywsappError} error @returns {boolean} whether it was about a position that is forgotten now */
  _forget({ code }) {
    if (this.position === null || (code !== "invalid_position" && code !== "no_history")) return false;
    this.position = null;
    delete this.#options.since;
    this._emit("lost", null);
    return true;
  }

  /** @param {string} event @param {PywsappError} [error] @returns {boolean} whether a listener gets the error */
  _end(event, error) {
    this.state = "ended";
    if (event) this.#error = error;
    const isIterated = this._emit("end");
    return this._emit(event, error) || isIterated;
  }

  /** @param {Fields} fields */
  _receive(fields) {
    const { type, topic, position = null, joined = {}, left = [], changed = {} } = fields;
    this.position = position ?? this.position;
    if (type === "message") this._emit("message", { topic, data: dataOf(fields), position });
    else if (type === "lost") this._emit("lost", position);
    else {
      const change = { joined: entries(joined), left, changed: entries(changed) };
      check(Array.isArray(left) && left.every((key) => typeof key === "string"));
      for (const key of left) this.present.delete(key);
      for (const [key, meta] of [...change.joined, ...change.changed]) this.present.set(key, meta);
      this._emit("presence", change);
    }
  }

  /** @param {Map<string, unknown>} now all who are present */
  #setPresent(now) {
    const before = this.present, [joined, changed] = [new Map(), new Map()];
    for (const [key, meta] of now) {
      if (!before.has(key)) joined.set(key, meta);
      else if (JSON.stringify(before.get(key)) !== JSON.stringify(meta)) changed.set(key, meta);
    }
    const left = [...before.keys()].filter((key) => !now.has(key));
    this.present = now;
    if (joined.size + left.length + changed.size) this._emit("presence", { joined, left, changed });
  }
}

// ---- values ----

/** @param {unknown} condition @returns {asserts condition} */
function check(condition) {
  if (!condition) throw new TypeError("a field is missing or has the wrong type");
}

/** @param {unknown} value @returns {value is Fields} */
function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** @param {unknown} value @returns {any} what JSON makes of it, so that later changes have no effect */
function copy(value) {
  return JSON.parse(JSON.stringify(value ?? null));
}

/** @param {Fields} fields */
function errorOf({ type, code, message, retry_after: seconds }) {
  if (type !== "error") return undefined;
  check(typeof code === "string" && (seconds === undefined || seconds >= 0));
  return new PywsappError(code, String(message ?? code), seconds === undefined ? {} : { retryAfter: seconds * 1000 });
}

/** @param {unknown} object whose keys are data; in a Map no key is special */
function entries(object) {
  check(isObject(object));
  return new Map(Object.entries(object));
}

/** @param {Fields} message @returns {unknown} */
function dataOf({ data, base64 }) {
  if (data !== undefined) return data;
  check(typeof base64 === "string");
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

function randomText() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
