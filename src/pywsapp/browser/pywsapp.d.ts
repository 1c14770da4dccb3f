/** The browser client of pywsapp. All times are milliseconds, as in `setTimeout`. */

/** Connect to a route with a `TopicComponent`, now and after each interruption. Does not block.
 *
 * @param url the URL of the route: relative to the page, or absolute with http, https, ws or wss
 * @throws TypeError: the URL is not valid
 */
export function connect(url: string | URL, options?: ConnectOptions): Client;

export interface ConnectOptions {
  /** Returns the token of the user, or null for none; called before each connection, and before the user expires. */
  token?: () => string | null | undefined | Promise<string | null | undefined>;
  /** The time for one attempt to connect, with the token and the handshake. Default: 10,000. */
  connectTimeout?: number;
  /** The time for the answer to a ping; then the connection counts as broken. Default: 5,000. */
  pongTimeout?: number;
  /** The longest pause before the first further attempt; each failure doubles it. The pause is random. Default: 500. */
  firstDelay?: number;
  /** The longest pause between two attempts, unless the server asks for a longer one. Default: 30,000. */
  maxDelay?: number;
  /** How many `publish` and `call` may wait for the connection or their reply. Default: 1,000. */
  maxQueue?: number;
  /** How many bytes of them may wait. Default: 1,048,576. */
  maxQueueBytes?: number;
  /** Whether to use plain HTTP where a network blocks WebSockets, if the route allows it. Default: true. */
  fallback?: boolean;
  /** What to use in place of the global `WebSocket`, such as that of the package `ws` in Node.js before 22. */
  WebSocket?: new (url: URL, protocol: string) => any;
}

/** `"waiting"`: until the next attempt. `"closed"`: permanently. */
export type State = "connecting" | "open" | "waiting" | "closed";

export interface ClientEvents {
  /** The state has changed. */
  state: (state: State) => void;
  /** The server has sent a message to this client alone. */
  message: (message: { readonly data: unknown }) => void;
  /** The client is closed permanently, but not by `close`, or something failed that no promise and no listener reports. */
  error: (error: PywsappError) => void;
}

/** One connection for many topics, which `connect` returns. */
export interface Client {
  readonly state: State;
  /** Why the client waits or is closed; null while it connects for the first time and while it is open. */
  readonly reason: PywsappError | null;
  /** The public id of the connection; null before the first one is open. */
  readonly id: string | null;
  /** The key of the user; null for none. */
  readonly user: string | null;

  /** Call a function for each event; the result removes it. */
  on<E extends keyof ClientEvents>(event: E, listener: ClientEvents[E]): () => void;

  /** Subscribe to a topic, now and after each reconnect, until `unsubscribe`.
   *
   * @throws PywsappError: `already_subscribed`, if this client has a subscription to the topic
   */
  subscribe<T = unknown>(topic: string, listener?: (message: Message<T>) => void): Subscription<T>;
  subscribe<T = unknown>(
    topic: string, options: SubscribeOptions, listener?: (message: Message<T>) => void,
  ): Subscription<T>;

  /** Publish a message once, also if the connection breaks meanwhile.
   *
   * @param data any value that JSON can have except null, or a Uint8Array or ArrayBuffer
   * @returns a promise that is fulfilled when the server has accepted the message
   * @throws PywsappError: `queue_full`, `timeout` (it may have been published), `closed`, or a code of the server
   */
  publish(topic: string, data: unknown, options?: PublishOptions): Promise<void>;

  /** Call a procedure of the server.
   *
   * @returns a promise with its result
   * @throws PywsappError: `connection_lost` or `timeout` (it may have run), `queue_full`, `closed`, a code of the server
   */
  call<R = unknown>(method: string, params?: object, options?: RequestOptions): Promise<R>;

  /** Connect now instead of waiting, for a button such as "Try again". A closed client stays closed. */
  reconnect(): void;

  /** Close the connection permanently. What waits is rejected with the code `closed`. */
  close(): void;
}

export interface RequestOptions {
  /** The time to wait for the reply, also while there is no connection; Infinity for no limit. Default: 30,000. */
  timeout?: number;
}

export interface PublishOptions extends RequestOptions {
  /** Names the message: 1 to 32 letters, digits and `. : - _`. A key that was used before publishes nothing more. */
  key?: string;
}

export interface SubscribeOptions {
  /** What to get first: everything that is kept (null), or what follows a position. Default: new messages only. */
  since?: string | null;
  /** Keep `present` up to date. Default: false. */
  presence?: boolean;
  /** Be present in the topic, with this value. */
  track?: unknown;
  /** If this client is slow, get only the newest message: of the topic (true), or for each value of a field. */
  newest?: string | true;
  /** Get only messages that are objects whose fields have one of these values; the server allows the fields. */
  filter?: Record<string, (string | number | boolean | null)[]>;
  /** How many messages may wait for a `for await` loop. Default: 1,000. */
  buffer?: number;
}

export interface Message<T = unknown> {
  readonly topic: string;
  /** What was published; a Uint8Array for bytes. */
  readonly data: T;
  /** The place in the history; null for a topic without one. */
  readonly position: string | null;
}

/** A change of `present`, by the keys of users or connections. */
export interface PresenceChange {
  readonly joined: ReadonlyMap<string, unknown>;
  readonly left: readonly string[];
  readonly changed: ReadonlyMap<string, unknown>;
}

export interface SubscriptionEvents<T = unknown> {
  message: (message: Message<T>) => void;
  /** The server has accepted the subscription, also after each reconnect. `complete`: nothing is missing. */
  subscribed: (complete: boolean) => void;
  /** Messages up to this position are no longer kept: load the state from elsewhere. null: nothing is known of them. */
  lost: (position: string | null) => void;
  /** `present` has changed. */
  presence: (change: PresenceChange) => void;
  /** The server has ended the subscription. */
  unsubscribed: (error: PywsappError) => void;
  /** The server has refused the subscription, or a change of `track`. */
  error: (error: PywsappError) => void;
}

/** A subscription to one topic. A `for await` loop over it gets the messages from then on; its end unsubscribes. */
export interface Subscription<T = unknown> extends AsyncIterable<Message<T>> {
  readonly topic: string;
  /** `"waiting"`: for the connection or the server. `"ended"`: by `unsubscribe`, by the server, or with the client. */
  readonly state: "waiting" | "subscribed" | "ended";
  /** The position of the last message; null for a topic without a history. */
  readonly position: string | null;
  /** The values of those present, by the keys of users or connections; with the option `presence`. */
  readonly present: ReadonlyMap<string, unknown>;
  /** Call a function for each event; the result removes it. */
  on<E extends keyof SubscriptionEvents>(event: E, listener: SubscriptionEvents<T>[E]): () => void;
  /** Be present with this value, also after a reconnect. */
  track(meta: unknown): void;
  /** Be present no longer. */
  untrack(): void;
  /** End the subscription. */
  unsubscribe(): void;
}

/** An error of the server or of the client. */
export class PywsappError extends Error {
  constructor(code: string, message: string, details?: { retryAfter?: number; closeCode?: number; status?: number });
  /** A code of the protocol such as `"not_allowed"`, or of the client such as `"timeout"`. */
  readonly code: string;
  /** When the server wants the next attempt. */
  readonly retryAfter: number | undefined;
  /** The close code of the connection. */
  readonly closeCode: number | undefined;
  /** The HTTP status of a refused handshake. */
  readonly status: number | undefined;
}
