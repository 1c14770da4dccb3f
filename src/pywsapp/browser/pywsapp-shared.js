/**
 * One connection for all tabs of a browser; pywsapp-shared.d.ts documents it.
 *
 * This file is a module of the page, and the program of a SharedWorker. Each tab has a client of its own, whose
 * WebSocket is a port of the worker. The worker has the client with the connection, and answers its tabs in the same
 * protocol. So a tab recovers from its last position as it does from a server. When the connection of the worker ends,
 * the worker ends those of its tabs.
 *
 * @import {Client, ConnectOptions, Subscription} from "./pywsapp.d.ts"
 * @typedef {Record<string, any>} Fields
 */

import { connect } from "./pywsapp.js";

const LINGER = 30_000; // for so long a connection without tabs stays open: tabs come back
const PING = 25; // seconds

/** @type {typeof import("./pywsapp-shared.d.ts").connectShared} */
export function connectShared(url, options = {}) {
  // By a lock the worker learns that a tab has ended, which ports do not tell.
  if (typeof SharedWorker === "undefined" || !globalThis.navigator?.locks) return connect(url, options);
  const { token, ...others } = options, address = new URL(url, location.href).href;
  class Socket extends PortSocket {
    constructor() {
      super(address, token, others);
    }
  }
  return connect(url, { ...others, WebSocket: Socket, fallback: false }); // the worker falls back
}

// ---- in a tab ----

/** What the client of a tab has in place of a WebSocket. */
class PortSocket {
  /** @type {any} */ onopen;
  /** @type {any} */ onmessage;
  /** @type {any} */ onclose;
  #port;
  #isEnded = false;
  #release = () => {};

