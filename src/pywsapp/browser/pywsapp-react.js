/**
 * Hooks of React for the browser client; pywsapp-react.d.ts documents them.
 *
 * @import {Client, Message, Subscription} from "./pywsapp.d.ts"
 * @import {TopicState} from "./pywsapp-react.d.ts"
 */

import { useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";

import { connect } from "./pywsapp.js";

/** @type {TopicState<any>} */
const EMPTY = { messages: [], present: new Map(), state: "waiting", isLost: false, error: null };
const nothing = () => () => {};

/** @type {typeof import("./pywsapp-react.d.ts").useClient} */
export function useClient(url, options) {
  const [client, setClient] = useState(/** @type {Client | null} */ (null));
  const token = useLatest(options?.token), address = String(url);
  useEffect(() => {
    const made = connect(address, { ...options, ...(token.current ? { token: () => token.current?.() } : {}) });
    setClient(made);
    return () => {
      made.close();
      setClient(null);
    };
  }, [address]);
  return client;
}

/** @type {typeof import("./pywsapp-react.d.ts").useClientState} */
export function useClientState(client) {
  const subscribe = useMemo(() => (client ? client.on.bind(client, "state") : nothing), [client]);
  return useSyncExternalStore(subscribe, () => client?.state ?? "connecting", () => "connecting");
}

/** @type {typeof import("./pywsapp-react.d.ts").useTopic} */
export function useTopic(client, topic, options = {}) {
  const { keep = 100, onMessage, ...wanted } = options, key = JSON.stringify([topic, keep, wanted]);
  const store = useMemo(() => client && storeOf(client, key), [client, key]);
  const state = useSyncExternalStore(store?.subscribe ?? nothing, () => store?.state ?? EMPTY, () => EMPTY);
  const listener = useLatest(onMessage);
  useEffect(() => store?.listen((/** @type {any} */ message) => listener.current?.(message)), [store]);
  return state;
}

/** @template T @param {T} value @returns {{current: T}} */
function useLatest(value) {
  const ref = useRef(value);
  useEffect(() => void (ref.current = value));
  return ref;
}

/** @type {WeakMap<Client, Map<string, Store>>} */
const stores = new WeakMap();

/** @param {Client} client @param {string} key */
function storeOf(client, key) {
  const known = stores.get(client) ?? new Map(), store = known.get(key) ?? new Store(client, key);
  stores.set(client, known.set(key, store));
  return store;
}

/** One subscription that all components with the same topic and options share. */
class Store {
  /** @type {TopicState<any>} */ state = EMPTY;
  /** @type {Set<() => void>} */ #renderers = new Set();
  /** @type {Set<(message: Message<any>) => void>} */ #listeners = new Set();
  /** @type {Subscription | null} */ #room = null;
  #client; #key;

  /** @param {Client} client @param {string} key the JSON of the topic, the number of messages, and the options */
  constructor(client, key) {
    this.#client = client;
    this.#key = key;
  }

  /** @param {() => void} render */
  subscribe = (render) => {
    this.#renderers.add(render);
    if (!this.#room) this.#open();
    return () => {
      this.#renderers.delete(render);
      if (!this.#renderers.size) this.#close();
    };
  };

  /** @param {(message: Message<any>) => void} listener */
  listen(listener) {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  #open() {
    const [topic, keep, options] = JSON.parse(this.#key);
    this.state = EMPTY;
    stores.get(this.#client)?.set(this.#key, this); // in the strict mode a component comes back after it has ended
    let room;
    try {
      room = this.#room = this.#client.subscribe(topic, options);
    } catch (error) { // another subscription to the topic has other options
      return queueMicrotask(() => this.#set({ error: /** @type {any} */ (error), state: "ended" }));
    }
    room.on("message", (message) => {
      const messages = [...this.state.messages, message];
      this.#set({ messages: messages.slice(Math.max(0, messages.length - keep)) });
      for (const listener of this.#listeners) listener(message);
    });
    room.on("presence", () => this.#set({ present: new Map(room.present) }));
    room.on("lost", () => this.#set({ isLost: true }));
    room.on("subscribed", () => this.#set({ state: room.state }));
    room.on("unsubscribed", (error) => this.#set({ error, state: room.state }));
    room.on("error", (error) => this.#set({ error, state: room.state }));
  }

  #close() {
    this.#room?.unsubscribe();
    this.#room = null;
    stores.get(this.#client)?.delete(this.#key);
  }

  /** @param {Partial<TopicState<any>>} change */
  #set(change) {
    this.state = { ...this.state, ...change };
    for (const render of this.#renderers) render();
  }
}