  /** @param {string} url @param {ConnectOptions["token"]} token @param {ConnectOptions} options */
  constructor(url, token, options) {
    const file = new URL("./pywsapp-shared.js", import.meta.url); // bundlers look for this expression
    const worker = new SharedWorker(file, { type: "module", name: "pywsapp" });
    const lock = `pywsapp ${crypto.getRandomValues(new Uint32Array(4)).join("-")}`, port = (this.#port = worker.port);
    port.onmessage = async ({ data: { type, ...fields } }) => {
      if (type === "open") this.onopen?.();
      else if (type === "message") this.onmessage?.(fields);
      else if (type === "close") {
        this.close();
        this.onclose?.(fields);
      } else if (type === "token") {
        try {
          port.postMessage({ type, value: (await token?.()) ?? null });
        } catch (error) {
          port.postMessage({ type, error: String(error) });
        }
      }
    };
    navigator.locks.request(lock, () => {
      if (this.#isEnded) return undefined;
      port.postMessage({ type: "open", url, lock, options, hasToken: !!token });
      return new Promise((/** @type {(value?: unknown) => void} */ resolve) => (this.#release = resolve));
    });
  }

  /** @param {string} data */
  send(data) {
    this.#port.postMessage({ type: "message", data });
  }

  close() {
    this.#isEnded = true;
    this.#port.postMessage({ type: "close" });
    this.#port.close();
    this.#release();
  }
}

// ---- in the worker ----

/** @type {Map<string, Hub>} */
const hubs = new Map();

const scope = /** @type {any} */ (globalThis);
if (typeof scope.SharedWorkerGlobalScope !== "undefined" && scope instanceof scope.SharedWorkerGlobalScope)
  scope.onconnect = (/** @type {MessageEvent} */ event) => new Tab(/** @type {MessagePort} */ (event.ports[0]));

/** The client of a tab, as the worker sees it. */
class Tab {
  hasToken = false;
  isAccepted = false;
  /** @type {((answer: Fields) => void) | null} */ #onToken = null;
  /** @type {Hub | undefined} */ #hub;
  #port;

  /** @param {MessagePort} port */
  constructor(port) {
    this.#port = port;
    port.onmessage = ({ data: { type, data, ...fields } }) => {
      if (type === "open") this.#open(fields);
      else if (type === "message") this.#handle(JSON.parse(data));
      else if (type === "token") this.#onToken?.(fields);
      else this.#end();
    };
  }

  /** @param {Fields} fields */
  #open({ url, lock, options, hasToken }) {
    const hub = (this.#hub = hubs.get(url) ?? new Hub(url));
    this.hasToken = hasToken;
    hubs.set(url, hub);
    hub.add(this, options);
    navigator.locks.request(lock, () => this.#end());
  }

  accept() {
    this.isAccepted = true;
    this.#port.postMessage({ type: "open" });
  }

  /** @param {number} code @param {string} reason */
  close(code, reason) {
    this.#port.postMessage({ type: "close", code, reason });
    this.#end();
  }

  #end() {
    this.#onToken?.({ error: "the tab was closed" });
    this.#hub?.remove(this);
    this.#hub = undefined;
  }

  /** @param {Fields} fields */
  send(fields) {
    this.#port.postMessage({ type: "message", data: JSON.stringify(fields) });
  }

  /** @returns {Promise<string | null>} */
  async token() {
    this.#port.postMessage({ type: "token" });
    /** @type {Fields} */
    const { value, error } = await new Promise((resolve) => (this.#onToken = resolve));
    this.#onToken = null;
    if (error !== undefined) throw new Error(error);
    return value;
  }

  /** @param {Fields} request */
  async #handle({ type, id, ...fields }) {
    if (type === "ping") return this.send({ type: "pong" });
    if (!this.#hub) return;
    try {
      const reply = await this.#hub.handle(this, type, id, fields);
      if (reply) this.send({ type: "ok", id, ...reply });
    } catch (error) {
      this.send(errorFields(error, id));
    }
  }
}

/** The connection to one URL, and the tabs that share it. */
class Hub {
  /** @type {Set<Tab>} */ #tabs = new Set();
  /** @type {Map<string, SharedTopic>} */ #topics = new Map();
  /** @type {Client | null} */ #client = null;
  #url;

  /** @param {string} url */
  constructor(url) {
    this.#url = url;
  }

  /** @param {Tab} tab @param {ConnectOptions} options */
  add(tab, options) {
    this.#tabs.add(tab);
    if (!this.#client) this.#connect(tab.hasToken ? { ...options, token: () => this.#token() } : options);
    else if (this.#client.state === "open") tab.accept();
  }

  /** @param {Tab} tab */
  remove(tab) {
    this.#tabs.delete(tab);
    for (const topic of this.#topics.values()) topic.remove(tab);
    setTimeout(() => this.#tabs.size || this.#client?.close(), LINGER);
  }

  /** @param {ConnectOptions} options */
  #connect(options) {
    const client = (this.#client = connect(this.#url, options));
    client.on("error", () => {}); // the tabs learn the reason
    client.on("message", (message) => this.#send({ type: "message", ...content(message.data) }));
    client.on("state", (state) => {
      const { code = "", closeCode = 1006, message = "" } = client.reason ?? {}, isExpired = code === "unauthenticated";
      if (state === "open") for (const tab of this.#tabs) tab.isAccepted || tab.accept();
      else if (state === "waiting") this.#close(1006, message, true);
      else if (state === "closed") {
        this.#client = null;
        this.#topics.clear();
        if (!isExpired) this.#send({ type: "disconnect", code: closeCode, reason: message, reconnect: false });
        this.#close(isExpired ? 4401 : closeCode, message);
      }
    });
  }

  /** @param {number} code @param {string} reason @param {boolean} [isForAccepted] whether other tabs go on waiting */
  #close(code, reason, isForAccepted) {
    for (const tab of [...this.#tabs]) if (tab.isAccepted || !isForAccepted) tab.close(code, reason);
  }

  /** @param {Fields} fields */
  #send(fields) {
    for (const tab of this.#tabs) tab.send(fields);
  }

  #token() {
    const tab = [...this.#tabs].reverse().find(({ hasToken }) => hasToken);
    if (!tab) throw new Error("there is no tab that has a token");
    return tab.token();
  }

  /**
   * @param {Tab} tab @param {string} type @param {number} id @param {Fields} fields
   * @returns {Promise<Fields | undefined>} the fields of the reply, if it does not come later
   */
  async handle(tab, type, id, fields) {
    const client = this.#client, { topic, since, track, meta, data, base64, key, method, params, ...options } = fields;
    if (!client) throw { code: "unavailable", message: "there is no connection" };
    const shared = this.#topics.get(topic);
    switch (type) {
      case "connect":
        return { client: client.id, ping: PING, ...(client.user === null ? {} : { user: client.user }) };
      case "publish":
        await client.publish(topic, base64 === undefined ? data : fromBase64(base64), { key, timeout: Infinity });
        return {};
      case "call":
        return { result: await client.call(method, params, { timeout: Infinity }) };
      case "subscribe": {
        const joined = shared ?? new SharedTopic(client, topic, options, () => this.#topics.delete(topic));
        this.#topics.set(topic, joined);
        return joined.add(tab, id, since, track, options);
      }
      case "unsubscribe":
        shared?.remove(tab);
        return {};
      default: // track, untrack
        if (type === "track") shared?.track(tab, meta);
        else shared?.untrack(tab);
        return {};
    }
  }
}

/**
 * @typedef {{id: number, seen: string | null | undefined, hasSince: boolean, isLost: boolean, isJoined: boolean,
 *   isTracked: boolean}} Follower a tab that follows a topic; `seen` is undefined until it gets messages
 */

/** A topic that tabs follow, each from its own position. */
class SharedTopic {
  /** @type {Map<Tab, Follower>} */ #followers = new Map();
  /** @type {Subscription | null} */ #room = null;
  /** @type {string | null | undefined} */ #from; // where the subscription began
  /** @type {unknown} */ #meta; // what the last tab tracks
  #client; #topic; #options; #forget;

  /** @param {Client} client @param {string} topic @param {Fields} options @param {() => void} forget */
  constructor(client, topic, options, forget) {
    this.#client = client;
    this.#topic = topic;
    this.#options = options;
    this.#forget = forget;
  }

  /**
   * @param {Tab} tab @param {number} id @param {string | null | undefined} since @param {unknown} track
   * @param {Fields} options
   * @returns {Fields | undefined}
   */
  add(tab, id, since, track, options) {
    if (JSON.stringify(options) !== JSON.stringify(this.#options))
      throw { code: "already_subscribed", message: `another tab follows ${this.#topic} with other options` };
    const hasSince = since !== undefined, isTracked = track !== undefined;
    const follower = { id, seen: since, hasSince, isLost: false, isJoined: false, isTracked };
    this.#followers.set(tab, follower);
    if (isTracked) this.#meta = track;
    if (!this.#room || (hasSince && !this.#isStillToCome(since))) this.#subscribe(since);
    else {
      if (isTracked) this.#room.track(track);
      if (this.#room.state === "subscribed") return this.#join(follower);
    }
    return undefined;
  }

  /** @param {string | null} since @returns {boolean} whether all messages after this position will come */
  #isStillToCome(since) {
    const reached = this.#room?.position ?? this.#from;
    return reached === null || (reached !== undefined && since !== null && !isAfter(reached, since));
  }

  /** @param {string | null | undefined} since */
  #subscribe(since) {
    const before = [...(this.#room?.present.keys() ?? [])];
    this.#room?.unsubscribe();
    this.#from = since;
    const options = JSON.parse(JSON.stringify({ ...this.#options, since, track: this.#meta })); // without undefined
    const room = (this.#room = this.#client.subscribe(this.#topic, options));
    room.on("message", ({ data, position }) => this.#send({ type: "message", ...content(data) }, position));
    room.on("lost", (position) => this.#send({ type: "lost" }, position));
    room.on("subscribed", () => {
      for (const [tab, follower] of this.#followers)
        if (!follower.isJoined) tab.send({ type: "ok", id: follower.id, ...this.#join(follower) });
      const left = before.splice(0).filter((key) => !room.present.has(key));
      if (left.length) this.#sendPresence({ left });
    });
    room.on("presence", ({ joined, left, changed }) =>
      this.#sendPresence({ joined: Object.fromEntries(joined), left, changed: Object.fromEntries(changed) }));
    for (const event of /** @type {const} */ (["error", "unsubscribed"])) {
      room.on(event, (error) => {
        if (event === "error" && room.state !== "ended") return; // of `track`
        for (const [tab, { id, isJoined }] of this.#followers) {
          const fields = errorFields(error, id);
          tab.send(isJoined ? { ...fields, type: "unsubscribed", topic: this.#topic } : fields);
        }
        this.#forget();
      });
    }
  }

  /** @param {Follower} follower @returns {Fields} the reply to its `subscribe` */
  #join(follower) {
    const room = /** @type {Subscription} */ (this.#room), { position } = room;
    follower.isJoined = true;
    if (follower.seen === undefined || position !== null) follower.seen = position;
    return {
      topic: this.#topic,
      ...(position === null ? {} : { position }),
      ...(follower.hasSince ? { complete: !follower.isLost } : {}),
      ...(this.#options.presence ? { present: Object.fromEntries(room.present) } : {}),
    };
  }

  /** @param {Fields} fields of a message, or of `lost` @param {string | null} position */
  #send(fields, position) {
    for (const [tab, follower] of this.#followers) {
      if (follower.seen === undefined || (position !== null && !isAfter(position, follower.seen))) continue;
      follower.seen = position;
      follower.isLost ||= fields.type === "lost";
      tab.send({ ...fields, topic: this.#topic, ...(position === null ? {} : { position }) });
    }
  }

  /** @param {Fields} change */
  #sendPresence(change) {
    for (const [tab, { isJoined }] of this.#followers)
      if (isJoined) tab.send({ type: "presence", topic: this.#topic, ...change });
  }

  /** @param {Tab} tab @param {unknown} meta */
  track(tab, meta) {
    const follower = this.#followers.get(tab);
    if (!follower) return;
    follower.isTracked = true;
    this.#meta = meta;
    this.#room?.track(meta);
  }

  /** @param {Tab} tab */
  untrack(tab) {
    const follower = this.#followers.get(tab);
    if (!follower?.isTracked) return;
    follower.isTracked = false;
    if ([...this.#followers.values()].some(({ isTracked }) => isTracked)) return;
    this.#meta = undefined;
    this.#room?.untrack();
  }

  /** @param {Tab} tab */
  remove(tab) {
    this.untrack(tab);
    this.#followers.delete(tab);
    if (this.#followers.size) return;
    this.#room?.unsubscribe();
    this.#forget();
  }
}

// ---- values ----

/** @param {string} position @param {string | null} other @returns {boolean} whether a position follows another one */
function isAfter(position, other) {
  if (other === null) return true;
  const [offset, epoch] = position.split("-"), [otherOffset, otherEpoch] = other.split("-");
  return epoch !== otherEpoch || Number(offset) > Number(otherOffset);
}

/** @param {any} error @param {number} id @returns {Fields} */
function errorFields({ code = "internal_error", message, retryAfter }, id) {
  return { type: "error", id, code, message, ...(retryAfter === undefined ? {} : { retry_after: retryAfter / 1000 }) };
}

/** @param {unknown} data @returns {Fields} */
function content(data) {
  if (!(data instanceof Uint8Array)) return { data };
  return { base64: btoa(Array.from(data, (byte) => String.fromCharCode(byte)).join("")) };
}

/** @param {string} text */
function fromBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}
